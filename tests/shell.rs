//! The command line as a person or a script uses it: prompt, pipe, one-shot, options, scripts.

mod common;

use common::{Output, Server, Terminal, binary, quoted, repository, run};
use std::process::Command;

fn client(port: u16, words: &[&str], input: &str) -> Output {
    let mut command = Command::new(binary());
    command.args(["client", "localhost", &port.to_string()]).args(words);
    run(&mut command, input)
}

fn said(stdout: &str, stderr: &str, code: i32) -> Output {
    Output { stdout: stdout.into(), stderr: stderr.into(), code: Some(code) }
}

#[test]
fn the_prompt_is_the_originals() {
    if !common::have("script", "bsdutils") {
        return;
    }
    let server = Server::start(&[]);
    let mut terminal = Terminal::start(&format!(
        "{} client localhost {}",
        quoted(binary().display()),
        server.port
    ));
    for line in [
        "PUT name Dylan",
        "PUT age 25",
        "get name",
        "GET age",
        "DELETE name",
        "GET name",
        "PUT k",
        "GET",
        "DELETE a b",
        "jump high",
        "",
        "PUT esc a\\b  c ",
        "GET esc",
        "STRLEN esc",
        "EXIT",
    ] {
        terminal.wait_for("\n> ");
        terminal.type_line(line);
    }
    let expected = format!(
        "Connected to server at localhost:{}
Commands: PUT <key> <value>, GET <key>, DELETE <key>, QUIT
> PUT name Dylan
Response: OK
> PUT age 25
Response: OK
> get name
Value: Dylan
> GET age
Value: 25
> DELETE name
Response: OK
> GET name
Value: NOT_FOUND
> PUT k
Usage: PUT <key> <value>
> GET
Usage: GET <key>
> DELETE a b
Usage: DELETE <key>
> jump high
Unknown command: JUMP
> 
> PUT esc a\\b  c 
Response: OK
> GET esc
Value: a\\b  c 
> STRLEN esc
Response: 7
> EXIT
Goodbye!
",
        server.port
    );
    assert_eq!(terminal.finish(), expected);
}

#[test]
fn a_pipe_gets_no_banner_and_no_prompt() {
    let server = Server::start(&[]);
    let all_worked =
        client(server.port, &[], "PUT k a value\r\nGET k\nGET miss\nQUIT\nPUT after quit\n");
    assert_eq!(all_worked, said("Response: OK\nValue: a value\nValue: NOT_FOUND\n", "", 0));
    for (input, stdout, stderr) in [
        ("GET\nGET k", "Usage: GET <key>\nValue: a value\n", ""),
        ("JUMP\n", "Unknown command: JUMP\n", ""),
        (
            "SET k a b\n",
            "",
            "Error: syntax error: SET has no option 'b' here, nothing was changed\n",
        ),
    ] {
        assert_eq!(client(server.port, &[], input), said(stdout, stderr, 1), "{input:?}");
    }
    assert_eq!(client(server.port, &[], ""), said("", "", 0));
}

#[test]
fn control_characters_are_shown_escaped() {
    let server = Server::start(&[]);
    server.connect().ask(common::resp(&[b"SET", b"k", b"\x1b[2J\n\xff"]), "+OK\r\n");
    assert_eq!(client(server.port, &[], "GET k\n").stdout, "Value: \\u{1b}[2J\\n\\xff\n");
}

