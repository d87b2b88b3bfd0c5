//! Writers, commits, fsyncs and compactions at the same time, and the orders in which their steps
//! can happen.

use super::*;

#[test]
fn a_record_is_in_the_buffer_or_in_a_frame() {
    // Writers, commits, fsyncs and compactions at the same time; then everything is there.
    for policy in POLICIES {
        let disk = ModelDisk::default();
        let store = KeyValueStore::new();
        let opened = open_files(Arc::new(disk.clone()), opening(policy), Target::Store(&store));
        let (log, _, _) = opened.expect("empty");
        thread::scope(|scope| {
            for writer in 0..4u64 {
                let (log, store) = (&log, &store);
                scope.spawn(move || {
                    for i in 0..500u64 {
                        let key = format!("{writer}:{}", i % 50);
                        let stamp = |floor| Version { time: floor + 1, origin: writer };
                        let value = i.to_le_bytes();
                        let journal = |record: &[u8]| log.append(record);
                        let written =
                            store.write(key.as_bytes(), Some(&value), false, stamp, journal);
                        if i % 7 == 0 {
                            log.commit(written.position).expect("commits");
                        }
                    }
                    log.commit(log.end()).expect("commits");
                });
            }
            for _ in 0..4 {
                snapshot::compact(&log, &store, &[]).expect("compacts");
                log.fsync().expect("syncs");
            }
        });
        assert_eq!(recovered_map(&disk).expect("starts"), live(&store));
        assert_eq!(live(&store).len(), 200);
    }
}

/// All ways to put two sequences of steps in one order.
fn orders(first: &[char], second: &[char]) -> Vec<String> {
    match (first, second) {
        ([], rest) | (rest, []) => vec![rest.iter().collect()],
        ([a, first_rest @ ..], [b, second_rest @ ..]) => {
            let with_a = orders(first_rest, second).into_iter().map(|rest| format!("{a}{rest}"));
            let with_b = orders(first, second_rest).into_iter().map(|rest| format!("{b}{rest}"));
            with_a.chain(with_b).collect()
        }
    }
}

/// Carries out steps by hand: `a`ppend, `m`erge, `r`otate, `c`opy, `d`elete; whether the record is
/// lost.
fn is_lost(order: &str) -> bool {
    let (mut in_map, mut in_copy) = (false, false);
    // Of the old log and of the new one.
    let (mut logs, mut current) = ([false, false], 0);
    for step in order.chars() {
        match step {
            'a' => logs[current] = true,
            'm' => in_map = true,
            'r' => current = 1,
            'c' => in_copy = in_map,
            _ => logs[0] = false,
        }
    }
    !in_copy && logs == [false, false]
}

#[test]
fn two_of_ten_orders_lose_a_record_when_append_and_merge_are_two_steps() {
    let all = orders(&['a', 'm'], &['r', 'c', 'd']);
    let lost: Vec<&String> = all.iter().filter(|order| is_lost(order)).collect();
    assert_eq!((all.len(), lost), (10, vec![&"arcmd".into(), &"arcdm".into()]));
    // Under one lock they are one step, and a copy rotates first: no order loses.
    let locked = orders(&['w'], &['r', 'c', 'd']);
    assert!(locked.iter().all(|order| !is_lost(&order.replace('w', "am"))));
    // Copying before rotating would.
    let wrong = orders(&['w'], &['c', 'r', 'd']);
    assert!(wrong.iter().any(|order| is_lost(&order.replace('w', "am"))));
}
