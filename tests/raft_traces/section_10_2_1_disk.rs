//! Section 10.2.1: the leader's disk writes an entry while its messages carry it. What counts is
//! what is on disks: the leader counts itself by its own.

use kvstore::consensus::messages::Appended;

use crate::cluster::Cluster;

#[test]
fn the_disk_of_a_leader_counts_like_that_of_a_follower() {
    let mut cluster = Cluster::led();
    let entry = cluster.put(1, "x");
    cluster.append(1, 2);
    assert_eq!(cluster.commit(1), 2, "one disk of three has it");
    cluster.settle(1);
    assert_eq!(cluster.commit(1), entry.index, "two");
}

#[test]
fn two_followers_are_a_majority_without_the_leader() {
    let mut cluster = Cluster::led();
    let entry = cluster.put(1, "x");
    cluster.append(1, 2);
    cluster.append(1, 3);
    assert_eq!(cluster.commit(1), entry.index);
    assert!(cluster.node(1).durable_index() < entry.index);
}

#[test]
fn a_follower_answers_when_its_disk_has_what_the_request_names() {
    let mut cluster = Cluster::led();
    cluster.put(1, "x");
    let (request, now_ms) = (cluster.send(1, 2), cluster.now_ms);
    let outcome = cluster.node(2).handle_append(1, &request, now_ms).unwrap();
    cluster.machine(2).write();
    assert_eq!(cluster.node(2).append_reply(&request, outcome), None);
    // The connection breaks, and the same entry comes once more: it is in memory already.
    let outcome = cluster.node(2).handle_append(1, &request, now_ms).unwrap();
    assert_eq!(cluster.node(2).append_reply(&request, outcome), None, "and not on the disk yet");
    cluster.settle(2);
    let reply = cluster.node(2).append_reply(&request, outcome).unwrap();
    assert_eq!(reply.outcome, Appended::Matches(3));
}

#[test]
fn an_entry_that_replaces_another_is_not_on_the_disk_because_that_one_was() {
    let mut cluster = Cluster::with_logs(&["1 3", "1 2 2", "1"]);
    cluster.elect(1, &[2, 3]);
    cluster.append(1, 2);
    let (request, now_ms) = (cluster.send(1, 2), cluster.now_ms);
    assert_eq!(request.previous.index, 1);
    let outcome = cluster.node(2).handle_append(1, &request, now_ms).unwrap();
    cluster.machine(2).write();
    assert_eq!(cluster.node(2).durable_index(), 1);
    assert_eq!(cluster.node(2).append_reply(&request, outcome), None);
}

#[test]
fn an_answer_that_waited_for_the_disk_is_void_when_the_term_is_over() {
    let mut cluster = Cluster::led();
    cluster.put(1, "x");
    let (request, now_ms) = (cluster.send(1, 2), cluster.now_ms);
    let outcome = cluster.node(2).handle_append(1, &request, now_ms).unwrap();
    cluster.append(1, 3);
    cluster.restart(1);
    cluster.elect(3, &[1]);
    cluster.append(3, 2);
    let reply = cluster.node(2).append_reply(&request, outcome).unwrap();
    assert_eq!((reply.term, reply.outcome), (3, Appended::OldTerm));
}

#[test]
fn a_leader_whose_disk_fails_steps_down_and_answers_nothing_until_it_has_healed() {
    let mut cluster = Cluster::led();
    cluster.put(1, "x");
    let now_ms = cluster.now_ms;
    cluster.node(1).set_disk_failure(Some("no space left".into()), now_ms);
    assert!(!cluster.leads(1));
    cluster.elect(2, &[3]);
    let request = cluster.send(2, 1);
    assert!(cluster.node(1).handle_append(2, &request, now_ms).is_err());
    cluster.node(2).broken(1);
    cluster.machine(1).compact(now_ms);
    cluster.node(1).set_disk_failure(None, now_ms);
    cluster.replicate(2, &[1, 3]);
    assert_eq!(cluster.log(1), "1 2 3");
}
