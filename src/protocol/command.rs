//! The table of commands, and how words become a [`Command`].
//!
//! [`TABLE`] is what `COMMAND`, `COMMAND DOCS`, the client's `HELP` and the README show; a test
//! holds the README to it. [`Command::parse`] is the one place where words get a meaning. A command
//! that is not here is answered as Redis answers it, because client libraries look at the text.

use super::Words;
use crate::config::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::glob::PATTERN_BYTES_MAX;

/// One request. Everything in it is borrowed from the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // TABLE describes them, with their arguments.
pub enum Command<'a> {
    Get {
        key: &'a [u8],
    },
    Put {
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        key: &'a [u8],
    },
    Del {
        keys: Words<'a>,
    },
    MGet {
        keys: Words<'a>,
    },
    /// Keys and values in turn: an even number of words.
    MSet {
        pairs: Words<'a>,
    },
    Exists {
        keys: Words<'a>,
    },
    StrLen {
        key: &'a [u8],
    },
    Type {
        key: &'a [u8],
    },
    DbSize,
    Scan {
        cursor: u64,
        pattern: Option<&'a [u8]>,
        count: usize,
    },
    Keys {
        pattern: &'a [u8],
    },
    FlushAll,
    Wait {
        peers: usize,
        timeout_ms: u64,
    },
    Info {
        section: Option<&'a [u8]>,
    },
    Peers,
    Partition {
        peer: &'a [u8],
    },
    Heal,
    /// The words of an introduction.
    PeerHello {
        words: Words<'a>,
    },
    /// Of all shards, or of the buckets of one.
    PeerDigests {
        shard: Option<usize>,
    },
    PeerVersions {
        shard: usize,
        bucket: usize,
        /// The key after which the list goes on.
        after: Option<&'a [u8]>,
    },
    PeerMerge {
        records: &'a [u8],
    },
    PeerForget {
        peer: &'a [u8],
    },
    Shutdown,
    Ping {
        message: Option<&'a [u8]>,
    },
    Echo {
        message: &'a [u8],
    },
    Auth {
        user: Option<&'a [u8]>,
        password: &'a [u8],
    },
    Hello {
        version: Option<&'a [u8]>,
        options: Words<'a>,
    },
    ClientSetInfo,
    ClientSetName {
        name: &'a [u8],
    },
    ClientGetName,
    ClientId,
    CommandList,
    CommandCount,
    CommandInfo {
        names: Words<'a>,
    },
    CommandDocs {
        names: Words<'a>,
    },
    ConfigGet {
        patterns: Words<'a>,
    },
    ConfigSet {
        pairs: Words<'a>,
    },
    FunctionFlush,
    Select {
        index: &'a [u8],
    },
    Quit,
    Reset,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
}

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// In capitals.
    pub name: &'static str,
    /// What follows the name.
    pub arguments: &'static str,
    /// Words with the name; negative: at least that many (Redis's convention).
    pub arity: i64,
    /// First key, last key (negative: from the end) and step, as in Redis; zeros without keys.
    pub keys: (i64, i64, i64),
    /// Whether it changes data.
    pub writes: bool,
    /// Whether the line protocol has it.
    pub on_lines: bool,
    /// What it does, in a few words.
    pub summary: &'static str,
}

const READ: bool = false;
const WRITE: bool = true;
const LINES: bool = true;
const RESP: bool = false;
const NO_KEYS: (i64, i64, i64) = (0, 0, 0);
const ONE_KEY: (i64, i64, i64) = (1, 1, 1);
const ALL_KEYS: (i64, i64, i64) = (1, -1, 1);

const fn new(
    name: &'static str,
    arguments: &'static str,
    arity: i64,
    keys: (i64, i64, i64),
    writes: bool,
    on_lines: bool,
    summary: &'static str,
) -> Row {
    Row { name, arguments, arity, keys, writes, on_lines, summary }
}

