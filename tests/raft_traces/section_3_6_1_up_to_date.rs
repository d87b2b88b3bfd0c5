//! Section 3.6.1 (5.4.1 of the paper): a vote goes only to a log that is at least as up to date:
//! first the terms of the last entries count, then their indexes. So a leader has every committed
//! entry.

use crate::cluster::Cluster;

/// Whether a node with one log votes for a node with the other.
fn votes(voter: &str, candidate: &str) -> bool {
    let mut cluster = Cluster::with_logs(&[candidate, voter, "1"]);
    cluster.time_out(1);
    cluster.vote(1, 2).is_granted
}

#[test]
fn the_log_that_is_more_up_to_date_wins() {
    for (voter, candidate, is_granted) in [
        ("1 1", "1 1", true),
        ("1 1", "1 1 1", true),
        ("1 1 1", "1 1", false),
        ("1 1 1 1", "1 2", true),
        ("1 2", "1 1 1 1", false),
        ("1 2 2", "1 1 2", true),
    ] {
        assert_eq!(votes(voter, candidate), is_granted, "{candidate} asks {voter}");
    }
}

#[test]
fn one_vote_in_each_term_also_after_a_restart() {
    let mut cluster = Cluster::of(3);
    cluster.time_out(1);
    cluster.time_out(2);
    cluster.vote(1, 3);
    cluster.vote(2, 3);
    // The trials are over, and both stand in term 2.
    assert!(cluster.vote(1, 3).is_granted);
    cluster.restart(3);
    assert!(!cluster.vote(2, 3).is_granted);
    assert!(cluster.leads(1) && !cluster.leads(2));
}

#[test]
fn a_vote_counts_once_however_often_it_arrives() {
    let mut cluster = Cluster::of(5);
    cluster.time_out(1);
    let request = cluster.node(1).vote_request(2).unwrap();
    let reply = cluster.ask_vote(1, 2, &request);
    for _ in 0..3 {
        let now_ms = cluster.now_ms;
        cluster.node(1).take_vote(2, &request, &reply, now_ms);
    }
    assert_eq!(cluster.node(1).term(), 1, "still the trial: two of five");
}

#[test]
fn an_entry_that_is_being_built_counts_for_the_log_of_a_leader_that_is_asked() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1, &[2]);
    cluster.replicate(1, &[2, 3]);
    // Node 3 wins the trial while the leader is away.
    cluster.time_out(3);
    cluster.vote(3, 2);
    cluster.propose(1, "x");
    let reply = cluster.vote(3, 1);
    assert!(!reply.is_granted, "its log is longer now");
    assert_eq!(cluster.log(1), "1 2 2");
}
