//! RESP2 and RESP3, the Redis protocol: requests in, replies out.
//!
//! A request is an array of strings. Each string follows its length, so keys and values may hold
//! any bytes:
//!
//! ```text
//! *3\r\n $3\r\nSET\r\n $4\r\nname\r\n $5\r\nDylan\r\n      (without the spaces)
//! ```
//!
//! A reply starts with a byte for its kind: `+OK`, `-ERR message`, `:5`, `$5\r\nDylan`, `*2` and
//! two replies. A missing value is `$-1` in RESP2 and `_` in RESP3, which a client chooses with
//! `HELLO 3`. RESP3 needs `_` also inside arrays: redis-py 8 waits for ever after a `$-1` there. A
//! map of two pairs starts with `%2` in RESP3.
//!
//! The parser accepts one inline request: a `HELLO …` line at the start of a connection
//! ([`Parser::with_inline_request`]).
//!
//! Error texts are those of Redis where it has them: its test suite and several clients check them.
//! Specification: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use super::words::{Span, Words};
use super::{Reply, UNAUTHENTICATED_ELEMENTS_MAX};
use crate::config::{Limits, VALUE_BYTES_MAX};
use crate::error::{Code, Error, Refusal, Result};

/// Finds requests in the unread bytes. When more bytes have arrived it continues where it stopped.
///
/// Invariants:
/// - `requests_are_the_same_however_the_bytes_are_split` (in `tests/parsers.rs`).
/// - `position` is at the start of an element, within the bytes seen.
/// - `spans` grows by one for each complete element, which is at least six bytes long.
#[derive(Debug, Default)]
pub struct Parser {
    /// Where to continue, from the start of the request; 0 before its first line.
    position: usize,
    /// Elements that are still to come.
    left: usize,
    /// The complete elements so far.
    spans: Vec<Span>,
    /// The request is a line of words.
    is_inline: bool,
}

impl Parser {
    /// A parser whose first request is a line: words with white space between them, without quotes.
    pub fn with_inline_request() -> Self {
        Parser { is_inline: true, ..Parser::default() }
    }

    /// Length of the first request in `bytes`; `None` until the request is complete. Until then
    /// `bytes` starts at the same request and only grows. [`Parser::words`] returns the words of a
    /// complete request. A request without words gets no reply.
    pub fn parse(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        authenticated: bool,
    ) -> Result<Option<usize>> {
        if self.position == 0 {
            self.spans.clear();
            // Empty lines between requests get no reply, as in Redis.
            let skipped = super::empty_lines(bytes);
            if skipped > 0 {
                return Ok(Some(skipped));
            }
            let is_begun = if self.is_inline {
                self.inline(bytes, limits, authenticated)?
            } else {
                self.start(bytes, limits, authenticated)?
            };
            if !is_begun {
                return Ok(None);
            }
        }
        while self.left > 0 {
            if !self.element(bytes, limits, authenticated)? {
                return Ok(None);
            }
        }
        Ok(Some(std::mem::take(&mut self.position)))
    }

    /// The words of the request that [`Parser::parse`] found at the start of `bytes`.
    pub fn words<'a>(&'a self, bytes: &'a [u8]) -> Words<'a> {
        Words::new(bytes, &self.spans)
    }

    fn start(&mut self, bytes: &[u8], limits: &Limits, authenticated: bool) -> Result<bool> {
        // A long request must not occupy memory for the rest of the connection.
        self.spans.shrink_to(SPANS_KEPT);
        match bytes {
            [] | [b'\r'] => return Ok(false),
            [b'*', ..] => {}
            [other, ..] => {
                return Err(Error::protocol(format!(
                    "expected '*', got '{}'",
                    other.escape_ascii()
                )));
            }
        }
        let (too_long, invalid) = ("too big mbulk count string", "invalid multibulk length");
        let Some((len, after)) = header_line(bytes, 0, too_long, invalid)? else {
            return Ok(false);
        };
        // A request of a negative length has no words, as in Redis.
        let len = len.max(0) as usize;
        if len > limits.request_elements_max {
            return Err(Error::protocol(invalid));
        }
        if !authenticated && len > UNAUTHENTICATED_ELEMENTS_MAX {
            return Err(Error::Protocol(no_auth()));
        }
        (self.position, self.left) = (after, len);
        Ok(true)
    }

