//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are over 16-bit words in network order read as numbers, so no result needs byte swapping.

use super::IPV4_LEN;

/// Folds a sum of 16-bit words into one word.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "two folds leave 16 bits of a sum of words")]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum of an IPv4 header without options whose checksum field is zero; over a header with
/// its checksum, 0 if it is right.
#[inline(always)]
#[must_use]
pub const fn ipv4(header: &[u8; IPV4_LEN]) -> u16 {
    !fold(words(header))
}

/// The sum of an even number of bytes as 16-bit words; of at most 128 KiB, so that it does not
/// overflow.
#[inline(always)]
#[must_use]
pub const fn words<const N: usize>(bytes: &[u8; N]) -> u32 {
    const { assert!(N.is_multiple_of(2) && N <= 1 << 17) };
    let mut sum = 0;
    let mut i = 0;
    while i < N {
        sum += super::be16(bytes, i) as u32;
        i += 2;
    }
    sum
}

/// The checksum after words that were zero take the given values: `HC' = ~(~HC + m)` (RFC 1624,
/// equation 3, with m = 0).
#[inline(always)]
#[must_use]
pub const fn with_words(checksum: u16, first: u16, second: u16) -> u16 {
    !fold(!checksum as u32 + first as u32 + second as u32)
}

/// The checksum after one word changed from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub const fn replaced(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u32 + !old as u32 + new as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example header of RFC 1071's arithmetic as commonly worked: checksum 0xb861.
    const HEADER: [u8; 20] =
        [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];

    #[test]
    fn a_known_header_has_its_known_checksum() {
        assert_eq!(ipv4(&HEADER), 0xb861);
        let mut whole = HEADER;
        whole[10..12].copy_from_slice(&0xb861_u16.to_be_bytes());
        assert_eq!(ipv4(&whole), 0);
    }

    proptest! {
        #[test]
        fn words_added_one_by_one_or_summed_anew_agree(header: [u8; 20], tos: u8, len: u16) {
            let mut header = header;
            header[1] = 0;
            header[2..4].fill(0);
            header[10..12].fill(0);
            let start = ipv4(&header);
            header[1] = tos;
            header[2..4].copy_from_slice(&len.to_be_bytes());
            header[10..12].copy_from_slice(&with_words(start, u16::from(tos), len).to_be_bytes());
            prop_assert_eq!(ipv4(&header), 0);
        }

        #[test]
        fn a_replaced_word_keeps_the_header_valid(header: [u8; 20], new: u16) {
            let mut header = header;
            header[0] = 0x45; // a header of zeros only has two checksums
            header[10..12].fill(0);
            let start = ipv4(&header);
            let old = u16::from_be_bytes([header[0], header[1]]);
            prop_assume!(new != 0);
            header[..2].copy_from_slice(&new.to_be_bytes());
            header[10..12].copy_from_slice(&replaced(start, old, new).to_be_bytes());
            prop_assert_eq!(ipv4(&header), 0);
        }
    }
}
