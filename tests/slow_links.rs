//! Links that are slow, refused or broken by their disks: everything arrives at last, and trying
//! costs little.

mod common;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::cluster::{
    ask, client, field, get, introduce, merge_from_the_future, number, row, start, state, three,
    wait_for, wait_for_value,
};
use common::slow::SlowPath;
use common::{SOON, Server, binary, poll, resp};
use kvstore::client::Response;
use kvstore::config::{Configuration, KEY_BYTES_MAX};
use kvstore::node::Node;
use kvstore::server::NodeServer;
use kvstore::store::digest::{SHARDS, bucket_of, key_hash, shard_of};
use kvstore::store::record::Record;
use kvstore::store::version::{Version, wall_clock_ms};

/// A server that is reached by a slow path, and the path.
fn behind_slow_path(
    bytes_a_second: u64,
    options: &[&str],
    seeds: &[&Server],
) -> (Server, SlowPath) {
    let port = common::cluster::free_port();
    let path = SlowPath::to(port, bytes_a_second);
    let advertise = format!("--advertise={}", path.address());
    let peers = common::cluster::peers(seeds);
    let options: Vec<&str> = options
        .iter()
        .copied()
        .chain([advertise.as_str()])
        .chain(peers.iter().map(String::as_str))
        .collect();
    (Server::start_on(port, &options, &[]), path)
}

#[test]
fn a_peer_hears_how_much_of_its_batch_was_read_and_nobody_else_does() {
    let server = Server::start(&[]);
    let value = vec![b'v'; 300 * 1024];
    let version = Version { time: wall_clock_ms() << 16, origin: 1 };
    let mut record = Vec::new();
    Record { version, key: b"batch", value: Some(&value) }.encode(&mut record);
    let (merge, set) = (resp(&[b"PEER", b"MERGE", &record]), resp(&[b"SET", b"k", &value]));
    let mut peer = server.connect();
    introduce(&mut peer, b"00000000000000b1");
    let mut other = server.connect();
    for (wire, request) in [(&mut peer, &merge), (&mut other, &set)] {
        wire.send(&request[..200 * 1024]);
    }
    let mut lines = [peer.line(), peer.line()];
    lines.iter_mut().for_each(|line| *line = line.replace('+', ""));
    let [first, second] = lines.map(|line| line.parse::<usize>().expect("a number"));
    assert!(first <= second && (190 * 1024..200 * 1024).contains(&second), "{first} {second}");
    other.send(&set[200 * 1024..]);
    other.expect("+OK\r\n");
    peer.send(&merge[200 * 1024..]);
    let mut reply = peer.line();
    while reply.starts_with('+') {
        reply = peer.line();
    }
    assert_eq!([reply, peer.line(), peer.line()], ["*2", ":1", ":0"]);
}

/// A node in this process whose patience with its peer is 2 s.
fn impatient(seed: &str) -> NodeServer {
    let mut configuration = Configuration { port: 0, ..Configuration::default() };
    configuration.replication.seeds = vec![seed.into()];
    configuration.limits.link_reply_timeout = Duration::from_secs(2);
    NodeServer::start(Node::new(configuration)).expect("it starts")
}

#[test]
fn a_batch_that_takes_longer_than_the_patience_arrives() {
    let (slow, path) = behind_slow_path(100_000, &[], &[]);
    let fast = impatient(&path.address());
    let mut client =
        kvstore::client::Client::connect(&format!("127.0.0.1:{}", fast.address.port())).unwrap();
    let value = vec![b'v'; 1_000];
    let keys: Vec<String> = (0..400).map(|i| format!("key{i}")).collect();
    let words: Vec<&[u8]> = [&b"MSET"[..]]
        .into_iter()
        .chain(keys.iter().flat_map(|key| [key.as_bytes(), &value]))
        .collect();
    client.request(&words).unwrap();
    client.put("late", "v").unwrap();
    wait_for_value(&slow, "late", Some("v"));
    poll("all of it", || (ask(&slow, &["DBSIZE"]) == Response::Integer(401)).then_some(()));
}

