//! What a batch of a leader's client has seen is committed before its replies leave.

use std::sync::Arc;

use super::super::messages::{AppendReply, Appended, VoteReply};
use super::super::proposing::Operation;
use super::super::{Consensus, Unsettled};
use super::*;

/// Node 1 leads, and node 3 has everything of its log.
fn leader() -> Consensus {
    let follower = Follower::open(&ModelDisk::default(), FsyncPolicy::Always);
    let shared = Arc::new(follower.expect("a new directory").shared);
    shared.with(|replica, _| {
        let request = append_of(1, EntryId::default(), 1, vec![first_entry(1)]);
        replica.handle_append(2, &request, 0).expect("taken");
        replica.tick(60_000);
        for _ in 0..2 {
            let request = replica.vote_request(3).expect("it stands");
            let reply = VoteReply { term: replica.term(), is_granted: true };
            replica.take_vote(3, &request, &reply, 60_000);
        }
    });
    let consensus = Consensus { shared };
    acknowledge(&consensus, usize::MAX);
    consensus
}

/// Node 3 answers an APPEND with no more than so many entries.
fn acknowledge(consensus: &Consensus, entries: usize) {
    consensus.shared.save().expect("the disk is well");
    consensus.shared.with(|replica, _| {
        let mut request = replica.append_request(3, 90_000).expect("one at a time");
        request.entries.truncate(entries);
        let (term, round) = (request.term, request.round);
        let outcome = Appended::Matches(request.last_named());
        replica.take_append(3, &request, &AppendReply { term, round, outcome }, 90_000);
    });
}

#[test]
fn what_another_client_wrote_is_not_shown_before_it_is_committed() {
    let consensus = leader();
    let write = |key: &[u8], unsettled: &mut Unsettled| {
        consensus
            .write(&[Operation::Put { key, value: b"1" }], false, unsettled)
            .expect("it leads");
        consensus.shared.with(|replica, _| replica.seal());
    };
    let (mut one, mut other) = (Unsettled::default(), Unsettled::default());
    write(b"own", &mut one);
    write(b"others", &mut other);
    consensus.read(false, &mut one).expect("it leads");
    let seen = consensus.read_newest(b"others", &mut one, |value| value.map(<[u8]>::to_vec));
    assert_eq!(seen.as_deref(), Some(&b"1"[..]));
    // The entry with its own write is committed, and the round is confirmed. The entry with what it
    // has read is not.
    std::thread::scope(|scope| {
        scope.spawn(|| acknowledge(&consensus, 1));
        assert!(consensus.settle(&mut one).is_err(), "it may never happen");
    });
}
