//! The hash function of the maps inside the shards: wyhash, with secrets drawn when the store is
//! created. Skip this file on a first reading: it makes [`super::prefetch`] pay, and changes no
//! result.
//!
//! **The problem.** `std` uses SipHash 1-3: 260 instructions for a short key. They stand between
//! the lookups of [`super::prefetch`]. A processor looks about 500 instructions ahead, so with
//! SipHash it waits for the memory of at most two keys at a time.
//!
//! **The idea.** wyhash multiplies two words of 64 bits, XORs the halves of the product, and goes
//! on with the next words: about 40 instructions. With it, prefetching gives 1.3 times the `GET`s
//! of a pipeline of 64; with SipHash, 1.07 times. Without prefetching it gives no more `GET`s, and
//! 1.06 times the `SET`s, which hash twice.
//!
//! **Attackers.** Somebody who can make many keys collide turns a map into a list. Which keys
//! collide depends on 256 secret bits, so nobody can compute such keys beforehand. SipHash also
//! resists attackers who can observe hashes. Here, the order in which a shard's keys are listed
//! reveals a little about their hashes, but whoever may list keys may also delete all of them. Go's
//! maps rely on the same construction, with secrets of the same kind.
//!
//! Source: Wang Yi, wyhash final version 4.2, <https://github.com/wangyi-fudan/wyhash>; Go's
//! `runtime/hash64.go`.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use super::record::{u32_at, u64_at};
use crate::random::random_id;

/// Makes the hashers of one store. All its maps share the secrets, so these stay in the cache.
#[derive(Clone, Debug)]
pub struct Secrets(Arc<[u64; 4]>);

impl Secrets {
    /// New secrets.
    pub fn random() -> Self {
        Secrets(Arc::new([(); 4].map(|()| random_id())))
    }
}

/// Hashes one key. A `HashMap` also announces its length first; wyhash has it anyway.
#[derive(Debug)]
pub struct KeyHasher {
    secrets: [u64; 4],
    hash: u64,
}

impl BuildHasher for Secrets {
    type Hasher = KeyHasher;

    #[inline]
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher { secrets: *self.0, hash: 0 }
    }
}

impl Hasher for KeyHasher {
    #[inline(always)]
    fn write(&mut self, key: &[u8]) {
        self.hash = wyhash(key, self.hash, &self.secrets);
    }

    #[inline]
    fn write_usize(&mut self, _len: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.hash
    }
}

#[inline(always)]
fn wyhash(key: &[u8], seed: u64, secret: &[u64; 4]) -> u64 {
    let len = key.len();
    let mut seed = seed ^ mix(seed ^ secret[0], secret[1]);
    let (a, b) = match len {
        0 => (0, 0),
        1..=3 => {
            (u64::from(key[0]) << 16 | u64::from(key[len >> 1]) << 8 | u64::from(key[len - 1]), 0)
        }
        4..=16 => {
            let (step, half) = ((len >> 3) << 2, |at| u64::from(u32_at(key, at)));
            (half(0) << 32 | half(step), half(len - 4) << 32 | half(len - 4 - step))
        }
        _ => {
            seed = fold_blocks(key, seed, secret);
            (u64_at(key, len - 16), u64_at(key, len - 8))
        }
    };
    let product = u128::from(a ^ secret[1]) * u128::from(b ^ seed);
    mix(product as u64 ^ secret[0] ^ len as u64, (product >> 64) as u64 ^ secret[1])
}

/// Folds all but the last 1 to 16 bytes of a longer key into the seed.
#[inline(never)]
fn fold_blocks(mut key: &[u8], mut seed: u64, secret: &[u64; 4]) -> u64 {
    if key.len() >= 48 {
        let (mut second, mut third) = (seed, seed);
        while key.len() >= 48 {
            seed = mix(u64_at(key, 0) ^ secret[1], u64_at(key, 8) ^ seed);
            second = mix(u64_at(key, 16) ^ secret[2], u64_at(key, 24) ^ second);
            third = mix(u64_at(key, 32) ^ secret[3], u64_at(key, 40) ^ third);
            key = &key[48..];
        }
        seed ^= second ^ third;
    }
    while key.len() > 16 {
        seed = mix(u64_at(key, 0) ^ secret[1], u64_at(key, 8) ^ seed);
        key = &key[16..];
    }
    seed
}

#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The secrets of the published test vectors.
    const KNOWN: [u64; 4] = [
        0x2d35_8dcc_aa6c_78a5,
        0x8bb8_4b93_962e_acc9,
        0x4b33_a62e_d433_d4a3,
        0x4d5a_2da5_1de1_aa47,
    ];

    #[test]
    fn wyhash_known_answers() {
        // From test_vector.cpp of the source.
        let eighty =
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890";
        let vectors = [
            ("", 0x9322_8a4d_e0ee_c5a2),
            ("a", 0xc5ba_c3db_1787_13c4),
            ("abc", 0xa97f_2f7b_1d9b_3314),
            ("message digest", 0x786d_1f1d_f380_1df4),
            ("abcdefghijklmnopqrstuvwxyz", 0xdca5_a813_8ad3_7c87),
            (
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
                0xb9e7_34f1_17cf_af70,
            ),
            (eighty, 0x6cc5_eab4_9a92_d617),
        ];
        for (seed, (text, hash)) in vectors.into_iter().enumerate() {
            assert_eq!(wyhash(text.as_bytes(), seed as u64, &KNOWN), hash, "{text}");
        }
    }

    #[test]
    fn every_byte_of_a_key_counts() {
        let secrets = Secrets::random();
        for len in 0..200 {
            let key = vec![7; len];
            let mut hashes = HashSet::from([secrets.hash_one(key.as_slice())]);
            for at in 0..len {
                let mut other = key.clone();
                other[at] ^= 1;
                assert!(hashes.insert(secrets.hash_one(other.as_slice())), "byte {at} of {len}");
            }
            let longer = vec![7; len + 1];
            assert!(hashes.insert(secrets.hash_one(longer.as_slice())), "length {len}");
        }
    }

    #[test]
    fn two_stores_hash_differently() {
        assert_ne!(Secrets::random().hash_one("key"), Secrets::random().hash_one("key"));
    }
}
