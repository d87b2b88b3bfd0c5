//! What is acknowledged survives: real server processes, killed, started again, on disks that fill
//! up.

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvstore::config::{Configuration, FsyncPolicy, Limits};
use kvstore::node::{Batch, Node};
use kvstore::random::Random;

use common::disk::{Tmpfs, contents, refused, start};
use common::{SOON, Server, binary, poll, resp};
use tempfile::TempDir;

/// The value of an `INFO` field.
fn field(server: &Server, name: &str) -> String {
    let mut wire = server.connect();
    wire.send("INFO persistence\n");
    let prefix = format!("{name}:");
    loop {
        let line = wire.line();
        if let Some(value) = line.strip_prefix(&prefix) {
            return value.into();
        }
        assert!(!line.is_empty(), "INFO has no field {name}");
    }
}

// ---- Kept, and told truly ----

#[test]
fn data_survives_kill_9_and_a_restart() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("made/by/the/server");
    let mut server = start(&data, &[]);
    server
        .connect()
        .ask("PUT name Dylan\nPUT age 25\nPUT gone x\nDELETE gone\n", "OK\nOK\nOK\nOK\n");
    server.kill();
    for _ in 0..2 {
        let mut server = start(&data, &[]);
        server.connect().ask("GET name\nGET age\nGET gone\nDBSIZE\n", "Dylan\n25\nNOT_FOUND\n2\n");
        // An old value of the clock must not beat what was stored.
        server.connect().ask("PUT age 26\nGET age\nPUT age 25\n", "OK\n26\nOK\n");
        server.connect().send("SHUTDOWN\n");
        assert_eq!(server.exit_code(), Some(0));
    }
}

#[test]
fn info_and_config_tell_the_truth() {
    let directory = TempDir::new().unwrap();
    let server = start(directory.path(), &["--fsync", "always"]);
    server.connect().ask("PUT k v\n", "OK\n");
    for (name, value) in [
        ("aof_enabled", "1"),
        ("aof_last_write_status", "ok"),
        ("fsync_policy", "always"),
        ("log_frames_written", "1"),
        ("log_unsynced", "0"),
        ("read_only", "0"),
    ] {
        assert_eq!(field(&server, name), value, "{name}");
    }
    let size: u64 = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".log"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert_eq!(field(&server, "aof_current_size"), size.to_string());
    let config = |server: &Server, reply: &[&[u8]]| {
        let question = resp(&[b"CONFIG", b"GET", b"append*"]);
        server.connect().ask(question, resp(reply));
    };
    config(&server, &[b"appendfsync", b"always", b"appendonly", b"yes"]);
    let in_memory = Server::start(&[]);
    assert_eq!(field(&in_memory, "aof_enabled"), "0");
    config(&in_memory, &[b"appendfsync", b"everysec", b"appendonly", b"no"]);
}

#[test]
fn everysec_syncs_within_a_second_or_so() {
    let directory = TempDir::new().unwrap();
    let server = start(directory.path(), &[]);
    server.connect().ask("PUT k v\n", "OK\n");
    poll("an fsync", || (field(&server, "log_unsynced") == "0").then_some(()));
    assert_eq!(field(&server, "log_fsyncs"), "1");
}

#[test]
fn a_read_waits_for_the_write_it_shows_and_for_no_other() {
    let directory = TempDir::new().unwrap();
    let node = Node::open(Configuration {
        data_dir: Some(directory.path().into()),
        fsync: FsyncPolicy::Always,
        ..Configuration::default()
    })
    .unwrap();
    node.start_serving();
    let is_written = || {
        let log = fs::read(directory.path().join("0000000001.log")).unwrap();
        log.windows(6).any(|bytes| bytes == b"secret")
    };
    let (mut writer, mut reader) = (Batch::default(), Batch::default());
    node.put(b"key", b"secret", &mut writer).unwrap();
    node.get(b"another shard's key", &mut reader, |_| ()).unwrap();
    node.commit(&mut reader).unwrap();
    assert!(!is_written(), "nobody was told yet");
    let value = node.get(b"key", &mut reader, |value| value.map(<[u8]>::to_vec));
    assert_eq!(value.unwrap().as_deref(), Some(&b"secret"[..]));
    node.commit(&mut reader).unwrap();
    assert!(is_written(), "a reader may be told now, so it is safe");
}

