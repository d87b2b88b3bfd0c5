//! What the core does for requests of clients at followers: the leader appends their writes and
//! answers their reads, and lets the follower know at once what it waits for. See
//! [`super::forward`] for the whole.
//!
//! Proposals on the wire, each that of one connection:
//!
//! ```text
//! proposal   len u32, requests
//! request    count u32, operations
//! operation  kind u8 (0 flush, 1 put, 2 delete), key_len u32, value_len u32, key, value
//! ```

use super::changing::MemberChange;
use super::leading::Progress;
use super::log::EntryId;
use super::messages::ForwardReply;
use super::proposing::{NotAppended, Operation, check_length, length_of};
use super::replica::{Replica, Role};
use super::tickets::EXCHANGE_BYTES;
use crate::config::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::peers::requests::PeerRequest;
use crate::store::record::u32_at;
use crate::store::version::Version;

const FLUSH: u8 = 0;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Requests of one connection, in order, which the leader appends together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal(Vec<u8>);

impl Proposal {
    /// Adds a request.
    pub fn push(&mut self, operations: &[Operation]) -> std::result::Result<(), NotAppended> {
        check_length(operations)?;
        self.0.extend_from_slice(&(operations.len() as u32).to_le_bytes());
        for operation in operations {
            let (kind, key, value): (u8, &[u8], &[u8]) = match *operation {
                Operation::Flush => (FLUSH, &[], &[]),
                Operation::Put { key, value } => (PUT, key, value),
                Operation::Delete { key } => (DELETE, key, &[]),
            };
            self.0.push(kind);
            self.0.extend_from_slice(&(key.len() as u32).to_le_bytes());
            self.0.extend_from_slice(&(value.len() as u32).to_le_bytes());
            self.0.extend_from_slice(key);
            self.0.extend_from_slice(value);
        }
        Ok(())
    }

    /// Whether a request travels in one exchange with those before it. A long one goes by itself:
    /// the leader takes no longer message.
    pub fn has_room(&self, operations: &[Operation]) -> bool {
        self.is_empty() || self.len() + length_of(operations).0 <= EXCHANGE_BYTES
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no request.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends it to the last word of a FORWARD.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.0);
    }
}

/// FORWARD, for the wire.
pub fn forward_request(wants_read: bool, proposals: Vec<u8>) -> PeerRequest {
    let numbers = vec![u64::from(wants_read)];
    PeerRequest::Agree { name: "FORWARD", numbers, body: Some(proposals) }
}

/// The requests of each proposal. Lengths are checked before they are used.
fn decode(mut bytes: &[u8]) -> Result<Vec<Vec<Vec<Operation<'_>>>>> {
    let mut proposals = Vec::new();
    while !bytes.is_empty() {
        let len = number(&mut bytes)?;
        let mut proposal = take(&mut bytes, len)?;
        let mut requests = Vec::new();
        if proposal.is_empty() {
            return Err(bad("a proposal that is empty"));
        }
        while !proposal.is_empty() {
            let operations: Result<Vec<_>> =
                (0..number(&mut proposal)?).map(|_| operation(&mut proposal)).collect();
            let operations = operations?;
            if operations.is_empty() {
                return Err(bad("a request that is empty"));
            }
            check_length(&operations).map_err(|_| bad("a request that is too long"))?;
            requests.push(operations);
        }
        proposals.push(requests);
    }
    Ok(proposals)
}

fn operation<'a>(bytes: &mut &'a [u8]) -> Result<Operation<'a>> {
    let kind = take(bytes, 1)?[0];
    let (key_len, value_len) = (number(bytes)?, number(bytes)?);
    // A record that is longer would be in the log, and no node could read it.
    if key_len > KEY_BYTES_MAX || value_len > VALUE_BYTES_MAX {
        return Err(bad("a key or value that is too long"));
    }
    let (key, value) = (take(bytes, key_len)?, take(bytes, value_len)?);
    match (kind, key, value) {
        (FLUSH, [], []) => Ok(Operation::Flush),
        (PUT, [_, ..], _) => Ok(Operation::Put { key, value }),
        (DELETE, [_, ..], []) => Ok(Operation::Delete { key }),
        _ => Err(bad("an operation that is none")),
    }
}

