//! What each command does, the same for every protocol.
//!
//! [`execute`] checks what holds for every command: the password, an open transaction, and whether
//! the node serves clients yet. Then it hands the command to the place of its group: data and node
//! below, the others in `handshake`, `transaction` and `peer`.

use super::session::{Outcome, Session};
use super::{handshake, info, peer, transaction};
use crate::error::{Error, Result};
use crate::guard::LARGE_BYTES;
use crate::node::Node;
use crate::node::listing::reply_too_long;
use crate::protocol::command::{DataCommand, NodeCommand, PeerCommand, SessionCommand};
use crate::protocol::resp::no_auth;
use crate::protocol::{Command, Reply, Words};

/// Executes `command` and writes its reply.
pub fn execute<R: Reply>(
    command: Command,
    node: &Node,
    session: &mut Session,
    reply: &mut R,
) -> Result<Outcome> {
    if !session.authenticated && !command.allowed_without_password() {
        if let Command::Peer(PeerCommand::Hello { words }) = command {
            node.refused_peer(
                &peer::address(words),
                "wrong or no password; give all nodes the same one",
            );
        }
        return Err(Error::Refused(no_auth()));
    }
    let ends_transaction =
        matches!(command, Command::Session(SessionCommand::Quit | SessionCommand::Reset));
    if session.is_in_transaction && !ends_transaction {
        transaction::inside(&command, session, reply)?;
        return Ok(Outcome::Continue);
    }
    if !command.is_for_peers() {
        node.wait_until_serving(&mut session.batch);
    }
    match command {
        Command::Data(command) => on_data(command, node, session, reply)?,
        Command::Node(command) => return on_node(command, node, session, reply),
        Command::Session(command) => return handshake::execute(command, node, session, reply),
        Command::Transaction(command) => transaction::outside(command, session, reply)?,
        Command::Peer(command) => peer::execute(command, node, session, reply)?,
    }
    Ok(Outcome::Continue)
}

fn on_data<R: Reply>(
    command: DataCommand,
    node: &Node,
    session: &mut Session,
    reply: &mut R,
) -> Result<()> {
    let batch = &mut session.batch;
    match command {
        DataCommand::Get { key } => node.get(key, batch, |value| reply.value(value))?,
        DataCommand::Put { key, value } => {
            node.put(key, value, batch)?;
            reply.ok();
        }
        DataCommand::Delete { key } => {
            node.delete(key, batch)?;
            reply.ok();
        }
        DataCommand::Del { keys } => reply.integer(node.delete_all(keys.iter(), batch)? as i64),
        DataCommand::MGet { keys } => return get_all(keys, node, session, reply),
        DataCommand::MSet { pairs } => {
            let indexes = (0..pairs.len()).step_by(2);
            let pairs = indexes.map(|index| (pairs.get(index), pairs.get(index + 1)));
            node.put_all(pairs, batch)?;
            reply.ok();
        }
        DataCommand::Exists { keys } => {
            let mut count = 0;
            for key in keys.iter() {
                count += i64::from(node.get(key, batch, |value| value.is_some())?);
            }
            reply.integer(count);
        }
        DataCommand::StrLen { key } => {
            reply.integer(node.get(key, batch, |value| value.map_or(0, <[u8]>::len))? as i64)
        }
        DataCommand::Type { key } => {
            let found = node.get(key, batch, |value| value.is_some())?;
            reply.simple(if found { "string" } else { "none" });
        }
        DataCommand::DbSize => reply.integer(node.shown_size(batch)?.keys as i64),
        DataCommand::Scan { cursor, pattern, count } => {
            let page = node.scan(cursor, count, pattern, batch)?;
            reply.array(2);
            reply.value(Some(page.next.to_string().as_bytes()));
            reply.list(&page.keys);
        }
        DataCommand::Keys { pattern } => reply.list(&node.keys(pattern, batch)?),
        DataCommand::FlushAll => {
            node.flush_all(batch)?;
            reply.ok();
        }
    }
    Ok(())
}

/// `MGET`. Fails when its reply grows too long, or holds too much memory.
fn get_all<R: Reply>(keys: Words, node: &Node, session: &mut Session, reply: &mut R) -> Result<()> {
    let max = node.configuration.limits.reply_bytes_max;
    let start = reply.buffer().len();
    let mut counted = start;
    reply.array(keys.len());
    for key in node.prefetching(keys.iter()) {
        node.get(key, &mut session.batch, |value| reply.value(value))?;
        let len = reply.buffer().len();
        if len - start > max {
            return Err(reply_too_long(max));
        }
        if len >= counted + LARGE_BYTES {
            counted = len;
            session.hold(len, node)?;
        }
    }
    Ok(())
}

fn on_node<R: Reply>(
    command: NodeCommand,
    node: &Node,
    session: &mut Session,
    reply: &mut R,
) -> Result<Outcome> {
    match command {
        NodeCommand::Info { section } => {
            reply.text(&info::text(node, session.address, section, &mut session.batch));
        }
        NodeCommand::Peers => reply.rows(&peer::rows(&node.peers())),
        NodeCommand::Partition { peer } => {
            node.cut_off(&peer::text(peer)?)?;
            reply.ok();
        }
        NodeCommand::Heal => {
            node.heal("*")?;
            reply.ok();
        }
        NodeCommand::Forget { peer } => {
            node.forget_peer(&peer::text(peer)?)?;
            reply.ok();
        }
        NodeCommand::Shutdown => return Ok(Outcome::ShutDown),
    }
    Ok(Outcome::Continue)
}
