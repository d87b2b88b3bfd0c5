//! The other nodes: what they ask of this one, what this one shows of them, and whom it cuts off.

use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use log::{info, trace};

use super::agreement::Agreement;
use super::batch::Changed;
use super::{Batch, Greeted, Node, PeerStatus};
use crate::consensus::Consensus;
use crate::error::{Error, Result};
use crate::peers::introduction::Introduction;
use crate::peers::versions::{self, Listed, Place};
use crate::replication::receive::{self, Merged};
use crate::replication::{ReplicationManager, Ticket};
use crate::store::digest::{BUCKETS, SHARDS};
use crate::store::version::wall_clock_ms;

impl Node {
    /// Decides where peers reach this node, which listens at `listening`, and returns it. Then
    /// starts the links to its seeds and to the members of an earlier run, and waits a moment for
    /// their answers; from then on clients are served.
    pub fn start(&self, listening: SocketAddr) -> Result<()> {
        let listens = |told: &str| {
            info!("listening on {listening}, run id {:016x}; peers are told {told}", self.run_id);
        };
        match &self.agreement {
            Agreement::Eventual(replication) => {
                listens(&replication.advertise(listening));
                replication.start()?;
            }
            Agreement::Raft(consensus) => listens(&consensus.start(listening)?),
        }
        self.start_serving();
        Ok(())
    }

    /// A node says HELLO on `socket`, in these words. The answer is this node's own introduction.
    /// `peer` becomes that node's connection; tests have no socket, and then it stays.
    pub fn hello(
        &self,
        words: &[&str],
        advertised: &str,
        socket: Option<&Arc<TcpStream>>,
        peer: &mut Option<Greeted>,
    ) -> Result<Introduction> {
        let from = Introduction::parse(words).inspect_err(|error| {
            self.refused_peer(advertised, &error.to_string());
        })?;
        let socket = socket.map(|socket| socket.clone() as _);
        match &self.agreement {
            Agreement::Eventual(replication) => {
                let mut place = match peer.take() {
                    Some(Greeted::Eventual(place)) => Some(place),
                    _ => None,
                };
                let answer = replication.greet(&from, socket, &mut place);
                *peer = place.map(Greeted::Eventual);
                answer
            }
            Agreement::Raft(consensus) => {
                let mut place = match peer.take() {
                    Some(Greeted::Raft(place)) => Some(place),
                    _ => None,
                };
                let answer = consensus.greet(&from, socket, &mut place);
                *peer = place.map(Greeted::Raft);
                answer
            }
        }
    }

    /// Counts and logs that a node which wanted to be a peer was refused.
    pub fn refused_peer(&self, who: &str, reason: &str) {
        match &self.agreement {
            Agreement::Eventual(replication) => replication.refused(who, reason),
            Agreement::Raft(consensus) => consensus.refused(who, reason),
        }
    }

    /// What `PEER DIGESTS` answers: the digests of all shards, or of the buckets of one.
    pub fn digests(
        &self,
        peer: &Greeted,
        shard: Option<usize>,
        batch: &mut Batch,
    ) -> Result<Vec<u8>> {
        peer.eventual()?.while_current(|| Ok(()))?;
        let view = self.agreement.eventual()?.view();
        let (digests, shards) = match shard {
            None => (view.shard_digests(), 0..SHARDS),
            Some(shard) => {
                check_below(shard, SHARDS)?;
                (view.bucket_digests(shard), shard..shard + 1)
            }
        };
        self.show_to_peer(shards, batch)?;
        Ok(digests)
    }

    /// What `PEER VERSIONS` answers: keys and versions of a bucket, those behind `after`.
    pub fn versions(
        &self,
        peer: &Greeted,
        shard: usize,
        bucket: usize,
        after: Option<&[u8]>,
        batch: &mut Batch,
    ) -> Result<Listed> {
        check_below(shard, SHARDS)?;
        check_below(bucket, BUCKETS)?;
        peer.eventual()?.while_current(|| Ok(()))?;
        let place = Place { shard, bucket, after: after.map(Into::into) };
        let listed = versions::list(&self.agreement.eventual()?.view(), &place, place.bytes_max());
        self.show_to_peer(shard..shard + 1, batch)?;
        Ok(listed)
    }

    /// A peer is to see what these shards held until now: [`Node::commit`] brings it to the disk
    /// first, once for all that an exchange asks about.
    fn show_to_peer(&self, shards: Range<usize>, batch: &mut Batch) -> Result<()> {
        self.check_writable()?;
        if self.log().is_some() {
            let newest = shards.map(|shard| self.store.position(shard)).max();
            batch.shown_to_peer = batch.shown_to_peer.max(newest.unwrap_or(0));
        }
        Ok(())
    }

    /// What `PEER MERGE` does: merges a batch of a peer's records, which are not handed on.
    pub fn merge_from_peer(
        &self,
        peer: &Greeted,
        records: &[u8],
        batch: &mut Batch,
    ) -> Result<Merged> {
        let (replication, peer) = (self.agreement.eventual()?, peer.eventual()?);
        peer.while_current(|| {
            self.check_writable()?;
            let skew_max = self.configuration.replication.clock_skew_max;
            let limits = (wall_clock_ms(), skew_max);
            let journal = |record: &[u8]| self.journal(record);
            let done = receive::merge(&self.store, &self.clock, records, limits, journal)?;
            trace!("merged {} records from a peer, refused {}", done.merged, done.refused);
            self.wrote(done.position, Changed::ForPeer, batch);
            replication.merged(peer, done);
            Ok(done)
        })
    }

