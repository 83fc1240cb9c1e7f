//! Congestion marks across the tunnel (RFC 6040). The two bits: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE.

use super::checksum;
use crate::abi::Outcome;

/// The ECN bits of a traffic class octet.
pub const MASK: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// How an outer traffic class is made of an inner one. The ECN bits are always copied: RFC 6040
/// section 4.1's normal mode. (Linux writes ECT(0) where the inner packet has CE, which is RFC 3168's
/// older rule.) DSCP is policy, and never copied inward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OuterClass {
    /// The bits that are copied.
    keep: u8,
    /// The others.
    set: u8,
}

impl OuterClass {
    /// All is copied.
    pub const INHERIT: Self = Self { keep: u8::MAX, set: 0 };

    /// In a row of an array that nobody has written.
    pub const UNWRITTEN: Self = Self { keep: 0, set: 0 };

    /// The same DSCP, 0 to 63, for all packets.
    #[must_use]
    pub const fn fixed(dscp: u8) -> Self {
        Self { keep: MASK, set: dscp << 2 }
    }

    /// The outer traffic class for an inner one.
    #[inline(always)]
    #[must_use]
    pub const fn of(self, inner: u8) -> u8 {
        inner & self.keep | self.set
    }
}

impl Default for OuterClass {
    fn default() -> Self {
        Self::INHERIT
    }
}

/// The ECN bits the inner header leaves the tunnel with (RFC 6040, section 4.2, figure 4), or
/// `None` if they stay as they are.
///
/// # Errors
/// [`Outcome::EcnNotCapable`] if the network marked congestion on a packet that cannot carry the mark.
#[inline(always)]
pub const fn merged(inner: u8, outer: u8) -> Result<Option<u8>, Outcome> {
    match (inner & MASK, outer & MASK) {
        (NOT_ECT, CE) => Err(Outcome::EcnNotCapable),
        (ECT_0 | ECT_1, CE) => Ok(Some(CE)),
        (ECT_0, ECT_1) => Ok(Some(ECT_1)),
        _ => Ok(None),
    }
}

/// Writes ECN bits into an IPv4 header's traffic class and its checksum.
#[inline(always)]
pub const fn set_ipv4(tos: &mut u8, version_ihl: u8, check: &mut [u8; 2], ecn: u8) {
    let old = u16::from_be_bytes([version_ihl, *tos]);
    *tos = (*tos & !MASK) | ecn;
    let new = u16::from_be_bytes([version_ihl, *tos]);
    *check = checksum::replaced(u16::from_be_bytes(*check), old, new).to_be_bytes();
}

/// Writes ECN bits into the first four bytes of an IPv6 header, which has no checksum.
#[inline(always)]
pub const fn set_ipv6(version_class_flow: &mut [u8; 4], ecn: u8) {
    version_class_flow[1] = (version_class_flow[1] & !(MASK << 4)) | (ecn << 4);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_is_always_copied_out_and_the_dscp_by_policy() {
        for ecn in 0..4 {
            assert_eq!(OuterClass::INHERIT.of(0xb8 | ecn), 0xb8 | ecn);
            assert_eq!(OuterClass::fixed(0).of(0xb8 | ecn), ecn);
            assert_eq!(OuterClass::fixed(63).of(0xb8 | ecn), 0xfc | ecn);
        }
    }

    #[test]
    fn all_sixteen_combinations_leave_as_rfc_6040_says() {
        use Outcome::EcnNotCapable as Drop;
        // Rows: inner Not-ECT, ECT(1), ECT(0), CE. Columns: outer in the same order.
        let table = [
            [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), Err(Drop)],
            [Ok(ECT_1), Ok(ECT_1), Ok(ECT_1), Ok(CE)],
            [Ok(ECT_0), Ok(ECT_1), Ok(ECT_0), Ok(CE)],
            [Ok(CE), Ok(CE), Ok(CE), Ok(CE)],
        ];
        for inner in 0..4_u8 {
            for outer in 0..4_u8 {
                let left = merged(0xb8 | inner, outer).map(|set| set.unwrap_or(inner));
                assert_eq!(
                    left,
                    table[usize::from(inner)][usize::from(outer)],
                    "inner {inner} outer {outer}"
                );
            }
        }
    }

    #[test]
    fn a_mark_keeps_the_dscp_and_the_checksum() {
        let mut header = [
            0x45,
            0xb8 | ECT_0,
            0,
            0x73,
            0,
            0,
            0x40,
            0,
            0x40,
            0x11,
            0,
            0,
            0xc0,
            0xa8,
            0,
            1,
            0xc0,
            0xa8,
            0,
            0xc7,
        ];
        let check = checksum::ipv4(&header).to_be_bytes();
        let (mut tos, mut marked) = (header[1], check);
        set_ipv4(&mut tos, 0x45, &mut marked, CE);
        assert_eq!(tos, 0xb8 | CE);
        header[1] = tos;
        header[10..12].copy_from_slice(&marked);
        assert_eq!(checksum::ipv4(&header), 0);
    }
}
