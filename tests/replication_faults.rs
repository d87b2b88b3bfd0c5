//! Three real nodes in a bad minute: killed, stopped, cut off, at random, under load; then all
//! answer the same.
//!
//! Where the test may, each node has a network namespace of its own on a bridge, and a cut sets its
//! link down: packets vanish, nobody is told, connections hang. Clients come by another door, so
//! that a node that is cut off goes on taking writes. Elsewhere `PARTITION` cuts. A failure prints
//! its seed; `SEED=n` makes the same choices again, though not at the same moments.

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::cluster::free_port;
use common::{Server, binary};
use kvstore::client::{Client, Response};
use kvstore::random::Random;

const KEYS: usize = 500;

/// Networks of three machines: a bridge between them, and a door to each for clients.
struct Network {
    /// Begins the names of all that is made here.
    name: String,
    /// The clients' side of each door, and the machine's.
    doors: [[String; 2]; 3],
}

impl Network {
    /// `None` where namespaces may not be made.
    fn make() -> Option<Network> {
        let process = std::process::id() as usize;
        let door = |index: usize| {
            // Networks of four addresses each, out of those that are set aside for tests of
            // networks.
            let number = (process * 3 + index) % 16_000 * 4;
            let address = |last| format!("198.19.{}.{}", number / 256, number % 256 + last);
            [address(1), address(2)]
        };
        let network = Network { name: format!("kv{process}"), doors: std::array::from_fn(door) };
        network.remove(); // A process of this number may have ended before it could.
        let is_made = network.command("netns add NAME-switch")
            && network.command("-n NAME-switch link add name bridge type bridge")
            && network.command("-n NAME-switch link set bridge up")
            && (0..3).all(|index| network.add_machine(index));
        is_made.then_some(network)
    }

    fn add_machine(&self, index: usize) -> bool {
        let machine = format!("NAME-{index}");
        let [outside, inside] = &self.doors[index];
        [
            format!("netns add {machine}"),
            format!("-n {machine} link set lo up"),
            format!(
                "-n NAME-switch link add name port{index} type veth peer name peers netns {machine}"
            ),
            format!("-n NAME-switch link set port{index} master bridge up"),
            format!("-n {machine} address add {}/24 dev peers", peer_host(index)),
            format!("-n {machine} link set peers up"),
            format!("link add name NAMEdoor{index} type veth peer name door netns {machine}"),
            format!("address add {outside}/30 dev NAMEdoor{index}"),
            format!("link set NAMEdoor{index} up"),
            format!("-n {machine} address add {inside}/30 dev door"),
            format!("-n {machine} link set door up"),
        ]
        .iter()
        .all(|line| self.command(line))
    }

    fn set_link(&self, index: usize, state: &str) {
        assert!(self.command(&format!("-n NAME-switch link set port{index} {state}")));
    }

    /// With a namespace its links go, and the other ends of these.
    fn remove(&self) {
        for end in ["0", "1", "2", "switch"] {
            self.command(&format!("netns delete NAME-{end}"));
        }
    }

