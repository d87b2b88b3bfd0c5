//! Clusters that agree by consensus: real nodes that can be killed and started again.

use std::path::PathBuf;

use tempfile::TempDir;

use super::cluster::{field, free_port, text};
use super::{Server, poll};
use kvstore::client::{Client, Response, SILENCE_TIMEOUT};

/// Nodes of one raft cluster, each on a port and a directory of its own.
pub struct RaftCluster {
    pub nodes: Vec<RaftNode>,
    options: Vec<String>,
    _folder: TempDir,
}

/// A node that may run or not.
pub struct RaftNode {
    pub port: u16,
    pub directory: PathBuf,
    pub server: Option<Server>,
}

impl RaftNode {
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    pub fn kill(&mut self) {
        self.server.as_mut().expect("it runs").kill();
        self.server = None;
    }
}

impl RaftCluster {
    /// A cluster of so many voters.
    pub fn start(count: usize, options: &[&str]) -> RaftCluster {
        let folder = tempfile::tempdir().expect("a folder");
        let options = options.iter().map(|option| option.to_string()).collect();
        let mut cluster = RaftCluster { nodes: Vec::new(), options, _folder: folder };
        for _ in 0..count {
            cluster.add();
        }
        cluster.wait_for_voters(count);
        cluster
    }

    /// Starts one more node, which joins the others.
    pub fn add(&mut self) -> usize {
        let index = self.nodes.len();
        let directory = self._folder.path().join(format!("n{index}"));
        self.nodes.push(RaftNode { port: free_port(), directory, server: None });
        self.restart(index);
        index
    }

    /// Starts a node, again if it was killed before.
    pub fn restart(&mut self, index: usize) {
        let node = &self.nodes[index];
        let directory = node.directory.to_str().expect("text");
        let mut options = vec!["--raft", "--data-dir", directory];
        options.extend(self.options.iter().map(String::as_str));
        let first = format!("--peer={}", self.nodes[0].address());
        if index > 0 {
            options.push(&first);
        }
        self.nodes[index].server = Some(Server::start_on(node.port, &options, &[]));
    }

    /// Waits until the leader counts so many voters; its index.
    #[track_caller]
    pub fn wait_for_voters(&self, count: usize) -> usize {
        poll(&format!("{count} voters: {}", self.peers()), || {
            let leader = self.leader_now()?;
            (field(self.nodes[leader].server(), "raft_voters") == count.to_string())
                .then_some(leader)
        })
    }

    /// The index of the leader, once there is one.
    #[track_caller]
    pub fn leader(&self) -> usize {
        poll("a leader", || self.leader_now())
    }

    fn leader_now(&self) -> Option<usize> {
        let running = |index: &usize| self.nodes[*index].server.is_some();
        let leads = |index: &usize| field(self.nodes[*index].server(), "role") == "master";
        (0..self.nodes.len()).filter(running).find(leads)
    }

    fn peers(&self) -> String {
        let servers = self.nodes.iter().filter_map(|node| node.server.as_ref());
        servers.map(|server| text(super::cluster::ask(server, &["PEERS"]))).collect()
    }

    /// The addresses of all nodes.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(RaftNode::address).collect()
    }

    /// A client that knows all nodes.
    pub fn client(&self) -> Client {
        Client::connect_any(self.addresses(), None, SILENCE_TIMEOUT).expect("a node serves")
    }

    /// Asks whoever leads.
    pub fn ask(&self, words: &[&str]) -> Response {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.client().request(&words).expect("a reply")
    }

    /// Waits until all nodes that run have applied everything.
    #[track_caller]
    pub fn wait_until_equal(&self) {
        poll("all nodes have applied the same", || {
            let servers = self.nodes.iter().filter_map(|node| node.server.as_ref());
            let of = |server, name| field(server, name);
            let last = of(self.nodes[self.leader_now()?].server(), "raft_last_index");
            servers
                .map(|server| of(server, "raft_applied_index"))
                .all(|applied| applied == last)
                .then_some(())
        });
    }
}
