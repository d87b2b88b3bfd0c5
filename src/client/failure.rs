//! Why a request had no reply, and how the client reports it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::Duration;

use super::response::Response;
use crate::error::{Error, Result};

/// Why an exchange had no reply.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing came in this time.
    Silent(Duration),
    /// The connection ended.
    HungUp(String),
    /// The address is not a kvstore or Redis server. It cannot have executed anything.
    Foreign(String),
    /// The bytes that came are not a reply.
    Nonsense(String),
}

impl Failure {
    /// `timeout` is what the connection's reads and writes were limited to.
    pub(super) fn new(error: &io::Error, timeout: Duration) -> Failure {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::Silent(timeout),
            ErrorKind::UnexpectedEof => Failure::HungUp("it closed the connection".into()),
            ErrorKind::Unsupported => Failure::Foreign(error.to_string()),
            ErrorKind::InvalidData => Failure::Nonsense(error.to_string()),
            _ => Failure::HungUp(error.to_string()),
        }
    }

    pub(super) fn is_hang_up(&self) -> bool {
        matches!(self, Failure::HungUp(_))
    }

    /// What happened to the connection.
    pub(super) fn loss(&self, address: &str) -> String {
        match self {
            Failure::HungUp(_) => format!("Connection to {address} lost"),
            failure => format!("Connection to {address} lost ({failure})"),
        }
    }

    /// Of a read that had no reply.
    pub(super) fn of_read(&self, address: &str) -> String {
        match self {
            Failure::Silent(_) => {
                format!(
                    "no reply from {address}: {self}; is it busy, or no kvstore or Redis server?"
                )
            }
            Failure::Foreign(answer) => format!("{address} {answer}"),
            failure => format!("no reply from {address}: {failure}"),
        }
    }

    /// Of a command that must not be sent again: what is known of its outcome.
    pub(super) fn of_command(&self, name: &str, address: &str) -> Result<Response> {
        match (self, name) {
            // The end of the connection is the reply.
            (Failure::HungUp(_), "SHUTDOWN") => Ok(Response::Simple("OK".into())),
            (Failure::Foreign(answer), _) => Err(Error::Corrupt(format!("{address} {answer}"))),
            (failure, "WAIT") => Err(Error::Unreachable(format!(
                "no reply from {address} ({failure}): how many peers hold the writes is unknown"
            ))),
            (failure, _) => Err(Error::OutcomeUnknown(format!(
                "no reply from {address} ({failure}): whether {name} was carried out is unknown; \
                 it was not sent again"
            ))),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Silent(time) => write!(f, "silent for {} s", time.as_secs()),
            Failure::HungUp(reason) | Failure::Foreign(reason) | Failure::Nonsense(reason) => {
                f.write_str(reason)
            }
        }
    }
}

/// None of these addresses can be used.
pub fn cannot_connect(failures: &[(String, io::Error)]) -> Error {
    let reasons =
        failures.iter().map(|(address, error)| format!("cannot connect to {address}: {error}"));
    let is_nobody_there =
        failures.iter().any(|(_, error)| error.kind() == ErrorKind::ConnectionRefused);
    let way_out = if is_nobody_there { ". Start a server with ./run_server.sh [port]" } else { "" };
    Error::Unreachable(reasons.collect::<Vec<_>>().join("; ") + way_out)
}

/// The message of an error reply, with what to do where the client knows more than the server.
pub fn with_hint(code: &str, message: &str) -> String {
    let hint = if code == "NOAUTH" {
        " Give it with --password-file FILE or KVSTORE_PASSWORD."
    } else {
        ""
    };
    format!("{message}{hint}")
}