#[test]
fn a_request_of_many_writes_is_written_out_while_it_is_executed() {
    let directory = TempDir::new().unwrap();
    let node = Node::open(Configuration {
        data_dir: Some(directory.path().into()),
        limits: Limits { log_buffer_bytes_max: 10_000, ..Limits::default() },
        ..Configuration::default()
    })
    .unwrap();
    node.start_serving();
    let value = [b'v'; 1_000];
    let pairs = (0..100).map(|_| (&b"key"[..], &value[..]));
    node.put_all(pairs, &mut Batch::default()).unwrap();
    assert!(disk_bytes(directory.path()) > 90_000, "all but the last ten, and nothing committed");
}

#[test]
fn every_option_is_a_variable_too() {
    let directory = TempDir::new().unwrap();
    let variables = [
        ("KVSTORE_DATA_DIR", directory.path().to_str().unwrap()),
        ("KVSTORE_FSYNC", "never"),
        ("KVSTORE_SALVAGE", "0"),
    ];
    let server = Server::start_on(0, &[], &variables);
    assert_eq!(field(&server, "fsync_policy"), "never");
}

// ---- Refusals: exit 1, a reason, and nothing touched ----

#[test]
fn a_second_server_on_the_same_directory_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_str().unwrap();
    let mut first = start(directory.path(), &[]);
    first.connect().ask("PUT k v\n", "OK\n");
    let before = contents(directory.path());
    let said = refused(&["--data-dir", path]);
    assert!(said.contains("exit status: 1") && said.contains("used by another server"), "{said}");
    assert_eq!(contents(directory.path()), before);
    first.kill();
    // The lock ends with the process.
    start(directory.path(), &[]).connect().ask("GET k\n", "v\n");
}

#[test]
fn a_directory_that_cannot_be_used_is_refused() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    for bad in [file.to_str().unwrap(), "/proc/kvstore-data"] {
        let said = refused(&["--data-dir", bad]);
        assert!(said.contains("exit status: 1") && said.contains(bad), "{said}");
        assert!(said.contains("--data-dir DIR"), "{said}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "not a directory");
    for options in [&["--fsync", "always"][..], &["--salvage"], &["--restamp"]] {
        let said = refused(options);
        assert!(said.contains("exit status: 2") && said.contains("--data-dir"), "{said}");
    }
}

#[test]
fn newer_formats_and_damage_are_refused_and_nothing_touched() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_str().unwrap();
    let mut server = start(directory.path(), &["--fsync", "always"]);
    server.connect().ask("PUT a first\n", "OK\n");
    server.connect().ask("PUT b second\n", "OK\n");
    server.kill();
    let log = directory.path().join("0000000001.log");
    let node = directory.path().join("node");
    let (good_log, good_node) = (fs::read(&log).unwrap(), fs::read(&node).unwrap());
    let change = |at: usize, to: u8| {
        let mut bytes = good_log.clone();
        bytes[at] = to;
        fs::write(&log, bytes).unwrap();
    };
    let check = |reasons: &[&str]| {
        let before = contents(directory.path());
        let said = refused(&["--data-dir", path]);
        for reason in [&["exit status: 1"], reasons].concat() {
            assert!(said.contains(reason), "'{reason}' in {said}");
        }
        assert_eq!(contents(directory.path()), before);
    };
    fs::write(&log, [&good_log[..7], &[1], &good_log[8..15], &good_log[20..]].concat()).unwrap();
    check(&["0000000001.log", "format version 1", "kvstore export HOST OLD_PORT"]);
    fs::write(&log, [&good_log[..7], &[3], &good_log[8..15], &good_log[20..]].concat()).unwrap();
    check(&["0000000001.log", "format version 3", "or a newer one"]);
    change(7, 3);
    check(&["0000000001.log", "offset 0", "checksum", "--salvage"]);
    change(60, !good_log[60]);
    check(&["0000000001.log", "offset 35", "checksum", "--salvage"]);
    let salvaged = start(directory.path(), &["--fsync", "always", "--salvage"]);
    salvaged.connect().ask("GET a\nGET b\n", "NOT_FOUND\nsecond\n");
    salvaged.wait_for_log("bytes behind the damage are kept");
    drop(salvaged);
    start(directory.path(), &[]).connect().ask("GET b\n", "second\n");

    fs::write(&node, "kvstore node 2\n").unwrap();
    check(&["node", "format version 2"]);
    fs::write(&node, [&good_node[..20], b"x", &good_node[21..]].concat()).unwrap();
    check(&["file node", "says nothing", "empty one"]);
    fs::write(&node, good_node).unwrap();
    start(directory.path(), &[]).connect().ask("GET b\n", "second\n");
}

// ---- kill -9 under load ----

/// What one client knows of its keys: the numbers of the last write it sent, and of the last one it
/// has seen acknowledged or read.
#[derive(Default)]
struct Knowledge {
    sent: HashMap<u64, u64>,
    known: HashMap<u64, u64>,
    next: u64,
}

