//! Is a node running twice? A data directory that was copied, and both copies started, shows itself
//! to a third node as one node id with two run ids.
//!
//! A restart looks almost the same: the id comes with a new run id, and an introduction of the old
//! run may still be on its way and arrive behind it. But a run that has ended sends nothing new, so
//! after a restart the old run id returns once or twice and never again, while two living copies
//! take turns for as long as they live, since each ends the other's connection. So: `RETURNS`
//! returns of an earlier run mean two living copies, and both are refused, until one of them
//! introduced itself `IN_A_ROW` times with nothing of the other between. Refused nodes try again
//! every two seconds, so that takes a minute after the other was stopped. A node that is started
//! again has a new run id, and is let in at once.

use crate::error::Error;

/// Earlier runs of a node that are remembered.
const RUNS_MAX: usize = 8;
/// Returns of earlier runs that no restart explains.
const RETURNS: u32 = 4;
/// Introductions of one run in succession after which the other one is gone.
const IN_A_ROW: u32 = 30;

/// The latest runs of one node.
#[derive(Debug, Default)]
pub struct Runs {
    /// Run ids, the latest last.
    known: Vec<u64>,
    /// How often an earlier run introduced itself again.
    returns: u32,
    /// Introductions of the latest run since.
    in_a_row: u32,
}

impl Runs {
    /// The node introduced itself in this run.
    pub fn heard(&mut self, run_id: u64) {
        if self.known.last() == Some(&run_id) {
            self.in_a_row += 1;
            if self.in_a_row >= IN_A_ROW {
                *self = Runs { known: vec![run_id], returns: 0, in_a_row: 0 };
            }
            return;
        }
        let count = self.known.len();
        self.known.retain(|known| *known != run_id);
        if self.known.len() < count {
            self.returns += 1;
        } else if count == RUNS_MAX {
            self.known.remove(0);
        }
        self.known.push(run_id);
        self.in_a_row = 1;
    }

    /// Whether two runs of the node are alive.
    pub fn are_two_alive(&self) -> bool {
        self.returns >= RETURNS
    }
}

/// The error for a node that introduces itself with the id of another running node.
pub fn copied_directory(id: u64) -> Error {
    Error::refused(format!(
        "two running nodes have the id {id:016x}: a copied data directory; stop one of them, and \
         start it again with an empty directory"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(runs: impl IntoIterator<Item = u64>) -> Runs {
        let mut all = Runs::default();
        runs.into_iter().for_each(|run| all.heard(run));
        all
    }

    #[test]
    fn restarts_are_no_copies_though_late_words_of_earlier_runs_arrive() {
        assert!(!after(0..1_000).are_two_alive(), "restarts");
        assert!(
            !after([1, 1, 2, 1, 2, 2]).are_two_alive(),
            "one introduction of the run before was late"
        );
        assert!(!after([1, 2, 3, 2, 1, 3, 3]).are_two_alive(), "a late one of each of two");
        let often = (0..100).flat_map(|run| [run, run + 1, run].into_iter().chain([run + 1; 40]));
        assert!(
            !after(often).are_two_alive(),
            "one late introduction for each of a hundred restarts"
        );
        assert!(after(0..1_000).known.len() <= RUNS_MAX);
    }

    #[test]
    fn two_living_runs_are_noticed_whatever_else_is_heard_and_forgiven_when_one_has_gone() {
        let mut runs = after([1, 2, 1, 2, 1, 2]);
        assert!(runs.are_two_alive());
        (0..5).for_each(|_| [1, 1, 1, 2].into_iter().for_each(|run| runs.heard(run)));
        assert!(runs.are_two_alive(), "refused nodes try again, and not in turn");
        // The first was stopped.
        (1..IN_A_ROW).for_each(|_| runs.heard(2));
        assert!(!runs.are_two_alive());
    }
}
