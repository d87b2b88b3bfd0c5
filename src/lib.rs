//! # A distributed key-value store to read in an afternoon and to run for real
//!
//! **What it is.** A server that keeps keys and values, bytes to bytes, and answers on one port in
//! three languages: text lines, for people and scripts; RESP, which every Redis library speaks; and
//! HTTP, for browsers and `curl`. It is synchronous: a thread for each connection, blocking
//! sockets, a `Mutex` around a `HashMap`, and nothing but `std` and four small packages.
//!
//! **What it is not.** No transactions, no expiry, no data types but strings; not linearizable.
//! Each chapter ends with what it leaves out and where to read about it.
//!
//! # The way of a request
//!
//! ```text
//!            ┌──────────── one thread for each client ────────────┐
//!  client ─► │ transport ─► protocol ─► execute ───► node ────────┼──► store: lock one shard,
//!            │  bytes       Command                   the only    │      stamp the version,
//!            │                                        door for    │      merge into the map,
//!            │                                        writes ─────┼─┐    append it to the log's buffer
//!  client ◄─ │ transport ◄─ Reply ◄─── commit ◄───────────────────┼─│► durability: write the buffer, fsync
//!            └─────────────────────────────────────────────────────┘ │
//!                                                                   └► replication: the key into each link's queue
//!    peer ◄─────── one worker thread for each peer: what the key is now ◄───┘
//! ```
//!
//! Arrows go one way. `store` imports nothing but `error`; `protocol` knows no store; `server` and
//! `web` know the node, never what is behind it; `durability` and `replication` do not know each
//! other: the node introduces them.
//!
//! # Reading order
//!
//! 1. [`protocol`], talking: bytes become a command, results become bytes.
//! 2. [`server`], serving: threads, sockets, limits, and what each command does.
//! 3. [`client`], asking: a connection that breaks, and the prompt.
//! 4. [`store`], remembering: shards, versions, merge, digests.
//! 5. [`durability`], surviving: the log, recovery, snapshots.
//! 6. [`peers`], meeting: introductions, connections, and what two stores differ in.
//!    [`replication`], agreeing: links, members, and when a delete may be forgotten.
//! 7. [`node`]: the owner of everything, the thread table and the locks; [`stopping`]: its gentle
//!    end.
//! 8. [`web`], watching: the page, REST, health and metrics, and how a browser is kept from being a
//!    way in.
//! 9. [`guard`], what strangers may take, and what becomes of their words.
//! 10. [`tools`]: how fast a server is and how long its clients wait; the way out for the data.
//!
//! Beside them: [`options`] is the command line, with [`passwords`] and [`sizes`], [`config`] has
//! every limit with its reason, [`error`] every way to fail, [`metrics`] what is counted and timed,
//! [`locks`] how threads take a lock and wait for an event.
//! In each directory read `mod.rs` first. [`mod@book`] has the reference for users, a page for each
//! theme.

#![warn(clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod addresses;
#[cfg(doc)]
pub mod book;
pub mod client;
pub mod config;
pub mod durability;
pub mod error;
pub mod glob;
pub mod guard;
pub mod locks;
pub mod metrics;
pub mod node;
pub mod options;
pub mod passwords;
pub mod peers;
pub mod protocol;
pub mod random;
pub mod replication;
pub mod server;
pub mod sizes;
pub mod stopping;
pub mod store;
pub mod tools;
pub mod web;
