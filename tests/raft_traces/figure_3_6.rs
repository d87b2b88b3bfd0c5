//! Figure 3.6 (figure 7 of the paper): when the leader of term 8 comes to power, its followers may
//! miss entries, have more, or both. It makes their logs like its own.

use crate::cluster::Cluster;

#[test]
fn all_followers_get_the_log_of_the_leader() {
    let leader = "1 1 1 4 4 5 5 6 6 6";
    let mut cluster = Cluster::with_logs(&[
        leader,
        "1 1 1 4 4 5 5 6 6",       // (a) misses one
        "1 1 1 4",                 // (b) misses six
        "1 1 1 4 4 5 5 6 6 6 6",   // (c) has one more
        "1 1 1 4 4 5 5 6 6 6 7 7", // (d) has two more, of term 7
        "1 1 1 4 4 4 4",           // (e) both
        "1 1 1 2 2 2 3 3 3 3 3",   // (f) both
    ]);
    // The first attempt tells it of term 7.
    cluster.stand(1, &[5]);
    cluster.time_out(1);
    let ask = |cluster: &mut Cluster| {
        [2, 3, 4, 5, 6, 7].map(|id| {
            cluster.node(1).vote_request(id).is_some_and(|request| {
                let (reply, now_ms) = (cluster.ask_vote(1, id, &request), cluster.now_ms);
                cluster.node(1).take_vote(id, &request, &reply, now_ms);
                reply.is_granted
            })
        })
    };
    // (a), (b), (e) vote for it, (c) and (d) do not; (f) is not needed for the trial any more.
    assert_eq!(ask(&mut cluster), [true, true, false, false, true, true]);
    ask(&mut cluster);
    assert!(cluster.leads(1));
    assert_eq!(cluster.node(1).term(), 8);
    for follower in 2..=7 {
        while cluster.log(follower) != cluster.log(1) {
            cluster.append(1, follower);
        }
    }
    assert_eq!(cluster.log(7), format!("{leader} 8"));
    cluster.settle(1);
    cluster.append(1, 2);
    assert_eq!(cluster.commit(1), 11);
}

#[test]
fn a_term_that_differs_costs_one_exchange() {
    let mut cluster = Cluster::with_logs(&["1 1 1 4 4 5 5 6 6 6", "1 1 1 2 2 2 3 3 3 3 3", "1"]);
    cluster.elect(1, &[2, 3]);
    let mut exchanges = 0;
    while cluster.log(2) != cluster.log(1) {
        cluster.append(1, 2);
        exchanges += 1;
    }
    // Behind the end of term 3, behind the end of term 2, and then it matches.
    assert_eq!(exchanges, 3);
}
