//! The conversation with one peer, as its driver sees it.
//!
//! A conversation decides what to ask and what the answers mean. It knows no socket, no thread and
//! no clock: times are arguments. [`super::caller`] drives it, and does not know which way to agree
//! it belongs to.

use std::time::Duration;

use crossbeam_channel::Receiver;

use super::requests::{PeerReply, PeerRequest};
use crate::error::Result;

/// The conversation with one peer.
///
/// Rules for the driver:
/// - After [`Conversation::connected`] comes [`Conversation::next`], again and again.
/// - The requests of a [`Step::Send`] go out together. Nothing is asked before
///   [`Conversation::take`] has got all replies, in order, or [`Conversation::broken`] was called.
/// - After any error the connection is of no use: [`Conversation::broken`] follows.
pub trait Conversation {
    /// Where the peer can be reached now.
    fn target(&self) -> Target;

    /// An error says why this address must not be called now.
    fn check(&mut self, address: &str) -> Result<()>;

    /// There is a new connection, to this address.
    fn connected(&mut self, address: &str);

    /// What to do next. `now_ms` is a monotonic clock.
    fn next(&mut self, now_ms: u64) -> Result<Step>;

    /// Takes the replies to the requests of the last step.
    fn take(
        &mut self,
        now_ms: u64,
        requests: &[PeerRequest],
        replies: Vec<PeerReply>,
    ) -> Result<()>;

    /// There is no connection: it is gone, or could not be made. What was under way may or may not
    /// have arrived.
    fn broken(&mut self);

    /// How far the conversation is on this connection.
    fn progress(&self) -> Progress;

    /// Sleeps until there is something to send, or `woken` receives, or the time is over. Only a
    /// thread calls this.
    fn wait(&mut self, woken: &Receiver<()>, timeout: Duration) -> Woken {
        match woken.recv_timeout(timeout) {
            Ok(()) => Woken::ByOthers,
            Err(_) => Woken::ByTime,
        }
    }
}

/// Where a peer can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At one of these addresses; the first is tried first. There is at least one.
    At(Vec<String>),
    /// Nowhere: the link was cut by `PARTITION`.
    Cut,
    /// Nowhere, for good: it is no peer any more.
    Gone,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these requests together.
    Send(Vec<PeerRequest>),
    /// Nothing before this time, unless there is something new to send.
    Wait {
        /// In milliseconds of the caller's monotonic clock.
        until_ms: u64,
    },
}

/// How far a conversation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The peer has not said who it is.
    Strange,
    /// It has. It may refuse the next request all the same.
    Introduced,
    /// It answers, and does not have everything yet.
    CatchingUp,
    /// What changes is sent as it changes.
    Live,
    /// The peer refuses something, for this reason.
    Refused(String),
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// There is something to send.
    ByNews,
    /// Another thread has called [`super::status::PeerHandle::wake`].
    ByOthers,
    /// The time is over.
    ByTime,
}
