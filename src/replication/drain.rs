//! Bringing to the peers what only this node has, before it stops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ReplicationManager;
use super::handle::LinkHandle;
use super::queue::Overflows;
use crate::locks::lock;
use crate::peers::status::PeerState;

/// Longest sleep between two looks at the links: a link that gives up signals nothing.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What a link has to do before this node stops.
struct Task {
    link: Arc<LinkHandle>,
    sent: u64,
    overflows: Overflows,
    /// How many conversations of the link have ended when each address of the peer has been tried
    /// once more.
    ended: u64,
}

impl Task {
    fn is_done(&self) -> bool {
        let (held, answered) = {
            let shown = lock(&self.link.shown);
            (shown.held, shown.answered)
        };
        if held.covers(self.sent, &self.overflows) {
            return true;
        }
        match self.link.peer.state() {
            PeerState::Live | PeerState::Syncing => false,
            // The peer takes only part of what it gets, so it never holds all; but it has got
            // everything.
            PeerState::Refused(_) if self.link.peer.id().is_some() => answered >= self.sent,
            // It may live although its connection is gone: it is tried once more.
            PeerState::Connecting(_) | PeerState::Refused(_) => self.has_tried(),
            PeerState::Partitioned => true,
        }
    }

    fn has_tried(&self) -> bool {
        self.link.peer.ended() >= self.ended
    }
}

impl ReplicationManager {
    /// Waits until every live peer holds everything, for a gentle stop; at most `timeout`. Returns
    /// the addresses of peers that may lack something though they could be reached.
    pub fn drain(&self, timeout: Duration) -> Vec<String> {
        let began = Instant::now();
        let links = self.shared.links();
        let tasks: Vec<Task> = links
            .values()
            .map(|link| Task {
                link: Arc::clone(link),
                sent: link.queue.sent(),
                overflows: link.queue.overflows(),
                ended: link.peer.ended() + self.shared.address_count(link.peer.number),
            })
            .collect();
        let is_done = || tasks.iter().all(Task::is_done);
        while !is_done() && began.elapsed() < timeout {
            // A link that waits before its next attempt makes it now.
            tasks.iter().filter(|task| !task.has_tried()).for_each(|task| task.link.peer.wake());
            self.wait_until(LOOK_INTERVAL, is_done);
        }
        let undone = tasks.iter().filter(|task| !task.is_done());
        undone.map(|task| task.link.peer.address()).collect()
    }
}
