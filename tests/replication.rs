//! Several nodes as processes: replication, catching up, partitions, membership, and what goes
//! wrong.

mod common;

use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::cluster::*;
use common::{Server, binary, poll, repository, resp};
use kvstore::client::Response;

#[test]
fn the_original_demonstration_is_true_at_last() {
    let first = Server::start(&[]);
    let second = start(&[], &[&first]);
    wait_for(&first, second.port, "live");
    client(&first).put("name", "Dylan Thomas").unwrap();
    wait_for_value(&second, "name", Some("Dylan Thomas"));
    client(&second).delete("name").unwrap();
    wait_for_value(&first, "name", None);
    // A third that knows one of them learns of the other.
    client(&second).put("greeting", "hello").unwrap();
    let third = start(&[], &[&first]);
    wait_for(&third, second.port, "live");
    wait_for(&second, third.port, "live");
    wait_for_value(&third, "greeting", Some("hello"));
    client(&third).put("from", "the third").unwrap();
    wait_for_value(&second, "from", Some("the third"));
    assert_eq!(field(&first, "connected_slaves"), "2");
    assert_eq!(field(&first, "role"), "master");
}

#[test]
fn the_script_names_the_other_two_ports() {
    let script = std::fs::read_to_string(repository().join("run_server.sh")).unwrap();
    assert!(script.lines().count() < 30);
    // What the script would start, without building anything: a cargo that shows its environment.
    let folder = tempfile::tempdir().unwrap();
    let fake = folder.path().join("cargo");
    std::fs::write(&fake, "#!/bin/sh\necho \"${KVSTORE_PEER-unset}\"\n").unwrap();
    let mode = Command::new("chmod").arg("+x").arg(&fake).status().unwrap();
    assert!(mode.success());
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let peers = |arguments: &[&str], variable: &str| {
        let mut run = Command::new(repository().join("run_server.sh"));
        run.args(arguments).env("PATH", &path).env("KVSTORE_PEER", variable);
        common::run(&mut run, "").stdout.trim().to_string()
    };
    assert_eq!(peers(&[], ""), "localhost:8081,localhost:8082");
    assert_eq!(peers(&["8080"], ""), "localhost:8081,localhost:8082");
    assert_eq!(peers(&["--cluster", "x"], ""), "localhost:8081,localhost:8082");
    assert_eq!(peers(&["8081"], ""), "localhost:8080,localhost:8082");
    assert_eq!(peers(&["8082"], ""), "localhost:8080,localhost:8081");
    assert_eq!(peers(&["9000"], ""), "");
    // With --raft, 8080 founds a cluster, and the others join it.
    assert_eq!(peers(&["8080", "--raft", "--data-dir", "n0"], ""), "");
    assert_eq!(peers(&["8081", "--raft", "--data-dir", "n1"], ""), "localhost:8080");
    assert_eq!(peers(&["8082", "--data-dir", "n2", "--raft"], ""), "localhost:8080");
    assert_eq!(peers(&["8081", "--raft", "--peer", "a:1"], ""), "");
    assert_eq!(peers(&["8080", "--peer", "a:1"], ""), "");
    assert_eq!(peers(&["8080", "--peer=a:1"], ""), "");
    assert_eq!(peers(&["8080"], "a:1"), "a:1");
}

#[test]
fn a_node_that_was_killed_and_is_empty_catches_up() {
    let [first, mut second, third] = three(&[]);
    put_all(&first, (0..2_000).map(|i| format!("key:{i} value {i}")));
    wait_for_value(&third, "key:1999", Some("value 1999"));
    let port = second.port;
    second.kill();
    wait_for(&first, port, "connecting");
    ask(&first, &["DELETE", "key:7"]);
    ask(&third, &["PUT", "key:8", "changed"]);
    let second = Server::start_on(port, &[&peers(&[&first])[0]], &[]);
    poll("the empty node has everything", || {
        (ask(&second, &["DBSIZE"]) == Response::Integer(1_999)).then_some(())
    });
    wait_for_value(&second, "key:8", Some("changed"));
    assert_eq!(get(&second, "key:7"), None);
    wait_for(&first, port, "live");
    wait_for(&third, port, "live");
    // The old id is gone with its data: nobody waits for it.
    poll("one peer each for the other two", || {
        (text(ask(&first, &["PEERS"])).lines().count() == 2).then_some(())
    });
}

