//! What real servers promise today, seen by real clients.

use std::time::Duration;

use crate::common::cluster::{ask, free_port, start, wait_for};
use crate::common::{Server, poll};
use crate::linearizability::{Load, Outcome, Recorder, Session, drive};

const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const TIMEOUT: Duration = Duration::from_secs(5);

fn load(addresses: &[String]) -> Load<'_> {
    Load { addresses, clients: 8, keys: &KEYS, timeout: TIMEOUT, seed: 1 }
}

/// Waits until so many more puts are acknowledged.
fn wait_for_puts(recorder: &Recorder, count: u64) {
    let enough = recorder.acknowledged() + count;
    poll("puts are acknowledged", || (recorder.acknowledged() >= enough).then_some(()));
}

#[test]
fn a_single_node_is_linearizable_also_when_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let options = ["--data-dir", data.to_str().unwrap()];
    let port = free_port();
    let mut server = Server::start_on(port, &options, &[]);
    let addresses = [server.address()];
    let recorder = drive(&load(&addresses), |recorder| {
        for _ in 0..3 {
            wait_for_puts(recorder, 500);
            server.kill();
            server = Server::start_on(port, &options, &[]);
        }
        wait_for_puts(recorder, 500);
    });
    // What was acknowledged last is still there.
    let mut session = Session::new(&recorder, 99, &addresses, TIMEOUT);
    assert!(KEYS.iter().all(|key| session.get(key)));
    recorder.check().unwrap();
    let history = recorder.history();
    let mut events = history.keys.values().flatten();
    assert!(events.any(|event| event.outcome == Outcome::Unknown), "kills cut clients off");
}

#[test]
fn deletes_at_a_single_node_are_linearizable() {
    let server = Server::start(&[]);
    let (addresses, recorder) = ([server.address()], Recorder::new());
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (addresses, recorder) = (&addresses, &recorder);
            scope.spawn(move || {
                let mut session = Session::new(recorder, client, addresses, TIMEOUT);
                for _ in 0..300 {
                    assert!(session.put("a") && session.get("a") && session.delete("a"));
                }
            });
        }
    });
    recorder.check().unwrap();
}

#[test]
fn two_nodes_that_are_cut_off_from_each_other_are_not_linearizable() {
    let first = start(&["--enable-fault-injection"], &[]);
    let second = start(&["--enable-fault-injection"], &[&first]);
    wait_for(&first, second.port, "live");
    ask(&first, &["PARTITION", "*"]);
    let addresses = [first.address(), second.address()];
    let recorder = drive(&load(&addresses), |recorder| wait_for_puts(recorder, 500));
    println!("{}", recorder.check().expect_err("each node has values of its own"));
}
