//! What was measured, as a table.

use super::requests::Kind;
use crate::metrics::Histogram;
use crate::options::BenchOptions;

#[derive(Default)]
pub(super) struct Measured {
    /// Requests per second of each round.
    pub(super) throughputs: Vec<f64>,
    /// In nanoseconds, of all rounds.
    pub(super) latency: Histogram,
}

impl Measured {
    /// Throughput, the median of the rounds, and p50, p99, p99.9 and maximum in microseconds.
    fn figures(&self) -> [f64; 5] {
        let mut sorted = self.throughputs.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let [p50, p99, p999, max] =
            [0.5, 0.99, 0.999, 1.0].map(|q| self.latency.quantile(q) as f64 / 1000.0);
        [median, p50, p99, p999, max]
    }
}

pub(super) fn table(
    options: &BenchOptions,
    rounds: u32,
    addresses: &[String],
    servers: &[[Measured; 2]],
) -> String {
    let BenchOptions { connections, pipeline, value_bytes, keys, reads, seconds, .. } = options;
    let load = match options.rate {
        0 => "closed loop".into(),
        rate => format!("{rate} requests/s"),
    };
    let mut text = format!(
        "{connections} connections, pipeline {pipeline}, values of {value_bytes} bytes, \
         {keys} keys, {reads}% reads, {load}, {rounds} x {seconds} s\n"
    );
    let mut row = |name: &str, command: &str, [throughput, p50, p99, p999, max]: [String; 5]| {
        text += &format!(
            "{name:<24}{command:>8}{throughput:>14}{p50:>10}{p99:>10}{p999:>10}{max:>10}\n"
        );
    };
    let head = ["requests/s", "p50 us", "p99 us", "p99.9 us", "max us"];
    row("server", "command", head.map(String::from));
    for (command, kind) in [("GET", Kind::Read), ("SET", Kind::Write)] {
        let figures: Vec<_> = servers.iter().map(|kinds| kinds[kind as usize].figures()).collect();
        if figures.iter().all(|[throughput, ..]| *throughput == 0.0) {
            continue;
        }
        for (address, figures) in addresses.iter().zip(&figures) {
            row(address, command, figures.map(|figure| format!("{figure:.0}")));
        }
        if let [ours, theirs] = figures[..] {
            let ratio = |column: usize| format!("{:.2}", ours[column] / theirs[column]);
            row("ratio", command, [0, 1, 2, 3, 4].map(ratio));
        }
    }
    text
}