/// All commands, the everyday ones first.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    new("PUT", "key value", 3, ONE_KEY, WRITE, LINES, "store a value"),
    new("GET", "key", 2, ONE_KEY, READ, LINES, "read a value"),
    new("DELETE", "key", 2, ONE_KEY, WRITE, LINES, "remove a key, whether it is there or not"),
    new("SET", "key value", 3, ONE_KEY, WRITE, LINES, "PUT under Redis's name"),
    new("DEL", "key [key ...]", -2, ALL_KEYS, WRITE, LINES, "remove keys; how many there were"),
    new("UNLINK", "key [key ...]", -2, ALL_KEYS, WRITE, RESP, "DEL under another name"),
    new("MGET", "key [key ...]", -2, ALL_KEYS, READ, RESP, "read several values"),
    new("MSET", "key value [key value ...]", -3, (1, -1, 2), WRITE, RESP, "store several values"),
    new("EXISTS", "key [key ...]", -2, ALL_KEYS, READ, LINES, "how many of the keys are there"),
    new("STRLEN", "key", 2, ONE_KEY, READ, LINES, "length of a value in bytes, 0 if it is not there"),
    new("TYPE", "key", 2, ONE_KEY, READ, LINES, "string, or none"),
    new("DBSIZE", "", 1, NO_KEYS, READ, LINES, "how many keys there are"),
    new("SCAN", "cursor [MATCH pattern] [COUNT count]", -2, NO_KEYS, READ, RESP, "list keys in steps"),
    new("KEYS", "pattern", 2, NO_KEYS, READ, RESP, "list all keys that match"),
    new("FLUSHALL", "", 1, NO_KEYS, WRITE, RESP, "delete every key"),
    new("FLUSHDB", "", 1, NO_KEYS, WRITE, RESP, "delete every key"),
    new("WAIT", "peers timeout_ms", 3, NO_KEYS, READ, LINES, "wait until peers hold this connection's writes; how many do"),
    new("INFO", "[section]", -1, NO_KEYS, READ, LINES, "what goes on"),
    new("PEERS", "", 1, NO_KEYS, READ, LINES, "one row per peer"),
    new("PARTITION", "address | id | *", 2, NO_KEYS, READ, LINES, "for experiments: neither send to nor accept from a peer"),
    new("HEAL", "", 1, NO_KEYS, READ, LINES, "ends every PARTITION"),
    new("PEER", "HELLO ... | DIGESTS [shard] | VERSIONS shard bucket [key] | MERGE records | FORGET address | id", -2, NO_KEYS, READ, RESP, "between nodes; FORGET bans a node for good"),
    new("SHUTDOWN", "", 1, NO_KEYS, READ, LINES, "stop the server gently"),
    new("PING", "[message]", -1, NO_KEYS, READ, LINES, "PONG, or the message"),
    new("ECHO", "message", 2, NO_KEYS, READ, RESP, "the message"),
    new("AUTH", "[user] password", -2, NO_KEYS, READ, LINES, "give the password; the only user is default"),
    new("HELLO", "[2|3 [AUTH user password] [SETNAME name]]", -1, NO_KEYS, READ, RESP, "choose RESP2 or RESP3"),
    new("CLIENT", "SETINFO attribute value | SETNAME name | GETNAME | ID", -2, NO_KEYS, READ, RESP, "about this connection"),
    new("COMMAND", "[DOCS [name ...] | INFO [name ...] | COUNT]", -1, NO_KEYS, READ, RESP, "about these commands"),
    new("CONFIG", "GET pattern [pattern ...] | SET name value [name value ...]", -2, NO_KEYS, READ, RESP, "settings; they change only at a start"),
    new("FUNCTION", "FLUSH", -2, NO_KEYS, READ, RESP, "there are no functions"),
    new("SELECT", "0", 2, NO_KEYS, READ, RESP, "choose the only database"),
    new("QUIT", "", -1, NO_KEYS, READ, LINES, "close the connection"),
    new("RESET", "", 1, NO_KEYS, READ, RESP, "make the connection as new"),
    new("MULTI", "", 1, NO_KEYS, READ, RESP, "commands are answered QUEUED and not executed, until EXEC or DISCARD"),
    new("EXEC", "", 1, NO_KEYS, READ, RESP, "end MULTI with an error: there are no transactions"),
    new("DISCARD", "", 1, NO_KEYS, READ, RESP, "end MULTI without an error"),
    new("WATCH", "key [key ...]", -2, ALL_KEYS, READ, RESP, "refused: there are no transactions"),
    new("UNWATCH", "", 1, NO_KEYS, READ, RESP, "nothing is watched"),
];

/// The row of a command, in whatever case its name is written.
pub fn row(name: &[u8]) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name.as_bytes().eq_ignore_ascii_case(name))
}

/// Longer than every name; what is longer is unknown anyway.
const NAME_BYTES_MAX: usize = 16;
/// `SCAN` without `COUNT`, as in Redis.
const SCAN_COUNT: usize = 10;

