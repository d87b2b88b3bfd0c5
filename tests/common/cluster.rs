//! Several nodes: starting them, asking them, waiting until they are as they should be.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::{Server, Wire, poll, resp};
use kvstore::client::{Client, Response};
use kvstore::store::record::Record;
use kvstore::store::version::{Version, wall_clock_ms};

/// Options of a node that names these others.
pub fn peers(of: &[&Server]) -> Vec<String> {
    of.iter().map(|server| format!("--peer=localhost:{}", server.port)).collect()
}

pub fn start(options: &[&str], seeds: &[&Server]) -> Server {
    let peers = peers(seeds);
    let options: Vec<&str> =
        options.iter().copied().chain(peers.iter().map(String::as_str)).collect();
    Server::start(&options)
}

/// Three nodes that know each other, all live.
pub fn three(options: &[&str]) -> [Server; 3] {
    let first = start(options, &[]);
    let second = start(options, &[&first]);
    let third = start(options, &[&first]);
    for (server, others) in
        [(&first, [&second, &third]), (&second, [&first, &third]), (&third, [&first, &second])]
    {
        others.iter().for_each(|other| wait_for(server, other.port, "live"));
    }
    [first, second, third]
}

pub fn client(server: &Server) -> Client {
    Client::connect(&server.address()).expect("it serves")
}

pub fn ask(server: &Server, words: &[&str]) -> Response {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    client(server).request(&words).expect("a reply")
}

pub fn text(response: Response) -> String {
    match response {
        Response::Bulk(bytes) => String::from_utf8(bytes).expect("text"),
        Response::Array(rows) => rows.into_iter().map(|row| text(row) + "\n").collect(),
        Response::Error(_, message) => message,
        other => format!("{other:?}"),
    }
}

pub fn get(server: &Server, key: &str) -> Option<String> {
    let value = client(server).get(key).expect("a reply");
    value.map(|value| String::from_utf8(value).expect("text"))
}

/// Waits until a key has this value here.
#[track_caller]
pub fn wait_for_value(server: &Server, key: &str, value: Option<&str>) {
    poll(&format!("{key} becomes {value:?} on {}", server.port), || {
        (get(server, key).as_deref() == value).then_some(())
    });
}

/// The row of the peer at a port.
pub fn row(server: &Server, port: u16) -> Option<String> {
    let rows = text(ask(server, &["PEERS"]));
    let address = format!(":{port} ");
    rows.lines().find(|row| row.contains(&address)).map(str::to_string)
}

pub fn state(server: &Server, port: u16) -> String {
    let row = row(server, port).unwrap_or_default();
    let state = row.split(" state=").nth(1).and_then(|rest| rest.split(" queued_keys=").next());
    state.unwrap_or("gone").to_string()
}

/// Waits until the peer at a port is in this state.
#[track_caller]
pub fn wait_for(server: &Server, port: u16, wanted: &str) {
    poll(
        &format!("{port} is {wanted} on {}: {}", server.port, text(ask(server, &["PEERS"]))),
        || state(server, port).starts_with(wanted).then_some(()),
    );
}

pub fn field(server: &Server, name: &str) -> String {
    let info = text(ask(server, &["INFO", "replication"]));
    let start = format!("{name}:");
    let line = info.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {name} in {info}")).to_string()
}

pub fn number(server: &Server, name: &str) -> u64 {
    field(server, name).parse().expect("a number")
}

/// Two live nodes that hold so many keys.
pub fn two_with_keys(count: usize) -> [Server; 2] {
    let first = Server::start(&["--enable-fault-injection"]);
    let second = start(&["--enable-fault-injection"], &[&first]);
    wait_for(&first, second.port, "live");
    put_all(&first, (0..count).map(|i| format!("key{i} value of key {i}")));
    poll("the other has them", || {
        (ask(&second, &["DBSIZE"]) == Response::Integer(count as i64)).then_some(())
    });
    [first, second]
}

/// Puts all these keys, each with its value behind a space, in one go.
pub fn put_all(server: &Server, pairs: impl ExactSizeIterator<Item = String>) {
    let mut wire = server.connect();
    let mut stream: TcpStream = wire.stream.try_clone().unwrap();
    let mut replies = vec![0; "OK\n".len() * pairs.len()];
    let reader = thread::spawn(move || stream.read_exact(&mut replies).unwrap());
    wire.send(pairs.map(|pair| format!("PUT {pair}\n")).collect::<String>());
    reader.join().unwrap();
}

/// Introduces a connection as that of a peer, whose address nobody listens at.
pub fn introduce(wire: &mut Wire, id: &[u8]) {
    introduce_as(wire, id, "localhost:1");
}

/// Introduces a connection as that of a peer at this address.
pub fn introduce_as(wire: &mut Wire, id: &[u8], address: &str) {
    let run_id = b"00000000000000aa";
    let words: [&[u8]; 9] =
        [b"2", b"kvstore", id, run_id, b"memory", b"0", address.as_bytes(), b"eventual", b"-"];
    wire.send(resp(&[&[&b"PEER"[..], b"HELLO"], &words[..]].concat()));
    assert_eq!(wire.line(), "*3");
    let lists = [(); 3].map(|()| {
        let len: usize = wire.line()[1..].parse().unwrap();
        (0..2 * len).for_each(|_| drop(wire.line()));
        len
    });
    assert_eq!(lists[0], 9);
}

/// Records of these keys, stamped so many milliseconds from now.
pub fn records(keys: &[(&[u8], i64)]) -> Vec<u8> {
    let mut records = Vec::new();
    for (key, ahead_ms) in keys {
        let version =
            Version { time: wall_clock_ms().saturating_add_signed(*ahead_ms) << 16, origin: 1 };
        Record { version, key, value: Some(b"v") }.encode(&mut records);
    }
    records
}

/// Sets a node's clock ahead with a record from a peer.
pub fn merge_from_the_future(server: &Server, ahead_ms: i64) {
    let mut wire = server.connect();
    introduce(&mut wire, b"00000000000000a1");
    wire.ask(resp(&[b"PEER", b"MERGE", &records(&[(b"future", ahead_ms)])]), "*2\r\n:1\r\n:0\r\n");
}

/// A free port. Not one of those that the system gives to whoever names none: another test may get
/// that one at once.
pub fn free_port() -> u16 {
    let range =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let given_out_from =
        range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768);
    free_port_in(if given_out_from > 11_000 { 10_000..given_out_from } else { 61_000..65_000 })
}

/// A free port out of these.
pub fn free_port_in(ports: Range<u16>) -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    poll("a port is free", || {
        // Processes begin at different places, so that they seldom try the same port at a time.
        let tried = std::process::id()
            .wrapping_mul(101)
            .wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = ports.start + (tried % u32::from(ports.end - ports.start)) as u16;
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    })
}
