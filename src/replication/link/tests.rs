use super::*;
use crate::peers::versions;
use crate::replication::queue::Change;
use crate::store::KeyValueStore;
use crate::store::prefetch::PREFETCH_KEYS_MAX;
use crate::store::record::{Record, decode_all};
use crate::store::version::Version;

impl Link {
    /// The next step, with a HELLO as any other request.
    fn step(&mut self, now_ms: u64, queue: &Queue, view: View, limits: &Limits) -> LinkStep {
        match self.next(now_ms, queue, view, limits) {
            LinkStep::Greet => LinkStep::Send(vec![PeerRequest::Hello(Introduction::default())]),
            step => step,
        }
    }
}

/// What a peer with this store answers.
fn reply(request: &PeerRequest, store: &KeyValueStore) -> PeerReply {
    let view = View { store, cutoff: 0 };
    match request {
        PeerRequest::Hello(_) => PeerReply::Introduction(Introduction::default()),
        PeerRequest::ShardDigests => PeerReply::Bytes(view.shard_digests()),
        PeerRequest::BucketDigests(shard) => PeerReply::Bytes(view.bucket_digests(*shard)),
        PeerRequest::Versions(place) => {
            PeerReply::Listed(versions::list(&view, place, place.bytes_max()))
        }
        PeerRequest::Merge(records) => {
            for record in decode_all(records) {
                store.merge(&record.expect("our own bytes"), |_| 0);
            }
            PeerReply::Merged { merged: 1, refused: 0 }
        }
        PeerRequest::Agree { .. } => panic!("not of an eventual cluster"),
    }
}

/// A peer that refuses versions beyond `limit`.
fn reply_within(request: &PeerRequest, store: &KeyValueStore, limit: u64) -> PeerReply {
    let PeerRequest::Merge(records) = request else {
        return reply(request, store);
    };
    let records = decode_all(records).map(|record| record.expect("our own bytes"));
    let (taken, refused): (Vec<_>, Vec<_>) =
        records.partition(|record| record.version.time <= limit);
    for record in &taken {
        store.merge(record, |_| 0);
    }
    PeerReply::Merged { merged: taken.len() as u64, refused: refused.len() as u64 }
}

/// Drives a link until it waits; the peer answers HELLO with `introduction` and takes versions
/// up to `limit`.
fn drive(
    link: &mut Link,
    (now_ms, limit): (u64, u64),
    queue: &Queue,
    (ours, theirs): (&KeyValueStore, &KeyValueStore),
    introduction: &Introduction,
) {
    let (view, limits) = (View { store: ours, cutoff: 0 }, Limits::default());
    for _ in 0..100 {
        match link.step(now_ms, queue, view, &limits) {
            LinkStep::Send(requests) => {
                let replies = requests.iter().map(|request| match request {
                    PeerRequest::Hello(_) => PeerReply::Introduction(introduction.clone()),
                    request => reply_within(request, theirs, limit),
                });
                let replies = replies.collect();
                link.take(&requests, replies, view).expect("it makes sense");
            }
            LinkStep::Wait { until_ms } if until_ms > now_ms => return,
            LinkStep::Greet | LinkStep::Wait { .. } | LinkStep::Compared { .. } => {}
        }
    }
    panic!("it never waits");
}

fn write(store: &KeyValueStore, key: &str, time: u64) -> usize {
    let version = Version { time, origin: 1 };
    store.merge(&Record { version, key: key.as_bytes(), value: Some(b"v") }, |_| 0).shard
}

#[test]
fn a_refused_change_does_not_count_though_a_later_mark_is_settled() {
    let (ours, theirs) = (KeyValueStore::new(), KeyValueStore::new());
    let (queue, peer, mut link) =
        (Queue::new(100, 10_000), Introduction::default(), Link::default());
    link.connected();
    let at = |link: &mut Link, now_ms, limit| {
        drive(link, (now_ms, limit), &queue, (&ours, &theirs), &peer)
    };
    at(&mut link, 0, 10);
    at(&mut link, 2_000, 10);
    assert!(link.held().is_complete && link.is_live());
    // It finds the queue full, and the peer refuses it: too far ahead of its clock just now.
    queue.mark(write(&ours, "first", 11));
    let (sent, overflows) = (queue.sent(), queue.overflows());
    at(&mut link, 2_001, 10);
    assert!(link.is_refused() && theirs.version(b"first").is_none());
    // The peer would take it now, and has it no more than before.
    queue.mark(write(&ours, "second", 12));
    at(&mut link, 2_002, 20);
    assert!(theirs.version(b"first").is_none());
    assert!(!link.held().covers(sent, &overflows));
    at(&mut link, 60_000, 20);
    assert!(theirs.version(b"first").is_some() && link.held().covers(sent, &overflows));
}

