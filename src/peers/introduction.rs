//! `PEER HELLO`, version 2: how two nodes say who they are.
//!
//! ```text
//! PEER HELLO 2 <cluster> <node id> <run id> <memory|disk> <clock> <advertised address>
//!     <eventual|raft> <cluster id or ->
//! ```
//!
//! The answer is an array of three arrays: the same nine words about the answerer, the members it
//! knows as `id@address`, and the banned ids. Ids are 16 hex digits. The last two words say how the
//! node agrees with others, so that nodes of both ways never mix. Only a raft cluster has an id,
//! and a node that has not joined one yet says `-`.
//!
//! Nothing in a HELLO is believed beyond its limits: [`MEMBERS_MAX`], [`BANS_MAX`],
//! [`HELLO_BYTES_MAX`].

use super::identity::parse_id;
use crate::addresses::{parse_cluster, parse_host_port};
use crate::client::Response;
use crate::config::BANS_MAX;
use crate::error::{Error, Result};
use crate::guard::shown;

/// The version of this conversation.
pub const PROTOCOL_VERSION: &str = "2";
/// The words for [`Way`].
const EVENTUAL: &str = "eventual";
const RAFT: &str = "raft";
/// In place of a cluster id.
const NO_CLUSTER_ID: &str = "-";
/// Words of a HELLO.
pub const WORDS: usize = 9;
/// Members in an answer: as many as a node has links.
pub const MEMBERS_MAX: usize = 64;
/// Bytes of a HELLO, and of its answer.
pub const HELLO_BYTES_MAX: usize = 1024 * 1024;

/// How a node agrees with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// Each takes writes by itself.
    #[default]
    Eventual,
    /// Through a leader.
    Raft {
        /// The cluster that it is in, if it is in one already.
        cluster_id: Option<u64>,
    },
}

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
    /// How it agrees with others.
    pub way: Way,
    /// The members it knows, ids and addresses. Only in an answer.
    pub members: Vec<(u64, String)>,
    /// The ids it knows to be banned. Only in an answer.
    pub bans: Vec<u64>,
}

impl Introduction {
    /// The words of a HELLO after `PEER HELLO`.
    pub fn words(&self) -> [String; WORDS] {
        [
            PROTOCOL_VERSION.into(),
            self.cluster.clone(),
            format!("{:016x}", self.node_id),
            format!("{:016x}", self.run_id),
            if self.is_durable { "disk" } else { "memory" }.into(),
            self.clock.to_string(),
            self.address.clone(),
            if self.way == Way::Eventual { EVENTUAL } else { RAFT }.into(),
            match self.way {
                Way::Raft { cluster_id: Some(id) } => format!("{id:016x}"),
                _ => NO_CLUSTER_ID.into(),
            },
        ]
    }

    /// Reads the words of a HELLO, without members and bans.
    pub fn parse(words: &[&str]) -> Result<Introduction> {
        if words.iter().map(|word| word.len()).sum::<usize>() > HELLO_BYTES_MAX {
            return Err(bad(&format!("it is longer than {HELLO_BYTES_MAX} bytes")));
        }
        if let Some(version) = words.first().filter(|version| **version != PROTOCOL_VERSION) {
            return Err(other_version(version));
        }
        let [_, cluster, node_id, run_id, stores, clock, address, way, cluster_id] = words else {
            return Err(bad(&format!("{WORDS} words are needed, not {}", words.len())));
        };
        let id = |text| parse_id(text).ok_or_else(|| bad("an id has 16 hex digits"));
        Ok(Introduction {
            cluster: parse_cluster(cluster)
                .map_err(|why| bad(&format!("the name of a cluster is {why}")))?,
            node_id: id(node_id)?,
            run_id: id(run_id)?,
            is_durable: match *stores {
                "disk" => true,
                "memory" => false,
                _ => return Err(bad("a node stores in memory or on disk")),
            },
            clock: clock.parse().map_err(|_| bad("a clock is a number"))?,
            address: parse_host_port(address).map_err(|why| bad(&why))?,
            way: parse_way(way, cluster_id)?,
            ..Introduction::default()
        })
    }

