//! Several nodes: starting them, asking them, waiting until they are as they should be.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::{Server, poll};
use kvstore::client::{Client, Response};

/// Options of a node that names these others.
pub fn peers(of: &[&Server]) -> Vec<String> {
    of.iter().map(|server| format!("--peer=localhost:{}", server.port)).collect()
}

pub fn start(options: &[&str], seeds: &[&Server]) -> Server {
    let peers = peers(seeds);
    let options: Vec<&str> = options.iter().copied().chain(peers.iter().map(String::as_str)).collect();
    Server::start(&options)
}

/// Three nodes that know each other, all live.
pub fn three(options: &[&str]) -> [Server; 3] {
    let first = start(options, &[]);
    let second = start(options, &[&first]);
    let third = start(options, &[&first]);
    for (server, others) in [(&first, [&second, &third]), (&second, [&first, &third]), (&third, [&first, &second])] {
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
    poll(&format!("{port} is {wanted} on {}: {}", server.port, text(ask(server, &["PEERS"]))), || {
        state(server, port).starts_with(wanted).then_some(())
    });
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
    let mut wire = first.connect();
    let mut requests = String::new();
    (0..count).for_each(|i| requests.push_str(&format!("PUT key{i} value of key {i}\n")));
    let reader = thread::spawn({
        let mut stream: TcpStream = wire.stream.try_clone().unwrap();
        move || stream.read_exact(&mut vec![0; 3 * count]).unwrap()
    });
    wire.send(&requests);
    reader.join().unwrap();
    poll("the other has them", || (ask(&second, &["DBSIZE"]) == Response::Integer(count as i64)).then_some(()));
    [first, second]
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
