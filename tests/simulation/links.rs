//! The sending side of the nodes: links, and the replies they get.

use kvstore::peers::introduction::Introduction;
use kvstore::peers::requests::{PeerReply, PeerRequest};
use kvstore::peers::view::View;
use kvstore::replication::link::LinkStep;
use kvstore::replication::members::Verdict;
use kvstore::replication::receive;
use kvstore::store::digest::{key_hash, shard_of};
use kvstore::store::version::COUNTER_BITS;

use crate::checks::trace;
use crate::nodes::{Cluster, Connection, Fault, KEYS, Message, SKEW_MAX, address};

impl Cluster {
    pub fn drive(&mut self, index: usize, number: u64) {
        let (now_ms, cutoff) = (self.network.now_ms, self.cutoff(index));
        let node = &mut self.nodes[index];
        let holders = node.members.holders();
        let is_apart = node
            .links
            .iter()
            .any(|(other, sim)| holders.contains_key(other) && !sim.link.is_introduced());
        let Some(sim) = node.links.get_mut(&number) else {
            return;
        };
        sim.queue.set_apart(is_apart);
        let Some(connection) = &mut sim.connection else {
            return self.connect(index, number);
        };
        if let Some((_, patience_ms)) = connection.under_way {
            if now_ms >= patience_ms {
                self.break_link(index, number);
            }
            return;
        }
        let view = View { store: &node.store, cutoff };
        match sim.link.next(now_ms, &sim.queue, view, &self.limits) {
            LinkStep::Wait { .. } => {}
            LinkStep::Compared { began_ms, revived } => {
                let holders = node.members.holders();
                node.rounds.compared(number, (began_ms, now_ms), &revived, &holders, &node.store);
                node.rounds.begin(now_ms, view);
            }
            LinkStep::Greet => {
                let hello = PeerRequest::Hello(self.introduction(index, false));
                self.send_requests(index, number, vec![hello]);
            }
            LinkStep::Send(requests) => self.send_requests(index, number, requests),
        }
    }

    fn send_requests(&mut self, index: usize, number: u64, requests: Vec<PeerRequest>) {
        let now_ms = self.network.now_ms;
        let sim = self.nodes[index].links.get_mut(&number);
        let Some(connection) = sim.and_then(|sim| sim.connection.as_mut()) else {
            return;
        };
        let target = connection.target;
        let id = connection.id;
        connection.under_way = Some((requests.clone(), now_ms + 5_000));
        connection.exchange += 1;
        let exchange = connection.exchange;
        let is_merge = matches!(requests[..], [PeerRequest::Merge(_)]);
        self.merges += u64::from(is_merge);
        let hello = match &requests[0] {
            PeerRequest::Hello(introduction) => Some(introduction.clone()),
            _ => None,
        };
        let sender_id = self.nodes[index].members.identity().node_id;
        let copies = match self.network.random.below(40) {
            0 if !self.network.is_healthy => 0,
            1 if is_merge => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let message = Message::Requests {
                from: index,
                link: number,
                connection: id,
                exchange,
                requests: requests.clone(),
                hello: hello.clone(),
                sender_id,
            };
            self.network.send(target, message);
        }
    }

    pub fn connect(&mut self, index: usize, number: u64) {
        let now_ms = self.network.now_ms;
        let id = self.network.id();
        let retry_ms = now_ms + 100 + self.network.random.below(1_900);
        let node = &self.nodes[index];
        let Some(contact) = node.members.contacts().get(&number) else {
            return;
        };
        let sim = &node.links[&number];
        if now_ms < sim.retry_ms {
            return;
        }
        let address_tried = contact.addresses[sim.attempts % contact.addresses.len()].clone();
        let target = (0..self.nodes.len()).find(|other| address(*other) == address_tried);
        let target = target
            .filter(|other| self.nodes[*other].is_up && self.network.can_connect(index, *other));
        let Some(sim) = self.nodes[index].links.get_mut(&number) else {
            return;
        };
        sim.retry_ms = retry_ms;
        sim.attempts += 1;
        if let Some(target) = target {
            sim.link.connected();
            sim.connection = Some(Connection {
                id,
                address: address_tried,
                target,
                under_way: None,
                exchange: 0,
            });
        } else {
            sim.link.peek(&sim.queue);
        }
    }