fn number(bytes: &mut &[u8]) -> Result<usize> {
    Ok(u32_at(take(bytes, 4)?, 0) as usize)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8]> {
    bytes.split_off(..len).ok_or_else(|| bad("cut short"))
}

fn bad(what: &str) -> Error {
    Error::Corrupt(format!("FORWARD: {what}"))
}

impl Replica {
    /// Appends the proposals of a node's clients, and notes what its reads must see. It never
    /// waits: what cannot be done now is missing in the answer.
    pub fn handle_forward(
        &mut self,
        from: u64,
        wants_read: bool,
        proposals: &[u8],
        stored: impl Fn(&[u8]) -> Option<Version>,
    ) -> Result<ForwardReply> {
        let proposals = decode(proposals)?;
        let mut reply = ForwardReply { term: self.term, ..ForwardReply::default() };
        if !proposals.is_empty() && self.may_append().is_ok() {
            for requests in &proposals {
                let mut count = 0;
                for operations in requests {
                    let proposed = self.append(operations, &stored);
                    let (first, last) = (proposed.entry.index, proposed.entry.index);
                    reply.entries = Some((reply.entries.map_or(first, |(first, _)| first), last));
                    count = proposed.existed.iter().filter(|existed| **existed).count();
                }
                reply.counts.push(count as u64);
            }
            self.seal();
        }
        if wants_read && let Some(round) = self.read_round() {
            reply.read = Some((round.number, self.commit));
            reply.matched = self.all_matched();
        }
        self.waits(from, reply.entries.unwrap_or_default().1, reply.read.unwrap_or_default().0);
        Ok(reply)
    }

    /// Appends the removal of a member, for a client of a node. The entry; `None`: not now. An
    /// error is for good.
    pub fn handle_remove(
        &mut self,
        from: u64,
        id: u64,
        now_ms: u64,
    ) -> std::result::Result<Option<EntryId>, String> {
        if !self.is_ready() || self.is_changing() {
            return Ok(None);
        }
        let index = self.change_members(&MemberChange::Remove(id), now_ms)?;
        self.waits(from, index, 0);
        Ok(Some(EntryId { index, term: self.term }))
    }

    /// A peer's clients wait for an entry to be committed and a round to be confirmed.
    fn waits(&mut self, peer: u64, index: u64, round: u64) {
        if let Role::Leader(leading) = &mut self.role
            && let Some(progress) = leading.peers.get_mut(&peer)
        {
            progress.wanted_commit = progress.wanted_commit.max(index);
            progress.wanted_round = progress.wanted_round.max(round);
        }
    }

    /// Whether a peer waits for something that has happened since the last APPEND that it has
    /// answered: a commit, or a confirmed round.
    pub(super) fn owes_news(&self, progress: &Progress) -> bool {
        progress.told_commit < progress.wanted_commit.min(self.commit)
            || progress.told_round < progress.wanted_round
                && progress.told_round < progress.wanted_round.min(self.confirmed_round())
    }

    /// Whether there is such a peer to which nothing is under way.
    pub(super) fn owes_anybody_news(&self) -> bool {
        let Role::Leader(leading) = &self.role else {
            return false;
        };
        leading.peers.values().any(|progress| !progress.is_in_flight && self.owes_news(progress))
    }

