//! What links say to each other: `PEER …` requests in RESP, and their replies.

use std::io::Write;

use super::introduction::{HELLO_BYTES_MAX, Introduction, explained};
use crate::client::Response;
use crate::error::{Error, Result};
use crate::guard::sentence;

/// Longest list of versions: the longest bulk that a server sends, and its header.
const VERSIONS_BYTES_MAX: u64 = 512 * 1024 * 1024 + 64;
/// Longest reply of any other kind: an error, or the digests of all shards.
const SHORT_BYTES_MAX: u64 = 64 * 1024;

/// What a link asks of its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Who are you? This is me.
    Hello,
    /// The digests of all shards.
    ShardDigests,
    /// The digests of a shard's buckets.
    BucketDigests(usize),
    /// Keys and versions in a bucket of a shard.
    Versions(usize, usize),
    /// Take these records in.
    Merge(Vec<u8>),
}

/// What the peer answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To HELLO.
    Introduction(Introduction),
    /// Digests or versions.
    Bytes(Vec<u8>),
    /// How many records were taken in, and how many were too far ahead of the clock there.
    Merged {
        /// Taken in.
        merged: u64,
        /// Too far ahead.
        refused: u64,
    },
    /// Why not.
    Error(String),
}

impl Request {
    /// Appends the request in RESP, but for the records of a MERGE, which follow, and then CR LF.
    pub fn encode(&self, introduction: &Introduction, out: &mut Vec<u8>) {
        let words: Vec<String> = match self {
            Request::Hello => [vec!["HELLO".into()], introduction.words().to_vec()].concat(),
            Request::ShardDigests => vec!["DIGESTS".into()],
            Request::BucketDigests(shard) => vec!["DIGESTS".into(), shard.to_string()],
            Request::Versions(shard, bucket) => {
                vec!["VERSIONS".into(), shard.to_string(), bucket.to_string()]
            }
            Request::Merge(records) => {
                // Writing to a Vec cannot fail.
                let _ = write!(out, "*3\r\n$4\r\nPEER\r\n$5\r\nMERGE\r\n${}\r\n", records.len());
                return;
            }
        };
        let _ = write!(out, "*{}\r\n$4\r\nPEER\r\n", words.len() + 1);
        for word in words {
            let _ = write!(out, "${}\r\n{word}\r\n", word.len());
        }
    }

    /// Longest reply to this request in memory, in bytes: a peer cannot make this node hold more.
    pub fn reply_bytes_max(&self) -> u64 {
        match self {
            Request::Hello => HELLO_BYTES_MAX as u64,
            Request::Versions(..) => VERSIONS_BYTES_MAX,
            _ => SHORT_BYTES_MAX,
        }
    }

    /// What a response to this request means.
    pub fn reply(&self, response: Response) -> Result<Reply> {
        Ok(match (self, response) {
            (Request::Hello, Response::Error(code, message)) if code == "ERR" => {
                Reply::Error(explained(sentence(message)))
            }
            (_, Response::Error(code, message)) if code == "ERR" => Reply::Error(sentence(message)),
            (_, Response::Error(code, message)) => Reply::Error(sentence(format!("{code} {message}"))),
            (Request::Hello, response) => Reply::Introduction(Introduction::from_response(&response)?),
            (Request::Merge(_), Response::Array(counts)) => match counts.as_slice() {
                [Response::Integer(merged @ 0..), Response::Integer(refused @ 0..)] => {
                    Reply::Merged { merged: *merged as u64, refused: *refused as u64 }
                }
                _ => return Err(Error::Corrupt("a MERGE was not acknowledged".into())),
            },
            (_, Response::Bulk(bytes)) => Reply::Bytes(bytes),
            _ => return Err(Error::Corrupt("a reply of another kind".into())),
        })
    }
}