    pub fn break_link(&mut self, index: usize, number: u64) {
        if let Some(sim) = self.nodes[index].links.get_mut(&number) {
            sim.connection = None;
            sim.link.broken();
        }
    }

    pub fn introduction(&self, index: usize, is_answer: bool) -> Introduction {
        let node = &self.nodes[index];
        let identity = node.members.identity();
        let clock = node.clock.latest().max(self.wall_ms(index) << COUNTER_BITS);
        Introduction {
            cluster: identity.cluster.clone(),
            node_id: identity.node_id,
            run_id: identity.run_id,
            is_durable: identity.is_durable,
            clock,
            address: address(index),
            members: if is_answer { node.members.members() } else { Vec::new() },
            bans: if is_answer { node.members.bans() } else { Vec::new() },
        }
    }

    pub fn adopt(&mut self, index: usize, clock: u64) {
        if receive::is_plausible(clock, self.wall_ms(index), SKEW_MAX) {
            self.nodes[index].clock.observe(clock);
        }
    }

    pub fn take_replies(
        &mut self,
        index: usize,
        number: u64,
        of: (u64, u64),
        mut replies: Vec<PeerReply>,
    ) {
        let cutoff = self.cutoff(index);
        let node = &mut self.nodes[index];
        let Some(sim) = node.links.get_mut(&number) else {
            return;
        };
        let Some(current) = &mut sim.connection else {
            return;
        };
        if (current.id, current.exchange) != of {
            return;
        }
        let Some((requests, _)) = current.under_way.take() else {
            return;
        };
        let at = current.address.clone();
        let view = View { store: &node.store, cutoff };
        if requests[0] == PeerRequest::ShardDigests {
            if self.fault == Fault::MarkClearedAfterTheDigestIsAsked {
                let _ = sim.queue.take_marks();
            }
            if self.fault == Fault::OneShardNeverSynced {
                let (PeerReply::Bytes(bytes), shard) = (&mut replies[0], shard_of(key_hash(b"a")))
                else {
                    return;
                };
                let ours = &view.shard_digests()[shard * 8..shard * 8 + 8];
                bytes[shard * 8..shard * 8 + 8].copy_from_slice(ours);
            }
        }
        match sim.link.take(&requests, replies, view) {
            Err(_) => self.break_link(index, number),
            Ok(None) => {}
            Ok(Some(by)) => match node.members.answered(number, &at, &by) {
                Verdict::Member => {
                    if sim.peer.replace(by.node_id).is_some_and(|before| before != by.node_id) {
                        self.tickets.retain(|ticket| (ticket.node, ticket.link) != (index, number));
                    }
                    self.adopt(index, by.clock);
                    self.update_links(index);
                }
                Verdict::Refused(_) => self.break_link(index, number),
                Verdict::Gone => self.update_links(index),
            },
        }
    }

    /// As the thread `tombstones` does it.
    pub fn forget_tombstones(&mut self, index: usize) {
        let cutoff = self.cutoff(index);
        let node = &mut self.nodes[index];
        let before = KEYS.map(|key| node.store.version(key.as_bytes()));
        let holders = node.members.holders();
        let Some(due) = node.rounds.due(&holders, View { store: &node.store, cutoff }) else {
            return;
        };
        due.forget(&node.store);
        node.rounds.forgotten();
        for (key, before) in KEYS.iter().zip(before) {
            if before == node.store.version(key.as_bytes()) {
                continue;
            }
            trace(|| {
                format!(
                    "{} node {index} drops {key} {before:?}, holders {holders:?}",
                    self.network.now_ms
                )
            });
            // Whom it never met it cannot ask, so this delete promises nothing to them.
            let is_latest = self.expected.get(key).map(|(version, _)| *version) == before;
            if holders.is_empty() && is_latest {
                self.expected.remove(key);
            }
        }
    }
}
