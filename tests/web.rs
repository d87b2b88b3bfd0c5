//! HTTP at a real socket: REST, the defences against hostile web pages, health and metrics.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::cluster::{merge_from_the_future, start};
use common::http::{ask, get, once, read_response};
use common::{SOON, Server, Wire, have, poll, resp, run};
use kvstore::config::Configuration;
use kvstore::node::Node;
use kvstore::server::NodeServer;
use std::net::TcpListener;
use std::process::Command;
use std::thread;

#[test]
fn a_key_is_put_read_and_deleted_on_one_connection_and_seen_by_the_other_protocols() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    let mut ask = |method, target: &str, body: &[u8]| ask(&mut wire, method, target, &[], body);
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for (target, key, value) in [
        ("/keys/name", &b"name"[..], &b"Dylan"[..]),
        ("/keys/a%20b%2Fc/d+%00%ff", b"a b/c/d+\0\xff", &bytes),
        ("/keys/empty", b"empty", b""),
    ] {
        assert_eq!(ask("GET", target, b"").status, 404);
        assert_eq!(ask("HEAD", target, b"").status, 404);
        let put = ask("PUT", target, value);
        assert_eq!((put.status, put.header("Content-Length")), (204, None));
        let got = ask("GET", target, b"");
        assert_eq!((got.status, got.body == value), (200, true));
        let head = ask("HEAD", target, b"");
        assert_eq!(
            (head.status, head.header("Content-Length")),
            (200, Some(value.len().to_string().as_str()))
        );
        let expected = [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        server.connect().ask(resp(&[b"GET", key]), expected);
        assert_eq!(ask("DELETE", target, b"").status, 204);
        assert_eq!(ask("DELETE", target, b"").status, 204, "deleting again is fine");
        let gone = ask("GET", target, b"");
        assert_eq!((gone.status, gone.text()), (404, "no such key\n".into()));
        server.connect().ask(resp(&[b"GET", key]), "$-1\r\n");
    }
}

#[test]
fn wrong_requests_get_a_status_and_a_reason() {
    let server = Server::start(&[]);
    for (method, target, status, reason) in [
        ("GET", "/keys/", 400, "key is empty"),
        ("GET", "/keys/%4", 400, "the key is not percent-encoded"),
        ("POST", "/keys/k", 405, "a key takes GET, HEAD, PUT and DELETE"),
        ("DELETE", "/keys", 405, "this can only be read"),
        ("GET", "/nothing", 404, "no such page; try /, /keys, /status.json or /metrics"),
        ("GET", "/keys?count=0", 400, "count is not a number from 1 on"),
        ("GET", "/keys?nonsense", 400, "the options are prefix, cursor, count and stale"),
    ] {
        let response = once(&server, method, target, &[], b"");
        assert_eq!(
            (response.status, response.text()),
            (status, format!("{reason}\n")),
            "{method} {target}"
        );
        assert_eq!(response.header("Allow").is_some(), status == 405);
    }
    // Framing that cannot be followed is answered, and the connection closed.
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("PUT /keys/k HTTP/1.1\r\nHost: localhost\r\n\r\n", 411),
        (
            "PUT /keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\
             \r\n",
            501,
        ),
        (
            "PUT /keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
             Content-Length: 5\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "PUT /keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\
             \r\n",
            400,
        ),
        ("PUT /keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 67108865\r\n\r\n", 413),
        (&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(17_000)), 431),
        (&format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(17_000)), 431),
    ] {
        let mut wire = server.connect();
        wire.send(request);
        let response = read_response(&mut wire, "GET");
        assert_eq!(
            (response.status, response.header("Connection")),
            (status, Some("close")),
            "{request:.100}"
        );
        assert_eq!(response.text().lines().count(), 1, "a one-line reason: {}", response.text());
        assert_eq!(wire.rest(), b"");
    }
}

#[test]
fn requests_in_one_write_are_answered_in_order_and_old_clients_are_closed() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.send(
        "PUT /keys/a HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 1\r\n\r\n1\
               GET /keys/a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    );
    assert_eq!(read_response(&mut wire, "PUT").status, 204);
    assert_eq!(read_response(&mut wire, "GET").text(), "1");
    wire.send("GET /keys/a HTTP/1.0\r\n\r\n");
    assert_eq!(read_response(&mut wire, "GET").text(), "1");
    assert_eq!(wire.rest(), b"");
}

