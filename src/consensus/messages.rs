//! What replicas say to each other: `PEER APPEND`, `PEER VOTE` and `PEER FORWARD`.
//!
//! | request | reply |
//! |---|---|
//! | `PEER APPEND term previous_index previous_term commit round confirmed entries` | `[term, round, outcome, index]` |
//! | `PEER VOTE term is_trial last_index last_term` | `[term, is_granted]` |
//! | `PEER FORWARD wants_read proposals` | `[term, first, last, round, commit, n, n × matched, counts…]` |
//! | `PEER REMOVE id` | as to a FORWARD with one proposal |
//!
//! Entries stand one behind the other, as [`super::entry`] writes them, and proposals as
//! [`super::forwarded`] does. Numbers are decimal.

use std::sync::Arc;

use super::entry::Entry;
use super::log::EntryId;
use crate::error::{Error, Result};
use crate::peers::requests::{PeerReply, PeerRequest};

/// APPEND (section 3.5 of the dissertation): entries of the leader, or a sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendRequest {
    /// Of the leader.
    pub term: u64,
    /// The entry before the first of `entries`.
    pub previous: EntryId,
    /// The leader's commit index.
    pub commit: u64,
    /// The newest read round; the answer confirms this one and no other.
    pub round: u64,
    /// The newest read round that a majority has confirmed.
    pub confirmed: u64,
    /// In order.
    pub entries: Vec<Arc<Entry>>,
}

/// The answer to APPEND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendReply {
    /// Of who answers.
    pub term: u64,
    /// As in the request.
    pub round: u64,
    /// What became of the entries.
    pub outcome: Appended,
}

/// What became of the entries of an APPEND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The log is that of the leader up to this index, the last that the request names, and is on
    /// the disk so far.
    Matches(u64),
    /// The entry before the first is not there, or is another; the logs may match below this
    /// index.
    Differs(u64),
    /// The request is of an older term.
    OldTerm,
}

/// VOTE (sections 3.4 and 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteRequest {
    /// The term in which the candidate stands, or would stand.
    pub term: u64,
    /// Only asks whether a vote would be given: nothing changes.
    pub is_trial: bool,
    /// The last entry of the candidate.
    pub last: EntryId,
}

/// The answer to VOTE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReply {
    /// Of who answers.
    pub term: u64,
    /// Whether the vote is given.
    pub is_granted: bool,
}

/// The answer to FORWARD, which never waits. What is missing was not done, and may be asked again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardReply {
    /// Of who answers.
    pub term: u64,
    /// The indexes of the first and the last entry with the proposals: all were appended, or none.
    pub entries: Option<(u64, u64)>,
    /// The round that must be confirmed for a read, and the index that it must see.
    pub read: Option<(u64, u64)>,
    /// With `read`: what each other member is known to have on its disk, in no order.
    pub matched: Vec<u64>,
    /// For each proposal, how many keys of its last request had a value before.
    pub counts: Vec<u64>,
}

impl AppendRequest {
    /// Whether the entries follow each other, and none is of a later term than the leader's.
    pub fn check(&self) -> Result<()> {
        let mut last = self.previous;
        for entry in &self.entries {
            if last.index.checked_add(1) != Some(entry.index) || entry.term < last.term {
                return Err(Error::Corrupt("APPEND: entries that do not follow each other".into()));
            }
            last = EntryId { index: entry.index, term: entry.term };
        }
        if last.term > self.term {
            return Err(Error::Corrupt(
                "APPEND: an entry of a later term than the leader's".into(),
            ));
        }
        Ok(())
    }

    /// The index of the last entry that the request names.
    pub fn last_named(&self) -> u64 {
        self.previous.index + self.entries.len() as u64
    }
}

impl AppendRequest {
    /// For the wire.
    pub fn encode(&self) -> PeerRequest {
        let mut entries = Vec::new();
        self.entries.iter().for_each(|entry| entry.encode(&mut entries));
        let EntryId { index, term } = self.previous;
        let numbers = vec![self.term, index, term, self.commit, self.round, self.confirmed];
        PeerRequest::Agree { name: "APPEND", numbers, body: Some(entries) }
    }

