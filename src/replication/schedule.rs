//! When a link compares everything with its peer.

use super::queue::Queue;

/// A link that was idle for so long compares once, so that a small loss is soon found.
const IDLE_MS: u64 = 10_000;
/// When a peer is lost, the other links compare so soon: the lost peer may have told one of them
/// what it told nobody else. A new connection is compared again so soon.
const AFTER_CHANGE_MS: u64 = 1_000;
/// Every link compares this often, busy or not.
const INTERVAL_MS: u64 = 60_000;
/// While a member cannot be reached, every link compares this often: what that member was sent may
/// come by way of another.
const APART_MS: u64 = 5_000;

/// When to compare next, on the link's clock.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub(super) next_ms: u64,
    /// Because of idleness; `None` when that was done since the last activity.
    idle_ms: Option<u64>,
    /// When the last comparison of everything began.
    compared_ms: Option<u64>,
    /// Because a member told that it cannot reach another one.
    nudged_ms: Option<u64>,
}

impl Schedule {
    /// Takes in what other threads have told the link.
    pub(super) fn note(&mut self, queue: &Queue, now_ms: u64) {
        if queue.take_stir() {
            self.changed(now_ms);
        }
        if queue.take_loss() {
            self.next_ms = self.next_ms.min(now_ms + AFTER_CHANGE_MS);
        }
        if queue.take_nudge() {
            self.nudged_ms = Some(now_ms.max(self.compared_ms.unwrap_or(0) + APART_MS));
        }
    }

    /// A change came or went: the link is not idle.
    pub(super) fn changed(&mut self, now_ms: u64) {
        self.idle_ms = Some(now_ms + IDLE_MS);
    }

    /// Compare at once.
    pub(super) fn hurry(&mut self, now_ms: u64) {
        self.next_ms = now_ms;
    }

    /// The peer refused something: comparing soon would only be refused again.
    pub(super) fn refused(&mut self, now_ms: u64) {
        self.next_ms = self.next_ms.max(now_ms + INTERVAL_MS);
    }

    /// A comparison of everything begins. After the first one of a connection follows another one
    /// soon: nodes that joined a moment apart may have missed each other's name.
    pub(super) fn began(&mut self, now_ms: u64, is_first: bool) {
        let interval_ms = if is_first { AFTER_CHANGE_MS } else { INTERVAL_MS };
        *self = Schedule {
            next_ms: now_ms + interval_ms,
            idle_ms: None,
            compared_ms: Some(now_ms),
            nudged_ms: None,
        };
    }

    /// When everything is compared next, but for a nudge.
    pub(super) fn due_ms(&self, is_apart: bool) -> u64 {
        let apart_ms = self.compared_ms.filter(|_| is_apart).map(|at| at + APART_MS);
        self.idle_ms.into_iter().chain(apart_ms).fold(self.next_ms, u64::min)
    }

    /// When a comparison is due because of a nudge.
    pub(super) fn nudged_ms(&self) -> Option<u64> {
        self.nudged_ms
    }
}