#[test]
fn one_command_prints_the_bare_result() {
    let server = Server::start(&[]);
    assert_eq!(
        client(server.port, &["PUT", "k", "--also", "two", "words"], ""),
        said("OK\n", "", 0)
    );
    assert_eq!(client(server.port, &["GET", "k"], ""), said("--also two words\n", "", 0));
    assert_eq!(client(server.port, &["get", "miss"], ""), said("", "NOT_FOUND\n", 1));
    assert_eq!(client(server.port, &["DELETE", "miss"], ""), said("OK\n", "", 0));
    assert_eq!(client(server.port, &["PUT", "dash", "-5"], ""), said("OK\n", "", 0));
    assert_eq!(
        client(server.port, &["MGET", "k", "miss", "dash"], ""),
        said("--also two words\nNOT_FOUND\n-5\n", "", 0)
    );
    assert_eq!(client(server.port, &["DBSIZE"], ""), said("2\n", "", 0));
    let wrong = client(server.port, &["JUMP"], "");
    assert_eq!((wrong.stdout.as_str(), wrong.code), ("", Some(1)));
    assert!(wrong.stderr.starts_with("Error: unknown command 'JUMP'"), "{}", wrong.stderr);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let server = Server::start(&[]);
    let pipeline = format!(
        "{} client localhost {} HELLO 3 | head -n 1",
        quoted(binary().display()),
        server.port
    );
    let output = run(Command::new("bash").args(["-o", "pipefail", "-c", &pipeline]), "");
    assert_eq!(output, said("server\n", "", 0));
}

#[test]
fn a_password_comes_from_a_file_or_the_environment() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "secret word\n").expect("written");
    let file = file.to_str().expect("text");
    let server = Server::start(&["--password-file", file]);
    assert_eq!(client(server.port, &["GET", "k"], "").code, Some(1));
    assert_eq!(
        client(server.port, &["DBSIZE"], "").stderr,
        "Error: Authentication required. Give it with --password-file FILE or KVSTORE_PASSWORD.\n"
    );
    let mut with_file = Command::new(binary());
    with_file.args([
        "client",
        "--password-file",
        file,
        "localhost",
        &server.port.to_string(),
        "DBSIZE",
    ]);
    assert_eq!(run(&mut with_file, ""), said("0\n", "", 0));
    let ask = |password: &str| {
        let mut command = Command::new(binary());
        command
            .args(["client", "localhost", &server.port.to_string(), "DBSIZE"])
            .env("KVSTORE_PASSWORD", password);
        run(&mut command, "")
    };
    assert_eq!(ask("secret word"), said("0\n", "", 0));
    let wrong = ask("wrong");
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("did not take the password"), "{}", wrong.stderr);
}

#[test]
fn options_come_from_the_environment_too_and_empty_is_unset() {
    let server = Server::start_on(
        0,
        &[],
        &[
            ("KVSTORE_MAX_CONNECTIONS", "7"),
            ("KVSTORE_BIND", ""),
            ("KVSTORE_PORT", "tcp://10.0.0.1:80"),
        ],
    );
    let settings = client(server.port, &["CONFIG", "GET", "maxclients"], "");
    assert_eq!(settings.stdout, "maxclients\n7\n");
    for value in ["1", "true", "0", "false"] {
        let server = Server::start_on(0, &[], &[("KVSTORE_INSECURE", value)]);
        server.connect().ask("PING\n", "PONG\n");
    }
}

#[test]
fn wrong_options_exit_with_2_and_say_the_way_out() {
    let server = |arguments: &[&str]| run(Command::new(binary()).arg("server").args(arguments), "");
    for (arguments, way_out) in [
        (&["0", "--bind", "0.0.0.0"][..], "--password-file FILE"),
        (&["0", "--bind", "nonsense"], "try 127.0.0.1"),
        (&["70000"], "70000"),
        (&["0", "--max-connections", "0"], "--max-connections"),
        (&["0", "--password-file", "/nonexistent"], "cannot read the password file /nonexistent"),
        (&["0", "--no-such-option"], "--no-such-option"),
    ] {
        let output = server(arguments);
        assert_eq!(output.code, Some(2), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(way_out), "{arguments:?}: {}", output.stderr);
    }
    assert_eq!(run(&mut Command::new(binary()), "").code, Some(2));
}

#[test]
fn a_taken_port_is_said_with_a_way_out() {
    let server = Server::start(&[]);
    let output = run(Command::new(binary()).args(["server", &server.port.to_string()]), "");
    let expected = format!(
        "Error starting server: port {0} is in use; try another, such as {1}, or stop what \
         listens there\n",
        server.port,
        server.port + 1
    );
    assert_eq!((output.code, output.stderr.as_str()), (Some(1), expected.as_str()));
}

