//! # Serving: sockets and threads
//!
//! **The problem.** Thousands of clients at a time, some slow, some idle, some hostile, and only
//! blocking I/O.
//!
//! **The idea.** A thread for each connection. A thread that waits for its client costs a few pages
//! of memory and no time, and its code reads from top to bottom: read, parse, execute, commit,
//! write. [`NodeServer`] has two more threads, because accepting must be quick: `std` listens with
//! a backlog of 128, and a burst of connections overflows it if each waits for a thread to be
//! started. So `accept` only accepts, counts and refuses; `start` starts the threads.
//!
//! **The rules.**
//! - A connection beyond the limit gets an error and is closed. A failing `accept` or thread start
//!   pauses the loop: it never spins and never ends the process.
//! - Replies leave only after [`Node::commit`]; one `write` for all requests of a read.
//! - What one client sends never harms another: every buffer belongs to one connection, and every
//!   wait has an end (see [`crate::config::Limits`]).
//!
//! **What is left out.** Event loops (`epoll`) and async runtimes: see the README for what the
//! threads cost and what they do not. A longer backlog: `std` has no call for it. When a system
//! handles more than 128 new connections in one go, as it does when thousands come from the same
//! machine at once, the rest try again after a second. A program that does nothing but accept, in
//! one thread or four, loses some of 500 at once as well. Delaying the thread starts until a burst
//! ends saves too little: 1.3 s instead of 1.9 s for 2,000 connections.
//!
//! Files: [`connection`] is one client's thread, [`transport`] its socket and buffers, [`execute`]
//! what each command does, [`peer`] what other nodes ask, [`handshake`] what clients ask before
//! they work, [`transaction`] how `MULTI` is refused, [`mod@info`] the text of `INFO`.

pub mod connection;
pub mod execute;
pub mod handshake;
pub mod info;
pub mod peer;
pub mod progress;
pub mod session;
pub mod transaction;
pub mod transport;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::warn;

use crate::error::{Error, Result};
use crate::guard::{LogLimiter, Stranger};
use crate::locks::spawn;
use crate::metrics;
use crate::node::Node;

/// Accepted connections that wait for their thread. When full, accepting pauses and the kernel's
/// own queue fills.
const STARTING_CONNECTIONS_MAX: usize = 1_024;
/// Stack of a connection's thread. Requests are executed without recursion or large arrays, and
/// only pages that are touched cost memory.
const STACK_BYTES: usize = 256 * 1024;

/// A node that listens. Its threads end with the process.
#[derive(Debug)]
pub struct NodeServer {
    /// The node that answers.
    pub node: Arc<Node>,
    /// Where it listens, with the real port.
    pub address: SocketAddr,
}

impl NodeServer {
    /// Listens where the node's configuration says and serves from then on.
    pub fn start(node: Node) -> Result<Self> {
        let wanted = SocketAddr::new(node.configuration.bind, node.configuration.port);
        let listener = TcpListener::bind(wanted).map_err(|error| bind_error(wanted, error))?;
        let address = listener.local_addr()?;
        let node = Arc::new(node);
        let (sender, receiver) = bounded(STARTING_CONNECTIONS_MAX);
        let (accepting, starting) = (Arc::clone(&node), Arc::clone(&node));
        spawn("accept", move || accept(&listener, &accepting, &sender))?;
        spawn("start", move || start_threads(&receiver, &starting, address))?;
        // Peers are served from here on, clients once the seeds have answered: two nodes that start
        // at the same time and name each other must not wait for each other.
        node.start(address)?;
        Ok(NodeServer { node, address })
    }

    /// The gentle stop, once [`crate::stopping::GentleStop::ask`] was called: takes no more
    /// connections, brings to the peers and to the disk what they lack.
    pub fn stop(&self) -> Result<()> {
        // Connects to our own port: `accept` waits without a time limit, and reads the flag after
        // each connection.
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                Ipv6Addr::LOCALHOST.into()
            });
        }
        // If it fails, the next client's connection does it.
        drop(TcpStream::connect_timeout(&address, WAKE_TIMEOUT));
        self.node.close()
    }
}

/// Longest wait for the connection to our own port, which only a full queue of connections delays.
const WAKE_TIMEOUT: Duration = Duration::from_millis(100);

/// A connection's place among the `connections_max` of [`crate::config::Configuration`]; free again
/// when this is dropped.
#[derive(Debug)]
struct Place(Arc<Node>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.metrics.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that waits for its thread.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket.
    pub stream: Arc<TcpStream>,
    /// Where its client is.
    pub client: SocketAddr,
    /// The connection's place among those without a password, if the server has one.
    pub stranger: Option<Stranger>,
    place: Place,
}

