//! The eventual way's conversation with one peer: a [`Link`], and what the node makes of it.
//!
//! The link knows the queue and what is to be compared. This file adds who the peer is, and shows
//! to others what the link has reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use super::handle::LinkHandle;
use super::link::{Link, LinkStep};
use super::members::Verdict;
use super::queue::Queue;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::metrics;
use crate::peers::conversation::{Conversation, Progress, Step, Target, Woken};
use crate::peers::requests::{PeerReply, PeerRequest};

/// The conversation with the peer of one contact.
#[derive(Debug)]
pub struct EventualConversation {
    shared: Arc<Shared>,
    handle: Arc<LinkHandle>,
    link: Link,
    /// The address of this connection.
    address: String,
    /// By address: who answered there instead of this link's peer.
    strangers: BTreeMap<String, Stranger>,
}

#[derive(Debug)]
struct Stranger {
    id: u64,
    /// Why this link does not want it.
    reason: String,
}

impl EventualConversation {
    pub(super) fn new(shared: Arc<Shared>, handle: Arc<LinkHandle>) -> Self {
        let (link, strangers) = (Link::default(), BTreeMap::new());
        EventualConversation { shared, handle, link, address: String::new(), strangers }
    }

    /// Who answered the HELLO last.
    pub fn peer_id(&self) -> Option<u64> {
        self.link.peer.map(|run| run.node_id)
    }

    /// The changes that wait for the peer.
    pub fn queue(&self) -> &Queue {
        &self.handle.queue
    }

    fn number(&self) -> u64 {
        self.handle.peer.number
    }
}

impl Conversation for EventualConversation {
    fn target(&self) -> Target {
        self.shared.target(self.number())
    }

    /// Does not say HELLO to whom this link does not want while another link talks with it: a HELLO
    /// ends all older connections of this node to it.
    fn check(&mut self, address: &str) -> Result<()> {
        let number = self.number();
        self.strangers.retain(|_, stranger| self.shared.is_reached(stranger.id, number));
        match self.strangers.get(address) {
            Some(stranger) => Err(Error::refused(stranger.reason.clone())),
            None => Ok(()),
        }
    }

    fn connected(&mut self, address: &str) {
        self.address = address.into();
        self.link.connected();
    }

    fn next(&mut self, now_ms: u64) -> Result<Step> {
        let (shared, handle) = (&self.shared, &self.handle);
        let step = loop {
            match self.link.next(now_ms, &handle.queue, shared.view(), &shared.limits) {
                LinkStep::Greet => {
                    break Step::Send(vec![PeerRequest::Hello(shared.introduction(false)?)]);
                }
                LinkStep::Send(requests) => break Step::Send(requests),
                LinkStep::Wait { until_ms } => break Step::Wait { until_ms },
                LinkStep::Compared { began_ms, revived } => {
                    shared.compared(handle, began_ms, &revived);
                }
            }
        };
        shared.publish(handle, &self.link);
        Ok(step)
    }

    fn take(
        &mut self,
        _now_ms: u64,
        requests: &[PeerRequest],
        replies: Vec<PeerReply>,
    ) -> Result<()> {
        let (shared, handle) = (&self.shared, &self.handle);
        let introduction = self.link.take(requests, replies, shared.view())?;
        shared.publish(handle, &self.link);
        let Some(introduction) = introduction else {
            return Ok(());
        };
        match shared.answered(handle, &self.address, &introduction)? {
            Verdict::Member => {
                self.strangers.clear();
                shared.reached(handle, Some(introduction.node_id));
                Ok(())
            }
            Verdict::Gone => Err(Error::refused("it is no peer any more")),
            Verdict::Refused(reason) => {
                let stranger = Stranger { id: introduction.node_id, reason: reason.clone() };
                self.strangers.insert(self.address.clone(), stranger);
                Err(Error::refused(reason))
            }
        }
    }

    fn broken(&mut self) {
        let (shared, handle) = (&self.shared, &self.handle);
        if self.progress() == Progress::Live {
            metrics::add(&shared.counters.links_broken, 1);
            shared.lost_a_peer();
        }
        self.link.broken();
        self.link.outgoing.peek(&handle.queue);
        shared.publish(handle, &self.link);
        shared.reached(handle, None);
    }

    fn progress(&self) -> Progress {
        let link = &self.link;
        if link.is_refused() {
            Progress::Refused("clock skew".into())
        } else if link.is_live() {
            Progress::Live
        } else if link.is_answering() {
            Progress::CatchingUp
        } else if link.is_introduced() {
            Progress::Introduced
        } else {
            Progress::Strange
        }
    }

    fn wait(&mut self, woken: &Receiver<()>, timeout: Duration) -> Woken {
        select! {
            recv(self.handle.queue.receiver) -> change => {
                if let Ok(change) = change {
                    self.handle.queue.received(&change);
                    self.link.outgoing.received(change);
                }
                Woken::ByNews
            }
            recv(woken) -> _ => Woken::ByOthers,
            default(timeout) => Woken::ByTime,
        }
    }
}
