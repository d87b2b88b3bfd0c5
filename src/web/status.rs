//! The state of this node: JSON for the page, and the text format of Prometheus.

use std::fmt::Write;
use std::net::SocketAddr;

use super::json;
use crate::metrics::Sample;
use crate::node::figures::Metric;
use crate::node::{Batch, Node, PeerStatus};

/// The figures that are metrics.
fn metrics(node: &Node, address: SocketAddr, batch: &mut Batch) -> Vec<(Metric, String)> {
    let figures = node.figures(address, |_| true).into_iter().flat_map(|section| section.figures);
    // After they were read: the reply waits for all that they show.
    node.shows_everything(batch);
    figures.filter_map(|figure| Some((figure.metric?, figure.value))).collect()
}

/// `/status.json`: the figures without their prefix, and what has no number.
pub fn json(node: &Node, address: SocketAddr, batch: &mut Batch) -> String {
    let text = |text: &str| json::string(text.as_bytes());
    let (advertised, peers) = (node.advertised_address(), node.peers());
    let reasons = node.reasons_not_ready(&peers);
    let rest = [
        ("version", text(env!("CARGO_PKG_VERSION"))),
        ("run_id", text(&format!("{:016x}", node.run_id))),
        (
            "address",
            text(&Some(advertised).filter(|it| !it.is_empty()).unwrap_or(address.to_string())),
        ),
        ("not_ready", json::array(reasons.iter().map(|reason| text(reason)))),
        ("read_only", node.read_only().map_or("null".into(), |reason| text(&reason))),
        (
            "log",
            if node.is_durable() { text(node.configuration.fsync.name()) } else { "null".into() },
        ),
        ("node_id", text(&format!("{:016x}", node.node_id))),
        ("peers", json::array(peers.iter().map(peer))),
        ("fault_injection", node.configuration.replication.fault_injection.to_string()),
        ("history", json::array(node.metrics.samples().iter().map(sample))),
    ];
    let figures = metrics(node, address, batch).into_iter();
    json::object(figures.map(|(metric, value)| (metric.short_name(), value)).chain(rest))
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
pub fn prometheus(node: &Node, address: SocketAddr, batch: &mut Batch) -> String {
    let mut text = String::new();
    for (metric, value) in metrics(node, address, batch) {
        let name = metric.name();
        let labels = if name == "kvstore_db_keys" { "{db=\"db0\"}" } else { "" };
        family(&mut text, &name, kind_of(&name), metric.help, [(labels.to_string(), value)]);
    }
    latency(&mut text, node);
    let peers = node.peers();
    let label = |peer: &PeerStatus| format!("{{peer={}}}", json::string(peer.address.as_bytes()));
    let mut of_peers = |name, help, value: fn(&PeerStatus) -> f64| {
        let samples = peers.iter().map(|peer| (label(peer), value(peer).to_string()));
        family(&mut text, name, kind_of(name), help, samples);
    };
    of_peers("kvstore_replication_up", "1 while the link is live.", |peer| {
        f64::from(u8::from(peer.state == "live"))
    });
    of_peers(
        "kvstore_replication_lag_seconds",
        "Age of the oldest change the peer lacks.",
        |peer| peer.lag_ms as f64 / 1000.0,
    );
    of_peers("kvstore_replication_queue_keys", "Changed keys that wait for the peer.", |peer| {
        peer.queued_keys as f64
    });
    of_peers("kvstore_replication_sent_bytes_total", "Bytes sent to the peer.", |peer| {
        peer.sent_bytes as f64
    });
    of_peers("kvstore_replication_received_bytes_total", "Bytes of its answers.", |peer| {
        peer.received_bytes as f64
    });
    of_peers("kvstore_clock_skew_seconds", "How far the peer's clock is ahead.", |peer| {
        peer.clock_ahead_ms as f64 / 1000.0
    });
    text
}

/// What the name of a metric says of its kind.
fn kind_of(name: &str) -> &'static str {
    if name.ends_with("_total") { "counter" } else { "gauge" }
}

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
