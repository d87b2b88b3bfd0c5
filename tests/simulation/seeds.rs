//! Plays many seeds, and finds the first that fails.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::nodes::Fault;
use crate::reached::Reached;

/// A schedule for a seed.
pub type Play = fn(u64, Fault) -> Reached;

/// Plays seeds on all processors: what they reached, or the first failure with its seed.
pub fn play_all(seeds: Range<u64>, fault: Fault, play: Play) -> Result<Reached, (u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let (failure, reached) = (Mutex::new(None), Mutex::new(Reached::default()));
    let play_some = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failure.lock().expect("no panic").is_some() {
                return;
            }
            match catch_unwind(AssertUnwindSafe(|| play(seed, fault))) {
                Ok(one) => reached.lock().expect("no panic").add_all(&one),
                Err(panic) => {
                    let message = panic.downcast_ref::<String>().cloned();
                    let message = message
                        .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                    let message = message.unwrap_or_else(|| "a panic".into());
                    *failure.lock().expect("no panic") = Some((seed, message));
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(play_some))));
    let reached = reached.into_inner().expect("no panic");
    failure.into_inner().expect("no panic").map_or(Ok(reached), Err)
}

/// Every seed passes. What they reached.
pub fn passes(seeds: Range<u64>, play: Play) -> Reached {
    play_all(seeds, Fault::None, play)
        .unwrap_or_else(|(seed, message)| panic!("SEED={seed}: {message}"))
}

/// The checks can fail: a mistake is found by some seed, and the same seed passes without it.
pub fn is_caught(play: Play, fault: Fault, seeds: Range<u64>) {
    let Err((seed, message)) = play_all(seeds, fault, play) else {
        panic!("{fault:?} was not caught");
    };
    play(seed, Fault::None);
    println!("{fault:?}: SEED={seed}: {message}");
}
