//! The keys of a pipeline that are needed soon. Read this last: nothing depends on it.
//!
//! A lookup in a large store waits for the memory. The store can wait for several keys at the same
//! time if it knows them, so the server looks at the requests that follow in its read buffer and
//! names their keys. The requests are executed as if nobody had looked.

use super::resp::short_header_line;

/// The keys of the requests that `bytes` start with, as far as these are complete and of two or
/// three words, `GET` and `SET` above all: the second word of each.
#[derive(Debug)]
pub struct KeysAhead<'a>(pub &'a [u8]);

impl<'a> Iterator for KeysAhead<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let KeysAhead(bytes) = *self;
        let (words @ 2..=3, mut at) = short_header_line(bytes, 0)? else {
            return None;
        };
        let mut key = None;
        for index in 0..words {
            let (len, start) = short_header_line(bytes, at)?;
            let word = bytes.get(start..start + len as usize)?;
            key = if index == 1 { Some(word) } else { key };
            at = start + len as usize + 2;
        }
        self.0 = bytes.get(at..)?;
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_ahead_are_those_of_plain_requests() {
        let keys = |bytes: &[u8]| KeysAhead(bytes).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let (get, set) =
            (b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", b"*3\r\n$3\r\nSET\r\n$2\r\nbc\r\n$0\r\n\r\n");
        let bytes = [&get[..], set, get, b"*1\r\n$4\r\nPING\r\n", get].concat();
        assert_eq!(keys(&bytes), [&b"a"[..], b"bc", b"a"]);
        for end in 0..get.len() + set.len() {
            assert_eq!(keys(&bytes[..end]).len(), usize::from(end >= get.len()), "{end} bytes");
        }
        for other in [
            &b"GET a\r\n"[..],
            b"*2\r\n$3\r\nGET\r\n$-1\r\n",
            b"*2\r\n$9999999\r\n",
            b"\r\n",
            b"*4\r\n",
            b"",
        ] {
            assert!(keys(other).is_empty(), "{}", other.escape_ascii());
        }
    }
}
