//! How a node starts: from its configuration, and from what a data directory holds.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::Node;
use super::agreement::Agreement;
use crate::config::Configuration;
use crate::consensus::Consensus;
use crate::consensus::disk::Recovery;
use crate::durability::identity::NodeFile;
use crate::durability::{Durability, Opening, Target};
use crate::error::Result;
use crate::guard::Guard;
use crate::locks::Latch;
use crate::metrics::Metrics;
use crate::random::random_id;
use crate::replication::contact::{KnownBy, Stored, StoredMember};
use crate::replication::{ReplicationManager, Storage};
use crate::stopping::GentleStop;
use crate::store::KeyValueStore;
use crate::store::version::HybridClock;

impl Node {
    /// A node as configured: with a data directory it starts with all that is stored there.
    pub fn open(configuration: Configuration) -> Result<Self> {
        let Some(directory) = &configuration.data_dir else {
            return Ok(Node::new(configuration));
        };
        let store = Arc::new(KeyValueStore::new());
        let is_raft = configuration.raft.is_on;
        let opening = Opening {
            policy: configuration.fsync,
            salvage: configuration.salvage,
            has_seeds: is_raft || !configuration.replication.seeds.is_empty(),
            clock_skew_max: configuration.replication.clock_skew_max,
            restamp: configuration.restamp,
        };
        if is_raft {
            return Node::open_with_consensus(&configuration, directory, opening, store);
        }
        let durability = Durability::open(directory, opening, Target::Store(&store))?;
        durability.start_compaction(&store, None)?;
        let durability = Arc::new(durability);
        let (ids, clock) = ((durability.node_file.node_id, random_id()), Arc::default());
        let memory = memory_of(&durability);
        let replication = ReplicationManager::new(
            &configuration,
            ids,
            store.clone(),
            Arc::clone(&clock),
            Some(memory),
        );
        let agreement = Agreement::Eventual(replication);
        Ok(Node::with(configuration, ids, store, clock, Some(durability), agreement))
    }

    fn open_with_consensus(
        configuration: &Configuration,
        directory: &Path,
        opening: Opening,
        store: Arc<KeyValueStore>,
    ) -> Result<Self> {
        let recovery = Recovery::into_store(&store);
        let take = |batch: Option<&_>| recovery.take(batch);
        let durability = Durability::open(directory, opening, Target::ReplicatedLog(&take))?;
        let ground = recovery.finish();
        let durability = Arc::new(durability);
        let ids = (durability.node_file.node_id, random_id());
        let log = Arc::clone(&durability.log);
        let consensus = Consensus::new(configuration, ids, store.clone(), log, ground);
        durability.start_compaction(&store, Some(consensus.snapshot_head()))?;
        let agreement = Agreement::Raft(consensus);
        let configuration = configuration.clone();
        Ok(Node::with(configuration, ids, store, Arc::default(), Some(durability), agreement))
    }

    /// A node in memory, with an empty store, even if the configuration names a data directory.
    pub fn new(configuration: Configuration) -> Self {
        let (ids, clock) = ((random_id(), random_id()), Arc::default());
        let store: Arc<KeyValueStore> = Arc::default();
        let (shared, clock_of_links) = (Arc::clone(&store), Arc::clone(&clock));
        let replication =
            ReplicationManager::new(&configuration, ids, shared, clock_of_links, None);
        let agreement = Agreement::Eventual(replication);
        Node::with(configuration, ids, store, clock, None, agreement)
    }

    fn with(
        configuration: Configuration,
        (node_id, run_id): (u64, u64),
        store: Arc<KeyValueStore>,
        clock: Arc<HybridClock>,
        durability: Option<Arc<Durability>>,
        agreement: Agreement,
    ) -> Self {
        let guard = Guard::new(configuration.connections_max, configuration.reply_memory_bytes);
        Node {
            guard,
            limits_of_strangers: configuration.limits.of_strangers(),
            configuration,
            started: Instant::now(),
            metrics: Metrics::default(),
            run_id,
            node_id,
            agreement,
            store,
            durability,
            clock,
            stop: GentleStop::default(),
            serving: Latch::default(),
        }
    }
}

/// The members and bans that the file `node` of a data directory holds, and how to store them.
///
/// In the file a member is its address and then, where they hold, one or two of the words
/// [`IN_MEMORY`], [`BY_MEMBER`] and [`BY_ITS_WORD`].
fn memory_of(durability: &Arc<Durability>) -> Storage {
    let (file, durability) = (&durability.node_file, Arc::clone(durability));
    let members = file.members.iter().map(|(id, text)| {
        let mut words = text.split(' ');
        let address = words.next().unwrap_or_default().to_string();
        let has = |word| words.clone().any(|other| other == word);
        let known_by = match (has(BY_MEMBER), has(BY_ITS_WORD)) {
            (true, _) => KnownBy::Member,
            (false, true) => KnownBy::ItsWord,
            (false, false) => KnownBy::Link,
        };
        StoredMember { id: *id, address, is_durable: !has(IN_MEMORY), known_by }
    });
    let stored = Stored { members: members.collect(), bans: file.bans.clone() };
    let (node_id, time_max) = (file.node_id, durability.recovered.time_max);
    let save = move |stored: &Stored| {
        let file = NodeFile {
            node_id,
            members: stored.members.iter().map(|member| (member.id, words_of(member))).collect(),
            bans: stored.bans.clone(),
        };
        Ok(durability.save_node_file(&file)?)
    };
    Storage { stored, time_max, save: Box::new(save) }
}

/// A member as the file `node` has it.
fn words_of(member: &StoredMember) -> String {
    let memory = if member.is_durable { "" } else { IN_MEMORY };
    let known_by = match member.known_by {
        KnownBy::Link => "",
        KnownBy::Member => BY_MEMBER,
        KnownBy::ItsWord => BY_ITS_WORD,
    };
    let words = [&member.address, memory, known_by].into_iter().filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// The member keeps its data in memory.
const IN_MEMORY: &str = "memory";
/// Another member introduced the member.
const BY_MEMBER: &str = "introduced";
/// The member introduced itself, and this node never reached it.
const BY_ITS_WORD: &str = "unmet";