#[test]
fn what_a_peer_held_counts_as_long_as_that_run_of_it_may_hold_it() {
    for is_durable in [false, true] {
        let (ours, theirs) = (KeyValueStore::new(), KeyValueStore::new());
        let (queue, mut link) = (Queue::new(100, 10_000), Link::default());
        let mut peer =
            Introduction { node_id: 7, run_id: 1, is_durable, ..Introduction::default() };
        link.connected();
        drive(&mut link, (0, 10), &queue, (&ours, &theirs), &peer);
        let shard = write(&ours, "k", 5);
        queue.offer(Change { key: b"k"[..].into(), at_ms: 0 }, shard);
        let (sent, overflows) = (queue.sent(), queue.overflows());
        drive(&mut link, (1, 10), &queue, (&ours, &theirs), &peer);
        let counts = |link: &Link| link.held().covers(sent, &overflows);
        assert!(counts(&link));

        link.broken();
        assert_eq!(counts(&link), is_durable, "away: only what is stored comes back");
        link.connected();
        assert_eq!(
            counts(&link),
            is_durable,
            "whoever has accepted the connection may be another one"
        );
        drive(&mut link, (2, 10), &queue, (&ours, &theirs), &peer);
        assert!(counts(&link), "the same run has it");

        link.broken();
        peer.run_id = 2;
        link.connected();
        let LinkStep::Send(hello) =
            link.step(3, &queue, View { store: &ours, cutoff: 0 }, &Limits::default())
        else {
            panic!("HELLO comes first");
        };
        let answer = vec![PeerReply::Introduction(peer.clone())];
        link.take(&hello, answer, View { store: &ours, cutoff: 0 }).unwrap();
        assert!(!counts(&link), "another run: not before it was compared");
        let restarted = KeyValueStore::new();
        drive(&mut link, (3, 10), &queue, (&ours, &restarted), &peer);
        assert!(counts(&link) && restarted.version(b"k").is_some());
    }
}

#[test]
fn a_change_received_while_others_wait_replaces_none_of_them() {
    let (ours, theirs) = (KeyValueStore::new(), KeyValueStore::new());
    let view = View { store: &ours, cutoff: 0 };
    let queue = Queue::new(100, 10_000);
    // One record for each batch, so that most changes wait while the marked shards are
    // compared.
    let limits = Limits { batch_bytes: 1, ..Limits::default() };
    let keys: Vec<String> = (0..2 * PREFETCH_KEYS_MAX).map(|i| format!("key{i}")).collect();
    let mut link = Link::default();
    link.connected();
    let (mut is_synced, mut received) = (false, 0);
    for step in 0..1_000 {
        if is_synced && step % 10 == 0 && step < 50 {
            for (index, key) in keys.iter().enumerate() {
                let (version, key) = (Version { time: step, origin: 1 }, key.as_bytes());
                let shard = ours.merge(&Record { version, key, value: Some(b"v") }, |_| 0).shard;
                match index {
                    0 => queue.mark(shard),
                    _ => queue.offer(Change { key: key.into(), at_ms: 0 }, shard),
                }
            }
        }
        match link.step(0, &queue, view, &limits) {
            LinkStep::Send(requests) => {
                let replies = requests.iter().map(|request| reply(request, &theirs)).collect();
                link.take(&requests, replies, view).expect("it makes sense");
            }
            // As the worker does it.
            LinkStep::Wait { .. } => {
                if let Ok(change) = queue.take() {
                    received += usize::from(link.outgoing.waiting() > 0);
                    link.outgoing.received(change);
                }
            }
            LinkStep::Compared { .. } => is_synced = true,
            LinkStep::Greet => unreachable!(),
        }
    }
    assert!(received > 0, "the test is about this");
    assert!(queue.is_empty() && link.outgoing.waiting() == 0);
    assert_eq!(link.held().sent, queue.sent());
    for key in &keys {
        assert_eq!(theirs.version(key.as_bytes()), ours.version(key.as_bytes()), "{key}");
    }
}

/// A link that has just compared an empty store with an empty one.
fn settled(queue: &Queue, view: View, limits: &Limits) -> Link {
    let (mut link, theirs) = (Link::default(), KeyValueStore::new());
    link.connected();
    loop {
        match link.step(0, queue, view, limits) {
            LinkStep::Send(requests) => {
                let replies = requests.iter().map(|request| reply(request, &theirs)).collect();
                link.take(&requests, replies, view).expect("it makes sense");
            }
            LinkStep::Greet | LinkStep::Wait { .. } => panic!("there is nothing to wait for"),
            LinkStep::Compared { .. } => return link,
        }
    }
}

fn put(key: &str, value: &[u8], time_ms: u64, store: &KeyValueStore, queue: &Queue) {
    let version = Version { time: time_ms << 16, origin: 1 };
    let shard =
        store.merge(&Record { version, key: key.as_bytes(), value: Some(value) }, |_| 0).shard;
    queue.offer(Change { key: key.as_bytes().into(), at_ms: 0 }, shard);
}

