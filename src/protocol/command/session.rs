//! Commands that are not about keys: about the node, the connection, transactions and peers.

use super::{
    Command, NAME_BYTES_MAX, not_a_number, number, row, shortened, unsupported_option, upper_case,
};
use crate::error::{Error, Result};
use crate::protocol::Words;

/// About the node: what it shows of itself, and what an operator asks of it.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // TABLE describes them, with their arguments.
pub enum NodeCommand<'a> {
    Info { section: Option<&'a [u8]> },
    Peers,
    Partition { peer: &'a [u8] },
    Heal,
    Forget { peer: &'a [u8] },
    Shutdown,
}

/// About the connection: who its client is, what it may ask, and how it goes on.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // TABLE describes them, with their arguments.
pub enum SessionCommand<'a> {
    Ping { message: Option<&'a [u8]> },
    Echo { message: &'a [u8] },
    Wait { peers: usize, timeout_ms: u64 },
    Auth { user: Option<&'a [u8]>, password: &'a [u8] },
    Hello { version: Option<&'a [u8]>, options: Words<'a> },
    ClientSetInfo,
    ClientSetName { name: &'a [u8] },
    ClientGetName,
    ClientId,
    CommandCount,
    CommandInfo { names: Words<'a> },
    CommandDocs { names: Words<'a> },
    ConfigGet { patterns: Words<'a> },
    ConfigSet { pairs: Words<'a> },
    FunctionFlush,
    Select { index: &'a [u8] },
    ReadOnly { is_on: bool },
    Quit,
    Reset,
}

/// About transactions.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // TABLE describes them.
pub enum TransactionCommand {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
}

/// From another node. See [`crate::peers`]. `Digests` asks for the digests of all shards or of the
/// buckets of one, `Versions` for what a bucket holds behind the key `after`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // The chapter describes them.
pub enum PeerCommand<'a> {
    Hello { words: Words<'a> },
    Digests { shard: Option<usize> },
    Versions { shard: usize, bucket: usize, after: Option<&'a [u8]> },
    Merge { records: &'a [u8] },
    Append { numbers: [u64; 6], entries: &'a [u8] },
    Vote { numbers: [u64; 4] },
    Remove { id: u64 },
    Forward { wants_read: bool, proposals: &'a [u8] },
}

/// The command of this name, which is in capitals; `None` if there is none with so many words.
pub(super) fn parse<'a>(name: &[u8], words: Words<'a>) -> Result<Option<Command<'a>>> {
    use {Command::*, NodeCommand::*, SessionCommand::*, TransactionCommand::*};
    let rest = words.from(1);
    let word = |index| words.get(index);
    Ok(Some(match (name, words.len()) {
        (b"INFO", 1) => Node(Info { section: None }),
        (b"INFO", 2) => Node(Info { section: Some(word(1)) }),
        (b"PEERS", 1) => Node(Peers),
        (b"PARTITION", 2) => Node(Partition { peer: word(1) }),
        (b"HEAL", 1) => Node(Heal),
        (b"SHUTDOWN", 1) => Node(Shutdown),
        (b"SHUTDOWN", 2) => return Err(unsupported_option(word(0), word(1))),
        (b"PING", 1) => Session(Ping { message: None }),
        (b"PING", 2) => Session(Ping { message: Some(word(1)) }),
        (b"ECHO", 2) => Session(Echo { message: word(1) }),
        (b"WAIT", 3) => Session(Wait {
            peers: number(word(1)).ok_or_else(not_a_number)?,
            timeout_ms: number(word(2))
                .ok_or_else(|| Error::refused("timeout is not an integer or out of range"))?,
        }),
        (b"AUTH", 2) => Session(Auth { user: None, password: word(1) }),
        (b"AUTH", 3) => Session(Auth { user: Some(word(1)), password: word(2) }),
        (b"HELLO", 1) => Session(Hello { version: None, options: rest }),
        (b"HELLO", 2..) => Session(Hello { version: Some(word(1)), options: words.from(2) }),
        (b"READONLY", 1) => Session(ReadOnly { is_on: true }),
        (b"READWRITE", 1) => Session(ReadOnly { is_on: false }),
        (b"SELECT", 2) => Session(Select { index: word(1) }),
        (b"QUIT", _) => Session(Quit),
        (b"RESET", 1) => Session(Reset),
        (b"MULTI", 1) => Transaction(Multi),
        (b"EXEC", 1) => Transaction(Exec),
        (b"DISCARD", 1) => Transaction(Discard),
        (b"WATCH", 2..) => Transaction(Watch),
        (b"UNWATCH", 1) => Transaction(Unwatch),
        (b"COMMAND", 1) => Session(CommandInfo { names: rest }),
        (b"CLIENT" | b"COMMAND" | b"CONFIG" | b"FUNCTION" | b"PEER", 2..) => {
            subcommand(name, words)?
        }
        _ => return Ok(None),
    }))
}

/// The commands with a second word of their own.
fn subcommand<'a>(name: &[u8], words: Words<'a>) -> Result<Command<'a>> {
    use {Command::*, SessionCommand::*};
    let mut second = [0; NAME_BYTES_MAX];
    let rest = words.from(2);
    let word = |index| rest.get(index);
    Ok(match (name, upper_case(words.get(1), &mut second), rest.len()) {
        (b"CLIENT", b"SETINFO", 2) => Session(ClientSetInfo),
        (b"CLIENT", b"SETNAME", 1) => Session(ClientSetName { name: word(0) }),
        (b"CLIENT", b"GETNAME", 0) => Session(ClientGetName),
        (b"CLIENT", b"ID", 0) => Session(ClientId),
        (b"COMMAND", b"COUNT", 0) => Session(CommandCount),
        (b"COMMAND", b"INFO", _) => Session(CommandInfo { names: rest }),
        (b"COMMAND", b"DOCS", _) => Session(CommandDocs { names: rest }),
        (b"CONFIG", b"GET", 1..) => Session(ConfigGet { patterns: rest }),
        (b"CONFIG", b"SET", 2..) if rest.len().is_multiple_of(2) => {
            Session(ConfigSet { pairs: rest })
        }
        (b"FUNCTION", b"FLUSH", 0) => Session(FunctionFlush),
        (b"PEER", b"FORGET", 1) => Node(NodeCommand::Forget { peer: word(0) }),
        (b"PEER", b"HELLO", _) => Peer(PeerCommand::Hello { words: rest }),
        (b"PEER", b"DIGESTS", 0) => Peer(PeerCommand::Digests { shard: None }),
        (b"PEER", b"DIGESTS", 1) => Peer(PeerCommand::Digests { shard: Some(index(word(0))?) }),
        (b"PEER", b"VERSIONS", len @ 2..=3) => Peer(PeerCommand::Versions {
            shard: index(word(0))?,
            bucket: index(word(1))?,
            after: (len == 3).then(|| word(2)),
        }),
        (b"PEER", b"APPEND", 7) => {
            Peer(PeerCommand::Append { numbers: numbers(rest)?, entries: word(6) })
        }
        (b"PEER", b"VOTE", 4) => Peer(PeerCommand::Vote { numbers: numbers(rest)? }),
        (b"PEER", b"REMOVE", 1) => {
            let [id] = numbers(rest)?;
            Peer(PeerCommand::Remove { id })
        }
        (b"PEER", b"FORWARD", 2) => {
            Peer(PeerCommand::Forward { wants_read: word(0) == b"1", proposals: word(1) })
        }
        (b"PEER", b"MERGE", 1) => Peer(PeerCommand::Merge { records: word(0) }),
        _ => return Err(no_such_subcommand(words)),
    })
}

/// The first words, as numbers.
fn numbers<const N: usize>(words: Words) -> Result<[u64; N]> {
    let mut numbers = [0; N];
    for (word, place) in words.iter().zip(&mut numbers) {
        *place = number(word).ok_or_else(not_a_number)?;
    }
    Ok(numbers)
}

/// The number of a shard or bucket; the node checks how large it may be.
fn index(word: &[u8]) -> Result<usize> {
    number(word).ok_or_else(not_a_number)
}

fn no_such_subcommand(words: Words) -> Error {
    let name = String::from_utf8_lossy(words.get(0)).to_uppercase();
    let usage = row(words.get(0)).map_or("", |row| row.arguments);
    Error::refused(format!(
        "unknown subcommand or wrong number of arguments for '{}'. Try {name} {usage}",
        shortened(words.get(1))
    ))
}
