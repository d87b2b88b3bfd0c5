//! Listings of keys: `SCAN`, `KEYS` and the pages of HTTP.

use super::{Access, Batch, Node};
use crate::error::{Error, Result};
use crate::store::scan::{STEP_WORK_MAX, Scanned, Step};

/// Keys, and where a listing goes on.
#[derive(Debug)]
pub struct Page {
    /// Copies of the keys: their number stands before them in a reply, so they are kept until it
    /// is known.
    pub keys: Vec<Box<[u8]>>,
    /// The cursor of the next page, or 0 at the end.
    pub next: u64,
}

/// Keys visited between two checks of the limits, so that a huge store is not collected first.
const PIECE_KEYS: usize = 10_000;
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
        self.admit(Access::Read, batch)?;
        let mut page = Page { keys: Vec::new(), next: cursor };
        let (mut bytes, mut comparisons, mut left) = (0, 0, count);
        loop {
            let scanned = self.scan_piece(&mut page, &mut bytes, left, pattern, batch)?;
            left = left.saturating_sub(scanned.visited);
            comparisons += scanned.comparisons;
            if left == 0 || page.next == 0 || comparisons >= STEP_WORK_MAX {
                return Ok(page);
            }
        }
    }

    /// `KEYS`: all keys that match, or an error if they are too many or take too long.
    pub fn keys(&self, pattern: &[u8], batch: &mut Batch) -> Result<Vec<Box<[u8]>>> {
        self.admit(Access::Read, batch)?;
        let mut page = Page { keys: Vec::new(), next: 0 };
        let (mut bytes, mut comparisons) = (0, 0);
        loop {
            let scanned =
                self.scan_piece(&mut page, &mut bytes, PIECE_KEYS, Some(pattern), batch)?;
            comparisons += scanned.comparisons;
            if page.next == 0 {
                return Ok(page.keys);
            }
            if comparisons >= KEYS_COMPARISONS_MAX {
                return Err(Error::refused(
                    "the pattern takes too long with these keys; use SCAN with MATCH",
                ));
            }
        }
    }

    /// Adds the next keys to a page. `bytes` is what all its keys cost.
    fn scan_piece(
        &self,
        page: &mut Page,
        bytes: &mut usize,
        visits: usize,
        pattern: Option<&[u8]>,
        batch: &mut Batch,
    ) -> Result<Scanned> {
        let step = Step { pattern, ..Step::visiting(visits.min(PIECE_KEYS)) };
        let scanned = self.store.scan(page.next, step, |key| {
            *bytes += key.len() + KEY_OVERHEAD_BYTES;
            page.keys.push(key.into());
        });
        batch.touched(scanned.position);
        page.next = scanned.next;
        let max = self.configuration.limits.reply_bytes_max;
        if *bytes > max {
            return Err(reply_too_long(max));
        }
        Ok(scanned)
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
        self.admit(Access::Read, batch)?;
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
