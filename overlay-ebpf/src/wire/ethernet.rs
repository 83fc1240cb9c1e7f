//! The Ethernet header.

use crate::abi::MacAddr;

/// An Ethernet header without tags, as it stands in a packet at any address: unlike
/// `network_types::eth::EthHdr` it has alignment 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ethernet {
    /// Destination address.
    pub destination: MacAddr,
    /// Source address.
    pub source: MacAddr,
    ether_type: [u8; 2],
}

const _: () = assert!(size_of::<Ethernet>() == super::ETH_LEN && align_of::<Ethernet>() == 1);

impl Ethernet {
    /// A header.
    #[must_use]
    pub const fn new(destination: MacAddr, source: MacAddr, ether_type: u16) -> Self {
        Self { destination, source, ether_type: ether_type.to_be_bytes() }
    }

    /// The `EtherType`, host order.
    #[inline(always)]
    #[must_use]
    pub const fn ether_type(&self) -> u16 {
        u16::from_be_bytes(self.ether_type)
    }
}
