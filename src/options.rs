//! Options: what a person can say on the command line, and how it becomes a [`Configuration`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use log::warn;

use crate::addresses::{parse_host, parse_host_port};
use crate::config::{
    Configuration, DEFAULT_HOST, DEFAULT_PORT, FsyncPolicy, SILENCE_TIMEOUT, VALUE_BYTES_MAX,
};
use crate::error::{Error, Result};
use crate::metrics::open_files_max;
use crate::passwords::{Passwords, warn_if_readable};

/// `kvstore server`: what a person can say about a node. Every option also as a `KVSTORE_…`
/// variable.
#[derive(Args, Clone, Debug)]
pub struct ServerOptions {
    #[command(flatten)]
    #[allow(missing_docs)] // Would be taken for a text of the help.
    pub configuration: Configuration,
    /// When writes are brought to the disk [default: everysec, with --raft always]
    #[arg(long, env = "KVSTORE_FSYNC", value_name = "POLICY")]
    pub fsync: Option<FsyncPolicy>,
    /// File with the password that clients must give, or with two, one to a line, while it is
    /// changed; KVSTORE_PASSWORD holds the password itself
    #[arg(long, env = "KVSTORE_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// Whom a client asks.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Host to connect to
    #[arg(default_value = DEFAULT_HOST, value_parser = parse_host)]
    pub host: String,
    /// Port to connect to
    #[arg(default_value_t = DEFAULT_PORT, value_parser = parse_port_of_server)]
    pub port: u16,
    /// File with the server's password, its first line; KVSTORE_PASSWORD holds the password itself
    #[arg(long, env = "KVSTORE_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// A server that owes a reply and is silent for so long counts as lost
    #[arg(long, env = "KVSTORE_TIMEOUT", value_name = "SECS")]
    #[arg(default_value_t = SILENCE_TIMEOUT.as_secs() as u32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub timeout: u32,
}

impl Target {
    /// `host:port`, with brackets around a host that is an IPv6 address.
    pub fn address(&self) -> String {
        let Target { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// How long the server may be silent.
    pub fn silence_timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }

    /// The password, if one was given.
    pub fn password(&self) -> Result<Option<Vec<u8>>> {
        Ok(Passwords::read(self.password_file.as_deref())?.first)
    }
}

/// `kvstore client`: whom to ask, and what.
#[derive(Args, Clone, Debug)]
pub struct ClientOptions {
    #[command(flatten)]
    #[allow(missing_docs)] // Would be taken for a text of the help.
    pub target: Target,
    /// Another server to try when the first cannot be reached; may be repeated
    #[arg(long, env = "KVSTORE_ALSO", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(value_parser = parse_host_port)]
    pub also: Vec<String>,
    /// One command to carry out instead of the prompt: all that follows, hyphens included
    #[arg(value_name = "COMMAND ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// `kvstore export`: whose data, and whether a node without a leader gives it, too.
#[derive(Args, Clone, Debug)]
pub struct ExportOptions {
    #[command(flatten)]
    #[allow(missing_docs)] // Would be taken for a text of the help.
    pub target: Target,
    /// Take what this node has, though it may be old (READONLY): for when a majority is gone
    #[arg(long)]
    pub stale: bool,
}

/// `kvstore bench`: whom to load, and how.
#[derive(Args, Clone, Debug)]
pub struct BenchOptions {
    #[command(flatten)]
    #[allow(missing_docs)] // Would be taken for a text of the help.
    pub target: Target,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Requests that a connection sends before it waits for their replies
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub pipeline: u32,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=VALUE_BYTES_MAX as i64))]
    pub value_bytes: u32,
    /// Keys; all are written before the load begins, and each request picks one by chance
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Share of reads, in percent; the others are writes
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=100))]
    pub reads: u32,
    /// Requests per second of all connections together; 0, the default: as fast as replies come
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rate: u64,
    /// Length of a round
    #[arg(long, value_name = "SECS", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Rounds; the figures are medians of them [default: 1, with --compare 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// A second server that speaks RESP, loaded in turn with the first
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_host_port)]
    pub compare: Option<String>,
}

impl ServerOptions {
    /// Checks the options against each other and this machine.
    pub fn into_configuration(self) -> Result<Configuration> {
        let ServerOptions { mut configuration, fsync, password_file } = self;
        configuration.passwords = Passwords::read(password_file.as_deref())?;
        password_file.as_deref().into_iter().for_each(warn_if_readable);
        let (bind, replication) = (configuration.bind, &configuration.replication);
        let has_password = configuration.passwords.is_set();
        if !bind.is_loopback() && !has_password && !configuration.insecure {
            return Err(Error::Usage(format!(
                "{bind} can be reached from other machines, and there is no password. Set one with \
                 --password-file FILE or KVSTORE_PASSWORD, or say --insecure, or listen on \
                 127.0.0.1"
            )));
        }
        let says_how_to_store = fsync.is_some() || configuration.salvage || configuration.restamp;
        if configuration.data_dir.is_none() && says_how_to_store {
            return Err(Error::Usage(
                "--fsync, --salvage and --restamp are about stored data; say where it is with \
                 --data-dir DIR"
                    .into(),
            ));
        }
        if configuration.raft.is_on && configuration.data_dir.is_none() {
            return Err(Error::Usage(
                "--raft needs --data-dir DIR: a node that forgot its vote or its log after a \
                 restart could break what the others agreed on"
                    .into(),
            ));
        }
        if configuration.raft.is_on && (configuration.salvage || configuration.restamp) {
            return Err(Error::Usage(
                "--salvage and --restamp do not go with --raft: a node with a damaged directory \
                 starts with an empty one, and the others give it what it lost"
                    .into(),
            ));
        }
        let has_peers = !replication.seeds.is_empty();
        if bind.is_unspecified() && replication.advertise.is_none() && has_peers {
            return Err(Error::Usage(format!(
                "{bind} stands for every interface, so the peers cannot be told where this node \
                 is; say --advertise HOST:PORT"
            )));
        }
        let is_raft = configuration.raft.is_on;
        let default = if is_raft { FsyncPolicy::Always } else { FsyncPolicy::default() };
        configuration.fsync = fsync.unwrap_or(default);
        if is_raft && configuration.fsync != FsyncPolicy::Always {
            warn!(
                "--raft with --fsync {}: when a majority loses power at once, writes that were \
                 acknowledged last can be lost",
                configuration.fsync.name()
            );
        }
        configuration.connections_max = fitting_connections(configuration.connections_max);
        Ok(configuration)
    }
}

