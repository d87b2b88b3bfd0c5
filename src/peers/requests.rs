//! What links say to each other: `PEER …` requests in RESP, and their replies.
//!
//! | request | reply |
//! |---|---|
//! | `PEER HELLO …` | see [`super::introduction`] |
//! | `PEER DIGESTS` | a bulk of 1,024 `u64` |
//! | `PEER DIGESTS shard` | a bulk of 64 `u64` |
//! | `PEER VERSIONS shard bucket` | a bulk of `key_len u32`, key, `time u64`, `origin u64` for each entry |
//! | `PEER MERGE records` | lines `+<bytes so far>` while a long one is read, then `[merged, refused]` |
//!
//! Numbers are little-endian. A list of versions longer than 1 MiB is answered with its first part:
//! an array of two bulks, entries in the order of their keys, and the last of these keys. `PEER
//! VERSIONS shard bucket key` is answered with what follows that key, again in an array if there is
//! still more, in parts of at most 16 MiB: see [`super::versions`].

use std::io::Write;

use super::introduction::{HELLO_BYTES_MAX, Introduction, explained};
use super::versions::{Listed, Place};
use crate::client::Response;
use crate::config::KEY_BYTES_MAX;
use crate::error::{Error, Result};
use crate::guard::sentence;

/// What a list of versions may have besides its part: an entry that is longer than that, the key to
/// go on after, headers.
const VERSIONS_BYTES_MORE: u64 = 4 * KEY_BYTES_MAX as u64;
/// Longest reply of any other kind: an error, or the digests of all shards.
const SHORT_BYTES_MAX: u64 = 64 * 1024;

/// What a link asks of its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRequest {
    /// Who are you? This is me.
    Hello(Introduction),
    /// The digests of all shards.
    ShardDigests,
    /// The digests of a shard's buckets.
    BucketDigests(usize),
    /// Keys and versions in a bucket, from a place in its list on.
    Versions(Place),
    /// Take these records in.
    Merge(Vec<u8>),
    /// What a way to agree asks: numbers, and perhaps something long.
    Agree {
        /// The word after `PEER`.
        name: &'static str,
        /// In decimal.
        numbers: Vec<u64>,
        /// The last word.
        body: Option<Vec<u8>>,
    },
}

/// What the peer answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerReply {
    /// To HELLO.
    Introduction(Introduction),
    /// Digests.
    Bytes(Vec<u8>),
    /// Keys and versions.
    Listed(Listed),
    /// How many records were taken in, and how many were too far ahead of the clock there.
    Merged {
        /// Taken in.
        merged: u64,
        /// Too far ahead.
        refused: u64,
    },
    /// To a way to agree.
    Numbers(Vec<u64>),
    /// Why not.
    Error(String),
}

impl PeerRequest {
    /// Appends the request in RESP, but for its [`PeerRequest::body`], which follows.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let number = |number: &usize| number.to_string().into_bytes();
        let words: Vec<Vec<u8>> = match self {
            PeerRequest::Hello(introduction) => {
                let words = introduction.words().into_iter().map(String::into_bytes);
                [b"HELLO".to_vec()].into_iter().chain(words).collect()
            }
            PeerRequest::ShardDigests => vec![b"DIGESTS".to_vec()],
            PeerRequest::BucketDigests(shard) => vec![b"DIGESTS".to_vec(), number(shard)],
            PeerRequest::Versions(Place { shard, bucket, after }) => {
                let words = [b"VERSIONS".to_vec(), number(shard), number(bucket)];
                words.into_iter().chain(after.as_ref().map(|key| key.to_vec())).collect()
            }
            PeerRequest::Merge(records) => {
                // Writing to a Vec cannot fail.
                let _ = write!(out, "*3\r\n$4\r\nPEER\r\n$5\r\nMERGE\r\n${}\r\n", records.len());
                return;
            }
            PeerRequest::Agree { name, numbers, .. } => {
                let numbers = numbers.iter().map(|number| number.to_string().into_bytes());
                [name.as_bytes().to_vec()].into_iter().chain(numbers).collect()
            }
        };
        let body = self.body().filter(|_| !matches!(self, PeerRequest::Merge(_)));
        let _ = write!(out, "*{}\r\n$4\r\nPEER\r\n", words.len() + 1 + usize::from(body.is_some()));
        for word in words {
            let _ = write!(out, "${}\r\n", word.len());
            out.extend_from_slice(&word);
            out.extend_from_slice(b"\r\n");
        }
        if let Some(body) = body {
            let _ = write!(out, "${}\r\n", body.len());
        }
    }

    /// The last word of a request, where it may be long: it is sent behind what
    /// [`PeerRequest::encode`] writes, and then CR LF.
    pub fn body(&self) -> Option<&[u8]> {
        match self {
            PeerRequest::Merge(records) => Some(records),
            PeerRequest::Agree { body, .. } => body.as_deref(),
            _ => None,
        }
    }

    /// Longest reply to this request in memory, in bytes: a peer cannot make this node hold more.
    pub fn reply_bytes_max(&self) -> u64 {
        match self {
            PeerRequest::Hello(_) => HELLO_BYTES_MAX as u64,
            PeerRequest::Versions(place) => place.bytes_max() as u64 + VERSIONS_BYTES_MORE,
            _ => SHORT_BYTES_MAX,
        }
    }

    /// What a response to this request means.
    pub fn reply(&self, response: Response) -> Result<PeerReply> {
        Ok(match (self, response) {
            (PeerRequest::Hello(_), Response::Error(code, message)) if code == "ERR" => {
                PeerReply::Error(explained(sentence(message)))
            }
            (_, Response::Error(code, message)) if code == "ERR" => {
                PeerReply::Error(sentence(message))
            }
            (_, Response::Error(code, message)) => {
                PeerReply::Error(sentence(format!("{code} {message}")))
            }
            (PeerRequest::Hello(_), response) => {
                PeerReply::Introduction(Introduction::from_response(&response)?)
            }
            (PeerRequest::Merge(_), Response::Array(counts)) => match counts.as_slice() {
                [Response::Integer(merged @ 0..), Response::Integer(refused @ 0..)] => {
                    PeerReply::Merged { merged: *merged as u64, refused: *refused as u64 }
                }
                _ => return Err(Error::Corrupt("a MERGE was not acknowledged".into())),
            },
            (PeerRequest::Agree { .. }, Response::Array(numbers)) => {
                let number = |response: &Response| match response {
                    Response::Integer(number @ 0..) => Some(*number as u64),
                    _ => None,
                };
                let numbers: Option<Vec<u64>> = numbers.iter().map(number).collect();
                PeerReply::Numbers(
                    numbers.ok_or_else(|| Error::Corrupt("a reply that is no numbers".into()))?,
                )
            }
            (PeerRequest::Versions(_), Response::Bulk(bytes)) => {
                PeerReply::Listed(Listed { bytes, last: None })
            }
            (PeerRequest::Versions(_), Response::Array(parts)) => {
                match <[Response; 2]>::try_from(parts) {
                    Ok([Response::Bulk(bytes), Response::Bulk(last)]) => {
                        PeerReply::Listed(Listed { bytes, last: Some(last.into()) })
                    }
                    _ => {
                        return Err(Error::Corrupt(
                            "a list of versions that makes no sense".into(),
                        ));
                    }
                }
            }
            (_, Response::Bulk(bytes)) => PeerReply::Bytes(bytes),
            _ => return Err(Error::Corrupt("a reply of another kind".into())),
        })
    }
}
