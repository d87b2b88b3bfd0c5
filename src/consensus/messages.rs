//! What replicas say to each other, as values. `peers::requests` has their bytes.

use std::sync::Arc;

use super::entry::Entry;
use super::log::EntryId;
use crate::error::{Error, Result};

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
