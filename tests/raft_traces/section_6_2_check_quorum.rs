//! Section 6.2: a leader that no majority answers steps down, so that its clients try another node.
//! But it waits for an answer that is on its way: a long entry or a slow fsync deposes nobody.

use crate::cluster::Cluster;

#[test]
fn a_leader_that_nobody_answers_steps_down_after_an_election_timeout() {
    let mut cluster = Cluster::led();
    for _ in 0..9 {
        cluster.wait(100);
        cluster.tick(1);
    }
    assert!(cluster.leads(1));
    for _ in 0..11 {
        cluster.wait(100);
        cluster.tick(1);
    }
    assert!(!cluster.leads(1));
    assert_eq!(cluster.node(1).leader(), None);
}

#[test]
fn one_answer_of_two_is_enough() {
    let mut cluster = Cluster::led();
    for _ in 0..50 {
        cluster.append(1, 2);
        cluster.tick(1);
    }
    assert!(cluster.leads(1));
}

#[test]
fn an_exchange_that_is_under_way_counts_for_5_seconds_after_each_sign_of_life() {
    let mut cluster = Cluster::led();
    cluster.send(1, 2);
    let lasts = |cluster: &mut Cluster, ms: u64| {
        for _ in 0..ms / 100 {
            cluster.wait(100);
            cluster.tick(1);
        }
        cluster.leads(1)
    };
    assert!(lasts(&mut cluster, 4_900));
    // A long entry: the follower says how far it has read.
    let now_ms = cluster.now_ms;
    cluster.node(1).hear(2, now_ms);
    assert!(lasts(&mut cluster, 4_900));
    assert!(!lasts(&mut cluster, 1_200), "5 s and then an election timeout");
}

#[test]
fn an_append_that_waits_for_the_disk_counts_as_hearing_the_leader() {
    let mut cluster = Cluster::led();
    let (request, now_ms) = (cluster.send(1, 2), cluster.now_ms);
    let follower = cluster.node(2);
    follower.begin_handling();
    follower.handle_append(1, &request, now_ms).unwrap();
    cluster.wait(20_000);
    let now_ms = cluster.now_ms;
    assert!(cluster.node(2).next_tick_ms(now_ms) > now_ms, "nothing to do: its thread sleeps");
    cluster.tick(2);
    assert!(cluster.node(2).vote_request(3).is_none(), "it does not stand");
    cluster.node(2).end_handling(1, now_ms);
    cluster.time_out(2);
    assert!(cluster.node(2).vote_request(3).is_some());
}

#[test]
fn a_broken_connection_of_the_leader_causes_one_fast_attempt() {
    let mut cluster = Cluster::led();
    let now_ms = cluster.now_ms;
    cluster.node(2).lost(1, now_ms);
    // Answers of the leader that had arrived before are not a sign of life.
    cluster.node(2).hear_answer(1, now_ms);
    assert!(cluster.node(2).next_tick_ms(now_ms) < now_ms + 150);
    cluster.wait(150);
    cluster.tick(2);
    assert!(!cluster.vote(2, 3).is_granted, "the other one hears the leader");
    // The next attempt is the first normal one: between one and two timeouts later.
    let now_ms = cluster.now_ms;
    let next_ms = cluster.node(2).next_tick_ms(now_ms);
    assert!((now_ms + 1_000..=now_ms + 2_000).contains(&next_ms));
}
