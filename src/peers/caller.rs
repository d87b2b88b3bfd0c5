//! When a peer is called, where, and what follows a failure: decisions without sockets or clocks.
//!
//! ```text
//!   resting ─time, or a wake-up─► calling ─connected─► talking
//!      ▲                             │                    │
//!      └──────── back-off ◄──────────┴──── broken ◄───────┘
//! ```
//!
//! **The rules.**
//! - The addresses of a peer are tried in turn. One that led to a live conversation is tried again
//!   first.
//! - The pause between two attempts doubles with each failure. It starts again after a live
//!   conversation, or an introduced one that lasted a second. A random part of up to a half keeps
//!   nodes from trying in step.
//! - A wake-up shortens the pause to its first length, but not after a refusal: two nodes that
//!   refuse each other would wake each other for ever.
//!
//! `worker` drives a [`Caller`] with a thread and a socket, the simulation with its own messages.

use std::sync::Arc;

use super::conversation::{Conversation, Progress, Step, Target};
use super::requests::{PeerReply, PeerRequest};
use super::status::{PeerHandle, PeerState};
use crate::error::Error;
use crate::random::Random;

/// A conversation that ended sooner is one more failure for the back-off.
const CONVERSATION_MIN_MS: u64 = 1_000;

/// First and longest pause between two attempts to reach a peer.
const PAUSE_FIRST_MS: u64 = 100;
const PAUSE_LONGEST_MS: u64 = 2_000;

/// Calls one peer, and drives the conversation with it.
#[derive(Debug)]
pub struct Caller<C> {
    /// What is said.
    pub conversation: C,
    peer: Arc<PeerHandle>,
    stage: Stage,
    /// Which address is tried next.
    attempt: usize,
    pause_ms: u64,
    /// For the random part of a pause.
    random: Random,
}

#[derive(Debug)]
enum Stage {
    /// There is no connection.
    Resting {
        /// A wake-up ends the rest, but not before this.
        earliest_ms: u64,
        until_ms: u64,
    },
    /// The driver connects, or has a connection.
    Calling { address: String, began_ms: u64, is_connected: bool },
    /// The peer is none any more.
    Ended,
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to this address, then say [`Caller::connected`] or [`Caller::broken`].
    Connect(String),
    /// Send these together, then say [`Caller::take`] or [`Caller::broken`].
    Send(Vec<PeerRequest>),
    /// Ask again at this time, or after [`Caller::woken`], or when there is something to send.
    Wait {
        /// In milliseconds of a monotonic clock.
        until_ms: u64,
    },
    /// The peer is none any more: nothing follows.
    End,
}

impl<C: Conversation> Caller<C> {
    /// Calls at once. `seed` is any number, another one for each peer.
    pub fn new(conversation: C, peer: Arc<PeerHandle>, seed: u64) -> Self {
        Caller {
            conversation,
            peer,
            stage: Stage::Resting { earliest_ms: 0, until_ms: 0 },
            attempt: 0,
            pause_ms: PAUSE_FIRST_MS,
            random: Random(seed),
        }
    }

    /// What others see of the peer.
    pub fn peer(&self) -> &Arc<PeerHandle> {
        &self.peer
    }

    /// Whether there is a connection. When there is none, the driver drops what it has of one.
    pub fn is_connected(&self) -> bool {
        matches!(self.stage, Stage::Calling { is_connected: true, .. })
    }

    /// Whether the peer is none any more.
    pub fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// What to do next. No exchange may be under way.
    pub fn next(&mut self, now_ms: u64) -> Action {
        loop {
            match &self.stage {
                Stage::Ended => return Action::End,
                Stage::Resting { until_ms, .. } if now_ms < *until_ms => {
                    return Action::Wait { until_ms: *until_ms };
                }
                Stage::Resting { .. } => {
                    if let Some(address) = self.call(now_ms) {
                        return Action::Connect(address);
                    }
                }
                Stage::Calling { .. } => {
                    let step = self.conversation.next(now_ms);
                    self.show_progress();
                    match step {
                        Ok(Step::Send(requests)) => return Action::Send(requests),
                        Ok(Step::Wait { until_ms }) => return Action::Wait { until_ms },
                        Err(error) => self.broken(now_ms, error),
                    }
                }
            }
        }
    }

