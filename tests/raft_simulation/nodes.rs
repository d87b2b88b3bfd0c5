//! A node: a machine with a disk that takes its time, and what it has to do with others.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvstore::consensus::entry::Entry;
use kvstore::consensus::messages::{AppendRequest, Appended, VoteReply, VoteRequest};
use kvstore::consensus::tickets::{Forwarding, Ticket};

use crate::machine::Machine;

/// Mistakes that the checks must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// A vote leaves before the disk has it.
    VoteNotSynced,
    /// An entry counts as safe as soon as it is written.
    AcknowledgedBeforeSync,
    /// A follower answers with the end of its log, and the leader believes it.
    AnswerNamesTheEndOfTheLog,
    /// A leader commits an entry of an older term because a majority has it.
    OlderTermCounted,
    /// A leader answers a read without a round of messages.
    ReadWithoutRound,
    /// The answer to an older round confirms a read.
    ReadWithOlderRound,
    /// A vote that arrives two times counts two times.
    VoteCountedTwice,
    /// A follower cuts its log behind what an APPEND names.
    LateAppendCuts,
    /// One entry changes two members.
    TwoMembersChanged,
    /// A node comes back without its data under its old id.
    WipedNodeKeepsItsId,
    /// A leader evaluates against a store that lacks what is committed.
    EvaluatesBeforeApplied,
    /// A delete of nothing is answered without waiting for an entry.
    NoEffectAnsweredAtOnce,
    /// A leader reads although its store lacks what it has committed.
    LeaderReadsBeforeApplied,
    /// A follower reads without asking the leader.
    FollowerReadsAtOnce,
    /// A follower reads although the round that the leader named is not confirmed.
    RoundNotAwaited,
    /// A round that was confirmed in one term counts in another.
    RoundKeptAcrossTerms,
    /// A write whose answer was lost is sent again.
    TicketSentAgain,
    /// A write that a link took is said not to be stored.
    TakenTicketNotStored,
}

/// One exchange at a time to each peer.
#[derive(Debug, Default)]
pub struct Link {
    pub exchange: Option<Exchange>,
    /// When the next may begin.
    pub idle_until_ms: u64,
}

#[derive(Debug)]
pub struct Exchange {
    pub id: u64,
    pub request: Request,
    pub deadline_ms: u64,
}

#[derive(Debug)]
pub enum Request {
    Append(AppendRequest),
    Vote(VoteRequest),
    Forward(Vec<Ticket>),
}

/// An APPEND whose answer waits for the disk.
#[derive(Debug)]
pub struct Waiting {
    pub from: u64,
    pub exchange: u64,
    pub request: AppendRequest,
    pub outcome: Appended,
}

/// The answer to a VOTE that waits for the disk.
#[derive(Debug)]
pub struct WaitingVote {
    pub from: u64,
    pub exchange: u64,
    pub reply: VoteReply,
    /// The disk must have everything up to here.
    pub position: u64,
}

/// A node, also while it is down.
#[derive(Debug)]
pub struct Node {
    pub id: u64,
    pub machine: Machine,
    pub is_up: bool,
    /// It never comes back: it was wiped, or removed and switched off.
    pub is_gone: bool,
    /// Grows with each start.
    pub run: u64,
    pub paused_until_ms: u64,
    /// Its process is killed then.
    pub killed_ms: Option<u64>,
    /// It starts then.
    pub starts_ms: Option<u64>,
    pub links: BTreeMap<u64, Link>,
    /// What its clients ask of the leader.
    pub forwarding: Forwarding,
    pub waiting: Vec<Waiting>,
    pub waiting_votes: Vec<WaitingVote>,
    /// What is being synced, and when that is done.
    pub sync: Option<(u64, u64)>,
    /// The longest time that a sync takes.
    pub sync_ms: u64,
    /// The next sync fails.
    pub disk_fails: bool,
    /// The disk has failed, and heals then.
    pub heals_ms: Option<u64>,
    /// Its commit index at the last look.
    pub seen_commit: u64,
    /// Entries that count as applied although the store lacks them: a fault.
    pub not_merged: Vec<Arc<Entry>>,
    /// The newest round of any term that counted as confirmed: a fault.
    pub confirmed: u64,
    /// What others answered that they have in a term: a fault.
    pub counted: BTreeMap<u64, (u64, u64)>,
}

impl Node {
    pub fn new(id: u64, machine: Machine) -> Self {
        Node {
            id,
            seen_commit: machine.replica.commit_index(),
            machine,
            is_up: true,
            is_gone: false,
            run: 0,
            paused_until_ms: 0,
            killed_ms: None,
            starts_ms: None,
            links: BTreeMap::new(),
            forwarding: Forwarding::default(),
            waiting: Vec::new(),
            waiting_votes: Vec::new(),
            sync: None,
            sync_ms: 10,
            disk_fails: false,
            heals_ms: None,
            not_merged: Vec::new(),
            confirmed: 0,
            counted: BTreeMap::new(),
        }
    }

    /// It begins again with what its disk has.
    pub fn restart(&mut self, seed: u64, now_ms: u64) {
        let disk = self.machine.disk.clone();
        let fresh = Node::new(self.id, Machine::start(self.id, disk, seed, now_ms));
        *self = Node { run: self.run + 1, sync_ms: self.sync_ms, ..fresh };
    }

    /// Whether it does anything now.
    pub fn runs(&self, now_ms: u64) -> bool {
        self.is_up && now_ms >= self.paused_until_ms
    }
}
