//! One error type for the whole store, grouped by what the caller does next; and the one place
//! that says which code an error has in each protocol.

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
    /// A call to the operating system failed.
    Io(io::Error),
}

/// An error reply: a code for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What a program may want to tell apart.
    pub code: Code,
    /// One line without CR or LF.
    pub message: String,
}

/// The kinds of refusal that a program may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Anything else: the message says it.
    General,
    /// The password is missing.
    NoPassword,
    /// The password is wrong.
    WrongPassword,
    /// `HELLO` asked for a version of RESP that is not spoken here.
    NoSuchVersion,
    /// A transaction was given up.
    TransactionAborted,
    /// This node takes no writes now: its disk failed, or it stops.
    ReadOnly,
    /// A write may have happened, or may still happen.
    OutcomeUnknown,
    /// No leader, or no majority: consensus cannot be reached here now.
    ClusterDown,
    /// A status of HTTP, in a request that exists only there.
    Http(&'static str),
    /// HTTP's 405, with the methods that the resource has.
    HttpMethod(&'static str),
}

impl Code {
    /// The first word of an error reply in RESP, as Redis has it.
    pub fn word(self) -> &'static str {
        match self {
            Code::General | Code::OutcomeUnknown | Code::Http(_) | Code::HttpMethod(_) => "ERR",
            Code::NoPassword => "NOAUTH",
            Code::WrongPassword => "WRONGPASS",
            Code::NoSuchVersion => "NOPROTO",
            Code::TransactionAborted => "EXECABORT",
            Code::ReadOnly => "MISCONF",
            Code::ClusterDown => "CLUSTERDOWN",
        }
    }

    /// The status of an HTTP response.
    pub fn http_status(self) -> &'static str {
        match self {
            Code::Http(status) => status,
            Code::HttpMethod(_) => "405",
            Code::NoPassword | Code::WrongPassword => "401",
            Code::ReadOnly | Code::ClusterDown => "503",
            // Proxies repeat a 503, and such a write must not be repeated.
            Code::OutcomeUnknown => "500",
            Code::General | Code::NoSuchVersion | Code::TransactionAborted => "400",
        }
    }
}

impl Error {
    /// A refused request with the general code.
    pub fn refused(message: impl Into<String>) -> Self {
        Error::refused_as(Code::General, message)
    }

    /// A refused request with a code of its own.
    pub fn refused_as(code: Code, message: impl Into<String>) -> Self {
        Error::Refused(Refusal { code, message: one_line(message.into()) })
    }

    /// Bytes that cannot be followed: `Protocol error: <message>`.
    pub fn protocol(message: impl fmt::Display) -> Self {
        let message = one_line(format!("Protocol error: {message}"));
        Error::Protocol(Refusal { code: Code::General, message })
    }

    /// The reply to a request that failed with this error.
    pub fn refusal(&self) -> Refusal {
        match self {
            Error::Refused(refusal) | Error::Protocol(refusal) => refusal.clone(),
            other => Refusal { code: Code::General, message: other.to_string() },
        }
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(error)
    }
}
