//! The conversation with one other node: a leader sends APPEND, a candidate VOTE, a follower what
//! its clients ask of the leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Receiver;
use log::trace;

use super::links::LinkTo;
use super::messages::{AppendReply, AppendRequest, VoteReply, VoteRequest};
use super::replica::Replica;
use super::shared::Shared;
use super::tickets::{Ticket, request_of};
use crate::error::{Error, Result};
use crate::peers::conversation::{Conversation, Progress, Step, Target, Woken};
use crate::peers::requests::{PeerReply, PeerRequest};
use crate::peers::status::PeerHandle;

/// A node that is no member introduces itself again after this time: who leads may have changed.
const INTRODUCE_INTERVAL_MS: u64 = 1_000;
/// Longest rest of a conversation that has nothing to say, below the idle limit of the other side.
const IDLE_MS: u64 = 30_000;
/// Pause after a leader could not take what clients ask: it may be busy, or lead no more.
const PAUSE_MS: u64 = 20;

/// The conversation with one other node.
#[derive(Debug)]
pub(super) struct RaftConversation {
    shared: Arc<Shared>,
    peer: Arc<PeerHandle>,
    to: LinkTo,
    /// The address in use.
    address: String,
    /// Who answers at addresses of the peer instead of it.
    strangers: BTreeMap<String, u64>,
    /// When this node introduced itself on this connection.
    greeted_ms: Option<u64>,
    asked: Asked,
    /// Before this time nothing is asked for clients.
    paused_until_ms: u64,
}

/// The request that is under way.
#[derive(Debug)]
enum Asked {
    Nothing,
    Append(AppendRequest),
    Vote(VoteRequest),
    Forward(Vec<Ticket>),
}

impl RaftConversation {
    pub(super) fn new(shared: Arc<Shared>, peer: Arc<PeerHandle>, to: LinkTo) -> Self {
        RaftConversation {
            shared,
            peer,
            to,
            address: String::new(),
            strangers: BTreeMap::new(),
            greeted_ms: None,
            asked: Asked::Nothing,
            paused_until_ms: 0,
        }
    }

    fn next_request(&mut self, id: u64) -> Result<Option<PeerRequest>> {
        self.asked = self.shared.with(|replica, now_ms| {
            if let Some(request) = replica.append_request(id, now_ms) {
                return Asked::Append(request);
            }
            if let Some(request) = replica.vote_request(id) {
                return Asked::Vote(request);
            }
            if self.may_forward(replica, id, now_ms) {
                return Asked::Forward(self.shared.forwarding.take());
            }
            Asked::Nothing
        });
        let request = match &self.asked {
            Asked::Nothing => return Ok(None),
            Asked::Append(request) => request.encode(),
            Asked::Vote(request) => request.encode(),
            Asked::Forward(tickets) => request_of(tickets),
        };
        // Rule 1: the term, and a candidate's vote for itself, are on the disk before others see
        // them.
        self.shared.save_term()?;
        Ok(Some(request))
    }

    /// Whether there is something to ask of a leader for clients.
    fn may_forward(&self, replica: &Replica, id: u64, now_ms: u64) -> bool {
        let is_led = replica.leader() == Some(id) && replica.is_led();
        is_led && now_ms >= self.paused_until_ms && self.shared.forwarding.has_tickets()
    }

    /// Whether there is an APPEND or a FORWARD to send. Every write asks this, so it looks at
    /// nothing else: a link that is cut or gone has lost its socket.
    fn has_news(&self) -> bool {
        let Some(id) = self.peer.id() else {
            return false;
        };
        self.shared.with(|replica, now_ms| {
            replica.is_append_due(id, now_ms) || self.may_forward(replica, id, now_ms)
        })
    }

    fn introduced(&mut self, now_ms: u64, reply: PeerReply) -> Result<()> {
        let answer = match reply {
            PeerReply::Introduction(answer) => answer,
            PeerReply::Error(reason) => return Err(self.shared.refused_by(reason)),
            _ => return Err(Error::Corrupt("a reply of another kind to HELLO".into())),
        };
        if let Err(error) = self.shared.answered(&self.to, &answer) {
            self.strangers.insert(self.address.clone(), answer.node_id);
            return Err(error);
        }
        self.strangers.clear();
        self.peer.set_id(Some(answer.node_id));
        self.greeted_ms = Some(now_ms);
        Ok(())
    }
}