    /// The members as they are told: `id@address`.
    pub fn member_words(&self) -> Vec<String> {
        let members = self.members.iter();
        members.map(|(id, address)| format!("{id:016x}@{address}")).collect()
    }

    /// The bans as they are told.
    pub fn ban_words(&self) -> Vec<String> {
        self.bans.iter().map(|id| format!("{id:016x}")).collect()
    }

    /// Reads an answer: the nine words, the members, the bans.
    pub(super) fn from_response(response: &Response) -> Result<Introduction> {
        let nonsense = || Error::Corrupt("an introduction that makes no sense".into());
        let Response::Array(parts) = response else {
            return Err(nonsense());
        };
        let [words, members, bans] = parts.as_slice() else {
            return Err(nonsense());
        };
        let words = strings(words).ok_or_else(nonsense)?;
        let introduction = Introduction::parse(&words)?;
        let (members, bans) =
            (strings(members).ok_or_else(nonsense)?, strings(bans).ok_or_else(nonsense)?);
        if members.len() > MEMBERS_MAX || bans.len() > BANS_MAX {
            let (members, bans) = (members.len(), bans.len());
            return Err(bad(&format!(
                "its answer names {members} members and {bans} bans; at most {MEMBERS_MAX} and \
                 {BANS_MAX} are taken"
            )));
        }
        let members = members.into_iter().map(|member| {
            let (id, address) = member.split_once('@')?;
            Some((parse_id(id)?, parse_host_port(address).ok()?))
        });
        let bans = bans.into_iter().map(parse_id);
        Ok(Introduction {
            members: members.collect::<Option<_>>().ok_or_else(nonsense)?,
            bans: bans.collect::<Option<_>>().ok_or_else(nonsense)?,
            ..introduction
        })
    }
}

/// What an error reply to HELLO means. A node of an earlier release does not know so many words,
/// and says so in words that help nobody.
pub(super) fn explained(refusal: String) -> String {
    if refusal.starts_with("unknown subcommand or wrong number of arguments") {
        return other_version("1").to_string();
    }
    refusal
}

fn parse_way(way: &str, cluster_id: &str) -> Result<Way> {
    match way {
        EVENTUAL if cluster_id == NO_CLUSTER_ID => Ok(Way::Eventual),
        EVENTUAL => Err(bad("an eventual cluster has no id, and says - for it")),
        RAFT if cluster_id == NO_CLUSTER_ID => Ok(Way::Raft { cluster_id: None }),
        RAFT => match parse_id(cluster_id) {
            Some(id) => Ok(Way::Raft { cluster_id: Some(id) }),
            None => Err(bad("the id of a raft cluster has 16 hex digits")),
        },
        _ => Err(bad("a node is eventual or raft")),
    }
}

/// The refusal of a node that agrees the other way.
pub fn other_way() -> Error {
    bad("one of the two nodes is raft, the other eventual, and they cannot be of one cluster; \
         start all nodes the same way")
}

fn other_version(version: &str) -> Error {
    let version = shown(version);
    bad(&format!(
        "version '{version}' is not spoken here, only {PROTOCOL_VERSION}; run the same release on \
         all nodes"
    ))
}