    /// Runs `ip`; whether that worked.
    fn command(&self, line: &str) -> bool {
        let line = line.replace("NAME", &self.name);
        let output = Command::new("ip").args(line.split(' ')).output();
        output.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Where a machine is reached by the others.
fn peer_host(index: usize) -> String {
    format!("198.18.0.{}", index + 1)
}

/// Three nodes, the last with its data on disk.
struct Nodes {
    servers: Vec<Server>,
    /// Where clients reach each node.
    addresses: [String; 3],
    ports: [u16; 3],
    folder: tempfile::TempDir,
    /// Goes last: servers run in it.
    network: Option<Network>,
}

impl Nodes {
    fn start() -> Nodes {
        let network = Network::make();
        println!("links are cut by {}", if network.is_some() { "the kernel" } else { "PARTITION" });
        let ports = match network {
            Some(_) => [7_000; 3], // Free, in a namespace of its own.
            None => [(); 3].map(|()| free_port()),
        };
        let address = |index: usize| match &network {
            Some(network) => format!("{}:{}", network.doors[index][1], ports[index]),
            None => format!("127.0.0.1:{}", ports[index]),
        };
        let mut nodes = Nodes {
            servers: Vec::new(),
            addresses: std::array::from_fn(address),
            ports,
            folder: tempfile::tempdir().unwrap(),
            network,
        };
        for index in 0..3 {
            let server = nodes.spawn(index);
            nodes.servers.push(server);
        }
        nodes
    }

    fn spawn(&self, index: usize) -> Server {
        let mut command = match &self.network {
            Some(network) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &format!("{}-{index}", network.name)]);
                command.arg(binary());
                command
            }
            None => Command::new(binary()),
        };
        command.args(["server", &self.ports[index].to_string(), "--enable-fault-injection"]);
        if self.network.is_some() {
            command.args([
                "--bind",
                "0.0.0.0",
                "--insecure",
                "--advertise",
                &self.peer_address(index),
            ]);
        }
        for other in (0..3).filter(|other| *other != index) {
            command.args(["--peer", &self.peer_address(other)]);
        }
        if index == 2 {
            command.arg("--data-dir").arg(self.folder.path().join("data"));
        }
        Server::spawn(command).unwrap_or_else(|log| panic!("node {index} did not start: {log}"))
    }

    fn peer_address(&self, index: usize) -> String {
        let host = self.network.as_ref().map_or("localhost".into(), |_| peer_host(index));
        format!("{host}:{}", self.ports[index])
    }

    /// Begins a trouble, or ends it.
    fn set(&mut self, index: usize, trouble: Trouble, is_on: bool) {
        match (trouble, is_on) {
            (Trouble::Killed, true) => self.servers[index].kill(),
            (Trouble::Killed, false) => self.servers[index] = self.spawn(index),
            (Trouble::Stopped, true) => common::signal(self.servers[index].pid(), "STOP"),
            (Trouble::Stopped, false) => common::signal(self.servers[index].pid(), "CONT"),
            (Trouble::CutOff, _) => match &self.network {
                Some(network) => network.set_link(index, if is_on { "down" } else { "up" }),
                None => {
                    let command: &[&[u8]] = if is_on { &[b"PARTITION", b"*"] } else { &[b"HEAL"] };
                    let reply = Client::connect(&self.addresses[index]).unwrap().request(command);
                    assert_eq!(reply.unwrap(), Response::Simple("OK".into()));
                }
            },
        }
    }

    /// What a node answers for every key.
    fn answers(&self, index: usize) -> Response {
        let keys: Vec<String> = (0..KEYS).map(|i| format!("key{i}")).collect();
        let words: Vec<&[u8]> =
            [&b"MGET"[..]].into_iter().chain(keys.iter().map(|key| key.as_bytes())).collect();
        Client::connect(&self.addresses[index]).unwrap().request(&words).unwrap()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Trouble {
    Killed,
    Stopped,
    CutOff,
}

/// Does something at its end, also when that is a panic.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Writes and deletes at a node until it is over, whatever happens to the node; counts what was
/// acknowledged.
fn load(address: &str, seed: u64, is_over: &AtomicBool, acknowledged: &AtomicU64) {
    let mut random = Random(seed);
    while !is_over.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(address) else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        let is_well = |result: kvstore::error::Result<()>| result.is_ok();
        let mut write = || {
            let key = format!("key{}", random.below(KEYS as u64));
            match random.below(5) {
                0 => client.delete(&key),
                _ => client.put(&key, format!("{address} {}", random.below(1 << 30))),
            }
        };
        while !is_over.load(Ordering::Relaxed) && is_well(write()) {
            acknowledged.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Trouble of every kind for so long, none of it longer than `longest`; a stop lasts exactly that.
fn survive_trouble(time: Duration, longest: Duration) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        u64::from(now.subsec_nanos())
    });
    println!("SEED={seed}");
    let mut nodes = Nodes::start();
    let (addresses, is_over) = (nodes.addresses.clone(), AtomicBool::new(false));
    let acknowledged = [(); 3].map(|()| AtomicU64::new(0));
    thread::scope(|scope| {
        for (index, address) in addresses.iter().enumerate() {
            let (is_over, acknowledged) = (&is_over, &acknowledged[index]);
            scope.spawn(move || load(address, seed + index as u64, is_over, acknowledged));
        }
        // Also when a check below fails: the scope waits for these threads.
        let _end = OnDrop(|| is_over.store(true, Ordering::Relaxed));
        make_trouble(&mut nodes, Random(seed), time, longest);
    });
    let began = Instant::now();
    loop {
        let [first, second, third] = [0, 1, 2].map(|index| nodes.answers(index));
        if first == second && second == third {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "SEED={seed}: they still differ");
        thread::sleep(Duration::from_millis(20));
    }
    println!(
        "they agree {:?} after the last trouble; acknowledged: {acknowledged:?}",
        began.elapsed()
    );
    // A load that got nowhere would prove nothing.
    let least = time.as_secs() * 20;
    assert!(acknowledged.iter().all(|count| count.load(Ordering::Relaxed) > least));
}

fn make_trouble(nodes: &mut Nodes, mut random: Random, time: Duration, longest: Duration) {
    let began = Instant::now();
    let mut under_way: Vec<(usize, Trouble, Instant)> = Vec::new();
    let mut begun = 0;
    while began.elapsed() < time || !under_way.is_empty() {
        let is_over = began.elapsed() >= time;
        for (index, trouble, _) in
            under_way.extract_if(.., |(_, _, end)| is_over || *end <= Instant::now())
        {
            nodes.set(index, trouble, false);
        }
        let index = random.below(3) as usize;
        let kind = match begun {
            0..3 => begun, // One of each, also in a short time.
            _ => random.below(3) as usize,
        };
        let trouble = [Trouble::Killed, Trouble::Stopped, Trouble::CutOff][kind];
        // A process is killed or stopped, not both; cut off it may be besides, where the kernel
        // does it.
        let is_in_the_way = |other: Trouble| {
            other == trouble
                || nodes.network.is_none()
                || ![other, trouble].contains(&Trouble::CutOff)
        };
        let is_free =
            under_way.iter().all(|(other, kind, _)| *other != index || !is_in_the_way(*kind));
        if !is_over && is_free && random.below(4) == 0 {
            let longest_ms = longest.as_millis() as u64;
            let length_ms = match trouble {
                Trouble::Stopped => longest_ms,
                _ => random.below(longest_ms * 2 / 3) + 50,
            };
            println!(
                "{:>5} ms: {trouble:?} node {index} for {length_ms} ms",
                began.elapsed().as_millis()
            );
            nodes.set(index, trouble, true);
            begun += 1;
            under_way.push((index, trouble, Instant::now() + Duration::from_millis(length_ms)));
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert!(begun >= 3, "too slow a machine for one trouble of each kind");
}

#[test]
fn three_nodes_agree_after_kills_stops_and_cuts() {
    survive_trouble(Duration::from_secs(4), Duration::from_secs(1));
}

#[test]
#[ignore = "takes more than a minute"]
fn three_nodes_agree_after_a_bad_minute() {
    survive_trouble(Duration::from_secs(60), Duration::from_secs(10));
}
