//! Who is in the cluster: one value, which changes by entries of the log.
//!
//! *Voters* elect leaders and make entries committed. *Learners* receive entries and do not count.
//! The value is text in the log and in snapshots, so that a person can read it:
//!
//! ```text
//! cluster 5eed5eed5eed5eed
//! voter 00c0ffee00c0ffee localhost:8080
//! learner 0123456789abcdef localhost:8081
//! removed fedcba9876543210
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::addresses::parse_host_port;
use crate::config::BANS_MAX;
use crate::error::{Error, Result};

/// Most members. Each costs every node a thread and a connection.
pub const MEMBERS_MAX: usize = 64;
/// Longest text: the most members and removed ids, with long addresses.
const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Who is in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The id of the cluster, drawn when it was founded.
    pub cluster_id: u64,
    /// By node id.
    pub nodes: BTreeMap<u64, Member>,
    /// Ids that were removed. An id is never used again, so that a node which returns without its
    /// log cannot vote a second time.
    pub removed: BTreeSet<u64>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where others reach it.
    pub address: String,
    /// Whether it counts.
    pub is_voter: bool,
}

impl Members {
    /// A cluster of one.
    pub fn founded_by(cluster_id: u64, id: u64, address: &str) -> Self {
        let founder = Member { address: address.into(), is_voter: true };
        Members { cluster_id, nodes: [(id, founder)].into(), removed: BTreeSet::new() }
    }

    /// Whether a node counts.
    pub fn is_voter(&self, id: u64) -> bool {
        self.nodes.get(&id).is_some_and(|member| member.is_voter)
    }

    /// The ids of those that count.
    pub fn voters(&self) -> impl Iterator<Item = u64> {
        self.nodes.iter().filter(|(_, member)| member.is_voter).map(|(id, _)| *id)
    }

    /// How many voters are a majority.
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// Whether so many of the voters are a majority: those for which `is_so`.
    pub fn has_majority(&self, is_so: impl Fn(u64) -> bool) -> bool {
        self.voters().filter(|id| is_so(*id)).count() >= self.majority()
    }

    /// The text of this value.
    pub fn encode(&self) -> String {
        let mut text = format!("cluster {:016x}\n", self.cluster_id);
        for (id, Member { address, is_voter }) in &self.nodes {
            let role = if *is_voter { "voter" } else { "learner" };
            text += &format!("{role} {id:016x} {address}\n");
        }
        for id in &self.removed {
            text += &format!("removed {id:016x}\n");
        }
        text
    }

    /// Reads the text of a value. Only what [`Members::encode`] writes is taken.
    pub fn decode(bytes: &[u8]) -> Result<Members> {
        let text = std::str::from_utf8(bytes).map_err(|_| bad("not text"))?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(bad("too long"));
        }
        let mut members = Members::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let (kind, id) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let id = u64::from_str_radix(id, 16).map_err(|_| bad("an id has 16 hex digits"))?;
            match (kind, words.next()) {
                ("cluster", None) => members.cluster_id = id,
                ("removed", None) => drop(members.removed.insert(id)),
                ("voter" | "learner", Some(address)) => {
                    let address = parse_host_port(address).map_err(|why| bad(&why))?;
                    members.nodes.insert(id, Member { address, is_voter: kind == "voter" });
                }
                _ => return Err(bad("a line that says nothing")),
            }
        }
        if members.nodes.len() > MEMBERS_MAX || members.removed.len() > BANS_MAX {
            return Err(bad("too many"));
        }
        // Encoding it again must give the same bytes: this checks everything else.
        if members.encode() == text { Ok(members) } else { Err(bad("not as it is written")) }
    }
}

fn bad(what: &str) -> Error {
    Error::Corrupt(format!("members: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_is_true() {
        let text = "cluster 5eed5eed5eed5eed\nlearner 0123456789abcdef localhost:8081\n\
                    voter 00c0ffee00c0ffee localhost:8080\nremoved fedcba9876543210\n";
        let mut members =
            Members::founded_by(0x5EED_5EED_5EED_5EED, 0x00C0_FFEE_00C0_FFEE, "localhost:8080");
        let learner = Member { address: "localhost:8081".into(), is_voter: false };
        members.nodes.insert(0x0123_4567_89AB_CDEF, learner);
        members.removed.insert(0xFEDC_BA98_7654_3210);
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        let encoded = members.encode();
        let mut written: Vec<_> = encoded.lines().collect();
        written.sort_unstable();
        assert_eq!(written, lines);
        assert_eq!(Members::decode(encoded.as_bytes()).expect("decodes"), members);
    }

    #[test]
    fn a_majority_is_more_than_half_of_the_voters() {
        let mut members = Members::default();
        for (count, majority) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)] {
            let member = Member { address: format!("h:{count}"), is_voter: true };
            members.nodes.insert(count, member);
            assert_eq!(members.majority(), majority, "of {count}");
        }
        let learner = Member { address: "h:9".into(), is_voter: false };
        members.nodes.insert(9, learner);
        assert!(members.has_majority(|id| id <= 3) && !members.has_majority(|id| id <= 2));
        assert!(!members.has_majority(|id| id <= 2 || id == 9), "a learner does not count");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["voter 1 h:1\n", "cluster 0000000000000001\nvoter x h:1\n", "\n", "cluster"] {
            assert!(Members::decode(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Members::decode(&[0xFF]).is_err());
    }
}
