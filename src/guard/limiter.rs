//! At most one line of log a second for messages that others can cause.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::locks::lock;

/// Shortest time between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// Decides whether a line may be logged, and counts the lines that may not.
#[derive(Debug, Default)]
pub struct LogLimiter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    logged: Option<Instant>,
    left_out: u64,
}

impl LogLimiter {
    /// `None`: no line may be logged now. Otherwise the end of the message, which counts the lines
    /// left out since the last one: nothing, or ` (and 7 more)`.
    pub fn admit(&self) -> Option<String> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<String> {
        let mut state = lock(&self.0);
        if state.logged.is_some_and(|logged| now.saturating_duration_since(logged) < PAUSE) {
            state.left_out += 1;
            return None;
        }
        state.logged = Some(now);
        Some(match std::mem::take(&mut state.left_out) {
            0 => String::new(),
            count => format!(" (and {count} more)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_with_a_count_of_the_others() {
        let (limiter, start) = (LogLimiter::default(), Instant::now());
        let admitted = |ms| limiter.admit_at(start + Duration::from_millis(ms));
        assert_eq!(admitted(0).as_deref(), Some(""));
        assert_eq!([admitted(1), admitted(500), admitted(999)], [None, None, None]);
        assert_eq!(admitted(1_000).as_deref(), Some(" (and 3 more)"));
        assert_eq!(admitted(2_000).as_deref(), Some(""));
    }
}
