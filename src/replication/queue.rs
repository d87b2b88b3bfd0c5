//! The channel from the writers to one link: which keys changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use crate::peers::comparison::ShardSet;
use crate::store::digest::SHARDS;

/// A key that changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key, shared by the queues of all links.
    pub key: Arc<[u8]>,
    /// When it changed: the writer's wall clock, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Changed keys on their way to a link, bounded in number and bytes; beyond that, marked shards.
///
/// Invariants:
/// - A write never waits here.
/// - `a_change_is_queued_or_its_shard_is_marked`.
/// - `sent` is at least the number of changes in the channel before any change that was put in
///   before it was read: a link that has handled `sent` changes has handled all of those.
#[derive(Debug)]
pub struct Queue {
    sender: Sender<Change>,
    /// The link's end.
    pub receiver: Receiver<Change>,
    bytes: AtomicUsize,
    bytes_max: usize,
    marks: [Marks; SHARDS / 64],
    sent: AtomicU64,
    is_stirred: AtomicBool,
    is_loss_near: AtomicBool,
    is_nudged: AtomicBool,
    is_apart: AtomicBool,
}

/// The marks of 64 shards, on a cache line of their own: with one count for all shards, writers on
/// two processors kept 0.94 of their speed while a peer was away, and with these 0.95.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Marks {
    shards: AtomicU64,
    overflows: AtomicU64,
}

/// How many changes were marked instead of queued, by groups of 64 shards. A sum would not do for
/// [`Overflows::covers`]: its parts are read one after the other while they grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overflows([u64; SHARDS / 64]);

impl Overflows {
    /// Whether these are all of the others, and perhaps more.
    pub fn covers(&self, others: &Overflows) -> bool {
        self.0.iter().zip(&others.0).all(|(own, other)| own >= other)
    }

    /// Of all shards.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What a peer is known to hold, for `WAIT`.
///
/// It is what one run of the peer has acknowledged after its own commit. So it counts while that
/// run is connected. It also counts while a peer with stored data is away, since that data comes
/// back. It does not count while an in-memory peer is away, which may have crashed. When another
/// run answers, nothing counts before a comparison of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Everything was compared at least once, so what was written before there was a link is there
    /// too.
    pub is_complete: bool,
    /// Changes of the queue that the peer holds.
    pub sent: u64,
    /// Marks that a finished comparison has dealt with.
    pub overflows: Overflows,
}

impl Held {
    /// Whether the peer holds all that was put into the queue, or marked, up to these counts.
    pub fn covers(&self, sent: u64, overflows: &Overflows) -> bool {
        self.is_complete && self.sent >= sent && self.overflows.covers(overflows)
    }
}

impl Queue {
    /// An empty queue for so many keys and bytes.
    pub fn new(keys_max: usize, bytes_max: usize) -> Self {
        let (sender, receiver) = bounded(keys_max);
        Queue {
            sender,
            receiver,
            bytes: AtomicUsize::new(0),
            bytes_max,
            marks: Default::default(),
            sent: AtomicU64::new(0),
            is_stirred: AtomicBool::new(false),
            is_loss_near: AtomicBool::new(false),
            is_nudged: AtomicBool::new(false),
            is_apart: AtomicBool::new(false),
        }
    }

    /// Whether a key of this length would be taken in now: what a write looks at first, as it
    /// changes nothing.
    pub fn has_room(&self, key_len: usize) -> bool {
        !self.sender.is_full() && self.bytes.load(Ordering::Relaxed) + key_len <= self.bytes_max
    }

    /// Takes a change in, or marks its shard.
    pub fn offer(&self, change: Change, shard: usize) {
        let len = change.key.len();
        self.sent.fetch_add(1, Ordering::SeqCst);
        let before = self.bytes.fetch_add(len, Ordering::Relaxed);
        if before + len > self.bytes_max || self.sender.try_send(change).is_err() {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
            self.sent.fetch_sub(1, Ordering::SeqCst);
            self.mark(shard);
        }
    }

