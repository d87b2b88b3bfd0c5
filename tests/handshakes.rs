//! What clients say before and around their work, reply by reply: `HELLO`, `AUTH`, `RESET`,
//! `MULTI`.

mod common;

use common::clients::{PASSWORD, server_with_password};
use common::{Server, Wire, resp};

/// The lines of a reply to `HELLO 3`: a map of four texts, two numbers and an empty list.
fn hello_reply(wire: &mut Wire) -> Vec<String> {
    let lines: Vec<String> = (0..1 + 4 * 4 + 2 * 3 + 3).map(|_| wire.line()).collect();
    assert_eq!(lines.first().map(String::as_str), Some("%7"), "{lines:?}");
    lines
}

#[test]
fn a_handshake_reply_by_reply() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.ask(resp(&[b"CLIENT", b"SETINFO", b"LIB-NAME", b"x"]), "+OK\r\n");
    wire.ask(resp(&[b"CLIENT", b"GETNAME"]), "$-1\r\n");
    wire.send(resp(&[b"HELLO", b"3", b"AUTH", b"default", b"any", b"SETNAME", b"me"]));
    let hello = hello_reply(&mut wire);
    assert!(hello.join(" ").contains("$5 proto :3 $2 id :"), "{hello:?}");
    wire.ask(resp(&[b"CLIENT", b"GETNAME"]), "$2\r\nme\r\n");
    // RESP3's null, also inside arrays: redis-py would wait for ever for the bytes of a "$-1".
    wire.ask(resp(&[b"GET", b"nobody"]), "_\r\n");
    wire.ask(resp(&[b"MGET", b"nobody", b"none"]), "*2\r\n_\r\n_\r\n");
    wire.ask(resp(&[b"COMMAND", b"INFO", b"nonsense"]), "*1\r\n_\r\n");
    // A refused HELLO changes nothing.
    wire.ask(resp(&[b"HELLO", b"4"]), "-NOPROTO unsupported protocol version\r\n");
    wire.ask(resp(&[b"GET", b"nobody"]), "_\r\n");
    // RESET is back to the start: RESP2, no name.
    wire.ask(resp(&[b"RESET"]), "+RESET\r\n");
    wire.ask(resp(&[b"GET", b"nobody"]), "$-1\r\n");
    wire.ask(resp(&[b"CLIENT", b"GETNAME"]), "$-1\r\n");
    // Two connections have two numbers, and keep them.
    let id = |wire: &mut Wire| {
        wire.send(resp(&[b"CLIENT", b"ID"]));
        wire.line()
    };
    let (first, second) = (id(&mut wire), id(&mut server.connect()));
    assert_ne!(first, second);
    assert_eq!(first, id(&mut wire));
}

