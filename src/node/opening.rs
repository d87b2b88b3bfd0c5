//! How a node starts: from its configuration, and from what a data directory holds.

use std::sync::Arc;
use std::time::Instant;

use super::Node;
use crate::config::Configuration;
use crate::durability::identity::NodeFile;
use crate::durability::{Durability, Opening};
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
        let opening = Opening {
            policy: configuration.fsync,
            salvage: configuration.salvage,
            has_seeds: !configuration.replication.seeds.is_empty(),
            clock_skew_max: configuration.replication.clock_skew_max,
            restamp: configuration.restamp,
        };
        let durability = Durability::open(directory, opening, &store)?;
        Ok(Node::with(configuration, store, Some(Arc::new(durability))))
    }

    /// A node in memory, with an empty store, even if the configuration names a data directory.
    pub fn new(configuration: Configuration) -> Self {
        Node::with(configuration, Arc::default(), None)
    }

    fn with(
        configuration: Configuration,
        store: Arc<KeyValueStore>,
        durability: Option<Arc<Durability>>,
    ) -> Self {
        let (clock, run_id) = (Arc::new(HybridClock::default()), random_id());
        let (mut node_id, mut memory) = (random_id(), None);
        if let Some(durability) = &durability {
            node_id = durability.node_file.node_id;
            memory = Some(memory_of(durability));
        }
        let ids = (node_id, run_id);
        let replication =
            ReplicationManager::new(&configuration, ids, store.clone(), clock.clone(), memory);
        let guard = Guard::new(configuration.connections_max, configuration.reply_memory_bytes);
        Node {
            guard,
            limits_of_strangers: configuration.limits.of_strangers(),
            configuration,
            started: Instant::now(),
            metrics: Metrics::default(),
            run_id,
            node_id,
            replication,
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
