//! Records from the future: what a wrong clock leaves behind, and how to repair it.
//!
//! **The problem.** A node stamps each write later than every record it has seen. If its clock is a
//! day ahead for only two seconds, all its writes of the following day carry times of tomorrow, and
//! the other nodes refuse them. A restart does not help, because the clock starts at the latest
//! record.
//!
//! **The repair.** A start with `--restamp` looks for records that are more than `--max-clock-skew`
//! ahead of the machine's clock, tombstones included. It gives them a new version with the current
//! time. The old versions must not stay in the files, since the later version wins at the next
//! start. So the map is written to a snapshot that replaces all files, before any client is served.
//!
//! **What it costs.** Nobody knows when such a record was really written. With its new time it wins
//! over everything that the other nodes wrote to its key before. If several nodes hold such
//! records, start each of them with `--restamp` before clients write again: an old value that is
//! stamped later wins over a new one.
//!
//! **The trap.** To a clock that is behind, correct records look like records from the future. So a
//! clock that cannot be right is refused, and the log says how many records are ahead and how far.

use std::time::Duration;

use log::{info, warn};

use super::recovery::Recovered;
use crate::error::{Error, Result};
use crate::random::random_id;
use crate::store::KeyValueStore;
use crate::store::digest::SHARDS;
use crate::store::version::{COUNTER_BITS, Version, latest_plausible};

/// 1 January 2025, in milliseconds since 1970: older than this program. A clock without a battery
/// starts at 1970, or at the date of the firmware.
const CLOCK_MS_MIN: u64 = 1_735_689_600_000;

/// Looks for records that are more than `skew_max` ahead of the machine's clock. With `restamp` it
/// stamps them again and returns true: then the whole map must be stored anew.
pub fn check_times(
    store: &KeyValueStore,
    recovered: &mut Recovered,
    (wall_ms, skew_max): (u64, Duration),
    restamp: bool,
) -> Result<bool> {
    if restamp && wall_ms < CLOCK_MS_MIN {
        return Err(Error::Fatal(
            "this machine's clock shows a time before this program was written, and --restamp \
             would give that time to all data; set the clock right (NTP) and start again"
                .into(),
        ));
    }
    let limit = latest_plausible(wall_ms, skew_max);
    if recovered.time_max <= limit {
        if restamp {
            info!(
                "--restamp: no record lies too far ahead of this machine's clock; the option may go"
            );
        }
        return Ok(false);
    }
    let (mut count, mut all, mut time_max) = (0, 0, 0);
    for shard in 0..SHARDS {
        store.for_each_in_shard(shard, |entry| {
            let time = entry.version().time;
            all += 1;
            count += usize::from(time > limit);
            // Of the others.
            time_max = if time > limit { time_max } else { time_max.max(time) };
        });
    }
    let distance = (recovered.time_max >> COUNTER_BITS).saturating_sub(wall_ms) / 1_000;
    let found =
        format!("{count} of {all} records lie up to {distance} s ahead of this machine's clock");
    if !restamp {
        warn!(
            "{found}, and --max-clock-skew is {} s: other nodes refuse them, and all that is \
             written here. If the clock is right now, it was wrong when they were written: start \
             once with --restamp. If it is behind, set it right",
            skew_max.as_secs()
        );
        return Ok(false);
    }
    let version = Version { time: wall_ms << COUNTER_BITS, origin: random_id() };
    store.restamp_after(limit, version);
    recovered.time_max = time_max.max(version.time);
    warn!(
        "--restamp: {found} and are stamped again with the time of now; they win over what other \
         nodes wrote to these keys before. The next start needs no --restamp"
    );
    Ok(true)
}
