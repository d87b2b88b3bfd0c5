//! Every limit at a real socket: what happens when it is reached, and that others do not notice.

mod common;

use common::{SOON, Server, Wire, cpu_time, descriptors, poll, resp};
use kvstore::config::{Configuration, Limits};
use kvstore::node::Node;
use kvstore::random::Random;
use kvstore::server::NodeServer;
use std::io::{ErrorKind, Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: usize = 1024 * 1024;

/// A server in this process with limits of its own; its port.
fn serve(limits: Limits) -> u16 {
    let configuration = Configuration { port: 0, limits, ..Configuration::default() };
    NodeServer::start(Node::new(configuration)).expect("it starts").address.port()
}

#[test]
fn keys_have_1_to_65536_bytes() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    let (longest, too_long) = (vec![b'k'; 65_536], vec![b'k'; 65_537]);
    wire.ask(resp(&[b"SET", &longest, b"v"]), "+OK\r\n");
    wire.ask(resp(&[b"GET", &longest]), "$1\r\nv\r\n");
    wire.ask(resp(&[b"SET", &too_long, b"v"]), "-ERR key too long: 65537 bytes, at most 65536\r\n");
    wire.ask(resp(&[b"MSET", b"a", b"1", b"", b"2"]), "-ERR key is empty\r\n");
    wire.ask(resp(&[b"GET", b"a"]), "$-1\r\n");
    wire.ask(resp(&[b"GET", b""]), "-ERR key is empty\r\n");
    let mut lines = server.connect();
    let line = |key: &[u8]| [b"GET ", key, b"\n"].concat();
    lines.ask(line(&longest), "v\n");
    lines.ask(line(&too_long), "ERROR key too long: 65537 bytes, at most 65536\n");
    lines.ask("PUT  v\n", "ERROR key is empty\n");
    lines.ask("PING\n", "PONG\n");
}

#[test]
fn values_have_at_most_64_mib() {
    let server = Server::start(&[]);
    let longest = vec![b'v'; 64 * MIB];
    let mut wire = server.connect();
    wire.ask(resp(&[b"SET", b"k", &longest]), "+OK\r\n");
    wire.ask(resp(&[b"STRLEN", b"k"]), ":67108864\r\n");
    wire.send(resp(&[b"GET", b"k"]));
    wire.expect("$67108864\r\n");
    wire.expect([&longest[..], b"\r\n"].concat());
    // In RESP the length alone is refused, before anything follows it.
    wire.ask(
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$67108865\r\n",
        "-ERR Protocol error: invalid bulk length\r\n",
    );
    assert_eq!(wire.rest(), b"");
    // A line shows its length only at its end: the value is refused and the connection goes on.
    let mut lines = server.connect();
    lines.ask(
        [b"PUT k ", &longest[..], b"v\n"].concat(),
        "ERROR value too long: 67108865 bytes, at most 67108864\n",
    );
    lines.ask([b"PUT k2 ", &longest[..], b"\n"].concat(), "OK\n");
    lines.ask("STRLEN k2\n", "67108864\n");
}

#[test]
fn a_line_has_a_limit() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    let line = vec![b'x'; 64 * MIB + 128 * 1024 + 1];
    let _ = wire.stream.write_all(&line);
    assert_eq!(wire.line(), "ERROR line too long: at most 67239936 bytes");
    assert_eq!(wire.rest(), b"");
    assert!(server.log().lines().all(|line| !line.contains("panic")));
}

