//! Schedules: whatever a seed makes up, and those that a rule was made for.

use kvstore::peers::requests::PeerRequest;
use kvstore::store::Size;

use crate::SEEDS;
use crate::nodes::{Cluster, Fault, Message, SimNode};
use crate::seeds::{is_caught_in, passes};

/// Trouble at random; then everything heals.
pub fn simulate(seed: u64, fault: Fault) {
    let mut cluster = Cluster::new(seed, fault);
    for _ in 0..cluster.network.random.below(160) {
        match cluster.network.random.below(10) {
            0..4 => cluster.write(),
            4 => cluster.trouble(),
            _ => {}
        }
        let step_ms = cluster.network.random.below(1_500);
        cluster.tick(step_ms);
    }
    cluster.heal();
    // A clock that was 100 s ahead must be caught up with, then a comparison, then three rounds.
    let healed_ms = cluster.network.now_ms;
    cluster.run(healed_ms + 720_000, 2_000);
    cluster.check_convergence();
    cluster.merges = 0;
    cluster.run(cluster.network.now_ms + 70_000, 1_000);
    assert_eq!(cluster.merges, 0, "an idle cluster still sends records");
    // A node whose only seed was forgotten cannot ask anybody, and keeps them.
    let asks = |node: &&SimNode| !node.is_forgotten && !node.members.holders().is_empty();
    for node in cluster.nodes.iter().filter(asks) {
        assert_eq!(node.store.size().tombstones, 0, "tombstones stay for ever");
    }
    burst(&mut cluster);
}

/// With all links live, changes arrive within seconds, though the queues overflow.
fn burst(cluster: &mut Cluster) {
    for _ in 0..30 {
        cluster.write();
        cluster.write();
        cluster.tick(20);
    }
    cluster.run(cluster.network.now_ms + 6_000, 20);
    cluster.check_convergence();
}

#[test]
fn a_tombstone_dropped_after_one_round_is_caught() {
    is_caught_in(empty_joiner_and_stale_returner, Fault::TombstoneDroppedAfterOneRound, 400);
}

#[test]
fn a_delete_survives_an_empty_joiner_with_a_stale_returner() {
    passes(0..SEEDS / 4, empty_joiner_and_stale_returner);
}

/// The hardest case for forgetting deletes. A node is away with an old value until the tombstone
/// has aged; another comes back empty, without the tombstone; the first sends it the old value and
/// crashes at that moment, so that nobody who is asked has it while it is on its way.
fn empty_joiner_and_stale_returner(seed: u64, fault: Fault) {
    let mut cluster = Cluster::new(seed, fault);
    cluster.names_all = true;
    cluster.nodes.clear();
    for index in 0..3 {
        let node = cluster.fresh(index, 3, false, 0);
        cluster.nodes.push(node);
    }
    (0..3).for_each(|index| cluster.update_links(index));
    cluster.run(5_000, 100);
    cluster.write_at(2, "a", false);
    cluster.run(cluster.network.now_ms + 10_000, 100);
    cluster.network.cuts.extend([(0, 2), (1, 2)]);
    cluster.write_at(0, "a", true);
    cluster.run(cluster.network.now_ms + 60_000, 200);
    cluster.crash(1);
    cluster.restart(1);
    cluster.run(cluster.network.now_ms + 10_000, 200);
    cluster.network.cuts.clear();
    cluster.network.cuts.insert((0, 2));
    let crash_ms = cluster.network.now_ms + cluster.network.random.below(4_000);
    cluster.run(crash_ms, 20);
    cluster.crash(2);
    cluster.restart(2);
    cluster.heal();
    cluster.run(cluster.network.now_ms + 500_000, 500);
    cluster.check_convergence();
}

