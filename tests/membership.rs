//! Who is in the cluster, with real processes: introductions, strangers, nodes that cannot be
//! reached back, and what a restart remembers.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use common::cluster::{
    ask, free_port, get, introduce, introduce_as, number, row, start, state, text, wait_for,
};
use common::{Server, http, poll, resident_bytes, resp};
use kvstore::config::Configuration;
use kvstore::node::{Batch, Node};
use kvstore::store::record::Record;
use kvstore::store::version::{COUNTER_BITS, Version, wall_clock_ms};

/// A HELLO of these words, as a request.
fn hello(words: &[&str]) -> Vec<u8> {
    let words: Vec<&[u8]> =
        ["PEER", "HELLO"].iter().chain(words).map(|word| word.as_bytes()).collect();
    resp(&words)
}

#[test]
fn an_introduction_is_version_2_and_anything_else_is_refused_with_the_way_out() {
    let server = Server::start(&["--enable-fault-injection"]);
    let mut wire = server.connect();
    introduce(&mut wire, b"00000000000000a1");
    let ids = ["00000000000000a2", "00000000000000b2"];
    let raft =
        ["2", "kvstore", ids[0], ids[1], "disk", "1", "localhost:1", "raft", "0000000000000001"];
    wire.ask(
        hello(&raft),
        "-ERR PEER HELLO: one of the two nodes is raft, the other eventual, and they cannot be of \
         one cluster; start all nodes the same way\r\n",
    );
    let old = ["1", "kvstore", ids[0], ids[1], "memory", "1", "localhost:1"];
    wire.ask(
        hello(&old),
        "-ERR PEER HELLO: version '1' is not spoken here, only 2; run the same release on all \
         nodes\r\n",
    );
    wire.ask(hello(&[]), "-ERR PEER HELLO: 9 words are needed, not 0\r\n");
    assert_eq!(number(&server, "peers_refused"), 3);
    // One line a second: the others are counted.
    server.wait_for_log("PEER HELLO: one of the two nodes is raft, the other eventual");
    // The answer, byte for byte.
    let info = text(ask(&server, &["INFO", "server"]));
    let id = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")))
            .expect(name)
            .to_string()
    };
    wire.send(hello(&[
        "2",
        "kvstore",
        ids[0],
        ids[1],
        "memory",
        "1",
        "localhost:1",
        "eventual",
        "-",
    ]));
    wire.expect("*3\r\n*9\r\n$1\r\n2\r\n$7\r\nkvstore\r\n");
    wire.expect(format!("$16\r\n{}\r\n$16\r\n{}\r\n$6\r\nmemory\r\n", id("node_id"), id("run_id")));
    let clock_len = wire.line();
    let clock = wire.line();
    assert_eq!((clock_len, clock.parse::<u64>().is_ok()), (format!("${}", clock.len()), true));
    let address = format!("localhost:{}", server.port);
    wire.expect(format!("${}\r\n{address}\r\n$8\r\neventual\r\n$1\r\n-\r\n", address.len()));
    wire.expect("*0\r\n*0\r\n");
}

/// A record of key `k` with the value `old`, stamped now.
fn old_value() -> Vec<u8> {
    let (version, mut record) =
        (Version { time: wall_clock_ms() << COUNTER_BITS, origin: 1 }, Vec::new());
    Record { version, key: b"k", value: Some(b"old") }.encode(&mut record);
    record
}

/// Says hello on a new connection, as a node that nobody can reach, and hands over a record.
fn push(server: &Server, record: &[u8]) {
    let mut wire = server.connect();
    introduce(&mut wire, b"00000000000000a1");
    wire.ask(resp(&[b"PEER", b"MERGE", record]), "*2\r\n:1\r\n:0\r\n");
}

#[test]
fn a_delete_is_safe_from_a_node_that_was_never_reached_back() {
    let directory = tempfile::tempdir().unwrap();
    let option = format!("--data-dir={}", directory.path().display());
    let mut server = Server::start(&[&option, "--fsync=always"]);
    let record = old_value();
    push(&server, &record);
    assert_eq!(get(&server, "k").as_deref(), Some("old"));
    server.connect().ask("DELETE k\n", "OK\n");
    let port = server.port;
    server.kill();
    let server = Server::start_on(port, &[&option, "--fsync=always"], &[]);
    assert_eq!(number(&server, "tombstones"), 1);
    // Its id is known before it comes back.
    assert!(row(&server, 1).expect("a row").contains("id=00000000000000a1"));
    push(&server, &record);
    assert_eq!(get(&server, "k"), None);
}

#[test]
fn a_delete_on_a_node_that_has_just_started_is_safe_from_those_that_come_later() {
    let server = Server::start(&[]);
    let record = old_value();
    server.connect().ask("DELETE k\n", "OK\n");
    push(&server, &record);
    assert_eq!(get(&server, "k"), None);
}

#[test]
fn a_node_with_members_keeps_tombstones_before_it_has_links() {
    let directory = tempfile::tempdir().unwrap();
    let option = format!("--data-dir={}", directory.path().display());
    let mut server = Server::start(&[&option]);
    push(&server, &old_value());
    server.kill();
    let node = Node::open(Configuration {
        data_dir: Some(directory.path().into()),
        ..Configuration::default()
    });
    let (node, mut batch) = (node.expect("it opens"), Batch::default());
    assert!(!node.is_serving(), "clients wait for the links");
    node.start_serving();
    assert!(node.delete(b"k", &mut batch).expect("it is writable"));
    assert_eq!(node.size().tombstones, 1);
}

