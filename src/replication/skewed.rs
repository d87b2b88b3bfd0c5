//! Peers whose records lie too far ahead of this machine's clock: said once when it begins, not for
//! every record.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::locks::lock;

/// A peer sends a refused record again every few seconds, a long one every minute. After so long
/// without one it counts as put right, in milliseconds.
const FORGOTTEN_AFTER_MS: u64 = 180_000;

/// When records of a peer were refused last, by its node id, in milliseconds of a monotonic clock.
#[derive(Debug, Default)]
pub(super) struct SkewedPeers(Mutex<BTreeMap<u64, u64>>);

impl SkewedPeers {
    /// Notes that records of a peer were refused; says so with `tell` if that is news. If it could
    /// not, it is news again the next time. At most `peers_max` are remembered, and no others are
    /// told of.
    pub(super) fn refused(
        &self,
        peer: u64,
        now_ms: u64,
        peers_max: usize,
        tell: impl FnOnce() -> bool,
    ) {
        let mut refused = lock(&self.0);
        refused.retain(|_, at_ms| now_ms.saturating_sub(*at_ms) < FORGOTTEN_AFTER_MS);
        if refused.contains_key(&peer) || (refused.len() < peers_max && tell()) {
            refused.insert(peer, now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_once_until_it_has_ended() {
        let (skewed, told) = (SkewedPeers::default(), std::cell::RefCell::new(Vec::new()));
        let refuse = |peer, now_ms, can_tell| {
            skewed.refused(peer, now_ms, 2, || {
                told.borrow_mut().push((peer, now_ms));
                can_tell
            });
        };
        (0..1_000).for_each(|now_ms| refuse(1, now_ms * 1_000, true));
        refuse(2, 1_000_000, false);
        refuse(2, 1_000_001, true);
        refuse(3, 1_000_002, true);
        assert_eq!(*told.borrow(), [(1, 0), (2, 1_000_000), (2, 1_000_001)], "two are remembered");
        refuse(1, 2_000_000, true);
        assert_eq!(told.borrow().last(), Some(&(1, 2_000_000)));
    }
}
