//! A load generator: how fast is a server, and how long do its clients wait?
//!
//! **Two kinds of load, two questions.** *Closed*: each connection sends its next requests when it
//! has the replies to the last. This finds the highest throughput. Its latencies say little,
//! because a server that stalls also stops the requests. *Fixed rate* (`--rate`): requests are due
//! at fixed times, whatever the server does, and latency counts from the time a request was *due*.
//! So every request that a stall delayed shows the stall. (Leaving them out is called coordinated
//! omission: Gil Tene, "How NOT to Measure Latency".)
//!
//! **Threads.** One thread makes a closed load: it polls its connections in turn and never blocks
//! on one of them, as `redis-benchmark` does. On one machine a thread per connection would take
//! the server's processor. At a fixed rate each connection has a thread, so that none waits for
//! another's reply.
//!
//! **What is left out.** Skewed keys, other commands, several machines: use `memtier_benchmark` or
//! YCSB.
//!
//! Files: `requests` is what is sent and what must come back, `connection` carries it, `load` is
//! one round, `table` prints all rounds.

mod connection;
mod load;
mod requests;
mod table;

use crate::client::shell::print;
use crate::error::Result;
use crate::options::BenchOptions;
use connection::Connection;
use requests::{Kind, Requests};
use table::Measured;

/// Loads the server, prints the table.
pub fn run(options: &BenchOptions) -> Result<()> {
    let requests = Requests::new(options);
    let password = options.target.password()?;
    let connect = |address: &str| {
        Connection::open(address, password.as_deref(), options.target.silence_timeout())
    };
    let addresses: Vec<String> =
        [options.target.address()].into_iter().chain(options.compare.clone()).collect();
    for address in &addresses {
        fill(&mut connect(address)?, &requests, options)?;
    }
    let rounds = options.rounds.unwrap_or(if options.compare.is_some() { 5 } else { 1 });
    let mut servers: Vec<[Measured; 2]> = addresses.iter().map(|_| Default::default()).collect();
    for round in 1..=rounds {
        for (address, kinds) in addresses.iter().zip(&mut servers) {
            let connections = (0..options.connections).map(|_| connect(address));
            let connections = connections.collect::<Result<Vec<_>>>()?;
            let title = format!("{address}, round {round} of {rounds}");
            load::round(options, &requests, connections, &title, kinds)?;
        }
    }
    print(&table::table(options, rounds, &addresses, &servers))
}

/// Writes all keys once, so that every read finds one.
fn fill(connection: &mut Connection, requests: &Requests, options: &BenchOptions) -> Result<()> {
    // Long values go one by one, so that few of them are in memory.
    const BATCH_BYTES: usize = 16 * 1024;
    let step = (BATCH_BYTES / options.value_bytes.max(1) as usize).clamp(1, 100);
    for first in (0..options.keys).step_by(step) {
        let keys = first..(first + step as u64).min(options.keys);
        let replies = b"+OK\r\n".repeat((keys.end - first) as usize);
        keys.for_each(|key| requests.push(Kind::Write, key, &mut connection.requests));
        connection.send()?;
        connection.receive(&replies)?;
    }
    Ok(())
}