#[test]
fn tombstones_go_though_a_named_seed_never_starts() {
    let option = format!("--peer=localhost:{}", free_port());
    let server = Server::start(&[&option, "--tombstone-grace=1"]);
    server.connect().ask("DEL a b c d\n", "0\n");
    assert!(number(&server, "tombstones") + number(&server, "tombstones_dropped") >= 4);
    poll("they are forgotten", || (number(&server, "tombstones_dropped") >= 4).then_some(()));
    assert_eq!(number(&server, "tombstones"), 0);
}

#[test]
fn two_copies_of_a_data_directory_are_refused_by_the_third_node() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["original", "copy"].map(|name| directory.path().join(name));
    let options = paths.each_ref().map(|path| format!("--data-dir={}", path.display()));
    let third = Server::start(&[]);
    let mut original = start(&[&options[0]], &[&third]);
    wait_for(&third, original.port, "live");
    original.kill();
    std::fs::create_dir(&paths[1]).unwrap();
    for file in std::fs::read_dir(&paths[0]).unwrap().flatten() {
        std::fs::copy(file.path(), paths[1].join(file.file_name())).unwrap();
    }
    let both = [start(&[&options[0]], &[&third]), start(&[&options[1]], &[&third])];
    third.wait_for_log(
        "a copied data directory; stop one of them, and start it again with an empty directory",
    );
    for node in &both {
        poll("the copy is noticed", || {
            state(node, third.port).contains("copied data directory").then_some(())
        });
    }
}

/// A program that connects as a peer would find it: answers every connection with these bytes,
/// again and again.
fn answer_with(first: String, rest: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let mut sent = stream.write_all(first.as_bytes());
            while sent.is_ok() && !rest.is_empty() {
                sent = stream.write_all(rest.as_bytes());
            }
            // Until the other end has hung up.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    port
}

#[test]
fn an_endless_answer_to_a_hello_is_not_listened_to() {
    let port = answer_with("*1000000000\r\n".into(), "*0\r\n".repeat(65_536));
    let server = Server::start(&[]);
    let before = resident_bytes(server.pid());
    introduce_as(&mut server.connect(), b"00000000000000aa", &format!("localhost:{port}"));
    poll("the answer is too long", || row(&server, port)?.contains("longer reply").then_some(()));
    let after = resident_bytes(server.pid());
    assert!(after < before + (32 << 20), "{before} bytes before, {after} after");
}

#[test]
fn an_answer_with_too_many_bans_is_refused_and_stored_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&[&format!("--data-dir={}", directory.path().display())]);
    let words = |port: u16| {
        let address = format!("localhost:{port}");
        let words = [
            "2",
            "kvstore",
            "00000000000000aa",
            "00000000000000bb",
            "memory",
            "1",
            &address,
            "eventual",
            "-",
        ];
        words.map(|word| format!("${}\r\n{word}\r\n", word.len())).concat()
    };
    let bans: String = (0..10_001).map(|id| format!("$16\r\n{id:016x}\r\n")).collect();
    // Its own address does not matter for what is tested.
    let port =
        answer_with(format!("*3\r\n*9\r\n{}*0\r\n*10001\r\n{bans}", words(1)), String::new());
    introduce_as(&mut server.connect(), b"00000000000000aa", &format!("localhost:{port}"));
    poll("it is refused", || state(&server, port).contains("10001 bans").then_some(()));
    let file = std::fs::read_to_string(directory.path().join("node")).unwrap();
    assert!(!file.contains("banned") && file.contains("00000000000000aa"), "{file}");
}

#[test]
fn without_a_password_no_stranger_makes_a_node_connect_to_other_machines() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.send(hello(&[
        "2",
        "kvstore",
        "00000000000000aa",
        "00000000000000bb",
        "disk",
        "1",
        "192.0.2.1:1",
        "eventual",
        "-",
    ]));
    let refused = wire.line();
    assert!(refused.contains("'192.0.2.1:1'") && refused.contains("--insecure"), "{refused}");
    assert_eq!(text(ask(&server, &["PEERS"])), "");
}

#[test]
fn a_peer_that_cannot_be_reached_is_shown_with_the_reason_and_as_never_met() {
    let port = free_port();
    let server = Server::start(&[&format!("--peer=localhost:{port}")]);
    let shown = poll("the reason", || row(&server, port).filter(|row| row.contains(" error=")));
    assert!(shown.contains(" state=connecting "), "{shown}");
    assert!(shown.contains("refused"), "{shown}");
    server.wait_for_log(&format!("localhost:{port} cannot be reached yet, and is tried again: "));
    let status = http::get(&server, "/status.json").json();
    let peer = &status["peers"][0];
    assert_eq!((&peer["state"], &peer["met"]), (&"connecting".into(), &false.into()));
    assert!(peer["error"].as_str().is_some_and(|error| error.contains("refused")), "{peer}");
}

#[test]
fn a_hello_of_any_length_without_the_password_is_refused_and_harms_nobody() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret").unwrap();
    let mut server = Server::start(&[&format!("--password-file={}", file.path().display())]);
    for words in 0..20 {
        let mut wire = server.connect();
        wire.send(hello(&vec!["x"; words]));
        assert_eq!(wire.line(), "-NOAUTH Authentication required.", "{words} words");
    }
    assert!(server.is_running());
    let mut wire = server.connect();
    wire.ask("AUTH secret\nPING\n", "OK\nPONG\n");
    wire.send("INFO replication\n");
    let refused =
        std::iter::repeat_with(|| wire.line()).find(|line| line.starts_with("peers_refused:"));
    assert_eq!(refused.as_deref(), Some("peers_refused:20"));
}
