//! Checks that what clients saw is linearizable, and drives clients that see it.
//!
//! **The property.** A history is linearizable if each operation can be given one moment between
//! its start and its end so that a single map, carrying out the operations at these moments, gives
//! the results that clients saw (Herlihy and Wing, "Linearizability: A Correctness Condition for
//! Concurrent Objects", 1990). An operation that ended before another started comes before it.
//! Operations that overlap may come in either order. Linearizability is local (section 3.3 there):
//! a history of many keys has it exactly if the history of each key has it. So each key is checked
//! by itself.
//!
//! **Outcomes.** A client does not always learn what happened. [`Outcome::Dropped`] is an operation
//! that certainly did not happen; the checks leave it out. [`Outcome::Unknown`] is one that may
//! happen at any moment after its start, also long after the client gave up, or never.
//!
//! **Two methods.** Deciding linearizability is NP-complete in general (Gibbons and Korach,
//! "Testing Shared Memories", 1997). Two cases are quick:
//!
//! - [`zones`]: if each value is put once, each read names the write that it saw. The write of a
//!   value and all its reads form a *cluster*, and in a linearization a cluster is one piece: after
//!   the write and before the last read there is no other write. Let *f* be the earliest end in a
//!   cluster and *s* the latest start. Cluster A must come before cluster B if an operation of A
//!   ended before one of B started, that is if *f* of A < *s* of B. The history is linearizable
//!   exactly if no read ended before its write started and no two clusters must each come before
//!   the other. If *f* < *s*, the value is certainly there between *f* and *s*: a *forward zone*.
//!   Otherwise all operations of the cluster overlap in a *backward zone* from *s* to *f*, and the
//!   cluster fits at any moment in it. So a contradiction is two forward zones that overlap, or a
//!   backward zone inside a forward one. Sorting finds both in O(n log n) steps (section 4.2 of the
//!   paper).
//! - [`search`]: with deletes, a reply does not say which write it saw. The search tries the orders
//!   that are possible (Wing and Gong, "Testing and Verifying Concurrent Objects", 1993). It goes
//!   through starts and ends by time and keeps the *frontier*: every combination of a value and a
//!   set of unfinished operations that have happened already. Two ways to the same combination
//!   become one (Lowe, "Testing for Linearizability", 2017, who also gives operations their moment
//!   only when one must end). When nothing is under way, the sets are empty and only values are
//!   left; so the work depends on how many operations overlap, not on the history's length.
//!
//! [`History::check`] chooses the method for each key. A [`Violation`] names the key and the
//! operations that contradict each other, with their times.
//!
//! **Real processes.** [`drive`] runs client threads that put and get over TCP, and records what
//! they see in a [`Recorder`]. [`Session`] is one such client, for tests that need one by itself.
#![allow(dead_code, unused_imports)] // Each test target uses its part.

mod clients;
mod history;
mod recorder;
mod search;
mod zones;

pub use clients::{EndOnDrop, Load, Session, drive};
pub use history::{Event, History, Operation, Outcome, Value, Violation};
pub use recorder::Recorder;
pub use search::search;
pub use zones::zones;