#[test]
fn a_partition_keeps_the_later_write_and_a_delete_stays_deleted() {
    let [first, second, third] = three(&["--enable-fault-injection"]);
    ask(&first, &["PUT", "doomed", "old"]);
    wait_for_value(&second, "doomed", Some("old"));
    wait_for_value(&third, "doomed", Some("old"));
    assert_eq!(ask(&second, &["PARTITION", "*"]), Response::Simple("OK".into()));
    wait_for(&second, first.port, "partitioned");
    wait_for(&second, third.port, "partitioned");
    wait_for(&first, second.port, "refused: partitioned");
    assert_eq!(field(&second, "connected_slaves"), "0");
    ask(&first, &["PUT", "color", "red"]);
    thread::sleep(Duration::from_millis(5)); // The later write has the later clock.
    ask(&second, &["PUT", "color", "blue"]);
    ask(&first, &["DELETE", "doomed"]);
    wait_for_value(&third, "color", Some("red"));
    assert_eq!(get(&second, "color").as_deref(), Some("blue"));
    assert_eq!(get(&second, "doomed").as_deref(), Some("old"));
    assert_eq!(ask(&second, &["WAIT", "1", "50"]), Response::Integer(0));
    ask(&second, &["HEAL"]);
    for server in [&first, &second, &third] {
        wait_for_value(server, "color", Some("blue"));
        wait_for_value(server, "doomed", None);
    }
    wait_for(&second, first.port, "live");
    wait_for(&first, second.port, "live");
    let refused = text(ask(&start(&[], &[]), &["PARTITION", "*"]));
    assert!(refused.contains("--enable-fault-injection"), "{refused}");
}

#[test]
fn one_named_peer_is_cut_off_and_the_third_relays_nothing_of_its_own() {
    let [first, second, third] = three(&["--enable-fault-injection"]);
    let address = format!("localhost:{}", second.port);
    ask(&first, &["PARTITION", &address]);
    wait_for(&first, second.port, "partitioned");
    wait_for(&first, third.port, "live");
    let refused = text(ask(&first, &["PARTITION", "localhost:1"]));
    assert!(refused.contains("no peer has"), "{refused}");
    ask(&first, &["PUT", "k", "v"]);
    // The third has it from the first and compares with the second in ten seconds: so two paths
    // exist.
    wait_for_value(&third, "k", Some("v"));
    wait_for_value(&second, "k", Some("v"));
    ask(&first, &["HEAL"]);
    wait_for(&first, second.port, "live");
}

#[test]
fn wait_counts_the_peers_that_hold_this_connections_writes() {
    let [first, mut second, third] = three(&[]);
    let mut wire = first.connect();
    // Nothing was written on this connection: every live peer holds that.
    wire.ask("WAIT 2 1000\n", "2\n");
    wire.ask("PUT k v\nWAIT 2 5000\n", "OK\n2\n");
    assert_eq!(get(&second, "k").as_deref(), Some("v"));
    assert_eq!(get(&third, "k").as_deref(), Some("v"));
    second.kill();
    // Earlier replies are sent before the wait.
    let began = Instant::now();
    wire.send("PUT k w\nWAIT 2 1500\nPING\n");
    wire.expect("OK\n");
    assert!(began.elapsed() < Duration::from_millis(1_000));
    wire.expect("1\nPONG\n");
    assert!(began.elapsed() >= Duration::from_millis(1_500));
    // A client that hangs up ends the wait.
    wire.send("WAIT 2 0\n");
    let clients =
        |wanted: &str| text(ask(&first, &["INFO", "clients"])).contains(wanted).then_some(());
    poll("the connection waits", || clients("blocked_clients:1"));
    drop(wire);
    poll("the waiting connection is closed", || clients("connected_clients:2"));
    assert!(clients("blocked_clients:0").is_some());
}

#[test]
fn members_are_forgotten_and_stay_so() {
    let [first, second, mut third] = three(&[]);
    let (port, id) = (third.port, field(&third, "node_id"));
    third.kill();
    wait_for(&first, port, "connecting");
    assert_eq!(ask(&first, &["PEER", "FORGET", &id]), Response::Simple("OK".into()));
    poll("nobody lists it", || {
        let gone = row(&first, port).is_none() && row(&second, port).is_none();
        gone.then_some(())
    });
    let unknown = text(ask(&first, &["PEER", "FORGET", "localhost:1"]));
    assert!(unknown.contains("no peer has the address"), "{unknown}");
    let itself = text(ask(&first, &["PEER", "FORGET", &field(&first, "node_id")]));
    assert!(itself.contains("cannot forget itself"), "{itself}");
    // A living node that was forgotten is told so, on both sides.
    let living = start(&[], &[&first]);
    wait_for(&second, living.port, "live");
    ask(&first, &["PEER", "FORGET", &format!("localhost:{}", living.port)]);
    wait_for(&living, first.port, "refused: forgotten: start with an empty directory");
    wait_for(&living, second.port, "refused: forgotten");
    first.wait_for_log("forgotten");
    assert!(number(&first, "peers_refused") > 0);
}