    /// The connection was made.
    pub fn connected(&mut self) {
        if let Stage::Calling { address, is_connected, .. } = &mut self.stage {
            *is_connected = true;
            self.conversation.connected(address);
        }
    }

    /// The replies to the requests of the last action.
    pub fn take(&mut self, now_ms: u64, requests: &[PeerRequest], replies: Vec<PeerReply>) {
        let taken = self.conversation.take(now_ms, requests, replies);
        self.show_progress();
        if self.conversation.progress() != Progress::Strange {
            self.peer.tried.open();
        }
        if let Err(error) = taken {
            self.broken(now_ms, error);
        }
    }

    /// Something has changed for this peer: it may have come back, or be cut off, or be no peer
    /// any more.
    pub fn woken(&mut self, now_ms: u64) {
        match &mut self.stage {
            Stage::Resting { earliest_ms, until_ms } => *until_ms = *earliest_ms.min(until_ms),
            Stage::Calling { .. } if !matches!(self.conversation.target(), Target::At(_)) => {
                self.broken(now_ms, Error::refused("cut off"));
            }
            Stage::Calling { .. } | Stage::Ended => {}
        }
    }

    /// The connection is gone, or could not be made.
    pub fn broken(&mut self, now_ms: u64, error: Error) {
        let (progress, before) = (self.conversation.progress(), self.peer.state());
        let lasted_ms = match self.stage {
            Stage::Calling { began_ms, .. } => now_ms.saturating_sub(began_ms),
            _ => 0,
        };
        self.conversation.broken();
        self.peer.note_end();
        let is_refused = match self.conversation.target() {
            // A socket that was shut because of this looks broken.
            Target::Gone => {
                self.stage = Stage::Ended;
                return;
            }
            Target::Cut => {
                self.peer.set_state(PeerState::Partitioned);
                false
            }
            Target::At(_) => {
                let is_refused = matches!(error, Error::Refused(_));
                let was_live = before == PeerState::Live;
                if !was_live {
                    self.attempt += 1;
                }
                // After a conversation, and not one that the other side ended at once.
                let has_talked = progress != Progress::Strange && !is_refused;
                if was_live || has_talked && lasted_ms > CONVERSATION_MIN_MS {
                    self.pause_ms = PAUSE_FIRST_MS;
                }
                self.peer.set_state(match error {
                    Error::Refused(refusal) => PeerState::Refused(refusal.message),
                    other => PeerState::Connecting(other.to_string()),
                });
                is_refused
            }
        };
        self.rest(now_ms, is_refused);
    }

    /// Begins an attempt: where to connect to. `None` if there is no attempt now.
    fn call(&mut self, now_ms: u64) -> Option<String> {
        let address = match self.conversation.target() {
            Target::At(addresses) => addresses[self.attempt % addresses.len()].clone(),
            Target::Cut | Target::Gone => {
                self.broken(now_ms, Error::refused("cut off"));
                return None;
            }
        };
        self.peer.set_address(&address);
        let (address_of_call, is_connected) = (address.clone(), false);
        self.stage = Stage::Calling { address: address_of_call, began_ms: now_ms, is_connected };
        if let Err(error) = self.conversation.check(&address) {
            self.broken(now_ms, error);
            return None;
        }
        Some(address)
    }

