//! The README is true: its console blocks are run as they stand, its tables are compared with the
//! source.
//!
//! A section (up to the next heading) is a room of its own: a private network and process namespace
//! where one can be made, otherwise free ports in place of the README's. A section that uses a
//! program which this machine lacks is skipped as a whole. Its blocks run in order:
//!
//! - A command that prints `Server started on port …` runs on to the end of the section.
//! - `$ command` is run by bash in an empty folder; what follows is what it prints.
//! - `$ sleep …` and `$ grep …` look at what comes about by itself: repeated until they print it.
//! - After `$ ./run_client.sh …` a line `> …` is typed at the prompt.
//!
//! In what is expected, `…` stands for anything within a line, and alone on a line for any lines.

mod common;

use common::{Server, Terminal, quoted, repository};
use kvstore::config::{Configuration, KEY_BYTES_MAX, Limits, VALUE_BYTES_MAX};
use kvstore::protocol::UNAUTHENTICATED_ELEMENTS_MAX;
use kvstore::protocol::command::TABLE;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

fn readme() -> String {
    std::fs::read_to_string(repository().join("README.md")).expect("a README")
}

/// The console blocks of each section, with its heading.
fn sections(text: &str) -> Vec<(String, Vec<String>)> {
    let mut sections = vec![(String::new(), Vec::new())];
    let mut block: Option<String> = None;
    let mut in_other_block = false;
    for line in text.lines() {
        match (&mut block, line) {
            (Some(_), "```") => sections.last_mut().expect("one").1.extend(block.take()),
            (Some(block), line) => *block += &format!("{line}\n"),
            (None, "```console") => block = Some(String::new()),
            (None, line) if line.starts_with("```") => in_other_block = !in_other_block,
            (None, line) if line.starts_with('#') && !in_other_block => {
                sections.push((line.to_string(), Vec::new()))
            }
            _ => {}
        }
    }
    sections.retain(|(_, blocks)| !blocks.is_empty());
    sections
}

/// A block's commands, each with what it is expected to print.
fn commands(block: &str) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push((command.to_string(), Vec::new())),
            None => {
                commands.last_mut().expect("a block starts with a command").1.push(line.to_string())
            }
        }
    }
    commands
}

/// Where a section runs.
struct Room {
    folder: tempfile::TempDir,
    /// The first process of the namespaces, if there are any, and its id.
    namespace: Option<(Child, u32)>,
    /// Free ports for the README's, where there is no private network.
    ports: Vec<(&'static str, String)>,
    servers: Vec<Server>,
}

/// Programs that the README uses and a machine may not have, with their Debian packages.
const PROGRAMS: [(&str, &str); 2] = [("redis-cli", "redis-tools"), ("curl", "curl")];
const PORTS: [&str; 5] = ["8080", "8081", "8082", "9000", "9001"];
/// What takes the place of `run_server.sh` with other ports: those that look for each other by
/// themselves.
const PEERS: &str = "case ${1:-} in
    PORT0) export KVSTORE_PEER=localhost:PORT1,localhost:PORT2 ;;
    PORT1) export KVSTORE_PEER=localhost:PORT0,localhost:PORT2 ;;
    PORT2) export KVSTORE_PEER=localhost:PORT0,localhost:PORT1 ;;
esac";

/// Whether this machine has the programs that a section uses; if not, says so.
fn has_programs(blocks: &[String]) -> bool {
    let words: Vec<&str> = blocks
        .iter()
        .flat_map(|block| block.lines())
        .filter_map(|line| line.strip_prefix("$ "))
        .collect();
    let is_used =
        |program: &str| words.iter().any(|line| line.split(' ').any(|word| word == program));
    let is_typed = blocks.iter().any(|block| block.contains("\n> "));
    PROGRAMS.iter().all(|(program, package)| !is_used(program) || common::have(program, package))
        && (!is_typed || common::have("script", "bsdutils"))
}

/// Free ports in place of the README's: others, of four digits too, so that columns stay where they
/// are.
fn free_ports() -> Vec<(&'static str, String)> {
    let free_port = || common::cluster::free_port_in(5_000..10_000).to_string();
    let mut ports =
        std::iter::repeat_with(free_port).filter(|port| !PORTS.contains(&port.as_str()));
    PORTS.iter().map(|port| (*port, ports.next().expect("there is no end"))).collect()
}

