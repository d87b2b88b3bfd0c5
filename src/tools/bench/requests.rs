//! What is sent, and what must come back.
//!
//! All keys exist and all values are the same, so every reply is known beforehand. Requests are
//! copied from a template, in which only the digits of the key change.

use std::ops::Range;

use crate::client::encode;
use crate::options::BenchOptions;

/// What a request does; also the index into what is kept for each kind.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Read,
    Write,
}

pub(super) struct Requests {
    templates: [Template; 2],
    /// The replies to a whole pipeline of reads, and to one of writes.
    replies: [Vec<u8>; 2],
}

impl Requests {
    pub(super) fn new(options: &BenchOptions) -> Self {
        let value = vec![b'x'; options.value_bytes as usize];
        let got = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
        let pipeline = options.pipeline as usize;
        Requests {
            templates: [Template::new(None), Template::new(Some(&value))],
            replies: [got.repeat(pipeline), b"+OK\r\n".repeat(pipeline)],
        }
    }

    /// Appends a request for the key of this number.
    pub(super) fn push(&self, kind: Kind, mut key: u64, buffer: &mut Vec<u8>) {
        let Template { request, digits } = &self.templates[kind as usize];
        let start = buffer.len();
        buffer.extend_from_slice(request);
        for digit in buffer[start + digits.start..start + digits.end].iter_mut().rev() {
            *digit = b'0' + (key % 10) as u8;
            key /= 10;
        }
    }

    /// The replies to a pipeline of requests of this kind.
    pub(super) fn replies(&self, kind: Kind) -> &[u8] {
        &self.replies[kind as usize]
    }
}

struct Template {
    request: Vec<u8>,
    /// Where the digits are.
    digits: Range<usize>,
}

impl Template {
    /// `SET key value`, or `GET key` without a value.
    fn new(value: Option<&[u8]>) -> Self {
        // As redis-benchmark names its keys.
        let key = b"key:000000000000";
        let get = encode(&[b"GET", key]);
        // Both names have three letters, so the key ends at the same place.
        let end = get.len() - b"\r\n".len();
        let request = value.map_or(get, |value| encode(&[b"SET", key, value]));
        Template { request, digits: end - 12..end }
    }
}
