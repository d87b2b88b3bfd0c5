//! Configuration: what a node is told at its start, and every limit and timeout, with its unit and
//! its reason.
//!
//! A limit has three parts: the number, why this number, and what happens when it is reached. All
//! three stand here. Tests build a [`Configuration`] with shorter times and smaller sizes.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

/// The port where nothing else is said, as in the original.
pub const DEFAULT_PORT: u16 = 8080;
/// The host a client asks where nothing else is said.
pub const DEFAULT_HOST: &str = "localhost";
/// Longest key, in bytes. A fixed part of the format, since every node must agree on it.
pub const KEY_BYTES_MAX: usize = 65_536;
/// Longest value, in bytes. A fixed part of the format, since every node must agree on it.
pub const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Banned node ids that a node keeps, and that an answer to a HELLO may name. With them the answer
/// stays far below its limit of a MiB, and so does the file `node`.
pub const BANS_MAX: usize = 10_000;

/// All that a node is told at its start.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Port for clients and peers; 0 picks a free one.
    pub port: u16,
    /// Address to listen on. Loopback by default: a store that everybody can reach needs a
    /// password.
    pub bind: IpAddr,
    /// Password that clients and peers must give; `None` lets everybody in.
    pub password: Option<Vec<u8>>,
    /// A second password that is valid too, so that the first can be changed node by node. Peers
    /// are given the first.
    pub second_password: Option<Vec<u8>>,
    /// Bytes of replies that clients have not taken, all connections together. When they are more,
    /// the connection that holds most is closed.
    pub reply_memory_bytes: u64,
    /// Where data is kept; `None` keeps it in memory only.
    pub data_dir: Option<PathBuf>,
    /// When it is brought to the disk.
    pub fsync: FsyncPolicy,
    /// Start with what is readable of a damaged data directory.
    pub salvage: bool,
    /// Give records that lie too far in the future a version of now.
    pub restamp: bool,
    /// Who the others are, and how to agree with them.
    pub replication: ReplicationOptions,
    /// Sizes and times.
    pub limits: Limits,
}

/// When written records are brought from the operating system to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FsyncPolicy {
    /// Before every reply that shows them: survives a power loss
    Always,
    /// Once a second: a power loss takes the last second
    #[default]
    Everysec,
    /// When the operating system likes
    Never,
}

impl FsyncPolicy {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            FsyncPolicy::Always => "always",
            FsyncPolicy::Everysec => "everysec",
            FsyncPolicy::Never => "never",
        }
    }
}

/// What a node is told about the cluster.
#[derive(Clone, Debug)]
pub struct ReplicationOptions {
    /// `host:port` of nodes to start from; one live member is enough.
    pub seeds: Vec<String>,
    /// `host:port` under which others reach this node; `None`: the address it listens on.
    pub advertise: Option<String>,
    /// Nodes of another cluster are refused.
    pub cluster: String,
    /// How far a record may be ahead of this machine's clock. One further ahead is refused: it
    /// would win over every write until then.
    pub clock_skew_max: Duration,
    /// How long a tombstone takes part in comparisons. A node that was away for less learns of
    /// deletes like of any write; after it, tombstones are dropped once every member has been
    /// asked.
    pub tombstone_grace: Duration,
    /// Whether `PARTITION` and `HEAL` may be used.
    pub fault_injection: bool,
    /// Which addresses this node connects to when others name them.
    pub dials: Dials,
}

/// Which addresses a node connects to. Others name them: a node that introduces itself, and members
/// about others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dials {
    /// Those of this machine, and those named with `--peer`: without a password everybody who can
    /// connect is a stranger, and must not make this node connect elsewhere.
    ThisMachineAndSeeds,
    /// All: strangers are kept out by a password, or let in with `--insecure`.
    Everybody,
}

impl Default for ReplicationOptions {
    fn default() -> Self {
        ReplicationOptions {
            seeds: Vec::new(),
            advertise: None,
            cluster: "kvstore".into(),
            clock_skew_max: Duration::from_secs(60),
            tombstone_grace: Duration::from_secs(600),
            fault_injection: false,
            dials: Dials::ThisMachineAndSeeds,
        }
    }
}

impl Default for Configuration {
    fn default() -> Self {
        Configuration {
            port: DEFAULT_PORT,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            password: None,
            second_password: None,
            reply_memory_bytes: 1024 * 1024 * 1024,
            data_dir: None,
            fsync: FsyncPolicy::default(),
            salvage: false,
            restamp: false,
            replication: ReplicationOptions::default(),
            limits: Limits::default(),
        }
    }
}

