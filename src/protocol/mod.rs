//! # Talking: from bytes to commands and back
//!
//! **The problem.** Three kinds of client talk to one port: the original's text lines (also a
//! person with `nc`), programs with a Redis library, and browsers. TCP hands over bytes in
//! pieces that have nothing to do with requests.
//!
//! **The idea.** The first bytes of a connection choose the protocol ([`choose`]), once. Each
//! protocol has a parser, which turns the front of the read buffer into a [`Command`] that
//! *borrows* from the buffer (nothing is copied), and a [`Reply`], which writes results into the
//! write buffer. What a command does is decided elsewhere and once, for all protocols.
//!
//! **The rules.**
//! - A parser sees the unread bytes from the start of a request. It answers "not yet" until the
//!   request is complete; how the bytes were cut into pieces never changes the result.
//! - It remembers how far it looked, so a request of n bytes costs O(n) in however many pieces.
//! - Every length is checked against [`crate::config::Limits`] before anything is allocated for it.
//!   Memory is in proportion to what was received.
//! - A wrong *request* is answered and the connection goes on; wrong *framing* is answered and the
//!   connection is closed, since nobody knows where the next request starts.
//! - This module knows no store, no node and no socket.
//!
//! **What is left out.** Of HTTP everything but plain requests with a length; inline commands on a
//! RESP connection other than a first `HELLO` (the line protocol is there for people); RESP3's push
//! messages and streamed strings.
//!
//! Files: [`words`] are the pieces of a request, [`command`] what it asks for, [`mod@line`],
//! [`resp`] and [`http`] the protocols. Read [`KeysAhead`] last. RESP:
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

pub mod command;
pub mod http;
mod keys_ahead;
pub mod line;
pub mod resp;
pub mod words;

use crate::error::{Error, Refusal, Result};
pub use command::Command;
pub use keys_ahead::KeysAhead;
pub use words::Words;

/// Elements of a request before the password was given, as in Redis. More: `-NOAUTH`, closed.
pub const UNAUTHENTICATED_ELEMENTS_MAX: usize = 10;

/// Writes results in the form of one protocol. One method per shape; the shapes of RESP, of which
/// lines show what can be shown in a line.
pub trait Reply {
    /// Done.
    fn ok(&mut self) {
        self.simple("OK");
    }
    /// A short word of the server's own: no value, no line end in it.
    fn simple(&mut self, word: &str);
    /// A stored value or other bytes; `None` is "not there".
    fn value(&mut self, value: Option<&[u8]>);
    /// A number.
    fn integer(&mut self, number: i64);
    /// A refused request.
    fn error(&mut self, refusal: &Refusal);
    /// Text of several lines.
    fn text(&mut self, text: &str);
    /// A table: one line per row.
    fn rows(&mut self, rows: &[String]);
    /// The next `len` results are the elements of a list.
    fn array(&mut self, len: usize);
    /// A list of values.
    fn list(&mut self, values: &[impl AsRef<[u8]>]) {
        self.array(values.len());
        values.iter().for_each(|value| self.value(Some(value.as_ref())));
    }
    /// The next `2 * len` results are keys and values in turn.
    fn map(&mut self, len: usize) {
        self.array(2 * len);
    }
    /// The client chose another version of the protocol, from this reply on.
    fn set_version(&mut self, _version: u8) {}
    /// The buffer written to.
    fn buffer(&mut self) -> &mut Vec<u8>;
}

/// What the first bytes of a connection say about its protocol.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// A request starts with `*`.
    Resp,
    /// A letter: text lines, HTTP or an inline `HELLO` of RESP, which the first whole line will
    /// show ([`line::is_http_like`], [`line::is_hello`]).
    Line,
}

/// Length of the empty lines at the front of a connection, which choose nothing.
pub fn empty_lines(bytes: &[u8]) -> usize {
    let mut len = 0;
    loop {
        match bytes[len..] {
            [b'\n', ..] => len += 1,
            [b'\r', b'\n', ..] => len += 2,
            _ => return len,
        }
    }
}

/// Chooses the protocol by the first bytes after [`empty_lines`]. `None` until there are enough.
pub fn choose(bytes: &[u8]) -> Result<Option<Choice>> {
    match bytes {
        [] | [b'\r'] => Ok(None),
        [b'*', ..] => Ok(Some(Choice::Resp)),
        [first, ..] if first.is_ascii_alphabetic() => Ok(Some(Choice::Line)),
        [0x16, ..] => Err(Error::protocol(
            "this looks like TLS, which is not spoken here; connect without it",
        )),
        [first, ..] => Err(Error::protocol(format!(
            "a request starts with '*' (RESP) or a letter (lines, HTTP), not with '{}'",
            first.escape_ascii()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_chooses() {
        assert_eq!(choose(b"").expect("undecided"), None);
        assert_eq!(choose(b"\r").expect("undecided"), None);
        assert_eq!(choose(b"*").expect("RESP"), Some(Choice::Resp));
        assert_eq!(choose(b"g").expect("lines"), Some(Choice::Line));
        for bad in [&b"$5"[..], b"\x16\x03\x01", b"\0", b"\xff", b"\rx", b"1", b" GET k"] {
            let message = choose(bad).expect_err("not a protocol").to_string();
            assert!(message.starts_with("Protocol error: "), "{message}");
        }
    }

    #[test]
    fn empty_lines_choose_nothing() {
        assert_eq!(empty_lines(b"\r\n\n\r\nPING"), 5);
        assert_eq!(empty_lines(b"\r"), 0);
    }
}
