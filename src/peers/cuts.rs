//! The peers that this node pretends not to reach, after `PARTITION`.

use std::collections::BTreeSet;

/// Who is cut off.
#[derive(Debug)]
pub enum Cuts {
    /// Everybody.
    Everybody,
    /// The peers with these addresses and ids.
    Names(BTreeSet<String>),
}

impl Default for Cuts {
    fn default() -> Self {
        Cuts::Names(BTreeSet::new())
    }
}

impl Cuts {
    /// Cuts a peer off, by all its names.
    pub fn add(&mut self, names: Vec<String>) {
        match self {
            Cuts::Everybody => {}
            Cuts::Names(cut) => cut.extend(names),
        }
    }

    /// Ends the cut of a peer; nothing while everybody is cut off.
    pub fn remove(&mut self, names: &[String]) {
        match self {
            Cuts::Everybody => {}
            Cuts::Names(cut) => cut.retain(|name| !names.contains(name)),
        }
    }

    /// Whether whoever says that this is its id and address is cut off.
    pub fn has(&self, id: Option<u64>, address: &str) -> bool {
        match self {
            Cuts::Everybody => true,
            Cuts::Names(cut) => {
                cut.contains(address) || id.is_some_and(|id| cut.contains(&format!("{id:016x}")))
            }
        }
    }
}
