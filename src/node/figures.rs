//! The one table of figures: what `INFO`, `/status.json` and `/metrics` show of a node.
//!
//! A [`Figure`] has a name for each of them, or none where it is not shown. The fields of `INFO`
//! are Redis's, so that its tools can read them. The names of metrics and their units are those of
//! `redis_exporter`, so that its dashboards need one replacement; what only grows ends in `_total`.

use std::cell::LazyCell;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::agreement::Agreement;
use super::{Node, PeerStatus};
use crate::config::REDIS_VERSION;
use crate::metrics::{Histogram, open_files, open_files_max, read, resident_bytes};
use crate::replication::ReplicationManager;

/// Something that is shown of a node.
#[derive(Debug)]
pub struct Figure {
    /// Its field in `INFO`.
    pub field: Option<&'static str>,
    /// Its metric.
    pub metric: Option<Metric>,
    /// What it is now.
    pub value: String,
}

/// How a figure stands in `/metrics`.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name without the prefix `kvstore_`, which all but those of `process_` have.
    name: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// The figures of one section of `INFO`.
#[derive(Debug)]
pub struct Section {
    /// As `INFO` names it.
    pub name: &'static str,
    /// In the order of `INFO`.
    pub figures: Vec<Figure>,
}

impl Metric {
    /// The name in `/metrics`.
    pub fn name(&self) -> String {
        let prefix = if self.name.starts_with("process_") { "" } else { "kvstore_" };
        format!("{prefix}{}", self.name)
    }

    /// The name in `/status.json`: without any prefix.
    pub fn short_name(&self) -> &'static str {
        self.name.trim_start_matches("process_")
    }
}

/// A figure that only `INFO` shows.
pub(super) fn info(field: &'static str, value: impl ToString) -> Figure {
    Figure { field: Some(field), metric: None, value: value.to_string() }
}

/// A figure that is a metric only.
pub(super) fn metric(name: &'static str, help: &'static str, value: impl ToString) -> Figure {
    Figure { field: None, metric: Some(Metric { name, help }), value: value.to_string() }
}

/// A figure that is shown everywhere.
pub(super) fn both(
    field: &'static str,
    name: &'static str,
    help: &'static str,
    value: impl ToString,
) -> Figure {
    Figure { field: Some(field), ..metric(name, help, value) }
}

/// In the order of `INFO`, which does not show the last one.
const SECTIONS: [&str; 9] = [
    "Server",
    "Clients",
    "Memory",
    "Persistence",
    "Stats",
    "Latencystats",
    "Replication",
    "Keyspace",
    PROCESS,
];
/// What only metrics show.
const PROCESS: &str = "";

impl Node {
    /// What is shown of this node, which listens at `address`, in the sections that are `wanted`.
    /// Some figures visit every shard, peer or open file: only where they are shown, and once.
    pub fn figures(&self, address: SocketAddr, wanted: impl Fn(&str) -> bool) -> Vec<Section> {
        let (size, peers) = (LazyCell::new(|| self.size()), LazyCell::new(|| self.peers()));
        let figures = |name| match name {
            "Server" => self.about_server(address),
            "Clients" => self.about_clients(),
            "Memory" => self.about_memory(size.bytes),
            "Persistence" => self.about_persistence(),
            "Stats" => self.about_work(),
            "Latencystats" => vec![latency(&self.metrics.latency)],
            "Replication" => match &self.agreement {
                Agreement::Eventual(replication) => {
                    self.about_peers(replication, &peers, size.tombstones)
                }
                Agreement::Raft(consensus) => self.about_consensus(consensus, &peers),
            },
            "Keyspace" => about_keys(size.keys),
            _ => self.about_process(&peers),
        };
        let wanted = SECTIONS.into_iter().filter(|name| wanted(name));
        wanted.map(|name| Section { name, figures: figures(name) }).collect()
    }

    fn about_server(&self, address: SocketAddr) -> Vec<Figure> {
        let uptime = self.started.elapsed().as_secs();
        vec![
            info("redis_version", REDIS_VERSION),
            info("redis_mode", "standalone"),
            info("kvstore_version", env!("CARGO_PKG_VERSION")),
            info("process_id", u64::from(std::process::id())),
            info("node_id", format!("{:016x}", self.node_id)),
            info("run_id", format!("{:016x}", self.run_id)),
            info("tcp_port", u64::from(address.port())),
            both("uptime_in_seconds", "uptime_in_seconds", "Time since the start.", uptime),
            info("uptime_in_days", uptime / 86_400),
        ]
    }

