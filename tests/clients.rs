//! Programs that people already have: Redis's own tools and the client libraries of three languages,
//! against a server of its own each, with and without a password. The libraries are installed by `.ci/run`.

mod common;

use common::{Output, Server, have, resp, run};
use redis::{RedisResult, Value};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const PASSWORD: &str = "correct horse";

/// A server that asks for [`PASSWORD`].
fn server_with_password() -> Server {
    Server::start_on(0, &[], &[("KVSTORE_PASSWORD", PASSWORD)])
}

/// A program with its arguments, ended if it hangs.
fn limited(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("60").arg(program);
    command
}

/// Runs `redis-cli` against the server.
fn redis_cli(server: &Server, arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut command = limited("redis-cli");
    command.args(["-p", &server.port.to_string()]);
    command.args(arguments);
    run(&mut command, input)
}

fn have_redis_tools() -> bool {
    have("redis-cli", "redis-tools")
}

#[test]
fn redis_cli_one_shot() {
    if !have_redis_tools() {
        return;
    }
    let server = Server::start(&[]);
    for version in ["-2", "-3"] {
        for (arguments, printed) in [
            (&["set", "name", "Dylan"][..], "OK\n"),
            (&["get", "name"], "Dylan\n"),
            (&["get", "nobody"], "\n"),
            (&["mget", "name", "nobody"], "Dylan\n\n"),
            (&["del", "name", "nobody"], "1\n"),
            (&["exists", "name"], "0\n"),
            (&["echo", "two words"], "two words\n"),
            (&["--no-raw", "get", "nobody"], "(nil)\n"),
        ] {
            let output = redis_cli(&server, &[&[version], arguments].concat(), "");
            assert_eq!(
                (output.stdout.as_str(), output.stderr.as_str(), output.code),
                (printed, "", Some(0)),
                "{version} {arguments:?}"
            );
        }
    }
    // A value from standard input, bytes and all.
    assert_eq!(redis_cli(&server, &["-x", "set", "file"], b"a\0b\r\n").stdout, "OK\n");
    assert_eq!(redis_cli(&server, &["strlen", "file"], "").stdout, "5\n");
}

#[test]
fn redis_cli_interactive_in_a_terminal() {
    if !have_redis_tools() || !have("expect", "expect") {
        return;
    }
    let server = Server::start(&[]);
    let script = common::repository().join("tests/clients/redis_cli.exp");
    for version in ["-2", "-3"] {
        let mut expect = limited("expect");
        expect.arg(&script).args([&server.port.to_string(), version]);
        let output = run(&mut expect, "");
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    }
}

#[test]
fn redis_cli_mass_insertion_and_scan() {
    if !have_redis_tools() {
        return;
    }
    let server = Server::start(&[]);
    let mut commands = Vec::new();
    for number in 0..10_000 {
        let key = format!("key:{number}");
        commands.extend(resp(&[b"SET", key.as_bytes(), &[b'x'; 64]]));
    }
    let output = redis_cli(&server, &["--pipe"], &commands);
    assert!(output.stdout.ends_with("errors: 0, replies: 10000\n"), "{output:?}");
    assert_eq!(output.code, Some(0));
    assert_eq!(redis_cli(&server, &["dbsize"], "").stdout, "10000\n");

    let sorted_lines = |output: Output| {
        let mut lines: Vec<String> = output.stdout.lines().map(String::from).collect();
        lines.sort();
        lines
    };
    let mut keys: Vec<String> = (0..10_000).map(|number| format!("key:{number}")).collect();
    keys.sort();
    assert_eq!(sorted_lines(redis_cli(&server, &["--scan"], "")), keys);
    keys.retain(|key| key.len() == "key:42".len() && key.ends_with('7'));
    assert_eq!(sorted_lines(redis_cli(&server, &["--scan", "--pattern", "key:?7"], "")), keys);

    // An error among the replies is counted, and does not stop the rest.
    let mixed = [resp(&[b"NONSENSE"]), resp(&[b"SET", b"after", b"v"])].concat();
    let output = redis_cli(&server, &["--pipe"], mixed);
    assert!(output.stdout.ends_with("errors: 1, replies: 2\n"), "{output:?}");
}

