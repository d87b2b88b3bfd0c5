//! Clusters that agree by consensus, with real processes: founding, joining, losing nodes, and the
//! words of refusals.

mod common;

use std::time::{Duration, Instant};

use common::cluster::{ask, client, field, free_port, start, text};
use common::disk::refused;
use common::raft::RaftCluster;
use common::{Server, poll, resp};
use kvstore::client::{Client, Response, SILENCE_TIMEOUT};
use kvstore::config::VALUE_BYTES_MAX;

const QUICK: [&str; 2] = ["--election-timeout", "300"];

/// The value of a key, as whoever leads has it.
fn value(cluster: &RaftCluster, key: &str) -> Option<String> {
    let value = cluster.client().get(key).expect("a reply");
    value.map(|bytes| String::from_utf8(bytes).expect("text"))
}

/// What a node answers to a request, errors included, and how long that took.
fn answer(server: &Server, words: &[&str]) -> (String, Duration) {
    let began = Instant::now();
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let answer = match client(server).request(&words).expect("a reply") {
        Response::Error(code, message) => format!("{code} {message}"),
        other => text(other),
    };
    (answer, began.elapsed())
}

/// A node's whole answer to an HTTP request without a body.
fn http(server: &Server, request: &str) -> String {
    let mut wire = server.connect();
    wire.send(format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    String::from_utf8(wire.rest()).expect("text")
}

#[test]
fn a_killed_leader_is_replaced_and_nothing_is_lost() {
    let mut cluster = RaftCluster::start(3, &[]);
    cluster.client().put("name", "Dylan").expect("stored");
    let mut took = Vec::new();
    for round in 0..5 {
        let leader = cluster.leader();
        cluster.nodes[leader].kill();
        let began = Instant::now();
        let mut client = cluster.client();
        client.put("name", format!("Dylan {round}")).expect("stored");
        took.push(began.elapsed());
        assert_eq!(value(&cluster, "name"), Some(format!("Dylan {round}")));
        cluster.restart(leader);
        cluster.wait_for_voters(3);
        cluster.wait_until_equal();
    }
    took.sort();
    assert!(took[2] < Duration::from_millis(500), "until the next acknowledged write: {took:?}");
    assert!(took[4] < Duration::from_secs(3), "until the next acknowledged write: {took:?}");
}

#[test]
fn calling_a_dead_member_ends_no_other_link() {
    let mut cluster = RaftCluster::start(3, &QUICK);
    cluster.nodes[2].kill();
    cluster.leader();
    // Node 0 is the seed of node 1: the dead one might be there now.
    let server = cluster.nodes[1].server();
    let mut wire = server.connect();
    wire.ask(resp(&[b"SET", b"k", b"v"]), "+OK\r\n");
    let (began, broken) = (Instant::now(), field(server, "links_broken"));
    while began.elapsed() < Duration::from_secs(2) {
        wire.ask(resp(&[b"SET", b"k", b"v"]), "+OK\r\n");
    }
    assert_eq!(field(server, "links_broken"), broken);
}

#[test]
fn every_command_works_and_reads_see_the_writes_before_them() {
    let cluster = RaftCluster::start(3, &QUICK);
    let leader = cluster.nodes[cluster.leader()].server();
    let mut wire = leader.connect();
    let words: [&[&[u8]]; 8] = [
        &[b"SET", b"k", b"1"],
        &[b"GET", b"k"],
        &[b"DEL", b"k", b"other"],
        &[b"GET", b"k"],
        &[b"MSET", b"a", b"1", b"b", b"2"],
        &[b"MGET", b"a", b"b", b"k"],
        &[b"EXISTS", b"a", b"b", b"k"],
        &[b"DBSIZE"],
    ];
    let requests: Vec<u8> = words.iter().flat_map(|words| resp(words)).collect();
    let replies =
        "+OK\r\n$1\r\n1\r\n:1\r\n$-1\r\n+OK\r\n*3\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n:2\r\n:2\r\n";
    wire.ask(requests, replies);
    wire.ask(resp(&[b"SCAN", b"0", b"COUNT", b"100"]), "*2\r\n$1\r\n0\r\n*2\r\n");
    let mut wire = leader.connect();
    wire.ask(
        [resp(&[b"FLUSHALL"]), resp(&[b"GET", b"a"]), resp(&[b"DBSIZE"])].concat(),
        "+OK\r\n$-1\r\n:0\r\n",
    );
    wire.ask(resp(&[b"SET", b"a", b"3"]), "+OK\r\n");
    cluster.wait_until_equal();
    let follower = cluster.nodes.iter().find(|node| field(node.server(), "role") == "slave");
    let mut wire = follower.expect("a follower").server().connect();
    wire.ask(resp(&[b"READONLY"]), "+OK\r\n");
    wire.ask(resp(&[b"GET", b"a"]), "$1\r\n3\r\n");
    wire.ask(resp(&[b"DBSIZE"]), ":1\r\n");
    wire.ask(resp(&[b"READWRITE"]), "+OK\r\n");
    assert_eq!(cluster.ask(&["WAIT", "2", "5000"]), Response::Integer(2));
}

#[test]
fn every_node_takes_every_command() {
    let cluster = RaftCluster::start(3, &QUICK);
    let words: [&[&[u8]]; 10] = [
        &[b"SET", b"k", b"1"],
        &[b"GET", b"k"],
        &[b"DEL", b"k", b"other"],
        &[b"GET", b"k"],
        &[b"MSET", b"a", b"1", b"b", b"2"],
        &[b"MGET", b"a", b"b", b"k"],
        &[b"SET", b"c", b"3"],
        &[b"DEL", b"a", b"b"],
        &[b"DBSIZE"],
        &[b"FLUSHALL"],
    ];
    let requests: Vec<u8> = words.iter().flat_map(|words| resp(words)).collect();
    let replies = "+OK\r\n$1\r\n1\r\n:1\r\n$-1\r\n+OK\r\n\
                   *3\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n+OK\r\n:2\r\n:1\r\n+OK\r\n";
    let mut wires: Vec<_> = cluster.nodes.iter().map(|node| node.server().connect()).collect();
    for wire in &mut wires {
        wire.ask(&requests, replies);
    }
    // What one node has acknowledged is what any other reads, at once.
    for round in 0..200 {
        let value = format!("v{round:03}");
        wires[round % 3].ask(resp(&[b"SET", b"name", value.as_bytes()]), "+OK\r\n");
        wires[(round + 1) % 3].ask(resp(&[b"GET", b"name"]), format!("$4\r\n{value}\r\n"));
    }
}

#[test]
fn a_follower_takes_the_longest_value_behind_others() {
    let cluster = RaftCluster::start(2, &QUICK);
    let follower = cluster.nodes[1 - cluster.leader()].server();
    let longest = vec![b'x'; VALUE_BYTES_MAX];
    let mut wire = follower.connect();
    let some = resp(&[b"SET", b"some", &longest[..900_000]]);
    let all = [some.clone(), resp(&[b"SET", b"longest", &longest]), some].concat();
    wire.ask(all, "+OK\r\n+OK\r\n+OK\r\n");
    assert_eq!(client(follower).get("longest").expect("a reply"), Some(longest));
}

#[test]
fn members_are_removed_and_never_come_back_under_their_id() {
    let mut cluster = RaftCluster::start(4, &QUICK);
    // A dead node.
    let leader = cluster.leader();
    let dead = (0..4).find(|index| *index != leader).expect("another");
    cluster.nodes[dead].kill();
    let address = cluster.nodes[dead].address();
    assert_eq!(cluster.ask(&["PEER", "FORGET", &address]), Response::Simple("OK".into()));
    cluster.wait_for_voters(3);
    let id = {
        cluster.restart(dead);
        let server = cluster.nodes[dead].server();
        poll("it is told", || {
            let rows = text(ask(server, &["PEERS"]));
            rows.contains("removed from the cluster by PEER FORGET").then_some(())
        });
        let (words, _) = answer(server, &["GET", "name"]);
        assert!(words.starts_with("CLUSTERDOWN this id was removed from the cluster"), "{words}");
        field(server, "node_id")
    };
    // Emptied, it is a new node.
    cluster.nodes[dead].kill();
    std::fs::remove_dir_all(&cluster.nodes[dead].directory).expect("removed");
    cluster.restart(dead);
    cluster.wait_for_voters(4);
    assert_ne!(field(cluster.nodes[dead].server(), "node_id"), id);
    // The leader itself.
    cluster.client().put("name", "Dylan").expect("stored");
    let leader = cluster.leader();
    let address = cluster.nodes[leader].address();
    assert_eq!(cluster.ask(&["PEER", "FORGET", &address]), Response::Simple("OK".into()));
    cluster.nodes[leader].kill();
    assert_ne!(cluster.wait_for_voters(3), leader);
    assert_eq!(value(&cluster, "name"), Some("Dylan".into()));
    let nobody = text(cluster.ask(&["PEER", "FORGET", "localhost:1"]));
    assert!(nobody.contains("no member is 'localhost:1'"), "{nobody}");
}

#[test]
fn two_members_at_one_address_are_told_apart_by_their_ids() {
    let mut cluster = RaftCluster::start(3, &QUICK);
    let leader = cluster.leader();
    let wiped = (1..3).find(|index| *index != leader).expect("a follower");
    let (address, old) =
        (cluster.nodes[wiped].address(), field(cluster.nodes[wiped].server(), "node_id"));
    cluster.nodes[wiped].kill();
    std::fs::remove_dir_all(&cluster.nodes[wiped].directory).expect("removed");
    cluster.restart(wiped);
    let new = field(cluster.nodes[wiped].server(), "node_id");
    poll("the new one is a member", || text(cluster.ask(&["PEERS"])).contains(&new).then_some(()));
    let words = text(cluster.ask(&["PEER", "FORGET", &address]));
    assert!(words.contains(&format!("several members are at '{address}'")), "{words}");
    assert!(words.contains(&old) && words.contains(&new), "{words}");
    assert_eq!(cluster.ask(&["PEER", "FORGET", &old]), Response::Simple("OK".into()));
    cluster.wait_for_voters(3);
}

#[test]
fn a_cluster_of_one_keeps_its_last_voter_and_a_second_makes_two_needed() {
    let mut cluster =
        RaftCluster::start(1, &["--election-timeout", "300", "--request-timeout", "500"]);
    let address = cluster.nodes[0].address();
    let last = text(cluster.ask(&["PEER", "FORGET", &address]));
    assert!(last.contains("the last voter cannot be removed"), "{last}");
    cluster.client().put("name", "Dylan").expect("stored");
    cluster.add();
    cluster.wait_for_voters(2);
    cluster.nodes[1].kill();
    let server = cluster.nodes[0].server();
    poll("the majority is missed", || (field(server, "role") == "slave").then_some(()));
    let (write, _) = answer(server, &["PUT", "name", "x"]);
    assert_eq!(write, "CLUSTERDOWN no leader: 1 of 2 voters answer, 2 are needed (not stored)");
    let (read, took) = answer(server, &["GET", "name"]);
    assert_eq!(read, "CLUSTERDOWN no leader: 1 of 2 voters answer, 2 are needed");
    let reply = http(server, "DELETE /keys/name");
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    assert!(
        reply.contains("no leader: 1 of 2 voters answer, 2 are needed (not stored)"),
        "{reply}"
    );
    let reply = http(server, "GET /keys/name");
    assert!(reply.starts_with("HTTP/1.1 503 ") && !reply.contains("not stored"), "{reply}");
    let reply = http(server, "GET /keys/name?stale");
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("\r\nDylan"), "{reply}");
    let reply = http(server, "GET /keys?stale&count=5");
    assert!(reply.contains(r#"{"keys":["name"]"#), "{reply}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    // After longer than a request may take, it answers at once.
    poll("at once", || {
        let (_, took) = answer(server, &["GET", "name"]);
        (took < Duration::from_millis(100)).then_some(())
    });
    cluster.restart(1);
    cluster.leader();
    assert_eq!(value(&cluster, "name"), Some("Dylan".into()));
}

#[test]
fn other_clusters_and_the_other_way_are_refused() {
    let cluster = RaftCluster::start(1, &QUICK);
    let node = &cluster.nodes[0];
    let peer = format!("--peer={}", node.address());
    // An eventual node.
    let eventual = start(&[&peer], &[]);
    poll("the eventual node is told", || {
        let rows = text(ask(&eventual, &["PEERS"]));
        rows.contains("one of the two nodes is raft, the other eventual").then_some(())
    });
    // Another name.
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("other");
    let options =
        ["--raft", "--data-dir", directory.to_str().expect("text"), "--cluster", "b", &peer];
    let other = Server::start(&options);
    poll("the node of another name is told", || {
        let rows = text(ask(&other, &["PEERS"]));
        rows.contains("cluster 'kvstore', not of 'b'").then_some(())
    });
    drop(other);
    // A cluster of its own: it says that it does not join.
    let mut second = RaftCluster::start(1, &QUICK);
    let port = second.nodes[0].port;
    second.nodes[0].kill();
    let directory = second.nodes[0].directory.to_str().expect("text").to_string();
    let again = Server::start_on(port, &["--raft", "--data-dir", &directory, &peer], &[]);
    again.wait_for_log("--peer changes nothing: this node is the only member");
    drop(again);
    assert_eq!(field(node.server(), "raft_learners"), "0");
    // A directory of the other way.
    let words = refused(&["--data-dir", &directory]);
    assert!(words.contains("was written by a node that was started with --raft"), "{words}");
    let words = refused(&["--raft"]);
    assert!(words.contains("--raft needs --data-dir DIR"), "{words}");
}

#[test]
fn a_founder_whose_directory_was_emptied_serves_nothing() {
    let mut cluster = RaftCluster::start(3, &QUICK);
    cluster.client().put("name", "Dylan").expect("stored");
    cluster.nodes[0].kill();
    std::fs::remove_dir_all(&cluster.nodes[0].directory).expect("removed");
    // As the first node is started: without --peer.
    cluster.restart(0);
    let server = cluster.nodes[0].server();
    let words = poll("it notices", || {
        let (words, _) = answer(server, &["GET", "name"]);
        words.contains("its directory was emptied").then_some(words)
    });
    assert!(words.starts_with("CLUSTERDOWN "), "{words}");
    assert_eq!(value(&cluster, "name"), Some("Dylan".into()), "the others serve");
}

#[test]
fn a_wrong_seed_of_another_cluster_stops_nobody() {
    let healthy = RaftCluster::start(1, &QUICK);
    healthy.client().put("name", "Dylan").expect("stored");
    let mut other = RaftCluster::start(2, &QUICK);
    other.nodes[0].kill();
    other.nodes[1].kill();
    let node = &other.nodes[1];
    let (directory, peer) = (node.directory.to_str().expect("text"), healthy.addresses());
    let peer = format!("--peer={}", peer[0]);
    let again = Server::start_on(node.port, &["--raft", "--data-dir", directory, &peer], &[]);
    poll("it has tried the wrong seed", || {
        let rows = text(ask(&again, &["PEERS"]));
        rows.contains("each was founded by itself").then_some(())
    });
    assert_eq!(value(&healthy, "name"), Some("Dylan".into()));
}

#[test]
fn readiness_and_metrics_show_who_leads() {
    let cluster = RaftCluster::start(3, &QUICK);
    let leader = cluster.leader();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let reply = http(node.server(), "GET /readyz");
        assert!(reply.contains("200 OK"), "every node takes every request: {reply}");
        let reply = http(node.server(), "GET /metrics");
        let leads = format!("kvstore_raft_is_leader {}", u8::from(index == leader));
        for figure in [leads.as_str(), "kvstore_raft_voters 3", "kvstore_raft_commit_index "] {
            assert!(reply.contains(figure), "{figure}: {reply}");
        }
        let reply = http(node.server(), "GET /status.json");
        let leads = format!(r#""raft_is_leader":{}"#, u8::from(index == leader));
        for figure in [leads.as_str(), r#""raft_voters":3"#, r#""raft_term":"#] {
            assert!(reply.contains(figure), "{figure}: {reply}");
        }
    }
}

#[test]
fn a_member_that_returns_at_another_address_is_found() {
    let mut cluster = RaftCluster::start(3, &QUICK);
    let leader = cluster.leader();
    let moved = (1..3).find(|index| *index != leader).expect("a follower");
    cluster.nodes[moved].kill();
    cluster.nodes[moved].port = free_port();
    cluster.restart(moved);
    let address = cluster.nodes[moved].address();
    poll("the leader has its address", || {
        let rows = text(cluster.ask(&["PEERS"]));
        rows.contains(&address).then_some(())
    });
    cluster.client().put("name", "Dylan").expect("stored");
    cluster.wait_until_equal();
}

#[test]
fn a_node_that_lacks_what_the_leader_has_no_more_says_so() {
    let mut cluster = RaftCluster::start(3, &QUICK);
    let leader = cluster.leader();
    let behind = (leader + 1) % 3;
    cluster.nodes[behind].kill();
    let value = vec![b'v'; 4 << 20];
    let mut client = cluster.client();
    // The leader keeps 64 MiB of entries in memory.
    (0..20).for_each(|number| client.put(format!("k{number}"), &value).expect("stored"));
    cluster.restart(behind);
    poll("the node says what it lacks", || {
        let reply = http(cluster.nodes[behind].server(), "GET /readyz");
        (reply.contains(" 503 ") && reply.contains("this node lacks ")).then_some(())
    });
    let peers = text(ask(cluster.nodes[leader].server(), &["PEERS"]));
    assert!(peers.contains("behind=1"), "{peers}");
    let (words, took) = answer(cluster.nodes[behind].server(), &["GET", "k0"]);
    assert!(words.contains("entries that are committed; ask another node"), "{words}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn every_fsync_policy_works_and_weaker_ones_warn() {
    for policy in ["always", "everysec", "never"] {
        let options = ["--fsync", policy, "--election-timeout", "300"];
        let mut cluster = RaftCluster::start(1, &options);
        cluster.client().put("name", "Dylan").expect("stored");
        let server = cluster.nodes[0].server();
        // It is the last line of a start.
        server.wait_for_log("listening on");
        let (log, warning) = (server.log(), "when a majority loses power");
        assert_eq!(log.contains(warning), policy != "always", "{log}");
        cluster.nodes[0].kill();
        cluster.restart(0);
        cluster.leader();
        assert_eq!(value(&cluster, "name"), Some("Dylan".into()), "{policy}");
    }
}

#[test]
fn a_cut_off_leader_refuses_and_the_others_go_on() {
    let options =
        ["--election-timeout", "300", "--request-timeout", "1000", "--enable-fault-injection"];
    let cluster = RaftCluster::start(3, &options);
    cluster.client().put("fruit", "apple").expect("stored");
    let old = cluster.leader();
    let server = cluster.nodes[old].server();
    ask(server, &["PARTITION", "*"]);
    let (write, took) = answer(server, &["PUT", "fruit", "pear"]);
    assert!(write.contains("outcome unknown") || write.contains("not stored"), "{write}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let mut others = cluster.addresses();
    others.remove(old);
    let mut client = Client::connect_any(others, None, SILENCE_TIMEOUT).expect("they serve");
    client.put("fruit", "plum").expect("the majority takes it");
    ask(server, &["HEAL"]);
    cluster.wait_until_equal();
    assert_eq!(value(&cluster, "fruit"), Some("plum".into()));
}
