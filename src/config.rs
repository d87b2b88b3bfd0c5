//! Configuration: everything that a node is told when it starts.
//!
//! A field of [`Configuration`] is an option of `kvstore server` at the same time: its name, its
//! variable, its default and its help stand once, beside the field. [`Limits`] are the sizes and
//! times that no option sets and that tests make smaller. A number that nothing changes is a
//! constant beside its use.
//!
//! Every number comes with its reason and with what happens when it is reached.

use std::net::{IpAddr, Ipv4Addr};
use std::num::ParseIntError;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, TypedValueParser};
use clap::{Args, Command, FromArgMatches, ValueEnum};

use crate::addresses::{parse_cluster, parse_host_port};
use crate::passwords::Passwords;
use crate::sizes::parse_size;

/// The port of a server, as in the original.
pub const DEFAULT_PORT: u16 = 8080;
/// The host that a client connects to.
pub const DEFAULT_HOST: &str = "localhost";
/// How long a server may send nothing while it owes a client a reply. Then it counts as lost.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer's connection that was silent for so long is closed: its link sends something every
/// minute. Bytes that a dead peer's machine still tries to deliver come to nothing then.
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// The Redis version whose commands and texts are followed, for clients that look at it.
pub const REDIS_VERSION: &str = "7.0.15";
/// Longest key, in bytes. A fixed part of the record format: every node must agree on it.
pub const KEY_BYTES_MAX: usize = 65_536;
/// Longest value, in bytes. A fixed part of the record format: every node must agree on it.
pub const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Banned node ids that a node keeps, and that an answer to a HELLO may name. With them the answer
/// stays far below its limit of a MiB, and so does the file `node`.
pub const BANS_MAX: usize = 10_000;

/// Everything that a node is told when it starts.
#[derive(Args, Clone, Debug)]
pub struct Configuration {
    /// Port to listen on; 0 picks a free one
    #[arg(default_value_t = DEFAULT_PORT, value_parser = parse_port)]
    pub port: u16,
    /// Address to listen on; any but loopback needs a password
    #[arg(long, env = "KVSTORE_BIND", value_name = "ADDR", default_value = "127.0.0.1")]
    #[arg(value_parser = parse_address)]
    pub bind: IpAddr,
    /// Listen on any address without a password
    #[arg(long, env = "KVSTORE_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,
    /// Connections at one time; each costs a thread
    #[arg(long = "max-connections", env = "KVSTORE_MAX_CONNECTIONS", value_name = "N")]
    #[arg(default_value = "10000")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..).map(|count| count as usize))]
    pub connections_max: usize,
    /// Close clients that send nothing for so long; 0, the default, never does
    #[arg(long, env = "KVSTORE_IDLE_TIMEOUT", value_name = "SECS", default_value = "0")]
    #[arg(value_parser = parse_seconds)]
    pub idle_timeout: Duration,
    /// Bytes of replies that clients have not taken, all connections together; beyond it the
    /// connection that holds most is closed
    #[arg(long = "reply-memory", env = "KVSTORE_REPLY_MEMORY", value_name = "SIZE")]
    #[arg(default_value = "1GiB", value_parser = parse_size)]
    pub reply_memory_bytes: u64,
    /// Keep the data in this directory; without it everything is in memory only
    #[arg(long, env = "KVSTORE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Start with what is readable of a damaged data directory, and say what is lost; not for a
    /// node of a cluster, which starts with an empty directory
    #[arg(long, env = "KVSTORE_SALVAGE", value_parser = BoolishValueParser::new())]
    pub salvage: bool,
    /// Stamp records of this data directory that lie too far in the future again, with the time of
    /// now; only when this machine's clock is right, and on all nodes that hold such records before
    /// clients write
    #[arg(long, env = "KVSTORE_RESTAMP", value_parser = BoolishValueParser::new())]
    pub restamp: bool,
    #[command(flatten)]
    #[allow(missing_docs)] // Would be taken for a text of the help.
    pub replication: ReplicationOptions,
    #[command(flatten)]
    #[allow(missing_docs)] // Would be taken for a text of the help.
    pub raft: RaftOptions,
    /// When written records are brought to the disk. `--fsync` says so.
    #[arg(skip)]
    pub fsync: FsyncPolicy,
    /// What clients and peers must give. `--password-file` says where it is.
    #[arg(skip)]
    pub passwords: Passwords,
    /// Sizes and times that only tests change.
    #[arg(skip)]
    pub limits: Limits,
}

