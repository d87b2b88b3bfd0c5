//! Reading and writing keys.

use log::trace;

use super::agreement::Agreement;
use super::batch::{Access, Changed};
use super::{Batch, Node};
use crate::consensus::Consensus;
use crate::consensus::proposing::Operation;
use crate::error::Result;
use crate::replication::ReplicationManager;
use crate::store::digest::SHARDS;
use crate::store::version::{Version, wall_clock_ms};

/// Bytes of a key that a trace shows.
const KEY_BYTES_SHOWN: usize = 60;

impl Node {
    /// Reads a key; `read` gets the value under the shard's lock and must only copy it.
    pub fn get<R>(
        &self,
        key: &[u8],
        batch: &mut Batch,
        read: impl FnOnce(Option<&[u8]>) -> R,
    ) -> Result<R> {
        self.admit(Access::Read, batch)?;
        let mut is_hit = false;
        let read = |value: Option<&[u8]>| {
            is_hit = value.is_some();
            read(value)
        };
        let (result, position) = match &self.agreement {
            // Behind a write of the same batch, what is not applied yet is seen, too.
            Agreement::Raft(consensus) if batch.unsettled.has_writes() => {
                (consensus.read_newest(key, &mut batch.unsettled, read), 0)
            }
            _ => self.store.get(key, read),
        };
        batch.hits += u64::from(is_hit);
        batch.misses += u64::from(!is_hit);
        batch.touched(position);
        Ok(result)
    }

    /// Says which keys will be asked for next: see [`crate::store::prefetch`].
    pub fn prefetch<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        self.store.prefetch(keys);
    }

    /// Keys to be asked for one after the other, fetched ahead.
    pub fn prefetching<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
    ) -> impl Iterator<Item = &'k [u8]> {
        self.store.prefetching(keys, |key| key)
    }

    /// Stores a value.
    pub fn put(&self, key: &[u8], value: &[u8], batch: &mut Batch) -> Result<()> {
        self.put_all([(key, value)], batch)
    }

    /// Stores several values, each with a version of its own.
    pub fn put_all<'a>(
        &self,
        pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        batch: &mut Batch,
    ) -> Result<()> {
        self.admit(Access::Write, batch)?;
        match &self.agreement {
            Agreement::Eventual(replication) => pairs.into_iter().for_each(|(key, value)| {
                self.write(replication, key, Some(value), batch);
            }),
            Agreement::Raft(consensus) => {
                let put = |(key, value)| Operation::Put { key, value };
                self.agree(consensus, pairs.into_iter().map(put).collect(), false, batch)?;
            }
        }
        Ok(())
    }

    /// Deletes a key; whether it was there. A key that is not here is deleted all the same: its
    /// value may be on its way.
    pub fn delete(&self, key: &[u8], batch: &mut Batch) -> Result<bool> {
        Ok(self.delete_all([key], batch)? == 1)
    }

    /// Deletes several keys; how many were there.
    pub fn delete_all<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a [u8]>,
        batch: &mut Batch,
    ) -> Result<usize> {
        self.admit(Access::Write, batch)?;
        match &self.agreement {
            Agreement::Eventual(replication) => {
                let existed = keys.into_iter().map(|key| self.write(replication, key, None, batch));
                Ok(existed.filter(|existed| *existed).count())
            }
            Agreement::Raft(consensus) => {
                let delete = |key| Operation::Delete { key };
                self.agree(consensus, keys.into_iter().map(delete).collect(), true, batch)
            }
        }
    }

    /// Deletes every key this node holds, each with a version of its own. Keys that are written
    /// meanwhile may stay.
    pub fn flush_all(&self, batch: &mut Batch) -> Result<()> {
        self.admit(Access::Write, batch)?;
        let replication = match &self.agreement {
            Agreement::Eventual(replication) => replication,
            Agreement::Raft(consensus) => {
                return self.agree(consensus, vec![Operation::Flush], false, batch).map(drop);
            }
        };
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        for shard in 0..SHARDS {
            let position = self.store.for_each_in_shard(shard, |entry| {
                if !entry.is_tombstone() {
                    keys.push(entry.key().into());
                }
            });
            // Also where there is nothing to delete: the reply says that the keys there are gone.
            batch.touched(position);
            keys.drain(..).for_each(|key| {
                self.write(replication, &key, None, batch);
            });
        }
        Ok(())
    }

    /// The one way of a client's write through consensus: it becomes a part of an entry. How many
    /// keys had a value, if that is wanted.
    fn agree(
        &self,
        consensus: &Consensus,
        operations: Vec<Operation>,
        wants_count: bool,
        batch: &mut Batch,
    ) -> Result<usize> {
        let count = consensus.write(&operations, wants_count, &mut batch.unsettled)?;
        self.wrote_with_consensus(batch);
        Ok(count as usize)
    }

    /// The one way of a client's write in an eventual cluster: stamp, merge, and only then hand on.
    /// Whether the key had a value.
    fn write(
        &self,
        replication: &ReplicationManager,
        key: &[u8],
        value: Option<&[u8]>,
        batch: &mut Batch,
    ) -> bool {
        let (wall_ms, mut version) = (wall_clock_ms(), Version::default());
        let stamp = |floor| {
            version = Version { time: self.clock.stamp(wall_ms, floor), origin: self.run_id };
            version
        };
        let journal = |record: &[u8]| self.journal(record);
        // A node on its own needs no tombstones: nobody can bring an older value back.
        let keep_tombstone = replication.keeps_tombstones();
        let written = self.store.write(key, value, keep_tombstone, stamp, journal);
        trace!(
            "key \"{}\", {}: merged with version {:016x}.{:016x}, in the log's buffer up to \
             position {}",
            key[..key.len().min(KEY_BYTES_SHOWN)].escape_ascii(),
            value.map_or("deleted".into(), |value| format!("{} bytes", value.len())),
            version.time,
            version.origin,
            written.position
        );
        self.wrote(written.position, Changed::ForClient, batch);
        batch.has_written = true;
        replication.changed(key, written.shard, wall_ms, &mut batch.links);
        written.existed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Configuration;
    use crate::store::Size;

    #[test]
    fn flush_all_leaves_nothing() {
        let (node, mut batch) = (Node::new(Configuration::default()), Batch::default());
        node.start_serving();
        (0..5_000).for_each(|i| node.put(format!("key{i}").as_bytes(), b"v", &mut batch).unwrap());
        assert_eq!(node.size().keys, 5_000);
        node.flush_all(&mut batch).unwrap();
        assert_eq!(node.size(), Size::default());
    }
}