    fn inline(&mut self, bytes: &[u8], limits: &Limits, authenticated: bool) -> Result<bool> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let len = end.unwrap_or(bytes.len());
        if !authenticated && len > limits.unauthenticated_bytes_max {
            return Err(Error::Protocol(no_auth()));
        }
        if len > INLINE_BYTES_MAX {
            return Err(Error::protocol("too big inline request"));
        }
        let Some(end) = end else {
            return Ok(false);
        };
        let mut start = 0;
        for word in bytes[..end].split(|byte| byte.is_ascii_whitespace()) {
            if !word.is_empty() {
                if !authenticated && self.spans.len() == UNAUTHENTICATED_ELEMENTS_MAX {
                    return Err(Error::Protocol(no_auth()));
                }
                self.spans.push(Span::new(start, start + word.len()));
            }
            start += word.len() + 1;
        }
        (self.position, self.is_inline) = (end + 1, false);
        Ok(true)
    }

    /// Reads the next element; `false` until all of it is there. Until then each call reads its
    /// header again, which is short.
    fn element(&mut self, bytes: &[u8], limits: &Limits, authenticated: bool) -> Result<bool> {
        match bytes.get(self.position) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(other) => {
                return Err(Error::protocol(format!(
                    "expected '$', got '{}'",
                    other.escape_ascii()
                )));
            }
        }
        let (too_long, invalid) = ("too big bulk count string", "invalid bulk length");
        let Some((len, start)) = header_line(bytes, self.position, too_long, invalid)? else {
            return Ok(false);
        };
        let len_max = if self.is_merge(bytes) { MERGE_BYTES_MAX } else { VALUE_BYTES_MAX };
        let len = usize::try_from(len).ok().filter(|len| *len <= len_max);
        let end = start + len.ok_or_else(|| Error::protocol(invalid))?;
        if !authenticated && end > limits.unauthenticated_bytes_max {
            return Err(Error::Protocol(no_auth()));
        }
        if end > limits.request_bytes_max {
            let message = format!("request too long: at most {} bytes", limits.request_bytes_max);
            return Err(Error::protocol(message));
        }
        let Some(line_end) = bytes.get(end..end + 2) else {
            return Ok(false);
        };
        if line_end != b"\r\n" {
            return Err(Error::protocol(format!(
                "expected CR LF after {} bytes, got '{}'",
                end - start,
                line_end.escape_ascii()
            )));
        }
        self.spans.push(Span::new(start, end));
        self.position = end + 2;
        self.left -= 1;
        Ok(true)
    }

    /// Whether the next element is the records of a `PEER MERGE`, the entries of a `PEER APPEND`
    /// or the proposals of a `PEER FORWARD`, the only strings that may be longer than the longest
    /// value.
    fn is_merge(&self, bytes: &[u8]) -> bool {
        let name: &[u8] = match (self.left, self.spans.len()) {
            (1, 2) => b"MERGE",
            (1, 8) => b"APPEND",
            (1, 3) => b"FORWARD",
            _ => return false,
        };
        let words = self.words(bytes);
        words.get(0).eq_ignore_ascii_case(b"PEER") && words.get(1).eq_ignore_ascii_case(name)
    }

    /// How many bytes of such a string have arrived, while it is not complete. `None` for any
    /// other request, and for one of less than `len_min` bytes in all.
    pub fn merge_bytes(&self, bytes: &[u8], len_min: usize) -> Option<usize> {
        if !self.is_merge(bytes) {
            return None;
        }
        let (len, start) = header_line(bytes, self.position, "", "").ok()??;
        (len >= len_min as i64).then(|| bytes.len() - start)
    }
}

