//! What the server asks of the kernel: one write for all requests of a read, nothing while idle.

mod common;

use common::{Server, binary, poll, resp};
use std::process::Command;
use std::time::Duration;

/// A server whose socket reads and writes are traced into a file, one line each.
struct Traced {
    server: Server,
    file: tempfile::NamedTempFile,
}

impl Traced {
    fn start() -> Traced {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=recvfrom,sendto,read,write", "-o"]);
        strace.arg(file.path()).arg(binary()).args(["server", "0"]);
        let server = Server::spawn(strace).expect("it starts");
        Traced { server, file }
    }

    /// How often the server made this call.
    fn count(&self, call: &str) -> usize {
        let trace = std::fs::read_to_string(self.file.path()).expect("a trace");
        trace
            .lines()
            .filter(|line| line.contains(&format!(" {call}(")) && !line.contains("resumed"))
            .count()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // Killing strace would let the server go on; asked to stop, it takes strace with it.
        self.server.connect().send("SHUTDOWN\n");
        self.server.exit_code();
    }
}

#[test]
fn all_requests_of_a_read_are_answered_with_one_write() {
    if !common::have("strace", "strace") {
        return;
    }
    let traced = Traced::start();
    let mut wire = traced.server.connect();
    // The read buffer grows to what comes; after that 100 requests fit into one read.
    for _ in 0..4 {
        wire.ask(resp(&[b"GET", b"key"]).repeat(100), b"$-1\r\n".repeat(100));
    }
    let before = traced.count("sendto");
    wire.ask(resp(&[b"GET", b"key"]).repeat(100), b"$-1\r\n".repeat(100));
    assert_eq!(
        poll("the trace is written", || Some(traced.count("sendto") - before)
            .filter(|count| *count > 0)),
        1
    );
}

#[test]
fn an_idle_connection_costs_no_system_calls() {
    if !common::have("strace", "strace") {
        return;
    }
    let traced = Traced::start();
    let mut wire = traced.server.connect();
    wire.ask("PING\n", "PONG\n");
    std::thread::sleep(Duration::from_millis(500)); // What is measured is that nothing happens.
    let reads = traced.count("recvfrom");
    // A thread reads once, looks at most 16 times and sleeps in one more read: before the request
    // and after it.
    assert!(reads <= 2 * 18, "{reads} reads for one request");
}