#[test]
fn a_handshake_with_a_password() {
    let server = server_with_password();
    let password = PASSWORD.as_bytes();
    let mut wire = server.connect();
    wire.ask(resp(&[b"PING"]), "-NOAUTH Authentication required.\r\n");
    wire.send(resp(&[b"HELLO", b"3"]));
    assert!(
        wire.line()
            .starts_with("-NOAUTH HELLO must be called with the client already authenticated")
    );
    // A wrong one changes neither the protocol nor the name.
    wire.send(resp(&[b"HELLO", b"3", b"AUTH", b"default", b"wrong", b"SETNAME", b"me"]));
    assert!(wire.line().starts_with("-WRONGPASS "));
    wire.ask(resp(&[b"GET", b"k"]), "-NOAUTH Authentication required.\r\n");
    wire.ask(resp(&[b"AUTH", b"somebody", password]), WRONG);
    wire.ask(resp(&[b"AUTH", password]), "+OK\r\n");
    wire.ask(resp(&[b"MGET", b"k"]), "*1\r\n$-1\r\n");
    wire.ask(resp(&[b"CLIENT", b"GETNAME"]), "$-1\r\n");
    wire.ask(resp(&[b"RESET"]), "+RESET\r\n");
    wire.ask(resp(&[b"GET", b"k"]), "-NOAUTH Authentication required.\r\n");
    wire.send(resp(&[b"HELLO", b"3", b"AUTH", b"default", password]));
    hello_reply(&mut wire);
    wire.ask(resp(&[b"GET", b"k"]), "_\r\n");
}

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// fred connects so: an inline `HELLO 3`, then arrays.
#[test]
fn an_inline_hello_begins_a_conversation_in_resp() {
    let server = Server::start(&[]);
    for hello in
        ["HELLO 3\r\n", "hello 3\n", "\r\nHeLLo  3 \r\n", "HELLO 3 AUTH default any SETNAME me\r\n"]
    {
        let mut wire = server.connect();
        wire.send([hello.as_bytes(), &resp(&[b"GET", b"nobody"])].concat());
        hello_reply(&mut wire);
        wire.expect("_\r\n");
        wire.ask(resp(&[b"SET", b"k", b"a\r\nb"]), "+OK\r\n");
        // From here on there are only arrays: a line is no request.
        wire.send("HELLO 3\r\n");
        assert_eq!(wire.line(), "-ERR Protocol error: expected '*', got 'H'");
        assert_eq!(wire.rest(), b"");
    }
    // In two pieces, without a version, and with a wrong one.
    let mut wire = server.connect();
    wire.send("HEL");
    wire.ask("LO 4\r\n", "-NOPROTO unsupported protocol version\r\n");
    wire.ask(resp(&[b"GET", b"nobody"]), "$-1\r\n");
    let mut wire = server.connect();
    wire.ask("hello\n", "*14\r\n$6\r\nserver\r\n");
    // Only a first line is taken so, and only that word.
    server.connect().ask("PING\nHELLO 3\n", "PONG\nERROR use RESP\n");
    server
        .connect()
        .ask("HELLOS 3\n", "ERROR unknown command 'HELLOS', with args beginning with: '3' \n");
    assert_eq!(wire_closed_after(&server, "HELLO 3 HTTP/1.1\r\n"), b"");
}

fn wire_closed_after(server: &Server, line: &str) -> Vec<u8> {
    let mut wire = server.connect();
    wire.send(line);
    wire.rest()
}

#[test]
fn an_inline_hello_with_a_password() {
    let server = Server::start_on(0, &[], &[("KVSTORE_PASSWORD", "secret")]);
    let mut wire = server.connect();
    wire.send("HELLO 3 AUTH default secret\r\n");
    hello_reply(&mut wire);
    wire.ask(resp(&[b"GET", b"nobody"]), "_\r\n");
    // Without it, or with a wrong one, the conversation is RESP, too, and AUTH can follow.
    for (hello, refusal) in [
        ("hello 3\r\n", "-NOAUTH HELLO must be called"),
        ("HELLO 3 AUTH default x\r\n", "-WRONGPASS "),
    ] {
        let mut wire = server.connect();
        wire.send(hello);
        let line = wire.line();
        assert!(line.starts_with(refusal), "{line}");
        wire.ask(resp(&[b"GET", b"nobody"]), "-NOAUTH Authentication required.\r\n");
        wire.ask(resp(&[b"AUTH", b"secret"]), "+OK\r\n");
        wire.ask(resp(&[b"GET", b"nobody"]), "$-1\r\n");
    }
    // The limits before the password hold for it as for every other request.
    for long in [format!("HELLO 3{}\r\n", " x".repeat(20)), format!("HELLO {}", "x".repeat(20_000))]
    {
        let answer = String::from_utf8(wire_closed_after(&server, &long)).expect("text");
        assert!(answer.contains("Authentication required."), "{answer}");
    }
}

const ABORTED: &str = "-EXECABORT Transaction discarded: this server executes no transactions, \
                       and nothing was changed; \
                       send the commands without MULTI, as a plain pipeline\r\n";

