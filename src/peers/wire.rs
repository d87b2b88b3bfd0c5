//! A connection to a peer, with a limit to its silence.
//!
//! A slow connection is not a dead one: a batch of a megabyte takes ten seconds at 100 KB/s. So an
//! exchange has no limit as a whole. It fails when the peer has given no *sign of life* for
//! [`WireOptions::silence_max`]. Signs are:
//! - a KiB more of a reply;
//! - while the peer reads a batch, a line `+<bytes so far>`, which it sends every second: see
//!   [`server::progress`](crate::server::progress).
//!
//! Bytes that the own kernel took are no sign: it takes megabytes for a machine that is dead.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::requests::{PeerReply, PeerRequest};
use super::status::PeerHandle;
use crate::client::{Response, encode, has_ended, open};
use crate::error::{Error, Result};
use crate::guard::sentence;
use crate::metrics;

/// Longest wait for a peer to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest sleep in one `write`; between two the time limit is looked at.
const WRITE_SLICE: Duration = Duration::from_millis(100);
/// Longest reply to AUTH: one line.
const AUTH_REPLY_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of a reply that are a sign of life: a peer that sends less in all this time only pretends.
const SIGN_BYTES: usize = 1024;
/// Longest time in which a peer says that it reads a batch, and gets no further.
const STANDSTILL_MAX: Duration = Duration::from_secs(30);
/// First size of the buffer for what the peer sends. It is as large as the longest reply needs only
/// while that is read.
const BUFFER_BYTES: usize = 64 * 1024;

/// How connections to peers are made.
#[derive(Clone, Debug)]
pub struct WireOptions {
    /// Longest silence of a peer that owes a reply.
    pub silence_max: Duration,
    /// What the peer asks for, if it does.
    pub password: Option<Vec<u8>>,
}

/// A connection to a peer.
pub(super) struct Wire {
    incoming: Incoming,
}

/// What the peer sends.
struct Incoming {
    stream: Arc<TcpStream>,
    /// Counts what travels, also in an exchange that fails.
    peer: Arc<PeerHandle>,
    silence_max: Duration,
    heard: Instant,
    /// Bytes received since the last sign of life.
    bytes: usize,
    /// Received and not yet consumed: `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
}

/// How far a peer is with the batch that it reads.
struct Reading {
    bytes: u64,
    grew: Instant,
}

impl Wire {
    /// Connects, and gives the password.
    pub(super) fn open(
        address: &str,
        peer: &Arc<PeerHandle>,
        options: &WireOptions,
    ) -> Result<Self> {
        let stream = Arc::new(open(address, CONNECT_TIMEOUT, WRITE_SLICE)?);
        peer.set_socket(Some(Arc::clone(&stream)));
        let mut wire = Wire {
            incoming: Incoming {
                stream,
                peer: Arc::clone(peer),
                silence_max: options.silence_max,
                heard: Instant::now(),
                bytes: 0,
                buffer: Vec::new(),
                start: 0,
            },
        };
        if let Some(password) = &options.password {
            wire.authenticate(password)?;
        }
        Ok(wire)
    }

    /// Whether the peer has hung up, while nothing is under way.
    pub(super) fn has_ended(&self) -> bool {
        !self.incoming.unread().is_empty() || has_ended(&self.incoming.stream)
    }

