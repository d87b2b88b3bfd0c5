//! # Agreeing at once: consensus
//!
//! (Chapter follows.)

pub mod changing;
pub mod election;
pub mod entry;
pub mod following;
pub mod leading;
pub mod log;
pub mod members;
pub mod messages;
pub mod proposing;
pub mod replica;
pub mod view;
