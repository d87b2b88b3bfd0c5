//! One socket: reading and writing with time limits, and the read buffer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Limits;

/// How often a thread polls the socket before it sleeps. It yields the processor between two polls.
/// Under full load the next request arrives while other threads run, and a poll costs less than
/// going to sleep and being woken. With 50 clients and no pipelines, 16 polls gave 1.2 times the
/// throughput of one poll, and one poll gave 1.4 times that of none.
const POLLS_MAX: u32 = 16;

/// Bytes that arrive within so many polls show that polling pays.
const POLLS_GOOD: u32 = 4;

/// After so many waits in a row that took more polls than that, a thread polls only once, until
/// polling pays again. Polls that find nothing take the processor from other threads: at 45,000
/// requests a second, a third of its capacity, a server that always polled 16 times used 143 % of a
/// processor and had a p99.9 of 5 to 14 ms. With this rule it is 56 %, and below 2 ms. A patience
/// of one cost 5 % of the throughput at full load.
const PATIENCE: u32 = 4;

/// Longest sleep in one `write`, so that reading goes on while a client takes nothing.
const WRITE_SLICE: Duration = Duration::from_millis(100);

/// A socket with the state the kernel keeps for it, so that it is only changed when it must be.
#[derive(Debug)]
pub struct Transport {
    stream: Arc<TcpStream>,
    blocking: bool,
    read_timeout: Option<Duration>,
    /// When writing ends, however much the client still takes.
    pub deadline: Option<Instant>,
    /// How many more long waits it takes until this thread polls only once.
    patience: u32,
}

impl Transport {
    /// Takes a socket over. Fails when the client has left already.
    pub fn new(stream: Arc<TcpStream>) -> io::Result<Self> {
        // A reply is one write; waiting for more to send (Nagle) could only delay it.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_SLICE))?;
        Ok(Transport {
            stream,
            blocking: true,
            read_timeout: None,
            deadline: None,
            patience: PATIENCE,
        })
    }

