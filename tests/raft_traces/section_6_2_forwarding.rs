//! Sections 6.2 and 6.4: clients may ask any node. A follower hands their writes to the leader, and
//! asks it up to which entry a read must see.

use kvstore::consensus::forwarded::Proposal;
use kvstore::consensus::log::EntryId;
use kvstore::consensus::proposing::Operation;
use kvstore::consensus::status::Fate;

use crate::cluster::Cluster;

/// A write of one key, as a follower sends it.
fn write(key: &str) -> Vec<u8> {
    let (mut proposal, mut bytes) = (Proposal::default(), Vec::new());
    proposal.push(&[Operation::Put { key: key.as_bytes(), value: b"value" }]).unwrap();
    proposal.encode(&mut bytes);
    bytes
}

#[test]
fn a_forwarded_write_has_happened_when_the_follower_has_applied_its_entry() {
    let mut cluster = Cluster::led();
    // Node 2 forwards: the leader appends, and answers at once.
    let reply = cluster.forward(2, 1, false, &write("x"));
    assert_eq!((reply.entries, reply.counts), (Some((3, 3)), vec![0]), "x had no value before");
    let entry = EntryId { index: 3, term: reply.term };
    cluster.append(1, 2);
    assert_eq!(cluster.node(2).fate(entry), Fate::Open, "node 2 has it, and does not know more");
    assert_eq!(cluster.commit(1), 2, "the leader's own disk is not done");
    cluster.settle(1);
    // It is committed now. The next APPEND says so, and leaves at once.
    cluster.append_at_once(1, 2);
    assert_eq!(cluster.node(2).fate(entry), Fate::Happened);
    assert!(cluster.machine(2).store.get(b"x").is_some());
}

#[test]
fn a_forwarded_write_that_a_new_leader_lacks_never_happens() {
    let mut cluster = Cluster::led();
    let reply = cluster.forward(2, 1, false, &write("x"));
    let entry = EntryId { index: 3, term: reply.term };
    // Nobody gets it from node 1, and the others elect node 3.
    cluster.elect(3, &[2]);
    cluster.append(3, 2);
    assert_eq!(cluster.node(2).fate(entry), Fate::Open, "another entry is there, not committed");
    cluster.replicate(3, &[2]);
    assert_eq!(cluster.node(2).fate(entry), Fate::NeverHappened);
}

#[test]
fn a_read_at_a_follower_waits_for_the_round_and_for_the_entry_that_the_leader_names() {
    let mut cluster = Cluster::led();
    cluster.put(1, "x");
    cluster.settle(1);
    cluster.append(1, 3);
    assert_eq!((cluster.commit(1), cluster.commit(2)), (3, 2), "node 2 has not heard of it");
    // Node 2 is asked for x, and asks the leader.
    let reply = cluster.forward(2, 1, true, &[]);
    let (round, index) = (cluster.round(&reply), reply.read.unwrap().1);
    assert_eq!(index, 3, "what the leader has committed");
    // The entry is there before the round is confirmed: that is not enough.
    let request = cluster.send(1, 2);
    let answer = cluster.receive(1, 2, &request);
    assert!(cluster.machine(2).store.get(b"x").is_some());
    assert_eq!(cluster.node(2).is_confirmed(round), None, "node 1 may be deposed already");
    // With node 2's own answer a majority has confirmed it. The next APPEND says so at once.
    cluster.answer(1, 2, &request, &answer);
    cluster.append_at_once(1, 2);
    assert_eq!(cluster.node(2).is_confirmed(round), Some(true));
}

#[test]
fn a_deposed_leader_names_an_old_entry_and_its_round_is_never_confirmed() {
    let mut cluster = Cluster::led();
    // Nodes 2 and 3 go on without node 1, which does not know yet.
    cluster.elect(2, &[3]);
    cluster.replicate(2, &[3]);
    cluster.put(2, "x");
    cluster.replicate(2, &[3]);
    let reply = cluster.forward(3, 1, true, &[]);
    let (round, index) = (cluster.round(&reply), reply.read.unwrap().1);
    assert_eq!((index, cluster.commit(2)), (2, 4), "it would show what was there before");
    // The rounds of another term do not count, however many there were.
    (0..3).for_each(|_| assert!(cluster.node(2).read_round().is_some()));
    cluster.replicate(2, &[3]);
    assert_eq!(cluster.node(3).is_confirmed(round), Some(false), "node 3 asks again");
}

#[test]
fn a_node_that_does_not_lead_appends_nothing_and_says_so() {
    let mut cluster = Cluster::led();
    let reply = cluster.forward(2, 3, true, &write("x"));
    assert_eq!((reply.entries, reply.read), (None, None), "node 2 may ask another");
}
