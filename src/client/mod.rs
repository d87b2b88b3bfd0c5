//! # Asking: the client
//!
//! [`Client`] is a connection to one server of several, for programs; [`shell`] is what a person types into.
//! Both speak RESP, so keys and values may hold any bytes.
//!
//! **The problem.** Connections break. A client that was cut off after it sent a write does not
//! know whether the write happened, and one that quietly sends it again may undo somebody else's later
//! write.
//!
//! **The rules.**
//! - A lost connection is made again, to the next address if need be ([`Client::notice`] says so).
//! - A read is repeated once. A write that was sent and not answered is
//!   [`Error::OutcomeUnknown`], and never repeated by itself.
//! - A connection that broke while nothing was under way is noticed before the next request, so the
//!   first write after a server's restart simply works.
//!
//! ```
//! use kvstore::client::Client;
//! # use kvstore::{config::Configuration, node::Node, server::NodeServer};
//! # let configuration = Configuration { port: 0, ..Configuration::default() };
//! # let server = NodeServer::start(Node::new(configuration))?;
//! # let address = server.address.to_string();
//!
//! let mut client = Client::connect(&address)?; // for example "localhost:8080"
//! client.put("name", "Dylan")?;
//! assert_eq!(client.get("name")?.as_deref(), Some(&b"Dylan"[..]));
//! client.delete("name")?;
//! assert_eq!(client.get("name")?, None);
//!
//! // Any other command, word by word:
//! let response = client.request(&[b"STRLEN", b"name"])?;
//! assert_eq!(response, kvstore::client::Response::Integer(0));
//! # Ok::<(), kvstore::error::Error>(())
//! ```

mod response;
pub mod shell;

use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

pub use response::Response;

use crate::error::{Error, Result};
use crate::protocol::command;

/// Longest wait for one address to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for a reply; a server under the heaviest load answers sooner, a dead machine never.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to one of several servers.
#[derive(Debug)]
pub struct Client {
    /// `host:port`, in order of preference.
    addresses: Vec<String>,
    /// The address in use.
    current: usize,
    password: Option<Vec<u8>>,
    connection: Option<BufReader<TcpStream>>,
    notice: Option<String>,
}

impl Client {
    /// Connects to a server at `host:port`.
    pub fn connect(address: &str) -> Result<Client> {
        Client::connect_any(vec![address.into()], None)
    }

    /// Connects to the first of `addresses` that answers, with a password if there is one.
    pub fn connect_any(addresses: Vec<String>, password: Option<Vec<u8>>) -> Result<Client> {
        let mut client = Client { addresses, current: 0, password, connection: None, notice: None };
        client.reconnect()?;
        Ok(client)
    }

    /// Stores a value.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.checked(&[b"PUT", key.as_ref(), value.as_ref()]).map(drop)
    }

    /// Reads a value; `None` when the key is not there.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        Ok(self.checked(&[b"GET", key.as_ref()])?.value())
    }

    /// Removes a key, whether it is there or not.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.checked(&[b"DELETE", key.as_ref()]).map(drop)
    }

    /// Sends any command and returns the reply; an error reply is a [`Response::Error`].
    pub fn request(&mut self, words: &[&[u8]]) -> Result<Response> {
        let name = words.first().copied().unwrap_or_default();
        // What is not known to be a read may be a write.
        let is_read = command::row(name).is_some_and(|row| !row.writes && row.name != "SHUTDOWN");
        if self.is_lost() {
            self.reconnect_with_notice()?;
        }
        match self.exchange(words) {
            Ok(response) => Ok(response),
            Err(error) if is_read && error.kind() != ErrorKind::InvalidData => {
                self.reconnect_with_notice()?;
                self.exchange(words).map_err(|error| self.no_reply(&error))
            }
            Err(error) => {
                self.connection = None;
                let name = String::from_utf8_lossy(name).to_uppercase();
                Err(Error::OutcomeUnknown(format!(
                    "no reply from {} ({error}): whether {name} was carried out is unknown; it was not sent again",
                    self.address()
                )))
            }
        }
    }

    fn no_reply(&self, error: &io::Error) -> Error {
        Error::Unreachable(format!("no reply from {}: {error}", self.address()))
    }

    /// The address in use, as `host:port`.
    pub fn address(&self) -> &str {
        &self.addresses[self.current]
    }

    /// What happened to the connection since the last call, for a person to read.
    pub fn notice(&mut self) -> Option<String> {
        self.notice.take()
    }

    /// As [`Client::request`], but an error reply is an error.
    pub fn checked(&mut self, words: &[&[u8]]) -> Result<Response> {
        match self.request(words)? {
            Response::Error(code, message) => Err(Error::Refused(crate::error::Refusal {
                code: if code == "NOAUTH" { "NOAUTH" } else { "ERR" },
                message,
            })),
            response => Ok(response),
        }
    }

    /// Tries every address once, the current one first.
    fn reconnect(&mut self) -> Result<()> {
        self.connection = None;
        let mut reasons = Vec::new();
        for _ in 0..self.addresses.len() {
            match open(self.address(), CONNECT_TIMEOUT, REPLY_TIMEOUT) {
                Ok(stream) => {
                    self.connection = Some(BufReader::new(stream));
                    return self.authenticate();
                }
                Err(error) => reasons.push(format!("cannot connect to {}: {error}", self.address())),
            }
            self.current = (self.current + 1) % self.addresses.len();
        }
        Err(Error::Unreachable(reasons.join("; ")))
    }

    fn reconnect_with_notice(&mut self) -> Result<()> {
        let lost = self.address().to_string();
        self.notice = Some(format!("Connection to {lost} lost"));
        self.reconnect()?;
        self.notice = Some(format!("Connection to {lost} lost, connected to {}", self.address()));
        Ok(())
    }

    fn authenticate(&mut self) -> Result<()> {
        let Some(password) = self.password.clone() else {
            return Ok(());
        };
        match self.exchange(&[b"AUTH", &password]) {
            Ok(Response::Error(_, message)) => {
                Err(Error::Usage(format!("{} did not take the password: {message}", self.address())))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.no_reply(&error)),
        }
    }

    /// Whether the server closed the connection while nothing was under way.
    fn is_lost(&self) -> bool {
        self.connection.as_ref().is_none_or(|reader| has_ended(reader.get_ref()))
    }

    fn exchange(&mut self, words: &[&[u8]]) -> io::Result<Response> {
        let reader = self.connection.as_mut().ok_or(ErrorKind::NotConnected)?;
        // WAIT brings its own time limit.
        let waits = words.first().is_some_and(|name| name.eq_ignore_ascii_case(b"WAIT"));
        reader.get_ref().set_read_timeout(if waits { None } else { Some(REPLY_TIMEOUT) })?;
        reader.get_mut().write_all(&encode(words))?;
        Response::read(reader)
    }
}

/// A request in RESP.
pub fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Whether the other side closed a blocking connection, or sent what nobody asked for.
pub fn has_ended(stream: &TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let is_silent = peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    !is_silent || stream.set_nonblocking(false).is_err()
}

/// Connects to the first address of `host:port` that accepts.
pub fn open(address: &str, connect_timeout: Duration, write_timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, connect_timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(write_timeout))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
