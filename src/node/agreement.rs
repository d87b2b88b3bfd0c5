//! The two ways to agree with other nodes; which one is in force is decided at the start.

use crate::consensus::{self, Consensus};
use crate::error::{Error, Result};
use crate::peers::introduction::other_way;
use crate::replication::{self, ReplicationManager};

/// How this node agrees with others.
#[derive(Debug)]
pub(super) enum Agreement {
    /// Each node takes writes by itself, and hands them on.
    Eventual(ReplicationManager),
    /// Through a leader, with `--raft`.
    Raft(Consensus),
}

/// A connection on which another node has introduced itself.
#[derive(Debug)]
pub enum Greeted {
    /// A peer of an eventual cluster.
    Eventual(replication::Greeted),
    /// A member of a raft cluster, or one that joins.
    Raft(consensus::Greeted),
}

impl Agreement {
    /// The manager of an eventual cluster; the error is for a peer that thinks this node is in one.
    pub(super) fn eventual(&self) -> Result<&ReplicationManager> {
        match self {
            Agreement::Eventual(replication) => Ok(replication),
            Agreement::Raft(_) => Err(other_way()),
        }
    }

    /// The manager of a raft cluster; the error is for a peer that thinks this node is in one.
    pub(super) fn raft(&self) -> Result<&Consensus> {
        match self {
            Agreement::Raft(consensus) => Ok(consensus),
            Agreement::Eventual(_) => Err(other_way()),
        }
    }
}

impl Greeted {
    /// The peer gave a sign of life.
    pub fn hear(&self) {
        if let Greeted::Raft(peer) = self {
            peer.hear();
        }
    }

    pub(super) fn eventual(&self) -> Result<&replication::Greeted> {
        match self {
            Greeted::Eventual(peer) => Ok(peer),
            Greeted::Raft(_) => Err(other_way()),
        }
    }

    pub(super) fn raft(&self) -> Result<&consensus::Greeted> {
        match self {
            Greeted::Raft(peer) => Ok(peer),
            Greeted::Eventual(_) => Err(Error::refused("say PEER HELLO first")),
        }
    }
}
