//! Redis's own tests of its protocol, run against this server. They are not part of this
//! repository: `.ci/run` fetches them from Debian's source package. What they need and this server
//! does not have is listed in `redis_suite_skip.txt`.

mod common;

use common::Server;
use kvstore::protocol::command;
use std::process::Command;

/// The tests that are left, of `unit/protocol` (13) and `unit/quit` (3).
const PASSED: usize = 16;

/// Names of skipped tests with the reason beside each.
fn skip_list() -> Vec<(&'static str, &'static str)> {
    include_str!("redis_suite_skip.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(" | ").expect("a name and a reason"))
        .collect()
}

#[test]
fn every_skipped_test_needs_a_command_that_is_not_there() {
    for (name, reason) in skip_list() {
        if name == "Unbalanced number of quotes" {
            continue;
        }
        for word in reason.split(' ') {
            assert!(
                command::row(word.as_bytes()).is_none(),
                "{word} is in the table, so '{name}' should run"
            );
        }
    }
}

#[test]
#[ignore = "needs Redis's source, which .ci/run fetches"]
fn unit_protocol_and_unit_quit() {
    let source = common::clients_folder().join("redis-source");
    if !source.join("runtest").is_file() {
        common::skip("Redis's source is not there; .ci/run fetches it");
        return;
    }
    if !common::have("tclsh", "tcl") {
        return;
    }
    let skipped = skip_list();
    let folder = tempfile::tempdir().expect("a folder");
    let skip_file = folder.path().join("skip.txt");
    let names: Vec<&str> = skipped.iter().map(|(name, _)| *name).collect();
    std::fs::write(&skip_file, names.join("\n") + "\n").expect("written");

    let server = Server::start(&[]);
    let mut suite = Command::new("timeout");
    suite.current_dir(&source).args(["120", "./runtest"]);
    suite.args(["--host", "127.0.0.1", "--port", &server.port.to_string()]);
    suite.args(["--singledb", "--ignore-encoding", "--ignore-digest"]);
    suite.args(["--durable", "--clients", "1"]);
    suite.args(["--single", "unit/protocol", "--single", "unit/quit"]);
    suite.arg("--skipfile").arg(&skip_file);
    let output = common::run(&mut suite, "");

    let count = |mark: &str| output.stdout.matches(mark).count();
    let (passed, left_out) = (count("ok\u{1b}[0m]: "), count("skip\u{1b}[0m]: "));
    let failed = count("err\u{1b}[0m]: ") + count("exception\u{1b}[0m]: ");
    assert_eq!(
        (output.code, passed, failed, left_out),
        (Some(0), PASSED, 0, skipped.len()),
        "{}{}",
        output.stdout,
        output.stderr
    );
    assert!(output.stdout.contains("All tests passed without errors!"), "{}", output.stdout);
}