/// An error at `MULTI` would make phpredis and Predis misread every later reply.
#[test]
fn a_transaction_is_queued_and_then_aborted_and_changes_nothing() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.ask(resp(&[b"SET", b"kept", b"v"]), "+OK\r\n");
    // Sent without a look at the replies, as pipelines are.
    let blindly = [
        resp(&[b"MULTI"]),
        resp(&[b"SET", b"never", b"x"]),
        resp(&[b"DEL", b"kept"]),
        resp(&[b"FLUSHALL"]),
        resp(&[b"WAIT", b"1", b"0"]),
        resp(&[b"AUTH", b"default", b"x"]),
        resp(&[b"HELLO", b"3"]),
        resp(&[b"UNWATCH"]),
        resp(&[b"EXEC"]),
    ];
    wire.ask(blindly.concat(), format!("+OK\r\n{}{ABORTED}", "+QUEUED\r\n".repeat(7)));
    wire.ask(resp(&[b"MGET", b"kept", b"never"]), "*2\r\n$1\r\nv\r\n$-1\r\n");

    for (words, reply) in [
        (&["EXEC"][..], "-ERR EXEC without MULTI\r\n"),
        (&["DISCARD"], "-ERR DISCARD without MULTI\r\n"),
        (&["UNWATCH"], "+OK\r\n"),
        (&["multi"], "+OK\r\n"),
        (&["MULTI"], "-ERR MULTI calls can not be nested\r\n"),
        (&["WATCH", "k"], "-ERR WATCH inside MULTI is not allowed\r\n"),
        (&["SHUTDOWN"], "-ERR Command not allowed inside a transaction\r\n"),
        (&["NONSENSE"], "-ERR unknown command 'NONSENSE', with args beginning with: \r\n"),
        (&["GET"], "-ERR wrong number of arguments for 'get' command\r\n"),
        (&["SET", "never", "x"], "+QUEUED\r\n"),
        (&["EXEC"], ABORTED),
        (&["MULTI"], "+OK\r\n"),
        (&["SET", "never", "x"], "+QUEUED\r\n"),
        (&["DISCARD"], "+OK\r\n"),
        (&["MULTI"], "+OK\r\n"),
        (&["RESET"], "+RESET\r\n"),
        (&["GET", "never"], "$-1\r\n"),
        (&["MULTI"], "+OK\r\n"),
        (&["EXEC"], ABORTED),
        (&["MULTI"], "+OK\r\n"),
        (&["SET", "never", "x"], "+QUEUED\r\n"),
        (&["QUIT"], "+OK\r\n"),
    ] {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        wire.ask(resp(&words), reply);
    }
    assert_eq!(wire.rest(), b"");

    let mut wire = server.connect();
    wire.send(resp(&[b"WATCH", b"k"]));
    let refusal = wire.line();
    assert!(
        refusal.starts_with("-ERR WATCH is not supported: this server executes no transactions"),
        "{refusal}"
    );
    wire.ask(resp(&[b"MGET", b"kept", b"never"]), "*2\r\n$1\r\nv\r\n$-1\r\n");
    server.connect().ask("MULTI\nEXEC\nWATCH k\n", "ERROR use RESP\n".repeat(3));
}

/// Nothing is kept of what was queued.
#[test]
fn a_long_transaction_takes_no_memory() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    wire.ask(resp(&[b"MULTI"]), "+OK\r\n");
    let value = vec![b'x'; 1 << 20];
    let request = resp(&[b"SET", b"never", &value]);
    // The buffers have their size after the first.
    wire.ask(&request, "+QUEUED\r\n");
    let before = common::resident_bytes(server.pid());
    for _ in 0..64 {
        wire.ask(&request, "+QUEUED\r\n");
    }
    let grown = common::resident_bytes(server.pid()).saturating_sub(before);
    assert!(grown < 16 << 20, "64 MiB were queued, memory grew by {grown} bytes");
    wire.ask(resp(&[b"EXEC"]), ABORTED);
    wire.ask(resp(&[b"DBSIZE"]), ":0\r\n");
}

#[test]
fn a_transaction_needs_the_password() {
    let server = server_with_password();
    let mut wire = server.connect();
    for command in ["MULTI", "EXEC", "DISCARD", "UNWATCH"] {
        wire.ask(resp(&[command.as_bytes()]), "-NOAUTH Authentication required.\r\n");
    }
    wire.ask(resp(&[b"AUTH", PASSWORD.as_bytes()]), "+OK\r\n");
    wire.ask(resp(&[b"EXEC"]), "-ERR EXEC without MULTI\r\n");
}
