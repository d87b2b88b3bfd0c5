//! The line protocol: the requests of the original, without its ambiguities.
//!
//! ```text
//! PUT <key> <value to the end of the line>      OK
//! GET <key>                                     the value, or NOT_FOUND
//! DELETE <key>                                  OK
//! anything wrong                                ERROR <reason>
//! ```
//!
//! A request is one line that ends with `\n` or `\r\n`; a reply is one line that ends with `\n`.
//! Exactly one space separates command, key and value. So a value keeps its spaces, and a second
//! space after the command is an empty key. Command words may be in any case.
//!
//! **What lines cannot express.** A value that contains CR or LF is not a line: `GET` answers with
//! an error that names RESP. A stored value `NOT_FOUND` or `ERROR x` looks like the reply of that
//! name. A program that must tell them apart uses RESP.

use super::words::{Span, Words};
use super::{Command, Reply, command};
use crate::config::Limits;
use crate::error::{Code, Error, Refusal, Result};

/// Finds lines in the unread bytes and parses them.
#[derive(Debug, Default)]
pub struct Parser {
    /// Bytes at the front that are known to hold no line end.
    scanned: usize,
    spans: Vec<Span>,
}

impl Parser {
    /// Length of the first line with its end; `None` until the line is complete.
    pub fn line_end(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        authenticated: bool,
    ) -> Result<Option<usize>> {
        let found = bytes[self.scanned..].iter().position(|&byte| byte == b'\n');
        let len = found.map_or(bytes.len(), |at| self.scanned + at);
        if !authenticated && len > limits.unauthenticated_bytes_max {
            return Err(Error::Protocol(super::resp::no_auth()));
        }
        if len > limits.line_bytes_max {
            let message = format!("line too long: at most {} bytes", limits.line_bytes_max);
            return Err(Error::Protocol(Refusal { code: Code::General, message }));
        }
        self.scanned = if found.is_some() { 0 } else { bytes.len() };
        Ok(found.map(|_| len + 1))
    }

    /// Parses a line, which comes without its line end.
    pub fn parse<'a>(&'a mut self, line: &'a [u8]) -> Result<Command<'a>> {
        let (name, rest) = split_at_space(line);
        if name.eq_ignore_ascii_case(b"PUT") {
            let (key, Some(value)) = split_at_space(rest.unwrap_or_default()) else {
                return Err(Error::refused("PUT needs a key and a value: PUT <key> <value>"));
            };
            self.list([name, key, value].into_iter());
            return Command::parse(Words::new(line, &self.spans));
        }
        if name.is_empty() {
            return Err(Error::refused(if line.is_empty() {
                "empty request"
            } else {
                "a request starts with a command, not with a space"
            }));
        }
        let row = command::row(name);
        if row.is_some_and(|row| !row.on_lines) {
            return Err(Error::refused("use RESP"));
        }
        self.list(line.split(|&byte| byte == b' '));
        if self.spans.len() > WORDS_MAX {
            return Err(Error::refused(format!("too many words: at most {WORDS_MAX}")));
        }
        let words = Words::new(line, &self.spans);
        match row {
            Some(row) if row.name == "SET" && words.len() > 3 => Err(Error::refused(
                "SET takes one word as value here; PUT takes the rest of the line",
            )),
            Some(row) if matches!(row.name, "GET" | "DELETE") && words.len() != 2 => {
                Err(Error::refused(format!(
                    "{0} takes one key and nothing after it: {0} <key>",
                    row.name
                )))
            }
            _ => Command::parse(words),
        }
    }

    /// Notes the spans of words that are separated by one space, at most one more than allowed.
    fn list<'w>(&mut self, words: impl Iterator<Item = &'w [u8]>) {
        self.spans.clear();
        // A line of many words must not occupy memory for the rest of the connection.
        self.spans.shrink_to(SPANS_KEPT);
        let mut start = 0;
        for word in words.take(WORDS_MAX + 1) {
            self.spans.push(Span::new(start, start + word.len()));
            start += word.len() + 1;
        }
    }
}

/// Most words of a line, as many as elements of a RESP request. Each takes eight bytes besides its
/// text.
const WORDS_MAX: usize = 1_048_576;

/// Spans kept between requests: 2 KiB.
const SPANS_KEPT: usize = 256;

/// The line without its line end.
pub fn trimmed(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn split_at_space(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    match line.iter().position(|&byte| byte == b' ') {
        Some(at) => (&line[..at], Some(&line[at + 1..])),
        None => (line, None),
    }
}

/// Whether a line has more words than `max`.
pub fn has_more_words(line: &[u8], max: usize) -> bool {
    line.split(|&byte| byte == b' ').nth(max).is_some()
}

/// Whether a line belongs to HTTP.
#[derive(Debug, PartialEq, Eq)]
pub enum HttpLike {
    /// Not HTTP.
    No,
    /// `METHOD /target HTTP/1.0` or `1.1`.
    Request,
    /// A line that passes for a request of both protocols: somebody tricks a browser into sending
    /// commands.
    Attack,
}

/// Whether a line is HTTP or imitates it. A hostile page can make a browser send lines such as
/// `POST …` and `Host: …`, and then commands. So any line can be an attack, but only the first line
/// can be a request.
pub fn is_http_like(line: &[u8], is_first: bool) -> HttpLike {
    let starts =
        |word: &[u8]| line.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if is_first {
        let mut words = line.rsplitn(2, |&byte| byte == b' ');
        let (version, before) = (words.next().unwrap_or_default(), words.next());
        if let (Some(digits), Some(before)) = (version.strip_prefix(b"HTTP/"), before) {
            let is_version = digits.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
                && !digits.is_empty();
            let (method, target) = split_at_space(before);
            let target = target.unwrap_or_default();
            let is_request = matches!(digits, b"1.0" | b"1.1")
                && method.iter().all(u8::is_ascii_uppercase)
                && target.starts_with(b"/")
                && !target.contains(&b' ');
            if is_request {
                return HttpLike::Request;
            }
            if is_version {
                return HttpLike::Attack;
            }
        }
    }
    if starts(b"POST ") || starts(b"Host:") { HttpLike::Attack } else { HttpLike::No }
}

/// Whether a first line is an inline `HELLO`, the first request of some RESP3 libraries.
pub fn is_hello(line: &[u8]) -> bool {
    line.split(|byte| byte.is_ascii_whitespace())
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case(b"HELLO"))
}

