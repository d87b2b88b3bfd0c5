//! What the program says, and how it exits, when options are wrong or when whoever listens is no
//! server of ours.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Output, Server, Terminal, binary, have, resp, run};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// Somebody who treats every connection so, until the test's process ends; the port.
fn fake(treat: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || treat(stream.unwrap()));
        }
    });
    port
}

/// Reads and says nothing.
fn silent(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Reads a request, says this, and reads on.
fn says(mut stream: TcpStream, answer: &[u8]) {
    let _ = stream.read(&mut [0; 4096]);
    let _ = stream.write_all(answer);
    silent(stream);
}

fn web(stream: TcpStream) {
    says(stream, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
}

/// As Python's web server answers what it takes for HTTP/0.9.
fn page(stream: TcpStream) {
    says(stream, b"<!DOCTYPE HTML>\n<html>\n<h1>Error response</h1>\n</html>\n");
}

fn mail(mut stream: TcpStream) {
    let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
    silent(stream);
}

fn cut(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 4096]);
    let _ = stream.write_all(b"$100\r\nhalf a val");
    // All that was sent is read, so that no reset overtakes the reply.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    silent(stream);
}

fn closes(stream: TcpStream) {
    drop(stream);
}

fn kvstore(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary());
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"KVSTORE_"))
    {
        command.env_remove(name);
    }
    run(command.args(arguments).envs(variables.iter().copied()), "")
}

#[track_caller]
fn check(arguments: &[&str], variables: &[(&str, &str)], code: i32, stderr: &str) {
    let output = kvstore(arguments, variables);
    assert_eq!(output.code, Some(code), "{variables:?} {arguments:?}: {output:?}");
    assert!(
        output.stderr.contains(stderr),
        "{variables:?} {arguments:?} does not say {stderr:?}: {}",
        output.stderr
    );
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

#[test]
fn a_wrong_option_is_named_with_a_way_out() {
    for (arguments, stderr) in [
        (
            "server 0 --max-connections -5",
            "invalid value '-5' for '--max-connections <N>': -5 is not in 1..=",
        ),
        (
            "server 0 --idle-timeout 1h",
            "invalid value '1h' for '--idle-timeout <SECS>': not a whole number",
        ),
        ("server 0 --idle-timeout -1", "invalid value '-1' for '--idle-timeout <SECS>': "),
        (
            "server 0 --idle-timeout 99999999999999999999",
            "'--idle-timeout <SECS>': too large a number",
        ),
        ("server -5", "invalid value '-5' for '[PORT]': not a port"),
        ("server eighty", "invalid value 'eighty' for '[PORT]': not a port"),
        ("server 65536", "invalid value '65536' for '[PORT]': not a port"),
        ("server 0 --fsync sometimes", "[possible values: always, everysec, never]"),
        ("server 0 --fsync always --fsync never", "cannot be used multiple times"),
        (
            "server 0 --peer localhost",
            "invalid value 'localhost' for '--peer <HOST:PORT>': not HOST:PORT",
        ),
        (
            "server 0 --peer localhost:1,x",
            "invalid value 'x' for '--peer <HOST:PORT>': not HOST:PORT",
        ),
        ("server 0 --advertise 0.0.0.0:1", "stands for every interface"),
        ("server 0 --cluster ü", "1 to 64 printable characters"),
        (
            "client localhost:7000",
            "invalid value 'localhost:7000' for '[HOST]': HOST and PORT are two words; say \
             localhost 7000",
        ),
        ("client localhost:7000 GET k", "HOST and PORT are two words; say localhost 7000"),
        (
            "client localhost GET k",
            "invalid value 'GET' for '[PORT]': not a port (1 to 65535); HOST and PORT come first",
        ),
        ("client localhost 0", "invalid value '0' for '[PORT]': not a port"),
        ("client http://localhost", "not a host name or IP address; try localhost"),
        (
            "client --also garbage localhost 1 GET k",
            "invalid value 'garbage' for '--also <HOST:PORT>': not HOST:PORT",
        ),
        ("client --timeout 0", "invalid value '0' for '--timeout <SECS>': 0 is not in 1..=86400"),
        (
            "client --timeout soon",
            "invalid value 'soon' for '--timeout <SECS>': not a whole number",
        ),
        ("client localhost 1 PUT k", "Usage: PUT <key> <value>"),
        ("client localhost 1 get", "Usage: GET <key>"),
        ("client localhost 1 DELETE a b", "Usage: DELETE <key>"),
        ("client localhost 1 STRLEN", "Usage: STRLEN key"),
        (
            "bench localhost 1 --compare garbage",
            "invalid value 'garbage' for '--compare <HOST:PORT>': not HOST:PORT",
        ),
        ("bench --keys -1", "'--keys <N>'"),
        ("export localhost:1", "HOST and PORT are two words; say localhost 1"),
    ] {
        check(&arguments.split(' ').collect::<Vec<_>>(), &[], 2, stderr);
    }
}

#[test]
fn a_wrong_path_or_word_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let beneath = format!("{file}/data");
    for (arguments, code, stderr) in [
        (["server", "0", "--password-file", file], 2, format!("the password file {file} is empty")),
        (["server", "0", "--data-dir", file], 1, format!("{file} is a file, not a directory")),
        (
            ["server", "0", "--data-dir", &beneath],
            1,
            format!("cannot use the data directory {beneath}: "),
        ),
        (["client", "", "1", "PING"], 2, "invalid value '' for '[HOST]': not a host name".into()),
    ] {
        check(&arguments, &[], code, &stderr);
    }
    let mut no_text = Command::new(binary());
    no_text.arg("client").arg(std::ffi::OsStr::from_bytes(b"\xff"));
    assert_eq!(run(&mut no_text, "").code, Some(2));
}