/// What a node is told about its cluster.
#[derive(Args, Clone, Debug)]
pub struct ReplicationOptions {
    /// Other nodes to replicate with; one that lives is enough; may be repeated
    #[arg(long = "peer", env = "KVSTORE_PEER", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(value_parser = parse_host_port)]
    pub seeds: Vec<String>,
    /// Address under which the other nodes reach this one
    #[arg(long, env = "KVSTORE_ADVERTISE", value_name = "HOST:PORT")]
    #[arg(value_parser = parse_host_port)]
    pub advertise: Option<String>,
    /// Name of the cluster; nodes of another one are refused
    #[arg(long, env = "KVSTORE_CLUSTER", value_name = "NAME", default_value = "kvstore")]
    #[arg(value_parser = parse_cluster)]
    pub cluster: String,
    /// Refuse records that are further ahead of this machine's clock
    #[arg(long = "max-clock-skew", env = "KVSTORE_MAX_CLOCK_SKEW", value_name = "SECS")]
    #[arg(default_value = "60", value_parser = parse_seconds)]
    pub clock_skew_max: Duration,
    /// How long deletes are remembered before they may be dropped
    #[arg(long, env = "KVSTORE_TOMBSTONE_GRACE", value_name = "SECS", default_value = "600")]
    #[arg(value_parser = parse_seconds)]
    pub tombstone_grace: Duration,
    /// Allow PARTITION and HEAL, to watch what a cut network does
    #[arg(long = "enable-fault-injection", env = "KVSTORE_ENABLE_FAULT_INJECTION")]
    #[arg(value_parser = BoolishValueParser::new())]
    pub fault_injection: bool,
}

/// What a node is told about agreeing by consensus.
#[derive(Args, Clone, Debug)]
pub struct RaftOptions {
    /// Agree by consensus (Raft): a write is acknowledged when a majority has it on disk, and reads
    /// are never old; needs --data-dir, and all nodes of the cluster started so
    #[arg(long = "raft", env = "KVSTORE_RAFT", value_parser = BoolishValueParser::new())]
    pub is_on: bool,
    /// With --raft, how long a node hears no leader before it asks for votes; at most twice this
    #[arg(long = "election-timeout", env = "KVSTORE_ELECTION_TIMEOUT", value_name = "MS")]
    #[arg(default_value = "1000", value_parser = parse_milliseconds)]
    pub election_timeout: Duration,
    /// With --raft, how long a request waits for a leader and a majority
    #[arg(long = "request-timeout", env = "KVSTORE_REQUEST_TIMEOUT", value_name = "MS")]
    #[arg(default_value = "3000", value_parser = parse_milliseconds)]
    pub request_timeout: Duration,
}

impl Default for Configuration {
    /// The configuration of a server that is started without options and variables.
    fn default() -> Self {
        let command = Configuration::augment_args(Command::new("server").no_binary_name(true))
            .mut_args(|argument| argument.env(None::<&str>));
        let no_words = std::iter::empty::<&str>();
        let parsed = command.try_get_matches_from(no_words);
        #[allow(clippy::expect_used)] // No word can be wrong, and each option takes its default.
        parsed
            .and_then(|matches| Configuration::from_arg_matches(&matches))
            .expect("no option is required, and every default is valid")
    }
}

impl Configuration {
    /// Which addresses this node connects to when others name them.
    pub fn dials(&self) -> Dials {
        let is_trusted = self.passwords.is_set() || self.insecure;
        if is_trusted { Dials::Everybody } else { Dials::ThisMachineAndSeeds }
    }
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

/// Which addresses a node connects to. A node that introduces itself names its own address, and
/// members name the addresses of other members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dials {
    /// Addresses of this machine and those named with `--peer`. Without a password every client is
    /// a stranger, and a stranger must not make this node connect to other machines.
    ThisMachineAndSeeds,
    /// Every address: strangers are kept out by a password, or let in with `--insecure`.
    Everybody,
}

