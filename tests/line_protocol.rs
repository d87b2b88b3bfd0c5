//! The line protocol at a real socket: the contract, request by request.

mod common;

use common::Server;
use std::process::Command;

#[test]
fn the_original_demonstration_as_one_connection_per_request() {
    let server = Server::start(&[]);
    for (request, reply) in [
        ("PUT name Dylan\n", "OK\n"),
        ("PUT age 25\r\n", "OK\n"),
        ("GET name\n", "Dylan\n"),
        ("get age\n", "25\n"),
        ("DELETE name\n", "OK\n"),
        ("GET name\n", "NOT_FOUND\n"),
        ("DELETE name\n", "OK\n"),
    ] {
        server.connect().ask(request, reply);
    }
}

#[test]
fn many_requests_in_one_write_get_their_replies_in_order() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.ask(
        "\r\n\nPUT k a  b \nGET k\nEXISTS k x k\nSTRLEN k\nTYPE k\nTYPE x\nDBSIZE\nSET k v\n\
         GET k\nPUT k \nGET k\nDEL k x\nGET k\n",
        "OK\na  b \n2\n5\nstring\nnone\n1\nOK\nv\nOK\n\n1\nNOT_FOUND\n",
    );
    wire.ask("PING\nPING hello\nWAIT 1 10\n", "PONG\nhello\n0\n");
    wire.ask("QUIT\nPUT after quit\n", "OK\n");
    assert_eq!(wire.rest(), b"");
    server.connect().ask("GET after\n", "NOT_FOUND\n");
}

#[test]
fn wrong_lines_are_answered_and_the_connection_goes_on() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    for (request, reply) in [
        ("PUT k\n", "ERROR PUT needs a key and a value: PUT <key> <value>\n"),
        ("GET a b\n", "ERROR GET takes one key and nothing after it: GET <key>\n"),
        ("GET a \n", "ERROR GET takes one key and nothing after it: GET <key>\n"),
        ("DELETE\n", "ERROR DELETE takes one key and nothing after it: DELETE <key>\n"),
        ("PUT  v\n", "ERROR key is empty\n"),
        ("SET k a b\n", "ERROR SET takes one word as value here; PUT takes the rest of the line\n"),
        ("MGET a b\n", "ERROR use RESP\n"),
        ("FLUSHALL\n", "ERROR use RESP\n"),
        ("\n", "ERROR empty request\n"),
        (
            "AUTH x\n",
            "ERROR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?\n",
        ),
        ("GTE k\n", "ERROR unknown command 'GTE', with args beginning with: 'k' \n"),
        ("PING\n", "PONG\n"),
    ] {
        wire.ask(request, reply);
    }
}

#[test]
fn a_value_that_is_no_line_is_not_sent_as_one() {
    let server = Server::start(&[]);
    server.connect().ask(common::resp(&[b"SET", b"k", b"two\nlines"]), "+OK\r\n");
    server.connect().ask("GET k\nSTRLEN k\n", "ERROR value is not a line, use RESP\n9\n");
}

#[test]
fn info_and_peers_end_with_an_empty_line() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.send("INFO server\nPEERS\nPING\n");
    assert_eq!(wire.line(), "# Server");
    let fields: Vec<String> =
        std::iter::from_fn(|| Some(wire.line()).filter(|line| !line.is_empty())).collect();
    assert!(fields.contains(&format!("tcp_port:{}", server.port)), "{fields:?}");
    assert_eq!((wire.line().as_str(), wire.line().as_str()), ("", "PONG"));
}

#[test]
fn half_a_line_at_the_end_does_nothing() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.send("PUT k whole\nPUT k hal");
    wire.finish();
    assert_eq!(wire.rest(), b"OK\nERROR request not ended by a newline, nothing was done\n");
    server.connect().ask("GET k\n", "whole\n");
}

#[test]
fn shutdown_ends_the_process_with_code_0() {
    let mut server = Server::start(&[]);
    let mut wire = server.connect();
    wire.send("PUT k v\nSHUTDOWN\n");
    assert_eq!(wire.rest(), b"OK\n");
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn nc_can_talk_to_it() {
    if !common::have("nc", "netcat-openbsd") {
        return;
    }
    // Without -N, as in Debian's traditional netcat, it waits for ever for a server that does not
    // close.
    let help = common::run(Command::new("nc").arg("-h"), "");
    if !(help.stdout + &help.stderr).contains("-N") {
        return common::skip("this nc has no option -N (Debian: netcat-openbsd)");
    }
    let server = Server::start(&[]);
    let mut nc = Command::new("nc");
    nc.args(["-N", "127.0.0.1", &server.port.to_string()]);
    assert_eq!(
        common::run(&mut nc, "PUT greeting hello world\nGET greeting\n").stdout,
        "OK\nhello world\n"
    );
}
