//! Lists of keys and versions of one bucket, in parts where they are long.
//!
//! The hash that places keys has no secret, since every node must place them alike
//! ([`crate::store::digest`]). So one client can choose keys that all fall into one bucket, and its
//! list can be as long as the store. A list that is longer than [`PART_BYTES`] comes in parts, in
//! the order of the keys, so that neither side ever holds more than one part.

use std::collections::{BTreeMap, HashMap};

use super::view::View;
use crate::error::{Error, Result};
use crate::store::digest::{bucket_of, key_hash};
use crate::store::version::Version;

/// Longest first part. Up to 64 of them are asked for together.
pub const FIRST_PART_BYTES: usize = 1024 * 1024;
/// Longest later part. They are asked for one by one.
pub const PART_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of an entry besides its key.
const OVERHEAD_BYTES: usize = 4 + 8 + 8;

/// A bucket, and where its list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Below [`crate::store::digest::SHARDS`].
    pub shard: usize,
    /// Below [`crate::store::digest::BUCKETS`].
    pub bucket: usize,
    /// Keys up to this one were listed before; `None` at the start of the list.
    pub after: Option<Box<[u8]>>,
}

/// The keys and versions of a bucket, or a part of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `key_len u32 | key | time u64 | origin u64` for each entry.
    pub bytes: Vec<u8>,
    /// The last key of this part if the list goes on after it.
    pub last: Option<Box<[u8]>>,
}

impl Place {
    /// The start of a bucket's list.
    pub fn start(shard: usize, bucket: usize) -> Place {
        Place { shard, bucket, after: None }
    }

    /// Longest list that this place is answered with.
    pub fn bytes_max(&self) -> usize {
        if self.after.is_some() { PART_BYTES } else { FIRST_PART_BYTES }
    }

    /// Whether a key of the bucket belongs to what is listed from here up to `last`.
    pub fn covers(&self, key: &[u8], last: Option<&[u8]>) -> bool {
        self.after.as_deref().is_none_or(|after| key > after) && last.is_none_or(|last| key <= last)
    }
}

/// What `PEER VERSIONS` answers for a place.
pub fn list(view: &View, place: &Place, bytes_max: usize) -> Listed {
    let mut bytes = Vec::new();
    let is_whole = for_each(view, place, |key, version| {
        let fits = bytes.len() + key.len() + OVERHEAD_BYTES <= bytes_max;
        if fits {
            push(key, version, &mut bytes);
        }
        fits
    });
    if is_whole { Listed { bytes, last: None } } else { first_part(view, place, bytes_max) }
}

/// The entries with the smallest keys, as many as fit, at least one.
fn first_part(view: &View, place: &Place, bytes_max: usize) -> Listed {
    let (mut entries, mut len, mut is_whole) = (BTreeMap::<Box<[u8]>, Version>::new(), 0, true);
    for_each(view, place, |key, version| {
        let is_last = entries.last_key_value().is_none_or(|(last, _)| key > &**last);
        if is_last
            && !entries.is_empty()
            && (!is_whole || len + key.len() + OVERHEAD_BYTES > bytes_max)
        {
            is_whole = false;
            return true;
        }
        entries.insert(key.into(), version);
        len += key.len() + OVERHEAD_BYTES;
        while len > bytes_max && entries.len() > 1 {
            is_whole = false;
            if let Some((dropped, _)) = entries.pop_last() {
                len -= dropped.len() + OVERHEAD_BYTES;
            }
        }
        true
    });
    let mut bytes = Vec::with_capacity(len);
    entries.iter().for_each(|(key, version)| push(key, *version, &mut bytes));
    let last = entries.pop_last().filter(|_| !is_whole).map(|(last, _)| last);
    Listed { bytes, last }
}

/// Visits what takes part in comparisons from a place on, in no order, until `visit` wants no more;
/// whether it saw everything.
fn for_each(view: &View, place: &Place, mut visit: impl FnMut(&[u8], Version) -> bool) -> bool {
    let mut goes_on = true;
    view.store.for_each_in_shard(place.shard, |entry| {
        let key = entry.key();
        if goes_on
            && place.covers(key, None)
            && view.counts(entry)
            && bucket_of(key_hash(key)) == place.bucket
        {
            goes_on = visit(key, entry.version());
        }
    });
    goes_on
}

fn push(key: &[u8], version: Version, out: &mut Vec<u8>) {
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&version.time.to_le_bytes());
    out.extend_from_slice(&version.origin.to_le_bytes());
}

/// Reads a list or a part of one.
pub fn parse(mut bytes: &[u8]) -> Result<HashMap<&[u8], Version>> {
    let mut list = HashMap::new();
    while !bytes.is_empty() {
        let (key, version, rest) = one_version(bytes)
            .ok_or_else(|| Error::Corrupt("a list of versions cut short".into()))?;
        list.insert(key, version);
        bytes = rest;
    }
    Ok(list)
}

fn one_version(bytes: &[u8]) -> Option<(&[u8], Version, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let (time, rest) = rest.split_first_chunk()?;
    let (origin, rest) = rest.split_first_chunk()?;
    let version = Version { time: u64::from_le_bytes(*time), origin: u64::from_le_bytes(*origin) };
    Some((key, version, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::KeyValueStore;
    use crate::store::record::Record;
    use proptest::prelude::*;

    /// A store of keys, and for each bucket that holds any its place.
    fn stored(keys: &[Vec<u8>]) -> (KeyValueStore, Vec<Place>) {
        let store = KeyValueStore::new();
        let mut places: Vec<Place> = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let version = Version { time: index as u64 + 1, origin: 1 };
            let shard = store.merge(&Record { version, key, value: Some(b"v") }, |_| 0).shard;
            let place = Place::start(shard, bucket_of(key_hash(key)));
            if !places.contains(&place) {
                places.push(place);
            }
        }
        (store, places)
    }

    proptest! {
        #[test]
        fn parts_are_bounded_and_together_the_whole_list(
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..30), 1..200),
            bytes_max in 1usize..200,
        ) {
            // Two buckets at most, so that the lists are long.
            let is_chosen = |key: &Vec<u8>| key_hash(key) & 0x7fff < 200 || key.len() < 4;
            let keys: Vec<_> = keys.into_iter().filter(is_chosen).collect();
            let (store, places) = stored(&keys);
            let view = View { store: &store, cutoff: 0 };
            for mut place in places {
                let whole = list(&view, &place, usize::MAX);
                prop_assert_eq!(&whole.last, &None);
                let mut joined: Vec<(Vec<u8>, Version)> = Vec::new();
                loop {
                    let part = list(&view, &place, bytes_max);
                    let entries = parse(&part.bytes).expect("our own bytes");
                    prop_assert!(part.bytes.len() <= bytes_max || entries.len() == 1);
                    for (key, version) in &entries {
                        prop_assert!(place.covers(key, part.last.as_deref()));
                        joined.push((key.to_vec(), *version));
                    }
                    match part.last {
                        Some(last) => place.after = Some(last),
                        None => break,
                    }
                }
                let parsed = parse(&whole.bytes).expect("our own bytes");
                let mut expected: Vec<(Vec<u8>, Version)> = parsed
                    .into_iter().map(|(key, version)| (key.to_vec(), version)).collect();
                joined.sort();
                expected.sort();
                prop_assert_eq!(joined, expected);
            }
        }
    }
}
