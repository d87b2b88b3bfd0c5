//! Not grossly slower than a real Redis in the same minute, and a bench that measures what
//! `redis-benchmark` does.
//!
//! The figures of record are those of `tests/compare_with_redis.sh` on a quiet machine. Here the
//! bounds are generous, and other load can spoil a comparison but not make it better than it is: so
//! there are up to three tries.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::measure::{alone, median, one_of_three};
use common::redis::Redis;
use common::{Server, binary, have, run};
use std::process::Command;

const KEYS: u32 = 100_000;
const ROUNDS: usize = 3;

fn has_tools() -> bool {
    have("redis-benchmark", "redis-tools") && have("redis-server", "redis-server")
}

/// Requests per second, by `redis-benchmark`.
fn redis_benchmark(port: u16, command: &str, pipeline: u32, requests: u32) -> f64 {
    let arguments =
        format!("-p {port} -t {command} -c 50 -P {pipeline} -n {requests} -d 64 -r {KEYS} --csv");
    let output = run(Command::new("redis-benchmark").args(arguments.split(' ')), "");
    let row = output
        .stdout
        .lines()
        .find(|line| line.starts_with(&format!("\"{}\"", command.to_uppercase())));
    let figure = row.and_then(|row| row.split('"').nth(3)).and_then(|figure| figure.parse().ok());
    figure.unwrap_or_else(|| panic!("no figure for {command} in {output:?}"))
}

/// Requests per second, by `kvstore bench`.
fn bench(port: u16, command: &str, pipeline: u32) -> f64 {
    let reads = if command == "get" { 100 } else { 0 };
    let arguments = format!(
        "bench 127.0.0.1 {port} --pipeline {pipeline} --keys {KEYS} --reads {reads} --seconds 2"
    );
    let output = run(Command::new(binary()).args(arguments.split(' ')), "");
    let row = output
        .stdout
        .lines()
        .find(|line| line.split_whitespace().nth(1) == Some(&command.to_uppercase()));
    let figure =
        row.and_then(|row| row.split_whitespace().nth(2)).and_then(|figure| figure.parse().ok());
    figure.unwrap_or_else(|| panic!("no figure for {command} in {output:?}"))
}

/// The median of the ratios of two measurements, taken in turn.
fn ratio(one: impl Fn() -> f64, other: impl Fn() -> f64) -> f64 {
    median((0..ROUNDS).map(|_| one() / other()).collect())
}

#[test]
#[ignore = "takes half a minute of both processors"]
fn nothing_is_grossly_slower_than_in_redis() {
    if !has_tools() {
        return;
    }
    let _alone = alone();
    let (ours, theirs) = (Server::start(&[]), Redis::start());
    // Every key is there, but for a few, before anything is measured.
    for port in [ours.port, theirs.port] {
        redis_benchmark(port, "set", 32, 5 * KEYS);
    }
    for (command, pipeline, requests, least) in [
        ("set", 1, 60_000, 0.5),
        ("get", 1, 60_000, 0.5),
        ("set", 16, 600_000, 0.8),
        ("get", 16, 600_000, 0.8),
        ("set", 64, 1_200_000, 1.0),
        ("get", 64, 1_200_000, 1.0),
    ] {
        let measure = |port| move || redis_benchmark(port, command, pipeline, requests);
        one_of_three(
            &format!("{command} at pipeline {pipeline}, times Redis"),
            || ratio(measure(ours.port), measure(theirs.port)),
            |ratio| *ratio > least,
        );
    }
}

#[test]
#[ignore = "takes half a minute of both processors"]
fn the_bench_agrees_with_redis_benchmark() {
    if !has_tools() {
        return;
    }
    let _alone = alone();
    let server = Server::start(&[]);
    redis_benchmark(server.port, "set", 32, 5 * KEYS);
    // Unpipelined, `redis-benchmark` needs a whole processor for itself, and so shows less.
    for (command, pipeline, requests, most) in [
        ("set", 1, 250_000, 2.5),
        ("get", 1, 250_000, 2.5),
        ("set", 16, 2_500_000, 2.0),
        ("get", 16, 2_500_000, 2.0),
    ] {
        one_of_three(
            &format!("{command} at pipeline {pipeline}, times what redis-benchmark says"),
            || {
                let port = server.port;
                ratio(
                    || bench(port, command, pipeline),
                    || redis_benchmark(port, command, pipeline, requests),
                )
            },
            |ratio| (0.5..most).contains(ratio),
        );
    }
}
