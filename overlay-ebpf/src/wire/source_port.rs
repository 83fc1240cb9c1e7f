//! The outer UDP source port: entropy for the underlay's multipath (RFC 7348, section 5).

const FIRST: u16 = 49_152;
const SPAN: u32 = 65_535 - 49_152;

/// The port for a flow hash, in the dynamic range 49152–65534. The formula is the kernel's
/// (`udp_flow_src_port`, include/net/udp.h), so a kernel VXLAN device with `srcport 49152 65535`
/// sends the same flow from the same port.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the product's upper half is below SPAN")]
pub const fn of_hash(hash: u32) -> u16 {
    let mixed = hash ^ (hash << 16);
    FIRST + ((mixed as u64 * SPAN as u64) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_hash_gives_a_port_of_the_dynamic_range(hash: u32) {
            prop_assert!((49_152..65_535).contains(&of_hash(hash)));
        }
    }

    #[test]
    fn the_range_is_used_to_both_ends() {
        assert_eq!(of_hash(0), 49_152);
        assert_eq!(of_hash(0xffff_0000), 65_534);
    }
}
