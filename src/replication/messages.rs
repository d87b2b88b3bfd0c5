//! What links say to each other: `PEER …` requests in RESP, and their replies.

use std::fmt::Write;

use super::members::parse_id;
use crate::client::Response;
use crate::error::{Error, Result};

/// The version of this conversation.
pub const PROTOCOL_VERSION: &str = "1";

/// A node says who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduction {
    /// Name of its cluster.
    pub cluster: String,
    /// Stays with its data.
    pub node_id: u64,
    /// New at every start.
    pub run_id: u64,
    /// Whether its data survives a restart.
    pub is_durable: bool,
    /// Its hybrid clock.
    pub clock: u64,
    /// Where others reach it, `host:port`.
    pub address: String,
    /// The members it knows, ids and addresses. Only in an answer.
    pub members: Vec<(u64, String)>,
    /// The ids it knows to be banned. Only in an answer.
    pub bans: Vec<u64>,
}

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

impl Introduction {
    /// The words of a HELLO after `PEER HELLO`.
    pub fn words(&self) -> [String; 7] {
        [
            PROTOCOL_VERSION.into(),
            self.cluster.clone(),
            format!("{:016x}", self.node_id),
            format!("{:016x}", self.run_id),
            if self.is_durable { "disk" } else { "memory" }.into(),
            self.clock.to_string(),
            self.address.clone(),
        ]
    }

    /// Reads the words of a HELLO, without members and bans.
    pub fn parse(words: &[&str]) -> Result<Introduction> {
        let bad = |what: &str| Error::refused(format!("PEER HELLO: {what}"));
        let [version, cluster, node_id, run_id, stores, clock, address] = words else {
            return Err(bad("seven words are needed"));
        };
        if *version != PROTOCOL_VERSION {
            return Err(bad(&format!(
                "version {version} is not spoken here, only {PROTOCOL_VERSION}; run the same release on all nodes"
            )));
        }
        let id = |text| parse_id(text).ok_or_else(|| bad("an id has 16 hex digits"));
        Ok(Introduction {
            cluster: (*cluster).into(),
            node_id: id(node_id)?,
            run_id: id(run_id)?,
            is_durable: match *stores {
                "disk" => true,
                "memory" => false,
                _ => return Err(bad("a node stores in memory or on disk")),
            },
            clock: clock.parse().map_err(|_| bad("a clock is a number"))?,
            address: crate::options::parse_host_port(address).map_err(|why| bad(&why))?,
            ..Introduction::default()
        })
    }

    /// The members as they are told: `id@address`.
    pub fn member_words(&self) -> Vec<String> {
        let members = self.members.iter();
        members.map(|(id, address)| format!("{id:016x}@{address}")).collect()
    }

    /// Reads an answer: the seven words, the members, the bans.
    fn from_response(response: &Response) -> Result<Introduction> {
        let bad = || Error::Corrupt("an introduction that makes no sense".into());
        let Response::Array(parts) = response else {
            return Err(bad());
        };
        let [words, members, bans] = parts.as_slice() else {
            return Err(bad());
        };
        let words = strings(words).ok_or_else(bad)?;
        let members = strings(members).ok_or_else(bad)?.into_iter().map(|member| {
            let (id, address) = member.split_once('@')?;
            let address = crate::options::parse_host_port(address).ok()?;
            Some((parse_id(id)?, address))
        });
        let bans = strings(bans).ok_or_else(bad)?.into_iter().map(parse_id);
        Ok(Introduction {
            members: members.collect::<Option<_>>().ok_or_else(bad)?,
            bans: bans.collect::<Option<_>>().ok_or_else(bad)?,
            ..Introduction::parse(&words)?
        })
    }
}

impl Request {
    /// Appends the request in RESP, but for the records of a MERGE, which follow, and then CR LF.
    pub fn encode(&self, introduction: &Introduction, out: &mut String) {
        let words: Vec<String> = match self {
            Request::Hello => [vec!["HELLO".into()], introduction.words().to_vec()].concat(),
            Request::ShardDigests => vec!["DIGESTS".into()],
            Request::BucketDigests(shard) => vec!["DIGESTS".into(), shard.to_string()],
            Request::Versions(shard, bucket) => {
                vec!["VERSIONS".into(), shard.to_string(), bucket.to_string()]
            }
            Request::Merge(records) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "*3\r\n$4\r\nPEER\r\n$5\r\nMERGE\r\n${}\r\n", records.len());
                return;
            }
        };
        let _ = write!(out, "*{}\r\n$4\r\nPEER\r\n", words.len() + 1);
        for word in words {
            let _ = write!(out, "${}\r\n{word}\r\n", word.len());
        }
    }

    /// What a response to this request means.
    pub fn reply(&self, response: Response) -> Result<Reply> {
        Ok(match (self, response) {
            (_, Response::Error(code, message)) if code == "ERR" => Reply::Error(message),
            (_, Response::Error(code, message)) => Reply::Error(format!("{code} {message}")),
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

fn strings<'r>(response: &'r Response) -> Option<Vec<&'r str>> {
    let Response::Array(elements) = response else {
        return None;
    };
    let text = |element: &'r Response| match element {
        Response::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    };
    elements.iter().map(text).collect()
}
