//! # A distributed key-value store to read in an afternoon and to run for real
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod client;
pub mod config;
pub mod error;
pub mod metrics;
pub mod node;
pub mod protocol;
pub mod server;
pub mod store;
