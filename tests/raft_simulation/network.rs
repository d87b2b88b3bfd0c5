//! The network, the clock and the dice.

use std::collections::{BTreeMap, BTreeSet};

use kvstore::consensus::messages::{
    AppendReply, AppendRequest, ForwardReply, VoteReply, VoteRequest,
};
use kvstore::peers::requests::PeerRequest;
use kvstore::random::Random;

use crate::reached::{Event, Reached};

/// What a message says.
#[derive(Clone, Debug)]
pub enum Body {
    Append(AppendRequest),
    Appended(AppendReply),
    Vote(VoteRequest),
    Voted(VoteReply),
    Forward(PeerRequest),
    Forwarded(ForwardReply),
    /// The connection of an exchange broke: to who asked.
    Broken,
    /// The connection of an exchange broke: to who was asked.
    Lost,
}

/// A message from one node to another, which are known by their ids.
#[derive(Clone, Debug)]
pub struct Message {
    pub from: u64,
    pub to: u64,
    /// The exchange that it belongs to.
    pub exchange: u64,
    pub body: Body,
}

/// How a network behaves: each once in so many messages.
struct Manner {
    delay_ms: u64,
    lost: u64,
    twice: u64,
    late: u64,
}

pub struct Network {
    pub random: Random,
    pub now_ms: u64,
    under_way: BTreeMap<(u64, u64), Message>,
    next_id: u64,
    /// From whom nothing reaches whom.
    pub cuts: BTreeSet<(u64, u64)>,
    manner: Manner,
    /// The longest step.
    step_ms: u64,
    pub reached: Reached,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let delay_ms = [5, 30, 200][random.below(3) as usize];
        let manner = Manner {
            delay_ms,
            lost: 20 + random.below(400),
            twice: 5 + random.below(100),
            late: 10 + random.below(200),
        };
        let step_ms = [20, 60, 150][random.below(3) as usize];
        Network {
            step_ms,
            random,
            now_ms: 0,
            under_way: BTreeMap::new(),
            next_id: 0,
            cuts: BTreeSet::new(),
            manner,
            reached: Reached::default(),
        }
    }

    /// A number that was not given out before.
    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
        let never = u64::MAX;
        self.manner = Manner { delay_ms: 20, lost: never, twice: never, late: never };
    }

    /// Sends a message, which may be lost, late, or arrive two times.
    pub fn send(&mut self, message: Message) {
        if self.cuts.contains(&(message.from, message.to)) {
            self.reached.add(Event::MessageCut);
            return;
        }
        if self.random.one_in(self.manner.lost) {
            self.reached.add(Event::MessageLost);
            if self.random.one_in(2) {
                self.break_exchange(&message);
            }
            return;
        }
        let is_request = matches!(message.body, Body::Append(_) | Body::Vote(_));
        if is_request && self.random.one_in(self.manner.twice) {
            self.reached.add(Event::MessageDelivered2Times);
            let delay_ms = self.random.below(5_000);
            self.arrive_in(delay_ms, message.clone());
        }
        let mut delay_ms = 1 + self.random.below(self.manner.delay_ms);
        if self.random.one_in(self.manner.late) {
            self.reached.add(Event::MessageLate);
            delay_ms += self.random.below(8_000);
        }
        self.arrive_in(delay_ms, message);
    }

    /// Both ends learn that the connection is gone.
    fn break_exchange(&mut self, message: &Message) {
        let Message { from, to, exchange, .. } = *message;
        let (asks, asked) = match message.body {
            Body::Append(_) | Body::Vote(_) | Body::Forward(_) => (from, to),
            _ => (to, from),
        };
        let broken = Message { from: asked, to: asks, exchange, body: Body::Broken };
        let lost = Message { from: asks, to: asked, exchange, body: Body::Lost };
        self.arrive_in(10, broken);
        self.arrive_in(10, lost);
    }

    /// A message that is neither lost nor late.
    pub fn arrive_in(&mut self, delay_ms: u64, message: Message) {
        let at = (self.now_ms + delay_ms, self.id());
        self.under_way.insert(at, message);
    }

    /// Time passes.
    pub fn pass(&mut self) {
        self.now_ms += 1 + self.random.below(self.step_ms);
    }

    /// The next message that has arrived by now.
    pub fn arrived(&mut self) -> Option<Message> {
        let entry = self.under_way.first_entry()?;
        (entry.key().0 <= self.now_ms).then(|| entry.remove())
    }
}