impl Conversation for RaftConversation {
    fn target(&self) -> Target {
        self.shared.target(&self.to)
    }

    /// Does not say HELLO to another node while a link talks with it: a HELLO ends all older
    /// connections of this node to it.
    fn check(&mut self, address: &str) -> Result<()> {
        match self.strangers.get(address) {
            Some(id) if self.shared.is_reached(*id) => {
                Err(Error::refused(format!("another node answers there: {id:016x}")))
            }
            _ => Ok(()),
        }
    }

    fn connected(&mut self, address: &str) {
        self.address = address.into();
    }

    fn next(&mut self, now_ms: u64) -> Result<Step> {
        let is_member = self.shared.is_member();
        let greeted_ms = match self.greeted_ms {
            Some(greeted_ms) if is_member || now_ms < greeted_ms + INTRODUCE_INTERVAL_MS => {
                greeted_ms
            }
            _ => {
                let introduction = self.shared.question(&self.to, &self.address)?;
                return Ok(Step::Send(vec![PeerRequest::Hello(introduction)]));
            }
        };
        let Some(id) = self.peer.id() else {
            return Err(Error::Corrupt("a peer without an id".into()));
        };
        if let Some(request) = self.next_request(id)? {
            return Ok(Step::Send(vec![request]));
        }
        let due_ms = self.shared.with(|replica, _| replica.append_due_ms(id));
        let idle_ms = if is_member { now_ms + IDLE_MS } else { greeted_ms + INTRODUCE_INTERVAL_MS };
        let until_ms = due_ms.unwrap_or(idle_ms);
        let is_paused = now_ms < self.paused_until_ms;
        let until_ms = if is_paused { until_ms.min(self.paused_until_ms) } else { until_ms };
        Ok(Step::Wait { until_ms })
    }

    fn take(&mut self, now_ms: u64, _: &[PeerRequest], replies: Vec<PeerReply>) -> Result<()> {
        let Some(reply) = replies.into_iter().next() else {
            return Err(Error::Corrupt("no reply".into()));
        };
        let id = self.peer.id();
        match (std::mem::replace(&mut self.asked, Asked::Nothing), id) {
            (Asked::Append(request), Some(id)) => {
                let reply = AppendReply::decode(reply)?;
                if !request.entries.is_empty() {
                    let (to, last) = (self.peer.address(), request.last_named());
                    trace!("{to} answered for the entries up to {last}: {:?}", reply.outcome);
                }
                self.shared.with(|replica, now_ms| {
                    replica.take_append(id, &request, &reply, now_ms);
                });
            }
            (Asked::Vote(request), Some(id)) => {
                let reply = VoteReply::decode(reply)?;
                self.shared.with(|replica, now_ms| {
                    replica.take_vote(id, &request, &reply, now_ms);
                });
                // There may be votes to ask of others, or entries to send.
                self.shared.wake_links();
            }
            (Asked::Forward(tickets), _) => {
                if !self.shared.forward_answered(tickets, reply)? {
                    self.paused_until_ms = now_ms + PAUSE_MS;
                }
            }
            _ => self.introduced(now_ms, reply)?,
        }
        Ok(())
    }

    fn broken(&mut self) {
        if let Some(id) = self.peer.id() {
            self.shared.with(|replica, _| replica.broken(id));
        }
        if self.greeted_ms.take().is_some() {
            self.shared.counters.links_broken.fetch_add(1, Ordering::Relaxed);
        }
        self.peer.set_id(None);
        if let Asked::Forward(tickets) = std::mem::replace(&mut self.asked, Asked::Nothing) {
            self.shared.forward_broke(tickets);
        }
    }

    fn progress(&self) -> Progress {
        if self.greeted_ms.is_some() { Progress::Live } else { Progress::Strange }
    }

    fn wait(&mut self, woken: &Receiver<()>, timeout: Duration) -> Woken {
        match woken.recv_timeout(timeout) {
            Ok(()) if self.has_news() => Woken::ByNews,
            Ok(()) => Woken::ByOthers,
            Err(_) => Woken::ByTime,
        }
    }
}