#[test]
fn nobody_there_is_said_with_a_way_out() {
    let port = Server::start(&[]).port; // Dropped at once, so nobody listens there now.
    let output = client(port, &["PING"], "");
    assert_eq!(output.code, Some(1));
    assert!(
        output.stderr.starts_with(&format!("Error: cannot connect to localhost:{port}: ")),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("./run_server.sh"), "{}", output.stderr);
}

#[test]
fn the_scripts_work_from_any_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut start = Command::new(repository().join("run_server.sh"));
    start.arg("0").current_dir(folder.path());
    let server = Server::spawn(start).expect("it starts");
    let mut ask = Command::new(repository().join("run_client.sh"));
    ask.args(["localhost", &server.port.to_string(), "PUT", "k", "two words"])
        .current_dir(folder.path());
    assert_eq!(run(&mut ask, ""), said("OK\n", "", 0));
    let mut ask = Command::new(repository().join("run_client.sh"));
    ask.args(["localhost", &server.port.to_string()]).current_dir(folder.path());
    assert_eq!(run(&mut ask, "GET k\n"), said("Value: two words\n", "", 0));
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("listed").count(),
        0,
        "nothing is left behind"
    );
    for script in SCRIPTS {
        let text = std::fs::read_to_string(repository().join(script)).expect("a script");
        assert!(text.lines().count() < 30, "{script} is short");
    }
}

const SCRIPTS: [&str; 2] = ["run_server.sh", "run_client.sh"];

/// A folder of programs that a script finds first, or finds alone.
struct Programs(tempfile::TempDir);

impl Programs {
    /// Programs that do what a line of shell says.
    fn fake(programs: &[(&str, &str)]) -> Programs {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, script) in programs {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .expect("executable");
        }
        Programs(folder)
    }

    fn path_before_all(&self) -> String {
        format!("{}:{}", self.0.path().display(), std::env::var("PATH").expect("a path"))
    }

    /// Adds these programs of the machine: nothing else is found then.
    fn path_with(&self, programs: &[&str]) -> &std::path::Path {
        let path = std::env::var_os("PATH").expect("a path");
        for program in programs {
            let mut folders = std::env::split_paths(&path);
            let found =
                folders.find_map(|folder| Some(folder.join(program)).filter(|file| file.is_file()));
            std::os::unix::fs::symlink(
                found.expect("in every system"),
                self.0.path().join(program),
            )
            .expect("linked");
        }
        self.0.path()
    }
}

#[test]
fn a_script_works_through_a_symbolic_link() {
    let folder = tempfile::tempdir().expect("a folder");
    let [server, client] = SCRIPTS.map(|script| {
        // A link to a link, the second one relative.
        let (near, far) = (folder.path().join(script), folder.path().join(format!("far_{script}")));
        std::os::unix::fs::symlink(repository().join(script), &far).expect("linked");
        std::os::unix::fs::symlink(format!("far_{script}"), &near).expect("linked");
        near
    });
    let mut start = Command::new(server);
    start.arg("0").current_dir("/");
    let server = Server::spawn(start).expect("it starts");
    let mut ask = Command::new(client);
    ask.args(["localhost", &server.port.to_string(), "PING"]).current_dir("/");
    assert_eq!(run(&mut ask, ""), said("PONG\n", "", 0));
}

#[test]
fn a_script_says_that_it_needs_bash() {
    if run(Command::new("sh").args(["-c", "echo ${BASH_VERSION:-}"]), "").stdout != "\n" {
        return; // `sh` is bash here, and runs the scripts.
    }
    for script in SCRIPTS {
        let mut shell = Command::new("sh");
        shell.current_dir(repository()).args([script, "localhost", "8080"]);
        let expected =
            format!("{script} is a script for bash, so type: bash {script} localhost 8080\n");
        assert_eq!(run(&mut shell, ""), said("", &expected, 2));
    }
}