#[test]
fn a_client_that_asks_first_is_told_to_continue_or_refused_before_its_body() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.send(
        "PUT /keys/k HTTP/1.1\r\nHost: localhost\r\n\
               Expect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    );
    wire.expect("HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("ab");
    wire.send("cd");
    assert_eq!(read_response(&mut wire, "PUT").status, 204);
    assert_eq!(ask(&mut wire, "GET", "/keys/k", &[], b"").text(), "abcd");
    wire.send(
        "PUT /keys/k HTTP/1.1\r\nHost: evil.example\r\n\
               Expect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    );
    assert_eq!(read_response(&mut wire, "PUT").status, 403);
    assert_eq!(wire.rest(), b"");
}

#[test]
fn a_body_never_reaches_another_parser() {
    let server = Server::start(&[]);
    let commands = "\r\nPUT evil 1\r\n*3\r\n$3\r\nSET\r\n$4\r\nevil\r\n$1\r\n1\r\n\
                    PUT /keys/evil HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    for head in [
        format!(
            "PUT /keys/good HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            commands.len()
        ),
        format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", commands.len()),
        format!(
            "POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: {}\r\n\r\n",
            commands.len()
        ),
        "PUT /keys/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        "PUT /keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n".into(),
        "POST / HTTP/1.1\r\n\r\n".into(),
        "POST / HTTP/2.0\r\n\r\n".into(),
        "PUT k HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
    ] {
        let mut wire = server.connect();
        wire.send(format!("{head}{commands}"));
        wire.finish();
        wire.rest();
        assert_eq!(get(&server, "/keys/evil").status, 404, "{head}");
    }
    // A connection that began as HTTP has no other language.
    let mut wire = server.connect();
    assert_eq!(ask(&mut wire, "GET", "/livez", &[], b"").status, 200);
    wire.send("PUT evil 1\n");
    assert_eq!(read_response(&mut wire, "GET").status, 400);
    assert_eq!(wire.rest(), b"");
}

#[test]
fn keys_are_listed_in_pages() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    for i in 0..250 {
        ask(&mut wire, "PUT", &format!("/keys/user%3A{i}"), &[], b"x");
        ask(&mut wire, "PUT", &format!("/keys/other*{i}"), &[], b"x");
    }
    ask(&mut wire, "PUT", "/keys/%ff%22", &[], b"odd");
    let mut list = |prefix: &str| {
        let (mut keys, mut cursor, mut pages) = (Vec::new(), 0, 0);
        loop {
            let target = format!("/keys?prefix={prefix}&count=100&cursor={cursor}");
            let page = ask(&mut wire, "GET", &target, &[], b"").json();
            assert!(page["keys"].as_array().unwrap().len() <= 101);
            assert_eq!(
                page["keys"].as_array().unwrap().len(),
                page["paths"].as_array().unwrap().len()
            );
            keys.extend(
                page["keys"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|key| key.as_str().unwrap().to_string()),
            );
            (cursor, pages) = (page["cursor"].as_u64().unwrap(), pages + 1);
            if cursor == 0 {
                keys.sort();
                keys.dedup();
                return (keys.len(), pages);
            }
        }
    };
    assert_eq!(list("").0, 501);
    let (users, pages) = list("user:");
    assert!(users == 250 && (3..=4).contains(&pages), "{users} keys in {pages} pages");
    assert_eq!(list("other*").0, 250);
    assert_eq!(list("*").0, 0, "a prefix is no pattern");
    let odd = ask(&mut wire, "GET", "/keys?prefix=%FF", &[], b"").json();
    assert_eq!(odd["paths"][0], "/keys/%FF%22");
}

#[test]
fn only_names_that_cannot_be_rebound_are_answered() {
    let server = Server::start(&[]);
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("192.168.1.7", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("", 403),
    ] {
        let response = once(&server, "GET", "/status.json", &[&format!("Host: {host}")], b"");
        assert_eq!(response.status, status, "{host}");
        // The probes show no data, and are called by whatever name an orchestrator gave the node.
        for probe in ["/livez", "/readyz", "/readyz?verbose"] {
            assert_eq!(
                once(&server, "GET", probe, &[&format!("Host: {host}")], b"").status,
                200,
                "{probe} {host}"
            );
        }
    }
    // The advertised name is a name of this node.
    let named = Server::start(&["--advertise", "node1.example:8080"]);
    assert_eq!(once(&named, "GET", "/metrics", &["Host: Node1.example:9999"], b"").status, 200);
    assert_eq!(once(&named, "GET", "/metrics", &["Host: node2.example:8080"], b"").status, 403);
}

