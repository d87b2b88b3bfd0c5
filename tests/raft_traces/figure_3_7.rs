//! Figure 3.7 (figure 8 of the paper): an entry of an older term may be on a majority and still be
//! replaced. So a leader counts only entries of its own term.

use crate::cluster::Cluster;

/// Up to (c): entry 2 of term 2 is on nodes 1, 2 and 3, a majority; node 1 leads term 4; node 5 has
/// an entry 2 of term 3.
fn until_c() -> Cluster {
    let mut cluster = Cluster::of(5);
    // (a) Node 1 leads term 2, and only node 2 gets its entry.
    cluster.elect(1, &[2, 3]);
    cluster.append(1, 2);
    // (b) Node 1 crashes. Node 5 leads term 3 with the votes of 3 and 4, and keeps its entry.
    cluster.restart(1);
    cluster.elect(5, &[3, 4]);
    assert_eq!((cluster.log(2).as_str(), cluster.log(5).as_str()), ("1 2", "1 3"));
    // (c) Node 5 crashes. Node 1 leads term 4, and sends on its entry of term 2.
    cluster.restart(5);
    cluster.elect(1, &[2, 3]);
    assert_eq!((cluster.log(1).as_str(), cluster.node(1).term()), ("1 2 4", 4));
    cluster.append(1, 3);
    cluster.append_only(1, 3, 1);
    cluster.append_only(1, 2, 0);
    assert_eq!([2, 3].map(|id| cluster.node(1).matched(id)), [Some(2), Some(2)]);
    assert_eq!([cluster.log(2), cluster.log(3)], ["1 2", "1 2"]);
    cluster
}

#[test]
fn an_entry_of_an_older_term_is_not_counted_and_may_be_replaced() {
    let mut cluster = until_c();
    assert_eq!(cluster.commit(1), 0, "on a majority, but not committed");
    // (d) Node 5 is elected by 2, 3 and 4, and replaces the entry.
    cluster.restart(1);
    cluster.elect(5, &[2, 3, 4]);
    for follower in 1..=4 {
        while cluster.log(follower) != cluster.log(5) {
            cluster.append(5, follower);
        }
    }
    assert_eq!(cluster.log(2), "1 3 5");
}

#[test]
fn an_entry_of_its_own_term_commits_what_is_before_it() {
    let mut cluster = until_c();
    // (e) Entry 3, of term 4, reaches a majority. Now node 5 cannot win.
    cluster.append(1, 2);
    cluster.append(1, 3);
    assert_eq!(cluster.commit(1), 3);
    cluster.restart(1);
    cluster.stand(5, &[2, 3, 4]);
    cluster.stand(5, &[2, 3, 4]);
    assert!(!cluster.leads(5), "nodes 2 and 3 do not vote for it");
}
