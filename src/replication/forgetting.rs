//! The thread `tombstones`, and when a node counts as alone.
//!
//! The thread forgets deletes when nobody needs them any more: [`super::tombstones`] decides. No
//! link has to wait while millions of them are taken out of the store.
//!
//! A node that is alone keeps no tombstones: nobody can bring back what it deletes. One that has
//! just started does not know yet: others may name it as their seed, hold data that it lost with
//! its memory, and notice only after a minute that it started again. So a node keeps its tombstones
//! for its first [`INTRODUCTIONS_WAIT_MS`], whoever it knows of.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::shared::Shared;
use crate::error::Result;
use crate::locks::{lock, spawn};
use crate::metrics;

/// How long a node waits for others to introduce themselves before it counts as alone. If its
/// machine lost power, an idle link of a peer notices only with its next comparison, after up to
/// 60 s, and its timeout of 5 s. Then the link tries at least every two seconds, at up to three
/// addresses, each for at most a second, or five when the other end is silent.
const INTRODUCTIONS_WAIT_MS: u64 = 90_000;
/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Starts the thread that forgets tombstones when they are not needed.
pub(super) fn start(shared: &Arc<Shared>) -> Result<()> {
    let shared = Arc::clone(shared);
    let forget = move || loop {
        thread::sleep(INTERVAL);
        shared.forget_deletes();
    };
    Ok(spawn("tombstones", forget)?)
}

impl Shared {
    /// What the thread does each time.
    pub(super) fn forget_deletes(&self) {
        self.forget_if_alone();
        self.forget_tombstones();
    }

    /// Forgets all tombstones, and keeps none from now on, if this node is alone.
    pub(super) fn forget_if_alone(&self) {
        let members = lock(&self.members);
        if !members.is_alone() || self.monotonic_ms() < self.began_ms + INTRODUCTIONS_WAIT_MS {
            return;
        }
        // While nobody can become a contact. A write that saw the old value may leave a tombstone
        // behind, for the next look; a delete after somebody came is stamped later than this.
        self.keeps_tombstones.store(false, Ordering::SeqCst);
        let until = self.clock.latest().saturating_add(1);
        drop(members);
        if self.store.size().tombstones > 0 {
            self.store.drop_tombstones_before(until);
        }
    }

    fn forget_tombstones(&self) {
        let holders = lock(&self.members).holders();
        let Some(due) = lock(&self.rounds).due(&holders, self.view()) else {
            return;
        };
        let forgotten = due.forget(&self.store);
        metrics::add(&self.counters.tombstones_dropped, forgotten as u64);
        lock(&self.rounds).forgotten();
    }
}