#[test]
fn a_wrong_variable_is_named_as_such() {
    for (name, value, mode, stderr) in [
        (
            "KVSTORE_FSYNC",
            "bad",
            "server 0 --data-dir x",
            "invalid value 'bad' for 'KVSTORE_FSYNC, a variable",
        ),
        (
            "KVSTORE_MAX_CONNECTIONS",
            "-5",
            "server 0",
            "for 'KVSTORE_MAX_CONNECTIONS, a variable of the environment': ",
        ),
        (
            "KVSTORE_IDLE_TIMEOUT",
            "x",
            "server 0",
            "for 'KVSTORE_IDLE_TIMEOUT, a variable of the environment': not a ",
        ),
        (
            "KVSTORE_PEER",
            "localhost",
            "server 0",
            "invalid value 'localhost' for 'KVSTORE_PEER, a variable",
        ),
        (
            "KVSTORE_INSECURE",
            "maybe",
            "server 0",
            "invalid value 'maybe' for 'KVSTORE_INSECURE, a variable",
        ),
        (
            "KVSTORE_ALSO",
            "garbage",
            "client localhost 1 PING",
            "invalid value 'garbage' for 'KVSTORE_ALSO, a variable",
        ),
        // What is written on the command line is what is wrong.
        (
            "KVSTORE_FSYNC",
            "always",
            "server 0 --fsync bad",
            "invalid value 'bad' for '--fsync <POLICY>'",
        ),
        (
            "KVSTORE_FSYNC",
            "always",
            "server 0 --fsync=bad",
            "invalid value 'bad' for '--fsync <POLICY>'",
        ),
    ] {
        check(&mode.split(' ').collect::<Vec<_>>(), &[(name, value)], 2, stderr);
    }
}

/// Every way to ask, with options that make it short.
const QUESTIONS: [&str; 4] = [
    "client --timeout 1 127.0.0.1 PORT GET k",
    "client --timeout 1 127.0.0.1 PORT PUT k v",
    "export --timeout 1 127.0.0.1 PORT",
    "bench --timeout 1 127.0.0.1 PORT --keys 10 --seconds 1",
];

#[test]
fn whoever_listens_is_told_apart_and_nobody_is_waited_for_long() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (port, answers) in [
        (
            nobody,
            ["cannot connect to 127.0.0.1:PORT: Connection refused (os error 111). Start a \
              server with ./run_server.sh"; 4],
        ),
        (
            fake(silent),
            [
                "no reply from 127.0.0.1:PORT: silent for 1 s",
                "no reply from 127.0.0.1:PORT (silent for 1 s): whether PUT was carried out is \
                 unknown; it was not sent again",
                "no reply from 127.0.0.1:PORT: silent for 1 s",
                "127.0.0.1:PORT is silent for 1 s",
            ],
        ),
        (
            fake(web),
            ["127.0.0.1:PORT is no kvstore or Redis server: it answered 'HTTP/1.1 400 Bad Request'";
                4],
        ),
        (
            fake(page),
            ["127.0.0.1:PORT is no kvstore or Redis server: it answered '<!DOCTYPE HTML>'"; 4],
        ),
        (
            fake(mail),
            ["127.0.0.1:PORT is no kvstore or Redis server: it answered '220 mail.example ESMTP'";
                4],
        ),
        (
            fake(cut),
            [
                "no reply from 127.0.0.1:PORT: it closed the connection",
                "no reply from 127.0.0.1:PORT (it closed the connection): whether PUT was carried \
                 out is unknown",
                "no reply from 127.0.0.1:PORT: it closed the connection",
                "127.0.0.1:PORT holds another value than this bench wrote: $100",
            ],
        ),
        (fake(closes), ["127.0.0.1:PORT"; 4]),
    ] {
        for (question, answer) in QUESTIONS.iter().zip(answers) {
            let question = question.replace("PORT", &port.to_string());
            let start = Instant::now();
            check(
                &question.split(' ').collect::<Vec<_>>(),
                &[],
                1,
                &answer.replace("PORT", &port.to_string()),
            );
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{question} took {:?}",
                start.elapsed()
            );
        }
    }
}

