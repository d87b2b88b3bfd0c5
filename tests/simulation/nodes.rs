//! Nodes that agree eventually: the real [`ReplicationManager`] and store over a disk that a test
//! can take the power from.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use kvstore::config::{Configuration, Limits, ReplicationOptions};
use kvstore::replication::contact::Stored;
use kvstore::replication::{KnownLinks, ReplicationManager, Storage};
use kvstore::store::KeyValueStore;
use kvstore::store::record::decode_all;
use kvstore::store::version::HybridClock;

use crate::checks::{History, Ticket, trace};
use crate::host::{Clocks, SimCaller, SimHost};
use crate::links::{Message, SimLink};
use crate::network::Network;
use crate::reached::Event;
use crate::receiving::Session;

/// Mistakes built in on purpose, to see that the checks find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    MergeKeepsTheOlder,
    TombstoneDroppedAfterOneRound,
    OneShardNeverSynced,
    ReceivedRecordForwarded,
    MarkClearedAfterTheDigestIsAsked,
    OldConnectionsStayOpen,
    OrderNotKept,
    ListEndsAfterItsFirstPart,
    ValueIsNotThatOfItsVersion,
    RefusedRecordsCountAsMerged,
    DigestsShownBeforeTheyAreOnDisk,
    RunsAreNotTold,
    NoTombstonesWithoutSeeds,
    UnreachedNodesAreNotStored,
}

/// The last two are in one bucket.
pub const KEYS: [&str; 6] = ["a", "b", "c", "d", "dhy", "fza"];
pub const START_MS: u64 = 1_800_000_000_000;
pub const GRACE: Duration = Duration::from_secs(40);
pub const SKEW_MAX: Duration = Duration::from_secs(60);
/// Between two calls of fsync.
const FSYNC_MS: u64 = 1_000;

pub fn limits() -> Limits {
    Limits { batch_bytes: 60, queue_keys_max: 3, ..Limits::default() }
}

/// What of a node is not in its process.
pub struct Disk {
    pub stored: Mutex<Stored>,
    /// What a power loss leaves of the records.
    pub synced: Vec<u8>,
    pub synced_ms: u64,
    /// Whether records are synced every second, or only when a peer is shown them.
    pub every_second: bool,
}

pub struct SimNode {
    pub manager: ReplicationManager,
    pub store: Arc<KeyValueStore>,
    pub clock: Arc<HybridClock>,
    pub clocks: Arc<Clocks>,
    /// As a client's connection has them.
    pub known_links: KnownLinks,
    new_callers: Receiver<SimCaller>,
    pub links: BTreeMap<u64, SimLink>,
    /// Connections that others made.
    pub sessions: BTreeMap<u64, Session>,
    pub disk: Option<Disk>,
    pub stored: Arc<Mutex<Stored>>,
    pub began_ms: u64,
    pub node_id: u64,
    pub run_id: u64,
    pub seeds: Vec<String>,
    pub is_up: bool,
    pub is_forgotten: bool,
    pub skew_ms: i64,
    /// How far ahead its clock was at its worst.
    pub fastest_ms: u64,
}

pub struct Cluster {
    pub network: Network<Message>,
    pub fault: Fault,
    pub limits: Limits,
    pub nodes: Vec<SimNode>,
    pub history: History,
    pub tickets: Vec<Ticket>,
    /// MERGE requests sent since this was set to 0.
    pub merges: u64,
    /// Nodes that were replaced: nobody has told the others yet to forget these ids.
    pub replaced: Vec<u64>,
}

/// Which seeds a node is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeds {
    All,
    /// One, so that somebody's end may leave two strangers.
    One,
    /// The first node has none, and the others name it.
    FirstHasNone,
}

pub fn address(index: usize) -> String {
    format!("n{index}:1")
}

pub fn seeds_of(index: usize, count: usize, seeds: Seeds) -> Vec<String> {
    let mut all: Vec<String> = (1..count).map(|step| address((index + step) % count)).collect();
    match (seeds, index) {
        (Seeds::All, _) => all,
        (Seeds::One, _) => {
            all.truncate(1);
            all
        }
        (Seeds::FirstHasNone, 0) => Vec::new(),
        (Seeds::FirstHasNone, _) => vec![address(0)],
    }
}

impl Cluster {
    /// A cluster whose nodes are not started yet.
    pub fn empty(seed: u64, fault: Fault) -> Self {
        Cluster {
            network: Network::new(seed),
            fault,
            limits: limits(),
            nodes: Vec::new(),
            history: History::default(),
            tickets: Vec::new(),
            merges: 0,
            replaced: Vec::new(),
        }
    }

