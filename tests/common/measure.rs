//! Comparing speeds on a machine that does other things too.

use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One measurement at a time, among the tests of a file.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// What a measurement says that must be good in one of three tries: other load can spoil a
/// comparison, not make it better than it is.
pub fn one_of_three<T: Debug>(
    what: &str,
    measure: impl Fn() -> T,
    is_good: impl Fn(&T) -> bool,
) -> T {
    let mut tries = Vec::new();
    while tries.len() < 3 {
        let measured = measure();
        if is_good(&measured) {
            println!("{what}: {measured:.2?}");
            return measured;
        }
        tries.push(measured);
    }
    panic!("{what}: {tries:.2?}");
}
