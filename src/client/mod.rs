//! # Asking: the client
//!
//! [`Client`] is a connection to one server of several, for programs. [`shell`] is the user
//! interface. Both speak RESP, so keys and values may hold any bytes.
//!
//! **The problem.** Connections break. A client that loses its connection after it sent a write
//! does not know whether the server executed it. A client that silently sends it again may
//! overwrite a later write of another client.
//!
//! **The rules.**
//! - The client reconnects when a connection is lost, if necessary to the next address
//!   ([`Client::notice`] reports it).
//! - A server that owes a reply and sends nothing for [`SILENCE_TIMEOUT`] counts as lost. A long
//!   reply may take longer while its bytes arrive. Commands that block by design get more time.
//! - A read without a reply is sent to the other addresses in turn, and once more to a server that
//!   closed the connection. A write without a reply is [`Error::OutcomeUnknown`]. The client never
//!   repeats it by itself.
//! - The client checks before each request whether the server has closed the connection. So the
//!   first write after a server's restart works.
//! - A server that refuses with `CLUSTERDOWN` has done nothing, so the client asks the next
//!   address: in a raft cluster one node leads. During an election it asks all of them in turn.
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

mod failure;
mod response;
pub mod shell;
mod words;

use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use failure::{Cause, Failure};
pub use failure::{cannot_connect, with_hint};
pub use response::{Response, foreign, is_reply};

pub use crate::config::SILENCE_TIMEOUT;
use crate::error::{Code, Error, Refusal, Result};
use crate::protocol::command;
use crate::protocol::resp::decimal;

/// Longest wait for one address to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a request looks for the server that leads, while each of several refuses because
/// another one does. An election takes a second or two.
const LEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after all have refused.
const LEADER_PAUSE: Duration = Duration::from_millis(20);
/// Added to the silence timeout for commands that visit all keys, and for `SHUTDOWN`.
const LONG_COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// The silence timeout grows with the bytes of a request that the kernel may still hold for a slow
/// network. Linux holds at most 4 MiB.
const BYTES_UNDER_WAY_MAX: usize = 4 * 1024 * 1024;
const SLOW_BYTES_PER_SECOND: usize = 128 * 1024;

/// A connection to one of several servers.
#[derive(Debug)]
pub struct Client {
    /// `host:port`, in order of preference.
    addresses: Vec<String>,
    /// The address in use.
    current: usize,
    password: Option<Vec<u8>>,
    silence_timeout: Duration,
    connection: Option<BufReader<TcpStream>>,
    /// Why the last connection was lost, as a message; `None` while the client is connected.
    loss: Option<String>,
    notice: Option<String>,
}

impl Client {
    /// Connects to a server at `host:port`.
    pub fn connect(address: &str) -> Result<Client> {
        Client::connect_any(vec![address.into()], None, SILENCE_TIMEOUT)
    }

    /// Connects to the first of `addresses` that answers, with a password if there is one. A server
    /// may be silent for `silence_timeout`.
    pub fn connect_any(
        addresses: Vec<String>,
        password: Option<Vec<u8>>,
        silence_timeout: Duration,
    ) -> Result<Client> {
        let mut client = Client {
            addresses,
            current: 0,
            password,
            silence_timeout,
            connection: None,
            loss: None,
            notice: None,
        };
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
        let name =
            String::from_utf8_lossy(words.first().copied().unwrap_or_default()).to_uppercase();
        let (mut reasons, mut addresses_left) = (Vec::new(), self.addresses.len());
        let (began, mut refusals) = (Instant::now(), 0);
        loop {
            if self.is_lost() {
                self.reconnect_with_notice()?;
                if name == "WAIT" {
                    return Err(Error::Unreachable(
                        "the connection whose writes WAIT counts was lost; write again".into(),
                    ));
                }
            }
            let failure = match self.exchange(words) {
                Ok(response)
                    if is_elsewhere(&response)
                        && self.addresses.len() > 1
                        && began.elapsed() < LEADER_TIMEOUT =>
                {
                    refusals += 1;
                    if refusals % self.addresses.len() == 0 {
                        thread::sleep(LEADER_PAUSE);
                    }
                    self.move_on()?;
                    continue;
                }
                Ok(response) => return Ok(response),
                Err(error) => Failure::new(
                    &error,
                    self.silence_timeout + extra_time(words).unwrap_or_default(),
                ),
            };
            let address = self.address().to_string();
            self.connection = None;
            self.loss = Some(failure.loss(&address));
            // A server that closed the connection may have been restarted: try it once more.
            if failure.cause != Cause::HungUp || !reasons.is_empty() {
                self.current = (self.current + 1) % self.addresses.len();
                addresses_left -= 1;
            }
            if !is_repeatable(&name) {
                return failure.of_command(&name, &address);
            }
            reasons.push(failure.of_read(&address));
            if addresses_left == 0 {
                return Err(Error::Unreachable(reasons.join("; ")));
            }
        }
    }

    /// Connects to the next address that answers.
    fn move_on(&mut self) -> Result<()> {
        self.current = (self.current + 1) % self.addresses.len();
        self.reconnect()
    }

