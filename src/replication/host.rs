//! What replication needs of the machine: clocks, and threads that drive conversations.

use std::fmt::Debug;
use std::time::Instant;

use super::conversation::EventualConversation;
use crate::config::Configuration;
use crate::error::Result;
use crate::locks::spawn;
use crate::peers::caller::Caller;
use crate::peers::wire::WireOptions;
use crate::peers::worker;
use crate::random::random_id;
use crate::store::version::wall_clock_ms;

/// The machine: a real one ([`Threads`]), or one that a test makes up.
pub trait Host: Debug + Send + Sync {
    /// A clock that only goes forward, in milliseconds.
    fn monotonic_ms(&self) -> u64;

    /// Milliseconds since 1970, as far as this machine knows.
    fn wall_ms(&self) -> u64;

    /// A random number.
    fn random(&self) -> u64;

    /// From now on, drives a conversation with a peer.
    fn start(&self, caller: Caller<EventualConversation>) -> Result<()>;
}

/// Real clocks, and a thread with a socket for each peer.
#[derive(Debug)]
pub struct Threads {
    began: Instant,
    wire: WireOptions,
}

impl Threads {
    /// Threads that connect as configured.
    pub fn new(configuration: &Configuration) -> Self {
        let wire = WireOptions {
            silence_max: configuration.limits.link_reply_timeout,
            password: configuration.passwords.first.clone(),
        };
        Threads { began: Instant::now(), wire }
    }
}

impl Host for Threads {
    fn monotonic_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn wall_ms(&self) -> u64 {
        wall_clock_ms()
    }

    fn random(&self) -> u64 {
        random_id()
    }

    fn start(&self, caller: Caller<EventualConversation>) -> Result<()> {
        let (wire, began) = (self.wire.clone(), self.began);
        let now_ms = move || began.elapsed().as_millis() as u64;
        let name = format!("link-{}", caller.peer().number);
        Ok(spawn(&name, move || worker::run(caller, &wire, now_ms))?)
    }
}
