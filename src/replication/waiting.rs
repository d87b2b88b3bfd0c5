//! Waiting until peers hold what was written here: `WAIT`, and the gentle stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::ReplicationManager;
use super::handle::LinkHandle;
use super::queue::Overflows;
use crate::locks::{lock, unpoisoned};

/// What a connection's writes must reach at each link before its peer counts for `WAIT`.
#[derive(Debug)]
pub struct Ticket(Vec<Reach>);

/// What one link must reach.
#[derive(Debug)]
struct Reach {
    link: Arc<LinkHandle>,
    sent: u64,
    overflows: Overflows,
}

impl Ticket {
    /// The numbers of the links whose peers hold it.
    pub fn holders(&self) -> impl Iterator<Item = u64> {
        let holds =
            |reach: &&Reach| lock(&reach.link.shown).held.covers(reach.sent, &reach.overflows);
        self.0.iter().filter(holds).map(|reach| reach.link.peer.number)
    }
}

impl ReplicationManager {
    /// What each peer must reach to hold all that was written here so far.
    pub fn ticket(&self) -> Ticket {
        let links = self.shared.links();
        let reach = |link: &Arc<LinkHandle>| Reach {
            link: Arc::clone(link),
            sent: link.queue.sent(),
            overflows: link.queue.overflows(),
        };
        Ticket(links.values().map(reach).collect())
    }

    /// How many peers hold what the ticket is about.
    pub fn holding(&self, ticket: &Ticket) -> usize {
        ticket.holders().count()
    }

    /// Waits until `is_done`, which is asked again whenever a peer holds more, or for `timeout`.
    pub fn wait_until(&self, timeout: Duration, mut is_done: impl FnMut() -> bool) {
        let (mutex, condvar) = &self.shared.progress;
        self.shared.waiting.fetch_add(1, Ordering::SeqCst);
        let began = Instant::now();
        let mut guard = lock(mutex);
        while !is_done() {
            let Some(left) = timeout.checked_sub(began.elapsed()) else {
                break;
            };
            guard = unpoisoned(condvar.wait_timeout(guard, left)).0;
        }
        drop(guard);
        self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many threads wait until peers hold more: those of clients in a `WAIT`, and at the end
    /// that of the gentle stop.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::SeqCst)
    }
}