#[test]
fn resp_lengths_are_checked_before_anything_is_allocated() {
    let mut server = Server::start(&[]);
    for (bytes, reply) in [
        ("*1048577\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*99999999999999999999999\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*1\r\n$99999999999\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("*1\r\n$-1\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("*1\r\n:5\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
        (
            "$5\r\nhello\r\n",
            "-ERR Protocol error: a request starts with '*' (RESP) or a letter (lines, HTTP), not \
             with '$'\r\n",
        ),
        (
            "\x16\x03\x01",
            "-ERR Protocol error: this looks like TLS, which is not spoken here; \
             connect without it\r\n",
        ),
    ] {
        let mut wire = server.connect();
        wire.ask(bytes, reply);
        assert_eq!(wire.rest(), b"");
    }
    let before = common::resident_bytes(server.pid());
    let mut waiting: Vec<Wire> = (0..20).map(|_| server.connect()).collect();
    waiting.iter_mut().for_each(|wire| wire.send("*1048576\r\n$67108864\r\n"));
    waiting[19].send("x");
    server.connect().ask("PING\n", "PONG\n");
    assert!(
        common::resident_bytes(server.pid()) < before + 16 * MIB as u64,
        "announced lengths cost nothing"
    );
    assert!(server.is_running());
}

#[test]
fn before_the_password_little_is_read() {
    let server = Server::start_on(0, &[], &[("KVSTORE_PASSWORD", "secret")]);
    let refused = "-NOAUTH Authentication required.\r\n";
    for bytes in [&b"*11\r\n"[..], b"*2\r\n$3\r\nGET\r\n$16385\r\n"] {
        let mut wire = server.connect();
        wire.ask(bytes, refused);
        assert_eq!(wire.rest(), b"");
    }
    let mut lines = server.connect();
    let _ = lines.stream.write_all(&[b'x'; 16 * 1024 + 1]);
    lines.expect("ERROR Authentication required.\n");
    assert_eq!(lines.rest(), b"");
    // Within the limits the connection goes on.
    let mut wire = server.connect();
    wire.ask(resp(&[b"GET", b"k"]), refused);
    wire.ask(resp(&[b"PING"]), refused);
    wire.ask(
        resp(&[b"AUTH", b"wrong"]),
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    );
    wire.ask(
        resp(&[b"AUTH", b"somebody", b"secret"]),
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    );
    wire.ask(resp(&[b"AUTH", b"secret"]), "+OK\r\n");
    wire.ask(resp(&[b"PING"]), "+PONG\r\n");
    let mut lines = server.connect();
    lines.ask(
        "GET k\nAUTH wrong\nAUTH secret\nGET k\n",
        "ERROR Authentication required.\n\
         ERROR invalid username-password pair or user is disabled.\nOK\nNOT_FOUND\n",
    );
}

#[test]
fn a_connection_beyond_the_limit_is_told_so_and_closed() {
    let server = Server::start(&["--max-connections", "3"]);
    let mut held: Vec<Wire> = (0..3).map(|_| server.connect()).collect();
    held.iter_mut().for_each(|wire| wire.ask("PING\n", "PONG\n"));
    for _ in 0..5 {
        assert_eq!(server.connect().rest(), b"-ERR max number of clients reached\r\n");
    }
    held[0].ask("INFO stats\n", "# Stats\n");
    drop(held.pop());
    // The place is free once the server has noticed.
    poll("a place is free", || {
        let mut wire = server.connect();
        let _ = wire.stream.write_all(b"PING\n");
        (wire.line() == "PONG").then_some(())
    });
}

#[test]
fn the_connection_limit_is_lowered_to_fit_the_descriptors() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 100 && exec \"$0\" server 0"]).arg(common::binary());
    let server = Server::spawn(shell).expect("it starts");
    server.wait_for_log(
        "at most 68 connections instead of 10000, because of the limit of open files",
    );
    let mut wire = server.connect();
    wire.ask(resp(&[b"CONFIG", b"GET", b"maxclients"]), "*2\r\n$10\r\nmaxclients\r\n$2\r\n68\r\n");
}

#[test]
fn half_a_request_is_closed_after_a_while_and_a_slow_one_is_not() {
    let timeout = Duration::from_millis(400);
    let port = serve(Limits { partial_request_timeout: timeout, ..Limits::default() });
    for half in ["GET", "*2\r\n$3\r\nGET\r\n$5\r\nab", "\r"] {
        let mut wire = Wire::connect(port);
        wire.ask("\n", "");
        wire.send(half);
        let start = Instant::now();
        assert_eq!(wire.rest(), b"");
        assert!(start.elapsed() >= timeout / 2, "{half:?}");
    }
    // One byte at a time: slower as a whole than the limit, but never silent for so long.
    let mut wire = Wire::connect(port);
    for byte in b"PUT k slow\n" {
        wire.send([*byte]);
        std::thread::sleep(timeout / 8);
    }
    wire.expect("OK\n");
}

