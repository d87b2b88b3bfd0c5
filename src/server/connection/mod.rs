//! One client's thread: read, parse, execute, commit, write.
//!
//! ```text
//!  socket ─read─► ReadBuffer ─parse─► Command ─execute─► write buffer ─commit─► write ─► socket
//!                      ▲__________________ until no whole request is left __________│
//! ```

mod requests;
mod stopwatch;

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, trace};

use super::Accepted;
use super::progress::{self, Progress};
use super::session::{Outcome, Session};
use super::transport::{ReadBuffer, Transport};
use crate::config::{Limits, PEER_IDLE_TIMEOUT};
use crate::error::{Code, Error, Refusal};
use crate::guard::LARGE_BYTES;
use crate::metrics;
use crate::node::{Node, PREFETCH_KEYS_MAX};
use crate::protocol::http::{self, HttpReply};
use crate::protocol::line::{self, LineReply};
use crate::protocol::resp::{self, RespReply};
use crate::protocol::{KeysAhead, Reply};
use stopwatch::Stopwatch;

/// How long a refused connection may go on sending before it is reset, so that the error reaches
/// the client: a reset can overtake it.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest sleep in `WAIT`, so that a client that has hung up is noticed.
const WAIT_SLICE: Duration = Duration::from_millis(100);

