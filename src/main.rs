//! The program: `kvstore server`, `client`, `bench` and `export`.

#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use kvstore::bench;
use kvstore::client::Client;
use kvstore::client::shell::{self, print};
use kvstore::error::{Error, Result};
use kvstore::export;
use kvstore::node::Node;
use kvstore::options::{BenchOptions, ClientOptions, ServerOptions, Target};
use kvstore::server::NodeServer;

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
    Server(ServerOptions),
    /// Talk to a node: at a prompt, from a pipe, or one command
    Client(ClientOptions),
    /// Put a server under load and measure it
    Bench(BenchOptions),
    /// Write a node's data to stdout as SET commands, for redis-cli --pipe
    Export(Target),
}

/// 0: fine, 1: failed, 2: the options cannot be used (clap exits with 2 for those it finds itself).
fn main() -> ExitCode {
    start_logging();
    let (title, result) = match parse_arguments() {
        Mode::Server(options) => ("Error starting server", run_server(options)),
        Mode::Client(options) => ("Error", run_client(options)),
        Mode::Bench(options) => ("Error", bench::run(&options).map(|()| true)),
        Mode::Export(target) => ("Error", run_export(&target).map(|()| true)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Somebody closed the pipe we print into: they have seen enough.
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let is_unreachable = matches!(error, Error::Unreachable(_));
            let way_out = if is_unreachable { ". Start a server with ./run_server.sh [port]" } else { "" };
            eprintln!("{title}: {error}{way_out}");
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Logs to stderr what `RUST_LOG` wants, each line with the name of its thread: the names of the table in
/// [`kvstore::node`].
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
    let command = Arguments::command().mut_subcommands(|mode| {
        mode.mut_args(|argument| {
            let empty = argument.get_env().is_some_and(|name| std::env::var_os(name) == Some(OsString::new()));
            if empty { argument.env(None::<&str>) } else { argument }
        })
    });
    let parsed = Arguments::from_arg_matches(&command.get_matches());
    parsed.unwrap_or_else(|error| error.exit()).mode
}

fn run_server(options: ServerOptions) -> Result<bool> {
    print(&format!("Starting node on port {}\n", options.port))?;
    let server = NodeServer::start(Node::open(options.into_configuration()?)?)?;
    print(&format!("Server started on port {}\n", server.address.port()))?;
    server.node.wait_for_shutdown();
    let limits = &server.node.configuration.limits;
    server.node.replication.drain(limits.shutdown_timeout);
    let closed = server.node.close();
    match &closed {
        Ok(()) => log::info!("stopped by SHUTDOWN"),
        Err(error) => log::error!("stopped by SHUTDOWN, but the last writes may be lost: {error}"),
    }
    Ok(closed.is_ok())
}

fn run_client(options: ClientOptions) -> Result<bool> {
    let mut client = connect(&options.target, options.also)?;
    if options.command.is_empty() {
        return shell::run(&mut client);
    }
    let words: Vec<Vec<u8>> = options.command.into_iter().map(OsString::into_encoded_bytes).collect();
    shell::run_once(&mut client, &words)
}

fn run_export(target: &Target) -> Result<()> {
    export::run(&mut connect(target, Vec::new())?, &mut io::stdout().lock())
}

fn connect(target: &Target, also: Vec<String>) -> Result<Client> {
    let addresses = std::iter::once(target.address()).chain(also).collect();
    Client::connect_any(addresses, target.password()?)
}
