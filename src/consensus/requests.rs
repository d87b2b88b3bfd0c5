//! What clients ask: writes become entries, reads wait for a round, and a batch is settled once.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::trace;

use super::leading::ReadRound;
use super::log::EntryId;
use super::messages::{AppendRequest, VoteRequest};
use super::proposing::{NotAppended, Operation, Proposed};
use super::replica::Replica;
use super::shared::Shared;
use super::status::Fate;
use super::{Consensus, Greeted};
use crate::error::{Code, Error, Result};

/// What a connection did that is not settled yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unsettled {
    /// The first and the last entry with its writes.
    writes: Option<Writes>,
    /// The term in which it read: a majority must confirm that this node led then.
    read_in: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Writes {
    first: EntryId,
    last: EntryId,
}

impl Unsettled {
    /// Whether there is a write that is not settled.
    pub fn has_writes(&self) -> bool {
        self.writes.is_some()
    }
}

impl Consensus {
    /// Evaluates and appends the operations of one request: whether each key had a value before.
    pub fn write(&self, operations: &[Operation], unsettled: &mut Unsettled) -> Result<Vec<bool>> {
        let shared = &self.shared;
        let deadline = shared.admit("not stored")?;
        let stored = |key: &[u8]| shared.store.version(key);
        let appended = |replica: &mut Replica| match replica.propose(operations, stored) {
            Err(NotAppended::Full) => None,
            other => Some(other),
        };
        let first_try = shared.with(|replica, _| appended(replica));
        let result = first_try.or_else(|| shared.wait(deadline, appended));
        let Proposed { entry, existed } = match result {
            Some(Ok(proposed)) => proposed,
            Some(Err(NotAppended::TooLong)) => {
                return Err(Error::refused(
                    "the request changes more than one entry of the log may hold: 64 MiB, or a \
                     million keys (not stored)",
                ));
            }
            Some(Err(_)) => return Err(shared.no_leader("not stored")),
            None => {
                return Err(Error::refused_as(
                    Code::ClusterDown,
                    "too many changes wait for a majority (not stored)",
                ));
            }
        };
        trace!("evaluated and appended to entry {} of term {}", entry.index, entry.term);
        let first = unsettled.writes.map_or(entry, |writes| writes.first);
        unsettled.writes = Some(Writes { first, last: entry });
        Ok(existed)
    }

    /// Admits a read: from now on the store may be looked at. What it shows is released by
    /// [`Consensus::settle`], which asks a majority whether this node led at this time.
    ///
    /// With `is_own`, what this node has is enough, though it may be old (`READONLY`). The leader
    /// reads as always.
    pub fn read(&self, is_own: bool, unsettled: &mut Unsettled) -> Result<()> {
        let mut term = self.shared.ready_term.load(Ordering::SeqCst);
        if term == 0 && is_own {
            return self.shared.check_member();
        }
        if term == 0 {
            self.shared.admit("")?;
            term = self.shared.ready_term.load(Ordering::SeqCst);
        }
        match unsettled.read_in {
            Some(before) if before != term => Err(self.shared.no_leader("")),
            _ if term == 0 => Err(self.shared.no_leader("")),
            _ => {
                unsettled.read_in = Some(term);
                Ok(())
            }
        }
    }

    /// Reads a key behind a write of the same batch: the changes that are not applied yet are
    /// looked at first.
    pub fn read_newest<R>(&self, key: &[u8], read: impl FnOnce(Option<&[u8]>) -> R) -> R {
        let store = &self.shared.store;
        self.shared.with(|replica, _| match replica.pending_value(key) {
            Some(value) => read(value),
            None => store.get(key, read).0,
        })
    }

    /// Returns when the replies of a batch may leave: its writes are committed and applied, and a
    /// majority has confirmed that this node led when it read.
    pub fn settle(&self, unsettled: &mut Unsettled) -> Result<()> {
        let Unsettled { writes, read_in } = std::mem::take(unsettled);
        if writes.is_none() && read_in.is_none() {
            return Ok(());
        }
        let (shared, deadline) =
            (&self.shared, Instant::now() + self.shared.options.request_timeout);
        let round = shared.with(|replica, _| {
            if writes.is_some() {
                replica.seal();
            }
            let round = read_in.and_then(|_| replica.read_round());
            round.filter(|round| Some(round.term) == read_in)
        });
        let must_wait = round
            .is_some_and(|round| shared.with(|replica, _| replica.is_confirmed(round)).is_none());
        if writes.is_some() || must_wait {
            shared.wake_links();
        }
        if let Some(Writes { first, last }) = writes {
            // A failure makes this node step down; others may still commit the entry.
            let _ = shared.save();
            trace!("entry {} is on this node's disk; waiting for a majority", last.index);
            shared.wait_for(first, last, deadline)?;
            trace!("entry {} is committed and applied", last.index);
        }
        match (read_in, round) {
            (None, _) => Ok(()),
            (Some(_), Some(round)) if self.is_confirmed(round, deadline) => Ok(()),
            (Some(_), _) if writes.is_some() => Err(shared.outcome_unknown()),
            (Some(_), _) => Err(shared.no_leader("")),
        }
    }

    fn is_confirmed(&self, round: ReadRound, deadline: Instant) -> bool {
        let confirmed = self.shared.wait(deadline, |replica| replica.is_confirmed(round));
        confirmed == Some(true)
    }

