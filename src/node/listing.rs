//! Listings of keys: `SCAN`, `KEYS` and the pages of HTTP.

use super::{Batch, Node};
use crate::error::{Error, Result};
use crate::store::scan::{STEP_WORK_MAX, Step};

/// Keys, and where a listing goes on.
#[derive(Debug)]
pub struct Page {
    /// Copies of the keys: their number stands before them in a reply, so they are kept until it
    /// is known.
    pub keys: Vec<Box<[u8]>>,
    /// The cursor of the next page, or 0 at the end.
    pub next: u64,
}

/// Comparisons of the pattern with bytes of keys in one `KEYS`: some ten seconds, with no shard
/// locked.
const KEYS_COMPARISONS_MAX: u64 = 1_000_000_000;
/// What a key costs besides its bytes, in the list and in the reply.
const KEY_OVERHEAD_BYTES: usize = 32;
/// Keys that one page of HTTP visits. With the bounded work of a step, a page takes some 0.1 s even
/// if its client has left.
const PAGE_VISITS_MAX: usize = 100_000;
/// Bytes of the keys of one page of HTTP.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

impl Node {
    /// `SCAN`: visits `count` keys from a cursor on, or fewer if the pattern takes long, and
    /// returns those that match.
    pub fn scan(
        &self,
        cursor: u64,
        count: usize,
        pattern: Option<&[u8]>,
        batch: &mut Batch,
    ) -> Result<Page> {
        self.collect(cursor, count, pattern, STEP_WORK_MAX, batch)
    }

    /// `KEYS`: all keys that match, or an error if they are too many or take too long.
    pub fn keys(&self, pattern: &[u8], batch: &mut Batch) -> Result<Vec<Box<[u8]>>> {
        let page = self.collect(0, usize::MAX, Some(pattern), KEYS_COMPARISONS_MAX, batch)?;
        if page.next != 0 {
            return Err(Error::refused(
                "the pattern takes too long with these keys; use SCAN with MATCH",
            ));
        }
        Ok(page.keys)
    }

    /// Visits up to `count` keys in steps of the store, until the pattern has taken
    /// `comparisons_max`.
    fn collect(
        &self,
        cursor: u64,
        count: usize,
        pattern: Option<&[u8]>,
        comparisons_max: u64,
        batch: &mut Batch,
    ) -> Result<Page> {
        self.admit_listing(batch)?;
        let max = self.configuration.limits.reply_bytes_max;
        let mut page = Page { keys: Vec::new(), next: cursor };
        let (mut bytes, mut comparisons, mut left) = (0, 0, count);
        loop {
            let step = Step { pattern, ..Step::visiting(left) };
            let scanned = self.store.scan(page.next, step, |key| {
                bytes += key.len() + KEY_OVERHEAD_BYTES;
                page.keys.push(key.into());
            });
            batch.touched(scanned.position);
            page.next = scanned.next;
            if bytes > max {
                return Err(reply_too_long(max));
            }
            left = left.saturating_sub(scanned.visited);
            comparisons += scanned.comparisons;
            if left == 0 || page.next == 0 || comparisons >= comparisons_max {
                return Ok(page);
            }
        }
    }

    /// A page of HTTP: at most `count` keys that match, from a cursor on. It may have fewer, or
    /// none, because its work is bounded.
    pub fn page(
        &self,
        cursor: u64,
        count: usize,
        pattern: &[u8],
        batch: &mut Batch,
    ) -> Result<Page> {
        self.admit_listing(batch)?;
        let step = Step {
            visits: PAGE_VISITS_MAX,
            found: count,
            found_bytes: PAGE_BYTES_MAX,
            pattern: Some(pattern),
        };
        let mut keys = Vec::new();
        let scanned = self.store.scan(cursor, step, |key| keys.push(key.into()));
        batch.touched(scanned.position);
        Ok(Page { keys, next: scanned.next })
    }
}

/// The refusal of a reply that would be longer than `max` bytes.
pub fn reply_too_long(max: usize) -> Error {
    Error::refused(format!(
        "reply too long: at most {max} bytes; ask for fewer keys at a time (SCAN)"
    ))
}
