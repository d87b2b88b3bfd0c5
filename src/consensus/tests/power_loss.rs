//! The power goes during any operation on the disk: what was answered for is there after the next
//! start, no vote becomes free again, and nothing is there that no leader sent.

use super::*;

/// A follower, its leaders, and what it has promised them.
struct Driver {
    disk: ModelDisk,
    policy: FsyncPolicy,
    follower: Follower,
    /// The newest term, and whether its leader got the vote.
    term: u64,
    vote: Option<u64>,
    /// What is certainly on the disk: from index 1 on.
    log: Vec<Arc<Entry>>,
    commit: usize,
    /// Everything that was ever sent.
    sent: BTreeMap<EntryId, Arc<Entry>>,
    /// The newest term that was ever sent.
    term_sent: u64,
}

impl Driver {
    fn start(disk: &ModelDisk, policy: FsyncPolicy) -> Result<Driver> {
        Ok(Driver {
            disk: disk.clone(),
            policy,
            follower: Follower::open(disk, policy)?,
            term: 0,
            vote: None,
            log: Vec::new(),
            commit: 0,
            sent: BTreeMap::new(),
            term_sent: 0,
        })
    }

    fn step(&mut self, random: &mut Random) -> Result<()> {
        match random.below(9) {
            0 => self.vote(),
            1 => self.follower.compact(),
            2 => {
                // The answer is lost with the disk, and the same is sent again when it has healed.
                let request = self.next_append(random);
                self.disk.set_faults(Faults { fsync_fails: true, ..Faults::default() });
                let failed = self.follower.append(&request);
                self.disk.set_faults(Faults::default());
                if failed.is_err() {
                    self.follower.shared.check_disk();
                    assert!(self.follower.append(&request).is_err(), "rule 10");
                    self.follower.heal()?;
                }
                self.append(&request)
            }
            _ => {
                let request = self.next_append(random);
                self.append(&request)
            }
        }
    }

    fn vote(&mut self) -> Result<()> {
        self.term_sent += 1;
        assert!(self.follower.vote(self.term_sent, false)?, "a free vote is given");
        (self.term, self.vote) = (self.term_sent, Some(leader_of(self.term_sent)));
        Ok(())
    }

    /// What the leader sends next; it may be a new one, which has another end of the log.
    fn next_append(&mut self, random: &mut Random) -> AppendRequest {
        let is_new = self.term == 0 || random.one_in(4);
        self.term_sent += u64::from(is_new);
        let len = self.log.len();
        let kept = if is_new {
            self.commit + random.below((len - self.commit + 1) as u64) as usize
        } else {
            len
        };
        let (term, mut entries) = (self.term_sent, Vec::new());
        for index in kept as u64 + 1..kept as u64 + 2 + random.below(3) {
            let (key, value) = (format!("k{}", random.below(4)), format!("{index} of {term}"));
            entries.push(match random.below(10) {
                _ if index == 1 => first_entry(term),
                0 => flush_entry(index, term),
                1 | 2 => write_entry(index, term, &key, None),
                _ => write_entry(index, term, &key, Some(&value)),
            });
        }
        self.sent.extend(entries.iter().map(|entry| (id_of(entry), Arc::clone(entry))));
        // From now on these may be gone.
        self.log.truncate(kept);
        let previous = self.log.last().map_or(EntryId::default(), |entry| id_of(entry));
        let commit = self.commit as u64 + random.below((kept - self.commit + 2) as u64);
        append_of(term, previous, commit, entries)
    }

    fn append(&mut self, request: &AppendRequest) -> Result<()> {
        let outcome = self.follower.append(request)?;
        assert_eq!(outcome, Appended::Matches(request.last_named()));
        if request.term > self.term {
            (self.term, self.vote) = (request.term, None);
        }
        self.log.extend(request.entries.iter().cloned());
        self.commit = self.commit.max(request.commit as usize);
        Ok(())
    }

    /// Whether what a node found after a power loss is what was promised.
    fn check(&self, disk: &ModelDisk) -> std::result::Result<(), String> {
        let found = Follower::open(disk, self.policy).map_err(|error| error.to_string())?;
        let ground = &found.ground;
        if ground.term < self.term || ground.term > self.term_sent {
            return Err(format!("term {} instead of {}", ground.term, self.term));
        }
        if ground.term == self.term && self.vote.is_some() && ground.vote != self.vote {
            return Err(format!("the vote of term {} is free again", self.term));
        }
        let is_sent = |entry: &Arc<Entry>| self.sent.get(&id_of(entry)) == Some(entry);
        if !ground.entries.iter().all(is_sent) {
            return Err("an entry that nobody sent".into());
        }
        if ground.base.index > 0 && ground.members != members() {
            return Err("other members".into());
        }
        if self.policy != FsyncPolicy::Always {
            return Ok(());
        }
        let base = ground.base.index as usize;
        if base > self.commit {
            return Err(format!("the map has entry {base}, and only {} is committed", self.commit));
        }
        for (entry, index) in self.log.iter().zip(1..) {
            let has = match index <= base {
                true => index < base || id_of(entry) == ground.base,
                false => ground.entries.get(index - base - 1) == Some(entry),
            };
            if !has {
                return Err(format!("entry {index} is lost: base {base}"));
            }
        }
        // The rest of what is committed is applied.
        found
            .shared
            .with(|replica, now_ms| {
                let last = self.log.last().map_or(EntryId::default(), |entry| id_of(entry));
                let term = ground.term + 1;
                let request = append_of(term, last, self.commit as u64, Vec::new());
                replica.handle_append(leader_of(term), &request, now_ms).map(|_| ())
            })
            .map_err(|error| error.to_string())?;
        found.shared.apply();
        let (map, expected) = (live(&found.shared.store), map_of(&self.log[..self.commit]));
        if map != expected {
            return Err(format!("{map:?} instead of {expected:?}"));
        }
        Ok(())
    }
}