/// Longest header line, such as `*3` or `$5`. A longer one is a protocol error.
const HEADER_BYTES_MAX: usize = 64;
/// Longest records of a `PEER MERGE`: one record of the longest key and value must fit.
const MERGE_BYTES_MAX: usize = VALUE_BYTES_MAX + 128 * 1024;
/// As in Redis.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// Spans kept between requests: 2 KiB, enough for most requests.
const SPANS_KEPT: usize = 256;

/// Reads the header line at `start`: the number behind its first byte, and where the next line
/// starts. `None` until the line is complete. The two messages are those of the errors.
fn header_line(
    bytes: &[u8],
    start: usize,
    too_long: &str,
    invalid: &str,
) -> Result<Option<(i64, usize)>> {
    if let Some(read) = short_header_line(bytes, start) {
        return Ok(Some(read));
    }
    let line = &bytes[start..bytes.len().min(start + HEADER_BYTES_MAX)];
    let Some(end) = line.iter().position(|&byte| byte == b'\r') else {
        let full = line.len() == HEADER_BYTES_MAX;
        return if full { Err(Error::protocol(too_long)) } else { Ok(None) };
    };
    let number = match bytes.get(start + end + 1) {
        None => return Ok(None),
        Some(b'\n') => decimal(&line[1..end]),
        Some(_) => None,
    };
    Ok(Some((number.ok_or_else(|| Error::protocol(invalid))?, start + end + 2)))
}

/// Reads a complete header line of at most five digits in one pass, as nearly all are. It saves 8 %
/// of the instructions of a `GET`. [`header_line`] reads all others.
pub(super) fn short_header_line(bytes: &[u8], start: usize) -> Option<(i64, usize)> {
    let mut number = 0;
    for at in start + 1..start + 7 {
        match *bytes.get(at)? {
            digit @ b'0'..=b'9' => number = number * 10 + i64::from(digit - b'0'),
            b'\r' if at > start + 1 && bytes.get(at + 1) == Some(&b'\n') => {
                return Some((number, at + 2));
            }
            _ => return None,
        }
    }
    None
}

/// A number as the protocol writes it: digits, perhaps a minus sign, nothing else.
pub fn decimal(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut number: i64 = 0;
    for digit in digits {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number = number.checked_mul(10)?.checked_add(i64::from(digit))?;
    }
    Some(if negative { -number } else { number })
}

/// The reply to a command before the password.
pub fn no_auth() -> Refusal {
    Refusal { code: Code::NoPassword, message: "Authentication required.".into() }
}

/// Writes results in RESP.
#[derive(Debug)]
pub struct RespReply<'a> {
    /// Where to.
    pub out: &'a mut Vec<u8>,
    /// 2 or 3.
    pub version: u8,
}

impl RespReply<'_> {
    fn header(&mut self, kind: u8, number: i64) {
        self.out.push(kind);
        push_decimal(self.out, number);
        self.out.extend_from_slice(b"\r\n");
    }
}

impl Reply for RespReply<'_> {
    fn simple(&mut self, word: &str) {
        self.out.push(b'+');
        self.out.extend_from_slice(word.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn value(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => {
                self.header(b'$', value.len() as i64);
                self.out.extend_from_slice(value);
                self.out.extend_from_slice(b"\r\n");
            }
            None if self.version == 3 => self.out.extend_from_slice(b"_\r\n"),
            None => self.out.extend_from_slice(b"$-1\r\n"),
        }
    }

    fn integer(&mut self, number: i64) {
        self.header(b':', number);
    }

    fn error(&mut self, refusal: &Refusal) {
        self.out.extend_from_slice(
            format!("-{} {}\r\n", refusal.code.word(), refusal.message).as_bytes(),
        );
    }

    fn text(&mut self, text: &str) {
        self.value(Some(text.as_bytes()));
    }

    fn rows(&mut self, rows: &[String]) {
        self.list(rows);
    }

    fn set_version(&mut self, version: u8) {
        self.version = version;
    }

    fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    fn map(&mut self, len: usize) {
        match self.version {
            3 => self.header(b'%', len as i64),
            _ => self.array(2 * len),
        }
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        self.out
    }
}

