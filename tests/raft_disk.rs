//! What nodes that agree by consensus keep on their disks, with real processes: all of them are
//! killed at once, the log is compacted under load, a directory is started the other way.

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::disk::refused;
use common::raft::RaftCluster;
use common::{Server, full_size, poll};
use kvstore::client::{Client, SILENCE_TIMEOUT};
use kvstore::random::Random;

const WRITERS: usize = 4;

/// Writes `writer:0`, `writer:1` … from `next` on until told to stop; how many were acknowledged.
/// One that was not acknowledged is written again.
fn write(addresses: &[String], writer: usize, next: u64, stop: &AtomicBool) -> u64 {
    let mut acknowledged = next;
    while !stop.load(Ordering::SeqCst) {
        let client = Client::connect_any(addresses.to_vec(), None, SILENCE_TIMEOUT);
        let Ok(mut client) = client else {
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            let (key, value) = (format!("{writer}:{acknowledged}"), acknowledged.to_string());
            match client.put(key, value) {
                Ok(()) => acknowledged += 1,
                Err(_) => break,
            }
        }
    }
    acknowledged
}

/// Kills all nodes at once while clients write, so many times. Everything that was acknowledged is
/// there after each start.
fn killed_at_once(rounds: u64, options: &[&str]) {
    let mut cluster = RaftCluster::start(3, options);
    let (addresses, mut random) = (cluster.addresses(), Random(rounds));
    let mut acknowledged = [0; WRITERS];
    for round in 0..rounds {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let writers: Vec<_> = acknowledged
                .iter()
                .enumerate()
                .map(|(writer, next)| {
                    let (addresses, stop, next) = (&addresses, &stop, *next);
                    scope.spawn(move || write(addresses, writer, next, stop))
                })
                .collect();
            // Load, for a time that is another in each round: no state is waited for.
            thread::sleep(Duration::from_millis(200 + random.below(400)));
            cluster.nodes.iter_mut().for_each(|node| node.kill());
            stop.store(true, Ordering::SeqCst);
            for (writer, count) in writers.into_iter().zip(&mut acknowledged) {
                *count = writer.join().expect("a writer");
            }
        });
        (0..3).for_each(|index| cluster.restart(index));
        cluster.wait_for_voters(3);
        let mut client = cluster.client();
        for (writer, count) in acknowledged.iter().enumerate() {
            for number in 0..*count {
                let value = client.get(format!("{writer}:{number}")).expect("a reply");
                let expected = number.to_string().into_bytes();
                assert_eq!(value, Some(expected), "round {round}: {writer}:{number} is lost");
            }
        }
        cluster.wait_until_equal();
    }
    assert!(acknowledged.iter().all(|count| *count > 0), "nothing was written: {acknowledged:?}");
}

#[test]
fn all_nodes_killed_at_once_lose_nothing_that_was_acknowledged() {
    killed_at_once(3, &["--election-timeout", "300"]);
    killed_at_once(1, &["--election-timeout", "300", "--fsync", "never"]);
}

#[test]
#[ignore = "full size: two minutes"]
fn all_nodes_killed_at_once_30_times() {
    killed_at_once(full_size(30), &["--election-timeout", "300"]);
}

/// Bytes of the files of a directory, and whether one is a snapshot.
fn stored(directory: &Path) -> (u64, bool) {
    let (mut bytes, mut has_snapshot) = (0, false);
    for entry in fs::read_dir(directory).expect("a directory") {
        // A compaction may remove it meanwhile.
        let entry = entry.expect("read");
        let name = entry.file_name().into_string().expect("text");
        let is_segment = name.ends_with(".raftlog") || name.ends_with(".raftsnapshot");
        bytes += entry.metadata().map_or(0, |file| if is_segment { file.len() } else { 0 });
        has_snapshot |= name.ends_with(".raftsnapshot");
    }
    (bytes, has_snapshot)
}

#[test]
fn compaction_under_load_keeps_the_log_short_and_the_data_whole() {
    const MIB: u64 = 1 << 20;
    let mut cluster = RaftCluster::start(3, &[]);
    let mut client = cluster.client();
    let mut last = 0;
    // More than twice what a log may have without a compaction.
    for number in 0..150 {
        let value = vec![b'a' + (number % 26) as u8; MIB as usize];
        client.put(format!("key {}", number % 5), value).expect("stored");
        last = number;
    }
    for node in &cluster.nodes {
        poll("the log is short", || {
            let (bytes, has_snapshot) = stored(&node.directory);
            (has_snapshot && bytes < 110 * MIB).then_some(())
        });
    }
    cluster.wait_until_equal();
    cluster.nodes.iter_mut().for_each(|node| node.kill());
    (0..3).for_each(|index| cluster.restart(index));
    cluster.wait_for_voters(3);
    cluster.wait_until_equal();
    let mut client = cluster.client();
    for number in last - 4..=last {
        let value = client.get(format!("key {}", number % 5)).expect("a reply").expect("a value");
        let byte = b'a' + (number % 26) as u8;
        assert!(value.len() as u64 == MIB && value.iter().all(|other| *other == byte), "{number}");
    }
}

#[test]
fn a_directory_of_the_other_way_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_string();
    let (raft, eventual) = (path("raft"), path("eventual"));
    drop(Server::start(&["--raft", "--data-dir", &raft]));
    drop(Server::start(&["--data-dir", &eventual]));
    let way_out = "kvstore export HOST OLD_PORT | redis-cli -h HOST -p NEW_PORT --pipe";
    let log = refused(&["--data-dir", &raft]);
    assert!(log.contains("was started with --raft") && log.contains(way_out), "{log}");
    let log = refused(&["--raft", "--data-dir", &eventual]);
    assert!(log.contains("was started without --raft") && log.contains(way_out), "{log}");
}