#[test]
fn idle_clients_stay_unless_told_otherwise() {
    let port =
        serve(Limits { partial_request_timeout: Duration::from_millis(50), ..Limits::default() });
    let mut wire = Wire::connect(port);
    wire.ask("PING\n", "PONG\n");
    assert!(Configuration::default().idle_timeout.is_zero());
    let impatient = Server::start(&["--idle-timeout", "1"]);
    assert_eq!(impatient.connect().rest(), b"", "closed for its silence");
    // Meanwhile the other was silent for as long.
    wire.ask("PING\n", "PONG\n");
}

#[test]
fn a_client_that_does_not_read_is_closed() {
    let port = serve(Limits {
        write_timeout: Duration::from_millis(500),
        unread_bytes_max: MIB,
        ..Limits::default()
    });
    let mut wire = Wire::connect(port);
    wire.ask(resp(&[b"SET", b"k", &vec![b'v'; MIB]]), "+OK\r\n");
    wire.stream.set_write_timeout(Some(Duration::from_millis(100))).expect("set");
    let requests = resp(&[b"GET", b"k"]).repeat(1_000);
    let start = Instant::now();
    // Ask and never read, until the server has enough.
    let closed = loop {
        match wire.stream.write(&requests) {
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break true;
            }
            _ if start.elapsed() > SOON => break false,
            _ => {}
        }
    };
    assert!(closed, "the connection is closed");
    Wire::connect(port).ask("PING\n", "PONG\n");
}

#[test]
fn a_client_that_sends_a_long_pipeline_before_it_reads_does_not_lock_up() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    let value = vec![b'v'; 10_000];
    wire.ask(resp(&[b"SET", b"k", &value]), "+OK\r\n");
    let count = 100_000; // 2.3 MB of requests, 1 GB of replies.
    let requests = resp(&[b"GET", b"k"]).repeat(count);
    wire.send(&requests);
    let mut replies = 0;
    let (expected, mut buffer) = (count * (value.len() + 10), vec![0; MIB]);
    while replies < expected {
        replies += wire.stream.read(&mut buffer).expect("replies come");
    }
    wire.ask("*1\r\n$4\r\nPING\r\n", "+PONG\r\n");
}

#[test]
fn a_reply_has_a_limit() {
    let port = serve(Limits { reply_bytes_max: 100_000, ..Limits::default() });
    let mut wire = Wire::connect(port);
    wire.ask(resp(&[b"SET", b"k", &[b'v'; 30_000]]), "+OK\r\n");
    let too_long =
        "-ERR reply too long: at most 100000 bytes; ask for fewer keys at a time (SCAN)\r\n";
    wire.ask(resp(&[b"MGET", b"k", b"k", b"k", b"k"]), too_long);
    (0..2_000)
        .for_each(|i| wire.ask(resp(&[b"SET", format!("key:{i:020}").as_bytes(), b""]), "+OK\r\n"));
    wire.ask(resp(&[b"KEYS", b"key:*"]), too_long);
    wire.ask(resp(&[b"SCAN", b"0", b"COUNT", b"1000000"]), too_long);
    wire.ask(resp(&[b"STRLEN", b"k"]), ":30000\r\n");
}

/// Sets a limit of a running process.
fn set_limit(pid: u32, limit: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), limit])
        .status()
        .expect("prlimit runs");
    assert!(status.success());
}