impl Knowledge {
    fn has_seen(&mut self, number: u64) {
        let known = self.known.entry(number % KEYS).or_default();
        *known = number.max(*known);
    }
}

const KEYS: u64 = 40;
const CLIENTS: u64 = 4;

/// Every tenth write is a delete.
fn is_delete(number: u64) -> bool {
    number % 10 == 9
}

/// Writes and reads in pipelines until the connection breaks. Values name their client and their
/// number.
fn write_until_killed(port: u16, client: u64, padding: usize, knowledge: &mut Knowledge) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return;
    };
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut requests = Vec::new();
        let numbers: Vec<u64> = (knowledge.next..knowledge.next + 1 + client * 3).collect();
        knowledge.next += numbers.len() as u64;
        for &number in &numbers {
            let key = number % KEYS;
            knowledge.sent.insert(key, number);
            let write = match is_delete(number) {
                true => format!("DELETE {client}:{key}\n"),
                false => format!("PUT {client}:{key} {client}:{number}:{}\n", "x".repeat(padding)),
            };
            requests.extend_from_slice(write.as_bytes());
            requests.extend_from_slice(format!("GET {client}:{key}\n").as_bytes());
        }
        if stream.write_all(&requests).is_err() {
            return;
        }
        for number in numbers {
            let mut line = String::new();
            for is_read in [false, true] {
                line.clear();
                match replies.read_line(&mut line) {
                    Ok(len) if len > 0 && line.ends_with('\n') => {}
                    _ => return,
                }
                let expected = match (is_read, is_delete(number)) {
                    (false, _) => "OK".to_string(),
                    (true, true) => "NOT_FOUND".to_string(),
                    (true, false) => format!("{client}:{number}:"),
                };
                assert!(line.starts_with(&expected), "{expected}: {line}");
                knowledge.has_seen(number);
            }
        }
    }
}

/// Reads what others write, perhaps before they are told that it is stored: clients and numbers
/// seen.
fn read_until_killed(port: u16) -> Vec<(u64, u64)> {
    let mut seen = Vec::new();
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return seen;
    };
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    for key in (0..KEYS).cycle() {
        for client in 0..CLIENTS {
            if stream.write_all(format!("GET {client}:{key}\n").as_bytes()).is_err() {
                return seen;
            }
            let mut line = String::new();
            match replies.read_line(&mut line) {
                Ok(len) if len > 0 && line.ends_with('\n') => {}
                _ => return seen,
            }
            if let Some(rest) = line.strip_prefix(&format!("{client}:")) {
                let number = rest.split(':').next().expect("a number");
                seen.push((client, number.parse().expect("a number")));
            }
        }
    }
    seen
}

/// After a restart every key shows its last known write or a later one.
fn check(server: &Server, client: u64, knowledge: &mut Knowledge) {
    let mut wire = server.connect();
    for key in 0..KEYS {
        let Some(&sent) = knowledge.sent.get(&key) else {
            continue;
        };
        let known = knowledge.known.get(&key).copied();
        wire.send(format!("GET {client}:{key}\n"));
        let reply = wire.line();
        let mut possible = (known.unwrap_or(key)..=sent).filter(|number| number % KEYS == key);
        let fits = match reply.strip_prefix(&format!("{client}:")) {
            Some(rest) => {
                let number: u64 = rest.split(':').next().unwrap().parse().unwrap();
                possible.any(|possible| possible == number && !is_delete(number))
            }
            None => {
                assert_eq!(reply, "NOT_FOUND");
                known.is_none() || possible.any(is_delete)
            }
        };
        let reply = common::short(&reply);
        assert!(fits, "key {client}:{key}: {known:?} was acknowledged, {sent} sent, now {reply}");
    }
}

