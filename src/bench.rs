//! A load generator: how fast is a server, and how long do its clients wait?
//!
//! **Two kinds of load, two questions.** *Closed*: every connection sends its next requests when it
//! has the replies to the last. That finds the highest throughput; its latencies say little,
//! because a server that stalls also stops the questions. *Fixed rate* (`--rate`): requests are due
//! at fixed times, whatever the server does, and latency counts from the time a request was *due*,
//! so a stall is seen by all requests that it delayed. (Leaving them out is called coordinated
//! omission: Gil Tene, "How NOT to Measure Latency".)
//!
//! **Threads.** A closed load is made by one thread that looks at its connections in turn, never
//! waiting for one of them, as `redis-benchmark` does: on one machine a thread per connection would
//! take the server's processor. At a fixed rate each connection has a thread, so that none waits
//! for another's reply.
//!
//! **What is left out.** Skewed keys, other commands, several machines: use `memtier_benchmark` or
//! YCSB.

use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::shell::print;
use crate::client::{CONNECT_TIMEOUT, cannot_connect, encode, foreign, is_reply, open, with_hint};
use crate::error::{Error, Result};
use crate::metrics::Histogram;
use crate::options::BenchOptions;

/// Stack of a load thread: there may be thousands.
const STACK_BYTES: usize = 256 * 1024;
/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;

/// Loads the server, prints the table.
pub fn run(options: &BenchOptions) -> Result<()> {
    let bench = Bench::new(options, options.target.password()?);
    let addresses: Vec<String> =
        [options.target.address()].into_iter().chain(options.compare.clone()).collect();
    let rounds = options.rounds.unwrap_or(if options.compare.is_some() { 5 } else { 1 });
    for address in &addresses {
        bench.fill(address)?;
    }
    let mut measured: Vec<[Measured; 2]> = addresses.iter().map(|_| Default::default()).collect();
    for round in 1..=rounds {
        for (address, measured) in addresses.iter().zip(&mut measured) {
            bench.round(address, &format!("{address}, round {round} of {rounds}"), measured)?;
        }
    }
    let figures = |kind: usize| measured.iter().map(|kinds| kinds[kind].figures()).collect();
    let table = table(options, rounds, &addresses, [figures(READS), figures(WRITES)]);
    print(&table)
}

/// Index of reads, and of writes, in what is kept for both.
const READS: usize = 0;
const WRITES: usize = 1;

#[derive(Default)]
struct Measured {
    /// Requests per second of each round.
    throughputs: Vec<f64>,
    /// In nanoseconds, of all rounds.
    latency: Histogram,
}

impl Measured {
    /// Throughput, the median of the rounds, and p50, p99, p99.9 and maximum in microseconds.
    fn figures(&self) -> [f64; 5] {
        let mut sorted = self.throughputs.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let [p50, p99, p999, max] =
            [0.5, 0.99, 0.999, 1.0].map(|q| self.latency.quantile(q) as f64 / 1000.0);
        [median, p50, p99, p999, max]
    }
}

/// What is sent, and what must come back: all keys exist and all values are the same, so every
/// reply is known.
struct Bench<'o> {
    options: &'o BenchOptions,
    password: Option<Vec<u8>>,
    /// Requests: a read and a write.
    templates: [Template; 2],
    /// Replies to a batch of reads and to one of writes.
    replies: [Vec<u8>; 2],
}

impl<'o> Bench<'o> {
    fn new(options: &'o BenchOptions, password: Option<Vec<u8>>) -> Self {
        let value = vec![b'x'; options.value_bytes as usize];
        let got = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
        let pipeline = options.pipeline as usize;
        let replies = [got.repeat(pipeline), b"+OK\r\n".repeat(pipeline)];
        Bench {
            options,
            password,
            templates: [Template::new(None), Template::new(Some(&value))],
            replies,
        }
    }

    /// Writes all keys once, so that every read finds one.
    fn fill(&self, address: &str) -> Result<()> {
        let mut connection = self.connect(address)?;
        // Long values go one by one: nobody keeps a hundred of them.
        let step = (READ_BYTES / self.options.value_bytes.max(1) as usize).clamp(1, 100);
        for first in (0..self.options.keys).step_by(step) {
            let keys = first..(first + step as u64).min(self.options.keys);
            let replies = b"+OK\r\n".repeat((keys.end - first) as usize);
            keys.for_each(|key| self.templates[WRITES].push(&mut connection.requests, key));
            connection.send()?;
            connection.receive(&replies)?;
        }
        Ok(())
    }

