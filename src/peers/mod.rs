//! # Meeting: other nodes, whatever is agreed with them
//!
//! **The problem.** A node talks with each other node: it finds the peer, says who it is, asks, and
//! waits. Connections break, fall silent, or are answered by somebody else. None of that depends on
//! what the nodes agree on, or how.
//!
//! **The idea.** What is said to a peer is a [`conversation::Conversation`]. It decides the next
//! requests and takes their replies. [`caller`] decides everything around it: when the peer is
//! called, at which address, and what follows a failure. Both are plain code: times are arguments,
//! and nothing waits. [`worker`] adds a thread and a socket to a caller. Tests add their own
//! network instead (`tests/simulation`). Each way to agree brings its own conversation.
//!
//! **The rules.**
//! - One thread for each peer, one connection, one exchange at a time: requests that were sent
//!   together, then all their replies. Nobody waits with unread replies, so two nodes cannot block
//!   each other.
//! - A slow peer is not a dead one. An exchange fails after a time without a sign of life, however
//!   long it takes as a whole ([`wire`]).
//! - A node's HELLO ends its older connections here. Nothing more is merged from them
//!   ([`inbound`]).
//! - Nothing that a peer says is believed beyond its limits ([`introduction`], [`requests`]).
//! - Two stores are compared by digests, so a comparison costs what differs, and not what is stored
//!   ([`comparison`]).
//! - Nothing here imports a way to agree.
//!
//! **What is left out.** Connections are not encrypted. A peer has one connection, so a large batch
//! delays what comes after it.
//!
//! Files: [`identity`] and [`introduction`] say who a node is, [`runs`] notices one that runs
//! twice, [`status`] is what others see of a peer, [`refused`] who may not be one, [`cuts`] whom
//! `PARTITION` hides. [`view`], [`versions`], [`pace`] and [`large`] serve the comparison.

pub mod caller;
pub mod comparison;
pub mod conversation;
pub mod cuts;
pub mod identity;
pub mod inbound;
pub mod introduction;
pub mod large;
pub mod pace;
pub mod refused;
pub mod requests;
pub mod runs;
pub mod status;
pub mod versions;
pub mod view;
pub mod wire;
pub mod worker;