/// Starts, loads, kills at a random moment, and checks, again and again.
fn kill_under_load(policy: &str, rounds: u64, longest: Duration) {
    let directory = TempDir::new().unwrap();
    let mut knowledge: Vec<Knowledge> = (0..CLIENTS).map(|_| Knowledge::default()).collect();
    let mut random = Random(u64::from(std::process::id()));
    for round in 0..rounds {
        let mut server = start(directory.path(), &["--fsync", policy]);
        for (client, knowledge) in (0..).zip(&mut knowledge) {
            check(&server, client, knowledge);
        }
        let time = longest.mul_f64(random.below(1 << 31) as f64 / (1u64 << 31) as f64);
        // Long values make the log long, so that compaction is killed as well.
        let padding = if round % 2 == 0 { 20 } else { 8_000 };
        let port = server.port;
        thread::scope(|scope| {
            for (client, knowledge) in (0..).zip(&mut knowledge) {
                scope.spawn(move || write_until_killed(port, client, padding, knowledge));
            }
            let reader = scope.spawn(move || read_until_killed(port));
            thread::sleep(time);
            server.kill();
            reader.join().expect("the reader")
        })
        .into_iter()
        .for_each(|(client, number)| knowledge[client as usize].has_seen(number));
    }
    let acknowledged: u64 = knowledge.iter().flat_map(|k| k.known.values()).sum();
    assert!(acknowledged > 0, "nothing was written, so nothing was shown");
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged() {
    for policy in ["always", "everysec", "never"] {
        kill_under_load(policy, 4, Duration::from_millis(400));
    }
}

#[test]
#[ignore = "full size: 30 rounds for each policy"]
fn kill_9_under_load_loses_nothing_acknowledged_full_size() {
    for policy in ["always", "everysec", "never"] {
        kill_under_load(policy, common::full_size(30), Duration::from_millis(2_500));
    }
}

// ---- A disk that is full ----

/// Reads one reply in RESP: its first line; arrays and strings to their end.
fn read_reply(input: &mut impl BufRead) -> String {
    let mut line = String::new();
    input.read_line(&mut line).expect("a reply");
    let len = line[1..].trim_end().parse::<i64>().unwrap_or(0);
    match line.as_bytes()[0] {
        b'*' => (0..len).for_each(|_| drop(read_reply(input))),
        b'$' if len >= 0 => {
            let mut rest = vec![0; len as usize + 2];
            input.read_exact(&mut rest).expect("the value");
        }
        _ => {}
    }
    line.trim_end().to_string()
}

/// Files of at most so many KiB; a longer one is an error to the writer.
fn start_with_file_limit(directory: &Path, kib: u32, policy: &str) -> Server {
    let mut command = Command::new("bash");
    let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\"");
    command.args(["-c", &script, "server"]).arg(binary());
    command.args(["server", "0", "--fsync", policy, "--data-dir"]).arg(directory);
    Server::spawn(command).expect("it starts")
}

