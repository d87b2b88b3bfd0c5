//! Commands about the connection, most of which libraries send before they work: `HELLO`, `AUTH`,
//! `CLIENT`, `COMMAND`, `CONFIG`.
//!
//! Libraries send these on every connect, and several cannot live with an error: redis-py 8 and
//! node-redis 6 need a real `HELLO 3`, ioredis needs `INFO`, `redis-cli` shows `COMMAND DOCS` as
//! hints.

use std::time::Duration;

use crate::config::{REDIS_VERSION, VALUE_BYTES_MAX};
use crate::error::{Code, Error, Result};
use crate::glob;
use crate::guard::shown;
use crate::node::Node;
use crate::protocol::command::{Row, SessionCommand, TABLE, row};
use crate::protocol::{Reply, Words};

use super::session::{Outcome, Session};

/// Executes a command that is about the connection.
pub fn execute<R: Reply>(
    command: SessionCommand,
    node: &Node,
    session: &mut Session,
    reply: &mut R,
) -> Result<Outcome> {
    match command {
        SessionCommand::Ping { message: None } => reply.simple("PONG"),
        SessionCommand::Ping { message } => reply.value(message),
        SessionCommand::Echo { message } => reply.value(Some(message)),
        SessionCommand::Wait { peers, timeout_ms } => {
            return Ok(Outcome::Wait { peers, timeout_ms });
        }
        SessionCommand::Auth { user, password } => {
            authenticate(user, password, node, session)?;
            reply.ok();
        }
        SessionCommand::Hello { version, options } => {
            hello(version, options, node, session, reply)?;
        }
        SessionCommand::ClientSetInfo | SessionCommand::FunctionFlush => reply.ok(),
        SessionCommand::ClientSetName { name } => {
            session.name = checked_name(name)?;
            reply.ok();
        }
        SessionCommand::ClientGetName => {
            reply.value(Some(&session.name).filter(|name| !name.is_empty()).map(Vec::as_slice))
        }
        SessionCommand::ClientId => reply.integer(session.id as i64),
        SessionCommand::CommandCount => reply.integer(TABLE.len() as i64),
        SessionCommand::CommandInfo { names } => command_info(names, reply),
        SessionCommand::CommandDocs { names } => command_docs(names, reply),
        SessionCommand::ConfigGet { patterns } => config_get(patterns, node, session, reply),
        SessionCommand::ConfigSet { pairs } => {
            config_set(pairs, &settings(node, session))?;
            reply.ok();
        }
        SessionCommand::Select { index: b"0" } => reply.ok(),
        SessionCommand::Select { .. } => return Err(Error::refused("DB index is out of range")),
        SessionCommand::ReadOnly { is_on } => {
            session.batch.is_read_only = is_on;
            reply.ok();
        }
        SessionCommand::Quit => {
            reply.ok();
            return Ok(Outcome::Close);
        }
        SessionCommand::Reset => {
            session.reset(node);
            reply.set_version(2);
            reply.simple("RESET");
        }
    }
    Ok(Outcome::Continue)
}

fn authenticate(
    user: Option<&[u8]>,
    password: &[u8],
    node: &Node,
    session: &mut Session,
) -> Result<()> {
    let has_password = node.configuration.passwords.is_set();
    if !has_password && user.is_none() {
        return Err(Error::refused(
            "AUTH <password> called without any password configured for the default user. Are you \
             sure your configuration is correct?",
        ));
    }
    // As in Redis, the default user of a server without a password takes any. Another user has no
    // password.
    let is_default = user.is_none_or(|user| user == b"default");
    let password = if is_default { password } else { b"" };
    let is_right = if has_password { check_password(password, node, session)? } else { is_default };
    if is_right {
        return Ok(());
    }
    Err(Error::refused_as(
        Code::WrongPassword,
        "invalid username-password pair or user is disabled.",
    ))
}

