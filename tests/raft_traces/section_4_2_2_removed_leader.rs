//! Section 4.2.2: a leader that removes itself leads until that is committed, without counting
//! itself. Figure 4.6: until then it may be the only one who can be elected.

use kvstore::consensus::changing::MemberChange;

use crate::cluster::Cluster;

fn removing_itself() -> Cluster {
    let mut cluster = Cluster::of(2);
    cluster.elect(1, &[2]);
    cluster.replicate(1, &[2]);
    cluster.change(1, MemberChange::Remove(1)).unwrap();
    cluster.settle(1);
    cluster
}

#[test]
fn it_does_not_count_itself_and_steps_down_when_its_removal_is_committed() {
    let mut cluster = removing_itself();
    assert_eq!(cluster.commit(1), 2, "it has the entry, but does not count");
    cluster.append(1, 2);
    assert_eq!(cluster.commit(1), 3);
    assert!(!cluster.leads(1));
    // It does not stand again. The other one is a cluster of its own.
    cluster.time_out(1);
    assert!(cluster.node(1).vote_request(2).is_none());
    cluster.time_out(2);
    assert!(cluster.leads(2));
}

#[test]
fn it_stands_again_while_its_removal_is_not_committed() {
    let mut cluster = removing_itself();
    cluster.restart(1);
    // Node 2 needs the vote of node 1, whose log is longer.
    cluster.stand(2, &[1]);
    assert!(!cluster.leads(2));
    // Node 1 needs only the vote of node 2. Its own does not count.
    cluster.time_out(1);
    assert!(!cluster.leads(1));
    cluster.elect(1, &[2]);
    cluster.replicate(1, &[2]);
    assert!(!cluster.leads(1));
    cluster.time_out(2);
    assert!(cluster.leads(2));
}
