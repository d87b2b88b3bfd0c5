//! Reading replies: RESP as a client sees it.

use std::io::{self, BufRead, ErrorKind, Read};

use crate::protocol::resp::decimal;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A status word, such as `OK` or `PONG`.
    Simple(String),
    /// A refused request: the code word (`ERR`, `NOAUTH`, …) and the reason.
    Error(String, String),
    /// A number.
    Integer(i64),
    /// A value.
    Bulk(Vec<u8>),
    /// The key does not exist.
    Null,
    /// A list; a map is one of keys and values in turn.
    Array(Vec<Response>),
}

/// Longest header line: an error message, with what the client sent in it.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Longest string; the server's values are at most an eighth of it.
const BULK_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Deepest nesting of arrays; a kvstore server nests less deeply.
const DEPTH_MAX: u32 = 8;

impl Response {
    /// Reads one reply, however large, without trusting the lengths in it.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Response> {
        Response::read_within(reader, u64::MAX)
    }

    /// Reads one reply of at most `bytes_max` bytes of memory. A longer one is an error.
    pub fn read_within(reader: &mut impl BufRead, bytes_max: u64) -> io::Result<Response> {
        Response::read_nested(reader, DEPTH_MAX, &mut { bytes_max })
    }

    /// The value, if it is one.
    pub fn value(self) -> Option<Vec<u8>> {
        if let Response::Bulk(value) = self { Some(value) } else { None }
    }

    fn read_nested(
        reader: &mut impl BufRead,
        depth: u32,
        bytes_left: &mut u64,
    ) -> io::Result<Response> {
        let line = read_line(reader)?;
        spend(bytes_left, line.len() + 2)?;
        let (kind, rest) = line.split_first().ok_or_else(|| bad("an empty line"))?;
        let text = || String::from_utf8_lossy(rest).into_owned();
        let number = || decimal(rest).ok_or_else(|| bad("a length that is no number"));
        Ok(match kind {
            b'+' => Response::Simple(text()),
            b'-' => {
                let text = text();
                let (code, message) = text.split_once(' ').unwrap_or((&text, ""));
                Response::Error(code.into(), message.into())
            }
            b':' => Response::Integer(number()?),
            b'_' => Response::Null,
            b'$' | b'*' | b'%' if number()? < 0 => Response::Null,
            b'$' => {
                let len = number()? as u64;
                spend(bytes_left, len.saturating_add(2))?;
                Response::Bulk(read_bulk(reader, len)?)
            }
            b'*' | b'%' => {
                let per_entry = if *kind == b'%' { 2 } else { 1 };
                let len = number()?.saturating_mul(per_entry);
                Response::Array(read_list(reader, len, depth, bytes_left)?)
            }
            _ => return Err(bad("a kind of reply that this client does not know")),
        })
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.first().is_some_and(|&kind| !is_reply(kind)) {
        return Err(foreign(&line));
    }
    if !line.ends_with(b"\n") && (line.len() as u64) < LINE_BYTES_MAX {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let line = line.strip_suffix(b"\r\n").ok_or_else(|| bad("a line without its end"))?;
    Ok(line.to_vec())
}

fn read_bulk(reader: &mut impl BufRead, len: u64) -> io::Result<Vec<u8>> {
    if len > BULK_BYTES_MAX {
        return Err(bad("a string beyond all limits"));
    }
    // `read_to_end` grows with what arrives, not with what was announced.
    let mut bytes = Vec::new();
    reader.take(len + 2).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != len + 2 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(len as usize);
    Ok(bytes)
}

fn read_list(
    reader: &mut impl BufRead,
    len: i64,
    depth: u32,
    bytes_left: &mut u64,
) -> io::Result<Vec<Response>> {
    let depth = depth.checked_sub(1).ok_or_else(|| bad("lists in lists in lists"))?;
    let mut list = Vec::new();
    for _ in 0..len {
        spend(bytes_left, size_of::<Response>())?;
        list.push(Response::read_nested(reader, depth, bytes_left)?);
    }
    Ok(list)
}

/// Subtracts `bytes` from the memory that a reply may still take.
fn spend(bytes_left: &mut u64, bytes: impl TryInto<u64>) -> io::Result<()> {
    let rest = bytes_left.checked_sub(bytes.try_into().unwrap_or(u64::MAX));
    *bytes_left = rest.ok_or_else(|| bad("a longer reply than this request can have"))?;
    Ok(())
}

/// Whether a reply in RESP2 or RESP3 can begin with this byte.
pub fn is_reply(first: u8) -> bool {
    b"+-:$*_#,(!=%~>|".contains(&first)
}

/// The error for an answer that no kvstore or Redis server sends, such as that of a web server.
pub fn foreign(answer: &[u8]) -> io::Error {
    let line = answer.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    let shown = line[..line.len().min(FOREIGN_BYTES_SHOWN)].escape_ascii();
    io::Error::new(
        ErrorKind::Unsupported,
        format!("is no kvstore or Redis server: it answered '{shown}'"),
    )
}

/// Enough to recognize a web server.
const FOREIGN_BYTES_SHOWN: usize = 60;

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the server sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(mut bytes: &[u8]) -> io::Result<Response> {
        Response::read(&mut bytes)
    }

    #[test]
    fn every_kind_of_reply_is_read() {
        let bulk = |text: &str| Response::Bulk(text.as_bytes().to_vec());
        for (bytes, expected) in [
            ("+OK\r\n", Response::Simple("OK".into())),
            ("-ERR no such thing\r\n", Response::Error("ERR".into(), "no such thing".into())),
            (":-5\r\n", Response::Integer(-5)),
            ("$3\r\na\r\n\r\n", bulk("a\r\n")),
            ("$-1\r\n", Response::Null),
            ("_\r\n", Response::Null),
            ("*2\r\n$1\r\na\r\n$-1\r\n", Response::Array(vec![bulk("a"), Response::Null])),
            ("%1\r\n$1\r\na\r\n:1\r\n", Response::Array(vec![bulk("a"), Response::Integer(1)])),
        ] {
            assert_eq!(read(bytes.as_bytes()).expect("a reply"), expected);
        }
    }

    #[test]
    fn a_cut_reply_and_a_foreign_one_are_told_apart() {
        for cut in ["", "+O", "$5\r\nabc", "*2\r\n:1\r\n", "$5\r"] {
            assert_eq!(
                read(cut.as_bytes()).expect_err("cut").kind(),
                ErrorKind::UnexpectedEof,
                "{cut:?}"
            );
        }
        for answer in [
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            "<!DOCTYPE HTML>\n",
            "SSH-2.0-x\r\n",
            "\x15\x03\x01",
        ] {
            let error = read(answer.as_bytes()).expect_err("foreign");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{answer:?}");
        }
        let error = foreign(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n");
        assert_eq!(
            error.to_string(),
            "is no kvstore or Redis server: it answered 'HTTP/1.1 400 Bad Request'"
        );
    }

    #[test]
    fn nonsense_is_refused_without_much_memory() {
        for bytes in [
            "",
            "$5\r\nabc",
            "$99999999999\r\n",
            "*9999999999\r\n",
            "?\r\n",
            "\r\n",
            "+OK",
            "$x\r\n",
        ] {
            assert!(read(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
        assert!(read("*1\r\n".repeat(100_000).as_bytes()).is_err(), "too deep");
    }

    #[test]
    fn a_reply_that_would_take_too_much_memory_is_refused() {
        let elements = format!("*100\r\n{}", "*0\r\n".repeat(100));
        let deep = format!("*3\r\n{elements}{elements}{elements}");
        for (bytes, needed) in
            [("$5\r\nabcde\r\n", 11), (elements.as_str(), 3_500), (deep.as_str(), 10_000)]
        {
            assert!(Response::read_within(&mut bytes.as_bytes(), 2 * needed).is_ok());
            assert!(Response::read_within(&mut bytes.as_bytes(), needed - 1).is_err());
        }
        let endless = format!("*1000000000\r\n{}", "*0\r\n".repeat(100_000));
        let mut rest = endless.as_bytes();
        assert!(Response::read_within(&mut rest, 65_536).is_err());
        assert!(rest.len() > endless.len() - 65_536, "it stops reading");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