/// The keys of the batch that is sent next.
fn batch(link: &mut Link, now_ms: u64, queue: &Queue, view: View, limits: &Limits) -> Vec<String> {
    match link.step(now_ms, queue, view, limits) {
        LinkStep::Send(requests) => match requests.as_slice() {
            [PeerRequest::Merge(records)] => {
                let key = |record: Record| String::from_utf8_lossy(record.key).into_owned();
                decode_all(records).map(|record| key(record.expect("our own bytes"))).collect()
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn acknowledge(link: &mut Link, view: View, refused: u64, records: &[u8]) {
    let replies = vec![PeerReply::Merged { merged: 1, refused }];
    link.take(&[PeerRequest::Merge(records.to_vec())], replies, view).expect("it makes sense");
}

#[test]
fn a_large_record_waits_for_small_ones_for_ten_seconds_on_a_slow_connection() {
    let (store, limits) = (KeyValueStore::new(), Limits { batch_bytes: 200, ..Limits::default() });
    let (view, queue) = (View { store: &store, cutoff: 0 }, Queue::new(100, 10_000));
    let mut link = settled(&queue, view, &limits);
    // A batch that took long: from now on the connection is slow.
    put("slow", &[0; 300], 1, &store, &queue);
    assert_eq!(batch(&mut link, 0, &queue, view, &limits), ["slow"]);
    link.broken();
    (link.phase, link.heard, link.is_settled) = (Phase::Open, Heard::WhoItIs, true);
    link.schedule.next_ms = u64::MAX;
    put("large", &[0; 100_000], 2, &store, &queue);
    let (mut now_ms, mut small_first) = (0, 0);
    loop {
        for i in 0..5 {
            put(&format!("small{i}"), &[0; 50], 3 + now_ms, &store, &queue);
        }
        let keys = batch(&mut link, now_ms, &queue, view, &limits);
        acknowledge(&mut link, view, 0, b"");
        if keys == ["large"] {
            break;
        }
        assert!(keys.iter().all(|key| key.starts_with("small")), "{keys:?}");
        assert!(link.held().sent < 2, "the large one is not there, nor is all after it");
        small_first += 1;
        now_ms += 600;
    }
    assert_eq!((small_first, now_ms), (17, 10_200), "the first after ten seconds");
    while !queue.is_empty() || link.outgoing.waiting() > 0 {
        now_ms += 100;
        batch(&mut link, now_ms, &queue, view, &limits);
        acknowledge(&mut link, view, 0, b"");
    }
    assert_eq!(link.held().sent, queue.sent());
}

#[test]
fn what_the_peer_refused_stays_here_and_one_record_asks_for_all() {
    let (store, limits) = (KeyValueStore::new(), Limits::default());
    let (view, queue) = (View { store: &store, cutoff: 0 }, Queue::new(100, 10_000));
    let mut link = settled(&queue, view, &limits);
    link.schedule.next_ms = u64::MAX;
    put("good", b"v", 1_000, &store, &queue);
    put("early", b"v", 100_000, &store, &queue);
    put("earlier", b"v", 90_000, &store, &queue);
    let LinkStep::Send(requests) = link.step(0, &queue, view, &limits) else {
        panic!("there are changes");
    };
    link.take(&requests, vec![PeerReply::Merged { merged: 1, refused: 2 }], view)
        .expect("it makes sense");
    assert!(link.is_refused());
    put("later", b"v", 110_000, &store, &queue);
    put("good too", b"v", 1_001, &store, &queue);
    assert_eq!(batch(&mut link, 10, &queue, view, &limits), ["good too"]);
    acknowledge(&mut link, view, 0, b"");
    assert!(matches!(link.step(999, &queue, view, &limits), LinkStep::Wait { until_ms: 1_000 }));
    assert_eq!(batch(&mut link, 1_000, &queue, view, &limits), ["earlier"], "a probe");
    acknowledge(&mut link, view, 0, b"");
    assert!(matches!(link.next(1_001, &queue, view, &limits), LinkStep::Greet));
    assert_eq!(link.held().sent, 0, "nothing counts that may not be there");
}

#[test]
fn an_older_value_that_was_met_is_told_though_the_connection_broke() {
    let (ours, theirs) = (KeyValueStore::new(), KeyValueStore::new());
    let (deleted, written) = (Version { time: 5, origin: 1 }, Version { time: 4, origin: 1 });
    ours.merge(&Record { version: deleted, key: b"k", value: None }, |_| 0);
    theirs.merge(&Record { version: written, key: b"k", value: Some(b"v") }, |_| 0);
    let view = View { store: &ours, cutoff: 6 };
    let (queue, limits) = (Queue::new(10, 1_000), Limits::default());
    let (mut link, mut breaks) = (Link::default(), 0);
    link.connected();
    let revived = loop {
        match link.step(0, &queue, view, &limits) {
            LinkStep::Send(requests) => {
                let replies = requests.iter().map(|request| reply(request, &theirs)).collect();
                if matches!(requests[..], [PeerRequest::Merge(_)]) {
                    // The peer took the tombstone, and its answer is lost.
                    link.broken();
                    link.connected();
                    breaks += 1;
                } else {
                    link.take(&requests, replies, view).expect("it makes sense");
                }
            }
            LinkStep::Greet | LinkStep::Wait { .. } => panic!("there is nothing to wait for"),
            LinkStep::Compared { revived, .. } => break revived,
        }
    };
    assert_eq!((breaks, theirs.version(b"k")), (1, Some(deleted)));
    assert_eq!(revived, Revived::from([(b"k"[..].into(), deleted)]));
}