/// Serves one client until it leaves, errs or idles too long. `address` is where the server
/// listens.
pub fn serve(accepted: Accepted, node: &Node, id: u64, address: SocketAddr) {
    let Accepted { stream, client, stranger, place: _place } = accepted;
    let Ok(transport) = Transport::new(stream) else {
        return;
    };
    let mut session = Session::new(id, address, stranger.is_none());
    session.socket = Some(Arc::clone(transport.stream()));
    (session.client, session.stranger) = (Some(client.ip()), stranger);
    let mut connection = Connection {
        transport,
        node,
        session,
        protocol: Protocol::Unknown,
        input: ReadBuffer::default(),
        output: Vec::new(),
        replies: 0,
        stopwatch: Stopwatch::default(),
        progress: Progress::default(),
        request_began: None,
    };
    let result = connection.run();
    match result {
        Ok(()) => {}
        Err(error) if is_timeout(&error) => {
            debug!("closed: the client was silent for too long");
        }
        Err(error) => debug!("closed: {error}"),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

struct Connection<'n> {
    transport: Transport,
    node: &'n Node,
    session: Session,
    protocol: Protocol,
    input: ReadBuffer,
    output: Vec<u8>,
    /// Replies in `output`.
    replies: u64,
    stopwatch: Stopwatch,
    progress: Progress,
    /// When the first bytes of a request came of which the last have not.
    request_began: Option<Instant>,
}

enum Protocol {
    /// No byte of a request yet.
    Unknown,
    Line {
        parser: line::Parser,
        is_first: bool,
    },
    Resp(resp::Parser),
    Http(http::Parser),
}

impl<'n> Connection<'n> {
    fn run(&mut self) -> io::Result<()> {
        loop {
            let next = self.execute_all();
            self.flush()?;
            match next {
                Outcome::Continue => {}
                Outcome::Wait { peers, timeout_ms } => {
                    self.wait_for_peers(peers, timeout_ms);
                    continue;
                }
                Outcome::Close => {
                    self.linger();
                    return Ok(());
                }
                Outcome::ShutDown => {
                    self.node.stop.ask();
                    return Ok(());
                }
            }
            if self.receive()? == 0 {
                return self.end_of_stream();
            }
        }
    }

    /// What this connection may take: less before the password.
    fn limits(&self) -> &'n Limits {
        if self.session.authenticated {
            &self.node.configuration.limits
        } else {
            &self.node.limits_of_strangers
        }
    }

    /// Longest wait for the next bytes. An error when there was enough time for them already.
    fn patience(&mut self) -> io::Result<Option<Duration>> {
        let limits = self.limits();
        let mut patience = if self.input.unread().is_empty() {
            self.request_began = None;
            match self.session.peer {
                Some(_) => Some(PEER_IDLE_TIMEOUT),
                None => Some(self.node.configuration.idle_timeout).filter(|idle| !idle.is_zero()),
            }
        } else {
            let began = *self.request_began.get_or_insert_with(Instant::now);
            Some(
                limits
                    .partial_request_timeout
                    .min(limits.request_timeout.saturating_sub(began.elapsed())),
            )
        };
        self.transport.deadline =
            self.session.stranger.as_ref().map(|it| it.since + limits.password_timeout);
        if let Some(deadline) = self.transport.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            patience = Some(patience.map_or(left, |patience| patience.min(left)));
        }
        match patience {
            Some(Duration::ZERO) => Err(io::ErrorKind::TimedOut.into()),
            patience => Ok(patience),
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        let (timeout, limits) = (self.patience()?, self.limits());
        let len = match self.merge_bytes() {
            Some(bytes) => self.receive_batch(bytes)?,
            None => self.transport.read(self.input.room(limits), timeout)?,
        };
        self.stopwatch.start();
        if len > 0 {
            trace!("received {len} bytes");
        }
        if let Some(peer) = self.session.peer.as_ref().filter(|_| len > 0) {
            peer.hear();
        }
        self.input.filled(len);
        self.session.batch.input_bytes += len as u64;
        Ok(len)
    }

    /// How much of a peer's batch is here, while it is coming.
    fn merge_bytes(&self) -> Option<usize> {
        match &self.protocol {
            Protocol::Resp(parser) if self.session.peer.is_some() => {
                parser.merge_bytes(self.input.unread(), progress::BYTES_MIN)
            }
            _ => None,
        }
    }

    /// Reads more of a peer's batch, of which so many bytes are here, and lets the peer know every
    /// second.
    fn receive_batch(&mut self, bytes: usize) -> io::Result<usize> {
        let limits = &self.node.configuration.limits;
        let began = Instant::now();
        loop {
            if let Some(line) = self.progress.line(bytes) {
                self.transport.write_all(line.as_bytes(), &mut self.input, limits, |_| Ok(()))?;
            }
            match self.transport.read(self.input.room(limits), Some(progress::SLICE)) {
                Err(error)
                    if is_timeout(&error) && began.elapsed() < limits.partial_request_timeout => {}
                done => return done,
            }
        }
    }

    /// Executes every whole request in the read buffer.
    fn execute_all(&mut self) -> Outcome {
        // Most reads bring a single request, and nothing to prefetch.
        let mut requests_until_prefetch = 1;
        loop {
            if requests_until_prefetch == 0 {
                self.prefetch();
                requests_until_prefetch = PREFETCH_KEYS_MAX;
            }
            requests_until_prefetch -= 1;
            match self.execute_one() {
                Ok(Some(Outcome::Continue)) => {}
                Ok(Some(next)) => return next,
                Ok(None) => return Outcome::Continue,
                Err(error) => {
                    self.give_up(&error);
                    return Outcome::Close;
                }
            }
            // Each HTTP reply is flushed by itself, because one commit error cannot answer several
            // requests.
            let is_http = matches!(self.protocol, Protocol::Http(_));
            let max = self.limits().write_buffer_bytes;
            if (is_http || self.output.len() >= max) && self.flush().is_err() {
                return Outcome::Close;
            }
        }
    }

    /// Replies, where the client is to know, that its bytes cannot be followed.
    fn give_up(&mut self, error: &Error) {
        metrics::add(&self.node.metrics.protocol_errors, 1);
        debug!("closing: {error}");
        if let Error::Protocol(refusal) = error {
            if refusal.code == Code::NoPassword {
                self.note_refused_stranger();
            }
            self.reply_error(refusal);
        }
    }

    /// Prefetches the keys of the next requests of a pipeline.
    fn prefetch(&self) {
        if matches!(self.protocol, Protocol::Resp(_)) && !self.input.unread().is_empty() {
            self.node.prefetch(KeysAhead(self.input.unread()));
        }
    }

    /// A request was larger than a stranger's may be. A peer's HELLO without the password is: its
    /// owner looks here.
    fn note_refused_stranger(&self) {
        let address = self.session.socket.as_ref().and_then(|socket| socket.peer_addr().ok());
        let who = address.map_or("that has left".into(), |address| address.ip().to_string());
        self.node.refused_peer(&who, "no password; if it is a node, give all nodes the same one");
    }

    /// Settles what was executed and writes all replies with one `write`.
    fn flush(&mut self) -> io::Result<()> {
        let (commands, replies) = (self.session.batch.commands, std::mem::take(&mut self.replies));
        if let Err(error) = self.node.commit(&mut self.session.batch) {
            self.replace_replies(replies, &error);
        }
        // Without the write: a client that does not read is no slowness of ours.
        self.stopwatch.stop(commands, &self.node.metrics.latency);
        if self.output.is_empty() {
            return Ok(());
        }
        if replies > 0 {
            self.request_began = None;
        }
        let (limits, node) = (self.limits(), self.node);
        metrics::add(&node.metrics.output_bytes, self.output.len() as u64);
        let mut is_admitted = Ok(());
        if self.output.len() >= LARGE_BYTES
            && let Err(error) = self.session.hold(self.output.len(), node)
        {
            // Clients together leave too many replies untaken, and this one the most. The error
            // takes the place of its replies, so there is memory for it.
            self.output = Vec::new();
            self.write_error(&error.refusal());
            is_admitted = Err(io::Error::other(error));
        }
        let session = &mut self.session;
        let hold = |bytes| session.hold(bytes, node).map_err(io::Error::other);
        let written = self.transport.write_all(&self.output, &mut self.input, limits, hold);
        trace!("replied with {} bytes", self.output.len());
        self.output.clear();
        if self.output.capacity() > limits.write_buffer_bytes {
            self.output = Vec::new();
        }
        self.session.holding = None;
        is_admitted.and(written)
    }

    /// Puts an error in place of every reply. A client counts its replies, so there must be as many
    /// as there were.
    fn replace_replies(&mut self, replies: u64, error: &Error) {
        let refusal = error.refusal();
        self.output.clear();
        (0..replies).for_each(|_| self.write_error(&refusal));
    }

    /// `WAIT`: earlier replies have left. A client that hangs up ends the wait.
    fn wait_for_peers(&mut self, peers: usize, timeout_ms: u64) {
        let (holders, began) = (self.node.holders(&self.session.batch), Instant::now());
        let mut timeout = match timeout_ms {
            0 => Duration::MAX,
            _ => Duration::from_millis(timeout_ms),
        };
        while holders.count() < peers && !timeout.saturating_sub(began.elapsed()).is_zero() {
            let slice = WAIT_SLICE.min(timeout.saturating_sub(began.elapsed()));
            holders.wait_for(peers, slice);
            if self.transport.has_ended() {
                // Gone or half-closed: we cannot tell, so wait briefly.
                timeout = timeout.min(began.elapsed().max(LINGER_TIMEOUT));
            }
        }
        let held = holders.count() as i64;
        self.replies += 1;
        match self.protocol {
            Protocol::Line { .. } => LineReply(&mut self.output).integer(held),
            _ => RespReply { out: &mut self.output, version: self.session.resp_version }
                .integer(held),
        }
    }

    fn end_of_stream(&mut self) -> io::Result<()> {
        // A line without its end may be half a request: a PUT cut in two must not store half a
        // value.
        if matches!(self.protocol, Protocol::Line { .. }) && !self.input.unread().is_empty() {
            let message = "request not ended by a newline, nothing was done".to_string();
            self.reply_error(&Refusal { code: Code::General, message });
            self.flush()?;
        }
        Ok(())
    }

    fn reply_error(&mut self, refusal: &Refusal) {
        self.replies += 1;
        self.write_error(refusal);
    }

    fn write_error(&mut self, refusal: &Refusal) {
        match self.protocol {
            Protocol::Line { .. } => LineReply(&mut self.output).error(refusal),
            Protocol::Http(_) => {
                let (head_only, keep_alive) = (false, false);
                HttpReply { out: &mut self.output, head_only, keep_alive }.error(refusal);
            }
            _ => RespReply { out: &mut self.output, version: self.session.resp_version }
                .error(refusal),
        }
    }

    /// Reads on for a moment after the last reply: closing a socket with unread bytes resets the
    /// connection, and the reset can overtake the error that says why.
    fn linger(&mut self) {
        let mut stream: &TcpStream = self.transport.stream();
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(LINGER_TIMEOUT));
        let start = Instant::now();
        while start.elapsed() < LINGER_TIMEOUT && matches!(stream.read(&mut [0; 4096]), Ok(1..)) {}
    }
}
