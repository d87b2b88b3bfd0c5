//! Runs many seeds, and finds the first that fails.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::nodes::Fault;

/// Runs seeds on all processors; the first failure, with its seed.
fn run_seeds(
    seeds: std::ops::Range<u64>,
    fault: Fault,
    play: fn(u64, Fault),
) -> Option<(u64, String)> {
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let failure = std::sync::Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds.end || failure.lock().expect("no panic").is_some() {
                        return;
                    }
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| play(seed, fault))) {
                        let message = panic.downcast_ref::<String>().cloned();
                        let message = message.unwrap_or_else(|| "a panic".into());
                        *failure.lock().expect("no panic") = Some((seed, message));
                    }
                }
            });
        }
    });
    failure.into_inner().expect("no panic")
}

/// Every seed passes.
pub fn passes(seeds: std::ops::Range<u64>, play: fn(u64, Fault)) {
    if let Some((seed, message)) = run_seeds(seeds, Fault::None, play) {
        panic!("SEED={seed}: {message}");
    }
}

/// The checks can fail: each mistake is found by some seed, and the same seeds pass without it.
pub fn is_caught_in(play: fn(u64, Fault), fault: Fault, seeds: u64) {
    let (seed, message) =
        run_seeds(0..seeds, fault, play).unwrap_or_else(|| panic!("{fault:?} was not caught"));
    play(seed, Fault::None);
    println!("{fault:?}: SEED={seed}: {message}");
}
