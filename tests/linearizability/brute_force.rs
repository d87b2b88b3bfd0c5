//! Both methods agree with the definition, tried out on small histories.

use kvstore::random::Random;

use crate::generated::{Shape, generate};
use crate::linearizability::{Event, Operation, Outcome, search, zones};

const HISTORIES: u64 = 10_000;

/// Tries all orders of all operations that may have happened.
fn is_linearizable(events: &[Event]) -> bool {
    let events: Vec<Event> =
        events.iter().copied().filter(|event| event.outcome != Outcome::Dropped).collect();
    goes_on(&events, &mut vec![false; events.len()], None)
}

/// Whether there is an order of the events that are not `done`, from this state on.
fn goes_on(events: &[Event], done: &mut [bool], state: Option<u64>) -> bool {
    let is_certain = |event: &Event| matches!(event.outcome, Outcome::Ok(_));
    let left = |done: &[bool]| (0..events.len()).filter(|i| !done[*i]).collect::<Vec<usize>>();
    if left(done).iter().all(|i| !is_certain(&events[*i])) {
        return true;
    }
    for index in left(done) {
        let event = &events[index];
        let is_late =
            left(done).iter().any(|i| events[*i].end().is_some_and(|end| end < event.start));
        let after = match event.operation {
            Operation::Put(value) => Some(value),
            Operation::Get(value) if is_certain(event) && value != state => continue,
            Operation::Get(_) => state,
            Operation::Delete(Some(existed)) if is_certain(event) && existed != state.is_some() => {
                continue;
            }
            Operation::Delete(_) => None,
        };
        if is_late {
            continue;
        }
        done[index] = true;
        let is_well = goes_on(events, done, after);
        done[index] = false;
        if is_well {
            return true;
        }
    }
    false
}

/// Makes one result or one time wrong, perhaps.
fn disturb(events: &mut [Event], random: &mut Random) {
    let index = random.below(events.len() as u64) as usize;
    let values = events.len() as u64;
    let event = &mut events[index];
    match &mut event.operation {
        Operation::Get(value) => {
            *value = Some(random.below(values)).filter(|value| *value > 0);
        }
        Operation::Delete(Some(existed)) => *existed = !*existed,
        Operation::Put(_) | Operation::Delete(None) => match &mut event.outcome {
            Outcome::Ok(end) => {
                let length = *end - event.start;
                event.start = random.below(20);
                *end = event.start + length;
            }
            outcome => *outcome = Outcome::Dropped,
        },
    }
}

/// Compares a method with brute force on random histories; some of both kinds must come up.
fn agrees(shape: Shape, check: fn(&[Event]) -> Result<(), String>) {
    let mut random = Random(1);
    let mut counts = [0, 0];
    for _ in 0..HISTORIES {
        let operations = 1 + random.below(7) as usize;
        let clients = 1 + random.below(4) as usize;
        let shape = Shape { operations, clients, ..shape };
        let history = generate(&shape, &mut random);
        let mut events = history.keys.into_values().next().unwrap();
        assert_eq!(check(&events), Ok(()), "linearizable as it was made: {events:#?}");
        (0..random.below(3)).for_each(|_| disturb(&mut events, &mut random));
        let expected = is_linearizable(&events);
        let found = check(&events);
        assert_eq!(found.is_ok(), expected, "{found:?}\n{events:#?}");
        counts[usize::from(expected)] += 1;
    }
    println!("not linearizable, linearizable: {counts:?}");
    assert!(counts.iter().all(|count| *count > HISTORIES / 5), "{counts:?}");
}

const SMALL: Shape = Shape {
    operations: 0,
    clients: 0,
    keys: 1,
    longest: 6,
    unknown_one_in: 4,
    deletes: false,
    distinct_values: u64::MAX,
};

#[test]
fn zones_agree_with_brute_force() {
    agrees(SMALL, zones);
}

#[test]
fn the_search_agrees_with_brute_force_on_puts_and_gets() {
    agrees(SMALL, search);
}

#[test]
fn the_search_agrees_with_brute_force_on_deletes() {
    agrees(Shape { deletes: true, ..SMALL }, search);
}

#[test]
fn the_search_agrees_with_brute_force_on_values_put_twice() {
    agrees(Shape { deletes: true, distinct_values: 2, ..SMALL }, search);
}
