//! Section 3.5: an APPEND names the entry before its own. A follower takes it only if it has that
//! one, and cuts its log only where it really differs.

use kvstore::consensus::messages::Appended;

use crate::cluster::{Cluster, entry};

#[test]
fn a_late_append_cuts_nothing() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1, &[2]);
    let late = cluster.send(1, 2);
    let reply = cluster.receive(1, 2, &late);
    cluster.answer(1, 2, &late, &reply);
    cluster.put(1, "x");
    cluster.append(1, 2);
    assert_eq!(cluster.log(2), "1 2 2");
    // The network delivers the first one again. It names less than the log has.
    let reply = cluster.receive(1, 2, &late);
    assert_eq!(cluster.log(2), "1 2 2", "nothing is cut");
    assert_eq!(reply.outcome, Appended::Matches(2), "what the request names, not what the log has");
}

#[test]
fn a_conflicting_tail_is_cut() {
    let mut cluster = Cluster::with_logs(&["1 1 3", "1 1 2 2 2"]);
    let mut request = cluster.heartbeat(4, 1, 1);
    request.entries = vec![entry(2, 1), entry(3, 3)];
    cluster.receive(1, 2, &request);
    assert_eq!(cluster.log(2), "1 1 3");
}

#[test]
fn the_commit_index_is_that_of_the_entries_known_to_match() {
    let mut cluster = Cluster::with_logs(&["1 1 3", "1 1 2 2 2"]);
    let mut request = cluster.heartbeat(4, 2, 1);
    // The leader has committed more than it names here. Behind entry 2 the logs may differ.
    request.commit = 3;
    cluster.receive(1, 2, &request);
    assert_eq!((cluster.log(2).as_str(), cluster.commit(2)), ("1 1 2 2 2", 2));
    // A request that contradicts what is committed is an error, and changes nothing.
    let mut request = cluster.heartbeat(4, 1, 1);
    request.entries = vec![entry(2, 4)];
    let now_ms = cluster.now_ms;
    assert!(cluster.node(2).handle_append(1, &request, now_ms).is_err());
    assert_eq!(cluster.log(2), "1 1 2 2 2");
}

#[test]
fn an_append_from_before_the_base_of_a_compacted_log_is_taken() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1, &[2]);
    let early = cluster.send(1, 2);
    let reply = cluster.receive(1, 2, &early);
    cluster.answer(1, 2, &early, &reply);
    cluster.put(1, "x");
    cluster.replicate(1, &[2]);
    let now_ms = cluster.now_ms;
    cluster.machine(2).compact(now_ms);
    cluster.restart(2);
    assert_eq!(cluster.node(2).log().base().index, 3);
    let reply = cluster.receive(1, 2, &early);
    assert_eq!(reply.outcome, Appended::Matches(2));
    cluster.append(1, 2);
    assert_eq!(cluster.node(2).log().last().index, 3);
}

#[test]
fn a_follower_that_lost_acknowledged_entries_gets_them_again() {
    // `--fsync everysec` and a power loss: the follower had answered for entries that are gone.
    let mut cluster = Cluster::of(3);
    cluster.elect(1, &[2]);
    cluster.replicate(1, &[2]);
    cluster.put(1, "x");
    cluster.replicate(1, &[2]);
    cluster.machine(2).disk = Cluster::of(3).machine(2).disk.clone();
    cluster.restart(2);
    cluster.append(1, 2);
    assert_eq!(cluster.node(1).matched(2), Some(1), "what is lost counts no more");
    cluster.replicate(1, &[2]);
    assert_eq!(cluster.log(2), "1 2 2");
}

#[test]
fn after_a_broken_connection_the_leader_goes_on_where_it_was() {
    let mut cluster = Cluster::with_logs(&["1 1 1 1", "1 1 1 1", "1 1 1 1"]);
    cluster.elect(1, &[2]);
    cluster.send(1, 2);
    cluster.node(1).broken(2);
    let again = cluster.send(1, 2);
    assert_eq!(again.previous.index, 4, "not from the beginning of the log");
}
