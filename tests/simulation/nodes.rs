//! The nodes of a cluster that agrees eventually, and what they say to each other.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::checks::trace;
use crate::network::Network;
use kvstore::config::{Dials, Limits, PEER_IDLE_TIMEOUT};
use kvstore::peers::identity::Identity;
use kvstore::peers::inbound::is_restless;
use kvstore::peers::introduction::Introduction;
use kvstore::peers::requests::{PeerReply, PeerRequest};
use kvstore::peers::versions;
use kvstore::peers::view::View;
use kvstore::replication::link::Link;
use kvstore::replication::members::{Members, Stored};
use kvstore::replication::queue::{Change, Overflows, Queue};
use kvstore::replication::receive;
use kvstore::replication::tombstones::{self, CLEAN_ROUNDS, ROUND_MS, Rounds};
use kvstore::store::KeyValueStore;
use kvstore::store::digest::{key_hash, shard_of};
use kvstore::store::record::{Record, decode_all};
use kvstore::store::version::{HybridClock, Version};

/// Mistakes built in on purpose, to see that the checks find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    MergeKeepsTheOlder,
    TombstoneDroppedAfterOneRound,
    OneShardNeverSynced,
    ReceivedRecordForwarded,
    MarkClearedAfterTheDigestIsAsked,
    OldConnectionsStayOpen,
    OrderNotKept,
}

pub const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Shorter than two entries, so that lists come in parts.
pub const PART_BYTES: usize = 30;
pub const START_MS: u64 = 1_800_000_000_000;
pub const GRACE: Duration = Duration::from_secs(40);
pub const SKEW_MAX: Duration = Duration::from_secs(60);

pub fn limits() -> Limits {
    Limits { batch_bytes: 60, queue_keys_max: 3, ..Limits::default() }
}

pub struct SimNode {
    pub store: KeyValueStore,
    pub clock: HybridClock,
    pub members: Members,
    pub rounds: Rounds,
    pub links: BTreeMap<u64, SimLink>,
    /// The newest connection of each peer id.
    pub inbound: HashMap<u64, Inbound>,
    pub is_durable: bool,
    pub is_up: bool,
    pub is_forgotten: bool,
    pub skew_ms: i64,
    /// How far ahead its clock was at its worst.
    pub fastest_ms: u64,
}

/// The receiving end of a connection.
pub struct Inbound {
    pub connection: u64,
    pub heard_ms: u64,
    pub greeted_ms: u64,
    /// The latest exchange that arrived.
    pub exchange: u64,
}

pub struct SimLink {
    pub link: Link,
    pub queue: Queue,
    pub connection: Option<Connection>,
    pub retry_ms: u64,
    pub attempts: usize,
    pub peer: Option<u64>,
}

pub struct Connection {
    pub id: u64,
    pub address: String,
    pub target: usize,
    /// Requests under way, and when patience ends.
    pub under_way: Option<(Vec<PeerRequest>, u64)>,
    /// Exchanges begun; TCP delivers bytes once, so a second reply to one of them is none.
    pub exchange: u64,
}

#[derive(Clone)]
pub enum Message {
    Requests {
        from: usize,
        link: u64,
        connection: u64,
        exchange: u64,
        requests: Vec<PeerRequest>,
        hello: Option<Introduction>,
        sender_id: u64,
    },
    Replies {
        link: u64,
        connection: u64,
        exchange: u64,
        replies: Vec<PeerReply>,
    },
}

/// A write that a link says, or will say, its peer holds.
pub struct Ticket {
    pub node: usize,
    pub link: u64,
    pub key: &'static str,
    pub version: Version,
    pub sent: u64,
    pub overflows: Overflows,
}

pub struct Cluster {
    pub network: Network<Message>,
    pub fault: Fault,
    pub limits: Limits,
    pub nodes: Vec<SimNode>,
    /// Every node names all others as seeds, so that nobody's end leaves two strangers; otherwise
    /// one.
    pub names_all: bool,
    /// The latest acknowledged version of each key that is not excused, and whether it was a
    /// delete.
    pub expected: HashMap<&'static str, (Version, bool)>,
    /// The latest delete of each key, excused or not: it may have got away before its node lost it.
    pub deletes: HashMap<&'static str, Version>,
    pub tickets: Vec<Ticket>,
    /// MERGE requests sent since this was set to 0.
    pub merges: u64,
}