#[test]
fn redis_cli_stat_shows_a_line_per_interval() {
    if !have_redis_tools() {
        return;
    }
    let server = Server::start(&[]);
    server.connect().ask(resp(&[b"SET", b"k", b"v"]), b"+OK\r\n");
    // Without a terminal it would collect its lines before it prints them: stdbuf.
    let mut stat = limited("stdbuf")
        .args(["-oL", "redis-cli", "-p", &server.port.to_string()])
        .args(["--stat", "-i", "0.1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli runs");
    let lines = BufReader::new(stat.stdout.take().expect("piped")).lines();
    let rows: Vec<String> = lines
        .map_while(Result::ok)
        .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
        .take(3)
        .collect();
    // Ends `timeout` alone; redis-cli ends by the pipe that nobody reads any more.
    stat.kill().expect("it still runs");
    stat.wait().expect("it ends");
    assert_eq!(rows.len(), 3, "{rows:?}");
    for row in rows {
        let columns: Vec<&str> = row.split_whitespace().collect();
        // keys, memory, clients (its own connection), blocked, requests
        assert_eq!((columns[0], columns[2], columns[3]), ("1", "1", "0"), "{row}");
    }
}

#[test]
fn redis_cli_with_right_wrong_and_no_password() {
    if !have_redis_tools() {
        return;
    }
    let server = server_with_password();
    for version in ["-2", "-3"] {
        let right = redis_cli(&server, &[version, "-a", PASSWORD, "set", "k", "v"], "");
        assert_eq!((right.stdout.as_str(), right.code), ("OK\n", Some(0)), "{right:?}");
        // It goes on after a failed AUTH, so the commands themselves must fail.
        let wrong = redis_cli(&server, &[version, "-a", "wrong", "set", "k", "x"], "");
        assert!(wrong.stderr.contains("WRONGPASS"), "{wrong:?}");
        assert!(wrong.stdout.starts_with("NOAUTH"), "{wrong:?}");
        let none = redis_cli(&server, &[version, "get", "k"], "");
        assert!(none.stdout.starts_with("NOAUTH"), "{none:?}");
        let kept = redis_cli(&server, &[version, "-a", PASSWORD, "get", "k"], "");
        assert_eq!(kept.stdout, "v\n");
    }
}

#[test]
fn redis_benchmark_with_and_without_pipelining() {
    if !have("redis-benchmark", "redis-tools") {
        return;
    }
    let (open, closed) = (Server::start(&[]), server_with_password());
    for (server, options) in [
        (&open, &["-P", "1"][..]),
        (&open, &["-P", "16"]),
        (&open, &["-P", "16", "-3"]),
        (&open, &["-P", "16", "--threads", "2"]),
        (&closed, &["-P", "16", "-a", PASSWORD]),
    ] {
        let mut benchmark = limited("redis-benchmark");
        benchmark.args(["-p", &server.port.to_string(), "-t", "set,get"]);
        benchmark.args(["-n", "5000", "-r", "1000", "-c", "20", "-d", "64", "--csv"]);
        let output = run(benchmark.args(options), "");
        // The rows of the two tests, each with its requests per second.
        let rates: Vec<f64> = ["\"SET\",\"", "\"GET\",\""]
            .iter()
            .filter_map(|start| {
                let row = output.stdout.lines().find_map(|row| row.strip_prefix(start))?;
                row.split('"').next()?.parse().ok()
            })
            .collect();
        assert!(
            output.code == Some(0) && rates.len() == 2 && rates.iter().all(|rate| *rate > 0.0),
            "{options:?}: {output:?}"
        );
        // Nothing but warnings of known kinds: an error reply would show here.
        assert!(!output.stderr.contains("rror"), "{options:?}: {output:?}");
    }
}

/// The `redis` crate's connection for a URL like `redis://:password@host/?protocol=resp3`.
fn crate_connection(server: &Server, password: &str, version: &str) -> RedisResult<redis::Connection> {
    let address = server.address();
    let url = format!("redis://:{password}@{address}/?protocol={version}");
    let url = url.replace("//:@", "//").replace(' ', "%20");
    let connection = redis::Client::open(url)?.get_connection_with_timeout(common::SOON)?;
    connection.set_read_timeout(Some(common::SOON))?;
    Ok(connection)
}

#[test]
fn the_redis_crate() {
    for (server, password) in [(Server::start(&[]), ""), (server_with_password(), PASSWORD)] {
        for version in ["resp2", "resp3"] {
            let mut connection = crate_connection(&server, password, version).expect("connects");
            use_the_crate(&mut connection).unwrap_or_else(|error| panic!("{version}: {error}"));
        }
        if !password.is_empty() {
            for version in ["resp2", "resp3"] {
                for wrong in ["wrong", ""] {
                    let error = crate_connection(&server, wrong, version)
                        .and_then(|mut connection| redis::cmd("GET").arg("k").exec(&mut connection))
                        .expect_err("no right password");
                    let refused = error.kind() == redis::ErrorKind::AuthenticationFailed
                        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
                    assert!(refused, "{version} '{wrong}': {error:?}");
                }
            }
        }
    }
}

fn use_the_crate(connection: &mut redis::Connection) -> RedisResult<()> {
    use redis::TypedCommands;
    connection.flushall()?;
    connection.set("name", "Dylan")?;
    assert_eq!(connection.get("name")?.as_deref(), Some("Dylan"));
    assert_eq!(connection.get("nobody")?, None);
    let found: Vec<Option<String>> = redis::cmd("MGET").arg(&["name", "nobody"]).query(connection)?;
    assert_eq!(found, [Some("Dylan".into()), None]);
    let keys: Vec<String> = connection.scan()?.collect::<RedisResult<_>>()?;
    assert_eq!(keys, ["name"]);

    let mut pipeline = redis::pipe();
    for number in 0..1000 {
        pipeline.set(number, number).ignore().get(number);
    }
    let numbers: Vec<usize> = pipeline.query(connection)?;
    assert_eq!(numbers, Vec::from_iter(0..1000));

    // A transaction fails and changes nothing; the connection goes on. (By hand: the crate's own `atomic()` has an
    // overflow, a panic in debug builds, where a server refuses MULTI itself.)
    let mut transaction = redis::pipe();
    transaction.cmd("MULTI").set("never", "x").del("name");
    transaction.cmd("EXEC");
    let error = transaction.exec(connection).expect_err("no transactions");
    assert!(error.to_string().contains("not supported"), "{error}");
    assert_eq!(connection.get("never")?, None);
    assert_eq!(connection.del(&["name", "nobody"])?, 1);
    Ok(())
}

/// Runs a script with a server without and one with a password; the script prints `ok` in the end.
fn drive(script: &str, program: PathBuf) {
    for (server, password) in [(Server::start(&[]), None), (server_with_password(), Some(PASSWORD))] {
        let mut command = limited(&program);
        command.current_dir(common::clients_folder());
        command.arg(common::repository().join("tests/clients").join(script));
        command.arg(server.port.to_string()).args(password);
        let output = run(&mut command, "");
        assert_eq!(
            (output.stdout.as_str(), output.code),
            ("ok\n", Some(0)),
            "{script}, password {password:?}: {}",
            output.stderr
        );
    }
}

/// Whether `.ci/run` has installed this under [`common::clients_folder`].
fn have_client(path: &str) -> bool {
    let found = common::clients_folder().join(path).exists();
    if !found {
        common::skip(&format!("target/clients/{path} is missing; .ci/run installs it"));
    }
    found
}

/// The one that was installed with the libraries where the machine's is too old, otherwise the machine's.
fn node() -> PathBuf {
    let own = common::clients_folder().join("node_modules/node/bin/node");
    if own.exists() { own } else { "node".into() }
}

#[test]
fn redis_py() {
    if have_client("python/bin/python") {
        drive("redis_py.py", common::clients_folder().join("python/bin/python"));
    }
}

#[test]
fn node_redis() {
    if have_client("node_modules/redis") {
        drive("node_redis.mjs", node());
    }
}

#[test]
fn ioredis() {
    if have_client("node_modules/ioredis") {
        drive("ioredis.mjs", node());
    }
}

/// The lines of a reply to `HELLO 3`: a map of four texts, two numbers and an empty list.
fn hello_reply(wire: &mut common::Wire) -> Vec<String> {
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
    let id = |wire: &mut common::Wire| {
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
    assert!(wire.line().starts_with("-NOAUTH HELLO must be called with the client already authenticated"));
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

/// Clients read the rows of `COMMAND` by position: ten fields each, and help texts for the hints.
#[test]
fn the_command_table_as_clients_read_it() {
    let server = Server::start(&[]);
    for version in ["resp2", "resp3"] {
        let mut connection = crate_connection(&server, "", version).expect("connects");
        let rows: Vec<Vec<Value>> = redis::cmd("COMMAND").query(&mut connection).expect("rows");
        let count: usize = redis::cmd("COMMAND").arg("COUNT").query(&mut connection).expect("a number");
        assert_eq!(rows.len(), count);
        assert!(rows.iter().all(|row| row.len() == 10), "{rows:?}");
        let docs: Value = redis::cmd("COMMAND").arg(&["DOCS", "MSET"]).query(&mut connection).expect("docs");
        assert!(common::short(&docs).contains("mset"), "{docs:?}");
    }
}