    #[rustfmt::skip]
    fn about_clients(&self) -> Vec<Figure> {
        let open = read(&self.metrics.connections_open);
        let strangers = self.guard.strangers.count();
        let max = self.configuration.connections_max;
        let waiting = match &self.agreement {
            Agreement::Eventual(replication) => replication.waiting(),
            Agreement::Raft(consensus) => consensus.waiting(),
        };
        vec![
            both("connected_clients", "connected_clients", "Open connections.", open),
            both("clients_without_password", "clients_without_password",
                 "Open connections without the password.", strangers),
            both("maxclients", "max_clients", "Connections at one time.", max),
            both("blocked_clients", "blocked_clients", "Clients in a WAIT.", waiting),
        ]
    }

    /// No figure of `INFO`.
    fn about_process(&self, peers: &[PeerStatus]) -> Vec<Figure> {
        let is_ready = u8::from(self.reasons_not_ready(peers).is_empty());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began = now.saturating_sub(self.started.elapsed()).as_secs();
        vec![
            metric("ready", "1 while /readyz is green.", is_ready),
            metric("process_start_time_seconds", "When it started, in Unix time.", began),
            metric("process_open_fds", "Open files and sockets.", open_files().unwrap_or(0)),
            metric(
                "process_max_fds",
                "Open files and sockets at most.",
                open_files_max().unwrap_or(0),
            ),
        ]
    }

    #[rustfmt::skip]
    fn about_memory(&self, bytes: u64) -> Vec<Figure> {
        let replies = self.guard.replies.bytes();
        vec![
            both("used_memory", "memory_used_bytes", "Size of all records.", bytes),
            info("used_memory_human", human_bytes(bytes)),
            both("used_memory_rss", "process_resident_memory_bytes", "Memory that is in RAM.",
                 resident_bytes()),
            info("maxmemory", 0),
            both("reply_memory", "reply_memory_bytes", "Replies that wait for clients.", replies),
            info("reply_memory_max", self.configuration.reply_memory_bytes),
        ]
    }

    /// A node that loads does not listen yet, so `loading` is always 0.
    #[rustfmt::skip]
    fn about_persistence(&self) -> Vec<Figure> {
        let mut figures = vec![
            info("loading", 0),
            both("aof_enabled", "aof_enabled", "1 with a data directory.",
                 u8::from(self.is_durable())),
            metric("aof_last_write_status", "1 while the log takes writes.",
                   u8::from(self.read_only().is_none())),
        ];
        let Some(durability) = &self.durability else {
            figures.extend([
                metric("aof_current_size_bytes", CURRENT_SIZE, 0),
                metric("log_frames_total", FRAMES, 0),
                metric("log_fsyncs_total", FSYNCS, 0),
                metric("log_compactions_total", COMPACTIONS, 0),
            ]);
            return figures;
        };
        let (log, recovered) = (&durability.log, &durability.recovered);
        let (counts, reason) = (&log.counts, log.read_only_reason());
        let status = |is_bad| if is_bad { "err" } else { "ok" };
        let is_compacting = counts.is_compacting.load(Ordering::Relaxed);
        let compaction_failed = counts.last_compaction_failed.load(Ordering::Relaxed);
        figures.extend([
            info("aof_rewrite_in_progress", u8::from(is_compacting)),
            info("aof_last_bgrewrite_status", status(compaction_failed)),
            both("aof_rewrites", "log_compactions_total", COMPACTIONS, read(&counts.compactions)),
            info("aof_last_write_status", status(reason.is_some())),
            both("aof_current_size", "aof_current_size_bytes", CURRENT_SIZE, read(&counts.bytes)),
            info("aof_base_size", read(&counts.snapshot_bytes)),
            info("fsync_policy", self.configuration.fsync.name()),
            both("log_frames_written", "log_frames_total", FRAMES, read(&counts.frames)),
            both("log_fsyncs", "log_fsyncs_total", FSYNCS, read(&counts.fsyncs)),
            info("log_unsynced", u8::from(!log.is_synced(log.end()))),
            info("read_only", u8::from(reason.is_some())),
            info("read_only_reason", reason.unwrap_or_default()),
            info("recovered_records", recovered.records),
            info("recovery_ms", recovered.duration.as_millis() as u64),
        ]);
        figures
    }