/// Every length, count and wait of the server. Names end in the unit; times carry theirs in the
/// type.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at one time. Each costs a thread. One more gets an error line and is closed.
    pub connections_max: usize,
    /// Accepted connections that wait for their thread. When full, accepting pauses and the
    /// kernel's own queue fills.
    pub starting_connections_max: usize,
    /// Longest key. A longer one is refused; the connection goes on.
    pub key_bytes_max: usize,
    /// Longest value. On lines a longer one is refused; in RESP its length is a protocol error.
    pub value_bytes_max: usize,
    /// Longest line: a longest value, a longest key and the command word. A longer one is answered
    /// and the connection closed.
    pub line_bytes_max: usize,
    /// Longest header line in RESP (`*3`, `$5`): 20 digits and some. Longer: protocol error.
    pub header_bytes_max: usize,
    /// Elements of one RESP request, as in Redis before 7. More: protocol error.
    pub request_elements_max: usize,
    /// Bytes of one RESP request: several longest values. Without it a million long elements would
    /// be collected before the request is looked at. More: protocol error.
    pub request_bytes_max: usize,
    /// Bytes of the reply to one request; `MGET` of one long value a thousand times must not fill
    /// the memory. More: the reply becomes an error.
    pub reply_bytes_max: usize,
    /// Elements of a request before the password was given, as in Redis. More: `-NOAUTH`, closed.
    pub unauthenticated_elements_max: usize,
    /// Bytes of a request before the password was given. More: `-NOAUTH`, closed.
    pub unauthenticated_bytes_max: usize,
    /// Longest head of an HTTP request: a long key, percent-encoded, and a browser's headers. More:
    /// 431, closed.
    pub http_head_bytes_max: usize,
    /// Keys in one page of `GET /keys`. A larger `count` gets this many.
    pub http_listing_keys_max: usize,

    /// First size of a connection's read buffer: most requests fit, and 10,000 idle connections
    /// stay cheap.
    pub read_buffer_bytes_min: usize,
    /// Size a read buffer grows to while reads fill it: larger ones were not faster, and with half
    /// of it values of 64 KiB were stored a fifth slower. A request that needs more gets more, and
    /// the buffer shrinks afterwards.
    pub read_buffer_bytes: usize,
    /// Replies are written before the read buffer is drained once they are this long.
    pub write_buffer_bytes: usize,
    /// Requests kept unread while a client does not take its replies: a client that sends a long
    /// pipeline before it reads must not lock up. When full, reading stops.
    pub unread_bytes_max: usize,

    /// Longest pause between two bytes of a request. Then the connection is closed, so that half a
    /// request does not hold a thread for good.
    pub partial_request_timeout: Duration,
    /// Longest time from the first byte of a request to its last. Then the connection is closed: a
    /// trickle of bytes holds the memory of a request for no longer.
    pub request_timeout: Duration,
    /// Longest time from a connection's start to its password, where there is one. Then it is
    /// closed.
    pub password_timeout: Duration,
    /// Longest time in which a client takes no byte of its replies. Then it is closed.
    pub write_timeout: Duration,
    /// Longest pause between two requests; `None`, the default, is for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a refused connection may go on sending before it is reset, so that the error
    /// reaches the client (a reset can overtake it).
    pub linger_timeout: Duration,
    /// First and longest pause after a failed `accept` or thread start (descriptors or memory are
    /// short). It doubles between the two; without it the loop would spin.
    pub accept_pause: (Duration, Duration),
    /// Bytes of records that wait to be written to the log, as a request of a million writes leaves
    /// them. Beyond it the writing connection writes them out before it goes on.
    pub log_buffer_bytes_max: u64,
    /// Compaction starts when log and snapshot together exceed this and twice the live data: below
    /// it a start takes less than a second, and a snapshot would be a waste.
    pub compaction_bytes_min: u64,
    /// Longest wait for a server that is ending to let go of the data directory, as after `kill -9`
    /// and an immediate restart. Then: refused.
    pub lock_timeout: Duration,
    /// Pause between two fsyncs with `everysec`.
    pub fsync_interval: Duration,
    /// Pause between two attempts to write a snapshot while the disk fails, since each may write
    /// all there is; 60 times as long when only compaction fails.
    pub disk_retry_pause: Duration,
    /// Longest wait for `SHUTDOWN` to settle what is under way. Then the process ends all the same.
    pub shutdown_timeout: Duration,

    /// Longest bulk of a `PEER MERGE`: one record of the longest key and value must fit.
    pub merge_bytes_max: usize,
    /// Peers this node has links to. Each costs a thread and a queue. Further ones are refused and
    /// counted.
    pub peers_max: usize,
    /// Longest wait for a peer to accept a connection.
    pub link_connect_timeout: Duration,
    /// First and longest pause between two attempts to reach a peer; it doubles between the two,
    /// and a random part of up to a half keeps nodes from trying in step. It starts again after a
    /// conversation; a HELLO of the peer ends it early, but not after a refusal.
    pub link_back_off: (Duration, Duration),
    /// Longest wait for a peer's next sign of life: more of its reply, or word that it reads our
    /// batch. Then the link is broken and starts again.
    pub link_reply_timeout: Duration,
    /// Keys that wait for one peer. When full, the key's shard is marked and compared later.
    pub queue_keys_max: usize,
    /// Bytes of the keys that wait for one peer. When full: as above.
    pub queue_bytes_max: usize,
    /// Records are sent in batches of about so many bytes, and at least one record.
    pub batch_bytes: usize,
    /// A link that was idle for so long compares digests once, so that a small loss is soon found.
    pub sync_idle: Duration,
    /// When a peer is lost, the others are compared with so soon: it may have told one of them what
    /// it told nobody else. A new connection is compared again so soon.
    pub sync_after_change: Duration,
    /// Every link compares digests this often, busy or not.
    pub sync_interval: Duration,
    /// How long a starting node waits for its seeds before it serves clients.
    pub seeds_timeout: Duration,
    /// A peer's connection that was silent for so long is closed: its link says something every
    /// `sync_interval`. Bytes that a dead peer's machine still tries to deliver come to nothing
    /// then.
    pub peer_idle_timeout: Duration,
    /// Shortest time between two rounds of asking everybody about old tombstones. Longer than
    /// `peer_idle_timeout`, so that what is under way in one round has arrived, or never will,
    /// before the next.
    pub tombstone_round: Duration,

    /// Time between two samples of the counters for the page's charts: fine enough to see a stall,
    /// and idle it costs one short look a second.
    pub sample_interval: Duration,
    /// Samples kept: five minutes. More: the oldest goes.
    pub samples_max: usize,
}