impl Room {
    fn new() -> Room {
        let folder = tempfile::tempdir().expect("a folder");
        let namespace = namespace();
        let ports = if namespace.is_some() { vec![] } else { free_ports() };
        let peers = (0..3).fold(PEERS.to_string(), |peers, index| {
            peers.replace(&format!("PORT{index}"), ports.get(index).map_or("", |(_, port)| port))
        });
        for (script, first) in
            [("run_server.sh", if ports.is_empty() { "" } else { &peers }), ("run_client.sh", "")]
        {
            let path = folder.path().join(script);
            let script = quoted(repository().join(script).display());
            std::fs::write(&path, format!("#!/usr/bin/env bash\n{first}\nexec {script} \"$@\"\n"))
                .expect("written");
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .expect("executable");
        }
        let release = folder.path().join("target").join("release");
        std::fs::create_dir_all(&release).expect("made");
        std::os::unix::fs::symlink(common::binary(), release.join("kvstore")).expect("linked");
        Room { folder, namespace, ports, servers: Vec::new() }
    }

    /// The README's text as it is meant here.
    fn localized(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_string(), |text, (port, free)| text.replace(port, free))
    }

    /// A shell command that enters this room first.
    fn entered(&self, command: &str) -> String {
        let command = format!("cd {} && {command}", quoted(self.folder.path().display()));
        match &self.namespace {
            Some((_, pid)) => {
                format!(
                    "exec nsenter -t {pid} -U -n -p -m --preserve-credentials bash -c {}",
                    quoted(command)
                )
            }
            None => command,
        }
    }

    fn run(&mut self, block: &str) {
        for (command, expected) in commands(&self.localized(block)) {
            if expected.iter().any(|line| line.starts_with("Server started on port ")) {
                self.start_server(&command, &expected);
            } else if expected.iter().any(|line| line.starts_with("> ")) {
                self.type_at_prompt(&command, &expected);
            } else {
                self.run_to_its_end(&command, &expected);
            }
        }
    }

    fn run_to_its_end(&self, command: &str, expected: &[String]) {
        let entered = self.entered(&format!("{{ {command}\n}} 2>&1"));
        let only_looks = ["sleep ", "grep "].iter().any(|start| command.starts_with(start));
        let start = Instant::now();
        loop {
            let shown = common::run(Command::new("bash").arg("-c").arg(&entered), "").stdout;
            if !only_looks || start.elapsed() > common::SOON || is_same(&shown, expected) {
                return same(command, &shown, expected);
            }
        }
    }

    fn start_server(&mut self, command: &str, expected: &[String]) {
        let mut bash = Command::new("bash");
        // As at a terminal: the log and the printed lines in one stream.
        bash.arg("-c").arg(self.entered(&format!("exec 2>&1 && exec env {command}")));
        let server = Server::spawn(bash).unwrap_or_else(|log| panic!("{command}: {log}"));
        // The README's machine lets a server take all connections that it may; this one says if it
        // does not.
        let is_of_this_machine = |line: &&str| line.contains(" connections instead of ");
        let printed = server.printed.split_inclusive('\n').filter(|line| !is_of_this_machine(line));
        same(command, &printed.collect::<String>(), expected);
        self.servers.push(server);
    }

    fn type_at_prompt(&self, command: &str, expected: &[String]) {
        let mut terminal = Terminal::start(&self.entered(command));
        for typed in expected.iter().filter_map(|line| line.strip_prefix("> ")) {
            terminal.wait_for("\n> ");
            terminal.type_line(typed);
        }
        same(command, &terminal.finish(), expected);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.servers.clear();
        if let Some((child, _)) = &mut self.namespace {
            // The first process of a process namespace takes the others with it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Private namespaces: user, network, processes. `None` where they cannot be made.
fn namespace() -> Option<(Child, u32)> {
    let mut unshare = Command::new("unshare");
    unshare.args([
        "-rnpmf",
        "--mount-proc",
        "--kill-child",
        "sh",
        "-c",
        "ip link set lo up && echo ready && exec sleep 600",
    ]);
    let mut child = unshare.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let mut ready = String::new();
    let stdout = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut ready).ok()?;
    if ready != "ready\n" {
        let _ = child.kill();
        let _ = child.wait();
        return None;
    }
    let children =
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).ok()?;
    let pid = children.split_whitespace().next()?.parse().ok()?;
    Some((child, pid))
}