    /// The socket.
    pub fn stream(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    /// Whether the client has closed the connection, as far as can be seen behind what it sent.
    pub fn has_ended(&mut self) -> bool {
        match self.set_blocking(false).and_then(|()| self.stream.peek(&mut [0])) {
            Ok(len) => len == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// Reads the bytes that have arrived, or waits for some, at most `timeout`; 0 at the end of the
    /// stream.
    pub fn read(&mut self, buffer: &mut [u8], timeout: Option<Duration>) -> io::Result<usize> {
        let polls = if self.patience > 0 { POLLS_MAX } else { 1 };
        for polled in 0..=polls {
            if polled > 0 {
                thread::yield_now();
            }
            match self.read_now(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => {
                    self.learn(polled <= POLLS_GOOD);
                    return done;
                }
            }
        }
        self.learn(false);
        self.set_blocking(true)?;
        if self.read_timeout != timeout {
            self.stream.set_read_timeout(timeout)?;
            self.read_timeout = timeout;
        }
        retry(|| (&*self.stream).read(buffer))
    }

    /// Takes note of how a wait went.
    fn learn(&mut self, polling_paid: bool) {
        self.patience = if polling_paid { PATIENCE } else { self.patience.saturating_sub(1) };
    }

    /// Writes everything. While the client takes nothing, what it sends meanwhile is read into
    /// `input`, as far as there is room: a client that sends a long pipeline before it reads must
    /// not lock up with us.
    ///
    /// Each time the client takes nothing, `holding` gets the number of bytes that wait. Its error
    /// ends the writing.
    pub fn write_all(
        &mut self,
        mut bytes: &[u8],
        input: &mut ReadBuffer,
        limits: &Limits,
        mut holding: impl FnMut(usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let len = bytes.len();
        let mut progress: Option<Instant> = None;
        while !bytes.is_empty() {
            match (&*self.stream).write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => {
                    bytes = &bytes[len..];
                    progress = None;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let since = progress.get_or_insert_with(Instant::now);
                    let is_over = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
                    if is_over || since.elapsed() >= limits.write_timeout {
                        return Err(ErrorKind::TimedOut.into());
                    }
                    holding(len + input.unread().len())?;
                    if !self.take_in(input, limits)? {
                        self.set_blocking(true)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once without waiting; whether there was anything.
    fn take_in(&mut self, input: &mut ReadBuffer, limits: &Limits) -> io::Result<bool> {
        if input.unread().len() >= limits.unread_bytes_max {
            return Ok(false);
        }
        match self.read_now(input.room(limits)) {
            Ok(len) => {
                input.filled(len);
                Ok(len > 0)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.set_blocking(false)?;
        retry(|| (&*self.stream).read(buffer))
    }

    fn set_blocking(&mut self, blocking: bool) -> io::Result<()> {
        if self.blocking != blocking {
            self.stream.set_nonblocking(!blocking)?;
            self.blocking = blocking;
        }
        Ok(())
    }
}

fn retry(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Bytes received and not yet consumed.
///
/// Invariants:
/// - `start <= end <= bytes.len()`; the unread bytes are `bytes[start..end]`.
/// - `the_buffer_stays_in_proportion`: with room for more it has at most four times the unread
///   bytes, or `read_buffer_bytes`.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled all the room, so the next will want more.
    was_filled: bool,
}

impl ReadBuffer {
    /// What was received and not consumed.
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Gives up the first `len` unread bytes.
    pub fn consume(&mut self, len: usize) {
        self.start += len;
        assert!(self.start <= self.end, "only what was received is consumed");
    }

    /// Room for more bytes, at least one. Moves the unread bytes to the front first. Grows when
    /// they fill the buffer, so that memory follows what was received, not what was announced; and
    /// up to `read_buffer_bytes` when the last read filled all there was.
    pub fn room(&mut self, limits: &Limits) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let unread = self.end - self.start;
        if self.bytes.len() > limits.read_buffer_bytes && unread <= self.bytes.len() / 4 {
            // What a large request needed is given back after it.
            self.bytes = self.unread().to_vec();
            (self.start, self.end) = (0, unread);
        } else if self.start > 0 && self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, unread);
        }
        let len = self.bytes.len();
        if self.end == len {
            self.resize((len * 2).max(limits.read_buffer_bytes_min));
        } else if self.was_filled && len < limits.read_buffer_bytes {
            self.resize((len * 4).min(limits.read_buffer_bytes));
        }
        self.was_filled = false;
        &mut self.bytes[self.end..]
    }

    /// `len` bytes of the room were filled.
    pub fn filled(&mut self, len: usize) {
        self.end += len;
        assert!(self.end <= self.bytes.len(), "no more is filled than there is room");
        self.was_filled = self.end == self.bytes.len();
    }

    fn resize(&mut self, len: usize) {
        self.bytes.reserve_exact(len - self.bytes.len());
        self.bytes.resize(len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    #[test]
    fn a_thread_polls_often_only_while_it_pays() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut transport = Transport::new(Arc::new(listener.accept().unwrap().0)).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(transport.patience, PATIENCE, "a new client has something to say");

        for patience_left in (0..PATIENCE).rev() {
            let error = transport.read(&mut buffer, Some(Duration::from_millis(1))).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
            assert_eq!(transport.patience, patience_left);
        }
        client.write_all(b"there at once").unwrap();
        for len in [10, 3] {
            assert_eq!(transport.read(&mut buffer, None).unwrap(), len);
            assert_eq!(transport.patience, PATIENCE, "the wait was short");
        }
    }

    proptest! {
        #[test]
        fn the_buffer_stays_in_proportion(
            steps in prop::collection::vec((0usize..300, 0usize..300), 1..60),
        ) {
            let limits =
                Limits { read_buffer_bytes_min: 8, read_buffer_bytes: 64, ..Limits::default() };
            let (mut buffer, mut expected, mut next) = (ReadBuffer::default(), Vec::new(), 0u8);
            for (receive, consume) in steps {
                buffer.room(&limits);
                let len_max = (expected.len() * 4).max(limits.read_buffer_bytes);
                prop_assert!(buffer.bytes.len() <= len_max);
                let room = buffer.room(&limits);
                prop_assert!(!room.is_empty());
                let receive = receive.min(room.len());
                room[..receive].iter_mut().for_each(|byte| {
                    next = next.wrapping_add(1);
                    *byte = next;
                    expected.push(next);
                });
                buffer.filled(receive);
                prop_assert_eq!(buffer.unread(), &expected[..]);
                let consume = consume.min(expected.len());
                buffer.consume(consume);
                expected.drain(..consume);
            }
        }
    }
}