#[test]
fn failing_accepts_neither_spin_nor_end_the_process() {
    if !common::have("prlimit", "util-linux") {
        return;
    }
    let mut server = Server::start(&[]);
    let mut held = server.connect();
    held.ask("PING\n", "PONG\n");
    let descriptors = descriptors(server.pid());
    set_limit(server.pid(), &format!("--nofile={descriptors}:20000"));
    let before = cpu_time(server.pid());
    let mut waiting: Vec<Wire> = (0..5).map(|_| server.connect()).collect();
    server.wait_for_log("cannot accept connections");
    std::thread::sleep(Duration::from_secs(1)); // What is measured is that nothing happens.
    assert!(cpu_time(server.pid()) - before < Duration::from_millis(300), "it does not spin");
    assert!(
        server.log().matches("cannot accept").count() <= 3,
        "logged once a second: {}",
        server.log()
    );
    held.ask("PING\n", "PONG\n");
    set_limit(server.pid(), "--nofile=20000:20000");
    waiting.iter_mut().for_each(|wire| wire.ask("PING\n", "PONG\n"));
    assert!(server.is_running());
}

#[test]
fn a_thread_that_cannot_be_started_costs_only_its_connection() {
    if !common::have("setpriv", "util-linux") || !common::have("prlimit", "util-linux") {
        return;
    }
    // A limit of threads does not bind root, so the server runs as a user that nobody else is.
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("kvstore");
    std::fs::copy(common::binary(), &program).expect("copied");
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "54321", "--clear-groups", "prlimit", "--nproc=8:100", "--"])
        .arg(&program)
        .args(["server", "0"]);
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("readable");
    let is_root = std::fs::metadata("/proc/self")
        .map(|own| std::os::unix::fs::MetadataExt::uid(&own))
        .expect("Linux")
        == 0;
    if !is_root {
        return common::skip("only root can start a server as another user");
    }
    let mut server = Server::spawn(command).expect("it starts");
    let answers = |wire: &mut Wire| {
        let _ = wire.stream.write_all(b"PING\n");
        matches!(wire.stream.read(&mut [0; 8]), Ok(5))
    };
    let mut wires: Vec<Wire> = (0..12).map(|_| server.connect()).collect();
    let served = wires.iter_mut().filter_map(|wire| answers(wire).then_some(())).count();
    assert!((1..12).contains(&served), "{served} of 12 were served");
    server.wait_for_log("cannot start a thread");
    drop(wires);
    poll("there are threads again", || answers(&mut server.connect()).then_some(()));
    assert!(server.is_running());
}

#[test]
fn http_and_its_imitations_reach_no_other_parser() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.send("GET / HTTP/1.1\r\nHost: x\r\n\r\nPUT k stolen\n");
    assert!(wire.rest().starts_with(b"HTTP/1.1 403 "));
    for attack in [
        "POST / HTTP/1.1\r\nHost: localhost\r\n\r\nPUT k stolen\r\n",
        "PUT k v HTTP/1.1\r\nPUT k stolen\r\n",
        "GET / HTTP/0.9\r\nPUT k stolen\r\n",
        "post /x\r\nPUT k stolen\r\n",
        "PING\r\nHost: localhost\r\nPUT k stolen\r\n",
    ] {
        let mut wire = server.connect();
        wire.send(attack);
        let said = String::from_utf8_lossy(&wire.rest()).into_owned();
        assert!(!said.contains("OK"), "{attack:?}: {said}");
    }
    server.connect().ask("GET k\n", "NOT_FOUND\n");
}

#[test]
fn garbage_on_one_connection_never_harms_another() {
    let mut server = Server::start(&[]);
    let mut good = server.connect();
    good.ask(resp(&[b"SET", b"k", b"v"]), "+OK\r\n");
    let mut random = Random(1);
    let mut garbage = || -> Vec<u8> { (0..2_000).map(|_| random.draw() as u8).collect() };
    let beginnings: [&[u8]; 6] =
        [b"", b"*", b"*3\r\n$3\r\nSET\r\n", b"GET ", b"PUT k2 ", b"*1\r\n$4\r\n"];
    for round in 0..120 {
        let mut wire = server.connect();
        let bytes = [beginnings[round % beginnings.len()], &garbage()].concat();
        let _ = wire.stream.write_all(&bytes);
        if round % 2 == 0 {
            wire.finish();
            wire.rest();
        }
        good.ask(resp(&[b"GET", b"k"]), "$1\r\nv\r\n");
    }
    assert!(server.is_running());
    assert!(!server.log().contains("panic"), "{}", server.log());
}