#[test]
fn other_sites_can_neither_write_nor_read() {
    let server = Server::start(&[]);
    for (headers, status) in [
        (vec![], 204),
        (vec!["Sec-Fetch-Site: same-origin", "Origin: http://localhost:8080"], 204),
        (vec!["Sec-Fetch-Site: none"], 204),
        (vec!["Origin: http://localhost:8080"], 204),
        (vec!["Origin: https://localhost:8080"], 204),
        (vec!["Sec-Fetch-Site: cross-site"], 403),
        (vec!["Sec-Fetch-Site: same-site"], 403),
        (vec!["Sec-Fetch-Site: same-origin", "Origin: http://evil.example"], 403),
        (vec!["Origin: http://localhost:9090"], 403),
        (vec!["Origin: null"], 403),
        (vec!["Origin: file://"], 403),
    ] {
        for method in ["PUT", "DELETE"] {
            let response = once(&server, method, "/keys/k", &headers, b"");
            assert_eq!(response.status, status, "{method} {headers:?}");
        }
    }
    for method in ["OPTIONS", "POST"] {
        let headers = ["Origin: http://evil.example", "Access-Control-Request-Method: PUT"];
        assert_eq!(once(&server, method, "/keys/k", &headers, b"").status, 403);
    }
    for target in ["/", "/status.json", "/keys", "/keys/k", "/metrics", "/nothing"] {
        let response = once(&server, "GET", target, &["Origin: http://evil.example"], b"");
        assert!(!response.head.to_lowercase().contains("access-control"), "{}", response.head);
        assert_eq!(response.header("Cross-Origin-Resource-Policy"), Some("same-origin"));
    }
}

#[test]
fn stored_values_are_inert_and_the_page_runs_only_its_own_script() {
    let server = Server::start(&[]);
    let hostile = b"<html><script>alert(1)</script>";
    once(&server, "PUT", "/keys/hostile.html", &[], hostile);
    let value = get(&server, "/keys/hostile.html");
    assert_eq!(value.header("Content-Type"), Some("application/octet-stream"));
    assert_eq!(value.header("X-Content-Type-Options"), Some("nosniff"));
    let policy = value.header("Content-Security-Policy").unwrap();
    assert!(policy.contains("sandbox;") && policy.contains("default-src 'none'"), "{policy}");

    let nonces = [0, 1].map(|_| {
        let page = get(&server, "/");
        assert_eq!(
            (page.status, page.header("Content-Type")),
            (200, Some("text/html; charset=utf-8"))
        );
        let policy = page.header("Content-Security-Policy").unwrap().to_string();
        assert!(
            policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("X-Frame-Options"), Some("DENY"));
        let (_, after) = policy.split_once("script-src 'nonce-").expect("a nonce");
        let nonce = after.split('\'').next().unwrap().to_string();
        let text = page.text();
        assert_eq!(text.matches(&format!("<script nonce=\"{nonce}\">")).count(), 1);
        assert_eq!(text.matches("<script").count(), 1);
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
        ] {
            // The one address in it is the name of the SVG elements, which is not loaded.
            let text = text.replace("http://www.w3.org/2000/svg", "").replace("\"http://\" +", "");
            assert!(!text.contains(forbidden), "{forbidden}");
        }
        nonce
    });
    assert_ne!(nonces[0], nonces[1]);
}