    fn authenticate(&mut self, password: &[u8]) -> Result<()> {
        self.incoming.sign();
        self.write_all(&encode(&[b"AUTH", password]), &mut None)?;
        match Response::read_within(&mut self.incoming, AUTH_REPLY_BYTES_MAX)? {
            Response::Error(_, message) => {
                let message = sentence(message);
                Err(Error::refused(format!(
                    "it did not take the password ({message}); give all nodes the same one"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Sends requests together and reads their replies.
    pub(super) fn exchange(&mut self, requests: &[PeerRequest]) -> Result<Vec<PeerReply>> {
        self.incoming.sign();
        // A batch is alone in its exchange: see `Link::next`.
        let mut reading = matches!(requests, [only] if only.body().is_some())
            .then(|| Reading { bytes: 0, grew: Instant::now() });
        let mut text = Vec::new();
        for request in requests {
            request.encode(&mut text);
            if let Some(body) = request.body() {
                self.write_all(&text, &mut reading)?;
                self.write_all(body, &mut reading)?;
                text = b"\r\n".to_vec();
            }
        }
        self.write_all(&text, &mut reading)?;
        let read = |request: &PeerRequest| {
            request.reply(self.incoming.read_reply(request.reply_bytes_max(), &mut reading)?)
        };
        requests.iter().map(read).collect()
    }

    fn write_all(&mut self, mut bytes: &[u8], reading: &mut Option<Reading>) -> io::Result<()> {
        let incoming = &mut self.incoming;
        while !bytes.is_empty() {
            incoming.left()?;
            match (&*incoming.stream).write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => {
                    bytes = &bytes[len..];
                    metrics::add(&incoming.peer.sent_bytes, len as u64);
                }
                Err(error) if is_transient(&error) => {
                    if let Some(reading) = reading {
                        incoming.read_signs(reading)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Incoming {
    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// The peer lives.
    fn sign(&mut self) {
        (self.heard, self.bytes) = (Instant::now(), 0);
    }

    fn left(&self) -> io::Result<Duration> {
        let silence = self.heard.elapsed();
        let left = self.silence_max.checked_sub(silence).filter(|left| !left.is_zero());
        left.ok_or_else(|| {
            let seconds = silence.as_secs_f32();
            io::Error::new(ErrorKind::TimedOut, format!("no sign of life in {seconds:.1} s"))
        })
    }

    /// The next reply. Before that to a batch come lines that say how much of it was read.
    fn read_reply(
        &mut self,
        bytes_max: u64,
        reading: &mut Option<Reading>,
    ) -> io::Result<Response> {
        loop {
            let response = Response::read_within(self, bytes_max)?;
            match (&response, reading.as_mut()) {
                (Response::Simple(text), Some(reading)) if is_number(text.as_bytes()) => {
                    self.note_progress(text.as_bytes(), reading)?;
                }
                _ => return Ok(response),
            }
        }
    }

    /// Takes what has come of such lines while the batch is still being sent.
    fn read_signs(&mut self, reading: &mut Reading) -> io::Result<()> {
        self.stream.set_nonblocking(true)?;
        let received = self.receive();
        self.stream.set_nonblocking(false)?;
        match received {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if !is_transient(&error) => return Err(error),
            _ => {}
        }
        while let Some(end) = self.unread().windows(2).position(|pair| pair == b"\r\n") {
            let line = self.unread()[..end].to_vec();
            match line.strip_prefix(b"+") {
                Some(number) if is_number(number) => self.note_progress(number, reading)?,
                // The reply itself, before all was sent: a refusal. It is read once all is sent, or
                // that fails.
                _ => break,
            }
            self.consume(end + 2);
        }
        Ok(())
    }

    fn note_progress(&mut self, number: &[u8], reading: &mut Reading) -> io::Result<()> {
        let bytes =
            std::str::from_utf8(number).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        if bytes > reading.bytes {
            *reading = Reading { bytes, grew: Instant::now() };
        }
        if reading.grew.elapsed() > STANDSTILL_MAX {
            let message = format!("the peer received nothing in {STANDSTILL_MAX:?}");
            return Err(io::Error::new(ErrorKind::TimedOut, message));
        }
        self.sign();
        Ok(())
    }

    /// Reads once from the socket, behind what is unread.
    fn receive(&mut self) -> io::Result<usize> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        let end = self.buffer.len();
        self.buffer.resize(end + BUFFER_BYTES, 0);
        let received = (&*self.stream).read(&mut self.buffer[end..]);
        let len = received.as_ref().copied().unwrap_or(0);
        self.buffer.truncate(end + len);
        self.bytes += len;
        if self.bytes >= SIGN_BYTES {
            self.sign();
        }
        metrics::add(&self.peer.received_bytes, len as u64);
        received
    }
}

impl BufRead for Incoming {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.unread().is_empty() {
            let left = self.left()?;
            self.stream.set_read_timeout(Some(left))?;
            match self.receive() {
                Ok(0) => break,
                Err(error) if !is_transient(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(self.unread())
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(buffer)?;
        self.consume(len);
        Ok(len)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.incoming.peer.set_socket(None);
        let _ = self.incoming.stream.shutdown(Shutdown::Both);
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.len() <= 20 && text.iter().all(u8::is_ascii_digit)
}
