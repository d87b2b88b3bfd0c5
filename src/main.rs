//! The program: `kvstore server`, `client`, `bench` and `export`.

#![warn(clippy::unwrap_used, clippy::expect_used)]

use std::error::Error as _;
use std::ffi::OsString;
use std::io::{self, Write};
use std::num::{IntErrorKind, ParseIntError};
use std::process::ExitCode;
use std::thread;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use kvstore::client::Client;
use kvstore::client::shell::{self, complain, print};
use kvstore::error::{Error, Result};
use kvstore::node::Node;
use kvstore::options::{BenchOptions, ClientOptions, ExportOptions, ServerOptions};
use kvstore::server::NodeServer;
use kvstore::tools::{bench, export};

/// A distributed key-value store
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Run a node
    Server(Box<ServerOptions>),
    /// Talk to a node: at a prompt, from a pipe, or one command
    Client(ClientOptions),
    /// Put a server under load and measure it
    Bench(BenchOptions),
    /// Write a node's data to stdout as SET commands, for redis-cli --pipe
    Export(ExportOptions),
}

/// 0: fine, 1: failed, 2: the options cannot be used (clap exits with 2 for those it finds itself).
fn main() -> ExitCode {
    start_logging();
    let (title, result) = match parse_arguments() {
        Mode::Server(options) => ("Error starting server", run_server(options)),
        Mode::Client(options) => ("Error", run_client(options)),
        Mode::Bench(options) => ("Error", bench::run(&options).map(|()| true)),
        Mode::Export(options) => {
            ("Error", export::run(&options, &mut io::stdout().lock()).map(|()| true))
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Somebody closed the pipe we print into: they have seen enough.
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{title}: {error}"));
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Logs to stderr what `RUST_LOG` wants, each line with the name of its thread: the names of the
/// table in [`kvstore::node`].
fn start_logging() {
    let default = env_logger::Env::default().default_filter_or("info");
    let mut builder = env_logger::Builder::from_env(default);
    builder.format(|out, record| {
        let (time, thread) = (out.timestamp_millis(), thread::current());
        let (thread, level) = (thread.name().unwrap_or("unnamed"), record.level());
        writeln!(out, "[{time} {thread} {level:<5} {}] {}", record.target(), record.args())
    });
    builder.init();
}

/// Reads the command line. A variable that is set to nothing counts as not set, so that scripts and
/// container files can pass variables on without asking whether they have them.
fn parse_arguments() -> Mode {
    let mut command = Arguments::command().mut_subcommands(|mode| {
        mode.mut_args(|argument| {
            let empty = argument
                .get_env()
                .is_some_and(|name| std::env::var_os(name) == Some(OsString::new()));
            let argument = if empty { argument.env(None::<&str>) } else { argument };
            // So that -5 is a wrong value of its option, and no unknown option.
            let takes_text = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
            argument.allow_negative_numbers(takes_text)
        })
    });
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = parsed.and_then(|matches| Arguments::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| explained(error, &mut command).exit()).mode
}

/// An error of the command line with the name of the variable that a wrong value came from, and in
/// plain words.
fn explained(mut error: clap::Error, command: &mut clap::Command) -> clap::Error {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg).cloned() else {
        return error;
    };
    let flag = argument.split([' ', '=']).next().unwrap_or_default();
    let is_written =
        std::env::args_os().any(|word| word.to_string_lossy().split('=').next() == Some(flag));
    let variable = variable_of(command, flag).filter(|_| !is_written);
    let reason =
        error.source().and_then(|source| source.downcast_ref::<ParseIntError>()).map(|reason| {
            match reason.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "too large a number",
                _ => "not a whole number",
            }
        });
    if let (Some(reason), Some(value)) = (reason, error.get(ContextKind::InvalidValue)) {
        let argument = variable.unwrap_or(argument);
        return command
            .error(error.kind(), format!("invalid value '{value}' for '{argument}': {reason}"));
    }
    if let Some(variable) = variable {
        error.insert(ContextKind::InvalidArg, ContextValue::String(variable));
    }
    error
}

/// The variable in place of an option such as `--fsync`, if it is set.
fn variable_of(command: &clap::Command, flag: &str) -> Option<String> {
    let mut arguments = command.get_subcommands().flat_map(|mode| mode.get_arguments());
    let argument = arguments
        .find(|other| other.get_long().is_some() && other.get_long() == flag.strip_prefix("--"))?;
    let name = argument.get_env().filter(|name| std::env::var_os(name).is_some())?;
    Some(format!("{}, a variable of the environment", name.display()))
}

fn run_server(options: Box<ServerOptions>) -> Result<bool> {
    print(&format!("Starting node on port {}\n", options.configuration.port))?;
    let server = NodeServer::start(Node::open(options.into_configuration()?)?)?;
    print(&format!("Server started on port {}\n", server.address.port()))?;
    server.node.wait_for_shutdown();
    let closed = server.stop();
    match &closed {
        Ok(()) => log::info!("stopped by SHUTDOWN"),
        Err(error) => log::error!("stopped by SHUTDOWN, but the last writes may be lost: {error}"),
    }
    Ok(closed.is_ok())
}

fn run_client(options: ClientOptions) -> Result<bool> {
    let words: Vec<Vec<u8>> =
        options.command.into_iter().map(OsString::into_encoded_bytes).collect();
    if let Some(usage) = shell::usage(&words) {
        return Err(Error::Usage(format!("wrong number of words. Usage: {usage}")));
    }
    let addresses = std::iter::once(options.target.address()).chain(options.also).collect();
    let mut client = Client::connect_any(
        addresses,
        options.target.password()?,
        options.target.silence_timeout(),
    )?;
    if words.is_empty() { shell::run(&mut client) } else { shell::run_once(&mut client, &words) }
}