/// Writes results as lines.
#[derive(Debug)]
pub struct LineReply<'a>(pub &'a mut Vec<u8>);

impl LineReply<'_> {
    fn line(&mut self, line: &[u8]) {
        self.0.extend_from_slice(line);
        self.0.push(b'\n');
    }
}

impl Reply for LineReply<'_> {
    fn simple(&mut self, word: &str) {
        self.line(word.as_bytes());
    }

    fn value(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.line(b"NOT_FOUND"),
            Some(value) if value.iter().any(|byte| matches!(byte, b'\r' | b'\n')) => {
                self.line(b"ERROR value is not a line, use RESP");
            }
            Some(value) => self.line(value),
        }
    }

    fn integer(&mut self, number: i64) {
        self.line(number.to_string().as_bytes());
    }

    fn error(&mut self, refusal: &Refusal) {
        self.line(format!("ERROR {}", refusal.message).as_bytes());
    }

    /// Writes no empty line within the text, because an empty line ends it.
    fn text(&mut self, text: &str) {
        text.lines().filter(|line| !line.is_empty()).for_each(|line| self.line(line.as_bytes()));
        self.line(b"");
    }

    fn rows(&mut self, rows: &[String]) {
        self.text(&rows.join("\n"));
    }

    fn array(&mut self, len: usize) {
        self.line(len.to_string().as_bytes());
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::command::DataCommand;

    fn parse(line: &str) -> String {
        match Parser::default().parse(line.as_bytes()) {
            Ok(Command::Data(DataCommand::Put { key, value })) => {
                format!("put {} {}", key.escape_ascii(), value.escape_ascii())
            }
            Ok(command) => format!("{command:?}"),
            Err(error) => format!("ERROR {error}"),
        }
    }

    #[test]
    fn a_value_keeps_its_spaces() {
        assert_eq!(parse("PUT k a b  c "), "put k a b  c ");
        assert_eq!(parse("put k "), "put k ");
        assert_eq!(parse("PUT k  two"), "put k  two");
    }

    #[test]
    fn exactly_one_space_separates() {
        for (line, reason) in [
            ("PUT k", "ERROR PUT needs"),
            ("PUT", "ERROR PUT needs"),
            ("PUT  k v", "ERROR key is empty"),
            ("GET  k", "ERROR GET takes one key"),
            ("GET k ", "ERROR GET takes one key"),
            ("GET", "ERROR GET takes one key"),
            ("GET ", "ERROR key is empty"),
            ("DELETE a b", "ERROR DELETE takes one key"),
            ("DEL a  b", "ERROR key is empty"),
            ("", "ERROR empty request"),
            (" GET k", "ERROR a request starts with a command"),
            ("SET k a b", "ERROR SET takes one word as value here; PUT"),
            ("MGET a b", "ERROR use RESP"),
            ("FOO", "ERROR unknown command 'FOO'"),
        ] {
            let result = parse(line);
            assert!(result.starts_with(reason), "{line:?}: {result}");
        }
    }

    #[test]
    fn http_is_recognised() {
        let like = |line: &str, first| is_http_like(line.as_bytes(), first);
        assert_eq!(like("GET / HTTP/1.1", true), HttpLike::Request);
        assert_eq!(like("PUT /keys/a HTTP/1.0", true), HttpLike::Request);
        assert_eq!(like("GET / HTTP/2.0", true), HttpLike::Attack);
        assert_eq!(like("PUT k v HTTP/1.1", true), HttpLike::Attack);
        assert_eq!(
            like("PUT k v HTTP/1.1", false),
            HttpLike::No,
            "only a first line: this is a value"
        );
        assert_eq!(like("PUT k HTTP/x", true), HttpLike::No);
        assert_eq!(like("POST /x", false), HttpLike::Attack);
        assert_eq!(like("host: localhost", false), HttpLike::Attack);
        assert_eq!(like("GET Host:", false), HttpLike::No);
    }

    #[test]
    fn long_lines_are_refused_before_they_are_kept() {
        let limits =
            Limits { line_bytes_max: 8, unauthenticated_bytes_max: 4, ..Limits::default() };
        assert_eq!(
            Parser::default().line_end(b"GET 1234\n", &limits, true).expect("fits"),
            Some(9)
        );
        assert_eq!(Parser::default().line_end(b"GET 1234", &limits, true).expect("fits"), None);
        assert!(Parser::default().line_end(b"GET 12345", &limits, true).is_err());
        assert!(Parser::default().line_end(b"GET 12345\n", &limits, true).is_err());
        let refused = Parser::default()
            .line_end(b"GET 1", &limits, false)
            .expect_err("too long without a password");
        assert_eq!(refused.to_string(), "Authentication required.");
    }
}
