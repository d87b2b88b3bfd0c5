//! Why a request had no reply, and how the client reports it.

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::response::Response;
use crate::error::{Error, Result};

/// Why an exchange had no reply.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    /// The cause in words.
    pub(super) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nothing came in time.
    Silent,
    /// The connection ended.
    HungUp,
    /// The address is not a kvstore or Redis server. It cannot have executed anything.
    Foreign,
    /// The bytes that came are not a reply.
    Nonsense,
}

impl Failure {
    /// `timeout` is what the connection's reads and writes were limited to.
    pub(super) fn new(error: &io::Error, timeout: Duration) -> Failure {
        let (cause, reason) = match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                (Cause::Silent, format!("silent for {} s", timeout.as_secs()))
            }
            ErrorKind::UnexpectedEof => (Cause::HungUp, "it closed the connection".into()),
            ErrorKind::Unsupported => (Cause::Foreign, error.to_string()),
            ErrorKind::InvalidData => (Cause::Nonsense, error.to_string()),
            _ => (Cause::HungUp, error.to_string()),
        };
        Failure { cause, reason }
    }

    /// The message about the lost connection.
    pub(super) fn loss(&self, address: &str) -> String {
        match self.cause {
            Cause::HungUp => format!("Connection to {address} lost"),
            _ => format!("Connection to {address} lost ({})", self.reason),
        }
    }

    /// The error message for a read without a reply.
    pub(super) fn of_read(&self, address: &str) -> String {
        let reason = &self.reason;
        match self.cause {
            Cause::Silent => format!(
                "no reply from {address}: {reason}; is it busy, or no kvstore or Redis server?"
            ),
            Cause::Foreign => format!("{address} {reason}"),
            _ => format!("no reply from {address}: {reason}"),
        }
    }

    /// The result of a command that must not be sent again: what is known of its outcome.
    pub(super) fn of_command(&self, name: &str, address: &str) -> Result<Response> {
        let reason = &self.reason;
        match (self.cause, name) {
            // The end of the connection is the reply.
            (Cause::HungUp, "SHUTDOWN") => Ok(Response::Simple("OK".into())),
            (Cause::Foreign, _) => Err(Error::Corrupt(format!("{address} {reason}"))),
            (_, "WAIT") => Err(Error::Unreachable(format!(
                "no reply from {address} ({reason}): how many peers hold the writes is unknown"
            ))),
            _ => Err(Error::OutcomeUnknown(format!(
                "no reply from {address} ({reason}): whether {name} was carried out is unknown; \
                 it was not sent again"
            ))),
        }
    }
}

/// The error when no address accepts a connection.
pub fn cannot_connect(failures: &[(String, io::Error)]) -> Error {
    let reasons =
        failures.iter().map(|(address, error)| format!("cannot connect to {address}: {error}"));
    let is_nobody_there =
        failures.iter().any(|(_, error)| error.kind() == ErrorKind::ConnectionRefused);
    let way_out = if is_nobody_there { ". Start a server with ./run_server.sh [port]" } else { "" };
    Error::Unreachable(reasons.collect::<Vec<_>>().join("; ") + way_out)
}

/// The message of an error reply, with a hint about the client's own options.
pub fn with_hint(code: &str, message: &str) -> String {
    let hint = if code == "NOAUTH" {
        " Give it with --password-file FILE or KVSTORE_PASSWORD."
    } else {
        ""
    };
    format!("{message}{hint}")
}
