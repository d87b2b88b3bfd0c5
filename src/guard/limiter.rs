//! At most one line of log a second for what others can cause.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::locks::lock;

/// Shortest time between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// Decides whether a line may be logged, and counts those that may not.
#[derive(Debug, Default)]
pub struct LogLimiter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    logged: Option<Instant>,
    left_out: u64,
}

/// How many lines were left out since the last one. Shown behind a message: nothing, or ` (and 7
/// more)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut(u64);

impl LogLimiter {
    /// Whether a line may be logged now; if so, how many were left out before it.
    pub fn admit(&self) -> Option<LeftOut> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<LeftOut> {
        let mut state = lock(&self.0);
        if state.logged.is_some_and(|logged| now.saturating_duration_since(logged) < PAUSE) {
            state.left_out += 1;
            return None;
        }
        state.logged = Some(now);
        Some(LeftOut(std::mem::take(&mut state.left_out)))
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " (and {count} more)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_with_a_count_of_the_others() {
        let (limiter, start) = (LogLimiter::default(), Instant::now());
        let admitted = |ms| {
            limiter.admit_at(start + Duration::from_millis(ms)).map(|left_out| left_out.to_string())
        };
        assert_eq!(admitted(0).as_deref(), Some(""));
        assert_eq!([admitted(1), admitted(500), admitted(999)], [None, None, None]);
        assert_eq!(admitted(1_000).as_deref(), Some(" (and 3 more)"));
        assert_eq!(admitted(2_000).as_deref(), Some(""));
    }
}
