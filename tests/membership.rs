//! Who is in the cluster, with real processes: introductions, strangers, nodes that cannot be reached back, and what a
//! restart remembers.

mod common;

use common::cluster::{ask, introduce, number, text};
use common::{Server, resp};

/// A HELLO of these words, as a request.
fn hello(words: &[&str]) -> Vec<u8> {
    let words: Vec<&[u8]> = ["PEER", "HELLO"].iter().chain(words).map(|word| word.as_bytes()).collect();
    resp(&words)
}

#[test]
fn an_introduction_is_version_2_and_anything_else_is_refused_with_the_way_out() {
    let server = Server::start(&["--enable-fault-injection"]);
    let mut wire = server.connect();
    introduce(&mut wire, b"00000000000000a1");
    let ids = ["00000000000000a2", "00000000000000b2"];
    let raft = ["2", "kvstore", ids[0], ids[1], "disk", "1", "localhost:1", "raft", "0000000000000001"];
    wire.ask(hello(&raft), "-ERR PEER HELLO: one of the two nodes is raft, the other eventual, and they cannot be of one cluster; start all nodes the same way\r\n");
    let old = ["1", "kvstore", ids[0], ids[1], "memory", "1", "localhost:1"];
    wire.ask(
        hello(&old),
        "-ERR PEER HELLO: version '1' is not spoken here, only 2; run the same release on all nodes\r\n",
    );
    wire.ask(hello(&[]), "-ERR PEER HELLO: 9 words are needed, not 0\r\n");
    assert_eq!(number(&server, "peers_refused"), 3);
    server.wait_for_log("refused the peer localhost:1: PEER HELLO: version '1' is not spoken here");
    // The answer, byte for byte.
    let info = text(ask(&server, &["INFO", "server"]));
    let id = |name: &str| info.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).expect(name).to_string();
    wire.send(hello(&["2", "kvstore", ids[0], ids[1], "memory", "1", "localhost:1", "eventual", "-"]));
    wire.expect("*3\r\n*9\r\n$1\r\n2\r\n$7\r\nkvstore\r\n");
    wire.expect(format!("$16\r\n{}\r\n$16\r\n{}\r\n$6\r\nmemory\r\n", id("node_id"), id("run_id")));
    let clock_len = wire.line();
    let clock = wire.line();
    assert_eq!((clock_len, clock.parse::<u64>().is_ok()), (format!("${}", clock.len()), true));
    let address = format!("localhost:{}", server.port);
    wire.expect(format!("${}\r\n{address}\r\n$8\r\neventual\r\n$1\r\n-\r\n", address.len()));
    wire.expect("*0\r\n*0\r\n");
}
