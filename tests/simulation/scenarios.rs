//! Schedules: whatever a seed makes up, and those that a rule was made for.

use std::sync::Arc;

use kvstore::peers::requests::PeerRequest;
use kvstore::peers::status::PeerState;
use kvstore::replication::contact::KnownBy;
use kvstore::store::Size;

use crate::SEEDS;
use crate::links::Message;
use crate::nodes::{Cluster, Disk, Fault, Seeds, address, loaded, seeds_of};
use crate::reached::{Event, Reached};
use crate::seeds::{is_caught, passes};

/// Trouble at random; then everything heals.
pub fn simulate(seed: u64, fault: Fault) -> Reached {
    let (mut cluster, seeds) = Cluster::random(seed, fault);
    for _ in 0..cluster.network.random.below(160) {
        match cluster.network.random.below(10) {
            0..4 => cluster.write(),
            4 => cluster.trouble(seeds),
            _ => {}
        }
        let step_ms = cluster.network.random.below(1_500);
        cluster.tick(step_ms);
    }
    cluster.heal();
    let are_wrong = cluster.network.random.one_in(2);
    for index in 0..cluster.nodes.len() {
        let skew_ms = cluster.network.random.below(40_000) as i64 - 20_000;
        cluster.step_clock(index, if are_wrong { skew_ms } else { 0 });
    }
    // A clock that was 100 s ahead must be caught up with, then a comparison, then three rounds.
    cluster.run_for(720_000, 2_000);
    cluster.check_convergence();
    cluster.check_quiet();
    if are_wrong {
        cluster.network.reached.add(Event::QuietWithWrongClocks);
    }
    burst(&mut cluster);
    cluster.network.reached
}

/// With all links live, changes arrive within seconds, though the queues overflow.
fn burst(cluster: &mut Cluster) {
    for _ in 0..30 {
        cluster.write();
        cluster.write();
        cluster.tick(20);
    }
    cluster.run_for(6_000, 20);
    cluster.check_convergence();
}

/// Nodes that all name each other, whose clocks are right.
fn cluster_of(are_durable: &[bool], seed: u64, fault: Fault) -> Cluster {
    let (mut cluster, count) = (Cluster::empty(seed, fault), are_durable.len());
    for (index, is_durable) in are_durable.iter().enumerate() {
        cluster.add(*is_durable, seeds_of(index, count, Seeds::All), 0);
    }
    cluster
}

#[test]
fn a_tombstone_dropped_after_one_round_is_caught() {
    is_caught(empty_joiner_and_stale_returner, Fault::TombstoneDroppedAfterOneRound, 0..400);
}

#[test]
fn a_delete_survives_an_empty_joiner_with_a_stale_returner() {
    passes(0..SEEDS / 4, empty_joiner_and_stale_returner);
}

/// The hardest case for forgetting deletes. A node is away with an old value until the tombstone
/// has aged; another comes back empty, without the tombstone; the first sends it the old value and
/// crashes at that moment, so that nobody who is asked has it while it is on its way.
fn empty_joiner_and_stale_returner(seed: u64, fault: Fault) -> Reached {
    let mut cluster = cluster_of(&[false, false, false], seed, fault);
    cluster.run_for(5_000, 100);
    cluster.write_at(2, "a", false);
    cluster.run_for(10_000, 100);
    cluster.network.cut(0, 2);
    cluster.network.cut(1, 2);
    cluster.write_at(0, "a", true);
    cluster.run_for(60_000, 200);
    cluster.crash(1);
    cluster.restart(1);
    cluster.run_for(10_000, 200);
    cluster.network.cuts.clear();
    cluster.network.cut(0, 2);
    let crash_ms = cluster.network.random.below(4_000);
    let is_value = |message: &Message| is_batch_of(message, 2);
    cluster.run_until(crash_ms, 20, |cluster| cluster.network.find(is_value).is_some());
    if let Some((at, (to, value))) = cluster.network.find(is_value) {
        let late_ms = cluster.network.now_ms + cluster.network.random.below(30_000);
        cluster.network.under_way.remove(&at);
        cluster.network.under_way.insert((late_ms, at.1), (to, value));
    }
    cluster.crash(2);
    cluster.restart(2);
    cluster.heal();
    cluster.run_for(500_000, 500);
    cluster.check_convergence();
    cluster.network.reached
}

