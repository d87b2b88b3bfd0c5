//! The client when connections break: fail-over, reads repeated, writes never.

mod common;

use common::{Server, binary, poll};
use kvstore::client::{Client, Response, SILENCE_TIMEOUT};
use kvstore::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn put_get_delete_and_any_bytes() {
    let server = Server::start(&[]);
    let mut client = Client::connect(&server.address()).expect("connects");
    let value: Vec<u8> = (0..=255).collect();
    client.put("key", &value).expect("stored");
    client.put(&value[..], "").expect("stored");
    assert_eq!(client.get("key").expect("read"), Some(value.clone()));
    assert_eq!(client.get(&value).expect("read"), Some(vec![]));
    client.delete("key").expect("deleted");
    assert_eq!(client.get("key").expect("read"), None);
    assert!(matches!(client.put("", "v"), Err(Error::Refused(_))));
    assert_eq!(client.request(&[b"DBSIZE"]).expect("answered"), Response::Integer(1));
    assert!(matches!(client.request(&[b"JUMP"]).expect("answered"), Response::Error(..)));
}

#[test]
fn the_next_address_is_tried() {
    let (mut first, second) = (Server::start(&[]), Server::start(&[]));
    let mut client =
        Client::connect_any(vec![first.address(), second.address()], None, SILENCE_TIMEOUT)
            .expect("connects");
    client.put("where", "first").expect("stored");
    first.kill();
    // Even a write works: the loss is seen before anything is sent.
    poll("the loss is seen", || client.put("where", "second").is_ok().then_some(()));
    let notice = client.notice().expect("it says so");
    assert_eq!(
        notice,
        format!("Connection to {} lost, connected to {}", first.address(), second.address())
    );
    assert_eq!(client.get("where").expect("read"), Some(b"second".to_vec()));
    assert_eq!(client.address(), second.address());
}

/// A server that takes requests and hangs up on the first `deaf` of them unanswered; it says how
/// many it saw.
fn deaf_server(deaf: usize) -> (String, std::thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let served = std::thread::spawn(move || {
        let mut requests = 0;
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let len = stream.read(&mut [0; 1024]).expect("a request");
            if len == 0 {
                break;
            }
            requests += 1;
            if requests > deaf {
                stream.write_all(b"$5\r\nvalue\r\n").expect("answered");
                break;
            }
        }
        requests
    });
    (address, served)
}

#[test]
fn a_write_without_a_reply_is_unknown_and_never_repeated() {
    let (address, served) = deaf_server(1);
    let mut client = Client::connect(&address).expect("connects");
    let error = client.put("k", "v").expect_err("no reply");
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
    assert!(error.to_string().contains("unknown"), "{error}");
    drop(client);
    drop(std::net::TcpStream::connect(address)); // Ends the server.
    assert_eq!(served.join().expect("it ran"), 1, "the write was sent once");
}

#[test]
fn a_read_without_a_reply_is_repeated_once() {
    let (address, served) = deaf_server(1);
    let mut client = Client::connect(&address).expect("connects");
    assert_eq!(client.get("k").expect("answered the second time"), Some(b"value".to_vec()));
    assert_eq!(served.join().expect("it ran"), 2);
}

#[test]
fn the_shell_survives_its_server_and_fails_over() {
    let (mut first, second) = (Server::start(&[]), Server::start(&[]));
    let mut command = Command::new(binary());
    command.args(["client", "localhost", &first.port.to_string(), "--also", &second.address()]);
    let mut shell = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stdin = shell.stdin.take().expect("piped");
    let mut stdout = BufReader::new(shell.stdout.take().expect("piped"));
    let mut ask = |request: &str| {
        writeln!(stdin, "{request}").expect("it reads");
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it answers");
        line
    };
    assert_eq!(ask("PUT k first"), "Response: OK\n");
    first.kill();
    assert_eq!(ask("PUT k second"), "Response: OK\n");
    assert_eq!(ask("GET k"), "Value: second\n");
    drop(stdin);
    let output = shell.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        stderr,
        format!("Connection to localhost:{} lost, connected to {}\n", first.port, second.address())
    );
    assert_eq!(output.status.code(), Some(0));
}