    fn connect(&self, address: &str) -> Result<Connection> {
        let silence_timeout = self.options.target.silence_timeout();
        let stream = open(address, CONNECT_TIMEOUT.min(silence_timeout), silence_timeout);
        let stream = stream.map_err(|error| cannot_connect(&[(address.into(), error)]))?;
        stream.set_read_timeout(Some(silence_timeout))?;
        let (address, heard) = (address.into(), Instant::now());
        let mut connection = Connection {
            address,
            stream,
            silence_timeout,
            heard,
            requests: vec![],
            under_way: None,
            received: 0,
        };
        if let Some(password) = &self.password {
            connection.requests = encode(&[b"AUTH", password]);
            connection.send()?;
            connection.receive(b"+OK\r\n")?;
        }
        Ok(connection)
    }

    /// Loads a server for as long as the options say.
    fn round(&self, address: &str, title: &str, measured: &mut [Measured; 2]) -> Result<()> {
        let connections = (0..self.options.connections).map(|_| self.connect(address));
        let mut connections = connections.collect::<Result<Vec<_>>>()?;
        let per_thread = if self.options.rate > 0 { 1 } else { connections.len() };
        let start = Instant::now();
        let end = start + Duration::from_secs(self.options.seconds);
        let round = &Round {
            bench: self,
            end,
            stop: AtomicBool::new(false),
            latencies: Default::default(),
        };
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (index, connections) in connections.chunks_mut(per_thread).enumerate() {
                let builder = thread::Builder::new().name(format!("load-{index}"));
                let schedule = Schedule::new(self.options, index, start);
                let random = Random(index as u64 + 1);
                let work = move || round.work(connections, schedule, random);
                threads.push(builder.stack_size(STACK_BYTES).spawn_scoped(scope, work)?);
            }
            round.report_progress(title);
            // A panic ends the process, so no thread fails to be joined.
            threads.into_iter().flat_map(|thread| thread.join()).collect::<Result<()>>()
        })?;
        let seconds = start.elapsed().as_secs_f64();
        for (measured, latency) in measured.iter_mut().zip(&round.latencies) {
            measured.throughputs.push(latency.count() as f64 / seconds);
            measured.latency.absorb(latency);
        }
        Ok(())
    }
}

/// What the threads of a round share.
struct Round<'b> {
    bench: &'b Bench<'b>,
    end: Instant,
    /// One failure ends the round for all.
    stop: AtomicBool,
    /// Of reads and of writes, in nanoseconds.
    latencies: [Histogram; 2],
}

impl Round<'_> {
    /// One thread: serves its connections until the end, and then waits for the replies that are
    /// still owed, since none of the slow ones may be missing.
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
        let options = self.bench.options;
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
                let kind = if random.below(100) < options.reads.into() { READS } else { WRITES };
                for _ in 0..options.pipeline {
                    self.bench.templates[kind]
                        .push(&mut connection.requests, random.below(options.keys));
                }
                connection.under_way = Some((due, kind));
                connection.send()?;
            }
            if is_idle {
                // Nobody has a reply: let the server work.
                thread::yield_now();
            }
        }
        Ok(())
    }

    /// Takes the replies that a connection owes; whether it owes nothing now.
    fn finish(&self, connection: &mut Connection) -> Result<bool> {
        let Some((due, kind)) = connection.under_way else {
            return Ok(true);
        };
        let is_done = connection.receive(&self.bench.replies[kind])?;
        if is_done {
            let latency = due.elapsed().as_nanos() as u64;
            self.latencies[kind].observe(latency, self.bench.options.pipeline.into());
            connection.under_way = None;
        }
        Ok(is_done)
    }

    /// Tells a waiting person that it goes on: every second on a terminal, otherwise every ten.
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

struct Connection {
    /// Of the server, as it was typed.
    address: String,
    stream: TcpStream,
    /// How long the server may say nothing.
    silence_timeout: Duration,
    /// When bytes last went either way.
    heard: Instant,
    /// To be sent.
    requests: Vec<u8>,
    /// When the requests were due whose replies are not all there, and of which kind they are.
    under_way: Option<(Instant, usize)>,
    /// Bytes of their replies that are there.
    received: usize,
}

