//! # A distributed key-value store to read in an afternoon and to run for real
//!
//! **What it is.** A server that keeps keys and values, bytes to bytes, and answers on one port in
//! three languages: text lines, for people and scripts; RESP, which every Redis library speaks; and
//! HTTP, for browsers and `curl`. It is synchronous: a thread for each connection, blocking
//! sockets, a `Mutex` around a `HashMap`, and nothing but `std` and four small packages.
//!
//! **What it is not.** No transactions, no expiry, no data types but strings; linearizable only
//! with `--raft`. Each chapter ends with what it leaves out and where to read about it.
//!
//! # The way of a request
//!
//! ```text
//!           ┌─────────── one thread for each client ───────────┐
//! client ─► │ transport ─► protocol ─► execute ─► node         │
//!           │   bytes      Command                admit ───────┼─► store: lock one shard,
//!           │                                                  │   stamp the version, merge
//!           │                                                  │   ├─► durability: append to log
//!           │                                                  │   └─► replication: queue the key
//!           │                                                  │       for each link
//! client ◄─ │ transport ◄─ Reply ◄─────────────── commit ◄─────┼──── durability: write, fsync
//!           └──────────────────────────────────────────────────┘
//!   peer ◄──── one worker thread for each peer: what the key is now
//! ```
//!
//! # Reading order
//!
//! 1. [`protocol`], talking: bytes become a command, results become bytes.
//! 2. [`node`], the owner of everything: how a request is admitted and settled, the thread table
//!    and the locks. [`stopping`] is its gentle end.
//! 3. [`server`], serving: threads, sockets, and what each command does.
//! 4. [`store`], remembering: shards, versions, merge, digests.
//! 5. [`durability`], surviving: the log, recovery, snapshots.
//! 6. [`client`], asking: a connection that breaks, and the prompt.
//! 7. [`peers`], meeting: introductions, connections, and what two stores differ in.
//! 8. [`replication`], agreeing: links, members, and when a delete may be forgotten.
//! 9. [`consensus`], agreeing at once, with `--raft`: a leader, a log, a majority.
//! 10. [`web`], watching: the page, REST, health and metrics, and how a browser is kept from being
//!     a way in.
//! 11. [`guard`]: what strangers may take, and what becomes of their words.
//! 12. [`tools`]: how fast a server is and how long its clients wait; the way out for the data.
//!
//! Beside them: [`options`] is the command line, [`config`] what it becomes, [`error`] every way to
//! fail, [`metrics`] what is counted and timed, [`locks`] how threads take a lock and wait for an
//! event. In each directory read `mod.rs` first. [`mod@book`] has the reference for users, a page
//! for each theme.
//!
//! # Who may import whom
//!
//! Each row imports only rows above it, so there are no circles. `tests/arrows.rs` reads this table
//! and the `use` lines of every file. The first six rows are helpers that every chapter may import.
//!
//! | module | may import |
//! |---|---|
//! | `addresses`, `error`, `glob`, `locks`, `random`, `sizes` | nothing |
//! | `metrics` | `locks` |
//! | `passwords` | `error` |
//! | `config` | `addresses`, `passwords`, `sizes` |
//! | `guard` | `error`, `locks`, `metrics` |
//! | `stopping` | `error`, `locks` |
//! | `store` | helpers |
//! | `protocol` | helpers |
//! | `durability` | `store` |
//! | `client` | `protocol` |
//! | `peers` | `client`, `protocol`, `store` |
//! | `replication` | `peers`, `store` |
//! | `consensus` | `durability`, `peers`, `store` |
//! | `node` | `consensus`, `durability`, `peers`, `replication`, `store` |
//! | `web` | `node`, `protocol` |
//! | `server` | `node`, `protocol`, `web` |
//! | `options` | helpers |
//! | `tools` | `client`, `options`, `protocol` |
//!
//! So `server` and `web` know the node and nothing behind it, and `durability` and `replication` do
//! not know each other: the node introduces them.
//!
//! # What is public
//!
//! `main.rs` and the tests in `tests/` see only what is `pub` here. Besides what they run (`node`,
//! `server`, `client`, `tools`, `options` and what those show), six modules are public for tests
//! that drive their insides: `store`, `peers`, `replication` and `consensus` for the simulations
//! and the tests of messages, `protocol` for the tests of its parsers, `random` for all of them.
//! All else is private to the crate, so that the compiler finds what nobody uses.

// The documentation shows private items too: see `.cargo/config.toml`.
#![allow(rustdoc::private_intra_doc_links)]
#![warn(clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub(crate) mod addresses;
#[cfg(doc)]
pub mod book;
pub mod client;
pub mod config;
pub mod consensus;
pub(crate) mod durability;
pub mod error;
pub(crate) mod glob;
pub mod guard;
pub(crate) mod locks;
pub mod metrics;
pub mod node;
pub mod options;
pub mod passwords;
pub mod peers;
pub mod protocol;
pub mod random;
pub mod replication;
pub mod server;
pub(crate) mod sizes;
pub(crate) mod stopping;
pub mod store;
pub mod tools;
pub(crate) mod web;
