//! What those may do who have not given the password, and those who have and take more than their share.

mod common;

use common::{Server, resp};

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
