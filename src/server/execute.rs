//! What each command does: one arm per command, the same for every protocol.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::transaction::{self, Transaction};
use super::{handshake, info, peer};
use crate::error::{Error, Result};
use crate::guard::{Holding, LARGE_BYTES, Stranger};
use crate::node::listing::reply_too_long;
use crate::node::{Access, Batch, Greeted, Node};
use crate::protocol::resp::no_auth;
use crate::protocol::{Command, Reply};

/// What happens to the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on with the next request.
    Continue,
    /// Send the replies, wait until so many peers hold this connection's writes, and reply how many
    /// do.
    Wait {
        /// How many.
        peers: usize,
        /// How long; 0 is for ever.
        timeout_ms: u64,
    },
    /// Send the replies and close; later requests are not executed.
    Close,
    /// Send the replies and stop the server.
    ShutDown,
}

impl Next {
    /// Whether the reply has been written: `SHUTDOWN` has none, and that of `WAIT` comes later.
    pub fn has_reply(self) -> bool {
        !matches!(self, Next::ShutDown | Next::Wait { .. })
    }
}

/// What the server knows of one connection between requests.
#[derive(Debug)]
pub struct Session {
    /// What this connection did since its last replies left.
    pub batch: Batch,
    /// Number of the connection since the server's start.
    pub(super) id: u64,
    /// Where the server listens.
    pub(super) address: SocketAddr,
    /// The connection's socket, once a peer may want to have it closed; tests have none.
    pub(super) socket: Option<Arc<TcpStream>>,
    /// The node that introduced itself on this connection.
    pub(super) peer: Option<Greeted>,
    /// Where the client is; tests have none.
    pub(super) client: Option<IpAddr>,
    /// The connection's place among those without a password, until it has given it.
    pub(super) stranger: Option<Stranger>,
    /// Replies that the client has not taken yet, if they were counted.
    pub(super) holding: Option<Holding>,
    /// As the client calls itself.
    pub(super) name: Vec<u8>,
    pub(super) authenticated: bool,
    pub(super) resp_version: u8,
    pub(super) transaction: Transaction,
}

/// Longest sleep while a password waits for its turn; between two the connection may have been
/// closed for its place.
const TURN_SLICE: Duration = Duration::from_millis(100);

impl Session {
    /// A new connection.
    pub fn new(id: u64, address: SocketAddr, authenticated: bool) -> Self {
        let batch = Batch::default();
        Session {
            batch,
            id,
            address,
            socket: None,
            peer: None,
            client: None,
            stranger: None,
            holding: None,
            name: Vec::new(),
            authenticated,
            resp_version: 2,
            transaction: Transaction::None,
        }
    }

    /// The client has given the password: it gives up its place among the strangers.
    pub(super) fn trust(&mut self) {
        self.authenticated = true;
        self.stranger = None;
    }

    /// Waits for the turn of a password; `false` when the connection was closed meanwhile.
    pub(super) fn wait_for_turn(&self, mut wait: Duration) -> bool {
        while !wait.is_zero() {
            if self.stranger.as_ref().is_some_and(Stranger::was_closed) {
                return false;
            }
            let slice = wait.min(TURN_SLICE);
            thread::sleep(slice);
            wait -= slice;
        }
        true
    }

    /// Counts replies of so many bytes until they are taken; the connection must be closed when
    /// they are too many.
    pub(super) fn hold(&mut self, bytes: usize, node: &Node) -> Result<()> {
        hold(&mut self.holding, &self.socket, bytes, node)
    }

    /// Whether the password was given, or none is needed.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// 2, or 3 after `HELLO 3`.
    pub fn resp_version(&self) -> u8 {
        self.resp_version
    }
}

