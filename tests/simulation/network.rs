//! The network, the clock and the dice: they know nothing of what the nodes say to each other.
//!
//! One promise of TCP is kept by the receiver, who knows connections: on one connection nothing
//! arrives behind what was sent later.

use std::collections::{BTreeMap, BTreeSet};

use kvstore::random::Random;

use crate::reached::{Event, Reached};

/// Messages `M` on their way between nodes, which are known by their indexes.
pub struct Network<M> {
    pub random: Random,
    pub now_ms: u64,
    /// By time of arrival: the receiver and the message.
    pub under_way: BTreeMap<(u64, u64), (usize, M)>,
    next_id: u64,
    /// Pairs of nodes, the smaller index first, between which nothing passes.
    pub cuts: BTreeSet<(usize, usize)>,
    /// Who cannot connect to whom, though the other may: NAT, a firewall, a wrong `--advertise`.
    pub one_way: BTreeSet<(usize, usize)>,
    /// Nothing is lost or late any more.
    pub is_healthy: bool,
    pub reached: Reached,
}

impl<M> Network<M> {
    pub fn new(seed: u64) -> Self {
        Network {
            random: Random(seed),
            now_ms: 0,
            under_way: BTreeMap::new(),
            next_id: 1,
            cuts: BTreeSet::new(),
            one_way: BTreeSet::new(),
            is_healthy: false,
            reached: Reached::default(),
        }
    }

    /// A number that was not given out before.
    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn can_talk(&self, one: usize, other: usize) -> bool {
        !self.cuts.contains(&(one.min(other), one.max(other)))
    }

    pub fn can_connect(&self, from: usize, to: usize) -> bool {
        self.can_talk(from, to) && !self.one_way.contains(&(from, to))
    }

    pub fn cut(&mut self, one: usize, other: usize) {
        self.reached.add(Event::Cut);
        self.cuts.insert((one.min(other), one.max(other)));
    }

    /// How often a message is to be sent: network and sender may repeat what `may_repeat`.
    pub fn copies(&mut self, may_repeat: bool) -> usize {
        match self.random.below(40) {
            0 if !self.is_healthy => {
                self.reached.add(Event::MessageLost);
                0
            }
            1 if may_repeat => {
                self.reached.add(Event::MessageDelivered2Times);
                2
            }
            _ => 1,
        }
    }

    pub fn block(&mut self, from: usize, to: usize) {
        self.reached.add(Event::OneWay);
        self.one_way.insert((from, to));
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
        self.one_way.clear();
        self.is_healthy = true;
    }

    pub fn delay(&mut self) -> u64 {
        match self.random.below(20) {
            _ if self.is_healthy => 5 + self.random.below(40),
            // Longer than patience: it arrives when its connection is long gone.
            0 => {
                let longest_ms = if self.random.one_in(2) { 20_000 } else { 400_000 };
                self.reached.add(Event::MessageLate);
                4_000 + self.random.below(longest_ms)
            }
            _ => 5 + self.random.below(500),
        }
    }

    pub fn send(&mut self, to: usize, message: M) {
        let at = (self.now_ms + self.delay(), self.id());
        self.under_way.insert(at, (to, message));
    }

    /// Sends what arrives behind all that it `follows`.
    pub fn send_behind(&mut self, to: usize, message: M, follows: impl Fn(&M) -> bool) {
        let mut before = self.under_way.iter().rev();
        let last = before.find(|(_, (other, before))| *other == to && follows(before));
        let last_ms = last.map_or(0, |((at_ms, _), _)| *at_ms);
        let at = (last_ms.max(self.now_ms + self.delay()), self.id());
        self.under_way.insert(at, (to, message));
    }

    /// The first of the messages on their way that is meant, with its place and its receiver.
    pub fn find(&self, is_meant: impl Fn(&M) -> bool) -> Option<((u64, u64), (usize, M))>
    where
        M: Clone,
    {
        let mut under_way = self.under_way.iter();
        let found = under_way.find(|(_, (_, message))| is_meant(message));
        found.map(|(at, sent)| (*at, sent.clone()))
    }

    /// The next message that has arrived by now, and its receiver.
    pub fn arrived(&mut self) -> Option<(usize, M)> {
        let entry = self.under_way.first_entry()?;
        (entry.key().0 <= self.now_ms).then(|| entry.remove())
    }
}