#[test]
fn two_spellings_and_a_seed_that_is_itself_make_one_peer() {
    let first = Server::start(&[]);
    let port = free_port();
    let options = [format!("--peer=localhost:{0},127.0.0.1:{0},localhost:{port}", first.port)];
    let second = Server::start_on(port, &[&options[0]], &[]);
    wait_for(&second, first.port, "live");
    poll("one row", || (text(ask(&second, &["PEERS"])).lines().count() == 1).then_some(()));
    assert_eq!(text(ask(&first, &["PEERS"])).lines().count(), 1);
}

#[test]
fn an_advertised_address_that_leads_elsewhere_is_shown() {
    let first = Server::start(&[]);
    let itself = format!("--advertise=localhost:{}", first.port);
    let second = start(&[&itself], &[&first]);
    // The second tells the first that it is reached at the first's own address.
    poll("it is refused as itself", || {
        let state = state(&first, first.port);
        (state.starts_with("refused: ") && state.contains("is this node itself")).then_some(())
    });
    first.wait_for_log("--advertise");
    wait_for(&second, first.port, "live");
}

#[test]
fn another_cluster_and_another_password_are_refused_in_both_logs() {
    let first = Server::start(&["--cluster", "one"]);
    let second = start(&["--cluster", "two"], &[&first]);
    wait_for(&second, first.port, "refused: ");
    for server in [&first, &second] {
        server.wait_for_log("--cluster");
    }
    assert!(number(&first, "peers_refused") > 0);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret").unwrap();
    let option = format!("--password-file={}", file.path().display());
    let locked = Server::start(&[&option]);
    let open = start(&[], &[&locked]);
    wait_for(&open, locked.port, "refused: NOAUTH");
    locked.wait_for_log("password");
    // The right one works.
    let friend = start(&[&option], &[&locked]);
    let mut wire = friend.connect();
    wire.ask("AUTH secret\nPUT k v\n", "OK\nOK\n");
    wire.ask("WAIT 1 10000\n", "1\n");
}

#[test]
fn peer_commands_need_an_introduction_and_sense() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.ask(resp(&[b"PEER", b"DIGESTS"]), "-ERR say PEER HELLO first\r\n");
    wire.ask(resp(&[b"PEER", b"MERGE", b""]), "-ERR say PEER HELLO first\r\n");
    introduce(&mut wire, b"00000000000000a1");
    wire.send(resp(&[b"PEER", b"DIGESTS"]));
    wire.expect("$8192\r\n");
    wire.expect(vec![0; 8192]);
    wire.expect("\r\n");
    wire.ask(resp(&[b"PEER", b"DIGESTS", b"1024"]), "-ERR not a number from 0 to 1023\r\n");
    wire.ask(resp(&[b"PEER", b"VERSIONS", b"0", b"0"]), "$0\r\n\r\n");
    wire.ask(resp(&[b"PEER", b"MERGE", b"nonsense"]), "-ERR record: shorter than its header\r\n");
    // A newer connection of the same node: the older one is closed.
    let mut newer = server.connect();
    introduce(&mut newer, b"00000000000000a1");
    assert_eq!(wire.rest(), b"");
    newer.ask(resp(&[b"PEER", b"MERGE", b""]), "*2\r\n:0\r\n:0\r\n");
    // A record a day ahead is refused and counted, the rest merges.
    let records = records(&[(b"late", 86_400_000), (b"good", 0)]);
    newer.ask(resp(&[b"PEER", b"MERGE", &records]), "*2\r\n:1\r\n:1\r\n");
    assert_eq!((get(&server, "good").as_deref(), get(&server, "late")), (Some("v"), None));
    assert_eq!(number(&server, "records_refused_clock_skew"), 1);
    server.wait_for_log("clock");
}

