//! Client libraries of many languages, each with a server of its own, with and without a password.
//! `.ci/run` installs them; what is missing is skipped, and said. Their programs are in
//! `tests/clients`.

mod common;

use common::clients::{drive, drive_with, have_client, have_library, script};
use common::{clients_folder, have, run};
use std::path::PathBuf;
use std::process::Command;

/// Drives a server with a script of `tests/clients`.
fn drive_script(program: impl Into<PathBuf>, name: &str) {
    drive(&[program.into().as_ref(), script(name).as_ref()]);
}

/// Runs a compiler to its end.
fn build(command: &mut Command) {
    let output = run(command, "");
    assert_eq!(output.code, Some(0), "{command:?}: {output:?}");
}

/// The one that was installed with the libraries where the machine's is too old, otherwise the
/// machine's.
fn node() -> PathBuf {
    let own = clients_folder().join("node_modules/node/bin/node");
    if own.exists() { own } else { "node".into() }
}

/// Python with the libraries that `.ci/run` installed.
fn python() -> PathBuf {
    clients_folder().join("python/bin/python")
}

#[test]
fn redis_py() {
    if have_client("python/bin/python") {
        drive_script(python(), "redis_py.py");
    }
}

#[test]
fn valkey_glide() {
    if have_client("python/bin/python")
        && have_library(
            &[&python().to_string_lossy(), "-c", "import glide_sync"],
            "valkey-glide-sync",
        )
    {
        drive_script(python(), "valkey_glide.py");
    }
}

#[test]
fn node_redis() {
    if have_client("node_modules/redis") {
        drive_script(node(), "node_redis.mjs");
    }
}

#[test]
fn ioredis() {
    if have_client("node_modules/ioredis") {
        drive_script(node(), "ioredis.mjs");
    }
}

#[test]
fn phpredis() {
    if have_library(&["php", "-r", "exit(extension_loaded('redis') ? 0 : 1);"], "php-redis") {
        drive_script("php", "phpredis.php");
    }
}

#[test]
fn predis() {
    if have_library(&["php", "-r", "require 'Predis/Autoloader.php';"], "php-predis") {
        drive_script("php", "predis.php");
    }
}

#[test]
fn perl() {
    if have_library(&["perl", "-MRedis", "-e", "1"], "libredis-perl") {
        drive_script("perl", "redis_pm.pl");
    }
}

#[test]
fn ruby() {
    if have_library(&["ruby", "-rredis", "-e", "1"], "ruby-redis") {
        drive_script("ruby", "redis_rb.rb");
    }
}

/// A line of the original project's kind for each command, each on a connection of its own.
#[test]
fn the_original_client() {
    if have("javac", "default-jdk-headless") {
        drive_script("java", "OriginalClient.java");
    }
}

#[test]
fn hiredis() {
    let header = ["sh", "-c", "echo '#include <hiredis/hiredis.h>' | cc -x c -c -o /dev/null -"];
    if !have("cc", "gcc") || !have_library(&header, "libhiredis-dev") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("hiredis");
    build(Command::new("cc").arg("-o").arg(&program).arg(script("hiredis.c")).arg("-lhiredis"));
    drive(&[program.as_ref()]);
}

#[test]
fn redigo() {
    // As Debian builds programs: its sources, no modules, no network.
    let go = |arguments: &[&str]| {
        let mut command = Command::new("go");
        command.args(arguments).envs([
            ("GO111MODULE", "off"),
            ("GOPATH", "/usr/share/gocode"),
            ("GOFLAGS", ""),
        ]);
        command.env("GOCACHE", PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("go-cache"));
        command
    };
    if !have("go", "golang-go") {
        return;
    }
    if run(&mut go(&["list", "github.com/gomodule/redigo/redis"]), "").code != Some(0) {
        return common::skip("redigo is not installed (Debian: golang-github-gomodule-redigo-dev)");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("redigo");
    build(go(&["build", "-o"]).arg(&program).arg(script("redigo.go")));
    drive(&[program.as_ref()]);
}

/// `.ci/run` has built its many packages, apart from ours; here only a change of our own file is
/// built again.
#[test]
fn fred() {
    if !have_client("fred") {
        return;
    }
    let target = clients_folder().join("fred");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(script("fred/Cargo.toml"));
    build(cargo.arg("--target-dir").arg(&target));
    // It sends the password as a word of a line, so a space in it would end it.
    drive_with("secret", &[target.join("debug/drive-fred").as_ref()]);
}
