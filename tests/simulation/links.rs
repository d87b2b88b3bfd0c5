//! What travels between nodes that agree eventually, and the sending side: the callers of a node,
//! driven without threads and sockets.

use std::io;
use std::sync::Arc;

use kvstore::error::Error;
use kvstore::peers::caller::Action;
use kvstore::peers::requests::{PeerReply, PeerRequest};
use kvstore::peers::status::PeerState;
use kvstore::store::digest::{key_hash, shard_of};

use crate::host::SimCaller;
use crate::nodes::{Cluster, Fault, KEYS, address};
use crate::reached::Event;
use crate::receiving::{Session, SimSocket};

/// A peer that is silent for so long is given up: `Limits::link_reply_timeout`.
const REPLY_TIMEOUT_MS: u64 = 5_000;

pub struct SimLink {
    pub caller: SimCaller,
    connection: Option<Connection>,
}

struct Connection {
    id: u64,
    target: usize,
    /// Requests under way, and when patience ends.
    under_way: Option<(Vec<PeerRequest>, u64)>,
    /// Exchanges begun; TCP delivers bytes once, so a second reply to one of them is none.
    exchange: u64,
}

/// From which link of which node, on which connection.
#[derive(Clone, Copy)]
pub struct Origin {
    pub node: usize,
    pub link: u64,
    pub connection: u64,
}

#[derive(Clone)]
pub enum Message {
    Requests {
        from: Origin,
        exchange: u64,
        requests: Vec<PeerRequest>,
    },
    Replies {
        to: Origin,
        exchange: u64,
        replies: Vec<PeerReply>,
    },
    /// The sender of requests has closed the connection.
    Closed {
        from: Origin,
    },
    /// The receiver of requests has closed it.
    Reset {
        to: Origin,
    },
}

impl SimLink {
    pub fn new(caller: SimCaller) -> Self {
        SimLink { caller, connection: None }
    }
}

impl Cluster {
    /// What the thread `link-N` does between two sleeps.
    pub fn drive(&mut self, index: usize, number: u64) {
        let (now_ms, monotonic_ms) = (self.network.now_ms, self.monotonic_ms(index));
        let Some(sim) = self.nodes[index].links.get_mut(&number) else {
            return;
        };
        if sim.caller.peer().woken.try_recv().is_ok() {
            sim.caller.woken(monotonic_ms);
            self.let_go(index, number);
        }
        let Some(sim) = self.nodes[index].links.get_mut(&number) else {
            return;
        };
        let under_way = sim.connection.as_ref().and_then(|open| open.under_way.as_ref());
        match under_way {
            Some((_, patience_ms)) if now_ms < *patience_ms => return,
            Some(_) => sim.caller.broken(monotonic_ms, failed("the peer is silent")),
            None => match sim.caller.next(monotonic_ms) {
                Action::Connect(address) => self.connect(index, number, &address),
                Action::Send(requests) => self.send_requests(index, number, requests),
                Action::Wait { .. } | Action::End => {}
            },
        }
        self.let_go(index, number);
    }

    fn send_requests(&mut self, index: usize, number: u64, mut requests: Vec<PeerRequest>) {
        let now_ms = self.network.now_ms;
        let sim = self.nodes[index].links.get_mut(&number);
        let Some(open) = sim.and_then(|sim| sim.connection.as_mut()) else {
            return;
        };
        open.under_way = Some((requests.clone(), now_ms + REPLY_TIMEOUT_MS));
        open.exchange += 1;
        let (target, exchange) = (open.target, open.exchange);
        let from = Origin { node: index, link: number, connection: open.id };
        if let (PeerRequest::Hello(hello), Fault::RunsAreNotTold) = (&mut requests[0], self.fault) {
            hello.run_id = 1;
        }
        let batch_len = match &requests[..] {
            [PeerRequest::Merge(records)] => records.len(),
            _ => 0,
        };
        self.merges += u64::from(batch_len > 0);
        if batch_len >= self.limits.batch_bytes {
            self.network.reached.add(Event::BatchFull);
        }
        if batch_len > crate::checks::LARGE_BYTES {
            self.network.reached.add(Event::LargeRecordSent);
        }
        for _ in 0..self.network.copies(batch_len > 0) {
            let requests = requests.clone();
            self.network.send(target, Message::Requests { from, exchange, requests });
        }
    }

    fn connect(&mut self, index: usize, number: u64, to: &str) {
        let (id, monotonic_ms) = (self.network.id(), self.monotonic_ms(index));
        let target = (0..self.nodes.len())
            .find(|other| address(*other) == to)
            .filter(|other| self.nodes[*other].is_up && self.network.can_connect(index, *other));
        let Some(sim) = self.nodes[index].links.get_mut(&number) else {
            return;
        };
        let Some(target) = target else {
            return sim.caller.broken(monotonic_ms, failed("nobody listens there"));
        };
        sim.caller.connected();
        sim.connection = Some(Connection { id, target, under_way: None, exchange: 0 });
        let session = Session {
            from: index,
            link: number,
            socket: Arc::new(SimSocket::default()),
            greeted: None,
            heard_ms: self.network.now_ms,
            exchange: 0,
        };
        self.nodes[target].sessions.insert(id, session);
    }

