//! A connection under load: never blocks on a reply while the load is closed, and checks every
//! byte that comes back.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::requests::Kind;
use crate::client::{CONNECT_TIMEOUT, cannot_connect, encode, foreign, is_reply, open, with_hint};
use crate::error::{Error, Result};

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;

pub(super) struct Connection {
    /// Of the server, as it was typed.
    address: String,
    pub(super) stream: TcpStream,
    /// How long the server may say nothing.
    silence_timeout: Duration,
    /// When bytes last went either way.
    heard: Instant,
    /// To be sent.
    pub(super) requests: Vec<u8>,
    /// The requests whose replies are not all there.
    pub(super) under_way: Option<UnderWay>,
    /// Bytes of their replies that are there.
    received: usize,
}

/// A pipeline of requests.
#[derive(Clone, Copy)]
pub(super) struct UnderWay {
    pub(super) due: Instant,
    pub(super) kind: Kind,
}

impl Connection {
    /// Connects, and authenticates where there is a password.
    pub(super) fn open(
        address: &str,
        password: Option<&[u8]>,
        silence_timeout: Duration,
    ) -> Result<Self> {
        let stream = open(address, CONNECT_TIMEOUT.min(silence_timeout), silence_timeout);
        let stream = stream.map_err(|error| cannot_connect(&[(address.into(), error)]))?;
        stream.set_read_timeout(Some(silence_timeout))?;
        let mut connection = Connection {
            address: address.into(),
            stream,
            silence_timeout,
            heard: Instant::now(),
            requests: Vec::new(),
            under_way: None,
            received: 0,
        };
        if let Some(password) = password {
            connection.requests = encode(&[b"AUTH", password]);
            connection.send()?;
            connection.receive(b"+OK\r\n")?;
        }
        Ok(connection)
    }

    /// Sends the requests; may block only where the stream does.
    pub(super) fn send(&mut self) -> Result<()> {
        let mut rest = self.requests.as_slice();
        self.heard = Instant::now();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(len) => {
                    rest = &rest[len..];
                    self.heard = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.check_silence("takes no requests")?;
                    thread::yield_now();
                }
                Err(error) => return Err(self.lost(&error)),
            }
        }
        self.requests.clear();
        Ok(())
    }

    fn check_silence(&self, what: &str) -> Result<()> {
        if self.heard.elapsed() < self.silence_timeout {
            return Ok(());
        }
        let (address, seconds) = (&self.address, self.silence_timeout.as_secs());
        Err(Error::Unreachable(format!(
            "{address} {what} for {seconds} s; is it a kvstore or Redis server?"
        )))
    }

    fn lost(&self, error: &io::Error) -> Error {
        Error::Unreachable(format!("connection to {} lost: {error}", self.address))
    }

    /// Reads what has arrived of `expected`; whether that was the rest of it.
    pub(super) fn receive(&mut self, expected: &[u8]) -> Result<bool> {
        let mut bytes = [0; READ_BYTES];
        while self.received < expected.len() {
            let len = match self.stream.read(&mut bytes) {
                Ok(0) => {
                    return Err(Error::Unreachable(format!(
                        "{} closed a connection",
                        self.address
                    )));
                }
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.check_silence("is silent")?;
                    if self.under_way.is_some() {
                        return Ok(false);
                    }
                    continue;
                }
                Err(error) => return Err(self.lost(&error)),
            };
            self.heard = Instant::now();
            if expected.get(self.received..self.received + len) != Some(&bytes[..len]) {
                return Err(self.unexpected(&bytes[..len]));
            }
            self.received += len;
        }
        self.received = 0;
        Ok(true)
    }

    /// The error for a reply that is not the expected one.
    fn unexpected(&self, bytes: &[u8]) -> Error {
        let address = &self.address;
        if self.received == 0 && !is_reply(bytes[0]) {
            return Error::Corrupt(format!("{address} {}", foreign(bytes)));
        }
        let line = bytes
            .split(|byte| matches!(byte, b'\r' | b'\n'))
            .find(|line| !line.is_empty())
            .unwrap_or_default();
        let text = String::from_utf8_lossy(line).escape_debug().to_string();
        match text.strip_prefix('-').map(|text| text.split_once(' ').unwrap_or(("", text))) {
            Some((code, message)) => {
                Error::Fatal(format!("{address} refuses: {code} {}", with_hint(code, message)))
            }
            None => Error::Fatal(format!(
                "{address} holds another value than this bench wrote: {}; \
                 use it on a server whose keys key:… nobody else writes",
                &text.chars().take(60).collect::<String>()
            )),
        }
    }
}
