//! `kvstore bench`, `kvstore export` and `/metrics`, each against a tool that is not ours.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::cluster::free_port;
use common::redis::Redis;
use common::{
    Output, Program, Server, binary, clients_folder, cluster, have, http, resp, run, skip,
};
use std::collections::HashMap;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The program with these arguments, divided by spaces.
fn kvstore(arguments: &str, variables: &[(&str, &str)]) -> Output {
    run(Command::new(binary()).args(arguments.split(' ')).envs(variables.iter().copied()), "")
}

/// `kvstore export`, its output still to be read.
fn export(port: u16) -> Child {
    let mut command = Command::new(binary());
    command
        .args(["export", "127.0.0.1", &port.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn ok(output: &Output) -> &str {
    assert_eq!(output.code, Some(0), "{output:?}");
    &output.stdout
}

/// Puts keys of all kinds into a server; what it then holds.
fn fill(server: &Server) -> HashMap<Vec<u8>, Vec<u8>> {
    let mut data: HashMap<Vec<u8>, Vec<u8>> =
        (0..2_000).map(|i| (format!("key {i}").into_bytes(), vec![b'v'; i])).collect();
    data.insert((0..=255).collect(), b"\r\n*3\r\n$3\r\nSET\r\n\0\xff".to_vec());
    data.insert(b"empty".to_vec(), Vec::new());
    data.insert(vec![b'k'; 65_536], vec![b'x'; 3_000_000]);
    let mut wire = server.connect();
    for (key, value) in &data {
        wire.ask(resp(&[b"SET", key, value]), "+OK\r\n");
    }
    wire.ask(resp(&[b"SET", b"deleted", b"1"]), "+OK\r\n");
    wire.ask(resp(&[b"DEL", b"deleted"]), ":1\r\n");
    data
}

fn holds(port: u16, data: &HashMap<Vec<u8>, Vec<u8>>) {
    let mut wire = common::Wire::connect(port);
    wire.ask(resp(&[b"DBSIZE"]), format!(":{}\r\n", data.len()));
    for (key, value) in data {
        wire.send(resp(&[b"GET", key]));
        wire.expect([format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat());
    }
}

/// `kvstore export | redis-cli --pipe`.
fn pipe(from: u16, to: u16) -> (Option<i32>, String) {
    let mut export = export(from);
    let stream = export.stdout.take().unwrap();
    let cli = Command::new("redis-cli")
        .args(["-p", &to.to_string(), "--pipe"])
        .stdin(stream)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&cli.stdout).into_owned();
    assert!(said.contains("errors: 0"), "{said}");
    let mut progress = String::new();
    export.stderr.take().unwrap().read_to_string(&mut progress).unwrap();
    (export.wait().unwrap().code(), progress)
}

#[test]
fn an_export_is_taken_by_a_real_redis_and_by_another_node_of_ours() {
    if !have("redis-cli", "redis-tools") || !have("redis-server", "redis-server") {
        return;
    }
    let (ours, other) = (Server::start(&[]), Server::start(&[]));
    let data = fill(&ours);
    let redis = Redis::start();
    let (code, progress) = pipe(ours.port, redis.port);
    assert_eq!(code, Some(0));
    assert!(progress.starts_with("exported 2003 keys in "), "{progress}");
    holds(redis.port, &data);
    assert_eq!(pipe(ours.port, other.port).0, Some(0));
    holds(other.port, &data);
    // The way back: a Redis is a RESP server with SCAN and MGET, too.
    let back = Server::start(&[]);
    assert_eq!(pipe(redis.port, back.port).0, Some(0));
    holds(back.port, &data);
}

#[test]
fn an_export_that_is_cut_off_fails() {
    let mut server = Server::start(&[]);
    fill(&server);
    let mut export = export(server.port);
    // It is held up by the full pipe, as it has more than that to say.
    let mut start = [0; 1000];
    export.stdout.as_mut().unwrap().read_exact(&mut start).unwrap();
    assert!(start.starts_with(b"*3\r\n$3\r\nSET\r\n$"));
    server.kill();
    let output = export.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stderr.is_empty());
    let nobody = kvstore(&format!("export 127.0.0.1 {}", server.port), &[]);
    assert_eq!((nobody.code, nobody.stdout.as_str()), (Some(1), ""));
}

/// The figures of a row of the table: throughput, p50, p99, p99.9, maximum.
fn row(table: &str, server: &str, command: &str) -> Vec<f64> {
    let row = table.lines().find(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(server) && words.next() == Some(command)
    });
    let row = row.unwrap_or_else(|| panic!("no row {server} {command} in\n{table}"));
    row.split_whitespace().skip(2).map(|word| word.parse().unwrap()).collect()
}

#[test]
fn a_bench_writes_its_keys_and_reports_what_it_measured() {
    let server = Server::start_on(0, &[], &[("KVSTORE_PASSWORD", "secret")]);
    let arguments = format!(
        "bench 127.0.0.1 {} --seconds 1 --keys 500 --connections 3 --pipeline 7 --reads 30",
        server.port
    );
    let output = kvstore(&arguments, &[("KVSTORE_PASSWORD", "secret")]);
    let table = ok(&output);
    assert!(
        table.starts_with(
            "3 connections, pipeline 7, values of 64 bytes, 500 keys, 30% reads, closed loop, \
             1 x 1 s\n"
        ),
        "{table}"
    );
    let (get, set) = (row(table, &server.address(), "GET"), row(table, &server.address(), "SET"));
    for figures in [&get, &set] {
        assert!(figures[0] > 100.0 && figures[1..].is_sorted() && figures[4] < 1e6, "{table}");
    }
    let share = get[0] / (get[0] + set[0]);
    assert!((0.25..0.35).contains(&share), "{share} of the requests were reads");
    let mut wire = server.connect();
    wire.ask(resp(&[b"AUTH", b"secret"]), "+OK\r\n");
    wire.ask(resp(&[b"DBSIZE"]), ":500\r\n");
    wire.ask(resp(&[b"STRLEN", b"key:000000000499"]), ":64\r\n");
    // What goes wrong is an error and no figure.
    let refused = kvstore(&arguments, &[("KVSTORE_PASSWORD", "wrong")]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(refused.stderr.contains("WRONGPASS"), "{}", refused.stderr);
}

#[test]
fn at_a_fixed_rate_a_stall_is_seen_by_all_requests_that_it_delayed() {
    let server = Server::start(&[]);
    let arguments = format!(
        "bench 127.0.0.1 {} --seconds 2 --keys 10 --connections 4 --rate 400 --reads 100",
        server.port
    );
    let child =
        Command::new(binary()).args(arguments.split(' ')).stdout(Stdio::piped()).spawn().unwrap();
    common::poll("the load runs", || {
        let mut wire = server.connect();
        wire.send("INFO stats\n");
        let commands = (0..20).find_map(|_| {
            wire.line().strip_prefix("total_commands_processed:")?.parse::<u64>().ok()
        })?;
        (commands > 40).then_some(())
    });
    common::signal(server.pid(), "STOP");
    std::thread::sleep(Duration::from_millis(600)); // What is measured: a stall of this length.
    common::signal(server.pid(), "CONT");
    let output = child.wait_with_output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let figures = row(&table, &server.address(), "GET");
    assert!((380.0..405.0).contains(&figures[0]), "the rate is kept in the mean\n{table}");
    // 30 % of the requests were due during the stall, and with only four asking, three would have
    // noticed.
    assert!(figures[2] > 400_000.0, "p99 shows the stall\n{table}");
    assert!(figures[1] < 300_000.0, "the median does not\n{table}");
}

#[test]
fn a_bench_compares_with_a_real_redis() {
    if !have("redis-server", "redis-server") {
        return;
    }
    let (server, redis) = (Server::start(&[]), Redis::start());
    let other = format!("127.0.0.1:{}", redis.port);
    let arguments = format!(
        "bench 127.0.0.1 {} --seconds 1 --rounds 1 --keys 100 --reads 0 --compare {other}",
        server.port
    );
    let output = kvstore(&arguments, &[]);
    let table = ok(&output);
    let (ours, theirs, ratio) = (
        row(table, &server.address(), "SET"),
        row(table, &other, "SET"),
        row(table, "ratio", "SET"),
    );
    assert!((ours[0] / theirs[0] - ratio[0]).abs() < 0.02, "{table}");
}

#[test]
fn prometheus_reads_the_metrics() {
    let python = clients_folder().join("python").join("bin").join("python");
    let program = "\
import sys, json
from prometheus_client.parser import text_string_to_metric_families as parse
def samples(f): return [[s.name, s.labels, s.value] for s in f.samples]
families = parse(sys.stdin.read())
print(json.dumps({f.name: [f.type, f.documentation, samples(f)] for f in families}))";
    let has_library = python.is_file()
        && run(Command::new(&python).args(["-c", "import prometheus_client"]), "").code == Some(0);
    if !has_library {
        return skip("prometheus_client is not installed for Python (.ci/run installs it)");
    }
    let server = Server::start(&[]);
    server.connect().ask("PUT a 1\nGET a\nGET b\n", "OK\n1\nNOT_FOUND\n");
    let answer = common::poll("three commands are counted", || {
        let answer = http::get(&server, "/metrics");
        answer.text().contains("kvstore_commands_processed_total 3\n").then_some(answer)
    });
    assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(answer.text().ends_with('\n'));
    let output = run(Command::new(python).args(["-c", program]), answer.text());
    let families: serde_json::Value = serde_json::from_str(ok(&output)).unwrap();
    // Every sample belongs to a family with a type and a help text.
    for (name, family) in families.as_object().unwrap() {
        assert!(
            matches!(family[0].as_str(), Some("counter" | "gauge" | "histogram")),
            "{name}: {family}"
        );
        assert_ne!(family[1], "", "{name} has no help text");
    }
    let value = |family: &str, sample: &str| {
        let samples = families[family][2].as_array().unwrap_or_else(|| panic!("no {family}"));
        let sample = samples
            .iter()
            .find(|found| found[0] == sample)
            .unwrap_or_else(|| panic!("no {sample}"));
        sample[2].as_f64().unwrap()
    };
    assert_eq!(value("kvstore_keyspace_hits", "kvstore_keyspace_hits_total"), 1.0);
    assert_eq!(value("kvstore_db_keys", "kvstore_db_keys"), 1.0);
    assert!(value("process_resident_memory_bytes", "process_resident_memory_bytes") > 1e5);
    let latency = "kvstore_command_duration_seconds";
    assert_eq!(value(latency, &format!("{latency}_count")), 3.0);
    let buckets: Vec<f64> = families[latency][2]
        .as_array()
        .unwrap()
        .iter()
        .filter(|sample| sample[0] == format!("{latency}_bucket"))
        .map(|sample| sample[2].as_f64().unwrap())
        .collect();
    assert!(buckets.is_sorted() && buckets.last() == Some(&3.0), "{buckets:?}");
}

/// Prometheus's own reader, which also knows its rules for names, units and help texts.
#[test]
fn promtool_has_nothing_to_say_about_the_metrics() {
    if !have("promtool", "prometheus") {
        return;
    }
    let first = Server::start(&[]);
    let second = Server::start(&["--peer", &first.address()]);
    // With rows for a peer.
    let metrics = common::poll("the nodes know each other", || {
        let text = http::get(&second, "/metrics").text();
        text.contains("kvstore_replication_up{").then_some(text)
    });
    let output = run(Command::new("promtool").args(["check", "metrics"]), metrics);
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(0), "", ""));
}

