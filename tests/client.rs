//! The client when connections break: fail-over, reads repeated, writes never.

mod common;

use common::{Server, binary, poll};
use kvstore::client::{Client, Response};
use kvstore::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

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
    let mut client = Client::connect_any(vec![first.address(), second.address()], None).expect("connects");
    client.put("where", "first").expect("stored");
    first.kill();
    // Even a write works: the loss is seen before anything is sent.
    poll("the loss is seen", || client.put("where", "second").is_ok().then_some(()));
    let notice = client.notice().expect("it says so");
    assert_eq!(notice, format!("Connection to {} lost, connected to {}", first.address(), second.address()));
    assert_eq!(client.get("where").expect("read"), Some(b"second".to_vec()));
    assert_eq!(client.address(), second.address());
}

/// A server that takes requests and hangs up on the first `deaf` of them unanswered; it says how many it saw.
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
    let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
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
    assert_eq!(stderr, format!("Connection to localhost:{} lost, connected to {}\n", first.port, second.address()));
    assert_eq!(output.status.code(), Some(0));
}