/// Compares a password when it is the turn of the client's address. From a right one on the client
/// is trusted.
pub fn check_password(password: &[u8], node: &Node, session: &mut Session) -> Result<bool> {
    let attempts = &node.guard.attempts;
    let turn = session.client.map_or(Some(Duration::ZERO), |client| attempts.turn(client));
    if !turn.is_some_and(|wait| session.wait_for_turn(wait)) {
        return Err(Error::refused_as(
            Code::WrongPassword,
            "too many wrong passwords from this address, this one was not looked at; try again in \
             a few seconds",
        ));
    }
    let is_right = node.is_password(password);
    match session.client {
        Some(client) if is_right => attempts.succeeded(client),
        Some(client) => attempts.failed(client),
        None => {}
    }
    if is_right {
        session.trust();
    }
    Ok(is_right)
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`: nothing changes unless all of it is
/// right.
fn hello<R: Reply>(
    version: Option<&[u8]>,
    options: Words,
    node: &Node,
    session: &mut Session,
    reply: &mut R,
) -> Result<()> {
    let version = match version {
        None => session.resp_version,
        Some(b"2") => 2,
        Some(b"3") => 3,
        Some(other) if other.iter().all(u8::is_ascii_digit) => {
            return Err(Error::refused_as(Code::NoSuchVersion, "unsupported protocol version"));
        }
        Some(_) => {
            return Err(Error::refused("Protocol version is not an integer or out of range"));
        }
    };
    let (mut credentials, mut name, mut index) = (None, None, 0);
    while index < options.len() {
        let left = options.len() - index;
        match options.get(index).to_ascii_uppercase().as_slice() {
            b"AUTH" if left >= 3 => {
                credentials = Some((options.get(index + 1), options.get(index + 2)));
                index += 3;
            }
            b"SETNAME" if left >= 2 => {
                name = Some(checked_name(options.get(index + 1))?);
                index += 2;
            }
            _ => {
                let option = shown(options.get(index));
                return Err(Error::refused(format!("Syntax error in HELLO option '{option}'")));
            }
        }
    }
    if let Some((user, password)) = credentials {
        authenticate(Some(user), password, node, session)?;
    }
    if !session.authenticated {
        return Err(Error::refused_as(
            Code::NoPassword,
            "HELLO must be called with the client already authenticated, otherwise the HELLO \
             <proto> AUTH <user> <pass> option can be used to authenticate the client and select \
             the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        session.name = name;
    }
    session.resp_version = version;
    reply.set_version(version);
    reply.map(7);
    let text = |reply: &mut R, name: &str, value: &str| {
        reply.value(Some(name.as_bytes()));
        reply.value(Some(value.as_bytes()));
    };
    text(reply, "server", "kvstore");
    text(reply, "version", REDIS_VERSION);
    reply.value(Some(b"proto"));
    reply.integer(i64::from(version));
    reply.value(Some(b"id"));
    reply.integer(session.id as i64);
    text(reply, "mode", "standalone");
    text(reply, "role", "master");
    reply.value(Some(b"modules"));
    reply.array(0);
    Ok(())
}

/// A connection's name: printable, without spaces, as in Redis; at most 256 bytes.
fn checked_name(name: &[u8]) -> Result<Vec<u8>> {
    if name.len() <= 256 && name.iter().all(u8::is_ascii_graphic) {
        return Ok(name.to_vec());
    }
    Err(Error::refused(
        "Client names cannot contain spaces, newlines or special characters, and have at most 256 \
         bytes",
    ))
}

/// A row in the form of `COMMAND INFO`: name, arity, flags, first key, last key, step, categories,
/// and three lists that stay empty (tips, key specifications, subcommands). Clients index these ten
/// blindly.
fn write_row<R: Reply>(row: &Row, reply: &mut R) {
    reply.array(10);
    reply.value(Some(row.name.to_lowercase().as_bytes()));
    reply.integer(row.arity);
    reply.array(1);
    reply.simple(if row.writes { "write" } else { "readonly" });
    reply.integer(row.keys.first);
    reply.integer(row.keys.last);
    reply.integer(row.keys.step);
    reply.array(1);
    reply.simple(if row.writes { "@write" } else { "@read" });
    (0..3).for_each(|_| reply.array(0));
}

fn command_info<R: Reply>(names: Words, reply: &mut R) {
    if names.is_empty() {
        reply.array(TABLE.len());
        TABLE.iter().for_each(|row| write_row(row, reply));
        return;
    }
    reply.array(names.len());
    for name in names.iter() {
        match row(name) {
            Some(row) => write_row(row, reply),
            None => reply.value(None),
        }
    }
}

fn command_docs<R: Reply>(names: Words, reply: &mut R) {
    let rows: Vec<&Row> = if names.is_empty() {
        TABLE.iter().collect()
    } else {
        names.iter().filter_map(row).collect()
    };
    reply.map(rows.len());
    for row in rows {
        reply.value(Some(row.name.to_lowercase().as_bytes()));
        let has_arguments = usize::from(!row.arguments.is_empty());
        reply.map(2 + has_arguments);
        let group = if row.keys.step > 0 { "string" } else { "server" };
        for text in ["summary", row.summary, "group", group] {
            reply.value(Some(text.as_bytes()));
        }
        if has_arguments == 1 {
            // One argument with the whole text: `redis-cli` shows it as a hint.
            reply.value(Some(b"arguments"));
            reply.array(1);
            reply.map(2);
            for text in ["name", row.arguments, "type", "string"] {
                reply.value(Some(text.as_bytes()));
            }
        }
    }
}

/// What `CONFIG GET` shows: the names that clients and tools ask for.
fn settings(node: &Node, session: &Session) -> Vec<(&'static str, String)> {
    let configuration = &node.configuration;
    vec![
        ("appendfsync", configuration.fsync.name().replace("never", "no")),
        ("appendonly", if node.is_durable() { "yes" } else { "no" }.into()),
        ("bind", configuration.bind.to_string()),
        ("databases", "1".into()),
        ("maxclients", configuration.connections_max.to_string()),
        ("maxmemory", "0".into()),
        ("port", session.address.port().to_string()),
        ("proto-max-bulk-len", VALUE_BYTES_MAX.to_string()),
        ("save", String::new()),
        ("timeout", configuration.idle_timeout.as_secs().to_string()),
    ]
}

fn config_get<R: Reply>(patterns: Words, node: &Node, session: &Session, reply: &mut R) {
    let patterns: Vec<_> = patterns.iter().map(<[u8]>::to_ascii_lowercase).collect();
    let mut found = settings(node, session);
    found
        .retain(|(name, _)| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes())));
    reply.map(found.len());
    for (name, value) in found {
        reply.value(Some(name.as_bytes()));
        reply.value(Some(value.as_bytes()));
    }
}

/// Settings change only at a start; saying what is already so is fine.
fn config_set(pairs: Words, settings: &[(&str, String)]) -> Result<()> {
    for index in (0..pairs.len()).step_by(2) {
        let name = String::from_utf8_lossy(pairs.get(index)).to_lowercase();
        let Some((_, value)) = settings.iter().find(|(known, _)| *known == name) else {
            return Err(Error::refused(format!(
                "Unknown option or number of arguments for CONFIG SET - '{name}'"
            )));
        };
        if value.as_bytes() != pairs.get(index + 1) {
            return Err(Error::refused(format!(
                "CONFIG SET failed - '{name}' is '{value}' and changes only at a start"
            )));
        }
    }
    Ok(())
}