    /// Whether another node leads, and can be asked for this one.
    pub fn is_led(&self) -> bool {
        self.leader.is_some_and(|leader| leader != self.id)
            && self.disk_failure.is_none()
            && self.members().nodes.contains_key(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const PUT_A: Operation = Operation::Put { key: b"a", value: b"12" };

    fn encoded(requests: &[&[Operation]]) -> Vec<u8> {
        let (mut proposal, mut bytes) = (Proposal::default(), Vec::new());
        requests.iter().for_each(|operations| proposal.push(operations).expect("not too long"));
        proposal.encode(&mut bytes);
        bytes
    }

    /// A body with one operation that has these lengths.
    fn body(kind: u8, key_len: usize, value_len: usize) -> Vec<u8> {
        let mut bytes = ((13 + key_len + value_len) as u32).to_le_bytes().to_vec();
        bytes.extend([1, 0, 0, 0, kind]);
        bytes.extend((key_len as u32).to_le_bytes());
        bytes.extend((value_len as u32).to_le_bytes());
        bytes.resize(bytes.len() + key_len + value_len, b'x');
        bytes
    }

    #[test]
    fn the_bytes_of_a_proposal() {
        let bytes = encoded(&[&[PUT_A, Operation::Delete { key: b"bc" }], &[Operation::Flush]]);
        #[rustfmt::skip]
        let golden = [
            40, 0, 0, 0, // bytes
            2, 0, 0, 0, // operations of the first request
            1, 1, 0, 0, 0, 2, 0, 0, 0, b'a', b'1', b'2',
            2, 2, 0, 0, 0, 0, 0, 0, 0, b'b', b'c',
            1, 0, 0, 0, // of the second
            0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(bytes, golden);
        let decoded = decode(&bytes).expect("well-formed");
        let expected =
            r#"[[[Put { key: [97], value: [49, 50] }, Delete { key: [98, 99] }], [Flush]]]"#;
        assert_eq!(format!("{decoded:?}"), expected);
        assert!(decode(&[]).expect("a question only").is_empty());
    }

    /// Whatever arrives is an error, or requests that a client may make.
    fn check(bytes: &[u8]) -> bool {
        let Ok(proposals) = decode(bytes) else {
            return false;
        };
        let operations = proposals.iter().flatten().flatten();
        operations.for_each(|operation| match operation {
            Operation::Put { key, .. } | Operation::Delete { key } => assert!(!key.is_empty()),
            Operation::Flush => {}
        });
        assert!(proposals.iter().all(|requests| !requests.is_empty()));
        true
    }

    #[test]
    fn every_cut_and_every_flip_is_an_error_or_a_proposal() {
        let one = encoded(&[&[PUT_A, Operation::Delete { key: b"bc" }], &[Operation::Flush]]);
        let bytes = [one.as_slice(), &encoded(&[&[PUT_A]])].concat();
        let whole: Vec<usize> = (0..=bytes.len()).filter(|len| check(&bytes[..*len])).collect();
        assert_eq!(whole, [0, one.len(), bytes.len()], "only between proposals");
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            check(&flipped);
        }
        let mut random = Random(1);
        for _ in 0..20_000 {
            let mut spoiled = bytes.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(spoiled.len() as u64) as usize;
                spoiled[at] = [0, 1, 255, random.below(256) as u8][random.below(4) as usize];
            }
            check(&spoiled);
        }
    }

    #[test]
    fn what_no_client_may_ask_is_refused() {
        let accepted = [(PUT, 1, 0), (PUT, KEY_BYTES_MAX, VALUE_BYTES_MAX), (DELETE, 1, 0)];
        for (kind, key_len, value_len) in accepted {
            assert!(decode(&body(kind, key_len, value_len)).is_ok(), "{kind} {key_len}");
        }
        let refused = [
            (PUT, 0, 1),
            (PUT, KEY_BYTES_MAX + 1, 1),
            (PUT, 1, VALUE_BYTES_MAX + 1),
            (DELETE, 0, 0),
            (DELETE, 1, 1),
            (FLUSH, 1, 0),
            (3, 1, 1),
        ];
        for (kind, key_len, value_len) in refused {
            assert!(decode(&body(kind, key_len, value_len)).is_err(), "{kind} {key_len}");
        }
        assert!(decode(&[0, 0, 0, 0]).is_err(), "no request");
        assert!(decode(&[4, 0, 0, 0, 0, 0, 0, 0]).is_err(), "no operation");
        assert!(decode(&[4, 0, 0, 0, 255, 255, 255, 255]).is_err(), "more than there are");
    }

    #[test]
    fn a_long_request_goes_by_itself() {
        let long = vec![0; VALUE_BYTES_MAX];
        let long = [Operation::Put { key: b"a", value: &long }];
        let mut proposal = Proposal::default();
        assert!(proposal.has_room(&long), "nothing is before it");
        proposal.push(&[PUT_A]).expect("short");
        assert!(proposal.has_room(&[PUT_A]) && !proposal.has_room(&long));
    }
}
