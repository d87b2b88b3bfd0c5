//! What a reply promises: that what it shows stays, that a gentle stop loses nothing, that `WAIT` counts who holds it.

mod common;

use std::sync::Arc;

use common::{Wire, resp};
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
    let http = ["GET /keys/k", "HEAD /keys/k", "DELETE /keys/k", "GET /keys", "GET /status.json", "GET /metrics"];
    let http = http.map(|line| format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes());
    let lines = ["GET k\n", "EXISTS k\n", "DELETE k\n", "DBSIZE\n", "INFO\n"].map(|line| line.as_bytes().to_vec());
    commands.iter().map(|words| resp(words)).chain(http).chain(lines).collect()
}

#[test]
fn a_reply_that_shows_a_key_to_be_gone_waits_for_the_delete() {
    let directory = tempfile::tempdir().unwrap();
    let configuration =
        Configuration { port: 0, data_dir: Some(directory.path().to_path_buf()), ..Configuration::default() };
    let server = NodeServer::start(Node::open(configuration).unwrap()).unwrap();
    let node: &Arc<Node> = &server.node;
    let log = &node.durability().unwrap().log;
    for request in requests_that_show_absence() {
        let (mut own, mut of_another) = (Batch::default(), Batch::default());
        node.put(b"k", b"v", &mut own).unwrap();
        node.commit(&mut own).unwrap();
        // Another connection has executed a delete, and its commit comes late.
        node.delete(b"k", &mut of_another).unwrap();
        let position = log.end();
        assert!(log.unwritten_bytes(position) > 0, "the delete is not committed yet");

        let mut wire = Wire::connect(server.address.port());
        wire.send(&request);
        let mut first = [0];
        std::io::Read::read_exact(&mut wire.stream, &mut first).unwrap();
        let request = request.escape_ascii();
        assert_eq!(log.unwritten_bytes(position), 0, "'{request}' was answered before the delete it shows was safe");
    }
}
