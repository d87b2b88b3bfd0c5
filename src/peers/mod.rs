//! # Meeting: other nodes, whatever is agreed with them
//!
//! What two nodes need to talk, in either way to agree: who they are ([`introduction`],
//! [`identity`]), what they ask each other ([`requests`]), which of several connections of a node
//! counts ([`inbound`]), and how two stores are compared ([`comparison`], [`view`], [`versions`],
//! [`pace`], [`large`]).

pub mod comparison;
pub mod identity;
pub mod inbound;
pub mod introduction;
pub mod large;
pub mod pace;
pub mod requests;
pub mod runs;
pub mod versions;
pub mod view;
