//! What other nodes ask: APPEND, VOTE, and what clients ask there.

use log::trace;

use super::messages::{AppendRequest, ForwardReply, VoteRequest};
use super::{Consensus, Greeted};
use crate::error::{Error, Result};

impl Consensus {
    /// `PEER APPEND`.
    pub fn append(&self, from: &Greeted, numbers: [u64; 6], entries: &[u8]) -> Result<[u64; 4]> {
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

    /// `PEER REMOVE`: a client at a follower has a member removed.
    pub fn remove(&self, from: &Greeted, id: u64) -> Result<Vec<u64>> {
        let shared = &self.shared;
        let (removed, term) = from.while_current(|| {
            Ok(shared.with(|replica, now_ms| {
                (replica.handle_remove(from.id(), id, now_ms), replica.term())
            }))
        })?;
        let entries = removed.map_err(Error::refused)?.map(|entry| (entry.index, entry.index));
        shared.save_term()?;
        shared.log_waker.wake();
        shared.wake_links();
        let counts = vec![0; usize::from(entries.is_some())];
        Ok(ForwardReply { term, entries, counts, ..ForwardReply::default() }.numbers())
    }

    /// `PEER FORWARD`: what clients ask at a follower. `takes_writes`: this node does not stop.
    pub fn forwarded(
        &self,
        from: &Greeted,
        wants_read: bool,
        proposals: &[u8],
        takes_writes: bool,
    ) -> Result<Vec<u64>> {
        let (shared, id) = (&self.shared, from.id());
        let proposals = if takes_writes { proposals } else { &[] };
        let stored = |key: &[u8]| shared.store.version(key);
        // A write whose outcome is unknown does not happen behind a later one of its connection.
        let reply = from.while_current(|| {
            shared.with(|replica, _| replica.handle_forward(id, wants_read, proposals, stored))
        })?;
        shared.save_term()?;
        if reply.entries.is_some() {
            // Nobody here waits for the disk.
            shared.log_waker.wake();
        }
        shared.wake_links();
        Ok(reply.numbers())
    }
}
