//! What clients ask: writes become entries, reads wait for a round, and a batch is settled once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use log::trace;

use super::Consensus;
use super::forwarded::Proposal;
use super::leading::ReadRound;
use super::log::EntryId;
use super::proposing::{NotAppended, Operation, Proposed};
use super::replica::Replica;
use super::shared::Shared;
use super::status::Fate;
use super::tickets::{Answer, Ask};
use super::waiters::Until;
use crate::error::{Code, Error, Refusal, Result};

/// Pause between two questions of `WAIT` at a follower.
const HOLDERS_PAUSE: Duration = Duration::from_millis(10);

/// What a connection did that is not settled yet.
#[derive(Debug, Default)]
pub struct Unsettled {
    /// Writes that are not appended yet, because this node does not lead.
    unsent: Proposal,
    /// The first and the last entry with its writes, for each leader that appended some.
    writes: Vec<Writes>,
    /// The term in which it read as leader: a majority must confirm that this node led then.
    read_in: Option<u64>,
    /// Whether this follower has all that was committed when the batch began.
    has_caught_up: bool,
    /// Why no request of the batch can be answered any more.
    failure: Option<Refusal>,
    /// Why no read of the batch can be answered any more.
    read_failure: Option<Refusal>,
}

#[derive(Clone, Copy, Debug)]
struct Writes {
    first: EntryId,
    last: EntryId,
}

impl Unsettled {
    /// Whether there is a write that is not settled.
    pub fn has_writes(&self) -> bool {
        !self.writes.is_empty() || !self.unsent.is_empty()
    }

    /// Notes entries with its writes. A later leader may lack those of the one before, so each
    /// leader's are settled by themselves.
    fn wrote(&mut self, first: EntryId, last: EntryId) {
        match self.writes.last_mut() {
            Some(writes) if writes.last.term == last.term => writes.last = last,
            _ => self.writes.push(Writes { first, last }),
        }
    }

    /// An error that a request before this one had, of which its own replies depend.
    fn check(&self) -> Result<()> {
        self.failure.clone().map_or(Ok(()), |refusal| Err(Error::Refused(refusal)))
    }
}

impl Consensus {
    /// Evaluates and appends the operations of one request: how many keys had a value before.
    /// Without `wants_count`, a follower may send the request later.
    pub fn write(
        &self,
        operations: &[Operation],
        wants_count: bool,
        unsettled: &mut Unsettled,
    ) -> Result<u64> {
        unsettled.check()?;
        let deadline = self.shared.admit("not stored")?;
        if self.shared.leads()
            && unsettled.unsent.is_empty()
            && let Some(Proposed { entry, existed }) = self.append_here(operations, deadline)?
        {
            trace!("evaluated and appended to entry {} of term {}", entry.index, entry.term);
            unsettled.wrote(entry, entry);
            return Ok(existed.iter().filter(|existed| **existed).count() as u64);
        }
        if !unsettled.unsent.has_room(operations) {
            self.send(unsettled, deadline)?;
        }
        unsettled.unsent.push(operations).map_err(|_| too_long())?;
        if wants_count { self.send(unsettled, deadline) } else { Ok(0) }
    }

    /// Appends a request if this node leads; `None`: it does not.
    fn append_here(&self, operations: &[Operation], deadline: Instant) -> Result<Option<Proposed>> {
        let shared = &self.shared;
        let stored = |key: &[u8]| shared.store.version(key);
        let appended = |replica: &mut Replica| match replica.propose(operations, stored) {
            Err(NotAppended::Full) => None,
            other => Some(other),
        };
        let first_try = shared.with(|replica, _| appended(replica));
        match first_try.or_else(|| shared.wait(deadline, Until::Changed, appended)) {
            Some(Ok(proposed)) => Ok(Some(proposed)),
            Some(Err(NotAppended::TooLong)) => Err(too_long()),
            Some(Err(_)) => Ok(None),
            None => Err(Error::refused_as(
                Code::ClusterDown,
                "too many changes wait for a majority (not stored)",
            )),
        }
    }

    /// Has the leader append what was written at this follower. How many keys of the last request
    /// had a value.
    fn send(&self, unsettled: &mut Unsettled, deadline: Instant) -> Result<u64> {
        let proposal = std::mem::take(&mut unsettled.unsent);
        if proposal.is_empty() {
            return Ok(0);
        }
        self.shared.counters.writes_forwarded.fetch_add(1, Ordering::Relaxed);
        let error = match self.shared.submit(&Ask::Write(Arc::new(proposal)), deadline) {
            Answer::Appended { first, last, count } => {
                trace!("entries {} to {} of term {}", first.index, last.index, last.term);
                unsettled.wrote(first, last);
                return Ok(count);
            }
            // Something of the batch may have happened.
            Answer::NotSent if unsettled.writes.is_empty() => self.shared.no_leader("not stored"),
            _ => self.shared.outcome_unknown(),
        };
        // The replies of the requests before this one depend on it.
        unsettled.failure = Some(error.refusal());
        Err(error)
    }