#[test]
fn a_missing_password_is_asked_for() {
    let server = Server::start_on(0, &[], &[("KVSTORE_PASSWORD", "secret")]);
    for question in QUESTIONS {
        // A loaded machine may take its time.
        let question = question
            .replace("PORT", &server.port.to_string())
            .replace("--timeout 1", "--timeout 20");
        let words: Vec<&str> = question.split(' ').collect();
        check(
            &words,
            &[],
            1,
            "Authentication required. Give it with --password-file FILE or KVSTORE_PASSWORD.",
        );
        assert_eq!(kvstore(&words, &[("KVSTORE_PASSWORD", "wrong")]).stdout, "");
        let answer = kvstore(&words, &[("KVSTORE_PASSWORD", "secret")]);
        assert!(answer.code == Some(0) || answer.stderr == "NOT_FOUND\n", "{answer:?}");
    }
}

#[test]
fn a_bench_says_that_its_keys_are_in_use() {
    let server = Server::start(&[]);
    let mut wire = server.connect();
    let writer = std::thread::spawn(move || {
        // Somebody else writes the only key until the bench gives up.
        while wire.stream.write_all(&resp(&[b"SET", b"key:000000000000", b"other"])).is_ok() {
            let mut reply = [0; 5];
            if wire.stream.read_exact(&mut reply).is_err() {
                return;
            }
        }
    });
    let port = server.port.to_string();
    check(
        &[
            "bench",
            "127.0.0.1",
            &port,
            "--keys",
            "1",
            "--seconds",
            "20",
            "--connections",
            "1",
            "--reads",
            "100",
        ],
        &[],
        1,
        "holds another value than this bench wrote: $5",
    );
    drop(server);
    writer.join().unwrap();
}

#[test]
fn a_prompt_outlives_a_silent_server() {
    if !have("script", "bsdutils") {
        return;
    }
    let (silent, server) = (fake(silent), Server::start(&[]));
    let client =
        format!("{} client --timeout 1 127.0.0.1 {silent}", common::quoted(binary().display()));
    let mut terminal = Terminal::start(&client);
    for (line, answer) in [
        (
            "GET k",
            "Error: no reply from 127.0.0.1:PORT: silent for 1 s; is it busy, or no kvstore or \
             Redis server?\n> ",
        ),
        (
            "PUT \"k",
            "Error: a quote is not closed, nothing was done; write \\\" for a quote inside a \
             value in quotes\n> ",
        ),
    ] {
        terminal.wait_for("> ");
        terminal.type_line(line);
        terminal.wait_for(&answer.replace("PORT", &silent.to_string()));
    }
    terminal.type_line("QUIT");
    assert!(terminal.finish().ends_with("Goodbye!\n"));
    // With another server the prompt goes on there.
    let mut terminal = Terminal::start(&format!("{client} --also {}", server.address()));
    for (line, answer) in [
        (
            "PUT k first",
            "Error: no reply from 127.0.0.1:PORT (silent for 1 s): whether PUT was carried out is \
             unknown; it was not sent again\n> ",
        ),
        (
            "GET k",
            "Connection to 127.0.0.1:PORT lost (silent for 1 s), connected to OTHER\n\
             Value: NOT_FOUND\n> ",
        ),
        ("PUT \"my key\" \"a\\n b\"", "Response: OK\n> "),
        ("GET \"my key\"", "Value: a\\n b\n> "),
    ] {
        terminal.wait_for("> ");
        terminal.type_line(line);
        terminal.wait_for(
            &answer.replace("PORT", &silent.to_string()).replace("OTHER", &server.address()),
        );
    }
    server.connect().ask(resp(&[b"GET", b"my key"]), "$4\r\na\n b\r\n");
}
