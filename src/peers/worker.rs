//! The thread of a peer: drives a [`Caller`] with a socket.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use log::trace;

use super::caller::{Action, Caller};
use super::conversation::{Conversation, Woken};
use super::requests::PeerRequest;
use super::wire::{Wire, WireOptions};

/// Longest sleep of an idle connection: then the thread looks whether the peer has hung up.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The body of the thread `link-N`. `now_ms` is a monotonic clock.
pub fn run<C: Conversation>(
    mut caller: Caller<C>,
    options: &WireOptions,
    now_ms: impl Fn() -> u64,
) {
    let (peer, mut wire) = (Arc::clone(caller.peer()), None::<Wire>);
    loop {
        let action = caller.next(now_ms());
        if !caller.is_connected() {
            wire = None;
        }
        match (action, &mut wire) {
            (Action::End, _) => return,
            (Action::Connect(address), _) => match Wire::open(&address, &peer, options) {
                Ok(open) => {
                    wire = Some(open);
                    caller.connected();
                }
                Err(error) => caller.broken(now_ms(), error),
            },
            (Action::Send(requests), Some(open)) => match open.exchange(&requests) {
                Ok(replies) => {
                    for request in &requests {
                        if let PeerRequest::Merge(records) = request {
                            let (to, len) = (peer.address(), records.len());
                            trace!("{to} acknowledged {len} bytes of records");
                        }
                    }
                    caller.take(now_ms(), &requests, replies);
                }
                Err(error) => {
                    wire = None;
                    caller.broken(now_ms(), error);
                }
            },
            (Action::Wait { until_ms }, Some(open)) => {
                let left = Duration::from_millis(until_ms.saturating_sub(now_ms()));
                match caller.conversation.wait(&peer.woken, left.min(LOOK_INTERVAL)) {
                    // What is sent to a peer that has hung up may have been carried out.
                    Woken::ByNews | Woken::ByTime => {}
                    Woken::ByOthers => caller.woken(now_ms()),
                }
                if caller.is_connected() && open.has_ended() {
                    let error = io::Error::new(ErrorKind::ConnectionReset, "the peer hung up");
                    caller.broken(now_ms(), error.into());
                }
            }
            (Action::Wait { until_ms }, None) => {
                let left = Duration::from_millis(until_ms.saturating_sub(now_ms()));
                if peer.woken.recv_timeout(left).is_ok() {
                    caller.woken(now_ms());
                }
            }
            (Action::Send(_), None) => {
                caller.broken(now_ms(), io::Error::from(ErrorKind::NotConnected).into());
            }
        }
    }
}
