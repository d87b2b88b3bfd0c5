//! A real Redis, to compare with.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use super::Program;
use super::cluster::free_port;

/// A real `redis-server` on a free port; killed when dropped.
#[derive(Debug)]
pub struct Redis {
    pub port: u16,
    _program: Program,
    _folder: tempfile::TempDir,
}

impl Redis {
    pub fn start() -> Redis {
        let folder = tempfile::tempdir().unwrap();
        // It cannot pick one itself.
        let port = free_port();
        let mut command = Command::new("redis-server");
        command.args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--port",
            &port.to_string(),
        ]);
        let program =
            Program(command.current_dir(folder.path()).stdout(Stdio::null()).spawn().unwrap());
        super::poll("Redis answers", || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.write_all(b"PING\r\n").ok()?;
            let mut reply = [0; 7];
            stream.read_exact(&mut reply).ok()?;
            (reply == *b"+PONG\r\n").then_some(())
        });
        Redis { port, _program: program, _folder: folder }
    }
}
