//! The figures of a node that agrees by consensus.

use super::figures::{Figure, both, info, metric};
use super::{Node, PeerStatus};
use crate::consensus::Consensus;
use crate::metrics::read;

impl Node {
    #[rustfmt::skip]
    pub(super) fn about_consensus(
        &self,
        consensus: &Consensus,
        peers: &[PeerStatus],
    ) -> Vec<Figure> {
        let (status, counters) = (consensus.status(), consensus.counters());
        let of_all = |field: fn(&PeerStatus) -> u64| peers.iter().map(field).sum::<u64>();
        let live = peers.iter().filter(|peer| peer.state == "live").count();
        let is_leader = status.role == "leader";
        vec![
            info("role", if is_leader { "master" } else { "slave" }),
            both("connected_slaves", "connected_slaves", "Peers whose link is live.", live),
            info("node_id", format!("{:016x}", self.node_id)),
            info("cluster", self.configuration.replication.cluster.as_str()),
            info("advertised_address", self.advertised_address()),
            info("peers", peers.len()),
            info("raft_role", status.role),
            info("raft_leader", status.leader),
            metric("raft_is_leader", "1 while this node leads.", u64::from(is_leader)),
            both("raft_term", "raft_term", "Term.", status.term),
            both("raft_commit_index", "raft_commit_index", "Last committed entry.", status.commit),
            both("raft_applied_index", "raft_applied_index", "Last applied entry.", status.applied),
            both("raft_last_index", "raft_last_index", "Last entry of the log.", status.last),
            both("raft_durable_index", "raft_durable_index", "Last entry on the disk.",
                 status.durable),
            both("raft_voters", "raft_voters", "Members that count.", status.voters),
            both("raft_learners", "raft_learners", "Members that do not count yet.",
                 status.learners),
            both("raft_elections", "raft_elections_total", "Elections this node stood for.",
                 status.counts.elections),
            both("raft_leader_changes", "raft_leader_changes_total", "Leaders that were seen.",
                 status.counts.leader_changes),
            both("raft_read_rounds", "raft_read_rounds_total",
                 "Rounds that asked a majority for reads.", status.counts.read_rounds),
            both("raft_refused", "raft_refused_total",
                 "Requests refused without a leader or a majority.",
                 read(&counters.proposals_refused)),
            both("raft_unknown", "raft_unknown_total", "Writes whose outcome is unknown.",
                 read(&counters.outcomes_unknown)),
            both("raft_forwarded_writes", "raft_forwarded_writes_total",
                 "Batches of writes that were sent to the leader.",
                 read(&counters.writes_forwarded)),
            both("raft_forwarded_reads", "raft_forwarded_reads_total",
                 "Batches whose reads asked the leader.", read(&counters.reads_forwarded)),
            info("sent_bytes", of_all(|peer| peer.sent_bytes)),
            info("received_bytes", of_all(|peer| peer.received_bytes)),
            both("peers_refused", "peers_refused_total", "Introductions refused.",
                 read(&counters.hellos_refused)),
            both("links_broken", "links_broken_total", "Links that broke.",
                 read(&counters.links_broken)),
        ]
    }
}
