//! Histories of puts of unique values and gets, in O(n log n) steps; the method is described at the
//! module above.

use std::collections::HashMap;

use super::{Event, Operation, Outcome, Value};

/// The write of a value and its reads.
struct Cluster<'a> {
    value: Option<Value>,
    /// `None` for the initial value, and until the write is found.
    write: Option<&'a Event>,
    /// The events with the earliest end and the latest start; none for the initial value, whose
    /// write came before everything.
    first_end: Option<&'a Event>,
    last_start: Option<&'a Event>,
    /// The earliest end; −1 for the initial value.
    finish: i128,
    /// The latest start; −1 for the initial value if nobody read it.
    start: i128,
}

impl<'a> Cluster<'a> {
    fn new(value: Option<Value>) -> Cluster<'a> {
        let finish = if value.is_none() { -1 } else { i128::MAX };
        let (write, first_end, last_start) = (None, None, None);
        Cluster { value, write, first_end, last_start, finish, start: -1 }
    }

    fn add(&mut self, event: &'a Event) {
        if let Some(end) = event.end().map(i128::from).filter(|end| *end < self.finish) {
            self.finish = end;
            self.first_end = Some(event);
        }
        if i128::from(event.start) > self.start {
            self.start = event.start.into();
            self.last_start = Some(event);
        }
        if matches!(event.operation, Operation::Put(_)) {
            self.write = Some(event);
        }
    }

    fn is_forward(&self) -> bool {
        self.finish < self.start
    }

    /// Whether an operation of this cluster ended before one of the other started.
    fn must_precede(&self, other: &Cluster) -> bool {
        self.finish < other.start
    }
}

/// Checks the events of one key that is absent at first. Each value is put at most once, and
/// nothing is deleted. An error is a contradiction, for a person to read.
pub fn zones(events: &[Event]) -> Result<(), String> {
    let clusters = clusters(events)?;
    let (mut forward, backward): (Vec<Cluster>, Vec<Cluster>) =
        clusters.into_iter().partition(Cluster::is_forward);
    forward.sort_by_key(|cluster| cluster.finish);
    // If any two overlap, then two neighbours do.
    for pair in forward.windows(2) {
        if pair[1].must_precede(&pair[0]) {
            return Err(contradiction(&pair[0], &pair[1]));
        }
    }
    for cluster in &backward {
        // Forward zones do not overlap: only the last that begins before this zone can contain it.
        let index = forward.partition_point(|zone| zone.must_precede(cluster));
        if let Some(zone) = index.checked_sub(1).map(|index| &forward[index])
            && cluster.must_precede(zone)
        {
            return Err(contradiction(zone, cluster));
        }
    }
    Ok(())
}

fn clusters(events: &[Event]) -> Result<Vec<Cluster<'_>>, String> {
    let mut clusters = HashMap::from([(None, Cluster::new(None))]);
    for event in events.iter().filter(|event| event.counts()) {
        let value = match event.operation {
            Operation::Put(value) => Some(value),
            Operation::Get(value) => value,
            Operation::Delete(_) => panic!("zones cannot check deletes: {event}"),
        };
        let cluster = clusters.entry(value).or_insert_with(|| Cluster::new(value));
        let is_put = matches!(event.operation, Operation::Put(_));
        assert!(!(is_put && cluster.write.is_some()), "put twice: {event}");
        cluster.add(event);
    }
    // A put with unknown outcome that nobody read may never have happened. Without it, every other
    // operation has the same result: the operation behind it in a linearization is another put.
    clusters.retain(|_, cluster| cluster.finish != i128::MAX);
    for cluster in clusters.values() {
        let (Some(value), Some(read)) = (cluster.value, cluster.first_end) else {
            continue;
        };
        let Some(write) = cluster.write else {
            // A dropped put is not in its cluster, but it is what the reader wants to see.
            let dropped = events.iter().find(|event| {
                event.operation == Operation::Put(value) && event.outcome == Outcome::Dropped
            });
            return Err(match dropped {
                Some(put) => format!("a read saw a put that did not happen:\n  {put}\n  {read}"),
                None => format!("a read saw a value that nobody put:\n  {read}"),
            });
        };
        if cluster.finish < i128::from(write.start) {
            return Err(format!("a read ended before its put started:\n  {read}\n  {write}"));
        }
    }
    Ok(clusters.into_values().collect())
}

/// Two clusters that must each come before the other.
fn contradiction(one: &Cluster, other: &Cluster) -> String {
    format!(
        "two values must each come before the other:\n{}{}",
        order(one, other),
        order(other, one)
    )
}

fn order(first: &Cluster, second: &Cluster) -> String {
    let name = |value: Option<Value>| value.map_or("absent".into(), |value| value.to_string());
    let line = |event: Option<&Event>| {
        event.map_or("every key is absent at first".into(), Event::to_string)
    };
    format!(
        "  {} comes before {}, as the first of these ended before the second started:\n    {}\n    \
         {}\n",
        name(first.value),
        name(second.value),
        line(first.first_end),
        line(second.last_start)
    )
}
