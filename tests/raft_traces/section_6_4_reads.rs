//! Section 6.4: a leader answers a read only after a majority has confirmed, in messages that were
//! sent after the read began, that it still led.

use kvstore::consensus::proposing::{NotAppended, Operation};

use crate::cluster::Cluster;

#[test]
fn a_new_leader_answers_no_read_before_it_has_committed_an_entry_of_its_term() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1, &[2]);
    assert!(cluster.node(1).read_round().is_none());
    // Nor does it evaluate writes: it may not know yet what its predecessor has committed.
    let write = [Operation::Delete { key: b"x" }];
    let refused = cluster.node(1).propose(&write, |_| None);
    assert_eq!(refused.unwrap_err(), NotAppended::NotReady);
    cluster.replicate(1, &[2]);
    assert!(cluster.node(1).read_round().is_some());
}

#[test]
fn an_answer_confirms_only_the_round_that_it_carries() {
    let mut cluster = Cluster::led();
    let early = cluster.send(1, 2);
    // The read begins while an older request is on its way: its answer proves nothing.
    let round = cluster.node(1).read_round().unwrap();
    let reply = cluster.receive(1, 2, &early);
    cluster.answer(1, 2, &early, &reply);
    assert_eq!(cluster.node(1).is_confirmed(round), None);
    cluster.append(1, 2);
    assert_eq!(cluster.node(1).is_confirmed(round), Some(true));
}

#[test]
fn one_round_serves_all_who_ask_before_it_leaves() {
    let mut cluster = Cluster::led();
    let rounds = [(); 3].map(|()| cluster.node(1).read_round().unwrap());
    assert!(rounds.iter().all(|round| *round == rounds[0]));
    cluster.send(1, 2);
    assert_ne!(cluster.node(1).read_round().unwrap(), rounds[0]);
}

#[test]
fn a_leader_that_was_replaced_answers_nothing() {
    let mut cluster = Cluster::led();
    let round = cluster.node(1).read_round().unwrap();
    // Nodes 2 and 3 elect another, which takes a write.
    cluster.elect(2, &[3]);
    cluster.replicate(2, &[3]);
    cluster.put(2, "x");
    cluster.replicate(2, &[3]);
    assert!(cluster.leads(1), "it does not know yet");
    assert_eq!(cluster.node(1).is_confirmed(round), None);
    cluster.append(1, 3);
    assert_eq!(cluster.node(1).is_confirmed(round), Some(false), "never any more");
}

#[test]
fn a_round_of_an_older_term_is_never_confirmed() {
    let mut cluster = Cluster::led();
    let round = cluster.node(1).read_round().unwrap();
    cluster.elect(2, &[3]);
    cluster.append(2, 1);
    cluster.elect(1, &[2, 3]);
    cluster.replicate(1, &[2, 3]);
    assert_eq!(cluster.node(1).is_confirmed(round), Some(false));
}
