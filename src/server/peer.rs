//! What peers ask of this node: `PEER …`.

use super::session::Session;
use crate::addresses::parse_host_port;
use crate::error::{Error, Result};
use crate::node::{Node, PeerStatus, RaftPeer};
use crate::protocol::command::PeerCommand;
use crate::protocol::{Reply, Words};

/// Which word of a HELLO is the address.
const ADDRESS_AT: usize = 6;

/// Executes a peer's command. All but HELLO need a HELLO before them on the connection.
pub fn execute<R: Reply>(
    command: PeerCommand,
    node: &Node,
    session: &mut Session,
    reply: &mut R,
) -> Result<()> {
    let batch = &mut session.batch;
    let peer = session.peer.as_ref();
    let introduced = || Error::refused("say PEER HELLO first");
    match command {
        PeerCommand::Hello { words } => return hello(words, node, session, reply),
        PeerCommand::Digests { shard } => {
            let digests = node.digests(peer.ok_or_else(introduced)?, shard, batch)?;
            reply.value(Some(&digests));
        }
        PeerCommand::Versions { shard, bucket, after } => {
            let peer = peer.ok_or_else(introduced)?;
            let listed = node.versions(peer, shard, bucket, after, batch)?;
            if listed.last.is_some() {
                reply.array(2);
            }
            reply.value(Some(&listed.bytes));
            listed.last.iter().for_each(|key| reply.value(Some(key)));
        }
        PeerCommand::Append { numbers, entries } => {
            let peer = peer.ok_or_else(introduced)?;
            numbers_of(&node.append_from_peer(peer, numbers, entries)?, reply);
        }
        PeerCommand::Vote { numbers } => {
            numbers_of(&node.vote_for_peer(peer.ok_or_else(introduced)?, numbers)?, reply);
        }
        PeerCommand::Remove { id } => {
            numbers_of(&node.remove_for_peer(peer.ok_or_else(introduced)?, id)?, reply);
        }
        PeerCommand::Forward { wants_read, proposals } => {
            let peer = peer.ok_or_else(introduced)?;
            numbers_of(&node.forward_from_peer(peer, wants_read, proposals)?, reply);
        }
        PeerCommand::Merge { records } => {
            let done = node.merge_from_peer(peer.ok_or_else(introduced)?, records, batch)?;
            reply.array(2);
            reply.integer(done.merged as i64);
            reply.integer(done.refused as i64);
        }
    }
    Ok(())
}

fn numbers_of<R: Reply>(numbers: &[u64], reply: &mut R) {
    reply.array(numbers.len());
    numbers.iter().for_each(|number| reply.integer(*number as i64));
}

/// The address in the words of a HELLO, however few and whatever they are.
pub fn address(words: Words) -> String {
    let word = words.iter().nth(ADDRESS_AT).and_then(|word| std::str::from_utf8(word).ok());
    word.and_then(|word| parse_host_port(word).ok()).unwrap_or("that says no address".into())
}

fn hello<R: Reply>(words: Words, node: &Node, session: &mut Session, reply: &mut R) -> Result<()> {
    let advertised = address(words);
    let words: Vec<&str> = words
        .iter()
        .map(|word| std::str::from_utf8(word).map_err(|_| Error::refused("PEER HELLO: not text")))
        .collect::<Result<_>>()?;
    let socket = session.socket.as_ref();
    let answer = node.hello(&words, &advertised, socket, &mut session.peer)?;
    reply.array(3);
    reply.list(&answer.words());
    reply.list(&answer.member_words());
    reply.list(&answer.ban_words());
    Ok(())
}

/// A word that must be text.
pub fn text(word: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(word).map_err(|_| Error::refused("an address or id is text"))?;
    Ok(text.into())
}

/// What a row says of a member of a raft cluster.
fn raft_words(member: &RaftPeer) -> String {
    let matched = member.matched.map_or("unknown".into(), |index| index.to_string());
    let behind = if member.is_behind { " behind=1" } else { "" };
    format!(" role={} matched={matched}{behind}", member.role)
}

/// The rows of `PEERS`.
pub fn rows(peers: &[PeerStatus]) -> Vec<String> {
    let row = |peer: &PeerStatus| {
        let id = peer.id.map_or("unknown".into(), |id| format!("{id:016x}"));
        let last_sync = peer.last_sync_ms.map_or("never".into(), |ms| ms.to_string());
        // The last field, because it has spaces.
        let error =
            peer.error.as_ref().map(|reason| format!(" error={reason}")).unwrap_or_default();
        let raft = peer.raft.as_ref().map(raft_words).unwrap_or_default();
        format!(
            "address={} id={id}{raft} state={} queued_keys={} lag_ms={} last_sync_ms={last_sync} \
             sent_bytes={} received_bytes={} clock_ahead_ms={}{error}",
            peer.address,
            peer.state,
            peer.queued_keys,
            peer.lag_ms,
            peer.sent_bytes,
            peer.received_bytes,
            peer.clock_ahead_ms
        )
    };
    peers.iter().map(row).collect()
}
