//! `MULTI` on a server that executes no transactions.
//!
//! **The problem.** The default pipeline of several libraries is `MULTI`, commands, `EXEC`, sent
//! without reading a reply in between. It must fail as a whole, loudly, and change nothing. An
//! error at `MULTI` itself is not enough: phpredis and Predis do not expect one there and take
//! every later reply for that of another command.
//!
//! **The idea.** The conversation goes as with Redis, up to its end: `+OK`, `+QUEUED` for each
//! command, and `-EXECABORT` at `EXEC`. No command is kept, as none will be executed: a transaction
//! costs one flag, however long it is.

use super::session::Session;
use crate::error::{Code, Error, Result};
use crate::protocol::command::{NodeCommand, TransactionCommand};
use crate::protocol::{Command, Reply};

/// Why no transaction is executed, and what to do instead.
const NONE_EXECUTED: &str = "this server executes no transactions, and nothing was changed; \
                             send the commands without MULTI, as a plain pipeline";

/// Answers a command while a transaction is open.
///
/// `AUTH` and `HELLO` are queued, as in Redis. `QUIT` and `RESET` are executed instead.
pub fn inside<R: Reply>(command: &Command, session: &mut Session, reply: &mut R) -> Result<()> {
    match command {
        Command::Transaction(TransactionCommand::Exec) => {
            session.is_in_transaction = false;
            return Err(Error::refused_as(
                Code::TransactionAborted,
                format!("Transaction discarded: {NONE_EXECUTED}"),
            ));
        }
        Command::Transaction(TransactionCommand::Discard) => {
            session.is_in_transaction = false;
            reply.ok();
        }
        Command::Transaction(TransactionCommand::Multi) => {
            return Err(Error::refused("MULTI calls can not be nested"));
        }
        Command::Transaction(TransactionCommand::Watch) => {
            return Err(Error::refused("WATCH inside MULTI is not allowed"));
        }
        Command::Node(NodeCommand::Shutdown) => {
            return Err(Error::refused("Command not allowed inside a transaction"));
        }
        _ => reply.simple("QUEUED"),
    }
    Ok(())
}

/// Answers a command about transactions while none is open.
pub fn outside<R: Reply>(
    command: TransactionCommand,
    session: &mut Session,
    reply: &mut R,
) -> Result<()> {
    match command {
        TransactionCommand::Multi => session.is_in_transaction = true,
        TransactionCommand::Exec => return Err(Error::refused("EXEC without MULTI")),
        TransactionCommand::Discard => return Err(Error::refused("DISCARD without MULTI")),
        // A client that watches a key relies on `EXEC` to notice a change: refuse before it does
        // its work.
        TransactionCommand::Watch => {
            return Err(Error::refused(format!("WATCH is not supported: {NONE_EXECUTED}")));
        }
        // Nothing is ever watched.
        TransactionCommand::Unwatch => {}
    }
    reply.ok();
    Ok(())
}
