//! What a reply promises: that what it shows stays, that a gentle stop loses nothing, that `WAIT`
//! counts who holds it.

mod common;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::cluster::{ask, get, row, start, wait_for, wait_for_value};
use common::{Server, Wire, poll, resp};
use kvstore::client::{Client, Response};
use kvstore::config::Configuration;
use kvstore::node::{Batch, Node};
use kvstore::server::NodeServer;

/// Requests whose reply shows that the key `k` is not there, or how many keys there are.
fn requests_that_show_absence() -> Vec<Vec<u8>> {
    let commands: &[&[&[u8]]] = &[
        &[b"GET", b"k"],
        &[b"MGET", b"k"],
        &[b"EXISTS", b"k"],
        &[b"STRLEN", b"k"],
        &[b"TYPE", b"k"],
        &[b"DEL", b"k"],
        &[b"UNLINK", b"k"],
        &[b"DELETE", b"k"],
        &[b"DBSIZE"],
        &[b"KEYS", b"*"],
        &[b"SCAN", b"0"],
        &[b"INFO"],
        &[b"INFO", b"keyspace"],
        &[b"FLUSHALL"],
        &[b"FLUSHDB"],
    ];
    let http = [
        "GET /keys/k",
        "HEAD /keys/k",
        "DELETE /keys/k",
        "GET /keys",
        "GET /status.json",
        "GET /metrics",
    ];
    let http = http.map(|line| {
        format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
    });
    let lines = ["GET k\n", "EXISTS k\n", "DELETE k\n", "DBSIZE\n", "INFO\n"]
        .map(|line| line.as_bytes().to_vec());
    commands.iter().map(|words| resp(words)).chain(http).chain(lines).collect()
}

#[test]
fn a_reply_that_shows_a_key_to_be_gone_waits_for_the_delete() {
    let directory = tempfile::tempdir().unwrap();
    let configuration = Configuration {
        port: 0,
        data_dir: Some(directory.path().to_path_buf()),
        ..Configuration::default()
    };
    let server = NodeServer::start(Node::open(configuration).unwrap()).unwrap();
    let node: &Arc<Node> = &server.node;
    for request in requests_that_show_absence() {
        let (mut own, mut of_another) = (Batch::default(), Batch::default());
        node.put(b"k", b"v", &mut own).unwrap();
        node.commit(&mut own).unwrap();
        // Another connection has executed a delete, and its commit comes late.
        node.delete(b"k", &mut of_another).unwrap();
        assert!(node.uncommitted_bytes() > 0, "the delete is not committed yet");

        let mut wire = Wire::connect(server.address.port());
        wire.send(&request);
        let mut first = [0];
        std::io::Read::read_exact(&mut wire.stream, &mut first).unwrap();
        let request = request.escape_ascii();
        assert_eq!(
            node.uncommitted_bytes(),
            0,
            "'{request}' was answered before the delete it shows was safe"
        );
    }
}

/// Writes from several connections until the server ends; the keys that were acknowledged.
fn write_until_the_end(server: &Server, writers: usize, stop: impl FnOnce() + Send) -> Vec<String> {
    let acknowledged = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for writer in 0..writers {
            let (acknowledged, mut client) =
                (&acknowledged, Client::connect(&server.address()).unwrap());
            scope.spawn(move || {
                for i in 0.. {
                    let key = format!("writer{writer}:{i}");
                    match client.request(&[b"SET", key.as_bytes(), b"v"]) {
                        Ok(Response::Simple(_)) => acknowledged.lock().unwrap().push(key),
                        // Refused, or outcome unknown; and at last the connection is gone.
                        Ok(_) => {}
                        Err(_) => return,
                    }
                }
            });
        }
        scope.spawn(stop);
    });
    acknowledged.into_inner().unwrap()
}

/// Asks for a gentle stop once so many writes are there.
fn stop_under_load(server: &mut Server, writers: usize) -> Vec<String> {
    let port = server.port;
    let acknowledged = write_until_the_end(server, writers, move || {
        let mut client = Client::connect(&format!("127.0.0.1:{port}")).unwrap();
        poll("writes are under way", || {
            matches!(client.request(&[b"DBSIZE"]), Ok(Response::Integer(1_000..))).then_some(())
        });
        Wire::connect(port).send("SHUTDOWN\n");
    });
    assert_eq!(server.exit_code(), Some(0));
    assert!(acknowledged.len() >= 1_000);
    acknowledged
}

fn missing(server: &Server, keys: &[String]) -> Vec<String> {
    let mut client = Client::connect(&server.address()).unwrap();
    let mut missing = Vec::new();
    for keys in keys.chunks(1_000) {
        let words: Vec<&[u8]> =
            [&b"MGET"[..]].into_iter().chain(keys.iter().map(String::as_bytes)).collect();
        let Response::Array(values) = client.request(&words).unwrap() else { panic!("no list") };
        let pairs = keys.iter().zip(values);
        missing.extend(
            pairs.filter(|(_, value)| *value == Response::Null).map(|(key, _)| key.clone()),
        );
    }
    missing
}

