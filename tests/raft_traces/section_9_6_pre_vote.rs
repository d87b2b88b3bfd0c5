//! Section 9.6: before it stands in a new term, a node asks whether it would win. So a node that
//! was cut off does not raise its term, and does not depose the leader when it is back.

use crate::cluster::Cluster;

#[test]
fn a_node_that_was_cut_off_disturbs_nobody() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1, &[2]);
    cluster.replicate(1, &[2, 3]);
    // Nothing reaches node 3, which tries again and again.
    for _ in 0..10 {
        cluster.time_out(3);
    }
    assert_eq!(cluster.node(3).term(), 2);
    cluster.append(1, 2);
    // It is back. Node 2 hears the leader, and the leader is one.
    assert!(!cluster.vote(3, 2).is_granted);
    assert!(!cluster.vote(3, 1).is_granted);
    cluster.append(1, 3);
    assert!(cluster.leads(1) && cluster.node(1).term() == 2);
}

#[test]
fn a_trial_changes_nothing_at_the_node_that_is_asked() {
    let mut cluster = Cluster::of(3);
    cluster.time_out(1);
    let before = cluster.machine(2).disk.end();
    assert!(cluster.vote(1, 2).is_granted);
    assert_eq!((cluster.node(2).term(), cluster.machine(2).disk.end()), (1, before));
}

#[test]
fn timeouts_double_with_each_failed_attempt_up_to_5_seconds() {
    let mut cluster = Cluster::of(3);
    let mut longest_ms = 0;
    for _ in 0..30 {
        cluster.time_out(1);
        let now_ms = cluster.now_ms;
        longest_ms = longest_ms.max(cluster.node(1).next_tick_ms(now_ms) - now_ms);
    }
    assert!((5_000..=10_000).contains(&longest_ms), "{longest_ms}");
}

#[test]
fn a_node_whose_term_is_ahead_and_whose_log_is_behind_blocks_nobody() {
    // Node 3 stood in term 5 and won nothing. Its log is too old to win ever.
    let mut cluster = Cluster::with_logs(&["1 2 2", "1 2 2", "1 5"]);
    cluster.restart(3);
    cluster.stand(1, &[3]);
    assert_eq!(cluster.node(1).term(), 5, "the trial tells it of the term");
    cluster.elect(1, &[2]);
}