    /// The address in use, as `host:port`.
    pub fn address(&self) -> &str {
        &self.addresses[self.current]
    }

    /// A message about a lost or new connection since the last call.
    pub fn notice(&mut self) -> Option<String> {
        self.notice.take()
    }

    /// As [`Client::request`], but an error reply is an error.
    pub fn checked(&mut self, words: &[&[u8]]) -> Result<Response> {
        match self.request(words)? {
            Response::Error(code, message) => Err(Error::Refused(Refusal {
                message: with_hint(&code, &message),
                code: if code == "NOAUTH" { Code::NoPassword } else { Code::General },
            })),
            response => Ok(response),
        }
    }

    /// Connects to the first address that answers. Tries each once, the current one first.
    fn reconnect(&mut self) -> Result<()> {
        self.connection = None;
        let mut failures = Vec::new();
        for _ in 0..self.addresses.len() {
            let connect_timeout = CONNECT_TIMEOUT.min(self.silence_timeout);
            let opened = open(self.address(), connect_timeout, self.silence_timeout);
            self.connection = opened
                .map_err(|error| failures.push((self.address().to_string(), error)))
                .ok()
                .map(BufReader::new);
            if self.connection.is_some() {
                match self.authenticate()? {
                    None => return Ok(()),
                    Some(error) => failures.push((self.address().to_string(), error)),
                }
            }
            self.current = (self.current + 1) % self.addresses.len();
        }
        Err(cannot_connect(&failures))
    }

    fn reconnect_with_notice(&mut self) -> Result<()> {
        let loss =
            self.loss.take().unwrap_or_else(|| format!("Connection to {} lost", self.address()));
        self.notice = Some(loss.clone());
        self.reconnect()?;
        self.notice = Some(format!("{loss}, connected to {}", self.address()));
        Ok(())
    }

    /// Sends the password, if there is one. A refused password is an error. Without a reply the
    /// result is the reason.
    fn authenticate(&mut self) -> Result<Option<io::Error>> {
        let Some(password) = self.password.clone() else {
            return Ok(None);
        };
        match self.exchange(&[b"AUTH", &password]) {
            Ok(Response::Error(_, message)) => Err(Error::Usage(format!(
                "{} did not take the password: {message}",
                self.address()
            ))),
            Ok(_) => Ok(None),
            Err(error) => {
                self.connection = None;
                Ok(Some(io::Error::other(Failure::new(&error, self.silence_timeout).reason)))
            }
        }
    }

    /// Whether the server has closed the connection since the last reply.
    fn is_lost(&self) -> bool {
        self.connection.as_ref().is_none_or(|reader| has_ended(reader.get_ref()))
    }

    fn exchange(&mut self, words: &[&[u8]]) -> io::Result<Response> {
        let timeout = extra_time(words).map(|extra| self.silence_timeout + extra);
        let reader = self.connection.as_mut().ok_or(ErrorKind::NotConnected)?;
        reader.get_ref().set_read_timeout(timeout)?;
        reader.get_mut().write_all(&encode(words))?;
        Response::read(reader)
    }
}

/// Whether a server refused because another one leads: then it has done nothing.
fn is_elsewhere(response: &Response) -> bool {
    matches!(response, Response::Error(code, _) if code == "CLUSTERDOWN")
}

/// Whether a command without a reply may be sent again, also to another server. It must change
/// neither data nor a server, and must not depend on its connection.
fn is_repeatable(name: &str) -> bool {
    let is_of_one_server = matches!(name, "SHUTDOWN" | "PARTITION" | "HEAL" | "PEER" | "CONFIG");
    let is_of_one_connection =
        matches!(name, "WAIT" | "MULTI" | "EXEC" | "DISCARD" | "RESET" | "QUIT");
    // An unknown command may be a write.
    let is_read = command::row(name.as_bytes()).is_some_and(|row| !row.writes);
    is_read && !is_of_one_server && !is_of_one_connection
}

/// How much longer than the silence timeout a server may need for this request; `None`: no limit.
fn extra_time(words: &[&[u8]]) -> Option<Duration> {
    let bytes: usize = words.iter().map(|word| word.len()).sum();
    let on_its_way =
        Duration::from_secs((bytes.min(BYTES_UNDER_WAY_MAX) / SLOW_BYTES_PER_SECOND) as u64);
    let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    match name.as_slice() {
        b"WAIT" => {
            let timeout_ms =
                words.get(2).and_then(|word| decimal(word)).map_or(0, i64::unsigned_abs);
            (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms))
        }
        b"SHUTDOWN" | b"FLUSHALL" | b"FLUSHDB" | b"KEYS" => Some(LONG_COMMAND_TIMEOUT),
        _ => Some(on_its_way),
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

/// Whether the other side closed a blocking connection, or sent bytes without a request.
pub fn has_ended(stream: &TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let is_silent = peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    !is_silent || stream.set_nonblocking(false).is_err()
}

/// Connects to the first address of `host:port` that accepts.
pub fn open(
    address: &str,
    connect_timeout: Duration,
    write_timeout: Duration,
) -> io::Result<TcpStream> {
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