pub fn address(index: usize) -> String {
    format!("n{index}:1")
}

impl Cluster {
    pub fn new(seed: u64, fault: Fault) -> Self {
        let mut cluster = Cluster {
            network: Network::new(seed),
            fault,
            limits: limits(),
            nodes: Vec::new(),
            names_all: false,
            expected: HashMap::new(),
            deletes: HashMap::new(),
            tickets: Vec::new(),
            merges: 0,
        };
        cluster.names_all = cluster.network.random.one_in(2);
        let count = 2 + cluster.network.random.below(2) as usize;
        for index in 0..count {
            let is_durable = cluster.network.random.one_in(2);
            let skew_ms = match cluster.network.random.below(8) {
                0 => 100_000,
                1 => -20_000,
                _ => cluster.network.random.below(4_000) as i64 - 2_000,
            };
            let node = cluster.fresh(index, count, is_durable, skew_ms);
            cluster.nodes.push(node);
        }
        (0..count).for_each(|index| cluster.update_links(index));
        cluster
    }

    pub fn rounds(&self) -> Rounds {
        let clean = match self.fault {
            Fault::TombstoneDroppedAfterOneRound => 1,
            _ => CLEAN_ROUNDS,
        };
        Rounds::new(ROUND_MS, clean)
    }

    pub fn fresh(&mut self, index: usize, count: usize, is_durable: bool, skew_ms: i64) -> SimNode {
        let identity = Identity {
            node_id: self.network.id(),
            run_id: self.network.id(),
            cluster: "c".into(),
            is_durable,
            address: Ok(address(index)),
        };
        let seeds: Vec<String> = (0..count).filter(|other| *other != index).map(address).collect();
        SimNode {
            store: KeyValueStore::new(),
            clock: HybridClock::default(),
            members: Members::new(
                identity,
                self.named(&seeds),
                Dials::Everybody,
                &Stored::default(),
                10,
            ),
            rounds: self.rounds(),
            links: BTreeMap::new(),
            inbound: HashMap::new(),
            is_durable,
            is_up: true,
            is_forgotten: false,
            skew_ms,
            fastest_ms: skew_ms.max(0) as u64,
        }
    }

