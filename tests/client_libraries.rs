//! Client libraries of many languages, each with a server of its own, with and without a password. `.ci/run` installs
//! them; what is missing is skipped, and said. Their programs are in `tests/clients`.

mod common;

use common::clients::{drive, have_client, script};
use common::clients_folder;
use std::path::PathBuf;

/// The one that was installed with the libraries where the machine's is too old, otherwise the machine's.
fn node() -> PathBuf {
    let own = clients_folder().join("node_modules/node/bin/node");
    if own.exists() { own } else { "node".into() }
}

#[test]
fn redis_py() {
    if have_client("python/bin/python") {
        let python = clients_folder().join("python/bin/python");
        drive(&[python.as_ref(), script("redis_py.py").as_ref()]);
    }
}

#[test]
fn node_redis() {
    if have_client("node_modules/redis") {
        drive(&[node().as_ref(), script("node_redis.mjs").as_ref()]);
    }
}

#[test]
fn ioredis() {
    if have_client("node_modules/ioredis") {
        drive(&[node().as_ref(), script("ioredis.mjs").as_ref()]);
    }
}