/// Who is away with old data is remembered, though everybody who ever met it has lost its memory
/// since.
#[test]
fn a_delete_survives_restarts_of_all_who_met_the_one_that_is_away() {
    let mut cluster = cluster_of(&[false, false, true], 0, Fault::None);
    cluster.network.is_healthy = true;
    cluster.run_for(5_000, 100);
    cluster.write_at(2, "a", false);
    cluster.run_for(10_000, 100);
    let value = cluster.nodes[0].store.version(b"a").expect("it arrived");
    cluster.crash(2);
    cluster.write_at(0, "a", true);
    for index in [1, 0, 1] {
        cluster.run_for(1_000, 100);
        cluster.crash(index);
        cluster.restart(index);
        // The other one notices.
        cluster.write_at(1 - index, "b", false);
        cluster.run_for(9_000, 100);
    }
    assert!(
        cluster.nodes[..2].iter().all(|node| node.store.version(b"a") > Some(value)),
        "both know of the delete"
    );
    cluster.run_for(600_000, 500);
    cluster.restart(2);
    cluster.run_for(100_000, 500);
    cluster.check_convergence();
}

#[test]
fn a_delete_survives_a_restart_of_a_node_that_never_reached_the_one_with_the_value() {
    passes(0..1, never_reached);
}

#[test]
fn an_unreached_node_that_is_not_stored_is_caught() {
    is_caught(never_reached, Fault::UnreachedNodesAreNotStored, 0..1);
}

/// Who only introduced itself, and could never be reached back, is remembered by a node that
/// restarts with its data.
fn never_reached(seed: u64, fault: Fault) -> Reached {
    let mut cluster = cluster_of(&[true, false], seed, fault);
    cluster.network.is_healthy = true;
    cluster.network.block(0, 1);
    cluster.run_for(5_000, 100);
    cluster.write_at(1, "a", false);
    cluster.run_for(10_000, 100);
    let value = cluster.nodes[0].store.version(b"a").expect("it arrived");
    cluster.network.cut(0, 1);
    cluster.write_at(0, "a", true);
    cluster.crash(0);
    if fault == Fault::UnreachedNodesAreNotStored {
        let mut stored = cluster.nodes[0].stored.lock().expect("no panic");
        stored.members.retain(|member| member.known_by != KnownBy::ItsWord);
    }
    cluster.restart(0);
    cluster.run_for(300_000, 500);
    assert!(
        cluster.nodes[0].store.version(b"a") > Some(value),
        "the tombstone waits for the one that is away"
    );
    cluster.heal();
    cluster.run_for(600_000, 500);
    cluster.check_convergence();
    assert!(
        cluster.nodes.iter().all(|node| node.store.size() == Size::default()),
        "then it goes, and nothing comes back"
    );
    cluster.network.reached
}

#[test]
fn a_connection_that_does_not_keep_its_order_is_caught() {
    is_caught(late_copy_on_a_living_connection, Fault::OrderNotKept, 0..10);
}

#[test]
fn a_delete_survives_a_late_copy_on_a_living_connection() {
    passes(0..SEEDS / 4, late_copy_on_a_living_connection);
}

/// Whether this brings records of a node.
fn is_batch_of(message: &Message, node: usize) -> bool {
    match message {
        Message::Requests { from, requests, .. } => {
            from.node == node && matches!(requests[..], [PeerRequest::Merge(_)])
        }
        _ => false,
    }
}

/// Why forgetting deletes needs the order that TCP keeps. A node sends a value and deletes it; all
/// learn of that, compare and forget the tombstone; and only then a second copy of the value would
/// arrive, on the connection that has carried all those comparisons.
fn late_copy_on_a_living_connection(seed: u64, fault: Fault) -> Reached {
    let mut cluster = cluster_of(&[false, false], seed, fault);
    cluster.heal();
    cluster.run_for(5_000, 100);
    cluster.write_at(1, "a", false);
    let is_value = |message: &Message| is_batch_of(message, 1);
    cluster.run_until(u64::MAX, 10, |cluster| cluster.network.find(is_value).is_some());
    let (_, sent) = cluster.network.find(is_value).expect("it is under way");
    let late = (cluster.network.now_ms + 400_000, cluster.network.id());
    cluster.network.under_way.insert(late, sent);
    cluster.run_for(5_000, 100);
    cluster.write_at(1, "a", true);
    cluster.run(late.0 + 20_000, 500);
    assert_eq!(cluster.nodes[0].store.size().tombstones, 0, "the tombstone was forgotten before");
    cluster.check_convergence();
    cluster.network.reached
}

#[test]
fn a_delete_survives_the_power_loss_of_a_node_that_was_asked() {
    passes(0..SEEDS / 8, power_loss_of_who_was_asked);
}