    #[rustfmt::skip]
    fn about_work(&self) -> Vec<Figure> {
        let (metrics, guard) = (&self.metrics, &self.guard);
        vec![
            both("total_connections_received", "connections_received_total",
                 "Accepted connections.", read(&metrics.connections_accepted)),
            both("total_commands_processed", "commands_processed_total",
                 "Commands.", read(&metrics.commands)),
            both("total_net_input_bytes", "net_input_bytes_total",
                 "Bytes from clients.", read(&metrics.input_bytes)),
            both("total_net_output_bytes", "net_output_bytes_total",
                 "Bytes to clients.", read(&metrics.output_bytes)),
            both("rejected_connections", "rejected_connections_total",
                 "Connections beyond the limit.", read(&metrics.connections_rejected)),
            both("keyspace_hits", "keyspace_hits_total",
                 "Reads that found their key.", read(&metrics.hits)),
            both("keyspace_misses", "keyspace_misses_total",
                 "Reads that did not.", read(&metrics.misses)),
            both("accept_errors", "accept_errors_total",
                 "Failed accepts and thread starts.", read(&metrics.accept_errors)),
            both("protocol_errors", "protocol_errors_total",
                 "Connections closed for what they sent.", read(&metrics.protocol_errors)),
            both("wrong_passwords", "wrong_passwords_total",
                 "Wrong passwords.", read(&guard.attempts.failed)),
            both("passwords_delayed", "passwords_delayed_total",
                 "Passwords that waited for their turn, or were refused unseen.",
                 read(&guard.attempts.delayed)),
            both("closed_without_password", "strangers_closed_total",
                 "Connections without the password closed for a place.",
                 read(&guard.strangers.closed)),
            both("closed_for_reply_memory", "reply_memory_closed_total",
                 "Connections closed because replies not taken held too much.",
                 read(&guard.replies.closed)),
        ]
    }

    #[rustfmt::skip]
    fn about_peers(
        &self,
        replication: &ReplicationManager,
        peers: &[PeerStatus],
        tombstones: usize,
    ) -> Vec<Figure> {
        let counters = replication.counters();
        let of_all = |field: fn(&PeerStatus) -> u64| peers.iter().map(field);
        let live = peers.iter().filter(|peer| peer.state == "live").count();
        vec![
            info("role", "master"),
            both("connected_slaves", "connected_slaves", "Peers whose link is live.", live),
            info("node_id", format!("{:016x}", self.node_id)),
            info("cluster", self.configuration.replication.cluster.as_str()),
            info("advertised_address", self.advertised_address()),
            info("peers", peers.len()),
            info("queued_keys", of_all(|peer| peer.queued_keys as u64).sum::<u64>()),
            info("lag_ms_max", of_all(|peer| peer.lag_ms).max().unwrap_or(0)),
            info("sent_bytes", of_all(|peer| peer.sent_bytes).sum::<u64>()),
            info("received_bytes", of_all(|peer| peer.received_bytes).sum::<u64>()),
            both("records_merged", "records_merged_total",
                 "Records taken from peers.", read(&counters.records_merged)),
            both("records_refused_clock_skew", "records_refused_total",
                 "Records whose time was too far ahead.", read(&counters.records_refused)),
            both("peers_refused", "peers_refused_total",
                 "Introductions refused.", read(&counters.hellos_refused)),
            both("links_broken", "links_broken_total",
                 "Links that broke.", read(&counters.links_broken)),
            info("queue_overflows", replication.queue_overflows()),
            both("syncs_finished", "syncs_finished_total",
                 "Finished comparisons of all shards with a peer.", read(&counters.syncs_finished)),
            both("tombstones", "tombstones", "Tombstones.", tombstones),
            both("tombstones_dropped", "tombstones_dropped_total",
                 "Tombstones dropped.", read(&counters.tombstones_dropped)),
        ]
    }
}

fn about_keys(keys: usize) -> Vec<Figure> {
    let mut figures = vec![metric("db_keys", "Keys that have a value.", keys)];
    if keys > 0 {
        figures.push(info("db0", format!("keys={keys},expires=0,avg_ttl=0")));
    }
    figures
}

const CURRENT_SIZE: &str = "Bytes that recovery would read.";
const FRAMES: &str = "Frames written to the log.";
const FSYNCS: &str = "Times the log was brought to the disk.";
const COMPACTIONS: &str = "Snapshots written in place of old log.";

/// As Redis writes them, in microseconds.
fn latency(latency: &Histogram) -> Figure {
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| latency.quantile(share) as f64 / 1000.0);
    let text = format!("p50={p50:.3},p99={p99:.3},p99.9={p999:.3}");
    info("latency_percentiles_usec_all", text)
}

fn human_bytes(bytes: u64) -> String {
    let (mut amount, mut unit) = (bytes as f64, "B");
    for larger in ["K", "M", "G", "T"] {
        if amount < 1024.0 {
            break;
        }
        (amount, unit) = (amount / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes}B") } else { format!("{amount:.2}{unit}") }
}
