//! Redis's own tools and the `redis` crate, against a server of its own each, with and without a
//! password.

mod common;

use common::clients::{PASSWORD, limited, server_with_password};
use common::{Output, Server, have, resp, run};
use redis::{RedisResult, Value};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

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
fn crate_connection(
    server: &Server,
    password: &str,
    version: &str,
) -> RedisResult<redis::Connection> {
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
    let found: Vec<Option<String>> =
        redis::cmd("MGET").arg(&["name", "nobody"]).query(connection)?;
    assert_eq!(found, [Some("Dylan".into()), None]);
    let keys: Vec<String> = connection.scan()?.collect::<RedisResult<_>>()?;
    assert_eq!(keys, ["name"]);

    let mut pipeline = redis::pipe();
    for number in 0..1000 {
        pipeline.set(number, number).ignore().get(number);
    }
    let numbers: Vec<usize> = pipeline.query(connection)?;
    assert_eq!(numbers, Vec::from_iter(0..1000));

    // A transaction fails and changes nothing; the connection goes on.
    let mut transaction = redis::pipe();
    transaction.cmd("MULTI").set("never", "x").del("name");
    let error = transaction.cmd("EXEC").exec(connection).expect_err("no transactions");
    assert_eq!(error.code(), Some("EXECABORT"), "{error}");
    // The crate's own form fails as well, and hides the server's words.
    redis::pipe().atomic().set("never", "x").exec(connection).expect_err("no transactions");
    assert_eq!(connection.get("never")?, None);
    assert_eq!(connection.del(&["name", "nobody"])?, 1);
    Ok(())
}

/// Clients read the rows of `COMMAND` by position: ten fields each, and help texts for the hints.
#[test]
fn the_command_table_as_clients_read_it() {
    let server = Server::start(&[]);
    for version in ["resp2", "resp3"] {
        let mut connection = crate_connection(&server, "", version).expect("connects");
        let rows: Vec<Vec<Value>> = redis::cmd("COMMAND").query(&mut connection).expect("rows");
        let count: usize =
            redis::cmd("COMMAND").arg("COUNT").query(&mut connection).expect("a number");
        assert_eq!(rows.len(), count);
        assert!(rows.iter().all(|row| row.len() == 10), "{rows:?}");
        let docs: Value =
            redis::cmd("COMMAND").arg(&["DOCS", "MSET"]).query(&mut connection).expect("docs");
        assert!(common::short(&docs).contains("mset"), "{docs:?}");
    }
}
