//! HAProxy in front of nodes: its checks see which of them serve, and requests of both kinds pass
//! through it.

mod common;

use common::{Program, Server, have, poll, run};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// An HAProxy with its sockets in a folder of its own, so that it takes no port; killed when
/// dropped.
struct HaProxy {
    folder: TempDir,
    _program: Program,
}

impl HaProxy {
    /// Two proxies before these nodes: `redis` asks `PING`, `http` asks `/readyz` by a name that no
    /// node knows.
    fn start(ports: &[u16]) -> HaProxy {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut text = format!(
            "global\n stats socket \"{}\" mode 600\n\
             defaults\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n \
              default-server inter 100ms rise 1 fall 2\n",
            at("stats")
        );
        for (name, mode, check) in [
            ("redis", "tcp", "option redis-check"),
            ("http", "http", "option httpchk GET /readyz"),
            (
                "named",
                "http",
                "option httpchk\n http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host \
                 kvstore.internal",
            ),
        ] {
            let bind = at(name);
            write!(text, "listen {name}\n mode {mode}\n bind \"unix@{bind}\"\n {check}\n")
                .expect("memory");
            for (number, port) in ports.iter().enumerate() {
                writeln!(text, " server node{number} 127.0.0.1:{port} check").expect("memory");
            }
        }
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).expect("written");
        // It says here what is wrong with the file.
        let checked = run(Command::new("haproxy").arg("-c").arg("-f").arg(&file), "");
        assert_eq!(checked.code, Some(0), "{checked:?}");
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let program = Program(command.spawn().expect("haproxy runs"));
        poll("HAProxy accepts", || UnixStream::connect(folder.path().join("stats")).ok());
        HaProxy { folder, _program: program }
    }

    /// What a connection through `proxy` answers, to its end.
    fn ask(&self, proxy: &str, request: &str) -> String {
        exchange(&self.folder.path().join(proxy), request)
    }

    /// Waits until the checks of every proxy say so of a node.
    #[track_caller]
    fn wait_until(&self, node: &str, state: &str) {
        poll(&format!("{node} is {state}"), || {
            let table = self.ask("stats", "show stat\n");
            let rows: Vec<Vec<&str>> =
                table.lines().map(|line| line.split(',').collect()).collect();
            let column = rows.first()?.iter().position(|name| *name == "status")?;
            let found: Vec<&str> = rows
                .iter()
                .filter(|row| row.get(1) == Some(&node))
                .map(|row| row[column])
                .collect();
            // While the first check runs, a server counts as up, and its state has more words.
            (found.len() == 3 && found.iter().all(|status| *status == state)).then_some(())
        });
    }
}

fn exchange(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("HAProxy accepts");
    stream.set_read_timeout(Some(common::SOON)).expect("a limit");
    stream.write_all(request.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text to the end");
    answer
}

#[test]
fn checks_see_which_nodes_serve_and_requests_pass_through() {
    if !have("haproxy", "haproxy") {
        return;
    }
    let first = Server::start(&[]);
    let mut second = Server::start(&["--peer", &first.address()]);
    let proxy = HaProxy::start(&[first.port, second.port]);
    proxy.wait_until("node0", "UP");
    proxy.wait_until("node1", "UP");

    // The nodes' words, not HAProxy's: who is killed is seen, and nothing but the other is asked.
    second.kill();
    proxy.wait_until("node1", "DOWN");
    proxy.wait_until("node0", "UP");
    for _ in 0..4 {
        let answer =
            proxy.ask("redis", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*1\r\n$4\r\nQUIT\r\n");
        assert_eq!(answer, "+OK\r\n+OK\r\n");
        let answer = proxy
            .ask("http", "GET /keys/k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nv"),
            "{answer}"
        );
    }

    let _again = Server::start_on(second.port, &["--peer", &first.address()], &[]);
    proxy.wait_until("node1", "UP");
}

/// `PING` needs the password, so `redis-check` finds the node down, as it does with Redis;
/// `/readyz` does not.
#[test]
fn with_a_password_the_http_check_is_the_one_to_use() {
    if !have("haproxy", "haproxy") {
        return;
    }
    let server = common::clients::server_with_password();
    let proxy = HaProxy::start(&[server.port]);
    poll("the checks have run", || {
        let table = proxy.ask("stats", "show stat\n");
        let is = |proxy: &str, state: &str| {
            table.lines().any(|line| {
                line.starts_with(&format!("{proxy},node0,")) && line.contains(&format!(",{state},"))
            })
        };
        (is("redis", "DOWN") && is("http", "UP") && is("named", "UP")).then_some(())
    });
}