/// Runs the same steps again and again and cuts the power during every single operation on the
/// disk.
fn power_loss(policy: FsyncPolicy, faults: Faults, seeds: std::ops::Range<u64>) -> Option<String> {
    for seed in seeds {
        for cut in 0.. {
            let disk = ModelDisk::default();
            disk.set_faults(faults);
            disk.cut_power_after(cut);
            let Ok(mut driver) = Driver::start(&disk, policy) else {
                continue;
            };
            let mut random = Random(seed);
            let mut steps = 0;
            while steps < 25 && driver.step(&mut random).is_ok() {
                steps += 1;
            }
            if steps == 25 {
                break;
            }
            let mut random = Random(seed << 32 | cut);
            for _ in 0..2 {
                let after = disk.after_power_loss(&mut random);
                // Perhaps the power goes again, while recovery is at work.
                after.cut_power_after(random.below(12));
                let _ = Follower::open(&after, policy);
                let after = after.after_power_loss(&mut random);
                if let Err(problem) = driver.check(&after) {
                    return Some(format!("seed {seed}, power lost in operation {cut}: {problem}"));
                }
            }
        }
    }
    None
}

#[test]
fn a_power_loss_takes_no_entry_that_was_answered_for_and_frees_no_vote() {
    assert_eq!(power_loss(FsyncPolicy::Always, Faults::default(), 0..4), None);
}

#[test]
fn a_power_loss_frees_no_vote_whatever_the_policy() {
    for policy in [FsyncPolicy::Everysec, FsyncPolicy::Never] {
        assert_eq!(power_loss(policy, Faults::default(), 0..2), None, "{policy:?}");
    }
}

#[test]
#[ignore = "full size: three minutes"]
fn a_power_loss_takes_nothing_that_was_answered_for_full_size() {
    for policy in [FsyncPolicy::Always, FsyncPolicy::Everysec, FsyncPolicy::Never] {
        assert_eq!(power_loss(policy, Faults::default(), 100..160), None, "{policy:?}");
    }
}

#[test]
fn a_disk_that_does_not_fsync_is_noticed_by_this_test() {
    for policy in [FsyncPolicy::Always, FsyncPolicy::Never] {
        let faults = Faults { fsync_skipped: true, ..Faults::default() };
        assert!(power_loss(policy, faults, 0..20).is_some(), "{policy:?}");
    }
}

#[test]
fn a_compacted_directory_holds_the_state_before_unapplied_entries_and_vote_included() {
    let disk = ModelDisk::default();
    let follower = Follower::open(&disk, FsyncPolicy::Always).expect("opens");
    let log = [
        first_entry(1),
        write_entry(2, 1, "a", Some("1")),
        write_entry(3, 1, "b", Some("2")),
        write_entry(4, 1, "c", Some("3")),
    ];
    let request = append_of(1, EntryId::default(), 2, log.to_vec());
    follower.append(&request).expect("taken");
    // A later leader has another entry 4, and one more; both wait for a majority.
    let entries = vec![write_entry(4, 2, "a", None), flush_entry(5, 2)];
    follower.append(&append_of(2, id_of(&log[2]), 3, entries.clone())).expect("taken");
    assert!(follower.vote(3, false).expect("answers"));
    let before = follower.state();
    follower.compact().expect("compacts");
    assert_eq!(follower.state(), before);
    let names: Vec<String> = crate::durability::files::FileLayer::names(&disk).expect("names");
    assert!(!names.contains(&"0000000001.raftlog".to_string()), "replaced: {names:?}");
    drop(follower);
    assert_eq!(recovered(&disk).expect("starts"), before);
    let again = Follower::open(&disk, FsyncPolicy::Always).expect("starts");
    assert_eq!(again.ground.entries, entries);
    assert_eq!((again.ground.term, again.ground.vote), (3, Some(leader_of(3))));
    assert_eq!(again.map, map_of(&log[..3]));
    again.compact().expect("compacts what it recovered");
    assert_eq!(recovered(&disk).expect("starts"), before);
}
