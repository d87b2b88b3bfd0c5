//! One error type for the whole store, grouped by what the caller does next.

use std::fmt;
use std::io;

/// The result of anything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, by what to do about it. Every message says what, where and what to do.
#[derive(Debug)]
pub enum Error {
    /// The request is at fault and nothing was changed. Answer it; the connection goes on.
    Refused(Refusal),
    /// The bytes on a connection cannot be followed any further. Answer, then close.
    Protocol(Refusal),
    /// The server could not be reached, and nothing was sent. Try again, or elsewhere.
    Unreachable(String),
    /// A write was sent and the connection was lost before the reply. It may have happened:
    /// read before you write again.
    OutcomeUnknown(String),
    /// Stored or received bytes are not what they must be. Do not use them.
    Corrupt(String),
    /// The options cannot be used together. Change them: exit code 2.
    Usage(String),
    /// The process cannot go on. Report it: exit code 1.
    Fatal(String),
    /// The operating system said no.
    Io(io::Error),
}

/// An error reply: a code word for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Redis's code word where Redis has one (`NOAUTH`, `WRONGPASS`, …), otherwise `ERR`.
    pub code: &'static str,
    /// One line without CR or LF.
    pub message: String,
}

impl Error {
    /// A refused request with the general code `ERR`.
    pub fn refused(message: impl Into<String>) -> Self {
        Error::refused_as("ERR", message)
    }

    /// A refused request with a code word of its own.
    pub fn refused_as(code: &'static str, message: impl Into<String>) -> Self {
        Error::Refused(Refusal { code, message: one_line(message.into()) })
    }

    /// Bytes that cannot be followed: `Protocol error: <message>`.
    pub fn protocol(message: impl fmt::Display) -> Self {
        Error::Protocol(Refusal {
            code: "ERR",
            message: one_line(format!("Protocol error: {message}")),
        })
    }
}

/// An error reply is one line in every protocol, whatever bytes a client put into its request.
fn one_line(message: String) -> String {
    if message.contains(['\r', '\n']) { message.replace(['\r', '\n'], " ") } else { message }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(refusal) | Error::Protocol(refusal) => f.write_str(&refusal.message),
            Error::Unreachable(message)
            | Error::OutcomeUnknown(message)
            | Error::Corrupt(message)
            | Error::Usage(message)
            | Error::Fatal(message) => f.write_str(message),
            Error::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(error)
    }
}
