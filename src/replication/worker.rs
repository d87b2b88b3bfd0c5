//! A link's thread: drives the state machine of [`super::link`] over a socket.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};
use log::trace;

use super::handle::{Handle, State};
use super::link::{Link, Step};
use super::members::Verdict;
use super::shared::Shared;
use super::wire::Wire;
use crate::error::{Error, Result};
use crate::metrics;
use crate::peers::introduction::Introduction;
use crate::peers::requests::PeerRequest;
use crate::random::random_id;

/// Longest sleep of an idle link: then it looks whether its peer has hung up.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// First and longest pause between two attempts to reach a peer. The pause doubles between the two,
/// and a random part of up to a half keeps nodes from trying in step. It starts again after a
/// conversation; a HELLO of the peer ends it early, but not after a refusal.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// A conversation that ended sooner is one more failure for the back-off.
const CONVERSATION_MIN: Duration = Duration::from_secs(1);

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

/// The body of the thread `link-N`.
pub(super) fn run(handle: &Handle, shared: &Arc<Shared>, wake: &Receiver<()>) {
    let mut worker =
        Worker { handle, shared, wake, link: Link::default(), strangers: BTreeMap::new() };
    let (mut attempt, mut pause) = (0, BACK_OFF_MIN);
    while let Some(addresses) = shared.addresses(handle.number) {
        let address = &addresses[attempt % addresses.len()];
        let began = Instant::now();
        let end = worker.converse(address);
        let was_introduced = worker.link.is_introduced();
        worker.link.broken();
        worker.link.peek(&handle.queue);
        worker.publish();
        handle.set_socket(None);
        shared.reached(handle, None);
        handle.tried.open();
        handle.ended.fetch_add(1, Ordering::SeqCst);
        let mut is_refused = false;
        match end {
            End::Gone => return,
            End::Cut => handle.set_state(State::Partitioned),
            End::Broken(error) => {
                is_refused = matches!(error, Error::Refused(_));
                let was_live = handle.state() == State::Live;
                if was_live {
                    metrics::add(&shared.counters.links_broken, 1);
                    shared.lost_a_peer();
                } else {
                    attempt += 1;
                }
                // After a conversation, and not one that the other side ended at once.
                if was_live || was_introduced && !is_refused && began.elapsed() > CONVERSATION_MIN {
                    pause = BACK_OFF_MIN;
                }
                handle.set_state(match error {
                    Error::Refused(refusal) => State::Refused(refusal.message),
                    other => State::Connecting(other.to_string()),
                });
            }
        }
        let jitter = pause.as_millis() as u64 / 2;
        let longest = pause - Duration::from_millis(random_id() % jitter.max(1));
        // Two nodes that refuse each other would wake each other for ever.
        let shortest = if is_refused { longest } else { longest.min(BACK_OFF_MIN) };
        sleep(wake, shortest, longest);
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
}

/// Sleeps until a wake-up, but no shorter than `shortest` and no longer than `longest`.
fn sleep(wake: &Receiver<()>, shortest: Duration, longest: Duration) {
    let (began, mut until) = (Instant::now(), longest);
    while let Some(left) = until.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        match wake.recv_timeout(left) {
            Ok(()) => until = shortest,
            Err(RecvTimeoutError::Timeout) => return,
            // The link is gone, as its loop will notice.
            Err(RecvTimeoutError::Disconnected) => return thread::sleep(shortest),
        }
    }
}

struct Worker<'a> {
    handle: &'a Handle,
    shared: &'a Arc<Shared>,
    wake: &'a Receiver<()>,
    link: Link,
    /// Who answered at an address instead of this link's peer.
    strangers: BTreeMap<String, Stranger>,
}

struct Stranger {
    id: u64,
    /// Why this link does not want it.
    reason: String,
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
        self.check_stranger(address)?;
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
                        if let PeerRequest::Merge(records) = request {
                            trace!("{address} acknowledged {} bytes of records", records.len());
                        }
                    }
                    let introduction = self.link.take(&requests, replies, shared.view())?;
                    self.publish();
                    if let Some(introduction) = introduction {
                        match self.introduced(address, &introduction)? {
                            Verdict::Member => {}
                            Verdict::Gone => return Ok(End::Gone),
                            Verdict::Refused(reason) => {
                                let stranger =
                                    Stranger { id: introduction.node_id, reason: reason.clone() };
                                self.strangers.insert(address.into(), stranger);
                                return Err(Error::refused(reason).into());
                            }
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
        self.handle.tried.open();
        if verdict == Verdict::Member {
            self.strangers.clear();
            self.shared.reached(self.handle, Some(by.node_id));
        }
        Ok(verdict)
    }

    /// Does not say HELLO to whom this link does not want while another link talks with it: a HELLO
    /// ends all older connections of this node to it.
    fn check_stranger(&mut self, address: &str) -> Result<()> {
        self.strangers.retain(|_, stranger| self.shared.is_reached(stranger.id, self.handle));
        match self.strangers.get(address) {
            Some(stranger) => Err(Error::refused(stranger.reason.clone())),
            None => Ok(()),
        }
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