    fn rest(&mut self, now_ms: u64, is_refused: bool) {
        let longest_ms = self.pause_ms - self.random.below((self.pause_ms / 2).max(1));
        let shortest_ms = if is_refused { longest_ms } else { longest_ms.min(PAUSE_FIRST_MS) };
        self.stage =
            Stage::Resting { earliest_ms: now_ms + shortest_ms, until_ms: now_ms + longest_ms };
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_LONGEST_MS);
    }

    /// Shows to others how far the conversation is.
    fn show_progress(&self) {
        let state = match self.conversation.progress() {
            Progress::Strange => return,
            // Who refused before may do so again after its HELLO: that is no news.
            Progress::Introduced if matches!(self.peer.state(), PeerState::Refused(_)) => return,
            Progress::Introduced | Progress::CatchingUp => PeerState::Syncing,
            Progress::Live => PeerState::Live,
            Progress::Refused(reason) => PeerState::Refused(reason),
        };
        self.peer.set_state(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;

    #[derive(Debug)]
    struct Talk {
        target: Target,
        progress: Progress,
    }

    impl Conversation for Talk {
        fn target(&self) -> Target {
            self.target.clone()
        }
        fn check(&mut self, _address: &str) -> Result<()> {
            Ok(())
        }
        fn connected(&mut self, _address: &str) {}
        fn next(&mut self, _now_ms: u64) -> Result<Step> {
            Ok(Step::Wait { until_ms: u64::MAX })
        }
        fn take(&mut self, _: u64, _: &[PeerRequest], _: Vec<PeerReply>) -> Result<()> {
            Ok(())
        }
        fn broken(&mut self) {
            self.progress = Progress::Strange;
        }
        fn progress(&self) -> Progress {
            self.progress.clone()
        }
    }

    fn caller() -> Caller<Talk> {
        let target = Target::At(vec!["a:1".into(), "b:1".into()]);
        let talk = Talk { target, progress: Progress::Strange };
        Caller::new(talk, Arc::new(PeerHandle::new(1, "a:1")), 7)
    }

    fn unreachable() -> Error {
        Error::Unreachable("nobody listens".into())
    }

    /// Fails the attempt that is due; when the next one comes by itself.
    fn fail(caller: &mut Caller<Talk>, now_ms: u64, error: Error) -> u64 {
        assert!(matches!(caller.next(now_ms), Action::Connect(_)));
        caller.broken(now_ms, error);
        match caller.next(now_ms) {
            Action::Wait { until_ms } => until_ms,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pauses_double_and_addresses_take_turns() {
        let (mut caller, mut now_ms) = (caller(), 0);
        for longest_ms in [100, 200, 400, 800, 1_600, 2_000, 2_000] {
            let until_ms = fail(&mut caller, now_ms, unreachable());
            let pause_ms = until_ms - now_ms;
            assert!((longest_ms / 2..=longest_ms).contains(&pause_ms), "{pause_ms}");
            now_ms = until_ms;
        }
        assert_eq!(caller.next(now_ms), Action::Connect("b:1".into()));
    }

    #[test]
    fn a_wake_up_ends_a_pause_early_but_not_after_a_refusal() {
        for (error, is_early) in [(unreachable(), true), (Error::refused("no"), false)] {
            let (mut caller, mut now_ms) = (caller(), 0);
            for _ in 0..5 {
                now_ms = fail(&mut caller, now_ms, unreachable());
            }
            let until_ms = fail(&mut caller, now_ms, error);
            caller.woken(now_ms);
            let early_ms = now_ms + PAUSE_FIRST_MS;
            assert!(early_ms < until_ms);
            let expected_ms = if is_early { early_ms } else { until_ms };
            assert_eq!(caller.next(now_ms), Action::Wait { until_ms: expected_ms });
        }
    }

    #[test]
    fn after_a_live_conversation_the_same_address_is_tried_again_soon() {
        let (mut caller, mut now_ms) = (caller(), 0);
        for _ in 0..5 {
            now_ms = fail(&mut caller, now_ms, unreachable());
        }
        assert_eq!(caller.next(now_ms), Action::Connect("b:1".into()));
        caller.connected();
        caller.conversation.progress = Progress::Live;
        assert_eq!(caller.next(now_ms), Action::Wait { until_ms: u64::MAX });
        assert!(caller.is_connected() && caller.peer().state() == PeerState::Live);
        caller.broken(now_ms, unreachable());
        assert!(!caller.is_connected());
        assert_eq!(caller.next(now_ms + PAUSE_FIRST_MS), Action::Connect("b:1".into()));
    }

    #[test]
    fn a_peer_that_is_cut_or_gone_is_noticed_in_any_stage() {
        let mut caller = caller();
        assert!(matches!(caller.next(0), Action::Connect(_)));
        caller.connected();
        caller.conversation.target = Target::Cut;
        caller.woken(10);
        assert!(!caller.is_connected());
        assert_eq!(caller.peer().state(), PeerState::Partitioned);
        assert!(matches!(caller.next(10), Action::Wait { .. }));
        assert!(matches!(caller.next(10_000), Action::Wait { .. }), "it is still cut");
        caller.conversation.target = Target::Gone;
        assert_eq!(caller.next(20_000), Action::End);
    }
}