impl<'a> Command<'a> {
    /// The command that these words are: the name in whatever case, then its arguments.
    pub fn parse(words: Words<'a>) -> Result<Command<'a>> {
        let mut upper = [0; NAME_BYTES_MAX];
        let name = upper_case(words.get(0), &mut upper);
        let rest = words.from(1);
        let word = |index| words.get(index);
        Ok(match (name, words.len()) {
            (b"GET", 2) => Command::Get { key: key(word(1))? },
            (b"SET" | b"PUT", 3) => Command::Put { key: key(word(1))?, value: value(word(2))? },
            (b"SET" | b"PUT", 4..) => return Err(unsupported_option(word(0), word(3))),
            (b"DELETE", 2) => Command::Delete { key: key(word(1))? },
            (b"DEL" | b"UNLINK", 2..) => Command::Del { keys: keys(rest, 1)? },
            (b"MGET", 2..) => Command::MGet { keys: keys(rest, 1)? },
            (b"MSET", 3..) if rest.len().is_multiple_of(2) => {
                rest.iter().skip(1).step_by(2).try_for_each(|word| value(word).map(drop))?;
                Command::MSet { pairs: keys(rest, 2)? }
            }
            (b"EXISTS", 2..) => Command::Exists { keys: keys(rest, 1)? },
            (b"STRLEN", 2) => Command::StrLen { key: key(word(1))? },
            (b"TYPE", 2) => Command::Type { key: key(word(1))? },
            (b"DBSIZE", 1) => Command::DbSize,
            (b"SCAN", 2..) => scan(rest)?,
            (b"KEYS", 2) => Command::Keys { pattern: pattern(word(1))? },
            (b"FLUSHALL" | b"FLUSHDB", 1) => Command::FlushAll,
            (b"FLUSHALL" | b"FLUSHDB", 2) => return Err(unsupported_option(word(0), word(1))),
            (b"WAIT", 3) => Command::Wait {
                peers: number(word(1)).ok_or_else(not_a_number)?,
                timeout_ms: number(word(2))
                    .ok_or_else(|| Error::refused("timeout is not an integer or out of range"))?,
            },
            (b"INFO", 1) => Command::Info { section: None },
            (b"INFO", 2) => Command::Info { section: Some(word(1)) },
            (b"PEERS", 1) => Command::Peers,
            (b"PARTITION", 2) => Command::Partition { peer: word(1) },
            (b"HEAL", 1) => Command::Heal,
            (b"SHUTDOWN", 1) => Command::Shutdown,
            (b"SHUTDOWN", 2) => return Err(unsupported_option(word(0), word(1))),
            (b"PING", 1) => Command::Ping { message: None },
            (b"PING", 2) => Command::Ping { message: Some(word(1)) },
            (b"ECHO", 2) => Command::Echo { message: word(1) },
            (b"AUTH", 2) => Command::Auth { user: None, password: word(1) },
            (b"AUTH", 3) => Command::Auth { user: Some(word(1)), password: word(2) },
            (b"HELLO", 1) => Command::Hello { version: None, options: rest },
            (b"HELLO", 2..) => Command::Hello { version: Some(word(1)), options: words.from(2) },
            (b"COMMAND", 1) => Command::CommandList,
            (b"CLIENT" | b"COMMAND" | b"CONFIG" | b"FUNCTION" | b"PEER", 2..) => subcommand(words)?,
            (b"SELECT", 2) => Command::Select { index: word(1) },
            (b"QUIT", _) => Command::Quit,
            (b"RESET", 1) => Command::Reset,
            (b"MULTI", 1) => Command::Multi,
            (b"EXEC", 1) => Command::Exec,
            (b"DISCARD", 1) => Command::Discard,
            (b"WATCH", 2..) => Command::Watch,
            (b"UNWATCH", 1) => Command::Unwatch,
            _ => return Err(no_such_command(words)),
        })
    }

    /// Whether it may be used before the password was given.
    pub fn allowed_without_password(&self) -> bool {
        matches!(
            self,
            Command::Auth { .. } | Command::Hello { .. } | Command::Quit | Command::Reset
        )
    }

    /// Whether it may be used before the node serves clients: what is no business of the data.
    pub fn is_for_peers(&self) -> bool {
        use Command::*;
        matches!(
            self,
            PeerHello { .. } | PeerDigests { .. } | PeerVersions { .. } | PeerMerge { .. }
        ) || self.allowed_without_password()
    }
}

/// The commands with a second word of their own.
fn subcommand(words: Words<'_>) -> Result<Command<'_>> {
    let (mut first, mut second) = ([0; NAME_BYTES_MAX], [0; NAME_BYTES_MAX]);
    let names = (upper_case(words.get(0), &mut first), upper_case(words.get(1), &mut second));
    let rest = words.from(2);
    Ok(match (names, rest.len()) {
        ((b"CLIENT", b"SETINFO"), 2) => Command::ClientSetInfo,
        ((b"CLIENT", b"SETNAME"), 1) => Command::ClientSetName { name: rest.get(0) },
        ((b"CLIENT", b"GETNAME"), 0) => Command::ClientGetName,
        ((b"CLIENT", b"ID"), 0) => Command::ClientId,
        ((b"COMMAND", b"COUNT"), 0) => Command::CommandCount,
        ((b"COMMAND", b"INFO"), _) => Command::CommandInfo { names: rest },
        ((b"COMMAND", b"DOCS"), _) => Command::CommandDocs { names: rest },
        ((b"CONFIG", b"GET"), 1..) => Command::ConfigGet { patterns: rest },
        ((b"CONFIG", b"SET"), 2..) if rest.len().is_multiple_of(2) => {
            Command::ConfigSet { pairs: rest }
        }
        ((b"FUNCTION", b"FLUSH"), 0) => Command::FunctionFlush,
        ((b"PEER", b"HELLO"), _) => Command::PeerHello { words: rest },
        ((b"PEER", b"DIGESTS"), 0) => Command::PeerDigests { shard: None },
        ((b"PEER", b"DIGESTS"), 1) => Command::PeerDigests { shard: Some(index(rest.get(0))?) },
        ((b"PEER", b"VERSIONS"), words @ 2..=3) => {
            let (shard, bucket) = (index(rest.get(0))?, index(rest.get(1))?);
            Command::PeerVersions { shard, bucket, after: (words == 3).then(|| rest.get(2)) }
        }
        ((b"PEER", b"MERGE"), 1) => Command::PeerMerge { records: rest.get(0) },
        ((b"PEER", b"FORGET"), 1) => Command::PeerForget { peer: rest.get(0) },
        _ => {
            let name = String::from_utf8_lossy(words.get(0)).to_uppercase();
            let usage = row(words.get(0)).map_or("", |row| row.arguments);
            return Err(Error::refused(format!(
                "unknown subcommand or wrong number of arguments for '{}'. Try {name} {usage}",
                shortened(words.get(1))
            )));
        }
    })
}

fn scan(words: Words<'_>) -> Result<Command<'_>> {
    let cursor = number(words.get(0)).ok_or_else(|| Error::refused("invalid cursor"))?;
    let (mut matching, mut count) = (None, SCAN_COUNT);
    for index in (1..words.len()).step_by(2) {
        let option = words.get(index);
        let argument = (index + 1 < words.len()).then(|| words.get(index + 1));
        match (option.to_ascii_uppercase().as_slice(), argument) {
            (b"MATCH", Some(argument)) => matching = Some(pattern(argument)?),
            (b"COUNT", Some(argument)) => {
                count = number(argument).ok_or_else(not_a_number)?;
                if count == 0 {
                    return Err(Error::refused("syntax error: COUNT is at least 1"));
                }
            }
            (b"MATCH" | b"COUNT", None) => return Err(Error::refused("syntax error")),
            _ => return Err(unsupported_option(b"SCAN", option)),
        }
    }
    Ok(Command::Scan { cursor, pattern: matching, count })
}

/// Checks a key.
fn key(word: &[u8]) -> Result<&[u8]> {
    match word.len() {
        0 => Err(Error::refused("key is empty")),
        1..=KEY_BYTES_MAX => Ok(word),
        len => Err(Error::refused(format!("key too long: {len} bytes, at most {KEY_BYTES_MAX}"))),
    }
}

/// Checks a pattern for keys.
fn pattern(word: &[u8]) -> Result<&[u8]> {
    match word.len() {
        0..=PATTERN_BYTES_MAX => Ok(word),
        len => Err(Error::refused(format!(
            "pattern too long: {len} bytes, at most {PATTERN_BYTES_MAX}"
        ))),
    }
}

/// Checks every `step`-th word as a key.
fn keys(words: Words<'_>, step: usize) -> Result<Words<'_>> {
    words.iter().step_by(step).try_for_each(|word| key(word).map(drop))?;
    Ok(words)
}

/// Checks a value.
fn value(word: &[u8]) -> Result<&[u8]> {
    match word.len() {
        0..=VALUE_BYTES_MAX => Ok(word),
        len => {
            Err(Error::refused(format!("value too long: {len} bytes, at most {VALUE_BYTES_MAX}")))
        }
    }
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    // `parse` would take a sign.
    word.first().filter(|first| first.is_ascii_digit())?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// The number of a shard or bucket; the node checks how large it may be.
fn index(word: &[u8]) -> Result<usize> {
    number(word).ok_or_else(not_a_number)
}

fn not_a_number() -> Error {
    Error::refused("value is not an integer or out of range")
}

/// The name in capitals, as far as it can be a command's name.
fn upper_case<'u>(name: &[u8], upper: &'u mut [u8; NAME_BYTES_MAX]) -> &'u [u8] {
    let Some(upper) = upper.get_mut(..name.len()) else {
        return b"";
    };
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    upper
}

fn unsupported_option(command: &[u8], option: &[u8]) -> Error {
    let command = String::from_utf8_lossy(command).to_uppercase();
    Error::refused(format!(
        "syntax error: {command} has no option '{}' here, nothing was changed",
        shortened(option)
    ))
}

/// As Redis words it: Lettuce and Jedis look for `ERR unknown command`.
fn no_such_command(words: Words<'_>) -> Error {
    let name = words.get(0);
    if row(name).is_some() {
        let name = String::from_utf8_lossy(name).to_lowercase();
        return Error::refused(format!("wrong number of arguments for '{name}' command"));
    }
    let mut arguments = String::new();
    for word in words.from(1).iter() {
        if arguments.len() >= 128 {
            break;
        }
        arguments.push_str(&format!("'{}' ", shortened(word)));
    }
    Error::refused(format!(
        "unknown command '{}', with args beginning with: {arguments}",
        shortened(name)
    ))
}

/// A client's bytes for an error message: printable, at most 128 bytes of them.
fn shortened(word: &[u8]) -> String {
    String::from_utf8_lossy(&word[..word.len().min(128)])
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::words::Span;
    use super::*;

    /// Parses words written with spaces between them.
    fn parse(line: &str) -> Result<String> {
        let mut spans = Vec::new();
        let mut start = 0;
        for word in line.split(' ') {
            spans.push(Span::new(start, start + word.len()));
            start += word.len() + 1;
        }
        Command::parse(Words::new(line.as_bytes(), &spans)).map(|command| format!("{command:?}"))
    }

    #[test]
    fn every_row_of_the_table_is_understood() {
        for row in TABLE {
            let arguments = match row.name {
                "SCAN" => "0 MATCH a* COUNT 5",
                "WAIT" => "1 100",
                "CLIENT" => "ID",
                "CONFIG" => "GET *",
                "FUNCTION" => "FLUSH",
                "PEER" => "DIGESTS",
                "PUT" | "SET" | "MSET" => "k v",
                "INFO" | "COMMAND" | "HELLO" | "PING" => "",
                _ if row.arity == 1 || row.name == "QUIT" => "",
                _ => "k",
            };
            let line = format!("{} {arguments}", row.name.to_lowercase());
            assert!(parse(line.trim_end()).is_ok(), "{line}");
        }
    }

    #[test]
    fn the_wrong_number_of_words_is_said_as_redis_says_it() {
        for row in TABLE.iter().filter(|row| row.arity != -1) {
            let words = if row.arity > 0 { row.arity } else { -row.arity - 1 };
            let line = format!("{}{}", row.name, " x".repeat(words as usize));
            let line = if row.arity > 0 { line } else { row.name.to_string() };
            let result = parse(&line);
            let refused = result.is_err();
            assert!(refused, "{line}: {result:?}");
        }
        let message = parse("get").expect_err("GET takes a key").to_string();
        assert_eq!(message, "wrong number of arguments for 'get' command");
    }

    #[test]
    fn an_unknown_command_is_said_as_redis_says_it() {
        let message = parse("foo bar baz").expect_err("unknown").to_string();
        assert_eq!(message, "unknown command 'foo', with args beginning with: 'bar' 'baz' ");
        let long = "x".repeat(100_000);
        assert!(parse(&format!("{long} {long}")).expect_err("unknown").to_string().len() < 500);
    }

    #[test]
    fn an_option_we_do_not_have_is_named() {
        for (line, option) in [
            ("SET k v EX 10", "EX"),
            ("SET k v NX", "NX"),
            ("SCAN 0 TYPE string", "TYPE"),
            ("FLUSHALL ASYNC", "ASYNC"),
        ] {
            let message = parse(line).expect_err("no such option").to_string();
            assert!(message.contains(&format!("'{option}'")), "{message}");
        }
    }

    #[test]
    fn numbers_are_checked() {
        for line in [
            "SCAN -1",
            "SCAN x",
            "SCAN 0 COUNT 0",
            "SCAN 0 COUNT",
            "WAIT x 1",
            "WAIT 1 -1",
            "WAIT +1 1",
            "SCAN 18446744073709551616",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