/// Who is away with old data is remembered, though everybody who ever met it has lost its memory
/// since.
#[test]
fn a_delete_survives_restarts_of_all_who_met_the_one_that_is_away() {
    let mut cluster = Cluster::new(0, Fault::None);
    cluster.nodes.clear();
    for index in 0..3 {
        let node = cluster.fresh(index, 3, index == 2, 0);
        cluster.nodes.push(node);
    }
    (0..3).for_each(|index| cluster.update_links(index));
    cluster.network.is_healthy = true;
    cluster.run(5_000, 100);
    cluster.write_at(2, "a", false);
    cluster.run(cluster.network.now_ms + 10_000, 100);
    let value = cluster.nodes[0].store.version(b"a").expect("it arrived");
    cluster.crash(2);
    cluster.write_at(0, "a", true);
    for index in [1, 0, 1] {
        cluster.run(cluster.network.now_ms + 1_000, 100);
        cluster.crash(index);
        cluster.restart(index);
        // The other one notices.
        cluster.write_at(1 - index, "b", false);
        cluster.run(cluster.network.now_ms + 9_000, 100);
    }
    assert!(
        cluster.nodes[..2].iter().all(|node| node.store.version(b"a") > Some(value)),
        "both know of the delete"
    );
    cluster.run(cluster.network.now_ms + 600_000, 500);
    cluster.restart(2);
    cluster.run(cluster.network.now_ms + 100_000, 500);
    cluster.check_convergence();
}

/// Who only introduced itself, and could never be reached back, is remembered by a node that
/// restarts with its data.
#[test]
fn a_delete_survives_a_restart_of_a_node_that_never_reached_the_one_with_the_value() {
    let mut cluster = Cluster::new(0, Fault::None);
    cluster.nodes.clear();
    for index in 0..2 {
        let node = cluster.fresh(index, 2, index == 0, 0);
        cluster.nodes.push(node);
    }
    (0..2).for_each(|index| cluster.update_links(index));
    cluster.network.is_healthy = true;
    cluster.network.one_way.insert((0, 1));
    cluster.run(5_000, 100);
    cluster.write_at(1, "a", false);
    cluster.run(cluster.network.now_ms + 10_000, 100);
    let value = cluster.nodes[0].store.version(b"a").expect("it arrived");
    cluster.network.cuts.insert((0, 1));
    cluster.write_at(0, "a", true);
    cluster.crash(0);
    cluster.restart(0);
    cluster.run(cluster.network.now_ms + 300_000, 500);
    assert!(
        cluster.nodes[0].store.version(b"a") > Some(value),
        "the tombstone waits for the one that is away"
    );
    cluster.heal();
    cluster.run(cluster.network.now_ms + 600_000, 500);
    cluster.check_convergence();
    assert!(
        cluster.nodes.iter().all(|node| node.store.size() == Size::default()),
        "then it goes, and nothing comes back"
    );
}

#[test]
fn a_connection_that_does_not_keep_its_order_is_caught() {
    is_caught_in(late_copy_on_a_living_connection, Fault::OrderNotKept, 10);
}

#[test]
fn a_delete_survives_a_late_copy_on_a_living_connection() {
    passes(0..SEEDS / 4, late_copy_on_a_living_connection);
}

/// Why forgetting deletes needs the order that TCP keeps. A node sends a value and deletes it; all
/// learn of that, compare and forget the tombstone; and only then a second copy of the value would
/// arrive, on the connection that has carried all those comparisons.
fn late_copy_on_a_living_connection(seed: u64, fault: Fault) {
    let mut cluster = Cluster::new(seed, fault);
    cluster.nodes.clear();
    for index in 0..2 {
        let node = cluster.fresh(index, 2, false, 0);
        cluster.nodes.push(node);
    }
    (0..2).for_each(|index| cluster.update_links(index));
    cluster.heal();
    cluster.run(5_000, 100);
    cluster.write_at(1, "a", false);
    let is_value = |message: &Message| match message {
        Message::Requests { requests, .. } => matches!(requests[..], [PeerRequest::Merge(_)]),
        Message::Replies { .. } => false,
    };
    while !cluster.network.under_way.values().any(|(_, message)| is_value(message)) {
        cluster.tick(10);
    }
    let sent = cluster
        .network
        .under_way
        .values()
        .find(|(_, message)| is_value(message))
        .cloned()
        .expect("it is there");
    let late = (cluster.network.now_ms + 400_000, cluster.network.id());
    cluster.network.under_way.insert(late, sent);
    cluster.run(cluster.network.now_ms + 5_000, 100);
    cluster.write_at(1, "a", true);
    cluster.run(late.0 + 20_000, 500);
    assert_eq!(cluster.nodes[0].store.size().tombstones, 0, "the tombstone was forgotten before");
    cluster.check_convergence();
}
