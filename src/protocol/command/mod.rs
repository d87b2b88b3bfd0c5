//! What a request asks for: words become a [`Command`].
//!
//! Commands come in five groups, and each group is executed in one place, which matches all of its
//! commands: the data ([`DataCommand`]), the node ([`NodeCommand`]), the connection
//! ([`SessionCommand`]), transactions ([`TransactionCommand`]) and what nodes say to each other
//! ([`PeerCommand`]).
//!
//! [`Command::parse`] is the one place where words get a meaning. Refusals are worded as Redis
//! words them, because client libraries look at the text.

mod data;
mod session;
mod table;

pub use data::DataCommand;
pub use session::{NodeCommand, PeerCommand, SessionCommand, TransactionCommand};
pub use table::{KeyPositions, Row, TABLE, row};

use super::Words;
use crate::error::{Error, Result};

/// One request. Everything in it is borrowed from the read buffer.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// Reads or writes keys.
    Data(DataCommand<'a>),
    /// About the node.
    Node(NodeCommand<'a>),
    /// About the connection.
    Session(SessionCommand<'a>),
    /// About transactions, which are not executed here.
    Transaction(TransactionCommand),
    /// From another node.
    Peer(PeerCommand<'a>),
}

impl<'a> Command<'a> {
    /// The command that these words are: the name in whatever case, then its arguments.
    pub fn parse(words: Words<'a>) -> Result<Command<'a>> {
        let mut upper = [0; NAME_BYTES_MAX];
        let name = upper_case(words.get(0), &mut upper);
        // The everyday commands first.
        if let Some(command) = data::parse(name, words)? {
            return Ok(Command::Data(command));
        }
        session::parse(name, words)?.ok_or_else(|| no_such_command(words))
    }

    /// Whether the command may be used before the password was given.
    pub fn allowed_without_password(&self) -> bool {
        matches!(
            self,
            Command::Session(
                SessionCommand::Auth { .. }
                    | SessionCommand::Hello { .. }
                    | SessionCommand::Quit
                    | SessionCommand::Reset
            )
        )
    }

    /// Whether the command may be used before the node serves clients: it shows no data to one.
    pub fn is_for_peers(&self) -> bool {
        matches!(self, Command::Peer(_)) || self.allowed_without_password()
    }
}

/// Longer than every name; a longer word is an unknown command anyway.
const NAME_BYTES_MAX: usize = 16;

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    // `parse` would take a sign.
    word.first().filter(|first| first.is_ascii_digit())?;
    std::str::from_utf8(word).ok()?.parse().ok()
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
