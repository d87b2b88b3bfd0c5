//! Many clusters that agree by consensus: the real core, under whatever a seed makes up.
//!
//! One seed decides everything: how many nodes there are, and whether they know each other, meet
//! for the first time or have a learner; what clients write, delete and read, at any node; which
//! messages are late, lost with their connection, or delivered two times; which nodes are cut off,
//! in one direction or both, pause, are killed, or lose the power and with it what was not synced;
//! whose disk is slow, or fails and heals; who compacts its log, joins, is removed, or is wiped and
//! replaced by another. Then everything heals.
//!
//! After every step this must hold (dissertation, figure 3.2; `checks`):
//!
//! - *Election safety*: a term has one leader.
//! - *Log matching*: entries of the same index and term are the same, and so are all before them.
//! - *Leader completeness*: a leader has all entries that were committed in earlier terms.
//! - *Committed entries* stay what they are, whoever committed them.
//! - *State-machine safety*: stores that have applied the same entries are the same.
//! - *True answers*: a follower has what its leader believes that it has.
//!
//! At the end: what clients saw is *linearizable* (`tests/linearizability`), writes are answered
//! again, members are those that should be, and all their stores are the same (*progress*).
//!
//! Each check has been seen to fail. These faults are planted, one for a whole run:
//!
//! | fault | is caught by |
//! |---|---|
//! | a vote leaves before it is synced | election safety |
//! | an entry counts as safe when it is written | true answers |
//! | an answer names the end of the log, not of the request | true answers |
//! | an entry of an older term is committed by counting | leader completeness |
//! | a read without a round of messages | linearizability |
//! | a read with the answer to an older round | linearizability |
//! | a vote that arrives two times counts two times | election safety |
//! | an APPEND cuts the log behind what it names | true answers |
//! | two members change at once | leader completeness |
//! | a wiped node comes back under its old id | leader completeness, election safety |
//! | a leader evaluates before it has applied | linearizability |
//! | an operation without effect is answered at once | linearizability |
//! | a leader reads before it has applied what it committed | linearizability |
//! | a follower reads without asking the leader | linearizability |
//! | a follower reads before the leader's round is confirmed | linearizability |
//! | a round that was confirmed counts in another term | linearizability |
//! | a write whose answer was lost is sent again | linearizability |
//! | a write that a link took is said not to be stored | linearizability |
//!
//! The core has no switches for them: they are planted in what drives it (`faults`).
//!
//! The nodes run the core; what the threads, the links and the disk do around it stands here and in
//! `tests/common/machine.rs`: one exchange at a time on each link, answers that wait for the disk,
//! group commit, recovery. What followers ask of the leader waits in the real queue. The transfer
//! to a node that is too far behind is one step here.
//!
//! A failure prints its seed; `SEED=n cargo test --test raft_simulation agree` plays it again, and
//! `TRACE=1` shows what happens.
//!
//! Files: `network` is the network, the clock and the dice, `nodes` are the nodes, `cluster` is
//! what their threads do, `clients` ask, `forwarding` asks the leader, `members` join and go,
//! `trouble` is what goes wrong and the schedule of a run, `checks` must hold, and `reached` counts
//! what happened.

mod checks;
mod clients;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod forwarding;
#[path = "../linearizability/mod.rs"]
mod linearizability;
#[path = "../common/machine.rs"]
mod machine;
mod members;
mod network;
mod nodes;
mod reached;
#[path = "../simulation/seeds.rs"]
mod seeds;
mod trouble;

use std::ops::Range;
use std::time::Instant;

use nodes::Fault;
use seeds::{is_caught, passes};
use trouble::simulate;

/// Without optimization a seed takes ten times as long.
const SEEDS: u64 = if cfg!(debug_assertions) { 2_000 } else { 4_000 };

/// Plays seeds, or the one that the environment names, and shows what they reached.
fn check_seeds(seeds: Range<u64>) {
    if let Ok(seed) = std::env::var("SEED") {
        simulate(seed.parse().expect("SEED is a number"), Fault::None);
        return;
    }
    let count = seeds.end - seeds.start;
    let reached = passes(seeds, simulate);
    println!("{count} seeds reached:\n{reached}");
    if count >= 1_000 {
        assert_eq!(reached.missing(), [], "kinds of trouble that no seed reached");
    }
}

#[test]
fn clusters_agree_through_any_trouble() {
    check_seeds(0..SEEDS);
}

#[test]
#[ignore = "takes minutes"]
fn clusters_agree_through_any_trouble_100_000_times() {
    let began = Instant::now();
    check_seeds(0..common::full_size(100_000));
    println!("{:.1} minutes", began.elapsed().as_secs_f64() / 60.0);
}

/// A test for each fault: one of these seeds catches it.
macro_rules! faults {
    ($($name:ident, $fault:ident, $seeds:expr;)*) => {
        $(
            #[test]
            fn $name() {
                is_caught(simulate, Fault::$fault, $seeds);
            }
        )*
    };
}

faults! {
    a_vote_that_is_not_synced_is_caught, VoteNotSynced, 0..2_000;
    an_entry_acknowledged_before_it_is_synced_is_caught, AcknowledgedBeforeSync, 0..2_000;
    an_answer_that_names_the_end_of_the_log_is_caught, AnswerNamesTheEndOfTheLog, 0..2_000;
    // About one run in 5,000 has Figure 3.7.
    an_entry_of_an_older_term_that_is_counted_is_caught, OlderTermCounted, 5_000..6_000;
    a_read_without_a_round_is_caught, ReadWithoutRound, 0..2_000;
    a_read_with_the_answer_to_an_older_round_is_caught, ReadWithOlderRound, 0..2_000;
    a_vote_that_is_counted_twice_is_caught, VoteCountedTwice, 0..2_000;
    a_late_append_that_cuts_is_caught, LateAppendCuts, 0..2_000;
    two_members_changed_at_once_are_caught, TwoMembersChanged, 0..2_000;
    a_wiped_node_under_its_old_id_is_caught, WipedNodeKeepsItsId, 0..2_000;
    a_leader_that_evaluates_before_it_has_applied_is_caught, EvaluatesBeforeApplied, 0..2_000;
    an_operation_without_effect_answered_at_once_is_caught, NoEffectAnsweredAtOnce, 0..2_000;
    a_leader_that_reads_before_it_has_applied_is_caught, LeaderReadsBeforeApplied, 0..2_000;
    a_follower_that_reads_at_once_is_caught, FollowerReadsAtOnce, 0..2_000;
    a_round_that_is_not_awaited_is_caught, RoundNotAwaited, 0..2_000;
    a_round_kept_across_terms_is_caught, RoundKeptAcrossTerms, 0..2_000;
    a_ticket_that_is_sent_again_is_caught, TicketSentAgain, 0..2_000;
    a_ticket_that_was_taken_and_not_stored_is_caught, TakenTicketNotStored, 0..2_000;
}