    /// Admits a read: from now on the store may be looked at. What a leader shows is released by
    /// [`Consensus::settle`], which asks a majority whether this node led at this time. A follower
    /// waits here until it has what the leader has committed; one question is for a whole batch,
    /// all requests of which were there before it.
    ///
    /// With `is_own`, what this node has is enough, though it may be old (`READONLY`). The leader
    /// reads as always.
    pub fn read(&self, is_own: bool, unsettled: &mut Unsettled) -> Result<()> {
        unsettled.check()?;
        let shared = &self.shared;
        if !unsettled.unsent.is_empty() {
            self.send(unsettled, shared.deadline())?;
        }
        loop {
            let term = shared.ready_term.load(Ordering::SeqCst);
            match unsettled.read_in {
                _ if term == 0 => {}
                Some(before) if before != term => return Err(shared.no_leader("")),
                Some(_) => return Ok(()),
                None => {
                    unsettled.read_in = Some(term);
                    shared.apply_committed();
                    return Ok(());
                }
            }
            self.settle_writes(unsettled, shared.deadline())?;
            if is_own {
                return shared.check_member();
            }
            if self.catch_up(unsettled)? {
                return Ok(());
            }
        }
    }

    /// Waits until a follower has what was committed before; `false` if it leads meanwhile.
    fn catch_up(&self, unsettled: &mut Unsettled) -> Result<bool> {
        if let Some(refusal) = &unsettled.read_failure {
            return Err(Error::Refused(refusal.clone()));
        }
        if unsettled.has_caught_up {
            return Ok(true);
        }
        self.shared.counters.reads_forwarded.fetch_add(1, Ordering::Relaxed);
        let deadline = self.shared.admit("");
        let result = deadline.and_then(|deadline| {
            unsettled.has_caught_up = self.shared.catch_up(deadline);
            let goes_on = unsettled.has_caught_up || self.shared.leads();
            if goes_on { Ok(unsettled.has_caught_up) } else { Err(self.shared.no_leader("")) }
        });
        unsettled.read_failure = result.as_ref().err().map(Error::refusal);
        result
    }

    /// Reads a key behind a write of the same batch: the changes that are not applied yet are
    /// looked at first. They may be another client's, in an entry behind the batch's own: the reply
    /// waits for that one, too.
    pub fn read_newest<R>(
        &self,
        key: &[u8],
        unsettled: &mut Unsettled,
        read: impl FnOnce(Option<&[u8]>) -> R,
    ) -> R {
        let store = &self.shared.store;
        self.shared.with(|replica, _| match replica.pending_value(key) {
            Some(value) => {
                let newest = EntryId { index: replica.last_begun(), term: replica.term() };
                unsettled.wrote(newest, newest);
                read(value)
            }
            None => store.get(key, read).0,
        })
    }

    /// Returns when the replies of a batch may leave: its writes are committed and applied, and a
    /// majority has confirmed that this node led when it read. After an error no reply of the batch
    /// may leave, and none can follow.
    pub fn settle(&self, unsettled: &mut Unsettled) -> Result<()> {
        if !unsettled.has_writes() && unsettled.read_in.is_none() && unsettled.failure.is_none() {
            return Ok(());
        }
        let result = self.settle_all(unsettled);
        let failure = result.as_ref().err().map(Error::refusal);
        *unsettled = Unsettled { failure, ..Unsettled::default() };
        result
    }

    fn settle_all(&self, unsettled: &mut Unsettled) -> Result<()> {
        unsettled.check()?;
        let (shared, deadline) = (&self.shared, self.shared.deadline());
        self.send(unsettled, deadline)?;
        let (has_written, read_in) = (!unsettled.writes.is_empty(), unsettled.read_in);
        let round = read_in.and_then(|term| {
            let round = shared.with(|replica, _| replica.read_round());
            round.filter(|round| round.term == term)
        });
        self.settle_writes(unsettled, deadline)?;
        match (read_in, round) {
            (None, _) => Ok(()),
            (Some(_), Some(round)) if shared.is_confirmed(round, deadline) => Ok(()),
            (Some(_), _) if has_written => Err(shared.outcome_unknown()),
            (Some(_), _) => Err(shared.no_leader("")),
        }
    }

