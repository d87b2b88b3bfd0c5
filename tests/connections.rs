//! Many connections: idle ones cost little and hold nobody up.

mod common;

use common::measure::{median, one_of_three};
use common::{Server, Wire, resp};
use std::time::Instant;

/// Requests answered per second, one at a time, by a few connections in turn.
fn throughput(server: &Server) -> f64 {
    let mut wires: Vec<Wire> = (0..4).map(|_| server.connect()).collect();
    let request = resp(&[b"GET", b"k"]).repeat(16);
    let reply = b"$1\r\nv\r\n".repeat(16);
    let start = Instant::now();
    let rounds = 500;
    for _ in 0..rounds {
        wires.iter_mut().for_each(|wire| wire.send(&request));
        wires.iter_mut().for_each(|wire| wire.expect(&reply));
    }
    f64::from(rounds * 16 * 4) / start.elapsed().as_secs_f64()
}

fn idle_connections_are_held_while_others_are_served(count: usize) {
    let wanted = count as u64 + 200;
    if rlimit::increase_nofile_limit(wanted).unwrap_or(0) < wanted {
        return common::skip(&format!("this machine does not allow {wanted} open files"));
    }
    let (empty, crowded) =
        (Server::start(&[]), Server::start(&["--max-connections", &(count + 10).to_string()]));
    for server in [&empty, &crowded] {
        server.connect().ask(resp(&[b"SET", b"k", b"v"]), "+OK\r\n");
    }
    let resident = |server: &Server| common::resident_bytes(server.pid());
    let before = resident(&crowded);
    let mut idle: Vec<Wire> = (0..count).map(|_| crowded.connect()).collect();
    idle.iter_mut().for_each(|wire| wire.ask("PING\n", "PONG\n"));
    let each = (resident(&crowded) - before) / count as u64;
    assert!(each < 24 * 1024, "{each} bytes of memory for each idle connection");
    // In alternation, so that a busy machine slows both.
    let compare = || median((0..7).map(|_| throughput(&crowded) / throughput(&empty)).collect());
    let what = format!("speed of others with {count} idle connections");
    let ratio = one_of_three(&what, compare, |ratio| *ratio > 0.7);
    // All of them are still there.
    idle.iter_mut().for_each(|wire| wire.ask("GET k\n", "v\n"));
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!(
            "{count} idle connections: {each} bytes each, others served at {ratio:.2} of full \
             speed\n"
        )
        .as_bytes(),
    );
}

#[test]
fn a_thousand_idle_connections_are_held_while_others_are_served() {
    idle_connections_are_held_while_others_are_served(1_000);
}

#[test]
#[ignore = "full size: 10,000 connections"]
fn ten_thousand_idle_connections_are_held_while_others_are_served() {
    idle_connections_are_held_while_others_are_served(10_000);
}