#[test]
fn with_a_password_only_the_probes_are_open() {
    let server = Server::start_on(0, &[], &[("KVSTORE_PASSWORD", "secret")]);
    for (target, status) in [
        ("/", 401),
        ("/keys", 401),
        ("/keys/k", 401),
        ("/status.json", 401),
        ("/metrics", 401),
        ("/nothing", 401),
        ("/livez", 200),
        ("/readyz", 200),
        ("/readyz?verbose", 200),
        ("/livez/../keys/k", 401),
    ] {
        let response = get(&server, target);
        assert_eq!(response.status, status, "{target}");
        assert_eq!(response.header("WWW-Authenticate").is_some(), status == 401);
    }
    for (authorization, status) in [
        ("Basic ZGVmYXVsdDpzZWNyZXQ=", 204), // default:secret
        ("basic OnNlY3JldA==", 204),         // :secret
        ("Basic ZGVmYXVsdDp3cm9uZw==", 401), // default:wrong
        ("Basic cm9vdDpzZWNyZXQ=", 401),     // root:secret
        ("Basic c2VjcmV0", 401),             // secret, without a user
        ("Basic !", 401),
        ("Bearer secret", 401),
    ] {
        let header = format!("Authorization: {authorization}");
        assert_eq!(
            once(&server, "PUT", "/keys/k", &[&header], b"v").status,
            status,
            "{authorization}"
        );
    }
    // Who has the password may use any name: a container's, a service's.
    let by_name = |headers: &[&str], target| once(&server, "GET", target, headers, b"");
    let right = "Authorization: Basic ZGVmYXVsdDpzZWNyZXQ=";
    assert_eq!(by_name(&["Host: kvstore.internal:8080", right], "/keys/k").text(), "v");
    assert_eq!(by_name(&["Host: kvstore.internal:8080"], "/keys/k").status, 401);
    assert_eq!(by_name(&["Host: kvstore.internal:8080"], "/livez").status, 200);
    // Refused before a body is read: nobody without the password fills the memory.
    let mut wire = server.connect();
    wire.send("PUT /keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n");
    assert_eq!(read_response(&mut wire, "PUT").status, 401);
}

#[test]
fn health_and_status_tell_what_happened() {
    let server = Server::start(&["--max-connections", "3"]);
    let mut wire = server.connect();
    let mut ask = |target: &str| ask(&mut wire, "GET", target, &[], b"");
    assert_eq!(ask("/livez").text(), "alive\n");
    assert_eq!(ask("/readyz").text(), "ready\n");
    let mut resp_wire = server.connect();
    resp_wire.ask("PUT a 1\nGET a\nGET a\nGET b\n", "OK\n1\n1\nNOT_FOUND\n");
    let status = poll("four commands are counted", || {
        let status = ask("/status.json").json();
        (status["commands_processed_total"] == 4).then_some(status)
    });
    assert_eq!(status["keyspace_hits_total"], 2);
    assert_eq!(status["keyspace_misses_total"], 1);
    assert_eq!((&status["db_keys"], &status["connected_clients"]), (&1.into(), &2.into()));
    let timed = "\nkvstore_command_duration_seconds_count 4\n";
    assert!(ask("/metrics").text().contains(timed), "every command has its time");
    poll("the charts show them", || {
        let history = ask("/status.json").json()["history"].take();
        history
            .as_array()?
            .iter()
            .any(|sample| sample[0].as_f64() > Some(1.0) && sample[2].is_u64())
            .then_some(())
    });

    let third = server.connect();
    let unready = poll("the third connection is seen", || {
        let response = ask("/readyz");
        (response.status == 503).then_some(response)
    });
    assert_eq!(unready.text(), "not ready: all 3 connections are in use\n");
    assert_eq!(ask("/status.json").json()["not_ready"][0], "all 3 connections are in use");
    drop(third);
    poll("the node is ready again", || (ask("/readyz").status == 200).then_some(()));
}

