//! What those may do who have not given the password, and those who have and take more than their share.

mod common;

use common::{Server, Wire, poll, resp};

/// Starts a server that wants the password `secret`.
fn guarded(options: &[&str]) -> Server {
    Server::start_on(0, options, &[("KVSTORE_PASSWORD", "secret")])
}

#[test]
fn words_of_strangers_forge_no_line_of_the_log_and_fill_no_disk() {
    let server = guarded(&[]);
    let forged = b"x\n[2026-01-01T00:00:00.000Z main ERROR kvstore] root logged in \x1b]0;owned\x07";
    let hello = |address: &[u8]| {
        resp(&[b"PEER", b"HELLO", b"1", b"kvstore", b"0000000000000001", b"0000000000000001", b"memory", b"1", address])
    };
    let mut wire = server.connect();
    wire.ask(hello(forged), "-NOAUTH Authentication required.\r\n");
    server.wait_for_log(
        r"refused the peer 'x\n[2026-01-01T00:00:00.000Z main ERROR kvstore] root logged in \x1b]0;owned\x07'",
    );
    for number in 0..500 {
        let address = format!("{number}:{}", "B".repeat(8_000));
        wire.ask(hello(address.as_bytes()), "-NOAUTH Authentication required.\r\n");
    }
    let log = server.log();
    assert!(!log.lines().any(|line| line.starts_with("[2026-01-01")), "{log}");
    assert!(log.len() < 20_000, "500 refusals: {} bytes of log", log.len());
    // With the password as well: a cluster's name and a version are others' words, too.
    let mut member = server.connect();
    member.ask(resp(&[b"AUTH", b"secret"]), "+OK\r\n");
    let words: [&[u8]; 9] =
        [b"PEER", b"HELLO", b"9\x1b[2J\n[FAKE]", b"kvstore", b"0000000000000002", b"1", b"memory", b"1", b"a:1"];
    member.send(resp(&words));
    assert!(member.line().contains(r"'9\x1b[2J\n[FAKE]'"));
    assert!(!server.log().contains('\x1b'));
}

/// A HELLO of the node with this id, as a peer in memory sends it.
fn hello(id: u64) -> Vec<u8> {
    let id = format!("{id:016x}");
    resp(&[
        b"PEER",
        b"HELLO",
        b"2",
        b"kvstore",
        id.as_bytes(),
        b"0000000000000001",
        b"memory",
        b"1",
        b"localhost:1",
        b"eventual",
        b"-",
    ])
}

/// Sends a request and reads whatever is answered at once: the answer to a HELLO differs from node to node.
fn ask_and_read_some(wire: &mut Wire, request: &[u8]) {
    wire.send(request);
    let mut buffer = [0; 64 * 1024];
    let len = std::io::Read::read(&mut wire.stream, &mut buffer).expect("an answer");
    assert!(len > 0);
    // The reply to a PING shows that all of the answer has come.
    wire.send(resp(&[b"PING"]));
    let mut end = buffer[..len].to_vec();
    while !end.ends_with(b"+PONG\r\n") {
        let len = std::io::Read::read(&mut wire.stream, &mut buffer).expect("an answer");
        assert!(len > 0);
        end.extend_from_slice(&buffer[..len]);
    }
}

#[test]
fn a_connection_that_was_a_peers_leaves_no_descriptor_behind() {
    let server = Server::start(&[]);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("Linux").count();
    let mut control = server.connect();
    ask_and_read_some(&mut control, &hello(1));
    let before = descriptors();
    for number in 2..60 {
        let mut wire = server.connect();
        ask_and_read_some(&mut wire, &hello(number));
        match number % 3 {
            // As a second node, as nobody, or as the same node on the same connection.
            0 => ask_and_read_some(&mut wire, &hello(number + 1_000)),
            1 => ask_and_read_some(&mut wire, &resp(&[b"RESET"])),
            _ => ask_and_read_some(&mut wire, &hello(number)),
        }
    }
    // A link to the address that the peers named may be open for a moment.
    poll("the descriptors are free again", || (descriptors() <= before + 2).then_some(()));
}
