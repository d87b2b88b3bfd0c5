//! The state of this node, told three times: for probes, for the page, for Prometheus.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use super::json;
use crate::metrics::{Sample, open_files, read, resident_bytes};
use crate::node::{Batch, LogCounts, Node, PeerStatus};

/// A name, what it means, its value. Names and units are those of `redis_exporter`, so that its
/// dashboards need one replacement; what only grows ends in `_total`.
type Figure = (&'static str, &'static str, u64);

#[rustfmt::skip]
fn figures(node: &Node, batch: &mut Batch) -> Vec<Figure> {
    let (metrics, guard, size) = (&node.metrics, &node.guard, node.shown_size(batch));
    let uptime = node.started.elapsed();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let replicated = node.peer_counters();
    let counts = node.durability().map(|durability| &durability.log.counts);
    let of_log = |field: fn(&LogCounts) -> &AtomicU64| counts.map_or(0, |counts| read(field(counts)));
    let (open_fds, max_fds) = open_files().unwrap_or_default();
    vec![
        ("kvstore_ready", "1 while /readyz is green.", u64::from(node.reasons_not_ready().is_empty())),
        ("kvstore_uptime_in_seconds", "Time since the start.", uptime.as_secs()),
        ("kvstore_connected_clients", "Open connections.", read(&metrics.connections_open)),
        ("kvstore_blocked_clients", "Clients in a WAIT.", node.waiting_clients() as u64),
        ("kvstore_max_clients", "Connections at one time.", node.configuration.connections_max as u64),
        ("kvstore_db_keys", "Keys that have a value.", size.keys as u64),
        ("kvstore_tombstones", "Traces of deletes.", size.tombstones as u64),
        ("kvstore_memory_used_bytes", "Size of all records.", size.bytes),
        ("kvstore_commands_processed_total", "Commands.", read(&metrics.commands)),
        ("kvstore_keyspace_hits_total", "Reads that found their key.", read(&metrics.hits)),
        ("kvstore_keyspace_misses_total", "Reads that did not.", read(&metrics.misses)),
        ("kvstore_net_input_bytes_total", "Bytes from clients.", read(&metrics.input_bytes)),
        ("kvstore_net_output_bytes_total", "Bytes to clients.", read(&metrics.output_bytes)),
        ("kvstore_connections_received_total", "Accepted connections.", read(&metrics.connections_accepted)),
        ("kvstore_rejected_connections_total", "Connections beyond the limit.", read(&metrics.connections_rejected)),
        ("kvstore_accept_errors_total", "Failed accepts and thread starts.", read(&metrics.accept_errors)),
        ("kvstore_protocol_errors_total", "Connections closed for what they sent.", read(&metrics.protocol_errors)),
        ("kvstore_clients_without_password", "Open connections without the password.", guard.strangers.count() as u64),
        ("kvstore_strangers_closed_total", "Connections without the password closed for a place.", read(&guard.strangers.closed)),
        ("kvstore_wrong_passwords_total", "Wrong passwords.", read(&guard.attempts.failed)),
        ("kvstore_passwords_delayed_total", "Passwords that waited for their turn, or were refused unseen.", read(&guard.attempts.delayed)),
        ("kvstore_reply_memory_bytes", "Replies that wait for clients.", guard.replies.bytes()),
        ("kvstore_reply_memory_closed_total", "Connections closed because replies not taken held too much.", read(&guard.replies.closed)),
        ("kvstore_aof_enabled", "1 with a data directory.", u64::from(node.is_durable())),
        ("kvstore_aof_last_write_status", "1 while the log takes writes.", u64::from(node.read_only().is_none())),
        ("kvstore_aof_current_size_bytes", "Bytes that recovery would read.", of_log(|counts| &counts.bytes)),
        ("kvstore_log_frames_total", "Frames written to the log.", of_log(|counts| &counts.frames)),
        ("kvstore_log_fsyncs_total", "Times the log was brought to the disk.", of_log(|counts| &counts.fsyncs)),
        ("kvstore_log_compactions_total", "Snapshots written in place of old log.", of_log(|counts| &counts.compactions)),
        ("kvstore_connected_slaves", "Peers whose link is live.", node.live_peers() as u64),
        ("kvstore_records_merged_total", "Records taken from peers.", read(&replicated.records_merged)),
        ("kvstore_records_refused_total", "Records whose time was too far ahead.", read(&replicated.records_refused)),
        ("kvstore_peers_refused_total", "Introductions refused.", read(&replicated.hellos_refused)),
        ("kvstore_links_broken_total", "Links that broke.", read(&replicated.links_broken)),
        ("kvstore_syncs_finished_total", "Comparisons of everything.", read(&replicated.syncs_finished)),
        ("kvstore_tombstones_dropped_total", "Traces of deletes let go.", read(&replicated.tombstones_dropped)),
        ("process_resident_memory_bytes", "Memory that is in RAM.", resident_bytes()),
        ("process_start_time_seconds", "When it started, in Unix time.", now.saturating_sub(uptime).as_secs()),
        ("process_open_fds", "Open files and sockets.", open_fds),
        ("process_max_fds", "Open files and sockets at most.", max_fds),
    ]
}

