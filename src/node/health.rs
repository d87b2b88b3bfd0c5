//! Whether all is well with this node: what `/readyz` answers, and why.

use super::agreement::Agreement;
use super::{Node, PeerStatus};
use crate::durability::write_ahead_log::WriteAheadLog;
use crate::metrics::read;

impl Node {
    /// Why work should go to another node, one sentence each; empty when all is well.
    pub fn reasons_not_ready(&self, peers: &[PeerStatus]) -> Vec<String> {
        let open = read(&self.metrics.connections_open);
        let max = self.configuration.connections_max;
        let mut reasons = Vec::from_iter(self.read_only());
        if self.stop.is_asked() {
            reasons.push("stopping: SHUTDOWN was asked for".into());
        }
        if open >= max as u64 {
            reasons.push(format!("all {max} connections are in use"));
        }
        if !self.is_serving() {
            reasons.push("starting: waiting for the seeds to answer".into());
        }
        match &self.agreement {
            Agreement::Raft(consensus) => reasons.extend(consensus.reason_not_ready()),
            Agreement::Eventual(_) => {
                reasons.extend(self.clock_is_ahead());
                reasons.extend(self.clock_differs(peers));
            }
        }
        reasons
    }

    /// Why writes are refused, if they are.
    pub fn read_only(&self) -> Option<String> {
        let reason = self.log().and_then(WriteAheadLog::read_only_reason)?;
        Some(format!("read-only: {reason}"))
    }

    /// Whether this node's writes are stamped so far ahead of its machine's clock that others
    /// refuse them. The cause is this machine's clock, now or earlier.
    fn clock_is_ahead(&self) -> Option<String> {
        let (ahead, limit) = (self.clock_ahead(), self.configuration.replication.clock_skew_max);
        let way_out = if self.is_durable() {
            "Once that is right (NTP), start once with --restamp"
        } else {
            "Once that is right (NTP), save the data with kvstore export and start again"
        };
        (ahead > limit).then(|| {
            format!(
                "the times of this node's writes are {} s ahead of this machine's clock, so other \
                 nodes refuse them. {way_out}",
                ahead.as_secs()
            )
        })
    }

    /// Whether the machine's clock is the one that is wrong: it differs too much from those of most
    /// peers, of at least two. Their records would be refused here, or this node's there.
    fn clock_differs(&self, peers: &[PeerStatus]) -> Option<String> {
        let limit = self.configuration.replication.clock_skew_max;
        let differs =
            |peer: &&PeerStatus| u128::from(peer.clock_ahead_ms.unsigned_abs()) > limit.as_millis();
        let (count, first) = (peers.iter().filter(differs).count(), peers.iter().find(differs)?);
        (peers.len() >= 2 && 2 * count > peers.len()).then(|| {
            format!(
                "the clock differs by {} ms from that of {} and by too much from those of {count} \
                 of {} peers; set it right (NTP)",
                first.clock_ahead_ms,
                first.address,
                peers.len()
            )
        })
    }
}