/// Connections beyond `connections_max` while closed strangers end. Each uses a descriptor that is
/// reserved for files and peers, so the number is small.
const LEAVING_MAX: u64 = 16;

/// Longest wait for them, when they are more: they end within a millisecond or so, unless the
/// machine is busy.
const LEAVING_TIMEOUT: Duration = Duration::from_millis(100);

/// Whether a connection that was just accepted and counted may stay. A stranger gives way to it,
/// since it may have the password.
fn has_place(node: &Node) -> bool {
    let places = node.configuration.connections_max as u64;
    let excess = || metrics::read(&node.metrics.connections_open).saturating_sub(places);
    let mut waited = Duration::ZERO;
    while excess() > LEAVING_MAX && waited < LEAVING_TIMEOUT {
        thread::sleep(Duration::from_millis(1));
        waited += Duration::from_millis(1);
    }
    match excess() {
        0 => true,
        1..=LEAVING_MAX => node.guard.strangers.close_oldest(),
        _ => false,
    }
}

fn accept(listener: &TcpListener, node: &Arc<Node>, starting: &Sender<Accepted>) {
    let mut trouble = Trouble::default();
    loop {
        match listener.accept() {
            Ok(_) if node.stop.is_asked() => return,
            Ok((stream, client)) => {
                trouble.pause = Duration::ZERO;
                metrics::add(&node.metrics.connections_accepted, 1);
                metrics::add(&node.metrics.connections_open, 1);
                let place = Place(Arc::clone(node));
                let strangers = &node.guard.strangers;
                if !has_place(node) {
                    metrics::add(&node.metrics.connections_rejected, 1);
                    refuse(stream);
                    continue;
                }
                let stream = Arc::new(stream);
                let stranger =
                    node.configuration.passwords.is_set().then(|| strangers.enter(&stream));
                if starting.send(Accepted { stream, client, stranger, place }).is_err() {
                    return;
                }
            }
            // The client left before it was accepted: not our trouble.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                metrics::add(&node.metrics.accept_errors, 1);
                trouble.pause(&format!("cannot accept connections: {error}"));
            }
        }
    }
}

fn start_threads(accepted: &Receiver<Accepted>, node: &Arc<Node>, address: SocketAddr) {
    let mut trouble = Trouble::default();
    let mut number: u64 = 0;
    for connection in accepted {
        number += 1;
        let (id, node_of_client) = (number, Arc::clone(node));
        let serve = move || {
            connection::serve(connection, &node_of_client, id, address);
        };
        // A thread that cannot be started drops its socket, which closes it.
        match thread::Builder::new()
            .name(format!("client-{id}"))
            .stack_size(STACK_BYTES)
            .spawn(serve)
        {
            Ok(_) => trouble.pause = Duration::ZERO,
            Err(error) => {
                metrics::add(&node.metrics.accept_errors, 1);
                trouble
                    .pause(&format!("cannot start a thread for a connection, closed it: {error}"));
            }
        }
    }
}

/// Sends an error to a client for whom there is no place, and closes. It must not wait, because
/// other clients wait for their turn.
fn refuse(mut stream: TcpStream) {
    let _ = stream.set_nonblocking(true);
    // A close with unread bytes would reset the connection, and the reset can overtake the error.
    let _ = stream.read(&mut [0; 1024]);
    let _ = stream.write(b"-ERR max number of clients reached\r\n");
    let _ = stream.shutdown(Shutdown::Write);
}

/// First and longest pause after a failed `accept` or thread start: descriptors or memory are
/// short. Without a pause the loop would spin.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Backs off while something keeps failing, and says so once a second.
#[derive(Default)]
struct Trouble {
    /// The last pause; zero after a success.
    pause: Duration,
    lines: LogLimiter,
}

impl Trouble {
    fn pause(&mut self, message: &str) {
        if let Some(left_out) = self.lines.admit() {
            warn!("{message}{left_out}");
        }
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        thread::sleep(self.pause);
    }
}

fn bind_error(address: SocketAddr, error: io::Error) -> Error {
    let port = address.port();
    Error::Fatal(match error.kind() {
        io::ErrorKind::AddrInUse => {
            let other = if port < u16::MAX { port + 1 } else { port - 1 };
            format!(
                "port {port} is in use; try another, such as {other}, or stop what listens there"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("not allowed to listen on {address}; ports below 1024 need rights, try 8080")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{} is no address of this machine; try --bind 127.0.0.1", address.ip())
        }
        _ => format!("cannot listen on {address}: {error}"),
    })
}
