//! Planted faults in large histories are caught; large histories are checked in seconds.

use std::time::{Duration, Instant};

use kvstore::random::Random;

use crate::generated::{Shape, generate};
use crate::linearizability::{Event, History, Operation, Outcome};

const LARGE: Shape = Shape {
    operations: 100_000,
    clients: 20,
    keys: 10,
    longest: 1_000,
    unknown_one_in: 50,
    deletes: false,
    distinct_values: u64::MAX,
};

/// Far more than a check takes, as machines may be loaded; far less than a search that explodes.
const LONGEST_CHECK: Duration = Duration::from_secs(20);

#[track_caller]
fn is_checked_in_time(history: &History) {
    let began = Instant::now();
    history.check().unwrap();
    println!("{} operations in {:?}", history.len(), began.elapsed());
    assert!(began.elapsed() < LONGEST_CHECK, "{:?}", began.elapsed());
}

#[test]
fn a_large_history_is_checked_in_seconds() {
    is_checked_in_time(&generate(&LARGE, &mut Random(1)));
}

#[test]
fn a_large_history_with_deletes_is_checked_in_seconds() {
    is_checked_in_time(&generate(
        &Shape { deletes: true, operations: 30_000, ..LARGE },
        &mut Random(1),
    ));
}

#[test]
fn a_history_of_one_key_with_deletes_is_checked_in_seconds() {
    let shape = Shape { deletes: true, keys: 1, clients: 6, operations: 5_000, ..LARGE };
    is_checked_in_time(&generate(&shape, &mut Random(1)));
}

/// Appends events to one key of a large history; what the check says.
fn plant(deletes: bool, events: &[(u64, u64, Operation)]) -> String {
    // A delete with unknown outcome could explain that a key is absent, at any time after it.
    let unknown_one_in = if deletes { u64::MAX } else { LARGE.unknown_one_in };
    let shape = Shape { deletes, unknown_one_in, operations: 5_000, ..LARGE };
    let mut history = generate(&shape, &mut Random(2));
    history.check().unwrap();
    let last = history.keys["key3"].iter().map(|event| event.end().unwrap_or(event.start));
    let quiet = last.max().unwrap() + 10;
    for (start, end, operation) in events.iter().copied() {
        let outcome = Outcome::Ok(quiet + end);
        history.add("key3", Event { client: 99, start: quiet + start, operation, outcome });
    }
    let violation = history.check().unwrap_err();
    println!("{violation}");
    assert_eq!(violation.key, "key3");
    violation.explanation
}

const ONE: u64 = 1_000_001;
const TWO: u64 = 1_000_002;
const PUT_ONE: Operation = Operation::Put(ONE);
const PUT_TWO: Operation = Operation::Put(TWO);
const GET_ONE: Operation = Operation::Get(Some(ONE));
const GET_TWO: Operation = Operation::Get(Some(TWO));

#[test]
fn a_stale_read_is_caught() {
    for deletes in [false, true] {
        let text = plant(deletes, &[(0, 1, PUT_ONE), (2, 3, PUT_TWO), (4, 5, GET_ONE)]);
        assert!(text.contains(" get = 1000001") && text.contains(" put 1000002"), "{text}");
    }
}

#[test]
fn a_lost_update_is_caught() {
    // The second put was acknowledged, and was gone as soon as its client looked.
    for deletes in [false, true] {
        let events = [(0, 1, PUT_ONE), (2, 3, PUT_TWO), (4, 5, GET_TWO), (6, 7, GET_ONE)];
        plant(deletes, &events);
        plant(deletes, &[(0, 1, PUT_ONE), (2, 3, Operation::Get(None))]);
    }
}

#[test]
fn reads_in_another_order_are_caught() {
    // The puts overlap, so either may be the last; but not first the one and then the other.
    for deletes in [false, true] {
        let puts = [(0, 9, PUT_ONE), (0, 9, PUT_TWO)];
        let reads = [(10, 11, GET_ONE), (12, 13, GET_TWO)];
        plant(deletes, &[&puts[..], &reads].concat());
    }
}

#[test]
fn a_read_of_what_was_not_put_is_caught() {
    for deletes in [false, true] {
        plant(deletes, &[(0, 1, GET_ONE)]);
        plant(deletes, &[(0, 1, GET_ONE), (2, 3, PUT_ONE)]);
    }
}

#[test]
fn a_delete_that_comes_back_is_caught() {
    let delete = Operation::Delete(Some(true));
    plant(true, &[(0, 1, PUT_ONE), (2, 3, delete), (4, 5, GET_ONE)]);
    plant(true, &[(0, 1, PUT_ONE), (2, 3, delete), (4, 5, delete)]);
}

#[test]
fn a_dropped_put_that_is_read_is_caught() {
    let mut history = History::default();
    let put = Event { client: 1, start: 0, operation: PUT_ONE, outcome: Outcome::Dropped };
    history.add("key", put);
    history.check().unwrap();
    let (operation, outcome) = (GET_ONE, Outcome::Ok(9));
    history.add("key", Event { client: 2, start: 5, operation, outcome });
    assert_eq!(
        history.check().unwrap_err().to_string(),
        "key \"key\" is not linearizable: a read saw a put that did not happen:\n  \
         client 1            0 to (dropped)  put 1000001\n  \
         client 2            5 to 9          get = 1000001"
    );
}

#[test]
fn a_contradiction_names_the_operations_and_their_times() {
    let mut history = History::default();
    let events = [(1, 10, 20, PUT_ONE), (1, 30, 40, PUT_TWO), (2, 50, 60, GET_ONE)];
    for (client, start, end, operation) in events {
        history.add("key", Event { client, start, operation, outcome: Outcome::Ok(end) });
    }
    assert_eq!(
        history.check().unwrap_err().to_string(),
        "key \"key\" is not linearizable: two values must each come before the other:\n  \
         1000001 comes before 1000002, as the first of these ended before the second started:\n    \
         client 1           10 to 20         put 1000001\n    \
         client 1           30 to 40         put 1000002\n  \
         1000002 comes before 1000001, as the first of these ended before the second started:\n    \
         client 1           30 to 40         put 1000002\n    \
         client 2           50 to 60         get = 1000001\n"
    );
}