/// Sizes and times that tests make smaller. Names end in the unit; times carry it in their type.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest line: a longest value, a longest key and the command word. A longer one is answered
    /// with an error and the connection is closed.
    pub line_bytes_max: usize,
    /// Elements of one RESP request, as in Redis before 7. More: protocol error.
    pub request_elements_max: usize,
    /// Bytes of one RESP request: several longest values. Without this limit a million long
    /// elements would be collected before the request is executed. More: protocol error.
    pub request_bytes_max: usize,
    /// Bytes of the reply to one request: `MGET` of one long value a thousand times must not fill
    /// the memory. More: the reply becomes an error.
    pub reply_bytes_max: usize,
    /// Bytes of a request before the password was given. More: `-NOAUTH`, closed.
    pub unauthenticated_bytes_max: usize,
    /// Longest head of an HTTP request: a long key, percent-encoded, and a browser's headers. More:
    /// 431, closed.
    pub http_head_bytes_max: usize,

    /// First size of a connection's read buffer: most requests fit, and 10,000 idle connections
    /// stay cheap.
    pub read_buffer_bytes_min: usize,
    /// Size up to which a read buffer grows while reads fill it. Larger ones were not faster, and
    /// with half of it values of 64 KiB were stored a fifth slower. A request that needs more gets
    /// more, and the buffer shrinks afterwards.
    pub read_buffer_bytes: usize,
    /// Replies of this length are written before the read buffer is drained.
    pub write_buffer_bytes: usize,
    /// Bytes of requests that are kept while a client does not take its replies: a client that
    /// sends a long pipeline before it reads must not lock up. When full, reading stops.
    pub unread_bytes_max: usize,

    /// Longest pause between two bytes of a request. Then the connection is closed, so that half a
    /// request does not hold a thread for good.
    pub partial_request_timeout: Duration,
    /// Longest time from the first byte of a request to its last. Then the connection is closed: a
    /// trickle of bytes holds the memory of a request for no longer.
    pub request_timeout: Duration,
    /// Longest time from a connection's start to its password, if one is needed. Then the
    /// connection is closed.
    pub password_timeout: Duration,
    /// Longest time in which a client takes no byte of its replies. Then the connection is closed.
    pub write_timeout: Duration,

    /// Bytes of records that wait to be written to the log, as a request of a million writes leaves
    /// them. Beyond it the writing connection writes them out before it goes on.
    pub log_buffer_bytes_max: u64,

    /// How long a starting node waits for its seeds before it serves clients.
    pub seeds_timeout: Duration,
    /// Longest wait for a peer's next sign of life: more of its reply, or a line that says how much
    /// of our batch it has read. Then the link is broken and starts again.
    pub link_reply_timeout: Duration,
    /// Keys that wait for one peer. When full, the key's shard is marked and compared later.
    pub queue_keys_max: usize,
    /// Records are sent in batches of about so many bytes, and at least one record.
    pub batch_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            line_bytes_max: VALUE_BYTES_MAX + 128 * 1024,
            request_elements_max: 1_048_576,
            request_bytes_max: 512 * 1024 * 1024,
            reply_bytes_max: 512 * 1024 * 1024,
            unauthenticated_bytes_max: 16 * 1024,
            http_head_bytes_max: 16 * 1024,
            read_buffer_bytes_min: 1024,
            read_buffer_bytes: 128 * 1024,
            write_buffer_bytes: 256 * 1024,
            unread_bytes_max: 16 * 1024 * 1024,
            partial_request_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(600),
            password_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            log_buffer_bytes_max: 64 * 1024 * 1024,
            seeds_timeout: Duration::from_secs(1),
            link_reply_timeout: Duration::from_secs(5),
            queue_keys_max: 65_536,
            batch_bytes: 1024 * 1024,
        }
    }
}

impl Limits {
    /// The limits of a connection whose client has not given the password. With a request of
    /// `unauthenticated_bytes_max` at most, the server holds less than 64 KiB for it: a read buffer
    /// of 32 KiB, and replies of 8 KiB and one more. While such a client does not take its replies,
    /// the server reads nothing more from it.
    pub fn of_strangers(&self) -> Limits {
        Limits {
            read_buffer_bytes: self.read_buffer_bytes.min(self.unauthenticated_bytes_max),
            write_buffer_bytes: self.write_buffer_bytes.min(8 * 1024),
            unread_bytes_max: 0,
            ..self.clone()
        }
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| "not a port; ports are numbers up to 65535, and 0 picks a free one".into())
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    text.parse()
        .map_err(|_| "not an IP address; try 127.0.0.1, or 0.0.0.0 for all interfaces".into())
}

/// At least a heartbeat, and at most a minute.
fn parse_milliseconds(text: &str) -> Result<Duration, String> {
    let ms = text.parse().ok().filter(|ms| (100..=60_000).contains(ms));
    ms.map(Duration::from_millis).ok_or_else(|| "not a number from 100 to 60000".into())
}

fn parse_seconds(text: &str) -> Result<Duration, ParseIntError> {
    Ok(Duration::from_secs(text.parse::<u32>()?.into()))
}
