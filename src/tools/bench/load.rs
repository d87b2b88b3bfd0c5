//! One round of load: the threads that make it, and when requests are due.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::connection::{Connection, UnderWay};
use super::requests::{Kind, Requests};
use super::table::Measured;
use crate::error::Result;
use crate::metrics::Histogram;
use crate::options::BenchOptions;
use crate::random::Random;

/// Stack of a load thread, in bytes: there may be thousands.
const STACK_BYTES: usize = 256 * 1024;

/// Loads a server for as long as the options say, and adds what was measured to `kinds`.
pub(super) fn round(
    options: &BenchOptions,
    requests: &Requests,
    mut connections: Vec<Connection>,
    title: &str,
    kinds: &mut [Measured; 2],
) -> Result<()> {
    let per_thread = if options.rate > 0 { 1 } else { connections.len() };
    let start = Instant::now();
    let end = start + Duration::from_secs(options.seconds);
    let (stop, latencies) = (AtomicBool::new(false), Default::default());
    let round = &Round { options, requests, end, stop, latencies };
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, connections) in connections.chunks_mut(per_thread).enumerate() {
            let builder = thread::Builder::new().name(format!("load-{index}"));
            let schedule = Schedule::new(options, index, start);
            let random = Random(index as u64 + 1);
            let work = move || round.work(connections, schedule, random);
            threads.push(builder.stack_size(STACK_BYTES).spawn_scoped(scope, work)?);
        }
        round.report_progress(title);
        // A panic ends the process, so no thread fails to be joined.
        threads.into_iter().flat_map(|thread| thread.join()).collect::<Result<()>>()
    })?;
    let seconds = start.elapsed().as_secs_f64();
    for (measured, latency) in kinds.iter_mut().zip(&round.latencies) {
        measured.throughputs.push(latency.count() as f64 / seconds);
        measured.latency.absorb(latency);
    }
    Ok(())
}

/// What the threads of a round share.
struct Round<'r> {
    options: &'r BenchOptions,
    requests: &'r Requests,
    end: Instant,
    /// One failure ends the round for all.
    stop: AtomicBool,
    /// Of reads and of writes, in nanoseconds.
    latencies: [Histogram; 2],
}

impl Round<'_> {
    /// The body of a thread: serves its connections until the end. Then it waits for the replies
    /// that are still owed: they are slow ones, and leaving them out would flatter the server.
    fn work(
        &self,
        connections: &mut [Connection],
        schedule: Option<Schedule>,
        random: Random,
    ) -> Result<()> {
        let result = self.serve(connections, schedule, random).and_then(|()| {
            connections.iter_mut().try_for_each(|connection| {
                connection.stream.set_nonblocking(false)?;
                // A read waits for at most the time that a server may be silent.
                while !self.finish(connection)? {}
                Ok(())
            })
        });
        self.stop.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    }

    fn serve(
        &self,
        connections: &mut [Connection],
        mut schedule: Option<Schedule>,
        mut random: Random,
    ) -> Result<()> {
        for connection in &mut *connections {
            connection.stream.set_nonblocking(schedule.is_none())?;
        }
        let options = self.options;
        while !self.stop.load(Ordering::Relaxed) {
            let mut is_idle = true;
            for connection in &mut *connections {
                if !self.finish(connection)? {
                    continue;
                }
                is_idle = false;
                let due =
                    schedule.as_mut().map_or_else(Instant::now, |schedule| schedule.wait(self.end));
                if due >= self.end {
                    return Ok(());
                }
                let kind =
                    if random.below(100) < options.reads.into() { Kind::Read } else { Kind::Write };
                for _ in 0..options.pipeline {
                    let key = random.below(options.keys);
                    self.requests.push(kind, key, &mut connection.requests);
                }
                connection.under_way = Some(UnderWay { due, kind });
                connection.send()?;
            }
            if is_idle {
                // No connection has its replies: let the server work.
                thread::yield_now();
            }
        }
        Ok(())
    }

    /// Reads the replies that a connection owes; whether all of them are there.
    fn finish(&self, connection: &mut Connection) -> Result<bool> {
        let Some(UnderWay { due, kind }) = connection.under_way else {
            return Ok(true);
        };
        let is_done = connection.receive(self.requests.replies(kind))?;
        if is_done {
            let latency = due.elapsed().as_nanos() as u64;
            self.latencies[kind as usize].observe(latency, self.options.pipeline.into());
            connection.under_way = None;
        }
        Ok(is_done)
    }

    /// Prints the rate so far: every second on a terminal, otherwise every ten seconds.
    fn report_progress(&self, title: &str) {
        let on_terminal = io::stderr().is_terminal();
        let pause = Duration::from_secs(if on_terminal { 1 } else { 10 });
        let (mut before, mut reported) = (0, Instant::now());
        while Instant::now() < self.end && !self.stop.load(Ordering::Relaxed) {
            let left = self.end.saturating_duration_since(Instant::now());
            thread::sleep(left.min(Duration::from_millis(50)));
            if reported.elapsed() >= pause {
                let done: u64 = self.latencies.iter().map(Histogram::count).sum();
                let rate = (done - before) as f64 / reported.elapsed().as_secs_f64();
                (before, reported) = (done, Instant::now());
                let line_end = if on_terminal { '\r' } else { '\n' };
                // Nobody may be reading it.
                let _ = write!(io::stderr(), "{title}: {rate:.0} requests/s      {line_end}");
            }
        }
    }
}

/// When requests are due at a fixed rate. The connections take turns, so their times lie evenly.
struct Schedule {
    next: Instant,
    pause: Duration,
}

impl Schedule {
    /// For one connection of all; `None` for a closed load.
    fn new(options: &BenchOptions, index: usize, start: Instant) -> Option<Self> {
        let batches_per_second = options.rate as f64 / f64::from(options.pipeline);
        let connections = f64::from(options.connections);
        let pause = Duration::try_from_secs_f64(connections / batches_per_second).ok()?;
        Some(Schedule { next: start + pause.mul_f64(index as f64 / connections), pause })
    }

    /// The time of the next batch, once it is there. Never skips one: a late batch is sent at once.
    fn wait(&mut self, end: Instant) -> Instant {
        let due = self.next;
        self.next += self.pause;
        thread::sleep(due.min(end).saturating_duration_since(Instant::now()));
        due
    }
}