/// A port that can be connected to.
fn parse_port_of_server(text: &str) -> std::result::Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| {
        "not a port (1 to 65535); HOST and PORT come first, as in localhost 8080".into()
    })
}

/// As many connections as were asked for, or as the machine allows.
fn fitting_connections(wanted: usize) -> usize {
    let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    let mappings = mappings.ok().and_then(|text| text.trim().parse().ok());
    let (fitting, reason) = fit(wanted, open_files_max(), mappings);
    if let Some(reason) = reason {
        warn!("at most {fitting} connections instead of {wanted}, because of {reason}");
    }
    fitting
}

/// A connection takes a descriptor and, with its stack, guard page and share of the allocator's
/// arenas, at most five memory mappings.
fn fit(
    wanted: usize,
    descriptors: Option<usize>,
    mappings: Option<usize>,
) -> (usize, Option<&'static str>) {
    let by_descriptors =
        descriptors.map_or(usize::MAX, |limit| limit.saturating_sub(DESCRIPTORS_KEPT).max(1));
    let by_mappings = mappings.map_or(usize::MAX, |limit| (limit / 5).max(1));
    if wanted <= by_descriptors.min(by_mappings) {
        (wanted, None)
    } else if by_descriptors <= by_mappings {
        (by_descriptors, Some("the limit of open files; raise it with ulimit -n"))
    } else {
        (by_mappings, Some("vm.max_map_count; raise it with sysctl"))
    }
}

/// Descriptors for everything but clients: the listener, standard streams, files, links to peers.
const DESCRIPTORS_KEPT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Server {
        #[command(flatten)]
        options: ServerOptions,
    }

    fn configuration(arguments: &[&str]) -> Result<Configuration> {
        let arguments = ["server"].iter().chain(arguments);
        Server::try_parse_from(arguments)
            .map_err(|error| Error::Usage(error.to_string()))?
            .options
            .into_configuration()
    }

    #[test]
    fn the_default_configuration_is_that_of_no_options() {
        let from_options = configuration(&[]).expect("defaults work");
        let expected = Configuration::default();
        assert!(from_options.connections_max <= expected.connections_max);
        let from_options =
            Configuration { connections_max: expected.connections_max, ..from_options };
        assert_eq!(format!("{from_options:?}"), format!("{expected:?}"));
    }

    #[test]
    fn a_public_address_needs_a_password() {
        let refused = configuration(&["--bind", "0.0.0.0"]).expect_err("no password");
        assert!(
            matches!(refused, Error::Usage(ref message) if message.contains("--password-file")),
            "{refused}"
        );
        assert!(configuration(&["--bind", "0.0.0.0", "--insecure"]).is_ok());
        assert!(configuration(&["--bind", "::1"]).is_ok());
        assert!(configuration(&["--bind", "localhost"]).is_ok());
        assert!(configuration(&["--bind", "nonsense"]).is_err());
    }

    #[test]
    fn connections_fit_the_machine() {
        assert_eq!(fit(10_000, None, None), (10_000, None));
        assert_eq!(fit(10_000, Some(20_000), Some(65_530)), (10_000, None));
        let (fitting, reason) = fit(10_000, Some(1_024), Some(65_530));
        assert!(fitting == 992 && reason.is_some_and(|reason| reason.contains("ulimit")));
        let (fitting, reason) = fit(20_000, Some(65_536), Some(65_530));
        assert!(fitting == 13_106 && reason.is_some_and(|reason| reason.contains("max_map_count")));
        assert_eq!(fit(10, Some(3), None).0, 1);
    }

    #[test]
    fn options_about_stored_data_need_a_data_directory() {
        for arguments in [&["--fsync", "always"][..], &["--salvage"], &["--restamp"]] {
            assert!(matches!(configuration(arguments), Err(Error::Usage(_))));
            let with_directory = [arguments, &["--data-dir", "data"]].concat();
            assert!(configuration(&with_directory).is_ok());
        }
        assert!(configuration(&["--data-dir", "data", "--fsync", "sometimes"]).is_err());
    }

    #[test]
    fn addresses_of_peers_are_checked() {
        let several = configuration(&["--peer", "a:1,b:2", "--peer", "c:3"]).expect("works");
        assert_eq!(several.replication.seeds, ["a:1", "b:2", "c:3"]);
        let refused = configuration(&["--bind", "0.0.0.0", "--insecure", "--peer", "a:1"]);
        assert!(refused.expect_err("no address to tell").to_string().contains("--advertise"));
    }
}