    /// Starts another node, with an empty disk or with none.
    pub fn add(&mut self, is_durable: bool, seeds: Vec<String>, skew_ms: i64) {
        let index = self.nodes.len();
        let disk = is_durable.then(|| self.new_disk());
        let node_id = self.network.id();
        let node = self.start(index, node_id, KeyValueStore::new(), disk, seeds, skew_ms);
        self.nodes.push(node);
        self.receive_callers(index);
    }

    pub fn new_disk(&mut self) -> Disk {
        let every_second = self.network.random.one_in(2);
        Disk { stored: Mutex::default(), synced: Vec::new(), synced_ms: 0, every_second }
    }

    /// A node as it is after its start.
    pub fn start(
        &mut self,
        index: usize,
        node_id: u64,
        store: KeyValueStore,
        disk: Option<Disk>,
        seeds: Vec<String>,
        skew_ms: i64,
    ) -> SimNode {
        let run_id = self.network.id();
        let (store, clock) = (Arc::new(store), Arc::new(HybridClock::default()));
        let clocks = Arc::new(Clocks::default());
        let configuration = Configuration {
            replication: ReplicationOptions {
                seeds: seeds.clone(),
                advertise: Some(address(index)),
                cluster: "c".into(),
                clock_skew_max: SKEW_MAX,
                tombstone_grace: GRACE,
                fault_injection: true,
            },
            limits: self.limits.clone(),
            insecure: true,
            ..Configuration::default()
        };
        let (callers, new_callers) = unbounded();
        let stored = disk.as_ref().map(|disk| disk.stored.lock().expect("no panic").clone());
        let stored = Arc::new(Mutex::new(stored.unwrap_or_default()));
        let storage = disk.is_some().then(|| storage_of(&store, &stored));
        set_clocks(&clocks, self.network.now_ms, self.network.now_ms, skew_ms);
        let random = AtomicU64::new(self.network.random.draw());
        let manager = ReplicationManager::with_host(
            &configuration,
            (node_id, run_id),
            Arc::clone(&store),
            Arc::clone(&clock),
            storage,
            Box::new(SimHost { clocks: Arc::clone(&clocks), random, callers }),
        );
        if self.fault == Fault::TombstoneDroppedAfterOneRound {
            manager.set_clean_rounds(1);
        }
        manager.advertise(([127, 0, 0, 1], 1).into());
        manager.start_links().expect("links start");
        if seeds.is_empty() {
            self.network.reached.add(Event::NodeWithoutSeeds);
        }
        SimNode {
            manager,
            store,
            clock,
            clocks,
            known_links: KnownLinks::default(),
            new_callers,
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            disk,
            stored,
            began_ms: self.network.now_ms,
            node_id,
            run_id,
            seeds,
            is_up: true,
            is_forgotten: false,
            skew_ms,
            fastest_ms: skew_ms.max(0) as u64,
        }
    }

    pub fn wall_ms(&self, index: usize) -> u64 {
        (START_MS + self.network.now_ms).saturating_add_signed(self.nodes[index].skew_ms)
    }

    /// The clock of a node that only goes forward.
    pub fn monotonic_ms(&self, index: usize) -> u64 {
        self.network.now_ms - self.nodes[index].began_ms
    }

    /// The same moment for the clocks of all nodes.
    pub fn set_clocks(&mut self) {
        for node in &self.nodes {
            set_clocks(&node.clocks, self.network.now_ms, node.began_ms, node.skew_ms);
        }
    }

    /// The callers of links that have begun since.
    pub fn receive_callers(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        while let Ok(caller) = node.new_callers.try_recv() {
            node.links.insert(caller.peer().number, SimLink::new(caller));
        }
    }

    /// Whether a node serves clients: `Node::wait_until_serving`.
    pub fn serves(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        let has_tried_all = || node.links.values().all(|sim| sim.caller.peer().tried.is_open());
        node.is_up && (has_tried_all() || self.network.now_ms >= node.began_ms + 1_000)
    }

    /// Syncs what was not synced for a second, as the thread `log-sync` does.
    pub fn sync_disks(&mut self) {
        let now_ms = self.network.now_ms;
        for node in self.nodes.iter_mut().filter(|node| node.is_up) {
            let is_due = |disk: &Disk| disk.every_second && now_ms >= disk.synced_ms + FSYNC_MS;
            if node.disk.as_ref().is_some_and(is_due) {
                node.sync(now_ms);
            }
        }
    }