/// Carries out `command` and writes its reply.
pub fn execute<R: Reply>(
    command: Command,
    node: &Node,
    session: &mut Session,
    reply: &mut R,
) -> Result<Next> {
    if !session.authenticated && !command.allowed_without_password() {
        if let Command::PeerHello { words } = command {
            node.refused_peer(
                &peer::address(words),
                "wrong or no password; give all nodes the same one",
            );
        }
        return Err(Error::Refused(no_auth()));
    }
    if session.transaction == Transaction::Open
        && !matches!(command, Command::Quit | Command::Reset)
    {
        transaction::inside(&command, session, reply)?;
        return Ok(Next::Continue);
    }
    let batch = &mut session.batch;
    if !command.is_for_peers() {
        node.admit(Access::Service, batch)?;
    }
    match command {
        Command::Get { key } => node.get(key, batch, |value| reply.value(value))?,
        Command::Put { key, value } => {
            node.put(key, value, batch)?;
            reply.ok();
        }
        Command::Delete { key } => {
            node.delete(key, batch)?;
            reply.ok();
        }
        Command::Del { keys } => reply.integer(node.delete_all(keys.iter(), batch)? as i64),
        Command::MGet { keys } => {
            let start = reply.buffer().len();
            let mut counted = start;
            reply.array(keys.len());
            for key in node.prefetching(keys.iter()) {
                node.get(key, batch, |value| reply.value(value))?;
                check_reply(reply, start, node)?;
                let held = reply.buffer().len();
                if held >= counted + LARGE_BYTES {
                    counted = held;
                    if let Err(error) = hold(&mut session.holding, &session.socket, held, node) {
                        reply.buffer().truncate(start);
                        return Err(error);
                    }
                }
            }
        }
        Command::MSet { pairs } => {
            let indexes = (0..pairs.len()).step_by(2);
            let pairs = indexes.map(|index| (pairs.get(index), pairs.get(index + 1)));
            node.put_all(pairs, batch)?;
            reply.ok();
        }
        Command::Exists { keys } => {
            let mut count = 0;
            for key in keys.iter() {
                count += i64::from(node.get(key, batch, |value| value.is_some())?);
            }
            reply.integer(count);
        }
        Command::StrLen { key } => {
            reply.integer(node.get(key, batch, |value| value.map_or(0, <[u8]>::len))? as i64)
        }
        Command::Type { key } => {
            let found = node.get(key, batch, |value| value.is_some())?;
            reply.simple(if found { "string" } else { "none" });
        }
        Command::DbSize => reply.integer(node.shown_size(batch).keys as i64),
        Command::Scan { cursor, pattern, count } => {
            let page = node.scan(cursor, count, pattern, batch)?;
            reply.array(2);
            reply.value(Some(page.next.to_string().as_bytes()));
            write_list(&page.keys, reply);
        }
        Command::Keys { pattern } => write_list(&node.keys(pattern, batch)?, reply),
        Command::FlushAll => {
            node.flush_all(batch)?;
            reply.ok();
        }
        Command::Wait { peers, timeout_ms } => return Ok(Next::Wait { peers, timeout_ms }),
        Command::Peers => reply.rows(&peer::rows(&node.peers())),
        Command::Partition { peer } => {
            node.cut_off(&peer::text(peer)?)?;
            reply.ok();
        }
        Command::Heal => {
            node.heal("*")?;
            reply.ok();
        }
        Command::PeerHello { .. }
        | Command::PeerDigests { .. }
        | Command::PeerVersions { .. }
        | Command::PeerMerge { .. }
        | Command::PeerForget { .. } => peer::execute(command, node, session, reply)?,
        Command::Info { section } => reply.text(&info::text(node, session.address, section, batch)),
        Command::Shutdown => return Ok(Next::ShutDown),
        Command::Ping { message: None } => reply.simple("PONG"),
        Command::Ping { message } => reply.value(message),
        Command::Echo { message } => reply.value(Some(message)),
        Command::Quit => {
            reply.ok();
            return Ok(Next::Close);
        }
        Command::Multi | Command::Exec | Command::Discard | Command::Watch | Command::Unwatch => {
            transaction::outside(&command, session, reply)?;
        }
        about_the_connection => handshake::execute(about_the_connection, node, session, reply)?,
    }
    Ok(Next::Continue)
}

fn hold(
    holding: &mut Option<Holding>,
    socket: &Option<Arc<TcpStream>>,
    bytes: usize,
    node: &Node,
) -> Result<()> {
    match (holding, socket) {
        (Some(holding), _) => holding.set(bytes),
        (empty @ None, Some(socket)) => empty.insert(node.guard.replies.holder(socket)).set(bytes),
        (None, None) => Ok(()),
    }
}

/// Takes a reply back that has grown beyond its limit.
fn check_reply<R: Reply>(reply: &mut R, start: usize, node: &Node) -> Result<()> {
    let max = node.configuration.limits.reply_bytes_max;
    if reply.buffer().len() - start > max {
        reply.buffer().truncate(start);
        return Err(reply_too_long(max));
    }
    Ok(())
}

fn write_list<R: Reply>(keys: &[Box<[u8]>], reply: &mut R) {
    reply.array(keys.len());
    keys.iter().for_each(|key| reply.value(Some(key)));
}
