//! Section 4.1: members change one at a time, so that a majority before a change and one after it
//! have a node in common. Ongaro's correction of 2015: that holds only once the leader has
//! committed an entry of its own term.

use kvstore::consensus::changing::MemberChange;
use kvstore::consensus::replica::Ground;

use crate::cluster::Cluster;

fn join(id: u64) -> MemberChange {
    MemberChange::Join { id, address: format!("node{id}:8080") }
}

fn with_leader(count: usize) -> Cluster {
    let mut cluster = Cluster::of(count);
    let others: Vec<u64> = (2..=count as u64).collect();
    cluster.elect(1, &others);
    cluster.replicate(1, &others);
    cluster
}

#[test]
fn a_node_joins_as_a_learner_and_counts_when_it_has_caught_up() {
    let mut cluster = with_leader(3);
    let new = cluster.add(Ground::default());
    cluster.change(1, join(new)).unwrap();
    cluster.replicate(1, &[2, 3]);
    assert_eq!(cluster.node(1).learner_to_promote(), None, "it has nothing yet");
    assert!(!cluster.node(1).members().is_voter(new));
    cluster.replicate(1, &[2, 3, new]);
    assert_eq!(cluster.log(new), cluster.log(1));
    assert_eq!(cluster.node(1).learner_to_promote(), Some(new));
    cluster.change(1, MemberChange::Promote(new)).unwrap();
    cluster.replicate(1, &[2, 3, new]);
    assert_eq!(cluster.node(new).members().voters().count(), 4);
}

#[test]
fn a_learner_does_not_count() {
    let mut cluster = with_leader(3);
    let new = cluster.add(Ground::default());
    cluster.change(1, join(new)).unwrap();
    cluster.replicate(1, &[2, 3, new]);
    let entry = cluster.put(1, "x");
    cluster.settle(1);
    cluster.append(1, new);
    assert_eq!(cluster.node(1).matched(new), Some(entry.index));
    assert_eq!(cluster.commit(1), entry.index - 1, "two of four nodes, but one of three voters");
    cluster.append(1, 2);
    assert_eq!(cluster.commit(1), entry.index);
}

#[test]
fn the_next_change_waits_until_the_one_before_it_is_committed() {
    let mut cluster = with_leader(3);
    let new = cluster.add(Ground::default());
    cluster.change(1, join(new)).unwrap();
    assert!(cluster.change(1, MemberChange::Remove(3)).unwrap_err().contains("under way"));
    cluster.replicate(1, &[2, 3]);
    cluster.change(1, MemberChange::Remove(3)).unwrap();
}

#[test]
fn a_new_leader_changes_nothing_before_it_has_committed_an_entry() {
    // The schedule of 2015. Node 1 appends a change, which nobody gets, and is cut off.
    let mut cluster = with_leader(4);
    let new = cluster.add(Ground::default());
    cluster.change(1, join(new)).unwrap();
    cluster.settle(1);
    // Node 2 does not know of it. If it changed the members now, by another one, the majorities of
    // the two changes need have no node in common.
    cluster.elect(2, &[3, 4]);
    [3, 4].into_iter().for_each(|id| cluster.append_only(2, id, 0));
    let refused = cluster.change(2, MemberChange::Remove(1)).unwrap_err();
    assert!(refused.contains("does not lead, or not yet"), "{refused}");
    cluster.replicate(2, &[3, 4]);
    cluster.change(2, MemberChange::Remove(1)).unwrap();
    // Now node 1 cannot win any more: a majority has an entry of a later term.
    cluster.stand(1, &[3, 4]);
    cluster.stand(1, &[3, 4]);
    assert!(!cluster.leads(1));
}

#[test]
fn a_cut_restores_the_members_before_the_change() {
    let mut cluster = with_leader(4);
    cluster.change(1, join(9)).unwrap();
    cluster.settle(1);
    assert!(cluster.node(1).members().nodes.contains_key(&9));
    cluster.elect(2, &[3, 4]);
    cluster.replicate(2, &[1, 3, 4]);
    assert_eq!(cluster.log(1), "1 2 3");
    assert!(!cluster.node(1).members().nodes.contains_key(&9));
}

#[test]
fn a_snapshot_has_the_members_as_of_its_base() {
    let mut cluster = with_leader(4);
    cluster.change(1, join(9)).unwrap();
    cluster.settle(1);
    let now_ms = cluster.now_ms;
    cluster.machine(1).compact(now_ms);
    cluster.restart(1);
    assert!(cluster.node(1).members().nodes.contains_key(&9), "from the entry behind it");
    cluster.elect(2, &[3, 4]);
    cluster.replicate(2, &[1, 3, 4]);
    assert!(!cluster.node(1).members().nodes.contains_key(&9), "that entry was cut");
}

#[test]
fn those_who_must_commit_a_change_must_answer() {
    let mut cluster = with_leader(3);
    cluster.wait(1_000);
    cluster.append(1, 2);
    // Without node 2, node 3 would be needed, which does not answer.
    let refused = cluster.change(1, MemberChange::Remove(2)).unwrap_err();
    assert!(refused.contains("node3:8080"), "{refused}");
    // That its answer may still come is not enough.
    cluster.send(1, 3);
    cluster.change(1, MemberChange::Remove(2)).unwrap_err();
    cluster.change(1, MemberChange::Remove(3)).unwrap();
}

#[test]
fn a_learner_is_promoted_only_while_every_voter_answers() {
    let mut cluster = with_leader(3);
    let new = cluster.add(Ground::default());
    cluster.change(1, join(new)).unwrap();
    cluster.replicate(1, &[2, 3, new]);
    cluster.wait(1_000);
    cluster.append(1, 2);
    cluster.append(1, new);
    let refused = cluster.change(1, MemberChange::Promote(new)).unwrap_err();
    assert!(refused.contains("node3:8080"), "{refused}");
}

#[test]
fn a_learner_that_is_gone_does_not_keep_others_from_counting() {
    let mut cluster = with_leader(3);
    for _ in 0..2 {
        let new = cluster.add(Ground::default());
        cluster.change(1, join(new)).unwrap();
        cluster.replicate(1, &[2, 3, new]);
    }
    assert_eq!(cluster.node(1).learner_to_promote(), Some(4));
    cluster.node(1).broken(4);
    assert_eq!(cluster.node(1).learner_to_promote(), Some(5));
}

#[test]
fn an_id_is_never_used_again() {
    let mut cluster = with_leader(3);
    cluster.change(1, MemberChange::Remove(3)).unwrap();
    cluster.replicate(1, &[2]);
    assert!(cluster.change(1, join(3)).unwrap_err().contains("never used again"));
}

#[test]
fn what_is_so_already_is_not_appended_again() {
    let mut cluster = with_leader(3);
    let last = cluster.log(1);
    let index = cluster.change(1, join(3)).unwrap();
    assert!(index <= cluster.commit(1));
    assert_eq!(cluster.log(1), last);
}
