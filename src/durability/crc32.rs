//! CRC-32, the checksum of every frame: the IEEE polynomial, as in Ethernet, gzip and PNG.
//!
//! A CRC detects every flipped bit and every burst of up to 32 bits. It misses one in four thousand
//! million cases of other damage. It does not protect against somebody who forges data.
//!
//! It takes eight bytes at a time, with eight tables ("slicing-by-8": Kounavis and Berry, "A
//! Systematic Approach to Building High Performance Software-based CRC Generators", 2005). The
//! log's checksums are computed while clients wait, and one byte at a time took four times as long.

use crate::store::record::u64_at;

/// The polynomial of IEEE 802.3, bits reversed.
const POLYNOMIAL: u32 = 0xEDB8_8320;

/// `TABLES[k][b]`: what byte `b` followed by `k` zero bytes adds to the register.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let (mut register, mut bit) = (byte as u32, 0);
        while bit < 8 {
            let carry = register & 1;
            register >>= 1;
            if carry == 1 {
                register ^= POLYNOMIAL;
            }
            bit += 1;
        }
        tables[0][byte] = register;
        byte += 1;
    }
    let mut index = 256;
    while index < 8 * 256 {
        let before = tables[index / 256 - 1][index % 256];
        tables[index / 256][index % 256] = (before >> 8) ^ tables[0][(before & 0xFF) as usize];
        index += 1;
    }
    tables
}

/// The checksum of `bytes` after bytes with the checksum `start` (0: no bytes), as `crc32` of zlib:
/// `crc32(crc32(0, a), b)` is the checksum of `a` followed by `b`.
pub fn crc32(start: u32, bytes: &[u8]) -> u32 {
    let mut register = !start;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64_at(chunk, 0) ^ u64::from(register);
        let byte = |index: usize| (word >> (8 * index)) as usize & 0xFF;
        register = (0..8).fold(0, |sum, index| sum ^ TABLES[7 - index][byte(index)]);
    }
    for byte in chunks.remainder() {
        register = register >> 8 ^ TABLES[0][(register as u8 ^ byte) as usize];
    }
    !register
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // The check value of the catalogue of CRCs (CRC-32/ISO-HDLC), and zlib's answers.
        assert_eq!(crc32(0, b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(0, b""), 0);
        assert_eq!(crc32(0, b"a"), 0xE8B7_BE43);
        assert_eq!(crc32(0, &[0; 32]), 0x190A_55AD);
        assert_eq!(crc32(0, &[0xFF; 32]), 0xFF6C_AB0B);
    }

    #[test]
    fn eight_at_a_time_agrees_with_one_bit_at_a_time() {
        let bytes: Vec<u8> = (0..100u32).map(|i| (i * 37 % 251) as u8).collect();
        for start in [0, 0x1234_5678] {
            for len in 0..bytes.len() {
                let slow = bytes[..len].iter().fold(!start, |register, byte| {
                    (0..8).fold(register ^ u32::from(*byte), |register, _| {
                        register >> 1 ^ (POLYNOMIAL * (register & 1))
                    })
                });
                assert_eq!(crc32(start, &bytes[..len]), !slow, "{len} bytes");
                let (first, second) = bytes[..len].split_at(len / 3);
                assert_eq!(crc32(crc32(start, first), second), !slow);
            }
        }
    }
}