/// Appends a number in decimal. `write!` takes five times the instructions, and every `GET` writes
/// a length.
fn push_decimal(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> std::result::Result<Option<(usize, Vec<String>)>, String> {
        let mut parser = Parser::default();
        let len =
            parser.parse(bytes, &Limits::default(), true).map_err(|error| error.to_string())?;
        Ok(len.map(|len| {
            (len, parser.words(bytes).iter().map(|word| word.escape_ascii().to_string()).collect())
        }))
    }

    #[test]
    fn a_request_is_its_words() {
        let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        assert_eq!(
            parse(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nrest"),
            Ok(Some((20, words(&["GET", "k"]))))
        );
        assert_eq!(parse(b"\r\n*1\r\n$4\r\nPING\r\n"), Ok(Some((2, vec![]))));
        assert_eq!(
            parse(b"*1\r\n$4\r\n\r\n\0\xff\r\n"),
            Ok(Some((14, words(&["\\r\\n\\x00\\xff"]))))
        );
        assert_eq!(parse(b"*0\r\n"), Ok(Some((4, vec![]))));
        assert_eq!(parse(b"*-10\r\n"), Ok(Some((6, vec![]))));
    }

    #[test]
    fn wrong_framing_is_said_as_redis_says_it() {
        for (bytes, message) in [
            (&b"*3000000000\r\n"[..], "invalid multibulk length"),
            (b"*1048577\r\n", "invalid multibulk length"),
            (b"*x\r\n", "invalid multibulk length"),
            (b"*\r\n", "invalid multibulk length"),
            (b"*99999999999999999999\r\n", "invalid multibulk length"),
            (b"*1\r\nfooz\r\n", "expected '$', got 'f'"),
            (b"*1\r\n$-10\r\n", "invalid bulk length"),
            (b"*1\r\n$2000000000\r\n", "invalid bulk length"),
            (b"*1\r\n$67108865\r\n", "invalid bulk length"),
            (b"*1\r\n$blabla\r\n", "invalid bulk length"),
            (b"*1\r\n$1\r\nxyz", "expected CR LF after 1 bytes, got 'yz'"),
            (b"*1\r\n$4\r\nPING\r\nfoo", ""),
            (b"PING\r\n", "expected '*', got 'P'"),
            (&[b'*'; 64], "too big mbulk count string"),
        ] {
            match parse(bytes) {
                Err(error) => assert_eq!(error, format!("Protocol error: {message}")),
                Ok(found) => {
                    assert!(message.is_empty() && found.is_some(), "{}", bytes.escape_ascii())
                }
            }
        }
        let long = [&b"*1\r\n$"[..], &[b'1'; 80]].concat();
        assert_eq!(parse(&long), Err("Protocol error: too big bulk count string".into()));
    }

    #[test]
    fn before_the_password_little_is_read() {
        let limits = Limits::default();
        for (bytes, refused) in [
            (&b"*11\r\n"[..], true),
            (b"*10\r\n", false),
            (b"*1\r\n$16385\r\n", true),
            (b"*1\r\n$16372\r\n", false),
        ] {
            let result = Parser::default().parse(bytes, &limits, false);
            assert_eq!(result.is_err(), refused, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_request_has_a_limit_as_a_whole() {
        let limits = Limits { request_bytes_max: 40, ..Limits::default() };
        let bytes = b"*3\r\n$9\r\n123456789\r\n$9\r\n123456789\r\n$9\r\n";
        let error = Parser::default().parse(bytes, &limits, true).expect_err("too long");
        assert_eq!(error.to_string(), "Protocol error: request too long: at most 40 bytes");
    }

    #[test]
    fn null_has_the_form_of_the_version() {
        for (version, expected) in [(2, &b"*1\r\n$-1\r\n*2\r\n"[..]), (3, b"*1\r\n_\r\n%1\r\n")] {
            let mut out = Vec::new();
            let mut reply = RespReply { out: &mut out, version };
            reply.array(1);
            reply.value(None);
            reply.map(1);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn numbers_are_written_as_std_writes_them() {
        for number in [0, 1, -1, 9, 10, 12_345, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
