//! Many clusters in one thread: the real store and the real replication, under whatever a seed
//! makes up.
//!
//! One seed decides everything: what clients write, how long messages take, which are lost, delayed
//! past the end of their connection or delivered twice; which nodes are cut off in both directions
//! or in one, crash, lose power, come back with their data, without it, with an old copy of it or
//! as a new node; which are forgotten; which name no others; and how wrong their clocks are, and
//! when these are set. One promise of TCP is kept: on one connection nothing arrives behind what
//! was sent later. Then everything heals, and what must hold is checked:
//!
//! - all nodes hold the same, and each value is the one that was written under its version;
//! - no acknowledged write is lost, but to a later version of its key or with the last node that
//!   held it;
//! - no delete comes back, and all tombstones go at last;
//! - a peer that counts for `WAIT` holds the write;
//! - an idle cluster is quiet, also while clocks are wrong: no record travels to and fro;
//! - changes arrive within seconds, also when queues overflow.
//!
//! The nodes run what a server runs, but for threads, sockets and clocks. What stands here beside
//! the code in `src` and must stay like it: `Node::write`, `digests`, `versions` and
//! `merge_from_peer`, in a few lines each.
//!
//! A failure prints its seed; `SEED=n cargo test --test simulation` plays it again, and `TRACE=1`
//! shows what happens.
//!
//! Files: `network` is the network, the clock and the dice, `seeds` plays many seeds, and `reached`
//! counts what happened; none of them knows how nodes agree. `nodes` are nodes that agree
//! eventually, `host` is the machine of one, `links` what they send each other and `receiving` how
//! they answer; `trouble` is what happens to them, `checks` what must hold, and `scenarios` are the
//! schedules.

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod host;
mod links;
mod network;
mod nodes;
mod reached;
mod receiving;
mod scenarios;
mod seeds;
mod trouble;

use std::collections::BTreeSet;
use std::ops::Range;

use kvstore::store::digest::{bucket_of, key_hash, shard_of};

use nodes::{Fault, KEYS};
use scenarios::simulate;
use seeds::{is_caught, passes};

/// Without optimization a seed takes ten times as long.
const SEEDS: u64 = if cfg!(debug_assertions) { 80 } else { 4_000 };

/// Plays seeds, or the one that the environment names, and shows what they reached.
fn check_seeds(seeds: Range<u64>) {
    if let Ok(seed) = std::env::var("SEED") {
        simulate(seed.parse().expect("SEED is a number"), Fault::None);
        return;
    }
    let mut reached = passes(seeds.clone(), simulate);
    println!("{} seeds reached:\n{reached}", seeds.end - seeds.start);
    reached.add(reached::Event::DirectoryCopied);
    if seeds.end - seeds.start >= 1_000 {
        assert_eq!(reached.missing(), [], "kinds of trouble that no seed reached");
    }
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
    is_caught(simulate, Fault::MergeKeepsTheOlder, 0..100);
}

#[test]
fn a_shard_that_is_never_synced_is_caught() {
    is_caught(simulate, Fault::OneShardNeverSynced, 0..500);
}

#[test]
fn a_received_record_that_is_forwarded_is_caught() {
    is_caught(simulate, Fault::ReceivedRecordForwarded, 0..100);
}

#[test]
fn a_mark_cleared_after_the_digest_is_asked_is_caught() {
    is_caught(simulate, Fault::MarkClearedAfterTheDigestIsAsked, 0..500);
}

#[test]
fn an_old_connection_that_stays_open_is_caught() {
    is_caught(simulate, Fault::OldConnectionsStayOpen, 0..2_000);
}

#[test]
fn a_list_that_ends_after_its_first_part_is_caught() {
    is_caught(simulate, Fault::ListEndsAfterItsFirstPart, 0..500);
}

#[test]
fn a_value_that_is_not_that_of_its_version_is_caught() {
    is_caught(simulate, Fault::ValueIsNotThatOfItsVersion, 0..10);
}

#[test]
fn refused_records_that_count_as_merged_are_caught() {
    is_caught(simulate, Fault::RefusedRecordsCountAsMerged, 0..100);
}

#[test]
fn two_keys_are_in_one_bucket_and_the_others_in_shards_of_their_own() {
    let shards: BTreeSet<usize> =
        KEYS.iter().map(|key| shard_of(key_hash(key.as_bytes()))).collect();
    assert_eq!(shards.len(), KEYS.len() - 1);
    let bucket = |key: &str| bucket_of(key_hash(key.as_bytes()));
    assert_eq!(bucket(KEYS[4]), bucket(KEYS[5]));
}