impl Connection {
    fn send(&mut self) -> Result<()> {
        let mut rest = self.requests.as_slice();
        self.heard = Instant::now();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(len) => {
                    rest = &rest[len..];
                    self.heard = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.check_silence("takes no requests")?;
                    thread::yield_now();
                }
                Err(error) => return Err(self.lost(&error)),
            }
        }
        self.requests.clear();
        Ok(())
    }

    fn check_silence(&self, what: &str) -> Result<()> {
        if self.heard.elapsed() < self.silence_timeout {
            return Ok(());
        }
        let (address, seconds) = (&self.address, self.silence_timeout.as_secs());
        Err(Error::Unreachable(format!(
            "{address} {what} for {seconds} s; is it a kvstore or Redis server?"
        )))
    }

    fn lost(&self, error: &io::Error) -> Error {
        Error::Unreachable(format!("connection to {} lost: {error}", self.address))
    }

    /// Takes what is there of `expected`; whether that was all of it.
    fn receive(&mut self, expected: &[u8]) -> Result<bool> {
        let mut bytes = [0; READ_BYTES];
        while self.received < expected.len() {
            let len = match self.stream.read(&mut bytes) {
                Ok(0) => {
                    return Err(Error::Unreachable(format!(
                        "{} closed a connection",
                        self.address
                    )));
                }
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.check_silence("is silent")?;
                    if self.under_way.is_some() {
                        return Ok(false);
                    }
                    continue;
                }
                Err(error) => return Err(self.lost(&error)),
            };
            self.heard = Instant::now();
            if expected.get(self.received..self.received + len) != Some(&bytes[..len]) {
                return Err(self.unexpected(&bytes[..len]));
            }
            self.received += len;
        }
        self.received = 0;
        Ok(true)
    }

    /// The error for a reply that is not the expected one.
    fn unexpected(&self, bytes: &[u8]) -> Error {
        let address = &self.address;
        if self.received == 0 && !is_reply(bytes[0]) {
            return Error::Corrupt(format!("{address} {}", foreign(bytes)));
        }
        let line = bytes
            .split(|byte| matches!(byte, b'\r' | b'\n'))
            .find(|line| !line.is_empty())
            .unwrap_or_default();
        let text = String::from_utf8_lossy(line).escape_debug().to_string();
        match text.strip_prefix('-').map(|text| text.split_once(' ').unwrap_or(("", text))) {
            Some((code, message)) => {
                Error::Fatal(format!("{address} refuses: {code} {}", with_hint(code, message)))
            }
            None => Error::Fatal(format!(
                "{address} holds another value than this bench wrote: {}; use it on a server whose keys key:… nobody else writes",
                &text.chars().take(60).collect::<String>()
            )),
        }
    }
}

/// A request for any key, made once: only the digits of the key differ.
struct Template {
    request: Vec<u8>,
    /// Where the digits are.
    digits: Range<usize>,
}

impl Template {
    /// `SET key value`, or `GET key` without a value.
    fn new(value: Option<&[u8]>) -> Self {
        // As redis-benchmark names its keys.
        let key = b"key:000000000000";
        let get = encode(&[b"GET", key]);
        // Both names have three letters, so the key ends at the same place.
        let end = get.len() - b"\r\n".len();
        let request = value.map_or(get, |value| encode(&[b"SET", key, value]));
        Template { request, digits: end - 12..end }
    }

    fn push(&self, buffer: &mut Vec<u8>, mut key: u64) {
        let start = buffer.len();
        buffer.extend_from_slice(&self.request);
        for digit in buffer[start + self.digits.start..start + self.digits.end].iter_mut().rev() {
            *digit = b'0' + (key % 10) as u8;
            key /= 10;
        }
    }
}

/// xorshift64 (Marsaglia 2003): the same keys in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

fn table(
    options: &BenchOptions,
    rounds: u32,
    addresses: &[String],
    kinds: [Vec<[f64; 5]>; 2],
) -> String {
    let BenchOptions { connections, pipeline, value_bytes, keys, reads, seconds, .. } = options;
    let load = if options.rate > 0 {
        format!("{} requests/s", options.rate)
    } else {
        "closed loop".into()
    };
    let mut text = format!(
        "{connections} connections, pipeline {pipeline}, values of {value_bytes} bytes, {keys} keys, {reads}% reads, \
         {load}, {rounds} x {seconds} s\n"
    );
    let mut row = |name: &str, command: &str, [throughput, p50, p99, p999, max]: [String; 5]| {
        text += &format!(
            "{name:<24}{command:>8}{throughput:>14}{p50:>10}{p99:>10}{p999:>10}{max:>10}\n"
        );
    };
    let head = ["requests/s", "p50 us", "p99 us", "p99.9 us", "max us"];
    row("server", "command", head.map(String::from));
    for (command, figures) in ["GET", "SET"].iter().zip(kinds) {
        if figures.iter().all(|[throughput, ..]| *throughput == 0.0) {
            continue;
        }
        for (address, figures) in addresses.iter().zip(&figures) {
            row(address, command, figures.map(|figure| format!("{figure:.0}")));
        }
        if let [ours, theirs] = figures[..] {
            row(
                "ratio",
                command,
                [0, 1, 2, 3, 4].map(|column| format!("{:.2}", ours[column] / theirs[column])),
            );
        }
    }
    text
}