#[test]
fn a_node_that_replaced_another_at_its_address_gets_everything() {
    let folder = tempfile::tempdir().unwrap();
    let first = Server::start(&[]);
    let old = folder.path().join("old").display().to_string();
    let (mut replaced, path) = behind_slow_path(400_000, &["--data-dir", &old], &[&first]);
    wait_for(&first, path.port, "live");
    let port = replaced.port;
    replaced.kill();
    let value = "v".repeat(1_000);
    common::cluster::put_all(&first, (0..2_000).map(|i| format!("key{i} {value}")));
    let advertise = format!("--advertise={}", path.address());
    let (new, peer) = (
        folder.path().join("new").display().to_string(),
        format!("--peer=localhost:{}", first.port),
    );
    let began = Instant::now();
    let second = Server::start_on(port, &["--data-dir", &new, &advertise, &peer], &[]);
    poll("the new node has them", || {
        (ask(&second, &["DBSIZE"]) == Response::Integer(2_000)).then_some(())
    });
    assert!(
        began.elapsed() > Duration::from_secs(3),
        "it takes longer than the refused link waits between two tries"
    );
    let broken = number(&first, "links_broken");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(number(&first, "links_broken"), broken, "the refused link ends no other");
    let rows = common::cluster::text(ask(&first, &["PEERS"]));
    assert!(rows.contains("PEER FORGET") && rows.contains("state=live"), "{rows}");
}

#[test]
fn all_questions_of_an_exchange_cost_one_fsync() {
    let folder = tempfile::tempdir().unwrap();
    let server =
        Server::start(&["--fsync", "never", "--data-dir", &folder.path().display().to_string()]);
    let mut wire = server.connect();
    introduce(&mut wire, b"00000000000000b2");
    let fsyncs = || -> u64 {
        let info = common::cluster::text(ask(&server, &["INFO", "persistence"]));
        let line =
            info.lines().find_map(|line| line.strip_prefix("log_fsyncs:").map(str::to_string));
        line.expect("a count").parse().expect("a number")
    };
    let before = fsyncs();
    let mut requests = Vec::new();
    for shard in 0..64 {
        requests.extend(resp(&[b"SET", format!("key{shard}").as_bytes(), b"v"]));
        requests.extend(resp(&[b"PEER", b"DIGESTS", shard.to_string().as_bytes()]));
        requests.extend(resp(&[b"PEER", b"VERSIONS", shard.to_string().as_bytes(), b"0"]));
    }
    requests.extend(resp(&[b"PEER", b"DIGESTS"]));
    requests.extend(resp(&[b"ECHO", b"the end"]));
    wire.send(requests);
    wire.read_until(b"$7\r\nthe end\r\n");
    let cost = fsyncs() - before;
    // The bytes may arrive in two pieces.
    assert!((1..=3).contains(&cost), "{cost} fsyncs");
    wire.send(resp(&[b"PEER", b"DIGESTS"]));
    wire.send(resp(&[b"ECHO", b"the end"]));
    wire.read_until(b"$7\r\nthe end\r\n");
    assert_eq!(fsyncs() - before, cost, "what is on the disk costs nothing");
}

/// A server whose log can take so many KiB.
fn with_little_disk(folder: &std::path::Path, seeds: &[&Server], port: u16) -> Server {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""]).arg(binary());
    command.args(["server", &port.to_string(), "--fsync", "always", "--data-dir"]).arg(folder);
    command.args(common::cluster::peers(seeds)).env("RUST_LOG", "info");
    Server::spawn(command).expect("it starts")
}

#[test]
fn two_nodes_with_full_disks_refuse_each_other_seldom_and_log_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let first = with_little_disk(&folder.path().join("a"), &[], 0);
    let second = with_little_disk(&folder.path().join("b"), &[&first], 0);
    wait_for(&first, second.port, "live");
    wait_for(&second, first.port, "live");
    for server in [&first, &second] {
        let value = "v".repeat(100_000);
        let refused = common::cluster::text(ask(server, &["SET", "k", &value]));
        assert!(refused.contains("read-only"), "{refused}");
    }
    wait_for(&first, second.port, "refused: MISCONF read-only");
    wait_for(&second, first.port, "refused: MISCONF read-only");
    // The last word of both: their first one may have been that an outcome is unknown.
    [&first, &second].iter().for_each(|server| server.wait_for_log("(not stored)"));
    let lines = || {
        [&first, &second]
            .map(|server| server.log().lines().filter(|line| line.contains("peer")).count())
    };
    let received =
        || -> u64 { number(&first, "received_bytes") + number(&second, "received_bytes") };
    let (lines_before, received_before, began) = (lines(), received(), Instant::now());
    thread::sleep(Duration::from_secs(4));
    assert_eq!(lines(), lines_before, "{}", first.log());
    // Each attempt brings an introduction of some 200 bytes and a refusal.
    let attempts = (received() - received_before) / 200;
    assert!(attempts <= 10 * began.elapsed().as_secs() + 20, "{attempts} attempts");
    assert!(state(&first, second.port).starts_with("refused"));
}

