//! What a follower takes from its leader.

use super::messages::{AppendReply, AppendRequest, Appended};
use super::replica::Replica;
use crate::error::{Error, Result};

impl Replica {
    /// A leader sends entries. The result is not the answer: first the entries must be on the disk,
    /// then [`Replica::append_reply`] says it.
    pub fn handle_append(
        &mut self,
        from: u64,
        request: &AppendRequest,
        now_ms: u64,
    ) -> Result<Appended> {
        self.check_disk()?;
        if request.term < self.term {
            return Ok(Appended::OldTerm);
        }
        request.check()?;
        let is_led_by_another = self.leader.is_some_and(|leader| leader != from);
        if request.term == self.term && is_led_by_another {
            return Err(Error::refused("another node leads this term"));
        }
        if self.leader != Some(from) || request.term > self.term {
            self.follow(request.term, Some(from), now_ms);
        }
        self.hear(from, now_ms);
        self.confirmed = self.confirmed.max(request.confirmed);
        self.told_commit = self.told_commit.max(request.commit);
        self.counts.exchanges += 1;
        let outcome = self.take_entries(request)?;
        if let Appended::Matches(index) = outcome {
            // Rule 5: the smaller of the leader's and the last matched index, and it never falls.
            self.commit = self.commit.max(request.commit.min(index));
        }
        Ok(outcome)
    }

    /// Takes the entries into the log if they belong there. Rule 5: a late or repeated APPEND cuts
    /// nothing.
    fn take_entries(&mut self, request: &AppendRequest) -> Result<Appended> {
        let previous = request.previous;
        // What is committed is the same in both logs (leader completeness).
        let is_known = previous.index <= self.commit;
        if !is_known && self.log.term_at(previous.index) != Some(previous.term) {
            return Ok(Appended::Differs(self.where_to_look(previous.index)));
        }
        for entry in &request.entries {
            match self.log.term_at(entry.index) {
                Some(term) if term == entry.term => {}
                // Applied, and not in memory any more.
                None if entry.index <= self.commit => {}
                Some(_) if entry.index <= self.commit => {
                    return Err(Error::Corrupt("APPEND: contradicts a committed entry".into()));
                }
                Some(_) => {
                    self.cut(entry.index);
                    self.push(entry.clone());
                }
                None => self.push(entry.clone()),
            }
        }
        Ok(Appended::Matches(request.last_named()))
    }

    /// Where the logs may match, when they do not at `index`: behind the end of this log, or below
    /// the term that differs (5.3), but not below what is committed.
    fn where_to_look(&self, index: u64) -> u64 {
        let last = self.log.last().index;
        if index > last {
            return last + 1;
        }
        let differing = self.log.term_at(index);
        let mut first = index;
        while first > self.commit + 1 && self.log.term_at(first - 1) == differing {
            first -= 1;
        }
        first
    }

    /// The answer to an APPEND. Rule 2: `None` while the last entry that it names is not on the
    /// disk. If the term has changed meanwhile, the answer is that.
    pub fn append_reply(&self, request: &AppendRequest, outcome: Appended) -> Option<AppendReply> {
        let outcome = match outcome {
            _ if self.term != request.term => Appended::OldTerm,
            Appended::Matches(index) if self.durable < index => return None,
            outcome => outcome,
        };
        Some(AppendReply { term: self.term, round: request.round, outcome })
    }
}
