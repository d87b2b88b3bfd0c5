//! Where a reader works: a folder with the scripts, terminals, and the servers that run in them.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::common::{self, Program, quoted, repository};
use super::document::{Section, Step, Terminal};
use super::matching::is_same;

/// The fields are dropped in this order.
pub struct Room {
    servers: Vec<Server>,
    namespace: Option<Namespace>,
    /// Free ports for the README's, where there is no private network.
    ports: Vec<(&'static str, String)>,
    folder: tempfile::TempDir,
}

/// Private namespaces: user, network, processes.
struct Namespace {
    /// When it ends, the first process of a process namespace takes the others with it.
    _unshare: Program,
    /// The id of that process.
    pid: u32,
}

/// A server, and the terminal that it keeps.
struct Server {
    terminal: Terminal,
    shown: common::Terminal,
}

const PORTS: [&str; 5] = ["8080", "8081", "8082", "9000", "9001"];
/// What takes the place of `run_server.sh` with other ports: those that look for each other by
/// themselves, and with --raft those that join the first.
const PEERS: &str = "case ${1:-}${2:-} in
    PORT0--raft) ;;
    PORT1--raft | PORT2--raft) export KVSTORE_PEER=localhost:PORT0 ;;
    PORT0*) export KVSTORE_PEER=localhost:PORT1,localhost:PORT2 ;;
    PORT1*) export KVSTORE_PEER=localhost:PORT0,localhost:PORT2 ;;
    PORT2*) export KVSTORE_PEER=localhost:PORT0,localhost:PORT1 ;;
esac";

/// Free ports in place of the README's: others, of four digits too, so that columns stay where they
/// are.
fn free_ports() -> Vec<(&'static str, String)> {
    let free_port = || common::cluster::free_port_in(5_000..10_000).to_string();
    let mut ports =
        std::iter::repeat_with(free_port).filter(|port| !PORTS.contains(&port.as_str()));
    PORTS.iter().map(|port| (*port, ports.next().expect("there is no end"))).collect()
}

impl Room {
    pub fn new() -> Room {
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

    /// Does what the section says. At its end no server runs any more.
    pub fn work_through(&mut self, section: &Section) {
        for step in &section.steps {
            match step {
                Step::Type { terminal, command, expected } => {
                    let command = self.localized(command);
                    let expected = expected.iter().map(|line| self.localized(line)).collect();
                    self.type_line(*terminal, &command, expected);
                }
                Step::StopServers => self.stop_servers(),
            }
        }
        common::poll(&format!("{}: a step stops each server", section.heading), || {
            (self.forget_ended_servers() == 0).then_some(())
        });
    }

    /// The README's text as it is meant here.
    fn localized(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_string(), |text, (port, free)| text.replace(port, free))
    }

    /// A shell command that does `command` in this room, in the shell that the pages mean.
    fn entered(&self, command: &str) -> String {
        let folder = quoted(self.folder.path().display());
        let typed = format!("bash -c {}", quoted(format!("cd {folder} && {command}")));
        match &self.namespace {
            Some(Namespace { pid, .. }) => {
                format!("exec nsenter -t {pid} -U -n -p -m --preserve-credentials {typed}")
            }
            None => format!("exec {typed}"),
        }
    }

    fn type_line(&mut self, terminal: Terminal, command: &str, expected: Vec<String>) {
        eprintln!("$ {command}");
        let is_server = expected.iter().any(|line| line.starts_with("Server started on port "));
        let is_own = terminal == Terminal::Own;
        assert_ne!(is_server, is_own, "{command}: servers, and nothing else, take a numbered one");
        if is_server {
            self.start_server(terminal, command, &expected);
        } else if expected.iter().any(|line| line.starts_with("> ")) {
            self.type_at_prompt(command, &expected);
        } else {
            self.run_to_its_end(command, &expected);
        }
    }

    fn run_to_its_end(&self, command: &str, expected: &[String]) {
        let entered = self.entered(&format!("{{ {command}\n}}"));
        let only_looks = ["sleep ", "grep "].iter().any(|start| command.starts_with(start));
        let start = Instant::now();
        loop {
            let shown = common::Terminal::start(&entered).finish();
            if !only_looks || start.elapsed() > common::SOON || is_same(&shown, expected) {
                return same(command, &shown, expected);
            }
        }
    }

    fn start_server(&mut self, terminal: Terminal, command: &str, expected: &[String]) {
        common::poll(&format!("{command}: no server runs in {terminal:?}"), || {
            self.forget_ended_servers();
            (!self.is_taken(terminal)).then_some(())
        });
        let mut shown = common::Terminal::start(&self.entered(&format!("exec env {command}")));
        shown.wait_for(&format!("{}\n", expected.last().expect("not empty")));
        // The README's machine lets a server take all connections that it may; this one says if it
        // does not.
        let is_of_this_machine = |line: &&str| line.contains(" connections instead of ");
        let lines = shown.shown.split_inclusive('\n').filter(|line| !is_of_this_machine(line));
        same(command, &lines.collect::<String>(), expected);
        self.servers.push(Server { terminal, shown });
    }

    fn is_taken(&self, terminal: Terminal) -> bool {
        self.servers.iter().any(|server| server.terminal == terminal)
    }

    /// How many servers still run.
    fn forget_ended_servers(&mut self) -> usize {
        self.servers.retain_mut(|server| server.shown.is_running());
        self.servers.len()
    }

    fn stop_servers(&mut self) {
        for mut server in std::mem::take(&mut self.servers) {
            // One that the page has killed needs no Ctrl-C.
            if server.shown.is_running() {
                server.shown.type_keys("\x03");
            }
            server.shown.finish();
        }
    }

    fn type_at_prompt(&self, command: &str, expected: &[String]) {
        let mut terminal = common::Terminal::start(&self.entered(command));
        for typed in expected.iter().filter_map(|line| line.strip_prefix("> ")) {
            terminal.wait_for("\n> ");
            terminal.type_line(typed);
        }
        same(command, &terminal.finish(), expected);
    }
}

/// `None` where namespaces cannot be made.
fn namespace() -> Option<Namespace> {
    let mut unshare = Command::new("unshare");
    unshare.args([
        "-rnpmf",
        "--mount-proc",
        "--kill-child",
        "sh",
        "-c",
        "ip link set lo up && echo ready && exec sleep 600",
    ]);
    let unshare = unshare.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let mut unshare = Program(unshare);
    let mut ready = String::new();
    let stdout = unshare.0.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut ready).ok()?;
    if ready != "ready\n" {
        return None;
    }
    let children =
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", unshare.0.id())).ok()?;
    let pid = children.split_whitespace().next()?.parse().ok()?;
    Some(Namespace { _unshare: unshare, pid })
}

#[track_caller]
fn same(command: &str, shown: &str, expected: &[String]) {
    assert!(
        is_same(shown, expected),
        "$ {command}\n--- printed\n{shown}\n--- the page says\n{}",
        expected.join("\n")
    );
}