#[track_caller]
fn same(command: &str, shown: &str, expected: &[String]) {
    assert!(
        is_same(shown, expected),
        "$ {command}\n--- printed\n{shown}\n--- the README says\n{}",
        expected.join("\n")
    );
}

fn is_same(shown: &str, expected: &[String]) -> bool {
    lines_match(expected, &shown.lines().collect::<Vec<&str>>())
}

/// Whether all lines are as expected; a line `…` stands for any number of lines.
fn lines_match(expected: &[String], lines: &[&str]) -> bool {
    match (expected, lines) {
        ([any, rest @ ..], _) if any == "…" => {
            (0..=lines.len()).any(|skipped| lines_match(rest, &lines[skipped..]))
        }
        ([first, rest @ ..], [line, lines @ ..]) => {
            matches(first, line) && lines_match(rest, lines)
        }
        (expected, lines) => expected.is_empty() && lines.is_empty(),
    }
}

/// Whether a line is as expected; `…` stands for anything.
fn matches(expected: &str, line: &str) -> bool {
    let pieces: Vec<&str> = expected.split('…').collect();
    let (first, rest) = pieces.split_first().expect("at least one piece");
    let Some(mut left) = line.strip_prefix(first) else {
        return false;
    };
    let Some((last, middle)) = rest.split_last() else {
        return left.is_empty();
    };
    for piece in middle {
        let Some(at) = left.find(piece) else {
            return false;
        };
        left = &left[at + piece.len()..];
    }
    left.ends_with(last)
}

#[test]
fn the_console_blocks_are_true() {
    common::binary();
    let text = readme();
    let (mut run, mut skipped) = (0, 0);
    for (heading, blocks) in sections(&text) {
        if !has_programs(&blocks) {
            skipped += blocks.len();
            continue;
        }
        let mut room = Room::new();
        for block in blocks {
            eprintln!("{heading}\n{block}");
            room.run(&block);
            run += 1;
        }
    }
    assert_eq!(run + skipped, text.matches("\n```console\n").count(), "every block was run");
    assert!(run > 0);
}

#[test]
fn the_command_table_is_the_sources() {
    let text = readme();
    for row in TABLE {
        let usage = format!("{} {}", row.name, row.arguments).trim_end().replace('|', "\\|");
        let line = text.lines().find(|line| line.starts_with(&format!("| `{usage}`")));
        let line = line.unwrap_or_else(|| panic!("the README has no row for `{usage}`"));
        let lines = if row.on_lines { "| yes |" } else { "| |" };
        assert!(line.contains(lines) && line.contains(row.summary), "{line}: {row:?}");
    }
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| `") && line.matches('|').count() >= 4)
        .count();
    assert!(rows >= TABLE.len());
}

#[test]
fn the_limits_table_is_the_sources() {
    let (text, limits) = (readme(), Limits::default());
    for figure in [
        format!("1 to {}", with_commas(KEY_BYTES_MAX)),
        format!("{} MiB", VALUE_BYTES_MAX >> 20),
        with_commas(limits.request_elements_max),
        with_commas(Configuration::default().connections_max),
        format!("{} MiB in all", limits.request_bytes_max >> 20),
        format!(
            "{} elements, {} KiB",
            UNAUTHENTICATED_ELEMENTS_MAX,
            limits.unauthenticated_bytes_max >> 10
        ),
        format!("{} s between two bytes", limits.partial_request_timeout.as_secs()),
        format!("{} s without progress", limits.write_timeout.as_secs()),
    ] {
        assert!(text.contains(&figure), "the README does not say '{figure}'");
    }
}

fn with_commas(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).expect("digits"))
        .collect();
    groups.join(",")
}

#[test]
fn files_named_in_the_readme_exist() {
    let text = readme();
    let mut named = 0;
    for word in text
        .split(['`', '(', ')', ' ', '\n'])
        .filter(|word| word.starts_with("src/") || word.starts_with("tests/"))
    {
        assert!(Path::new(repository()).join(word).exists(), "{word}");
        named += 1;
    }
    assert!(named > 10);
}

#[test]
fn wildcards_match_within_a_line() {
    assert!(matches("a … c", "a b c") && matches("…", "") && matches("x", "x"));
    assert!(!matches("a … c", "a b d") && !matches("x", "xy"));
}