#[test]
fn a_script_says_in_a_line_what_is_missing_or_too_old() {
    let base = ["bash", "dirname", "readlink", "sed"];
    let tell = |programs: &[(&str, &str)]| {
        let programs = Programs::fake(programs);
        let path = programs.path_with(&base);
        let [server, client] = SCRIPTS.map(|script| {
            run(Command::new(repository().join(script)).arg("0").env("PATH", path), "")
        });
        assert_eq!(server, client);
        assert_eq!((server.stdout.as_str(), server.code), ("", Some(1)), "{}", server.stderr);
        server.stderr
    };
    let is_missing = "is missing: install Rust (https://rustup.rs) and a C linker \
                      (Debian: apt install build-essential)";
    assert_eq!(tell(&[]), format!("cargo {is_missing}\n"));
    assert_eq!(tell(&[("cargo", "echo cargo 1.99.0")]), format!("cc {is_missing}\n"));
    let toml = std::fs::read_to_string(repository().join("Cargo.toml")).expect("a manifest");
    let needed = toml
        .split("rust-version = \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .expect("a version");
    for old in ["cargo 1.65.0", "cargo 0.66.0", "cargo 1.85.1 (d73d2caf9 2024-12-31)"] {
        let expected = format!(
            "{old} is too old, Rust {needed} is needed: rustup update, or install Rust from \
             https://rustup.rs\n"
        );
        assert_eq!(tell(&[("cargo", &format!("echo '{old}'")), ("cc", "")]), expected);
    }
}

#[test]
fn a_new_cargo_is_not_too_old() {
    for new in
        ["cargo 1.89.0", "cargo 1.100.0-nightly (abc 2026-01-01)", "cargo 2.0.0", "something else"]
    {
        let programs = Programs::fake(&[(
            "cargo",
            &format!("[ \"$1\" = --version ] && echo '{new}' || echo ran"),
        )]);
        let mut script = Command::new(repository().join("run_server.sh"));
        assert_eq!(
            run(script.env("PATH", programs.path_before_all()), ""),
            said("ran\n", "", 0),
            "{new}"
        );
    }
}

#[test]
fn the_client_script_edits_lines_for_a_person_only() {
    if !common::have("script", "bsdutils") {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let cargo = "case $1 in --version) echo cargo 1.99.0 ;; run) echo plain ;; esac";
    let programs = Programs::fake(&[("cargo", cargo), ("rlwrap", "echo edited")]);
    let at_a_terminal = |variables: &str, words: &str| {
        let script = quoted(repository().join("run_client.sh").display());
        let path = quoted(programs.path_before_all());
        Terminal::start(&format!("env {variables} PATH={path} {script} {words}")).finish()
    };
    let person = "TERM=vt100";
    for (variables, words, shown) in [
        (person, format!("localhost {port}"), "edited\n"),
        (person, format!("--also=localhost:1 localhost {port}"), "edited\n"),
        (person, format!("--also localhost:1 --password-file file localhost {port}"), "edited\n"),
        (person, format!("localhost {port} GET k"), "plain\n"),
        (person, format!("--also localhost:1 localhost {port} PING"), "plain\n"),
        ("TERM=dumb", format!("localhost {port}"), "plain\n"),
    ] {
        assert_eq!(at_a_terminal(variables, &words), shown, "{variables} {words}");
    }
    let mut piped = Command::new(repository().join("run_client.sh"));
    piped
        .args(["localhost", &port.to_string()])
        .env("PATH", programs.path_before_all())
        .env("TERM", "vt100");
    assert_eq!(run(&mut piped, ""), said("plain\n", "", 0));
}

#[test]
fn the_server_script_raises_the_descriptor_limit() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -S -n 256 && exec \"$0\" 0"]).arg(repository().join("run_server.sh"));
    let server = Server::spawn(shell).expect("it starts");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).expect("Linux");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers[0], numbers[1].min(65_536), "{line}");
}

#[test]
fn the_client_script_waits_for_a_server_that_is_starting() {
    let port = Server::start(&[]).port;
    let ask = std::thread::spawn(move || {
        let mut ask = Command::new(repository().join("run_client.sh"));
        run(ask.args(["localhost", &port.to_string(), "PING"]), "")
    });
    std::thread::sleep(std::time::Duration::from_millis(700)); // The server is late.
    let _server = Server::start_on(port, &[], &[]);
    assert_eq!(ask.join().expect("it ran"), said("PONG\n", "", 0));
}
