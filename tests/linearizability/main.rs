//! The checker of histories checked: against brute force, with planted faults, for speed, and on
//! real servers.

mod brute_force;
#[path = "../common/mod.rs"]
mod common;
mod generated;
#[path = "mod.rs"]
mod linearizability;
mod planted;
mod processes;
