//! Wrong clocks: who is told that it is wrong, how a node that was wrong heals, and what a restart
//! cannot know.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::cluster::{
    ask, free_port, get, merge_from_the_future, start, wait_for, wait_for_value,
};
use common::http;
use common::{Server, have, repository, run, skip};
use tempfile::TempDir;

const DAY_MS: u64 = 86_400_000;

/// A folder with a library that sets a process's wall clock ahead, and with the file that says how
/// far.
struct WrongClock(TempDir);

impl WrongClock {
    /// Builds it; says so and skips the test where that cannot be done.
    fn build() -> Option<WrongClock> {
        if !cfg!(target_os = "linux") {
            skip("a wrong clock needs LD_PRELOAD");
            return None;
        }
        if !have("cc", "gcc") {
            return None;
        }
        let folder = TempDir::new().unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(folder.path().join("wrong_clock.so"));
        let built = run(cc.arg(repository().join("tests/clocks/wrong_clock.c")), "");
        if built.code != Some(0) {
            skip(&format!("cc cannot build a shared library: {}", built.stderr));
            return None;
        }
        let clock = WrongClock(folder);
        clock.set_ahead(0);
        Some(clock)
    }

    /// From now on the clock is so far ahead.
    fn set_ahead(&self, ms: u64) {
        let (new, file) = (self.0.path().join("new"), self.file());
        fs::write(&new, ms.to_string()).unwrap();
        fs::rename(new, file).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("ahead_ms")
    }

    /// Starts a node under this clock.
    fn start(&self, options: &[&str]) -> Server {
        let (library, file) = (self.0.path().join("wrong_clock.so"), self.file());
        let variables =
            [("LD_PRELOAD", library.to_str().unwrap()), ("WRONG_CLOCK", file.to_str().unwrap())];
        Server::start_on(0, options, &variables)
    }
}

fn readyz(server: &Server) -> (u16, String) {
    let answer = http::get(server, "/readyz");
    (answer.status, answer.text())
}

/// Whether a node is the one that is told to be wrong, and how it heals.
fn assert_is_wrong(server: &Server) {
    let (status, said) = readyz(server);
    assert_eq!(status, 503, "{said}");
    assert!(
        said.contains("ahead of this machine's clock")
            && said.contains("start once with --restamp"),
        "{said}"
    );
}

fn assert_is_ready(server: &Server) {
    assert_eq!(readyz(server), (200, "ready\n".into()));
}

#[test]
fn a_node_whose_clock_was_wrong_for_a_moment_is_told_so_and_heals() {
    let Some(clock) = WrongClock::build() else { return };
    let (directory, right) = (TempDir::new().unwrap(), Server::start(&[]));
    let peer = format!("--peer=localhost:{}", right.port);
    let options = [&peer, "--data-dir", directory.path().to_str().unwrap()];
    let mut wrong = clock.start(&options);
    wait_for(&wrong, right.port, "live");
    ask(&wrong, &["SET", "gone", "v"]);
    ask(&wrong, &["SET", "before", "v"]);
    wait_for_value(&right, "gone", Some("v"));

    clock.set_ahead(DAY_MS);
    ask(&wrong, &["SET", "during", "v"]);
    clock.set_ahead(0);
    ask(&wrong, &["DEL", "gone"]);
    ask(&wrong, &["SET", "after", "v"]);
    right.wait_for_log(&format!("records of the peer 'localhost:{}' are refused", wrong.port));
    wait_for(&wrong, right.port, "refused: clock skew");
    assert_is_wrong(&wrong);
    assert_is_ready(&right);
    assert_eq!(right.log().matches("are refused").count(), 1, "{}", right.log());

    // A restart with a right clock does not help, but says what does.
    wrong.kill();
    let mut wrong = clock.start(&options);
    wrong.wait_for_log("3 of 4 records lie up to 8");
    assert!(wrong.log().contains("start once with --restamp"), "{}", wrong.log());
    assert_is_wrong(&wrong);
    assert_is_ready(&right);

    wrong.kill();
    let mut healed = clock.start(&[&options[..], &["--restamp"]].concat());
    wait_for(&healed, right.port, "live");
    assert_is_ready(&healed);
    for (key, value) in
        [("before", Some("v")), ("during", Some("v")), ("after", Some("v")), ("gone", None)]
    {
        wait_for_value(&right, key, value);
        assert_eq!(get(&healed, key).as_deref(), value);
    }
    ask(&right, &["SET", "during", "of the other"]);
    wait_for_value(&healed, "during", Some("of the other"));

    healed.kill();
    let again = clock.start(&options);
    wait_for(&again, right.port, "live");
    assert_is_ready(&again);
    assert!(!again.log().contains("ahead of"), "{}", again.log());
    assert_eq!(get(&again, "gone"), None);
}

#[test]
fn a_node_that_learned_a_time_beyond_its_limit_is_not_ready_until_it_is_restamped() {
    let directory = TempDir::new().unwrap();
    let options = ["--data-dir", directory.path().to_str().unwrap()];
    let mut server = Server::start(&options);
    merge_from_the_future(&server, 50_000);
    assert_is_ready(&server);
    server.kill();
    let strict = [&options[..], &["--max-clock-skew", "10"]].concat();
    let mut server = Server::start(&strict);
    server.wait_for_log("1 of 1 records lie up to 4");
    assert_is_wrong(&server);
    server.kill();
    let server = Server::start(&[&strict[..], &["--restamp"]].concat());
    assert_is_ready(&server);
    assert_eq!(get(&server, "future").as_deref(), Some("v"));
}

#[test]
fn in_memory_the_way_out_is_to_save_the_data() {
    let Some(clock) = WrongClock::build() else { return };
    let server = clock.start(&[]);
    clock.set_ahead(DAY_MS);
    ask(&server, &["SET", "k", "v"]);
    clock.set_ahead(0);
    let (status, said) = readyz(&server);
    assert!(
        status == 503 && said.contains("kvstore export") && !said.contains("--restamp"),
        "{said}"
    );
}

#[test]
fn a_node_in_memory_that_reaches_nobody_says_what_its_writes_may_lose_against() {
    let warning = "its writes from before may win over those it takes until one answers";
    let seed = format!("--peer=localhost:{}", free_port());
    let alone = Server::start(&[&seed]);
    alone.wait_for_log(warning);
    // What is stored knows its times, and who is answered learns them.
    let directory = TempDir::new().unwrap();
    let durable = Server::start(&[&seed, "--data-dir", directory.path().to_str().unwrap()]);
    durable.wait_for_log("0 of 1 peers known");
    let joined = start(&[], &[&alone]);
    joined.wait_for_log("1 of 1 peers known");
    assert!(!durable.log().contains(warning) && !joined.log().contains(warning));
}
