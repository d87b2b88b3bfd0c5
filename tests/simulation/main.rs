//! Many clusters in one thread: the real store, sync, link, member and tombstone logic under
//! whatever a seed makes up.
//!
//! One seed decides everything: what clients write, how long messages take, which are lost, delayed
//! past the end of their connection or delivered twice, which nodes are cut off, crash, come back
//! with or without their memory, are forgotten, and how wrong their clocks are. One promise of TCP
//! is kept: on one connection nothing arrives behind what was sent later. Then everything heals,
//! and what must hold is checked:
//!
//! - all nodes hold the same;
//! - no acknowledged write is lost, but to a later version of its key or with the last node that
//!   held it;
//! - no delete comes back, and all tombstones go at last;
//! - a peer that counts for `WAIT` holds the write;
//! - an idle cluster is quiet: no record travels to and fro;
//! - changes arrive within seconds, also when queues overflow.
//!
//! A failure prints its seed; `SEED=n cargo test --test simulation` plays it again.
//!
//! Files: `network` is the network, the clock and the dice, and `seeds` plays many seeds; neither
//! knows how nodes agree. `nodes` and `links` are the receiving and the sending side of nodes that
//! agree eventually, `trouble` is what happens to them, `checks` what must hold, and `scenarios`
//! are the schedules.

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod links;
mod network;
mod nodes;
mod scenarios;
mod seeds;
mod trouble;

use std::collections::BTreeSet;

use kvstore::store::digest::{SHARDS, key_hash, shard_of};

use nodes::{Fault, KEYS};
use scenarios::simulate;
use seeds::{is_caught_in, passes};

/// Without optimization a seed takes ten times as long.
const SEEDS: u64 = if cfg!(debug_assertions) { 300 } else { 4_000 };

fn check_seeds(seeds: std::ops::Range<u64>) {
    if let Ok(seed) = std::env::var("SEED") {
        return simulate(seed.parse().expect("SEED is a number"), Fault::None);
    }
    passes(seeds, simulate);
}

#[test]
fn clusters_converge_through_any_trouble() {
    check_seeds(0..SEEDS);
}

#[test]
#[ignore = "takes minutes"]
fn clusters_converge_through_any_trouble_100_000_times() {
    check_seeds(0..common::full_size(100_000));
}

#[test]
fn a_merge_that_keeps_the_older_is_caught() {
    is_caught(Fault::MergeKeepsTheOlder, 100);
}

#[test]
fn a_shard_that_is_never_synced_is_caught() {
    is_caught(Fault::OneShardNeverSynced, 500);
}

#[test]
fn a_received_record_that_is_forwarded_is_caught() {
    is_caught(Fault::ReceivedRecordForwarded, 100);
}

#[test]
fn a_mark_cleared_after_the_digest_is_asked_is_caught() {
    is_caught(Fault::MarkClearedAfterTheDigestIsAsked, 500);
}

#[test]
fn an_old_connection_that_stays_open_is_caught() {
    is_caught(Fault::OldConnectionsStayOpen, 2_000);
}

#[test]
fn the_keys_of_the_simulation_are_in_different_shards() {
    let shards: BTreeSet<usize> =
        KEYS.iter().map(|key| shard_of(key_hash(key.as_bytes()))).collect();
    assert!(shards.len() == KEYS.len() && shards.iter().all(|shard| *shard < SHARDS));
}

fn is_caught(fault: Fault, seeds: u64) {
    is_caught_in(simulate, fault, seeds);
}
