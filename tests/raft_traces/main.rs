//! Traces of a few replicas, one file for each figure or section of Ongaro's dissertation (2014),
//! with the messages delivered by hand. They show what the rules are for, and are read best beside
//! it. In parentheses: the numbers of the rules in the core.
//!
//! | file | shows |
//! |---|---|
//! | `section_3_5_log_matching` | a follower cuts its log only where it differs (2, 5) |
//! | `section_3_6_1_up_to_date` | whose log is good enough for a vote; 5.4.1 of the paper (3) |
//! | `figure_3_6` | followers of all kinds get the leader's log; figure 7 of the paper |
//! | `figure_3_7` | why entries of older terms are not counted; figure 8 of the paper (4) |
//! | `section_4_1_members` | members change one at a time, with the correction of 2015 (7) |
//! | `section_4_2_2_removed_leader` | a leader that removes itself (4, 7) |
//! | `section_6_2_check_quorum` | a leader that nobody answers steps down (6) |
//! | `section_6_2_forwarding` | writes and reads at followers, which ask the leader (8) |
//! | `section_6_4_reads` | a read is answered after a round of messages (8) |
//! | `section_9_6_pre_vote` | a node that was cut off disturbs nobody (3) |
//! | `section_10_2_1_disk` | the leader's disk works while its messages travel (1, 2, 10) |
//!
//! Rule 9 is an assertion: "only committed entries are applied".

mod cluster;
mod figure_3_6;
mod figure_3_7;
#[path = "../common/machine.rs"]
mod machine;
mod section_10_2_1_disk;
mod section_3_5_log_matching;
mod section_3_6_1_up_to_date;
mod section_4_1_members;
mod section_4_2_2_removed_leader;
mod section_6_2_check_quorum;
mod section_6_2_forwarding;
mod section_6_4_reads;
mod section_9_6_pre_vote;