#[test]
fn a_log_that_cannot_grow_makes_read_only_and_heals_by_itself() {
    for policy in ["always", "everysec"] {
        let directory = TempDir::new().unwrap();
        let mut server = start_with_file_limit(directory.path(), 1024, policy);
        let stream = server.connect().stream;
        let mut replies = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        let value = "v".repeat(10_000);
        // What each key may hold: acknowledged last, or unknown since.
        let mut possible: HashMap<u64, Vec<u64>> = HashMap::new();
        let (mut unknown, mut not_stored, mut stored_after) = (0, 0, 0);
        let start = Instant::now();
        let mut number = 0;
        while stored_after < 300 {
            assert!(start.elapsed() < SOON, "{unknown} {not_stored} {stored_after}");
            let mut requests = Vec::new();
            let numbers: Vec<u64> = (number..number + 6).collect();
            for number in &numbers {
                let (key, value) = (format!("key{}", number % 10), format!("{number}:{value}"));
                requests.extend(resp(&[b"SET", key.as_bytes(), value.as_bytes()]));
                // Replies of several parts count as one.
                requests.extend(resp(&[b"MGET", key.as_bytes(), b"nothing"]));
            }
            number += 6;
            stream.write_all(&requests).unwrap();
            for number in numbers {
                let (set, read) = (read_reply(&mut replies), read_reply(&mut replies));
                let values = possible.entry(number % 10).or_default();
                match set.as_str() {
                    "+OK" => {
                        *values = vec![number];
                        stored_after += u64::from(unknown > 0);
                    }
                    error if error.starts_with("-MISCONF read-only: cannot write 00") => {
                        if error.ends_with("(outcome unknown)") {
                            unknown += 1;
                            values.push(number);
                        } else {
                            assert!(error.ends_with("(not stored)"), "{error}");
                            not_stored += 1;
                        }
                    }
                    other => panic!("{other}"),
                }
                assert!(read == "*2" || read.ends_with("(outcome unknown)"), "{read}");
            }
        }
        assert!(unknown > 0, "the limit was reached");
        server.kill();
        let server = common::poll("a restart", || Some(self::start(directory.path(), &[])));
        for (key, values) in possible {
            let mut wire = server.connect();
            wire.send(format!("GET key{key}\n"));
            let reply = wire.line();
            let number: u64 = reply.split(':').next().unwrap().parse().unwrap();
            assert!(values.contains(&number), "{values:?}: {}", common::short(&reply));
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_heals_when_there_is_space() {
    let Some(disk) = Tmpfs::mount(8) else {
        return;
    };
    let (data, filler) = (disk.path().join("data"), disk.path().join("filler"));
    fs::write(&filler, vec![1; 5 << 20]).unwrap();
    let mut server = start(&data, &[]);
    let mut wire = server.connect();
    let value = "v".repeat(50_000);
    let mut stored = 0;
    let reply = loop {
        wire.send(format!("PUT key{stored} {value}\n"));
        match wire.line().as_str() {
            "OK" => stored += 1,
            error => break error.to_string(),
        }
    };
    assert!(reply.starts_with("ERROR read-only: cannot write 00"), "{reply}");
    assert!(reply.ends_with("(outcome unknown)"), "{reply}");
    assert!((20..100).contains(&stored), "{stored}");
    // Reads go on, also of what nobody knows about; writes are refused; nothing heals without
    // space.
    wire.ask(format!("STRLEN key0\nSTRLEN key{stored}\n"), "50000\n50000\n");
    for write in ["PUT k v\n", "DELETE key0\n", "DEL key0\n"] {
        wire.send(write);
        let reply = wire.line();
        assert!(reply.ends_with("(not stored)"), "{reply}");
    }
    wire.send(resp(&[b"x"]));
    wire.line();
    assert_eq!(field(&server, "aof_last_write_status"), "err");
    assert!(field(&server, "read_only_reason").contains("No space left"));
    server.wait_for_log("cannot write a snapshot");
    fs::remove_file(&filler).unwrap();
    poll("it heals", || (field(&server, "read_only") == "0").then_some(()));
    server.connect().ask("PUT k v\n", "OK\n");
    server.kill();
    let server = start(&data, &[]);
    server.connect().ask("GET k\n", "v\n");
    for key in 0..stored {
        server.connect().ask(format!("STRLEN key{key}\n"), "50000\n");
    }
}

// ---- Compaction while clients write ----

fn disk_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    // A file may be removed while we look.
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// `clients` write so many values each, of about 2 KiB, over and over the same keys.
fn compaction_under_load(clients: u64, writes: u64) {
    const KEYS: u64 = 200;
    let directory = TempDir::new().unwrap();
    let mut server = start(directory.path(), &["--fsync", "never"]);
    let (port, done, written) = (server.port, AtomicBool::new(false), AtomicU64::new(0));
    let mut most = 0;
    thread::scope(|scope| {
        let writers: Vec<_> = (0..clients)
            .map(|client| {
                let written = &written;
                scope.spawn(move || {
                    let mut wire = common::Wire::connect(port);
                    let padding = "x".repeat(2_000);
                    for number in 0..writes {
                        let key = number % KEYS;
                        let put = format!("PUT {client}:{key} {number}:{padding}\n");
                        wire.ask(&put, "OK\n");
                        written.fetch_add(put.len() as u64, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let (done, written) = (&done, &written);
        let watcher = scope.spawn(move || {
            let mut samples = Vec::new();
            while !done.load(Ordering::Relaxed) {
                samples.push((disk_bytes(directory.path()), written.load(Ordering::Relaxed)));
                thread::sleep(Duration::from_millis(20));
            }
            (samples, directory)
        });
        writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
        done.store(true, Ordering::Relaxed);
        let (samples, directory) = watcher.join().expect("the watcher");
        let live = clients * KEYS * 2_100;
        for (bytes, _) in &samples {
            most = most.max(*bytes);
        }
        // What is written while a snapshot is: a second's worth here, measured.
        let per_second = samples.windows(50).map(|w| w[49].1 - w[0].1).max().unwrap_or(0);
        let limit = 3 * live + (128 << 20) + per_second;
        assert!(most <= limit, "{most} bytes on disk, at most {limit} expected");
        // The log was long enough; the compaction may end after the last write.
        poll("a compaction", || (field(&server, "aof_rewrites") != "0").then_some(()));
        server.kill();
        let server = start(directory.path(), &[]);
        for client in 0..clients {
            let mut wire = server.connect();
            for key in 0..KEYS.min(writes) {
                let last = key + (writes - 1 - key) / KEYS * KEYS;
                wire.send(format!("GET {client}:{key}\n"));
                let reply = wire.line();
                assert!(
                    reply.starts_with(&format!("{last}:")),
                    "{last}: {}",
                    common::short(&reply)
                );
            }
        }
    });
}

#[test]
fn compaction_loses_nothing_while_clients_write() {
    compaction_under_load(10, 5_000);
}

#[test]
#[ignore = "full size: 50 clients"]
fn compaction_loses_nothing_while_50_clients_write() {
    compaction_under_load(50, 10_000);
}
