//! The power goes during any operation on the disk; what was promised is there after the next
//! start.

use super::*;

/// Runs the same steps again and again and cuts the power during every single operation on the
/// disk.
fn power_loss(
    policy: FsyncPolicy,
    mistake: Mistake,
    seeds: std::ops::Range<u64>,
) -> Option<String> {
    for seed in seeds {
        for cut in 0.. {
            let disk = ModelDisk::default();
            disk.set_faults(Faults {
                fsync_skipped: mistake == Mistake::FsyncSkipped,
                directory_fsync_skipped: mistake == Mistake::DirectoryFsyncSkipped,
                ..Faults::default()
            });
            disk.cut_power_after(cut);
            let Ok(mut driver) = Driver::start(disk.clone(), policy, mistake) else {
                continue;
            };
            let mut random = Random(seed);
            let mut steps = 0;
            while steps < 30 && driver.step(&mut random).is_ok() {
                steps += 1;
            }
            if steps == 30 {
                break;
            }
            let mut random = Random(seed << 32 | cut);
            for _ in 0..3 {
                let after = disk.after_power_loss(&mut random);
                // Perhaps the power goes again, while recovery is at work.
                let cut_again = random.below(12);
                after.cut_power_after(cut_again);
                let _ = Driver::open(&after, policy);
                let after = after.after_power_loss(&mut random);
                let first = recovered_map(&after);
                if let Err(problem) = driver.check(&first) {
                    return Some(format!("seed {seed}, power lost in operation {cut}: {problem}"));
                }
                assert_eq!(first.ok(), recovered_map(&after).ok(), "recovery is repeatable");
                if let Err(error) = Driver::open(&after, policy) {
                    return Some(format!(
                        "seed {seed}, power lost in operation {cut}: does not start: {error}"
                    ));
                }
            }
        }
    }
    None
}

#[test]
fn a_power_loss_takes_nothing_that_was_promised() {
    for policy in POLICIES {
        assert_eq!(power_loss(policy, Mistake::None, 0..2), None, "{policy:?}");
    }
}

#[test]
#[ignore = "full size: a minute"]
fn a_power_loss_takes_nothing_that_was_promised_full_size() {
    for policy in POLICIES {
        assert_eq!(power_loss(policy, Mistake::None, 100..160), None, "{policy:?}");
    }
}

#[test]
fn planted_mistakes_are_noticed_by_the_power_loss_test() {
    for mistake in [
        Mistake::ReplyBeforeCommit,
        Mistake::FsyncSkipped,
        Mistake::DirectoryFsyncSkipped,
        Mistake::DeleteBeforeRename,
    ] {
        let noticed = power_loss(FsyncPolicy::Always, mistake, 0..20);
        assert!(noticed.is_some(), "{mistake:?} was not noticed");
    }
}

#[test]
fn what_a_node_alone_deleted_is_gone_after_every_start() {
    let disk = ModelDisk::default();
    let mut driver = Driver::start(disk, FsyncPolicy::Always, Mistake::None).unwrap();
    driver.write("key", Some(b"old".to_vec()));
    driver.write("key", None);
    driver.commit().unwrap();
    driver.restart().unwrap();
    assert_eq!(driver.store.size(), crate::store::Size::default(), "no tombstone is left");
    driver.compact().unwrap();
    driver.restart().unwrap();
    assert_eq!(live(&driver.store), Map::new());
}
