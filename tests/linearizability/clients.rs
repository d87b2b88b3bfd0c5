//! Clients that write and read at real servers, over TCP in RESP.

use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kvstore::client::{Response, encode, open};
use kvstore::random::Random;

use super::{Event, Operation, Outcome, Recorder, Value};

/// How long a client waits after a failure before its next operation.
const PAUSE: Duration = Duration::from_millis(10);

/// What [`drive`] does.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// `host:port` of each server. Client *n* begins at address *n*, counted round.
    pub addresses: &'a [String],
    pub clients: usize,
    /// Must be absent at first.
    pub keys: &'a [&'a str],
    /// A server that is silent for so long counts as lost.
    pub timeout: Duration,
    /// Decides which keys are put and read.
    pub seed: u64,
}

/// Puts unique values and reads them back, each half of the time, while `during` runs. What the
/// clients saw is in the recorder, which `during` may ask how far they are.
pub fn drive(load: &Load, during: impl FnOnce(&Recorder)) -> Recorder {
    let recorder = Recorder::new();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in 0..load.clients {
            let (recorder, is_over) = (&recorder, &is_over);
            scope.spawn(move || {
                let mut random = Random(load.seed.wrapping_add(client as u64));
                let mut session = Session::new(recorder, client, load.addresses, load.timeout);
                while !is_over.load(Ordering::Relaxed) {
                    let key = load.keys[random.below(load.keys.len() as u64) as usize];
                    if random.one_in(2) {
                        session.put(key)
                    } else {
                        session.get(key)
                    };
                }
            });
        }
        // Also when `during` fails: the scope waits for the clients.
        let _end = EndOnDrop(&is_over);
        during(&recorder);
    });
    recorder
}

/// Ends what goes on until then, also after a panic.
pub struct EndOnDrop<'a>(pub &'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One client, which has one connection at a time and goes to the next address when it fails. It
/// repeats no operation: a put that is sent twice may happen twice.
pub struct Session<'a> {
    recorder: &'a Recorder,
    client: usize,
    addresses: &'a [String],
    /// Counts the addresses that were tried.
    current: usize,
    timeout: Duration,
    connection: Option<BufReader<TcpStream>>,
}

impl<'a> Session<'a> {
    pub fn new(
        recorder: &'a Recorder,
        client: usize,
        addresses: &'a [String],
        timeout: Duration,
    ) -> Session<'a> {
        Session { recorder, client, addresses, current: client, timeout, connection: None }
    }

    /// Puts a value that nobody else puts. Whether it was acknowledged.
    pub fn put(&mut self, key: &str) -> bool {
        let value = self.recorder.unique_value();
        let text = value.to_string();
        let words: [&[u8]; 3] = [b"SET", key.as_bytes(), text.as_bytes()];
        self.carry_out(key, &words, Operation::Put(value), |reply| {
            (*reply == Response::Simple("OK".into())).then_some(Operation::Put(value))
        })
    }

    /// Reads a value. Whether there was a result.
    pub fn get(&mut self, key: &str) -> bool {
        let words: [&[u8]; 2] = [b"GET", key.as_bytes()];
        self.carry_out(key, &words, Operation::Get(None), |reply| match reply {
            Response::Null => Some(Operation::Get(None)),
            Response::Bulk(text) => Some(Operation::Get(Some(number(key, text)))),
            _ => None,
        })
    }

    /// Deletes a key. Whether there was a result.
    pub fn delete(&mut self, key: &str) -> bool {
        let words: [&[u8]; 2] = [b"DEL", key.as_bytes()];
        self.carry_out(key, &words, Operation::Delete(None), |reply| match reply {
            Response::Integer(count @ 0..=1) => Some(Operation::Delete(Some(*count == 1))),
            _ => None,
        })
    }

    /// Carries out one operation and records it. `result` makes the operation with its result out
    /// of a reply that is no error. After a failure the next operation goes to the next address.
    fn carry_out(
        &mut self,
        key: &str,
        words: &[&[u8]],
        operation: Operation,
        result: impl FnOnce(&Response) -> Option<Operation>,
    ) -> bool {
        let start = self.recorder.now();
        let Some(answer) = self.exchange(words) else {
            self.fail(); // There is no connection, so nothing was sent.
            return false;
        };
        let end = self.recorder.now();
        let mut event = Event { client: self.client, start, operation, outcome: Outcome::Unknown };
        match answer {
            Ok(Response::Error(code, message)) => {
                event.outcome = outcome_of_error(operation, &code, &message);
            }
            Ok(reply) => {
                event.operation = result(&reply)
                    .unwrap_or_else(|| panic!("{operation:?} of {key:?} got {reply:?}"));
                event.outcome = Outcome::Ok(end);
            }
            Err(_) => {} // Broken or silent after the request was sent, at least in part.
        }
        self.recorder.add(key, event);
        let is_ok = matches!(event.outcome, Outcome::Ok(_));
        if !is_ok {
            self.fail();
        }
        is_ok
    }

    /// Sends a request and reads the reply; `None` if there is no connection to be had.
    fn exchange(&mut self, words: &[&[u8]]) -> Option<io::Result<Response>> {
        if self.connection.is_none() {
            let address = &self.addresses[self.current % self.addresses.len()];
            let stream = open(address, self.timeout, self.timeout).ok()?;
            stream.set_read_timeout(Some(self.timeout)).ok()?;
            self.connection = Some(BufReader::new(stream));
        }
        let connection = self.connection.as_mut()?;
        let sent = connection.get_mut().write_all(&encode(words));
        Some(sent.and_then(|()| Response::read(connection)))
    }

    fn fail(&mut self) {
        self.connection = None;
        self.current += 1;
        thread::sleep(PAUSE);
    }
}

/// What an error reply says about an operation.
fn outcome_of_error(operation: Operation, code: &str, message: &str) -> Outcome {
    let is_read = matches!(operation, Operation::Get(_));
    if message.contains("not stored") || is_read && code == "CLUSTERDOWN" {
        Outcome::Dropped
    } else {
        // `outcome unknown`, and every error that makes no promise.
        Outcome::Unknown
    }
}

fn number(key: &str, text: &[u8]) -> Value {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("{key:?} has a value of others: {}", text.escape_ascii()))
}
