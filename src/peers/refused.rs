//! Nodes that wanted to be peers and were refused: logged when it is news.

use std::collections::BTreeMap;
use std::sync::Mutex;

use log::warn;

use crate::guard::{LogLimiter, shown};
use crate::locks::lock;

/// Addresses whose last refusal is remembered. Beyond that all are forgotten, and logged again.
const REMEMBERED_MAX: usize = 64;

/// Who was refused last, and why.
#[derive(Debug, Default)]
pub struct RefusedPeers {
    /// By address.
    reasons: Mutex<BTreeMap<String, String>>,
    /// Lines of log about nodes that are refused.
    pub lines: LogLimiter,
}

impl RefusedPeers {
    /// A node was refused. Logs it, unless this reason was logged before for this address.
    pub fn note(&self, who: &str, reason: &str) {
        let (who, reason) = (shown(who), reason.to_string());
        let mut reasons = lock(&self.reasons);
        if reasons.get(&who) == Some(&reason) {
            return;
        }
        // What may not be logged now is not noted either: if it goes on, it is logged later.
        let Some(left_out) = self.lines.admit() else {
            return;
        };
        if reasons.len() >= REMEMBERED_MAX {
            reasons.clear();
        }
        warn!("refused the peer '{who}': {reason}{left_out}");
        reasons.insert(who, reason);
    }

    /// A node was not refused: its next refusal is news.
    pub fn forget(&self, who: &str) {
        lock(&self.reasons).remove(&shown(who));
    }
}