    /// From the wire.
    pub fn decode(numbers: [u64; 6], entries: &[u8]) -> Result<Self> {
        let [term, index, previous_term, commit, round, confirmed] = numbers;
        let previous = EntryId { index, term: previous_term };
        let entries = Entry::decode_all(entries)?;
        Ok(AppendRequest { term, previous, commit, round, confirmed, entries })
    }
}

impl AppendReply {
    /// For the wire: term, round, 0 or 1 or 2 for the outcome, and its index.
    pub fn numbers(&self) -> [u64; 4] {
        let (outcome, index) = match self.outcome {
            Appended::OldTerm => (0, 0),
            Appended::Matches(index) => (1, index),
            Appended::Differs(index) => (2, index),
        };
        [self.term, self.round, outcome, index]
    }

    /// From the wire.
    pub fn decode(reply: PeerReply) -> Result<Self> {
        let [term, round, outcome, index] = numbers_of(reply)?;
        let outcome = match outcome {
            0 => Appended::OldTerm,
            1 => Appended::Matches(index),
            2 => Appended::Differs(index),
            _ => return Err(Error::Corrupt("an APPEND was answered with nonsense".into())),
        };
        Ok(AppendReply { term, round, outcome })
    }
}

impl VoteRequest {
    /// For the wire.
    pub fn encode(&self) -> PeerRequest {
        let EntryId { index, term } = self.last;
        let numbers = vec![self.term, u64::from(self.is_trial), index, term];
        PeerRequest::Agree { name: "VOTE", numbers, body: None }
    }

    /// From the wire.
    pub fn decode([term, is_trial, index, last_term]: [u64; 4]) -> Self {
        let last = EntryId { index, term: last_term };
        VoteRequest { term, is_trial: is_trial != 0, last }
    }
}

impl VoteReply {
    /// For the wire.
    pub fn numbers(&self) -> [u64; 2] {
        [self.term, u64::from(self.is_granted)]
    }

    /// From the wire.
    pub fn decode(reply: PeerReply) -> Result<Self> {
        let [term, is_granted] = numbers_of(reply)?;
        Ok(VoteReply { term, is_granted: is_granted == 1 })
    }
}

impl ForwardReply {
    /// For the wire: no entry and no round has the number 0.
    pub fn numbers(&self) -> Vec<u64> {
        let (first, last) = self.entries.unwrap_or_default();
        let (round, commit) = self.read.unwrap_or_default();
        let mut numbers = vec![self.term, first, last, round, commit, self.matched.len() as u64];
        numbers.extend(&self.matched);
        numbers.extend(&self.counts);
        numbers
    }

    /// From the wire.
    pub fn decode(reply: PeerReply) -> Result<Self> {
        let numbers = all_numbers_of(reply)?;
        let nonsense = || Error::Corrupt("a FORWARD was answered with nonsense".into());
        let (fixed, rest) = numbers.split_first_chunk::<6>().ok_or_else(nonsense)?;
        let [term, first, last, round, commit, count] = *fixed;
        let (matched, counts) = rest.split_at_checked(count as usize).ok_or_else(nonsense)?;
        Ok(ForwardReply {
            term,
            entries: (first > 0).then_some((first, last)),
            read: (round > 0).then_some((round, commit)),
            matched: matched.to_vec(),
            counts: counts.to_vec(),
        })
    }
}

/// The numbers of a reply. An error is the peer's reason to refuse.
fn numbers_of<const N: usize>(reply: PeerReply) -> Result<[u64; N]> {
    let numbers = all_numbers_of(reply)?;
    numbers.try_into().map_err(|_| Error::Corrupt("a reply with another count of numbers".into()))
}

fn all_numbers_of(reply: PeerReply) -> Result<Vec<u64>> {
    match reply {
        PeerReply::Error(reason) => Err(Error::refused(reason)),
        PeerReply::Numbers(numbers) => Ok(numbers),
        _ => Err(Error::Corrupt("a reply of another kind".into())),
    }
}