#[test]
fn refused_records_are_not_sent_again_and_again() {
    let strict = Server::start(&["--max-clock-skew", "10"]);
    let ahead = start(&[], &[&strict]);
    wait_for(&ahead, strict.port, "live");
    merge_from_the_future(&ahead, 50_000);
    let value = "v".repeat(1_000);
    common::cluster::put_all(&ahead, (0..2_000).map(|i| format!("key{i} {value}")));
    wait_for(&ahead, strict.port, "refused: clock skew");
    let sent = || -> u64 {
        let row = row(&ahead, strict.port).expect("a row");
        let bytes = row.split(" sent_bytes=").nth(1).and_then(|rest| rest.split(' ').next());
        bytes.and_then(|bytes| bytes.parse().ok()).expect("a number")
    };
    thread::sleep(Duration::from_secs(2));
    let before = sent();
    thread::sleep(Duration::from_secs(5));
    let more = sent() - before;
    assert!(more < 300_000, "{more} bytes in 5 s");
    // Others go on.
    ask(&strict, &["PUT", "other", "v"]);
    wait_for_value(&ahead, "other", Some("v"));
    assert_eq!(field(&ahead, "queue_overflows"), "0");
}

#[test]
fn a_busy_cluster_with_one_cut_link_relays_a_write_within_ten_seconds() {
    let [first, second, third] = three(&["--enable-fault-injection"]);
    ask(&first, &["PARTITION", &format!("localhost:{}", second.port)]);
    wait_for(&first, second.port, "partitioned");
    wait_for(&first, third.port, "live");
    let mut writer = client(&first);
    // Never idle, as no cluster is that matters.
    let mut keep_busy = |from: Instant| {
        while from.elapsed() < Duration::from_millis(200) {
            writer.put("busy", "v").unwrap();
            thread::sleep(Duration::from_millis(10));
        }
    };
    for round in 0..2 {
        let key = format!("key{round}");
        ask(&first, &["PUT", &key, "v"]);
        let began = Instant::now();
        while get(&second, &key).is_none() {
            keep_busy(Instant::now());
            assert!(began.elapsed() < SOON, "{key} never arrives");
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

/// Keys of the longest size that all fall into one bucket.
fn keys_of_one_bucket(count: usize) -> Vec<Vec<u8>> {
    let is_it = |hash: u64| (shard_of(hash), bucket_of(hash)) == (5 % SHARDS, 7);
    let hashed = |hash: u64, bytes: &[u8]| {
        bytes
            .iter()
            .fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
    };
    let start = vec![b'x'; KEY_BYTES_MAX - 4];
    let before = key_hash(&start);
    let ends = (0..u32::MAX).map(u32::to_le_bytes).filter(|end| is_it(hashed(before, end)));
    ends.take(count).map(|end| [&start[..], &end].concat()).collect()
}

#[test]
fn a_bucket_with_a_long_list_is_compared_in_parts() {
    let [first, second] = common::cluster::two_with_keys(10);
    let keys = keys_of_one_bucket(40);
    let mut client = client(&first);
    keys.iter().for_each(|key| client.put(key, "old").unwrap());
    let count = 10 + keys.len() as i64;
    poll("the other has them", || {
        (ask(&second, &["DBSIZE"]) == Response::Integer(count)).then_some(())
    });
    // As it is on the wire: the first part, and the key to go on after.
    let mut wire = first.connect();
    introduce(&mut wire, b"00000000000000b3");
    wire.send(resp(&[b"PEER", b"VERSIONS", b"5", b"7"]));
    assert_eq!(wire.line(), "*2");
    let len: usize = wire.line()[1..].parse().expect("a length");
    assert!(len <= 1024 * 1024 && len > 15 * KEY_BYTES_MAX, "{len}");
    drop(wire);
    ask(&first, &["PARTITION", "*"]);
    wait_for(&first, second.port, "partitioned");
    for key in [&keys[0], &keys[20], &keys[39]] {
        client.put(key, "new").unwrap();
    }
    ask(&first, &["HEAL"]);
    let mut other = common::cluster::client(&second);
    for key in [&keys[0], &keys[20], &keys[39]] {
        poll("the new value arrives", || {
            (other.get(key).unwrap().as_deref() == Some(b"new")).then_some(())
        });
    }
    wait_for(&first, second.port, "live");
}
