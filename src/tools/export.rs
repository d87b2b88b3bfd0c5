//! The way out: a node's data as a stream of `SET` commands in RESP.
//!
//! `redis-cli --pipe` carries the stream into Redis, Valkey, or another node of ours. Keys are
//! listed with `SCAN`, so the node serves others meanwhile, and the rules of a scan hold: a key
//! that is there all the time is in the stream exactly once, with a value that it had during the
//! export.
//!
//! With `--raft` a node without a leader gives nothing, unless `--stale` asks for what it has: the
//! way out when a majority is gone for good.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::client::{Client, Response, encode};
use crate::error::{Error, Result};
use crate::options::ExportOptions;

/// Keys of one step. Their values are one reply, kept in memory.
const STEP: &[u8] = b"100";

/// Writes all data of a server to `output`, progress to stderr. An error means that the stream is
/// incomplete.
pub fn run(options: &ExportOptions, output: &mut impl Write) -> Result<()> {
    let target = &options.target;
    let client = &mut Client::connect_any(
        vec![target.address()],
        target.password()?,
        target.silence_timeout(),
    )?;
    if options.stale {
        client.checked(&[b"READONLY"])?;
    }
    let Response::Integer(total) = client.checked(&[b"DBSIZE"])? else {
        return Err(strange("DBSIZE"));
    };
    let mut output = io::BufWriter::with_capacity(1 << 20, output);
    let (started, mut reported, mut keys_written) = (Instant::now(), Instant::now(), 0_u64);
    let on_terminal = io::stderr().is_terminal();
    let report_pause = Duration::from_millis(if on_terminal { 200 } else { 10_000 });
    let mut cursor = b"0".to_vec();
    loop {
        let (next, keys) = list(client, &cursor)?;
        for (key, value) in keys.iter().zip(values(client, &keys)?) {
            // A key without a value was deleted meanwhile.
            let Some(value) = value else { continue };
            output.write_all(&encode(&[b"SET", key, &value])).map_err(not_taken)?;
            keys_written += 1;
        }
        if let Some(notice) = client.notice() {
            // The server may have been started again, without some of its data.
            return Err(Error::Unreachable(format!(
                "the stream is incomplete: {notice}; export again"
            )));
        }
        if reported.elapsed() >= report_pause {
            reported = Instant::now();
            let line_end = if on_terminal { '\r' } else { '\n' };
            // Nobody may be reading it.
            let _ = write!(io::stderr(), "{keys_written} of about {total} keys{line_end}");
        }
        if next == b"0" {
            break;
        }
        cursor = next;
    }
    output.flush().map_err(not_taken)?;
    let seconds = started.elapsed().as_secs_f64();
    let _ = writeln!(io::stderr(), "exported {keys_written} keys in {seconds:.1} s");
    Ok(())
}

/// The next cursor, and keys.
fn list(client: &mut Client, cursor: &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let Response::Array(mut parts) = client.checked(&[b"SCAN", cursor, b"COUNT", STEP])? else {
        return Err(strange("SCAN"));
    };
    let (Some(Response::Array(keys)), Some(Response::Bulk(next))) = (parts.pop(), parts.pop())
    else {
        return Err(strange("SCAN"));
    };
    let keys = keys.into_iter().map(|key| key.value().ok_or_else(|| strange("SCAN")));
    Ok((next, keys.collect::<Result<_>>()?))
}

/// The values of these keys: in one request, or one by one when they are too long for one reply.
fn values(client: &mut Client, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
    let words: Vec<&[u8]> =
        [b"MGET".as_slice()].into_iter().chain(keys.iter().map(Vec::as_slice)).collect();
    match client.request(&words)? {
        Response::Array(values) if values.len() == keys.len() => {
            Ok(values.into_iter().map(Response::value).collect())
        }
        _ => keys.iter().map(|key| client.get(key)).collect(),
    }
}

fn strange(command: &str) -> Error {
    Error::Corrupt(format!("a strange reply to {command}; is this a kvstore or Redis server?"))
}

fn not_taken(error: io::Error) -> Error {
    Error::Fatal(format!("the stream is incomplete, it cannot be written: {error}"))
}
