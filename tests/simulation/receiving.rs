//! The receiving side of links: how a node answers its peers, and when it ends their connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvstore::config::PEER_IDLE_TIMEOUT;
use kvstore::peers::inbound::Socket;
use kvstore::peers::introduction::Introduction;
use kvstore::peers::requests::{PeerReply, PeerRequest};
use kvstore::peers::versions;
use kvstore::replication::{Greeted, receive};
use kvstore::store::digest::{key_hash, shard_of};
use kvstore::store::record::{Record, decode_all};

use crate::checks::trace;
use crate::links::{Message, Origin};
use crate::nodes::{Cluster, Fault, SKEW_MAX};
use crate::reached::Event;

/// Shorter than two entries, so that lists come in parts.
const PART_BYTES: usize = 30;

/// The receiving end of a connection.
pub struct Session {
    pub from: usize,
    pub link: u64,
    pub socket: Arc<SimSocket>,
    pub greeted: Option<Greeted>,
    pub heard_ms: u64,
    /// The latest exchange that arrived; the largest number when the sender has hung up.
    pub exchange: u64,
}

#[derive(Debug, Default)]
pub struct SimSocket(pub AtomicBool);

impl Socket for SimSocket {
    fn shut(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Cluster {
    /// Bytes that are on their way arrive even when the sender has given up, but TCP keeps the
    /// order of a connection: never behind later ones, for however long it stays open.
    pub fn receive(
        &mut self,
        to: usize,
        from: Origin,
        exchange: u64,
        requests: &[PeerRequest],
    ) -> Option<Vec<PeerReply>> {
        let now_ms = self.network.now_ms;
        let Some(session) = self.nodes[to].sessions.get_mut(&from.connection) else {
            // An earlier process had it.
            self.network.send(from.node, Message::Reset { to: from });
            return None;
        };
        let is_overtaken = exchange < session.exchange && self.fault != Fault::OrderNotKept;
        let is_shut =
            session.socket.0.load(Ordering::Relaxed) && self.fault != Fault::OldConnectionsStayOpen;
        if is_overtaken || is_shut || !self.network.can_talk(from.node, to) {
            return None;
        }
        session.exchange = session.exchange.max(exchange);
        session.heard_ms = now_ms;
        Some(match requests {
            [PeerRequest::Hello(hello)] => vec![self.hello(to, from.connection, hello)],
            _ => requests.iter().map(|request| self.answer(to, from, request)).collect(),
        })
    }

    /// As `Node::hello`, which parses the words first.
    fn hello(&mut self, to: usize, connection: u64, from: &Introduction) -> PeerReply {
        let node = &mut self.nodes[to];
        let session = node.sessions.get_mut(&connection).expect("it was opened before");
        let socket = session.socket.clone();
        let mut answer = match node.manager.greet(from, Some(socket), &mut session.greeted) {
            Ok(answer) => answer,
            Err(error) => return PeerReply::Error(error.to_string()),
        };
        if self.fault == Fault::RunsAreNotTold {
            answer.run_id = 1;
        }
        self.receive_callers(to);
        PeerReply::Introduction(answer)
    }

    /// As `Node::digests`, `Node::versions` and `Node::merge_from_peer`.
    fn answer(&mut self, to: usize, from: Origin, request: &PeerRequest) -> PeerReply {
        let now_ms = self.network.now_ms;
        let greeted = self.nodes[to].sessions.get(&from.connection);
        let greeted = greeted.and_then(|session| session.greeted.as_ref());
        let is_current = greeted.is_some_and(|peer| peer.while_current(|| Ok(())).is_ok());
        if !is_current && self.fault != Fault::OldConnectionsStayOpen {
            return PeerReply::Error("say PEER HELLO first".into());
        }
        let node = &mut self.nodes[to];
        match request {
            PeerRequest::Hello(_) => PeerReply::Error("HELLO comes alone".into()),
            PeerRequest::Merge(records) => self.merge(to, from, records),
            PeerRequest::Agree { .. } => panic!("not of an eventual cluster"),
            question => {
                // `Node::show_to_peer`.
                if self.fault != Fault::DigestsShownBeforeTheyAreOnDisk {
                    node.sync(now_ms);
                }
                let view = node.manager.view();
                match question {
                    PeerRequest::BucketDigests(shard) => {
                        PeerReply::Bytes(view.bucket_digests(*shard))
                    }
                    PeerRequest::Versions(place) => {
                        let mut listed = versions::list(&view, place, PART_BYTES);
                        if listed.last.is_some() {
                            self.network.reached.add(Event::ListInParts);
                        }
                        if self.fault == Fault::ListEndsAfterItsFirstPart {
                            listed.last = None;
                        }
                        PeerReply::Listed(listed)
                    }
                    _ => PeerReply::Bytes(view.shard_digests()),
                }
            }
        }
    }

    /// As `Node::merge_from_peer`.
    fn merge(&mut self, to: usize, from: Origin, records: &[u8]) -> PeerReply {
        let wall_ms = self.wall_ms(to);
        let node = &mut self.nodes[to];
        let all = decode_all(records).map(|record| record.expect("our own bytes"));
        for record in all.clone() {
            let (key, version) = (record.key.escape_ascii(), record.version);
            let is_delete = record.value.is_none();
            trace(|| format!("{} {to} gets {key} {version:?} {is_delete}", self.network.now_ms));
        }
        let is_wanted = |record: &Record| match self.fault {
            Fault::MergeKeepsTheOlder => node.store.version(record.key).is_none(),
            _ => true,
        };
        let mut taken = Vec::new();
        for mut record in all.clone().filter(is_wanted) {
            if self.fault == Fault::ValueIsNotThatOfItsVersion {
                record.value = record.value.map(|_| &b"another value"[..]);
            }
            record.encode(&mut taken);
        }
        let (limits, journal) = ((wall_ms, SKEW_MAX), |_: &[u8]| 0);
        let mut done = receive::merge(&node.store, &node.clock, &taken, limits, journal)
            .expect("our own bytes");
        self.network.reached.add_times(Event::RecordsRefused, done.refused);
        if self.fault == Fault::RefusedRecordsCountAsMerged {
            (done.merged, done.refused) = (done.merged + done.refused, 0);
        }
        let session = node.sessions.get(&from.connection);
        if let Some(greeted) = session.and_then(|session| session.greeted.as_ref()) {
            node.manager.merged(greeted, done);
        }
        if self.fault == Fault::ReceivedRecordForwarded {
            for record in all {
                let shard = shard_of(key_hash(record.key));
                node.manager.changed(record.key, shard, wall_ms, &mut node.known_links);
            }
        }
        PeerReply::Merged { merged: done.merged, refused: done.refused }
    }

    /// Closes what the nodes have shut, and what was silent for too long.
    pub fn close_sessions(&mut self, index: usize) {
        let (now_ms, idle_ms) = (self.network.now_ms, PEER_IDLE_TIMEOUT.as_millis() as u64);
        if self.fault == Fault::OldConnectionsStayOpen {
            return;
        }
        let mut reset = Vec::new();
        for (connection, session) in &mut self.nodes[index].sessions {
            let is_shut = session.socket.0.load(Ordering::Relaxed);
            let is_open = session.exchange < u64::MAX;
            if is_open && (is_shut || now_ms >= session.heard_ms + idle_ms) {
                session.exchange = u64::MAX;
                session.greeted = None;
                let (node, link, connection) = (session.from, session.link, *connection);
                reset.push(Origin { node, link, connection });
            }
        }
        for to in reset {
            self.network.reached.add(Event::ConnectionSuperseded);
            if self.network.can_talk(index, to.node) {
                self.network.send(to.node, Message::Reset { to });
            }
        }
    }
}