#[test]
fn a_node_is_not_ready_until_its_seeds_have_answered_or_failed() {
    // A seed that takes the connection and says nothing, and a node that has all the time to wait
    // for it.
    let seed = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut configuration = Configuration { port: 0, ..Configuration::default() };
    configuration.replication.seeds = vec![seed.local_addr().unwrap().to_string()];
    configuration.limits.seeds_timeout = 2 * SOON;
    configuration.limits.link_reply_timeout = 2 * SOON;
    let starting = thread::spawn(|| NodeServer::start(Node::new(configuration)).unwrap());
    let mut seed = Wire { stream: seed.accept().unwrap().0 };
    seed.stream.set_read_timeout(Some(SOON)).unwrap();
    // Its introduction ends with the address where it listens.
    let address = (0..20)
        .map(|_| seed.line())
        .find(|line| line.starts_with("localhost:"))
        .expect("an address");
    let port = address["localhost:".len()..].parse().unwrap();
    let mut wire = Wire::connect(port);
    let unready = ask(&mut wire, "GET", "/readyz", &[], b"");
    assert_eq!(
        (unready.status, unready.text().as_str()),
        (503, "not ready: starting: waiting for the seeds to answer\n")
    );
    assert_eq!(ask(&mut wire, "GET", "/livez", &[], b"").status, 200, "it lives");
    // A write is taken and waits.
    let mut writer = Wire::connect(port);
    writer.send("PUT /keys/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1");
    assert_eq!(ask(&mut wire, "GET", "/readyz", &[], b"").status, 503);
    drop(seed);
    assert_eq!(read_response(&mut writer, "PUT").status, 204);
    assert_eq!(ask(&mut wire, "GET", "/readyz", &[], b"").text(), "ready\n");
    assert_eq!(starting.join().unwrap().address.port(), port);
}

#[test]
fn a_node_whose_clock_differs_from_most_is_not_ready_and_says_by_how_much() {
    let strict = ["--max-clock-skew", "10"];
    // Its clock was set 50 s ahead by a record, before it knew anybody.
    let ahead = Server::start(&[]);
    merge_from_the_future(&ahead, 50_000);
    let first = start(&strict, &[&ahead]);
    let peers =
        |server: &Server| get(server, "/status.json").json()["peers"].as_array().unwrap().clone();
    let differs = |server: &Server, count: usize| {
        let is_ahead = |peer: &serde_json::Value| peer["clock_ahead_ms"].as_i64() > Some(10_000);
        poll("the difference is known", || {
            (peers(server).iter().filter(|peer| is_ahead(peer)).count() == count).then_some(())
        });
    };
    differs(&first, 1);
    assert_eq!(get(&first, "/readyz").status, 200, "of two clocks nobody knows which is wrong");
    // It adopts the clock of the first one.
    let ahead_too = start(&[], &[&ahead]);
    differs(&first, 2);
    let unready = get(&first, "/readyz").text();
    let (said, rest) =
        unready.split_once(" ms from that of ").unwrap_or_else(|| panic!("{unready}"));
    let ms: u64 = said.strip_prefix("not ready: the clock differs by ").unwrap().parse().unwrap();
    assert!((10_000..=50_000).contains(&ms), "{unready}");
    let address = peers(&first)[0]["address"].as_str().unwrap().to_string();
    let expected =
        format!("{address} and by too much from those of 2 of 2 peers; set it right (NTP)\n");
    assert_eq!(rest, expected);
    assert!(get(&first, "/metrics").text().contains("\nkvstore_ready 0\n"));
    assert_eq!([&ahead, &ahead_too].map(|server| get(server, "/readyz").status), [200, 200]);
    // Only most clocks outvote one.
    let others = [(); 2].map(|()| start(&strict, &[&first]));
    poll("four peers", || (peers(&first).len() == 4).then_some(()));
    poll("two of four are not most", || (get(&first, "/readyz").status == 200).then_some(()));
    drop(others);
}

#[test]
fn a_disk_that_takes_no_more_is_told_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("bash");
    // Files of at most 64 KiB; without the trap the signal would end the process.
    let script =
        "trap '' XFSZ; ulimit -f 64; exec \"$0\" server 0 --data-dir \"$1\" --fsync always";
    let server = Server::spawn({
        command.args(["-c", script]).arg(common::binary()).arg(folder.path());
        command
    })
    .unwrap();
    let mut wire = server.connect();
    assert_eq!(ask(&mut wire, "GET", "/readyz", &[], b"").status, 200);
    assert_eq!(ask(&mut wire, "PUT", "/keys/a", &[], b"small").status, 204);
    let long = vec![b'x'; 200_000];
    let lost = ask(&mut wire, "PUT", "/keys/long", &[], &long);
    assert_eq!(lost.status, 503, "{}", lost.text());
    assert!(
        lost.text().starts_with("read-only: ") && lost.text().ends_with("(outcome unknown)\n"),
        "{}",
        lost.text()
    );
    let mut wire = server.connect();
    let refused = ask(&mut wire, "PUT", "/keys/b", &[], b"small");
    assert!(
        refused.status == 503 && refused.text().ends_with("(not stored)\n"),
        "{}",
        refused.text()
    );
    assert_eq!(ask(&mut wire, "GET", "/keys/a", &[], b"").text(), "small", "reads go on");
    let unready = ask(&mut wire, "GET", "/readyz", &[], b"");
    assert!(
        unready.status == 503 && unready.text().starts_with("not ready: read-only: "),
        "{}",
        unready.text()
    );
    let status = ask(&mut wire, "GET", "/status.json", &[], b"").json();
    assert!(status["read_only"].as_str().unwrap().starts_with("read-only: "));
    assert_eq!((&status["log"], &status["aof_last_write_status"]), (&"always".into(), &0.into()));
    assert_eq!(ask(&mut wire, "GET", "/livez", &[], b"").status, 200, "it lives");
}