/// `/status.json`: the figures without their prefix, and what has no number.
pub fn json(node: &Node, address: SocketAddr, batch: &mut Batch) -> String {
    let text = |text: &str| json::string(text.as_bytes());
    let advertised = node.advertised_address();
    let rest = [
        ("version", text(env!("CARGO_PKG_VERSION"))),
        ("run_id", text(&format!("{:016x}", node.run_id))),
        (
            "address",
            text(&Some(advertised).filter(|it| !it.is_empty()).unwrap_or(address.to_string())),
        ),
        ("not_ready", json::array(node.reasons_not_ready().iter().map(|reason| text(reason)))),
        ("read_only", node.read_only().map_or("null".into(), |reason| text(&reason))),
        (
            "log",
            if node.is_durable() { text(node.configuration.fsync.name()) } else { "null".into() },
        ),
        ("node_id", text(&format!("{:016x}", node.node_id))),
        ("peers", json::array(node.peers().iter().map(peer))),
        ("fault_injection", node.configuration.replication.fault_injection.to_string()),
        ("history", json::array(node.metrics.samples().iter().map(sample))),
    ];
    let name =
        |name: &'static str| name.trim_start_matches("kvstore_").trim_start_matches("process_");
    let figures =
        figures(node, batch).into_iter().map(|(long, _, value)| (name(long), value.to_string()));
    json::object(figures.chain(rest))
}

/// Commands per second, p50 and p99 of their latency in nanoseconds.
fn sample(sample: &Sample) -> String {
    match sample.latency {
        Some((p50, p99)) => format!("[{:.1},{p50},{p99}]", sample.rate),
        None => format!("[{:.1},null,null]", sample.rate),
    }
}

#[rustfmt::skip]
fn peer(peer: &PeerStatus) -> String {
    let or_null = |value: Option<String>| value.unwrap_or("null".into());
    json::object([
        ("id", or_null(peer.id.map(|id| format!("\"{id:016x}\"")))),
        ("address", json::string(peer.address.as_bytes())),
        ("state", json::string(peer.state.as_bytes())),
        ("error", or_null(peer.error.as_ref().map(|reason| json::string(reason.as_bytes())))),
        ("met", peer.met.to_string()),
        ("queued_keys", peer.queued_keys.to_string()),
        ("lag_ms", peer.lag_ms.to_string()),
        ("last_sync_ms", or_null(peer.last_sync_ms.map(|ms| ms.to_string()))),
        ("sent_bytes", peer.sent_bytes.to_string()),
        ("received_bytes", peer.received_bytes.to_string()),
        ("clock_ahead_ms", peer.clock_ahead_ms.to_string()),
    ])
}

/// `/metrics`: Prometheus's text format
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub fn prometheus(node: &Node, batch: &mut Batch) -> String {
    let mut text = String::new();
    for (name, help, value) in figures(node, batch) {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let labels = if name == "kvstore_db_keys" { "{db=\"db0\"}" } else { "" };
        family(&mut text, name, kind, help, [(labels.to_string(), value.to_string())]);
    }
    latency(&mut text, node);
    let peers = node.peers();
    for (name, kind, help, value) in PER_PEER {
        let label =
            |peer: &PeerStatus| format!("{{peer={}}}", json::string(peer.address.as_bytes()));
        family(
            &mut text,
            name,
            kind,
            help,
            peers.iter().map(|peer| (label(peer), value(peer).to_string())),
        );
    }
    text
}

type PerPeer = (&'static str, &'static str, &'static str, fn(&PeerStatus) -> f64);

#[rustfmt::skip]
const PER_PEER: [PerPeer; 6] = [
    ("kvstore_replication_up", "gauge", "1 while the link is live.", |peer| f64::from(u8::from(peer.state == "live"))),
    ("kvstore_replication_lag_seconds", "gauge", "Age of the oldest change the peer lacks.", |peer| peer.lag_ms as f64 / 1000.0),
    ("kvstore_replication_queue_keys", "gauge", "Changed keys that wait for the peer.", |peer| peer.queued_keys as f64),
    ("kvstore_replication_sent_bytes_total", "counter", "Bytes sent to the peer.", |peer| peer.sent_bytes as f64),
    ("kvstore_replication_received_bytes_total", "counter", "Bytes of its answers.", |peer| peer.received_bytes as f64),
    ("kvstore_clock_skew_seconds", "gauge", "How far the peer's clock is ahead.", |peer| peer.clock_ahead_ms as f64 / 1000.0),
];

/// All samples of one name stand together, behind their description.
fn family(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = (String, String)>,
) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

/// The histogram. Its bounds are powers of two, from a microsecond on: no bucket of ours crosses
/// one.
fn latency(text: &mut String, node: &Node) {
    let name = "kvstore_command_duration_seconds";
    let help = "From a command's arrival to its settled reply.";
    let buckets: Vec<(u64, u64)> = node.metrics.latency.buckets().collect();
    let count_below = |limit: u64| {
        let below = buckets.iter().take_while(|(bound, _)| *bound < limit);
        below.map(|(_, count)| count).sum::<u64>().to_string()
    };
    let bounds = (10..=34).map(|bits| 1_u64 << bits);
    let bucket =
        |bound: u64| (format!("_bucket{{le=\"{}\"}}", bound as f64 / 1e9), count_below(bound));
    let count = count_below(u64::MAX);
    let samples = bounds.map(bucket).chain([
        ("_bucket{le=\"+Inf\"}".into(), count.clone()),
        ("_sum".into(), (node.metrics.latency.sum() as f64 / 1e9).to_string()),
        ("_count".into(), count),
    ]);
    family(text, name, "histogram", help, samples);
}