    /// `PEER FORGET`: bans a node for good, by address or id.
    pub fn forget_peer(&self, peer: &str) -> Result<()> {
        match &self.agreement {
            Agreement::Eventual(replication) => replication.forget(peer),
            Agreement::Raft(consensus) => consensus.forget(peer),
        }
    }

    /// `PARTITION`: pretends that a peer (address or id), or everybody (`*`), cannot be reached.
    pub fn cut_off(&self, peer: &str) -> Result<()> {
        self.check_fault_injection("PARTITION")?;
        match &self.agreement {
            Agreement::Eventual(replication) => replication.partition(peer),
            Agreement::Raft(consensus) => consensus.partition(peer),
        }
    }

    /// `HEAL`: ends the partition from one peer (address or id), or all partitions (`*`).
    pub fn heal(&self, peer: &str) -> Result<()> {
        self.check_fault_injection("HEAL")?;
        match &self.agreement {
            Agreement::Eventual(replication) => replication.heal(peer),
            Agreement::Raft(consensus) => consensus.heal(peer),
        }
    }

    fn check_fault_injection(&self, command: &str) -> Result<()> {
        if self.configuration.replication.fault_injection {
            return Ok(());
        }
        Err(Error::refused(format!(
            "{command} needs a server that was started with --enable-fault-injection"
        )))
    }

    /// How each peer is.
    pub fn peers(&self) -> Vec<PeerStatus> {
        match &self.agreement {
            Agreement::Eventual(replication) => replication.peers(),
            Agreement::Raft(consensus) => consensus.peers(),
        }
    }

    /// Where others reach this node; empty when nobody was told.
    pub fn advertised_address(&self) -> String {
        match &self.agreement {
            Agreement::Eventual(replication) => replication.advertised_address(),
            Agreement::Raft(consensus) => consensus.advertised_address(),
        }
    }

    /// What `WAIT` counts: the peers that hold everything a connection wrote so far.
    pub fn holders(&self, batch: &Batch) -> Holders<'_> {
        // Without a write there is nothing that a peer could lack.
        let what = match &self.agreement {
            Agreement::Raft(consensus) => {
                Held::Log { consensus, index: if batch.has_written { consensus.last() } else { 0 } }
            }
            Agreement::Eventual(replication) if batch.has_written => {
                Held::Changes { replication, ticket: replication.ticket() }
            }
            Agreement::Eventual(replication) => Held::Nothing { replication },
        };
        Holders(what)
    }

    /// What `PEER APPEND` answers: entries of the leader.
    pub fn append_from_peer(
        &self,
        peer: &Greeted,
        numbers: [u64; 6],
        entries: &[u8],
    ) -> Result<[u64; 4]> {
        self.agreement.raft()?.append(peer.raft()?, numbers, entries)
    }

    /// What `PEER VOTE` answers: a candidate asks for this node's vote.
    pub fn vote_for_peer(&self, peer: &Greeted, numbers: [u64; 4]) -> Result<[u64; 2]> {
        self.agreement.raft()?.vote(peer.raft()?, numbers)
    }

    /// What `PEER REMOVE` answers: a client at a follower has a member removed.
    pub fn remove_for_peer(&self, peer: &Greeted, id: u64) -> Result<Vec<u64>> {
        self.agreement.raft()?.remove(peer.raft()?, id)
    }

    /// What `PEER FORWARD` answers: what clients ask at a follower.
    pub fn forward_from_peer(
        &self,
        peer: &Greeted,
        wants_read: bool,
        proposals: &[u8],
    ) -> Result<Vec<u64>> {
        let takes_writes = !self.stop.is_asked() && self.check_writable().is_ok();
        self.agreement.raft()?.forwarded(peer.raft()?, wants_read, proposals, takes_writes)
    }
}

/// The peers that hold everything a connection had written when it asked.
#[derive(Debug)]
pub struct Holders<'n>(Held<'n>);

#[derive(Debug)]
enum Held<'n> {
    /// The connection never wrote, so every live peer counts.
    Nothing { replication: &'n ReplicationManager },
    /// Everything that was queued for the links.
    Changes { replication: &'n ReplicationManager, ticket: Ticket },
    /// The log up to this index; 0 if the connection never wrote.
    Log { consensus: &'n Consensus, index: u64 },
}

impl Holders<'_> {
    /// How many there are.
    pub fn count(&self) -> usize {
        match &self.0 {
            Held::Nothing { replication } => replication.live_peers(),
            Held::Changes { replication, ticket } => replication.holding(ticket),
            Held::Log { consensus, index } => consensus.holders(*index),
        }
    }

    /// Waits until there are so many, or for `timeout`.
    pub fn wait_for(&self, count: usize, timeout: Duration) {
        match &self.0 {
            Held::Nothing { replication } | Held::Changes { replication, .. } => {
                replication.wait_until(timeout, || self.count() >= count);
            }
            Held::Log { consensus, index } => consensus.wait_for_holders(*index, count, timeout),
        }
    }
}

/// A shard or bucket that a peer names must be below `bound`.
fn check_below(index: usize, bound: usize) -> Result<()> {
    if index < bound {
        return Ok(());
    }
    Err(Error::refused(format!("not a number from 0 to {}", bound - 1)))
}