    /// A node stops, as after `kill -9`: what it had only in memory is gone, and its machine ends
    /// its connections.
    pub fn crash(&mut self, index: usize) {
        if self.nodes[index].is_up {
            self.hang_up(index);
            self.stop(index);
        }
    }

    /// A node stops with its machine: nobody ends its connections, and what was not synced is gone.
    pub fn lose_power(&mut self, index: usize) {
        if !self.nodes[index].is_up {
            return;
        }
        self.stop(index);
        let Some(disk) = &self.nodes[index].disk else {
            return;
        };
        let left = loaded(&disk.synced);
        if self.excuse(index, &left) {
            self.network.reached.add(Event::PowerLossTookWrites);
        }
        // Its acknowledgements were about what it had handed to its system.
        self.tickets.clear();
        self.nodes[index].store = Arc::new(left);
    }

    fn stop(&mut self, index: usize) {
        self.nodes[index].is_up = false;
        trace(|| format!("{} node {index} crashes", self.network.now_ms));
        let node = &mut self.nodes[index];
        node.links.clear();
        node.sessions.clear();
        self.tickets.retain(|ticket| ticket.node != index);
        if self.nodes[index].disk.is_none() {
            self.excuse(index, &KeyValueStore::new());
        }
    }

    pub fn restart(&mut self, index: usize) {
        if self.nodes[index].is_up {
            return;
        }
        trace(|| format!("{} node {index} restarts", self.network.now_ms));
        let node = &mut self.nodes[index];
        let (seeds, skew_ms) = (node.seeds.clone(), node.skew_ms);
        let (fastest_ms, is_forgotten) = (node.fastest_ms, node.is_forgotten);
        let disk = node.take_disk(self.network.now_ms);
        let (node_id, store) = match &disk {
            Some(_) => (node.node_id, loaded(&node.records())),
            None => (self.network.id(), KeyValueStore::new()),
        };
        let (is_durable, before) = (disk.is_some(), self.nodes[index].versions());
        self.network.reached.add(match is_durable {
            true => Event::RestartWithData,
            false => Event::RestartEmpty,
        });
        let mut fresh = self.start(index, node_id, store, disk, seeds, skew_ms);
        fresh.fastest_ms = fastest_ms;
        fresh.is_forgotten = is_forgotten && is_durable;
        self.nodes[index] = fresh;
        self.receive_callers(index);
        if is_durable {
            self.note_forgotten(index, before);
        }
    }
}

impl SimNode {
    pub fn is_durable(&self) -> bool {
        self.disk.is_some()
    }

    /// All records, as a log has them.
    pub fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        KEYS.iter().for_each(|key| self.store.copy_record(key.as_bytes(), &mut records, |_| true));
        records
    }

    pub fn sync(&mut self, now_ms: u64) {
        let records = self.records();
        if let Some(disk) = &mut self.disk {
            (disk.synced, disk.synced_ms) = (records, now_ms);
        }
    }

    /// The disk for the next process, with the members as they were stored last.
    pub fn take_disk(&mut self, now_ms: u64) -> Option<Disk> {
        let mut disk = self.disk.take()?;
        disk.stored = Mutex::new(self.stored.lock().expect("no panic").clone());
        disk.synced_ms = now_ms;
        Some(disk)
    }
}

/// What a process finds in its directory, and stores there.
fn storage_of(store: &KeyValueStore, stored: &Arc<Mutex<Stored>>) -> Storage {
    let times = KEYS.map(|key| store.version(key.as_bytes()).unwrap_or_default().time);
    let saved = Arc::clone(stored);
    let save = move |now: &Stored| {
        now.clone_into(&mut saved.lock().expect("no panic"));
        Ok(())
    };
    let stored = stored.lock().expect("no panic").clone();
    Storage { stored, time_max: times.into_iter().max().unwrap_or(0), save: Box::new(save) }
}

/// A store with these records.
pub fn loaded(records: &[u8]) -> KeyValueStore {
    let store = KeyValueStore::new();
    for record in decode_all(records) {
        store.merge(&record.expect("our own bytes"), |_| 0);
    }
    store
}

fn set_clocks(clocks: &Clocks, now_ms: u64, began_ms: u64, skew_ms: i64) {
    let wall_ms = (START_MS + now_ms).saturating_add_signed(skew_ms);
    clocks.wall_ms.store(wall_ms, Ordering::Relaxed);
    clocks.monotonic_ms.store(now_ms - began_ms, Ordering::Relaxed);
}