    /// The last entry of this node's log.
    pub fn last(&self) -> u64 {
        self.shared.with(|replica, _| replica.last_begun())
    }

    /// How many other members have the log up to an index on disk.
    pub fn holders(&self, index: u64) -> usize {
        self.shared.with(|replica, _| replica.holders(index))
    }

    /// Waits until so many other members have the log up to an index, or for `timeout`.
    pub fn wait_for_holders(&self, index: u64, count: usize, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        self.shared.wait(deadline, |replica| (replica.holders(index) >= count).then_some(()));
    }

    /// The end of a gentle stop: waits until one voter has everything that this node leads to, at
    /// most for `timeout`. The members that lack it, if there is none.
    pub fn drain(&self, timeout: Duration) -> Vec<String> {
        let shared = &self.shared;
        let last = shared.with(|replica, _| {
            replica.seal();
            replica.last_begun()
        });
        shared.wake_links();
        let _ = shared.save();
        let is_over = |replica: &mut Replica| {
            let is_needed = replica.is_ready() && replica.members().voters().count() > 1;
            (!is_needed || replica.voters_with(last) > 0).then_some(())
        };
        if shared.wait(Instant::now() + timeout, is_over).is_some() {
            return Vec::new();
        }
        self.peers().into_iter().map(|peer| peer.address).collect()
    }

    /// `PEER APPEND`.
    pub fn append(&self, from: &Greeted, numbers: [u64; 5], entries: &[u8]) -> Result<[u64; 4]> {
        from.check_current()?;
        let request = AppendRequest::decode(numbers, entries)?;
        let (shared, id) = (&self.shared, from.id());
        let outcome = shared.with(|replica, now_ms| {
            replica.begin_handling();
            replica.handle_append(id, &request, now_ms)
        });
        let saved = shared.save_term().and_then(|()| shared.save());
        shared.with(|replica, now_ms| replica.end_handling(id, now_ms));
        let outcome = outcome?;
        saved?;
        if !request.entries.is_empty() {
            trace!("entries up to {} of the leader are on the disk", request.last_named());
        }
        let reply = shared.with(|replica, _| replica.append_reply(&request, outcome));
        let reply = reply.ok_or_else(|| Error::refused("the log was cut meanwhile"))?;
        Ok(reply.numbers())
    }

    /// `PEER VOTE`.
    pub fn vote(&self, from: &Greeted, numbers: [u64; 4]) -> Result<[u64; 2]> {
        from.check_current()?;
        let request = VoteRequest::decode(numbers);
        let id = from.id();
        let reply =
            self.shared.with(|replica, now_ms| replica.handle_vote(id, &request, now_ms))?;
        self.shared.save_term()?;
        Ok(reply.numbers())
    }
}

impl Shared {
    /// Waits until this node may serve: it leads, and everything up to the entry that began its
    /// term is applied. The result is how long the request may go on. A node that has had no leader
    /// for longer than a request may take refuses at once.
    pub(super) fn admit(&self, outcome: &str) -> Result<Instant> {
        let (now, timeout) = (Instant::now(), self.options.request_timeout);
        if self.ready_term.load(Ordering::SeqCst) != 0 {
            return Ok(now + timeout);
        }
        let (gone_ms, now_ms) =
            self.with(|replica, now_ms| (replica.leaderless_since_ms(), now_ms));
        // A cluster that is being founded has a leader in a moment.
        let until_ms = gone_ms.max(now_ms) + timeout.as_millis() as u64;
        let is_long_gone = now_ms > gone_ms + timeout.as_millis() as u64;
        let deadline = now + Duration::from_millis(until_ms - now_ms);
        let (own, patience) = (self.id(), if is_long_gone { now } else { deadline });
        let is_over = |replica: &mut Replica| {
            let leads_elsewhere = replica.leader().is_some_and(|leader| leader != own);
            (replica.is_ready() || leads_elsewhere).then(|| replica.is_ready())
        };
        match self.wait(patience, is_over) {
            Some(true) => Ok(deadline),
            _ => Err(self.no_leader(outcome)),
        }
    }

    /// Waits until the entries of a batch have happened, or certainly have not.
    pub(super) fn wait_for(&self, first: EntryId, last: EntryId, deadline: Instant) -> Result<()> {
        let fate =
            |replica: &mut Replica| Some(replica.fate(last)).filter(|fate| *fate != Fate::Open);
        match self.wait(deadline, fate) {
            Some(Fate::Happened) => Ok(()),
            // One that was in the log before it may have happened.
            Some(Fate::NeverHappened)
                if self.with(|replica, _| replica.fate(first)) == Fate::NeverHappened =>
            {
                Err(self.no_leader("not stored"))
            }
            _ => Err(self.outcome_unknown()),
        }
    }

    /// Brings an entry of this node to a majority.
    pub(super) fn settle(&self, entry: EntryId, deadline: Instant) -> Result<()> {
        self.wake_links();
        let _ = self.save();
        self.wait_for(entry, entry, deadline)
    }

    fn outcome_unknown(&self) -> Error {
        self.counters.outcomes_unknown.fetch_add(1, Ordering::Relaxed);
        Error::refused_as(
            Code::OutcomeUnknown,
            "outcome unknown: no majority confirmed it in time; read before you write again",
        )
    }
}
