//! Shards and buckets, and digests of what they hold.
//!
//! The low ten bits of a key's FNV-1a hash are the number of its shard. The next six are the number
//! of its bucket within the shard. Both are the same on every node. Two nodes compare shards by
//! their digests. Equal digests mean equal content, so nodes send only what differs.
//!
//! A digest is the XOR of one number for each entry. XOR is independent of order and undoes itself.
//! So the same operation adds an entry and removes it, whatever else the bucket holds. The numbers
//! must look random, or equal changes would cancel out: splitmix64 (Steele et al. 2014; Vigna's
//! constants) mixes the hash of the key with time and origin.

use super::version::Version;
use crate::random::Random;

/// Shards in a store: 2^10. See [`super::KeyValueStore`] for why so many.
pub const SHARDS: usize = 1 << SHARD_BITS;
/// Buckets in a shard: 2^6.
pub const BUCKETS: usize = 1 << BUCKET_BITS;
const SHARD_BITS: u32 = 10;
const BUCKET_BITS: u32 = 6;

/// Hash of a key: FNV-1a, 64 bits (Fowler, Noll and Vo,
/// <http://www.isthe.com/chongo/tech/comp/fnv/>).
///
/// It has no secret, because all nodes must compute the same shard, also nodes that join later. So
/// clients can choose keys that are all in one shard, or in one bucket. Requests for these keys
/// contend for one lock, and comparing them with a peer takes longer, in lists of bounded size
/// ([`crate::peers::versions`]). Lookups stay fast: the map inside the shard has a hasher with
/// secrets of its own, drawn at every start ([`super::hasher`]).
pub fn key_hash(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The shard of a key with this hash: 0 to 1,023.
pub fn shard_of(hash: u64) -> usize {
    hash as usize & (SHARDS - 1)
}

/// The bucket within its shard of a key with this hash: 0 to 63.
pub fn bucket_of(hash: u64) -> usize {
    (hash >> SHARD_BITS) as usize & (BUCKETS - 1)
}

/// What one entry adds to the digest of its bucket.
pub fn entry_digest(hash: u64, version: Version) -> u64 {
    let mixed = splitmix64(splitmix64(hash).wrapping_add(version.time));
    splitmix64(mixed.wrapping_add(version.origin))
}

fn splitmix64(seed: u64) -> u64 {
    Random(seed).draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_known_answers() {
        // From the test vectors on the FNV page.
        assert_eq!(key_hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(key_hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(key_hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn splitmix64_known_answers() {
        // The first outputs of Vigna's splitmix64.c with state 0 and state 1234567.
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(splitmix64(1_234_567), 6_457_827_717_110_365_317);
    }

    #[test]
    fn keys_spread_evenly_over_shards() {
        let mut counts = [0u32; SHARDS];
        (0..102_400)
            .for_each(|i| counts[shard_of(key_hash(format!("key:{i:012}").as_bytes()))] += 1);
        // 100 expected in each, standard deviation 10.
        assert!(counts.iter().all(|&count| (40..=160).contains(&count)), "{counts:?}");
    }
}