    /// Closes a connection that the caller has given up, and drops a caller without a peer.
    fn let_go(&mut self, index: usize, number: u64) {
        let Some(sim) = self.nodes[index].links.get_mut(&number) else {
            return;
        };
        if sim.caller.is_connected() {
            return;
        }
        let connection = sim.connection.take();
        if connection.is_some() && matches!(sim.caller.peer().state(), PeerState::Refused(_)) {
            self.network.reached.add(Event::LinkRefused);
        }
        if sim.caller.has_ended() {
            self.nodes[index].links.remove(&number);
        }
        if let Some(Connection { id, target, .. }) = connection {
            self.close(target, Origin { node: index, link: number, connection: id });
        }
    }

    /// The end of a connection arrives behind all that was sent on it.
    fn close(&mut self, target: usize, from: Origin) {
        let is_of_it = |message: &Message| match message {
            Message::Requests { from: other, .. } => other.connection == from.connection,
            _ => false,
        };
        self.network.send_behind(target, Message::Closed { from }, is_of_it);
    }

    pub fn deliver(&mut self, to: usize, message: Message) {
        if !self.nodes[to].is_up {
            return;
        }
        match message {
            Message::Requests { from, exchange, requests } => {
                if let Some(replies) = self.receive(to, from, exchange, &requests) {
                    let replies = Message::Replies { to: from, exchange, replies };
                    self.network.send(from.node, replies);
                }
            }
            Message::Replies { to: origin, exchange, replies } => {
                self.take_replies(origin, exchange, replies)
            }
            Message::Closed { from } => {
                if let Some(session) = self.nodes[to].sessions.get_mut(&from.connection)
                    && self.network.can_talk(from.node, to)
                {
                    session.exchange = u64::MAX;
                    session.greeted = None;
                }
            }
            Message::Reset { to: origin } => {
                let monotonic_ms = self.monotonic_ms(to);
                let sim = self.nodes[to].links.get_mut(&origin.link);
                let is_it = |open: &Connection| open.id == origin.connection;
                if let Some(sim) = sim.filter(|sim| sim.connection.as_ref().is_some_and(is_it)) {
                    sim.caller.broken(monotonic_ms, failed("the peer hung up"));
                    self.let_go(to, origin.link);
                }
            }
        }
    }

    fn take_replies(&mut self, of: Origin, exchange: u64, mut replies: Vec<PeerReply>) {
        let monotonic_ms = self.monotonic_ms(of.node);
        let node = &mut self.nodes[of.node];
        let Some(sim) = node.links.get_mut(&of.link) else {
            return;
        };
        let Some(current) = &mut sim.connection else {
            return;
        };
        if (current.id, current.exchange) != (of.connection, exchange) {
            return;
        }
        let Some((requests, _)) = current.under_way.take() else {
            return;
        };
        if let (PeerRequest::ShardDigests, PeerReply::Bytes(bytes)) =
            (&requests[0], &mut replies[0])
        {
            if self.fault == Fault::MarkClearedAfterTheDigestIsAsked {
                let _ = sim.caller.conversation.queue().take_marks();
            }
            if self.fault == Fault::OneShardNeverSynced {
                let shard = shard_of(key_hash(KEYS[0].as_bytes()));
                let at = shard * 8..shard * 8 + 8;
                let ours = node.manager.view().shard_digests();
                bytes[at.clone()].copy_from_slice(&ours[at]);
            }
        }
        sim.caller.take(monotonic_ms, &requests, replies);
        self.receive_callers(of.node);
        self.let_go(of.node, of.link);
    }

    /// Tells the others that a node's process has gone, as its machine does.
    pub fn hang_up(&mut self, index: usize) {
        let node = &self.nodes[index];
        let open = node.sessions.iter().filter(|(_, session)| session.exchange < u64::MAX);
        let inbound: Vec<Origin> = open
            .map(|(connection, session)| Origin {
                node: session.from,
                link: session.link,
                connection: *connection,
            })
            .collect();
        let outbound: Vec<(usize, Origin)> = node
            .links
            .iter()
            .filter_map(|(number, link)| {
                let Connection { id, target, .. } = link.connection.as_ref()?;
                Some((*target, Origin { node: index, link: *number, connection: *id }))
            })
            .collect();
        for to in inbound {
            if self.network.can_talk(index, to.node) {
                self.network.send(to.node, Message::Reset { to });
            }
        }
        for (target, from) in outbound {
            self.close(target, from);
        }
    }
}

fn failed(why: &str) -> Error {
    io::Error::new(io::ErrorKind::ConnectionReset, why).into()
}
