//! One request: find it at the front of the read buffer, execute it, write its reply.

use super::{Connection, Protocol};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::protocol::http::{self, HttpReply, HttpRequest};
use crate::protocol::line::{self, HttpLike, LineReply};
use crate::protocol::resp::{self, RespReply, no_auth};
use crate::protocol::{self, Choice, Command, Reply, UNAUTHENTICATED_ELEMENTS_MAX};
use crate::server::execute::execute;
use crate::server::handshake::check_password;
use crate::server::session::{Outcome, Session};
use crate::server::transport::ReadBuffer;
use crate::web;

/// What stands at the front of the read buffer.
pub(super) enum Front {
    /// Less than a request.
    Incomplete,
    /// Bytes of another protocol than was thought: they are to be read again, by this one.
    Chosen(Protocol),
    /// Bytes that ask for nothing.
    Empty,
    /// A request that was executed.
    Request(Outcome),
}

/// What it takes to execute a request.
struct Client<'c> {
    node: &'c Node,
    session: &'c mut Session,
    output: &'c mut Vec<u8>,
}

impl Connection<'_> {
    /// Executes the first request in the read buffer; `None` when not all of it is there. An error
    /// means that the bytes cannot be followed.
    pub(super) fn execute_one(&mut self) -> Result<Option<Outcome>> {
        let Connection { node, session, input, output, .. } = self;
        let mut client = Client { node, session, output };
        let front = match &mut self.protocol {
            Protocol::Unknown => choose(input)?,
            Protocol::Resp(parser) => client.resp(parser, input)?,
            Protocol::Line { parser, is_first } => client.line(parser, is_first, input)?,
            Protocol::Http(parser) => client.http(parser, input)?,
        };
        match front {
            Front::Incomplete => return Ok(None),
            Front::Chosen(protocol) => self.protocol = protocol,
            Front::Empty => {}
            Front::Request(outcome) => {
                // A request has one reply, of however many parts.
                self.replies += u64::from(outcome.has_reply());
                self.progress.end();
                return Ok(Some(outcome));
            }
        }
        Ok(Some(Outcome::Continue))
    }
}

/// The first bytes of a connection choose its protocol.
fn choose(input: &mut ReadBuffer) -> Result<Front> {
    input.consume(protocol::empty_lines(input.unread()));
    Ok(match protocol::choose(input.unread())? {
        None => Front::Incomplete,
        Some(Choice::Resp) => Front::Chosen(Protocol::Resp(resp::Parser::default())),
        Some(Choice::Line) => {
            Front::Chosen(Protocol::Line { parser: line::Parser::default(), is_first: true })
        }
    })
}

impl Client<'_> {
    fn resp(&mut self, parser: &mut resp::Parser, input: &mut ReadBuffer) -> Result<Front> {
        let (unread, limits) = (input.unread(), &self.node.configuration.limits);
        let Some(len) = parser.parse(unread, limits, self.session.authenticated)? else {
            return Ok(Front::Incomplete);
        };
        let words = parser.words(unread);
        let mut front = Front::Empty;
        if !words.is_empty() {
            let version = self.session.resp_version;
            let mut reply = RespReply { out: self.output, version };
            let command = Command::parse(words);
            front = Front::Request(answer(command, self.node, self.session, &mut reply));
        }
        input.consume(len);
        Ok(front)
    }

    fn line(
        &mut self,
        parser: &mut line::Parser,
        is_first: &mut bool,
        input: &mut ReadBuffer,
    ) -> Result<Front> {
        let (unread, limits) = (input.unread(), &self.node.configuration.limits);
        let is_authenticated = self.session.authenticated;
        let Some(len) = parser.line_end(unread, limits, is_authenticated)? else {
            return Ok(Front::Incomplete);
        };
        let line = line::trimmed(&unread[..len]);
        let is_first = std::mem::take(is_first);
        match line::is_http_like(line, is_first) {
            HttpLike::No if is_first && line::is_hello(line) => {
                let parser = resp::Parser::with_inline_request();
                return Ok(Front::Chosen(Protocol::Resp(parser)));
            }
            HttpLike::No => {}
            HttpLike::Request => {
                return Ok(Front::Chosen(Protocol::Http(http::Parser::default())));
            }
            HttpLike::Attack => {
                return Err(Error::Corrupt("a line that imitates HTTP".into()));
            }
        }
        if !is_authenticated && line::has_more_words(line, UNAUTHENTICATED_ELEMENTS_MAX) {
            return Err(Error::Protocol(no_auth()));
        }
        let mut reply = LineReply(self.output);
        let outcome = answer(parser.parse(line), self.node, self.session, &mut reply);
        input.consume(len);
        Ok(Front::Request(outcome))
    }

    fn http(&mut self, parser: &mut http::Parser, input: &mut ReadBuffer) -> Result<Front> {
        let limits = &self.node.configuration.limits;
        let Some(request) = parser.parse(input.unread(), limits)? else {
            return Ok(Front::Incomplete);
        };
        if !self.answer_http(&request)? {
            return Ok(Front::Incomplete);
        }
        let outcome = if request.keep_alive { Outcome::Continue } else { Outcome::Close };
        let len = request.len;
        input.consume(len);
        Ok(Front::Request(outcome))
    }

    /// Answers an HTTP request, or says why not; `false` while its body is on its way. An error
    /// closes the connection: a request that is refused before its body came leaves the body
    /// unread.
    #[inline(never)]
    fn answer_http(&mut self, request: &HttpRequest) -> Result<bool> {
        let Client { node, session, output } = self;
        let admitted =
            web::admit(request, node, |password| check_password(password, node, session));
        if request.body.is_none() {
            admitted.map_err(|error| Error::Protocol(error.refusal()))?;
            if request.wants_continue {
                output.extend_from_slice(http::CONTINUE);
            }
            return Ok(false);
        }
        let head_only = request.method == b"HEAD";
        let mut reply = HttpReply { out: output, head_only, keep_alive: request.keep_alive };
        let result = admitted.and_then(|()| {
            web::answer(request, node, session.address, &mut session.batch, &mut reply)
        });
        match result {
            Err(Error::Refused(refusal)) => reply.error(&refusal),
            other => other?,
        }
        Ok(true)
    }
}

/// Executes a request, or says why not.
fn answer<R: Reply>(
    command: Result<Command>,
    node: &Node,
    session: &mut Session,
    reply: &mut R,
) -> Outcome {
    session.batch.commands += 1;
    let start = reply.buffer().len();
    match command.and_then(|command| execute(command, node, session, reply)) {
        Ok(outcome) => outcome,
        Err(error) => {
            // The error takes the place of what was already written.
            reply.buffer().truncate(start);
            reply.error(&error.refusal());
            if matches!(error, Error::Protocol(_)) { Outcome::Close } else { Outcome::Continue }
        }
    }
}