    /// Returns when the writes of a batch are committed and applied here.
    fn settle_writes(&self, unsettled: &mut Unsettled, deadline: Instant) -> Result<()> {
        let shared = &self.shared;
        if unsettled.writes.is_empty() {
            return Ok(());
        }
        shared.bring_to_majority();
        let results = unsettled.writes.iter().map(|Writes { first, last }| {
            trace!("waiting for a majority to have entry {}", last.index);
            shared.wait_for(*first, *last, deadline)
        });
        let results: Vec<Result<()>> = results.collect();
        let (count, failed) = (results.len(), results.into_iter().filter_map(Result::err));
        let failed: Vec<Error> = failed.collect();
        let Some(error) = failed.last() else {
            unsettled.writes.clear();
            return Ok(());
        };
        let is_certain = failed.len() == count
            && failed.iter().all(|error| error.refusal().code == Code::ClusterDown);
        let error = if is_certain { error.refusal() } else { shared.outcome_unknown().refusal() };
        unsettled.failure = Some(error.clone());
        Err(Error::Refused(error))
    }

    /// An entry that is not before any write that was acknowledged here.
    pub fn last(&self) -> u64 {
        self.shared.with(|replica, _| replica.last_begun().max(replica.commit_index()))
    }

    /// How many members besides the leader have the log up to an index on disk.
    pub fn holders(&self, index: u64) -> usize {
        self.shared.holders(index)
    }

    /// Waits until so many members besides the leader have the log up to an index, or for
    /// `timeout`. A follower asks again and again.
    pub fn wait_for_holders(&self, index: u64, count: usize, timeout: Duration) {
        let (shared, deadline) = (&self.shared, Instant::now() + timeout);
        if shared.leads() {
            let is_over = |replica: &mut Replica| (replica.holders(index) >= count).then_some(());
            shared.wait(deadline, Until::Changed, is_over);
            return;
        }
        while Instant::now() + HOLDERS_PAUSE < deadline && shared.holders(index) < count {
            thread::sleep(HOLDERS_PAUSE);
        }
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
        if shared.wait(Instant::now() + timeout, Until::Changed, is_over).is_some() {
            return Vec::new();
        }
        self.peers().into_iter().map(|peer| peer.address).collect()
    }
}

fn too_long() -> Error {
    Error::refused(
        "the request changes more than one entry of the log may hold: 64 MiB, or a million keys \
         (not stored)",
    )
}

impl Shared {
    /// When a request that begins now is over.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.options.request_timeout
    }

    /// Waits until this node may serve: it leads, and everything up to the entry that began its
    /// term is applied; or another node leads. The result is how long the request may go on. A node
    /// that has had no leader for longer than a request may take refuses at once.
    pub(super) fn admit(&self, outcome: &str) -> Result<Instant> {
        let (now, timeout) = (Instant::now(), self.options.request_timeout);
        if self.leads() {
            return Ok(now + timeout);
        }
        let (gone_ms, now_ms, is_led) =
            self.with(|replica, now_ms| (replica.leaderless_since_ms(), now_ms, replica.is_led()));
        let is_retired = self.is_retired.load(Ordering::SeqCst);
        if is_led && !is_retired {
            return Ok(now + timeout);
        }
        // A cluster that is being founded has a leader in a moment.
        let until_ms = gone_ms.max(now_ms) + timeout.as_millis() as u64;
        let is_long_gone = is_retired || now_ms > gone_ms + timeout.as_millis() as u64;
        let deadline = now + Duration::from_millis(until_ms - now_ms);
        let patience = if is_long_gone { now } else { deadline };
        let serves = |replica: &mut Replica| replica.is_ready() || replica.is_led();
        match self.wait(patience, Until::Changed, |replica| serves(replica).then_some(())) {
            Some(()) if !is_retired => Ok(deadline),
            _ => Err(self.no_leader(outcome)),
        }
    }

    /// Waits until the entries of a batch have happened, or certainly have not.
    pub(super) fn wait_for(&self, first: EntryId, last: EntryId, deadline: Instant) -> Result<()> {
        let fate =
            |replica: &mut Replica| Some(replica.fate(last)).filter(|fate| *fate != Fate::Open);
        match self.wait(deadline, Until::Applied(last.index), fate) {
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

    /// Waits until a majority has confirmed a read round; whether it has.
    fn is_confirmed(&self, round: ReadRound, deadline: Instant) -> bool {
        let is_over = |replica: &mut Replica| replica.is_confirmed(round);
        let confirmed = self.with(|replica, _| is_over(replica)).or_else(|| {
            self.wake_links();
            self.wait(deadline, Until::Confirmed(round.number), is_over)
        });
        confirmed == Some(true)
    }

    /// Sends what this node has appended as leader, and writes it to the disk at the same time.
    pub(super) fn bring_to_majority(&self) {
        if self.leads() {
            self.wake_links();
            // A failure makes this node step down; others may still commit the entry.
            self.log_waker.wake();
        }
    }

    pub(super) fn outcome_unknown(&self) -> Error {
        self.counters.outcomes_unknown.fetch_add(1, Ordering::Relaxed);
        Error::refused_as(
            Code::OutcomeUnknown,
            "outcome unknown: no majority confirmed it in time; read before you write again",
        )
    }
}
