//! The text of `INFO`: Redis's field names, so that its tools can read it.

use std::fmt::Write;
use std::net::SocketAddr;

use super::handshake::REDIS_VERSION;
use crate::metrics::{read, resident_bytes};
use crate::node::Node;

/// All sections, or the one that is named (`all`, `everything` and `default` are all).
pub fn text(node: &Node, address: SocketAddr, section: Option<&[u8]>) -> String {
    let wanted = section.map(|name| String::from_utf8_lossy(name).to_lowercase());
    let wanted = wanted.filter(|name| !matches!(name.as_str(), "all" | "everything" | "default"));
    let mut text = String::new();
    for (name, fields) in sections(node, address) {
        if wanted
            .as_ref()
            .is_none_or(|wanted| *wanted == name.to_lowercase())
        {
            let separator = if text.is_empty() { "" } else { "\r\n" };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}# {name}\r\n");
            for (field, value) in fields {
                let _ = write!(text, "{field}:{value}\r\n");
            }
        }
    }
    text
}

type Section = (&'static str, Vec<(&'static str, String)>);

fn sections(node: &Node, address: SocketAddr) -> Vec<Section> {
    let (metrics, size) = (&node.metrics, node.size());
    let count = |counter| read(counter).to_string();
    let uptime = metrics.started.elapsed().as_secs();
    vec![
        (
            "Server",
            vec![
                ("redis_version", REDIS_VERSION.into()),
                ("redis_mode", "standalone".into()),
                ("kvstore_version", env!("CARGO_PKG_VERSION").into()),
                ("process_id", std::process::id().to_string()),
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
                (
                    "maxclients",
                    node.configuration.limits.connections_max.to_string(),
                ),
                ("blocked_clients", "0".into()),
            ],
        ),
        (
            "Memory",
            vec![
                ("used_memory", size.bytes.to_string()),
                ("used_memory_human", human_bytes(size.bytes)),
                ("used_memory_rss", resident_bytes().to_string()),
                ("maxmemory", "0".into()),
            ],
        ),
        (
            "Persistence",
            vec![("loading", "0".into()), ("aof_enabled", "0".into())],
        ),
        (
            "Stats",
            vec![
                (
                    "total_connections_received",
                    count(&metrics.connections_accepted),
                ),
                ("total_commands_processed", count(&metrics.commands)),
                ("total_net_input_bytes", count(&metrics.input_bytes)),
                ("total_net_output_bytes", count(&metrics.output_bytes)),
                ("rejected_connections", count(&metrics.connections_rejected)),
                ("keyspace_hits", count(&metrics.hits)),
                ("keyspace_misses", count(&metrics.misses)),
                ("accept_errors", count(&metrics.accept_errors)),
                ("protocol_errors", count(&metrics.protocol_errors)),
            ],
        ),
        (
            "Replication",
            vec![("role", "master".into()), ("connected_slaves", "0".into())],
        ),
        (
            "Keyspace",
            match size.keys {
                0 => vec![],
                keys => vec![("db0", format!("keys={keys},expires=0,avg_ttl=0"))],
            },
        ),
    ]
}

fn human_bytes(bytes: u64) -> String {
    let (mut amount, mut unit) = (bytes as f64, "B");
    for larger in ["K", "M", "G", "T"] {
        if amount < 1024.0 {
            break;
        }
        (amount, unit) = (amount / 1024.0, larger);
    }
    if unit == "B" {
        format!("{bytes}B")
    } else {
        format!("{amount:.2}{unit}")
    }
}