#[test]
fn a_gentle_stop_under_load_brings_every_acknowledged_write_to_the_live_peer() {
    for _ in 0..3 {
        let peer = Server::start(&[]);
        let mut node = start(&[], &[&peer]);
        wait_for(&node, peer.port, "live");
        let acknowledged = stop_under_load(&mut node, 4);
        assert_eq!(missing(&peer, &acknowledged), Vec::<String>::new());
    }
}

#[test]
fn a_gentle_stop_under_load_keeps_every_acknowledged_write_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let options = ["--data-dir", directory.path().to_str().unwrap()];
    let mut node = Server::start(&options);
    let acknowledged = stop_under_load(&mut node, 4);
    let node = Server::start(&options);
    assert_eq!(missing(&node, &acknowledged), Vec::<String>::new());
}

#[test]
fn a_gentle_stop_waits_for_the_live_peer_and_not_for_the_dead_one() {
    let slow = Server::start(&[]);
    let node = start(&[], &[&slow]);
    let mut dead = start(&[], &[&node]);
    wait_for(&node, slow.port, "live");
    wait_for(&node, dead.port, "live");
    common::signal(slow.pid(), "STOP");
    ask(&node, &["SET", "first", "v"]);
    wait_for_value(&dead, "first", Some("v"));
    ask(&node, &["SET", "second", "v"]);
    // The peer that will be dead holds all; the one that is slow cannot have the second write.
    wait_for_value(&dead, "second", Some("v"));
    dead.kill();
    poll("the loss is noticed", || row(&node, dead.port).filter(|row| !row.contains("state=live")));
    let mut node = node;
    let began = Instant::now();
    node.connect().send("SHUTDOWN\n");
    thread::sleep(Duration::from_millis(300));
    assert!(node.is_running(), "it waits for the slow peer");
    common::signal(slow.pid(), "CONT");
    assert_eq!(node.exit_code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!([get(&slow, "first"), get(&slow, "second")], [Some("v".into()), Some("v".into())]);
}

#[test]
fn a_node_that_stops_takes_neither_writes_nor_connections() {
    let configuration = Configuration { port: 0, ..Configuration::default() };
    let server = NodeServer::start(Node::new(configuration)).unwrap();
    let port = server.address.port();
    let mut wire = Wire::connect(port);
    wire.ask("PUT k before\n", "OK\n");
    let mut probe = Wire::connect(port);
    let probed = |close: &str| format!("GET /readyz HTTP/1.1\r\nHost: localhost\r\n{close}\r\n");
    probe.ask(probed(""), "HTTP/1.1 200 OK\r\n");
    let mut batch = Batch::default();
    server.node.put(b"in-flight", b"v", &mut batch).unwrap();
    server.node.stop.ask();
    wire.ask("PUT k after\n", "ERROR stopping: ask another node (not stored)\n");
    wire.ask("DELETE k\n", "ERROR stopping: ask another node (not stored)\n");
    wire.ask("GET k\n", "before\n");
    let refused = server.node.commit(&mut batch).unwrap_err();
    assert_eq!(refused.to_string(), "stopping: ask another node (outcome unknown)");
    probe.send(probed("Connection: close\r\n"));
    let answers = String::from_utf8(probe.rest()).unwrap();
    assert!(answers.contains("HTTP/1.1 503"), "{answers}");
    server.stop().unwrap();
    poll("the listener closes", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
    });
}

#[test]
fn wait_does_not_count_a_peer_whose_memory_is_gone() {
    let mut peer = Server::start(&[]);
    let node = start(&[], &[&peer]);
    wait_for(&node, peer.port, "live");
    let mut wire = node.connect();
    wire.ask("PUT k v\nWAIT 1 20000\n", "OK\n1\n");
    let port = peer.port;
    peer.kill();
    poll("the loss is noticed", || row(&node, port).filter(|row| !row.contains("state=live")));
    wire.ask("WAIT 1 50\n", "0\n");
    // At the same address comes one that has nothing: it counts once it has been given everything.
    let peer = Server::start_on(port, &[], &[]);
    wire.ask("WAIT 1 20000\n", "1\n");
    assert_eq!(get(&peer, "k").as_deref(), Some("v"));
}

#[test]
fn wait_counts_a_peer_that_is_away_with_what_it_has_stored() {
    let directory = tempfile::tempdir().unwrap();
    let mut peer = Server::start(&["--data-dir", directory.path().to_str().unwrap()]);
    let node = start(&[], &[&peer]);
    wait_for(&node, peer.port, "live");
    let mut wire = node.connect();
    wire.ask("PUT k v\nWAIT 1 20000\n", "OK\n1\n");
    peer.kill();
    poll("the loss is noticed", || row(&node, peer.port).filter(|row| !row.contains("state=live")));
    wire.ask("WAIT 1 50\nPUT k w\nWAIT 1 50\n", "1\nOK\n0\n");
}