#[test]
fn a_peer_that_never_answers_or_trickles_blocks_nobody() {
    // One accepts and never answers, one trickles a reply of unknown kind for ever.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let trickling = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [silent.local_addr().unwrap().port(), trickling.local_addr().unwrap().port()];
    thread::spawn(move || {
        for mut stream in trickling.incoming().flatten() {
            thread::spawn(move || {
                let _ = stream.write_all(b"$600000\r\n");
                while stream.write_all(b"x").is_ok() {
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
    let began = Instant::now();
    let option = format!("--peer=localhost:{},localhost:{}", ports[0], ports[1]);
    let server = Server::start_on(0, &[&option], &[("RUST_LOG", "debug")]);
    // Seeds get at most a second before the server serves; a slow machine some more.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let mut client = client(&server);
    for i in 0..2_000 {
        client.put(format!("key{i}"), "value").unwrap();
    }
    let friend = start(&[], &[&server]);
    wait_for_value(&friend, "key1999", Some("value"));
    for port in ports {
        wait_for(&server, port, "connecting");
        server.wait_for_log(&format!(
            "localhost:{port} cannot be reached yet, and is tried again: no sign of life in"
        ));
    }
    // Also what failed has travelled, and is counted.
    let trickled = row(&server, ports[1]).expect("a row");
    assert!(!trickled.contains("received_bytes=0 "), "{trickled}");
    drop(silent);
}

#[test]
fn a_dead_peer_costs_bounded_memory_and_is_caught_up_later() {
    let first = Server::start(&[]);
    let mut second = start(&[], &[&first]);
    wait_for(&first, second.port, "live");
    let port = second.port;
    second.kill();
    let count = 100_000;
    put_all(&first, (0..count).map(|i| format!("key{i} {i}")));
    // The queue holds its fill and no more; the rest is marks.
    let queued: u64 = number(&first, "queued_keys");
    assert!((1..=65_537).contains(&queued), "{queued}");
    assert!(number(&first, "queue_overflows") > 0);
    assert!(number(&first, "lag_ms_max") > 0);
    let second = Server::start_on(port, &[&peers(&[&first])[0]], &[]);
    poll("all is there", || {
        (ask(&second, &["DBSIZE"]) == Response::Integer(count as i64)).then_some(())
    });
    wait_for(&first, port, "live");
    poll("nothing is queued", || (number(&first, "queued_keys") == 0).then_some(()));
}

#[test]
fn a_value_of_the_longest_size_replicates() {
    let first = Server::start(&[]);
    let second = start(&[], &[&first]);
    wait_for(&first, second.port, "live");
    let value = vec![b'v'; 64 * 1024 * 1024];
    let key = vec![b'k'; 65_536];
    client(&first).put(&key, &value).unwrap();
    let mut other = client(&second);
    poll("the long value arrives", || {
        let len = other.request(&[b"STRLEN", &key]).unwrap();
        (len == Response::Integer(value.len() as i64)).then_some(())
    });
    // Also in a comparison, to a node that comes later.
    let third = start(&[], &[&second]);
    let mut other = client(&third);
    poll("the long value arrives again", || {
        let len = other.request(&[b"STRLEN", &key]).unwrap();
        (len == Response::Integer(value.len() as i64)).then_some(())
    });
}

#[test]
fn a_clock_that_is_ahead_is_refused_and_shown_and_heals_by_itself() {
    // One node lets a record 20 s ahead in, so its clock is 20 s ahead; the other allows 10 s.
    let first = Server::start(&["--max-clock-skew", "10"]);
    let ahead = start(&[], &[&first]);
    wait_for(&ahead, first.port, "live");
    merge_from_the_future(&ahead, 20_000);
    ask(&ahead, &["PUT", "k", "v"]);
    wait_for(&ahead, first.port, "refused: clock skew");
    assert_eq!(get(&first, "k"), None);
    assert!(number(&first, "records_refused_clock_skew") > 0);
    let mut writer = ahead.connect();
    writer.ask("PUT k w\nWAIT 1 100\n", "OK\n0\n");
    // The other direction works, and in ten seconds time has caught up.
    ask(&first, &["PUT", "other", "v"]);
    wait_for_value(&ahead, "other", Some("v"));
    wait_for_value(&first, "k", Some("w"));
    wait_for(&ahead, first.port, "live");
}

#[test]
fn a_gentle_stop_hands_over_what_was_written() {
    let first = Server::start(&[]);
    let second = start(&[], &[&first]);
    wait_for(&first, second.port, "live");
    let mut first = first;
    let mut wire = first.connect();
    let mut requests: String = (0..20_000).map(|i| format!("PUT key{i} v\n")).collect();
    requests.push_str("SHUTDOWN\n");
    wire.send(&requests);
    let replies = wire.rest();
    assert_eq!(replies.len(), 60_000);
    assert_eq!(first.exit_code(), Some(0));
    poll("all is there", || (ask(&second, &["DBSIZE"]) == Response::Integer(20_000)).then_some(()));
}

#[test]
fn durable_and_in_memory_nodes_mix_and_send_only_what_was_missed() {
    let folder = tempfile::tempdir().unwrap();
    let directory = format!("--data-dir={}", folder.path().join("a").display());
    let first = Server::start(&[]);
    let mut second = start(&[&directory], &[&first]);
    wait_for(&first, second.port, "live");
    let mut client = client(&first);
    (0..5_000).for_each(|i| client.put(format!("key{i}"), vec![b'v'; 100]).unwrap());
    wait_for(&second, first.port, "live");
    assert_eq!(text(ask(&first, &["PUT", "last", "v"])), "Simple(\"OK\")");
    wait_for_value(&second, "last", Some("v"));
    let id = field(&second, "node_id");
    second.kill();
    (0..10).for_each(|i| client.put(format!("key{i}"), "changed").unwrap());
    let before = number(&first, "sent_bytes");
    // Elsewhere, and without a seed: it knows the member, and the member learns the new address.
    let second = Server::start(&[&directory]);
    wait_for_value(&second, "key9", Some("changed"));
    assert_eq!(field(&second, "node_id"), id);
    wait_for(&first, second.port, "live");
    assert_eq!(text(ask(&first, &["PEERS"])).lines().count(), 1);
    let sent = number(&first, "sent_bytes") - before;
    assert!(sent < 100_000, "{sent} bytes for ten changed keys of 5,000");
}

#[test]
fn a_copied_data_directory_is_refused_in_both_logs() {
    let folder = tempfile::tempdir().unwrap();
    let directory = |name: &str| folder.path().join(name).display().to_string();
    let mut original = Server::start(&["--data-dir", &directory("a")]);
    ask(&original, &["PUT", "k", "v"]);
    original.kill();
    let copied = Command::new("cp").args(["-r", &directory("a"), &directory("b")]).status();
    assert!(copied.unwrap().success());
    let original = Server::start(&["--data-dir", &directory("a")]);
    let copy = start(&["--data-dir", &directory("b")], &[&original]);
    wait_for(&copy, original.port, "refused: two running nodes have the id");
    for server in [&original, &copy] {
        server.wait_for_log("copied data directory");
    }
}

#[test]
fn a_ban_survives_a_restart_and_the_forgotten_node_is_told_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let directory = |name: &str| folder.path().join(name).display().to_string();
    let mut first = Server::start(&["--data-dir", &directory("a")]);
    let mut second = start(&["--data-dir", &directory("b")], &[&first]);
    wait_for(&first, second.port, "live");
    second.kill();
    let row = row(&first, second.port).expect("a row");
    let id = row
        .split(" id=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .expect("an id")
        .to_string();
    assert_eq!(ask(&first, &["PEER", "FORGET", &id]), Response::Simple("OK".into()));
    first.kill();
    let first = Server::start(&["--data-dir", &directory("a")]);
    let second = start(&["--data-dir", &directory("b")], &[&first]);
    wait_for(&second, first.port, "refused: forgotten: start with an empty directory");
    let third = start(&["--data-dir", &directory("c")], &[&first]);
    wait_for(&third, first.port, "live");
}

#[test]
fn the_server_tells_the_usage_of_its_options() {
    let help = common::run(Command::new(binary()).args(["server", "--help"]), "").stdout;
    for option in [
        "--peer",
        "--advertise",
        "--cluster",
        "--max-clock-skew",
        "--tombstone-grace",
        "--enable-fault-injection",
    ] {
        assert!(help.contains(option), "{option}");
    }
    for (variable, value) in [
        ("KVSTORE_PEER", "nonsense"),
        ("KVSTORE_ADVERTISE", "0.0.0.0:1"),
        ("KVSTORE_CLUSTER", "a b"),
    ] {
        let mut run = Command::new(binary());
        let output = common::run(run.args(["server", "0"]).env(variable, value), "");
        assert_eq!(output.code, Some(2), "{variable}={value}: {}", output.stderr);
    }
}

#[test]
fn nodes_that_join_at_the_same_moment_learn_of_each_other() {
    for _ in 0..4 {
        let first = start(&[], &[]);
        let (second, third) = thread::scope(|scope| {
            let join = || start(&[], &[&first]);
            let (second, third) = (scope.spawn(join), scope.spawn(join));
            (second.join().expect("it starts"), third.join().expect("it starts"))
        });
        wait_for(&second, third.port, "live");
        wait_for(&third, second.port, "live");
    }
}