    pub fn named<'a>(&self, seeds: &'a [String]) -> &'a [String] {
        if self.names_all { seeds } else { &seeds[..1] }
    }

    pub fn wall_ms(&self, index: usize) -> u64 {
        (START_MS + self.network.now_ms).saturating_add_signed(self.nodes[index].skew_ms)
    }

    pub fn cutoff(&self, index: usize) -> u64 {
        tombstones::cutoff(self.wall_ms(index), GRACE)
    }

    pub fn update_links(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let contacts = node.members.contacts();
        node.links.retain(|number, _| contacts.contains_key(number));
        for number in contacts.keys() {
            node.links.entry(*number).or_insert_with(|| SimLink {
                link: Link::default(),
                queue: Queue::new(self.limits.queue_keys_max, 1_000),
                connection: None,
                retry_ms: 0,
                attempts: 0,
                peer: None,
            });
        }
    }

    pub fn deliver(&mut self, to: usize, message: Message) {
        if !self.nodes[to].is_up {
            return;
        }
        match message {
            Message::Requests { from, link, connection, exchange, requests, hello, sender_id } => {
                // Bytes that are on their way arrive even when the sender has given up, but TCP
                // keeps the order of a connection: never behind later ones, for however long it
                // stays open.
                let newest = self.nodes[to].inbound.get(&sender_id);
                let is_overtaken = newest.is_some_and(|newest| {
                    newest.connection == connection
                        && exchange < newest.exchange
                        && self.fault != Fault::OrderNotKept
                });
                if is_overtaken || !self.network.can_talk(from, to) {
                    return;
                }
                let replies = self.answer(to, sender_id, connection, &requests, hello);
                let newest = self.nodes[to].inbound.get_mut(&sender_id);
                if let Some(newest) = newest.filter(|newest| newest.connection == connection) {
                    newest.exchange = exchange;
                }
                self.network.send(from, Message::Replies { link, connection, exchange, replies });
            }
            Message::Replies { link, connection, exchange, replies } => {
                self.take_replies(to, link, (connection, exchange), replies);
            }
        }
    }

    /// The receiving side, as `server::peer` has it.
    pub fn answer(
        &mut self,
        to: usize,
        sender_id: u64,
        connection: u64,
        requests: &[PeerRequest],
        hello: Option<Introduction>,
    ) -> Vec<PeerReply> {
        if let Some(from) = hello {
            if let Err(error) = self.nodes[to].members.heard(&from) {
                return vec![PeerReply::Error(error.to_string())];
            }
            self.adopt(to, from.clock);
            self.update_links(to);
            // The last to arrive counts, also if it was under way for long: the others end.
            let newest = Inbound {
                connection,
                heard_ms: self.network.now_ms,
                greeted_ms: self.network.now_ms,
                exchange: 0,
            };
            let before = self.nodes[to].inbound.insert(from.node_id, newest);
            if before.is_some_and(|before| {
                before.connection == connection
                    && is_restless(Duration::from_millis(self.network.now_ms - before.greeted_ms))
            }) {
                self.nodes[to].links.values().for_each(|link| link.queue.nudge());
            }
            return vec![PeerReply::Introduction(self.introduction(to, true))];
        }
        let silence_max_ms = PEER_IDLE_TIMEOUT.as_millis() as u64;
        let known = self.nodes[to].inbound.get_mut(&sender_id);
        let is_newest = known.is_some_and(|newest| {
            let is_open = self.network.now_ms - newest.heard_ms < silence_max_ms;
            newest.heard_ms = if is_open { self.network.now_ms } else { 0 };
            newest.connection == connection && is_open
        });
        let is_let_in = is_newest || self.fault == Fault::OldConnectionsStayOpen;
        let (wall_ms, cutoff) = (self.wall_ms(to), self.cutoff(to));
        let mut replies = Vec::new();
        for request in requests {
            let node = &self.nodes[to];
            let view = View { store: &node.store, cutoff };
            replies.push(match request {
                _ if !is_let_in => PeerReply::Error("say PEER HELLO first".into()),
                PeerRequest::Hello(_) => PeerReply::Error("HELLO comes alone".into()),
                PeerRequest::ShardDigests => PeerReply::Bytes(view.shard_digests()),
                PeerRequest::BucketDigests(shard) => PeerReply::Bytes(view.bucket_digests(*shard)),
                PeerRequest::Versions(place) => {
                    PeerReply::Listed(versions::list(&view, place, PART_BYTES))
                }
                PeerRequest::Merge(records) => self.merge(to, records, wall_ms),
            });
        }
        replies
    }

    pub fn merge(&mut self, to: usize, records: &[u8], wall_ms: u64) -> PeerReply {
        let node = &mut self.nodes[to];
        let mut taken = records.to_vec();
        if self.fault == Fault::MergeKeepsTheOlder {
            taken.clear();
            let all = decode_all(records).map(|record| record.expect("our own bytes"));
            all.filter(|record| node.store.version(record.key).is_none())
                .for_each(|record: Record| record.encode(&mut taken));
        }
        for record in decode_all(records).flatten() {
            trace(|| {
                format!(
                    "{} node {to} gets {} {:?} delete={}",
                    self.network.now_ms,
                    record.key.escape_ascii(),
                    record.version,
                    record.value.is_none()
                )
            });
        }
        let done = receive::merge(&node.store, &node.clock, &taken, (wall_ms, SKEW_MAX), |_| 0)
            .expect("our own bytes");
        node.links.values().for_each(|link| link.queue.stir());
        if self.fault == Fault::ReceivedRecordForwarded {
            for record in decode_all(records).flatten() {
                for link in node.links.values() {
                    link.queue.offer(
                        Change { key: record.key.into(), at_ms: wall_ms },
                        shard_of(key_hash(record.key)),
                    );
                }
            }
        }
        PeerReply::Merged { merged: done.merged, refused: done.refused }
    }
}
