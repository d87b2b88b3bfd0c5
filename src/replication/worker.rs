//! A link's thread: drives the state machine of [`super::link`] over a socket.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, select};
use log::trace;

use super::handle::{Handle, State};
use super::link::{Link, Step};
use super::members::Verdict;
use super::shared::Shared;
use super::wire::Wire;
use super::{Introduction, Request};
use crate::error::{Error, Result};
use crate::metrics;
use crate::store::version::random_id;

/// Longest sleep of an idle link: then it looks whether its peer has hung up.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Why a conversation ended.
pub(super) enum End {
    /// The contact is gone: the thread ends.
    Gone,
    /// Somebody cut the link: a partition.
    Cut,
    /// It will be tried again.
    Broken(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Broken(error)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        End::Broken(error.into())
    }
}

/// The body of the thread `link-N`. `tried` is dropped after the first attempt: a starting node waits for it.
pub(super) fn run(handle: &Handle, shared: &Arc<Shared>, wake: &Receiver<()>, tried: Option<Sender<()>>) {
    let mut worker = Worker { handle, shared, wake, link: Link::default(), tried };
    let limits = &shared.limits;
    let (mut attempt, mut pause) = (0, limits.link_back_off.0);
    while let Some(addresses) = shared.addresses(handle.number) {
        let address = &addresses[attempt % addresses.len()];
        let end = worker.converse(address);
        worker.link.broken();
        worker.link.peek(&handle.queue);
        worker.publish();
        handle.set_socket(None);
        worker.tried = None;
        handle.ended.fetch_add(1, Ordering::SeqCst);
        match end {
            End::Gone => return,
            End::Cut => handle.set_state(State::Partitioned),
            End::Broken(error) => {
                if handle.state() == State::Live {
                    metrics::add(&shared.counters.links_broken, 1);
                    shared.lost_a_peer();
                    pause = limits.link_back_off.0;
                } else {
                    attempt += 1;
                }
                handle.set_state(match error {
                    Error::Refused(refusal) => State::Refused(refusal.message),
                    other => State::Connecting(other.to_string()),
                });
            }
        }
        let jitter = pause.as_millis() as u64 / 2;
        let jitter = Duration::from_millis(random_id() % jitter.max(1));
        match wake.recv_timeout(pause - jitter) {
            Ok(()) => pause = limits.link_back_off.0,
            Err(RecvTimeoutError::Timeout) => pause = (pause * 2).min(limits.link_back_off.1),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

struct Worker<'a> {
    handle: &'a Handle,
    shared: &'a Arc<Shared>,
    wake: &'a Receiver<()>,
    link: Link,
    tried: Option<Sender<()>>,
}

impl Worker<'_> {
    fn converse(&mut self, address: &str) -> End {
        match self.converse_until_error(address) {
            // A socket that was shut because of the link's fate looks broken.
            Ok(end) | Err(end) => self.shared.link_fate(self.handle.number).unwrap_or(end),
        }
    }

    fn converse_until_error(&mut self, address: &str) -> std::result::Result<End, End> {
        let (handle, shared) = (self.handle, self.shared);
        if let Some(fate) = shared.link_fate(handle.number) {
            return Ok(fate);
        }
        handle.set_address(address);
        let mut wire = Wire::connect(address, handle, &shared.limits)?;
        handle.set_socket(Some(Arc::clone(wire.stream())));
        if let Some(password) = &shared.password {
            wire.authenticate(password)?;
        }
        self.link.connected();
        loop {
            let now_ms = shared.monotonic_ms();
            match self.link.next(now_ms, &handle.queue, shared.view(), &shared.limits) {
                Step::Send(requests) => {
                    self.publish();
                    let replies = wire.exchange(&requests, shared)?;
                    for request in &requests {
                        if let Request::Merge(records) = request {
                            trace!("{address} acknowledged {} bytes of records", records.len());
                        }
                    }
                    let introduction = self.link.take(&requests, replies, shared.view())?;
                    self.publish();
                    if let Some(introduction) = introduction {
                        match self.introduced(address, &introduction)? {
                            Verdict::Member => {}
                            Verdict::Gone => return Ok(End::Gone),
                            Verdict::Refused(reason) => return Err(Error::refused(reason).into()),
                        }
                    }
                }
                Step::Synced { began_ms, revived } => {
                    shared.synced(handle, began_ms, &revived);
                    self.publish();
                }
                Step::Wait { until_ms } => {
                    self.publish();
                    self.wait(until_ms.saturating_sub(now_ms), &wire)?;
                }
            }
        }
    }

    fn introduced(&mut self, address: &str, by: &Introduction) -> Result<Verdict> {
        let verdict = self.shared.answered(self.handle, address, by)?;
        self.tried = None;
        Ok(verdict)
    }

    /// Sleeps until a change, a wake-up or the time; looks whether the peer has hung up meanwhile.
    fn wait(&mut self, wait_ms: u64, wire: &Wire<'_>) -> std::result::Result<(), End> {
        let handle = self.handle;
        select! {
            recv(handle.queue.receiver) -> change => if let Ok(change) = change {
                handle.queue.received(&change);
                self.link.received(change);
                return Ok(());
            },
            recv(self.wake) -> _ => if let Some(fate) = self.shared.link_fate(handle.number) {
                return Err(fate);
            },
            default(Duration::from_millis(wait_ms).min(LOOK_INTERVAL)) => {}
        }
        if wire.has_ended() {
            return Err(io::Error::new(ErrorKind::ConnectionReset, "the peer hung up").into());
        }
        Ok(())
    }

    /// Tells others how the link is.
    fn publish(&self) {
        self.shared.publish(self.handle, &self.link);
    }
}