fn bad(what: &str) -> Error {
    Error::refused(format!("PEER HELLO: {what}"))
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

#[cfg(test)]
mod tests {
    use super::super::requests::PeerRequest;
    use super::*;

    fn example() -> Introduction {
        Introduction {
            cluster: "kvstore".into(),
            node_id: 0x00C0_FFEE_00C0_FFEE,
            run_id: 0x0123_4567_89AB_CDEF,
            is_durable: true,
            clock: 119_276_480_307_200,
            address: "localhost:8081".into(),
            ..Introduction::default()
        }
    }

    /// An answer as it comes over the wire.
    fn read(bytes: &str) -> Result<Introduction> {
        let response = Response::read(&mut bytes.as_bytes()).expect("RESP");
        Introduction::from_response(&response)
    }

    #[test]
    fn the_bytes_of_a_hello_and_of_its_answer() {
        let words = "$1\r\n2\r\n$7\r\nkvstore\r\n$16\r\n00c0ffee00c0ffee\r\n\
                     $16\r\n0123456789abcdef\r\n$4\r\ndisk\r\n\
                     $15\r\n119276480307200\r\n$14\r\nlocalhost:8081\r\n$8\r\neventual\r\n$1\r\n\
                     -\r\n";
        let mut sent = Vec::new();
        PeerRequest::Hello(example()).encode(&mut sent);
        let expected = format!("*11\r\n$4\r\nPEER\r\n$5\r\nHELLO\r\n{words}");
        assert_eq!(String::from_utf8(sent).expect("text"), expected);
        let answer = format!(
            "*3\r\n*9\r\n{words}*1\r\n$26\r\nfedcba9876543210@[::1]:443\r\n*2\r\n$16\r\n\
             0000000000000001\r\n$16\r\n0000000000000002\r\n"
        );
        let expected = Introduction {
            members: vec![(0xFEDC_BA98_7654_3210, "[::1]:443".into())],
            bans: vec![1, 2],
            ..example()
        };
        assert_eq!(expected.member_words(), ["fedcba9876543210@[::1]:443"]);
        assert_eq!(expected.ban_words(), ["0000000000000001", "0000000000000002"]);
        assert_eq!(read(&answer).expect("an answer"), expected);
    }

    #[test]
    fn what_is_no_hello_of_this_version_is_refused_with_the_way_out() {
        let good = example().words();
        let good: Vec<&str> = good.iter().map(String::as_str).collect();
        assert_eq!(Introduction::parse(&good).expect("good"), example());
        let long = "x".repeat(HELLO_BYTES_MAX);
        for (index, word, reason) in [
            (0, "1", "version '1' is not spoken here, only 2; run the same release on all nodes"),
            (0, "9\r\nforged", "version '9\\r\\nforged' is"),
            (1, "", "the name of a cluster is 1 to 64"),
            (1, &long, "longer than 1048576 bytes"),
            (2, "1", "16 hex digits"),
            (4, "tape", "in memory or on disk"),
            (5, "-1", "a clock is a number"),
            (6, "0.0.0.0:1", "cannot be connected to"),
            (7, "else", "eventual or raft"),
            (8, "0000000000000001", "has no id"),
        ] {
            let mut words = good.clone();
            words[index] = word;
            let error = Introduction::parse(&words).expect_err(word).to_string();
            assert!(error.contains(reason), "{error}");
        }
        // The seven words of version 1, and no words.
        assert!(
            Introduction::parse(&["1", "c", "", "", "", "", ""])
                .expect_err("old")
                .to_string()
                .contains("release")
        );
        assert!(Introduction::parse(&[]).is_err());
        assert!(
            explained("unknown subcommand or wrong number of arguments for 'HELLO'".into())
                .contains("release")
        );
    }

    #[test]
    fn the_way_to_agree_is_said_and_heard() {
        for (words, way) in [
            (["eventual", "-"], Way::Eventual),
            (["raft", "-"], Way::Raft { cluster_id: None }),
            (["raft", "000000000000000a"], Way::Raft { cluster_id: Some(10) }),
        ] {
            let introduction = Introduction { way, ..example() };
            let said = introduction.words();
            assert_eq!(said[7..], words);
            let said: Vec<&str> = said.iter().map(String::as_str).collect();
            assert_eq!(Introduction::parse(&said).expect("good"), introduction);
        }
    }

    #[test]
    fn an_answer_beyond_its_limits_is_refused() {
        let words: String =
            example().words().iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        let list = |count: usize, word: &str| {
            format!("*{count}\r\n") + &format!("${}\r\n{word}\r\n", word.len()).repeat(count)
        };
        let (member, ban) = ("fedcba9876543210@h:1", "fedcba9876543210");
        for (members, bans, is_taken) in [(64, 10_000, true), (65, 0, false), (0, 10_001, false)] {
            let answer = format!("*3\r\n*9\r\n{words}{}{}", list(members, member), list(bans, ban));
            assert!(answer.len() < HELLO_BYTES_MAX);
            assert_eq!(read(&answer).is_ok(), is_taken, "{members} members, {bans} bans");
        }
    }
}