/// A server that takes every connection and request, and never answers; it stays until the test
/// ends.
fn silent_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        let streams = listener.incoming().map_while(Result::ok).collect::<Vec<_>>();
        drop(streams);
    });
    address
}

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_silent_server_counts_as_lost() {
    let (silent, other) = (silent_server(), Server::start(&[]));
    let addresses = vec![silent.clone(), silent_server(), other.address()];
    let ask = || Client::connect_any(addresses.clone(), None, SHORT).expect("connects");
    // A read is asked of each in turn.
    let mut client = ask();
    assert_eq!(client.get("k").expect("answered by the third"), None);
    assert_eq!(client.address(), other.address());
    // A write is not, and what follows goes elsewhere.
    let mut client = ask();
    let error = client.put("k", "first").expect_err("unknown");
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
    assert!(
        error.to_string().starts_with(&format!("no reply from {silent} (silent for ")),
        "{error}"
    );
    assert_eq!(client.get("k").expect("answered"), None, "it was not sent to another server");
    client.put("k", "second").expect("stored there");
    assert_eq!(client.get("k").expect("answered"), Some(b"second".to_vec()));
    // Neither is what is meant for one server.
    let mut client = ask();
    assert!(matches!(client.request(&[b"PARTITION", b"*"]), Err(Error::OutcomeUnknown(_))));
    // A password is given to the first that answers.
    let mut client = Client::connect_any(vec![silent, other.address()], Some(b"x".to_vec()), SHORT);
    let error = client.as_mut().expect_err("that one has no password").to_string();
    assert!(error.starts_with(&other.address()), "{error}");
}

#[test]
fn all_silent_is_said_once_for_each() {
    let (first, second) = (silent_server(), silent_server());
    let mut client =
        Client::connect_any(vec![first.clone(), second.clone()], None, SHORT).expect("connects");
    let start = Instant::now();
    let error = client.get("k").expect_err("nobody answers").to_string();
    assert!(error.contains(&first) && error.contains(&second), "{error}");
    assert!(start.elapsed() < 30 * SHORT, "each was asked once");
}

#[test]
fn what_takes_long_by_design_is_waited_for() {
    let server = Server::start(&[]);
    let mut client = Client::connect_any(vec![server.address()], None, SHORT).expect("connects");
    client.put("k", "v").expect("stored");
    // Nobody is there to hold the write, so it takes its whole time.
    assert_eq!(client.request(&[b"WAIT", b"1", b"900"]).expect("answered"), Response::Integer(0));
    assert_eq!(client.notice(), None);
    // The connection whose writes it counts is lost: there is nothing to wait for.
    let mut server = server;
    server.kill();
    let error = client.request(&[b"WAIT", b"1", b"900"]).expect_err("lost");
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
}

#[test]
fn bytes_that_go_on_arriving_are_no_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.read(&mut [0; 1024]).expect("a request");
        for byte in b"$10\r\n0123456789\r\n" {
            // What is tested: pauses that are shorter than the time limit.
            std::thread::sleep(SHORT / 5);
            stream.write_all(&[*byte]).expect("taken");
        }
    });
    let mut client = Client::connect_any(vec![address], None, SHORT).expect("connects");
    assert_eq!(client.get("k").expect("answered"), Some(b"0123456789".to_vec()));
    served.join().expect("it ran");
}

#[test]
fn the_end_of_the_connection_is_the_reply_to_shutdown() {
    let server = Server::start(&[]);
    let mut client = Client::connect(&server.address()).expect("connects");
    assert_eq!(client.request(&[b"SHUTDOWN"]).expect("it ends"), Response::Simple("OK".into()));
    let mut server = server;
    assert_eq!(server.exit_code(), Some(0));
}
