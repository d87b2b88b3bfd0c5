//! A slow path to a server: a proxy that lets so many bytes through in a second.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Bytes that the path takes at a time: a twentieth of a second, so that it flows.
const PIECES: u64 = 20;

/// A port that leads to a server, slowly in its direction; closed when dropped.
#[derive(Debug)]
pub struct SlowPath {
    pub port: u16,
    is_over: Arc<AtomicBool>,
}

impl SlowPath {
    pub fn to(target: u16, bytes_a_second: u64) -> SlowPath {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let path =
            SlowPath { port: listener.local_addr().unwrap().port(), is_over: Arc::default() };
        let is_over = Arc::clone(&path.is_over);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
                    continue;
                };
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || carry(client, server, Some(bytes_a_second)));
                thread::spawn(move || carry(back.0, back.1, None));
            }
        });
        path
    }

    /// `localhost:port`.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

impl Drop for SlowPath {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, bytes_a_second: Option<u64>) {
    let mut piece = vec![0; bytes_a_second.map_or(65_536, |rate| (rate / PIECES).max(1)) as usize];
    while let Ok(len @ 1..) = from.read(&mut piece) {
        if let Some(rate) = bytes_a_second {
            thread::sleep(Duration::from_micros(1_000_000 * len as u64 / rate));
        }
        if to.write_all(&piece[..len]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
