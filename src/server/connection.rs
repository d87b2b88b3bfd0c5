//! One client's thread: read, parse, execute, commit, write.
//!
//! ```text
//!   socket ─read─► ReadBuffer ─parse─► Command ─execute─► write buffer ─commit─► one write ─► socket
//!                      ▲__________________ until no whole request is left __________│
//! ```

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::debug;

use super::execute::{Next, Session, execute};
use super::transport::{ReadBuffer, Transport};
use crate::config::Limits;
use crate::error::{Error, Refusal, Result};
use crate::metrics;
use crate::node::Node;
use crate::protocol::line::{self, HttpLike, LineReply};
use crate::protocol::resp::{self, RespReply};
use crate::protocol::{self, Choice, Command, Reply};

/// Longest sleep in `WAIT`; between two the client is looked after, which may have hung up.
const WAIT_SLICE: Duration = Duration::from_millis(100);

/// Serves one client until it leaves, errs or idles too long. `address` is where the server listens.
pub fn serve(stream: TcpStream, node: &Node, id: u64, address: SocketAddr) {
    let Ok(transport) = Transport::new(stream) else {
        return;
    };
    let is_open = node.configuration.password.is_none();
    let mut session = Session::new(id, address, is_open);
    session.socket = Some(Arc::clone(transport.stream()));
    let mut connection = Connection {
        transport,
        node,
        session,
        protocol: Protocol::Unknown,
        input: ReadBuffer::default(),
        output: Vec::new(),
        replies: 0,
    };
    let result = connection.run();
    if let Some(peer) = connection.session.peer.take() {
        node.replication.inbound_ended(&peer);
    }
    match result {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            debug!("closed: the client was silent for too long");
        }
        Err(error) => debug!("closed: {error}"),
    }
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
}

enum Protocol {
    /// No byte of a request yet.
    Unknown,
    Line {
        parser: line::Parser,
        is_first: bool,
    },
    Resp(resp::Parser),
}