#[test]
fn redis_cli_shows_statistics() {
    if !have("redis-cli", "redis-tools") {
        return;
    }
    let server = Server::start(&[]);
    server.connect().ask("PUT a 1\nPUT b 2\n", "OK\nOK\n");
    let mut child = Command::new("redis-cli")
        .args(["-p", &server.port.to_string(), "-i", "0.01", "--stat"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = [0; 400];
    child.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let text = String::from_utf8_lossy(&text);
    let row: Vec<&str> = text.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(row[0], "2", "keys: {text}");
    assert!(row[1].starts_with(|digit: char| digit.is_ascii_digit()), "memory: {text}");
}

/// The real `redis_exporter`, which turns `INFO` into what the Redis dashboards show.
#[test]
fn redis_exporter_finds_true_figures() {
    if !have("prometheus-redis-exporter", "prometheus-redis-exporter") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_on(
        0,
        &["--data-dir", folder.path().to_str().unwrap()],
        &[("KVSTORE_PASSWORD", "secret")],
    );
    let mut wire = server.connect();
    wire.ask(
        "AUTH secret\nPUT a 1\nPUT b 2\nGET a\nGET a\nGET c\n",
        "OK\nOK\nOK\n1\n1\nNOT_FOUND\n",
    );
    let listen = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new("prometheus-redis-exporter");
    command.args([
        "--redis.addr",
        &format!("redis://{}", server.address()),
        "--web.listen-address",
        &listen,
    ]);
    let _exporter =
        Program(command.env("REDIS_PASSWORD", "secret").stderr(Stdio::null()).spawn().unwrap());
    let text = common::poll("the exporter answers", || {
        let stream = std::net::TcpStream::connect(&listen).ok()?;
        let mut wire = common::Wire { stream };
        wire.send("GET /metrics HTTP/1.0\r\n\r\n");
        Some(String::from_utf8(wire.rest()).unwrap())
    });
    let value = |name: &str| -> f64 {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    };
    for (name, expected) in [
        ("redis_up", 1.0),
        ("redis_exporter_last_scrape_error{err=\"\"}", 0.0),
        ("redis_connected_clients", 2.0), // This test and the exporter.
        ("redis_config_maxclients", 10_000.0),
        ("redis_db_keys{db=\"db0\"}", 2.0),
        ("redis_keyspace_hits_total", 2.0),
        ("redis_keyspace_misses_total", 1.0),
        ("redis_connections_received_total", 2.0),
        ("redis_rejected_connections_total", 0.0),
        ("redis_connected_slaves", 0.0),
        ("redis_aof_enabled", 1.0),
        ("redis_aof_last_write_status", 1.0),
        ("redis_process_id", f64::from(server.pid())),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    // Six of ours, and what the exporter asked before INFO.
    assert!((6.0..12.0).contains(&value("redis_commands_processed_total")), "{text}");
    assert!(
        value("redis_net_input_bytes_total") > 50.0 && value("redis_aof_current_size_bytes") > 50.0,
        "{text}"
    );
    let resident = common::resident_bytes(server.pid()) as f64;
    assert!((0.5..2.0).contains(&(value("redis_memory_used_rss_bytes") / resident)), "{text}");
}

#[test]
fn a_trace_tells_the_story_of_one_write_on_two_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let trace = [("RUST_LOG", "kvstore=trace")];
    let server = Server::start_on(0, &["--data-dir", data, "--fsync", "always"], &trace);
    let peer = Server::start_on(0, &["--peer", &server.address()], &trace);
    cluster::wait_for(&server, peer.port, "live");
    let mut wire = server.connect();
    wire.ask("PUT name Dylan\n", "OK\n");
    server.wait_for_log(" acknowledged ");
    peer.wait_for_log("merged 1 records from a peer, refused 0");
    server.wait_for_log("replied with 3 bytes");
    let log = server.log();
    let thread = |words: &str| {
        let line = log
            .lines()
            .find(|line| line.ends_with(words))
            .unwrap_or_else(|| panic!("no '{words}' in\n{log}"));
        line.split(' ').nth(1).unwrap().to_string()
    };
    // Two threads of the first node tell it: the client's, and its peer's link.
    let (client, link) = (thread("up to position 33"), thread("bytes of records"));
    assert!(client.starts_with("client-") && link.starts_with("link-"), "{client} {link}");
    for story in [
        vec![
            format!("{client} TRACE kvstore::server::connection] received 15 bytes\n"),
            format!(
                "{client} TRACE kvstore::node::data] key \"name\", 5 bytes: merged with version "
            ),
            format!("{client} TRACE kvstore::replication] queued the key for links: 1\n"),
            format!(
                "{client} TRACE kvstore::node::batch] committed up to position 33: on the disk\n"
            ),
            format!("{client} TRACE kvstore::server::connection] replied with 3 bytes\n"),
        ],
        vec![
            format!(
                "{client} TRACE kvstore::node::data] key \"name\", 5 bytes: merged with version "
            ),
            format!(
                "{link} TRACE kvstore::peers::worker] localhost:{} acknowledged 33 bytes",
                peer.port
            ),
        ],
    ] {
        let places: Vec<usize> = story
            .iter()
            .map(|line| log.find(line).unwrap_or_else(|| panic!("no {line:?} in\n{log}")))
            .collect();
        assert!(places.is_sorted(), "{log}");
    }
}