#[test]
fn links_are_shown_cut_and_healed() {
    let first = Server::start(&["--enable-fault-injection"]);
    let second = Server::start(&["--peer", &first.address(), "--enable-fault-injection"]);
    let peer =
        |server: &Server| once(server, "GET", "/status.json", &[], b"").json()["peers"][0].clone();
    let live = |server: &Server| {
        poll("the link is live", || Some(peer(server)).filter(|peer| peer["state"] == "live"))
    };
    let id = live(&second)["id"].as_str().unwrap().to_string();
    assert_eq!(id, get(&first, "/status.json").json()["node_id"]);
    once(&second, "PUT", "/keys/k", &[], b"1");
    poll("the key has arrived", || (get(&first, "/keys/k").status == 200).then_some(()));
    let metrics = get(&second, "/metrics").text();
    let up = format!(
        "kvstore_replication_up{{peer=\"{}\"}} 1\n",
        peer(&second)["address"].as_str().unwrap()
    );
    assert!(metrics.contains(&up) && metrics.contains("kvstore_connected_slaves 1\n"), "{metrics}");

    assert_eq!(once(&second, "POST", &format!("/links/{id}/cut"), &[], b"").status, 204);
    assert_eq!(peer(&second)["state"], "partitioned");
    assert_eq!(once(&second, "POST", "/links/none/cut", &[], b"").status, 400);
    assert_eq!(once(&second, "POST", &format!("/links/{id}/stop"), &[], b"").status, 404);
    assert_eq!(once(&second, "GET", &format!("/links/{id}/heal"), &[], b"").status, 405);
    let elsewhere = ["Sec-Fetch-Site: cross-site"];
    assert_eq!(once(&second, "POST", &format!("/links/{id}/heal"), &elsewhere, b"").status, 403);
    assert_eq!(peer(&second)["state"], "partitioned");
    assert_eq!(once(&second, "POST", &format!("/links/{id}/heal"), &[], b"").status, 204);
    live(&second);
    let plain = Server::start(&[]);
    let refused = once(&plain, "POST", &format!("/links/{id}/cut"), &[], b"");
    assert!(
        refused.status == 400 && refused.text().contains("--enable-fault-injection"),
        "{}",
        refused.text()
    );
}

#[test]
fn curl_sees_values_and_reasons() {
    if !have("curl", "curl") {
        return;
    }
    let server = Server::start(&[]);
    let curl = |arguments: &[&str], path: &str, input: &[u8]| {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--noproxy", "*", "--write-out", "[%{http_code}]"])
            .args(arguments);
        run(command.arg(format!("http://{}{path}", server.address())), input).stdout
    };
    assert_eq!(curl(&["-X", "PUT", "-d", "Dylan"], "/keys/name", b""), "[204]");
    assert_eq!(curl(&[], "/keys/name", b""), "Dylan[200]");
    // More than a megabyte: curl asks first.
    let large = vec![b'x'; 3_000_000];
    assert_eq!(curl(&["-X", "PUT", "--data-binary", "@-"], "/keys/large", &large), "[204]");
    assert_eq!(
        curl(
            &["--head", "--output", "/dev/null", "-w", "%header{content-length}"],
            "/keys/large",
            b""
        ),
        "3000000"
    );
    assert_eq!(curl(&["-X", "DELETE"], "/keys/name", b""), "[204]");
    assert_eq!(curl(&[], "/keys/name", b""), "no such key\n[404]");
    assert!(curl(&["-T", "-"], "/keys/stream", b"unknown length").ends_with("[501]"));
}