impl Connection<'_> {
    fn run(&mut self) -> io::Result<()> {
        loop {
            let next = self.execute_all();
            self.flush()?;
            match next {
                Next::Continue => {}
                Next::Wait { peers, timeout_ms } => {
                    self.wait_for_peers(peers, timeout_ms)?;
                    continue;
                }
                Next::Close => {
                    self.linger();
                    return Ok(());
                }
                Next::ShutDown => {
                    self.node.shut_down();
                    return Ok(());
                }
            }
            if self.receive()? == 0 {
                return self.end_of_stream();
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        let limits = &self.node.configuration.limits;
        let timeout = if self.input.unread().is_empty() {
            match self.session.peer {
                Some(_) => Some(limits.peer_idle_timeout),
                None => limits.idle_timeout,
            }
        } else {
            Some(limits.partial_request_timeout)
        };
        let len = self.transport.read(self.input.room(limits), timeout)?;
        self.input.filled(len);
        self.session.batch.input_bytes += len as u64;
        Ok(len)
    }

    /// Executes every whole request in the read buffer.
    fn execute_all(&mut self) -> Next {
        loop {
            match self.execute_one() {
                Ok(Some(Next::Continue)) => {}
                Ok(Some(next)) => return next,
                Ok(None) => return Next::Continue,
                Err(error) => {
                    metrics::add(&self.node.metrics.protocol_errors, 1);
                    debug!("closing: {error}");
                    if let Error::Protocol(refusal) = &error {
                        self.reply_error(refusal);
                    }
                    return Next::Close;
                }
            }
            if self.output.len() >= self.node.configuration.limits.write_buffer_bytes && self.flush().is_err() {
                return Next::Close;
            }
        }
    }

    /// Executes the first request in the read buffer; `None` when it is not all there. An error means
    /// that the bytes cannot be followed.
    fn execute_one(&mut self) -> Result<Option<Next>> {
        let limits = &self.node.configuration.limits;
        let Connection { node, session, input, output, replies, protocol, .. } = self;
        match protocol {
            Protocol::Unknown => {
                input.consume(protocol::empty_lines(input.unread()));
                *protocol = match protocol::choose(input.unread())? {
                    None => return Ok(None),
                    Some(Choice::Resp) => Protocol::Resp(resp::Parser::default()),
                    Some(Choice::Line) => Protocol::Line { parser: line::Parser::default(), is_first: true },
                };
                Ok(Some(Next::Continue))
            }
            Protocol::Resp(parser) => {
                let unread = input.unread();
                let Some(len) = parser.parse(unread, limits, session.is_authenticated())? else {
                    return Ok(None);
                };
                let words = parser.words(unread);
                let mut next = Next::Continue;
                if !words.is_empty() {
                    let mut reply = RespReply { out: output, version: session.resp_version() };
                    next = answer(Command::parse(words), node, session, &mut reply);
                    // A request has one reply, of however many parts; `SHUTDOWN` has none.
                    *replies += u64::from(next.has_reply());
                }
                input.consume(len);
                Ok(Some(next))
            }
            Protocol::Line { parser, is_first } => {
                let unread = input.unread();
                let Some(len) = parser.line_end(unread, limits, session.is_authenticated())? else {
                    return Ok(None);
                };
                let line = line::trimmed(&unread[..len]);
                match line::is_http_like(line, std::mem::take(is_first), limits) {
                    HttpLike::No => {}
                    HttpLike::Request => {
                        output.extend_from_slice(HTTP_REPLY);
                        return Ok(Some(Next::Close));
                    }
                    HttpLike::Attack => {
                        return Err(Error::Corrupt("a line that imitates HTTP".into()));
                    }
                }
                let next = answer(parser.parse(line), node, session, &mut LineReply(output));
                *replies += u64::from(next.has_reply());
                input.consume(len);
                Ok(Some(next))
            }
        }
    }

    /// Settles what was executed and writes all replies with one `write`.
    fn flush(&mut self) -> io::Result<()> {
        let replies = std::mem::take(&mut self.replies);
        if let Err(error) = self.node.commit(&mut self.session.batch) {
            self.replace_replies(replies, &error);
        }
        if self.output.is_empty() {
            return Ok(());
        }
        let limits = &self.node.configuration.limits;
        metrics::add(&self.node.metrics.output_bytes, self.output.len() as u64);
        let result = self.transport.write_all(&self.output, &mut self.input, limits);
        self.output.clear();
        if self.output.capacity() > limits.write_buffer_bytes {
            self.output = Vec::new();
        }
        result
    }

    /// Puts an error in place of every reply. A client counts its replies, so there must be as many as there were.
    fn replace_replies(&mut self, replies: u64, error: &Error) {
        let refusal = match error {
            Error::Refused(refusal) => refusal.clone(),
            other => Refusal { code: "ERR", message: other.to_string() },
        };
        self.output.clear();
        (0..replies).for_each(|_| self.write_error(&refusal));
    }

    /// `WAIT`: earlier replies have left. A client that hangs up ends the wait.
    fn wait_for_peers(&mut self, peers: usize, timeout_ms: u64) -> io::Result<()> {
        let (replication, began) = (&self.node.replication, Instant::now());
        let ticket = replication.ticket();
        let has_written = self.session.batch.has_written;
        let holding = || match has_written {
            true => replication.holding(&ticket),
            // There is nothing that a peer could lack.
            false => replication.live_peers(),
        };
        let mut timeout = match timeout_ms {
            0 => Duration::MAX,
            _ => Duration::from_millis(timeout_ms),
        };
        while holding() < peers && !timeout.saturating_sub(began.elapsed()).is_zero() {
            let slice = WAIT_SLICE.min(timeout.saturating_sub(began.elapsed()));
            replication.wait_until(slice, || holding() >= peers);
            if self.transport.has_ended() {
                // It is gone, or it has said all and listens: that cannot be told apart, so it gets a moment.
                timeout = timeout.min(began.elapsed().max(self.node.configuration.limits.linger_timeout));
            }
        }
        let held = holding() as i64;
        self.replies += 1;
        match self.protocol {
            Protocol::Line { .. } => LineReply(&mut self.output).integer(held),
            _ => RespReply { out: &mut self.output, version: self.session.resp_version() }.integer(held),
        }
        Ok(())
    }

    fn end_of_stream(&mut self) -> io::Result<()> {
        // A line without its end may be half a request: a PUT cut in two must not store half a value.
        if matches!(self.protocol, Protocol::Line { .. }) && !self.input.unread().is_empty() {
            let message = "request not ended by a newline, nothing was done".to_string();
            self.reply_error(&Refusal { code: "ERR", message });
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
            _ => RespReply { out: &mut self.output, version: self.session.resp_version() }.error(refusal),
        }
    }

    /// Reads on for a moment after the last reply: closing a socket with unread bytes resets the connection, and
    /// the reset can overtake the error that says why.
    fn linger(&mut self) {
        let limits: &Limits = &self.node.configuration.limits;
        let mut stream: &TcpStream = self.transport.stream();
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(limits.linger_timeout));
        let start = Instant::now();
        while start.elapsed() < limits.linger_timeout && matches!(stream.read(&mut [0; 4096]), Ok(1..)) {}
    }
}

/// Carries out a request, or says why not.
fn answer<R: Reply>(command: Result<Command>, node: &Node, session: &mut Session, reply: &mut R) -> Next {
    session.batch.commands += 1;
    match command.and_then(|command| execute(command, node, session, reply)) {
        Ok(next) => next,
        Err(Error::Refused(refusal)) => {
            reply.error(&refusal);
            Next::Continue
        }
        Err(Error::Protocol(refusal)) => {
            reply.error(&refusal);
            Next::Close
        }
        Err(other) => {
            reply.error(&Refusal { code: "ERR", message: other.to_string() });
            Next::Continue
        }
    }
}

/// HTTP is recognised so that a browser gets an answer it can show.
const HTTP_REPLY: &[u8] =
    b"HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain\r\nContent-Length: 68\r\nConnection: close\r\n\r\n\
this port speaks RESP and text lines, not HTTP; try ./run_client.sh\n";

#[cfg(test)]
mod tests {
    #[test]
    fn the_http_reply_has_the_length_it_says() {
        let text = std::str::from_utf8(super::HTTP_REPLY).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }
}