#[test]
fn digests_that_are_shown_before_they_are_on_disk_are_caught() {
    is_caught(power_loss_of_who_was_asked, Fault::DigestsShownBeforeTheyAreOnDisk, 0..10);
}

/// A node that never syncs by itself is asked whether it holds an older value, and says no. It may
/// not hold it again after a power loss, since the delete is forgotten then.
fn power_loss_of_who_was_asked(seed: u64, fault: Fault) -> Reached {
    let mut cluster = cluster_of(&[true, false], seed, fault);
    cluster.network.is_healthy = true;
    cluster.nodes[0].disk.iter_mut().for_each(|disk: &mut Disk| disk.every_second = false);
    cluster.run_for(5_000, 100);
    cluster.write_at(0, "a", false);
    cluster.run_for(5_000, 100);
    let now_ms = cluster.network.now_ms;
    cluster.nodes[0].sync(now_ms);
    cluster.write_at(1, "a", true);
    while cluster.nodes.iter().any(|node| node.store.size() != Size::default()) {
        cluster.tick(500);
    }
    cluster.lose_power(0);
    cluster.restart(0);
    cluster.run_for(100_000, 500);
    cluster.check_convergence();
    assert!(cluster.contents()[0].1.is_empty(), "the delete came back");
    cluster.network.reached
}

#[test]
fn two_nodes_with_one_id_are_refused_until_one_stops() {
    passes(0..SEEDS / 20, copied_directory);
}

#[test]
fn runs_that_are_not_told_are_caught() {
    is_caught(copied_directory, Fault::RunsAreNotTold, 0..10);
}

/// A directory is copied, and both copies are started.
fn copied_directory(seed: u64, fault: Fault) -> Reached {
    let mut cluster = cluster_of(&[true, true], seed, fault);
    cluster.network.is_healthy = true;
    cluster.run_for(5_000, 100);
    cluster.write_at(1, "a", false);
    cluster.run_for(5_000, 100);
    let disk = cluster.new_disk();
    let (node_id, records) = (cluster.nodes[1].node_id, cluster.nodes[1].records());
    *disk.stored.lock().expect("no panic") =
        cluster.nodes[1].stored.lock().expect("no panic").clone();
    let copy = cluster.start(2, node_id, loaded(&records), Some(disk), vec![address(0)], 0);
    cluster.nodes.push(copy);
    cluster.receive_callers(2);
    cluster.network.reached.add(Event::DirectoryCopied);
    cluster.run_for(60_000, 100);
    let mut states = cluster.nodes[0].manager.peers().into_iter().map(|peer| peer.state);
    let refused = PeerState::Refused(String::new()).to_string();
    assert!(states.any(|state| state.starts_with(&refused)), "nobody noticed the copy");
    cluster.crash(2);
    cluster.nodes[2].is_forgotten = true;
    cluster.run_for(180_000, 100);
    cluster.write_at(0, "b", true);
    cluster.write_at(1, "c", false);
    cluster.run_for(10_000, 100);
    cluster.check_convergence();
    cluster.check_no_link_is_refused();
    cluster.network.reached
}

#[test]
fn a_delete_on_a_node_without_seeds_survives_a_returner() {
    passes(0..SEEDS / 20, returner_at_a_node_without_seeds);
}

#[test]
fn a_node_without_seeds_that_keeps_no_tombstones_is_caught() {
    is_caught(returner_at_a_node_without_seeds, Fault::NoTombstonesWithoutSeeds, 0..10);
}

/// A node without seeds knows of others only what they said. It lost that with the power, and takes
/// a delete before they have come back: they notice only when they send something.
fn returner_at_a_node_without_seeds(seed: u64, fault: Fault) -> Reached {
    let mut cluster = Cluster::empty(seed, fault);
    cluster.add(false, Vec::new(), 0);
    cluster.add(true, vec![address(0)], 0);
    cluster.network.is_healthy = true;
    cluster.run_for(5_000, 100);
    cluster.write_at(1, "a", false);
    cluster.run_for(10_000, 100);
    cluster.lose_power(0);
    cluster.restart(0);
    cluster.run_for(25_000, 200);
    cluster.write_at(0, "a", true);
    cluster.run_for(120_000, 200);
    cluster.check_convergence();
    assert!(cluster.contents()[0].1.is_empty(), "the delete came back");
    cluster.network.reached
}

impl Cluster {
    fn check_no_link_is_refused(&self) {
        for node in self.nodes.iter().filter(|node| node.is_up) {
            for peer in node.manager.peers() {
                assert_eq!(peer.state, "live", "{peer:?} of {:?}", Arc::as_ptr(&node.store));
            }
        }
    }
}