impl Limits {
    /// The same for a connection whose client has not given the password. With a request of
    /// `unauthenticated_bytes_max` at most, the server holds less than 64 KiB for it: a read buffer
    /// of 32 KiB, and replies of 8 KiB and one more. While such a client does not take its replies,
    /// nothing more is read from it.
    pub fn of_strangers(&self) -> Limits {
        Limits {
            read_buffer_bytes: self.read_buffer_bytes.min(self.unauthenticated_bytes_max),
            write_buffer_bytes: self.write_buffer_bytes.min(8 * 1024),
            unread_bytes_max: 0,
            ..self.clone()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 10_000,
            starting_connections_max: 1_024,
            key_bytes_max: KEY_BYTES_MAX,
            value_bytes_max: VALUE_BYTES_MAX,
            line_bytes_max: VALUE_BYTES_MAX + 128 * 1024,
            header_bytes_max: 64,
            request_elements_max: 1_048_576,
            request_bytes_max: 512 * 1024 * 1024,
            reply_bytes_max: 512 * 1024 * 1024,
            unauthenticated_elements_max: 10,
            unauthenticated_bytes_max: 16 * 1024,
            http_head_bytes_max: 16 * 1024,
            http_listing_keys_max: 1_000,
            read_buffer_bytes_min: 1024,
            read_buffer_bytes: 128 * 1024,
            write_buffer_bytes: 256 * 1024,
            unread_bytes_max: 16 * 1024 * 1024,
            partial_request_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(600),
            password_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            idle_timeout: None,
            linger_timeout: Duration::from_secs(1),
            accept_pause: (Duration::from_millis(10), Duration::from_millis(100)),
            log_buffer_bytes_max: 64 * 1024 * 1024,
            compaction_bytes_min: 64 * 1024 * 1024,
            lock_timeout: Duration::from_secs(1),
            fsync_interval: Duration::from_secs(1),
            disk_retry_pause: Duration::from_secs(1),
            shutdown_timeout: Duration::from_secs(5),
            merge_bytes_max: VALUE_BYTES_MAX + 128 * 1024,
            peers_max: 64,
            link_connect_timeout: Duration::from_secs(1),
            link_back_off: (Duration::from_millis(100), Duration::from_secs(2)),
            link_reply_timeout: Duration::from_secs(5),
            queue_keys_max: 65_536,
            queue_bytes_max: 16 * 1024 * 1024,
            batch_bytes: 1024 * 1024,
            sync_idle: Duration::from_secs(10),
            sync_after_change: Duration::from_secs(1),
            sync_interval: Duration::from_secs(60),
            seeds_timeout: Duration::from_secs(1),
            peer_idle_timeout: Duration::from_secs(90),
            tombstone_round: Duration::from_secs(120),
            sample_interval: Duration::from_secs(1),
            samples_max: 300,
        }
    }
}

/// Stack of a connection's thread, in bytes. Requests are handled without recursion or large
/// arrays; only pages that are touched cost memory.
pub const STACK_BYTES: usize = 256 * 1024;
