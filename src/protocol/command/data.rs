//! Commands that read or write keys.

use super::{not_a_number, number, unsupported_option};
use crate::config::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::glob::PATTERN_BYTES_MAX;
use crate::protocol::Words;

/// Reads or writes keys. Keys, values and patterns in it have an allowed length; `pairs` are keys
/// and values in turn.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // TABLE describes them, with their arguments.
pub enum DataCommand<'a> {
    Get { key: &'a [u8] },
    Put { key: &'a [u8], value: &'a [u8] },
    Delete { key: &'a [u8] },
    Del { keys: Words<'a> },
    MGet { keys: Words<'a> },
    MSet { pairs: Words<'a> },
    Exists { keys: Words<'a> },
    StrLen { key: &'a [u8] },
    Type { key: &'a [u8] },
    DbSize,
    Scan { cursor: u64, pattern: Option<&'a [u8]>, count: usize },
    Keys { pattern: &'a [u8] },
    FlushAll,
}

/// `SCAN` without `COUNT`, as in Redis.
const SCAN_COUNT: usize = 10;

/// The command of this name, which is in capitals; `None` for every other.
pub(super) fn parse<'a>(name: &[u8], words: Words<'a>) -> Result<Option<DataCommand<'a>>> {
    let rest = words.from(1);
    let word = |index| words.get(index);
    Ok(Some(match (name, words.len()) {
        (b"GET", 2) => DataCommand::Get { key: key(word(1))? },
        (b"SET" | b"PUT", 3) => DataCommand::Put { key: key(word(1))?, value: value(word(2))? },
        (b"SET" | b"PUT", 4..) => return Err(unsupported_option(word(0), word(3))),
        (b"DELETE", 2) => DataCommand::Delete { key: key(word(1))? },
        (b"DEL" | b"UNLINK", 2..) => DataCommand::Del { keys: keys(rest, 1)? },
        (b"MGET", 2..) => DataCommand::MGet { keys: keys(rest, 1)? },
        (b"MSET", 3..) if rest.len().is_multiple_of(2) => {
            rest.iter().skip(1).step_by(2).try_for_each(|word| value(word).map(drop))?;
            DataCommand::MSet { pairs: keys(rest, 2)? }
        }
        (b"EXISTS", 2..) => DataCommand::Exists { keys: keys(rest, 1)? },
        (b"STRLEN", 2) => DataCommand::StrLen { key: key(word(1))? },
        (b"TYPE", 2) => DataCommand::Type { key: key(word(1))? },
        (b"DBSIZE", 1) => DataCommand::DbSize,
        (b"SCAN", 2..) => scan(rest)?,
        (b"KEYS", 2) => DataCommand::Keys { pattern: pattern(word(1))? },
        (b"FLUSHALL" | b"FLUSHDB", 1) => DataCommand::FlushAll,
        (b"FLUSHALL" | b"FLUSHDB", 2) => return Err(unsupported_option(word(0), word(1))),
        _ => return Ok(None),
    }))
}

fn scan(words: Words<'_>) -> Result<DataCommand<'_>> {
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
    Ok(DataCommand::Scan { cursor, pattern: matching, count })
}

fn key(word: &[u8]) -> Result<&[u8]> {
    match word.len() {
        0 => Err(Error::refused("key is empty")),
        1..=KEY_BYTES_MAX => Ok(word),
        len => Err(Error::refused(format!("key too long: {len} bytes, at most {KEY_BYTES_MAX}"))),
    }
}

/// Checks every `step`-th word as a key.
fn keys(words: Words<'_>, step: usize) -> Result<Words<'_>> {
    words.iter().step_by(step).try_for_each(|word| key(word).map(drop))?;
    Ok(words)
}

fn value(word: &[u8]) -> Result<&[u8]> {
    at_most(VALUE_BYTES_MAX, "value", word)
}

/// A pattern for keys.
fn pattern(word: &[u8]) -> Result<&[u8]> {
    at_most(PATTERN_BYTES_MAX, "pattern", word)
}

fn at_most<'a>(max: usize, what: &str, word: &'a [u8]) -> Result<&'a [u8]> {
    let len = word.len();
    if len > max {
        return Err(Error::refused(format!("{what} too long: {len} bytes, at most {max}")));
    }
    Ok(word)
}
