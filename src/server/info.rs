//! The text of `INFO`: Redis's field names, so that its tools can read it.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::handshake::REDIS_VERSION;
use crate::metrics::{Histogram, read, resident_bytes};
use crate::node::{Batch, Node};

/// All sections, or the one that is named (`all`, `everything` and `default` are all).
pub fn text(node: &Node, address: SocketAddr, section: Option<&[u8]>, batch: &mut Batch) -> String {
    let wanted = section.map(|name| String::from_utf8_lossy(name).to_lowercase());
    let wanted = wanted.filter(|name| !matches!(name.as_str(), "all" | "everything" | "default"));
    let mut text = String::new();
    for (name, fields) in sections(node, address) {
        if wanted.as_ref().is_none_or(|wanted| *wanted == name.to_lowercase()) {
            let separator = if text.is_empty() { "" } else { "\r\n" };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}# {name}\r\n");
            if name == "Keyspace" {
                // Only this: `INFO persistence` must answer while the disk hangs.
                node.shows_everything(batch);
            }
            for (field, value) in fields {
                let _ = write!(text, "{field}:{value}\r\n");
            }
        }
    }
    text
}

type Section = (&'static str, Vec<(&'static str, String)>);

fn sections(node: &Node, address: SocketAddr) -> Vec<Section> {
    let (metrics, guard, size) = (&node.metrics, &node.guard, node.size());
    let count = |counter| read(counter).to_string();
    let uptime = node.started.elapsed().as_secs();
    vec![
        (
            "Server",
            vec![
                ("redis_version", REDIS_VERSION.into()),
                ("redis_mode", "standalone".into()),
                ("kvstore_version", env!("CARGO_PKG_VERSION").into()),
                ("process_id", std::process::id().to_string()),
                ("node_id", format!("{:016x}", node.node_id)),
                ("run_id", format!("{:016x}", node.run_id)),
                ("tcp_port", address.port().to_string()),
                ("uptime_in_seconds", uptime.to_string()),
                ("uptime_in_days", (uptime / 86_400).to_string()),
            ],
        ),
        (
            "Clients",
            vec![
                ("connected_clients", count(&metrics.connections_open)),
                ("clients_without_password", guard.strangers.count().to_string()),
                ("maxclients", node.configuration.connections_max.to_string()),
                ("blocked_clients", node.waiting_clients().to_string()),
            ],
        ),
        (
            "Memory",
            vec![
                ("used_memory", size.bytes.to_string()),
                ("used_memory_human", human_bytes(size.bytes)),
                ("used_memory_rss", resident_bytes().to_string()),
                ("maxmemory", "0".into()),
                ("reply_memory", guard.replies.bytes().to_string()),
                ("reply_memory_max", node.configuration.reply_memory_bytes.to_string()),
            ],
        ),
        ("Persistence", persistence(node)),
        (
            "Stats",
            vec![
                ("total_connections_received", count(&metrics.connections_accepted)),
                ("total_commands_processed", count(&metrics.commands)),
                ("total_net_input_bytes", count(&metrics.input_bytes)),
                ("total_net_output_bytes", count(&metrics.output_bytes)),
                ("rejected_connections", count(&metrics.connections_rejected)),
                ("keyspace_hits", count(&metrics.hits)),
                ("keyspace_misses", count(&metrics.misses)),
                ("accept_errors", count(&metrics.accept_errors)),
                ("protocol_errors", count(&metrics.protocol_errors)),
                ("wrong_passwords", count(&guard.attempts.failed)),
                ("passwords_delayed", count(&guard.attempts.delayed)),
                ("closed_without_password", count(&guard.strangers.closed)),
                ("closed_for_reply_memory", count(&guard.replies.closed)),
            ],
        ),
        ("Latencystats", vec![("latency_percentiles_usec_all", percentiles(&metrics.latency))]),
        ("Replication", super::peer::info(node)),
        (
            "Keyspace",
            match size.keys {
                0 => vec![],
                keys => vec![("db0", format!("keys={keys},expires=0,avg_ttl=0"))],
            },
        ),
    ]
}

/// A node that loads does not listen yet, so `loading` is always 0.
fn persistence(node: &Node) -> Vec<(&'static str, String)> {
    let mut fields = vec![("loading", "0".to_string())];
    let Some(durability) = node.durability() else {
        fields.push(("aof_enabled", "0".into()));
        return fields;
    };
    let (log, recovered) = (&durability.log, &durability.recovered);
    let (counts, reason) = (&log.counts, log.read_only_reason());
    let count = |counter| read(counter).to_string();
    let flag = |flag: &AtomicBool| u8::from(flag.load(Ordering::Relaxed)).to_string();
    let status = |is_bad| if is_bad { "err" } else { "ok" }.to_string();
    let last_compaction_failed = counts.last_compaction_failed.load(Ordering::Relaxed);
    let is_synced = log.is_synced(log.end());
    fields.extend([
        ("aof_enabled", "1".into()),
        ("aof_rewrite_in_progress", flag(&counts.is_compacting)),
        ("aof_last_bgrewrite_status", status(last_compaction_failed)),
        ("aof_rewrites", count(&counts.compactions)),
        ("aof_last_write_status", status(reason.is_some())),
        ("aof_current_size", count(&counts.bytes)),
        ("aof_base_size", count(&counts.snapshot_bytes)),
        ("fsync_policy", node.configuration.fsync.name().into()),
        ("log_frames_written", count(&counts.frames)),
        ("log_fsyncs", count(&counts.fsyncs)),
        ("log_unsynced", u8::from(!is_synced).to_string()),
        ("read_only", u8::from(reason.is_some()).to_string()),
        ("read_only_reason", reason.unwrap_or_default()),
        ("recovered_records", recovered.records.to_string()),
        ("recovery_ms", recovered.duration.as_millis().to_string()),
    ]);
    fields
}

/// As Redis writes them, in microseconds.
fn percentiles(latency: &Histogram) -> String {
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| latency.quantile(share) as f64 / 1000.0);
    format!("p50={p50:.3},p99={p99:.3},p99.9={p999:.3}")
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