    /// Has a shard compared at the next opportunity.
    pub fn mark(&self, shard: usize) {
        let (marks, bit) = (&self.marks[shard / 64], 1 << (shard % 64));
        // Looking is cheaper than setting, for it is set already while a peer is away for long.
        if marks.shards.load(Ordering::SeqCst) & bit == 0 {
            marks.shards.fetch_or(bit, Ordering::SeqCst);
        }
        // After the mark: whoever sees the count sees the mark too.
        marks.overflows.fetch_add(1, Ordering::SeqCst);
    }

    /// Something came from another peer: not to be handed on, but to be compared when things are
    /// quiet.
    pub fn stir(&self) {
        self.is_stirred.store(true, Ordering::Relaxed);
    }

    /// Whether something came from another peer since the last call.
    pub fn take_stir(&self) -> bool {
        self.is_stirred.load(Ordering::Relaxed) && self.is_stirred.swap(false, Ordering::Relaxed)
    }

    /// Another peer was lost, and may have told this node what it told nobody else: to be compared
    /// soon.
    pub fn lost_another(&self) {
        self.is_loss_near.store(true, Ordering::Relaxed);
    }

    /// Whether another peer was lost since the last call.
    pub fn take_loss(&self) -> bool {
        self.is_loss_near.load(Ordering::Relaxed)
            && self.is_loss_near.swap(false, Ordering::Relaxed)
    }

    /// A member compares everything again and again: it cannot reach another one, and what this
    /// node received may be what that one lacks.
    pub fn nudge(&self) {
        self.is_nudged.store(true, Ordering::Relaxed);
    }

    /// Whether that was so since the last call.
    pub fn take_nudge(&self) -> bool {
        self.is_nudged.load(Ordering::Relaxed) && self.is_nudged.swap(false, Ordering::Relaxed)
    }

    /// Notes whether some member cannot be reached by this node.
    pub fn set_apart(&self, is_apart: bool) {
        self.is_apart.store(is_apart, Ordering::Relaxed);
    }

    /// Whether some member cannot be reached by this node.
    pub fn is_apart(&self) -> bool {
        self.is_apart.load(Ordering::Relaxed)
    }

    /// The next change, if there is one.
    pub fn take(&self) -> std::result::Result<Change, TryRecvError> {
        let change = self.receiver.try_recv()?;
        self.received(&change);
        Ok(change)
    }

    /// Accounts for a change that was taken from [`Queue::receiver`] directly.
    pub fn received(&self, change: &Change) {
        self.bytes.fetch_sub(change.key.len(), Ordering::Relaxed);
    }

    /// The marked shards; they are marked no more.
    pub fn take_marks(&self) -> ShardSet {
        ShardSet(std::array::from_fn(|word| self.marks[word].shards.swap(0, Ordering::SeqCst)))
    }

    /// Whether any shard is marked.
    pub fn has_marks(&self) -> bool {
        self.marks.iter().any(|marks| marks.shards.load(Ordering::SeqCst) != 0)
    }

    /// Changes in the channel.
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Whether the channel is empty.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// How many changes were put into the channel.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// How many changes were marked instead.
    pub fn overflows(&self) -> Overflows {
        Overflows(std::array::from_fn(|word| self.marks[word].overflows.load(Ordering::SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_queued_or_its_shard_is_marked() {
        for (keys_max, bytes_max) in [(3, 1_000), (1_000, 12)] {
            let queue = Queue::new(keys_max, bytes_max);
            for i in 0..10 {
                let key: Arc<[u8]> = format!("key{i}").into_bytes().into();
                queue.offer(Change { key, at_ms: 0 }, i);
            }
            assert_eq!((queue.len(), queue.sent(), queue.overflows().total()), (3, 3, 7));
            assert!(queue.has_marks());
            let marks = queue.take_marks();
            assert!((3..10).all(|i| marks.contains(i)));
            assert!(!queue.has_marks());
            while queue.take().is_ok() {}
            queue.offer(Change { key: b"key0"[..].into(), at_ms: 0 }, 0);
            assert_eq!(queue.len(), 1, "there is room again");
        }
    }
}
