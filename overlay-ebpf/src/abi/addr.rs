//! The identifiers of the field as types: VNI, MAC address, and an address of either family.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A VXLAN network identifier: 24 bits, never zero here (RFC 7348, section 5; zero is reserved to
/// "no network" in many implementations).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Vni(u32);

/// A number that is no VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VniError(pub u32);

/// A 48-bit Ethernet address, in transmission order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

/// A text that is no MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseMacError;

/// An IP address of either family as map keys hold it: 16 bytes in network order, IPv4 in the
/// mapped form `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Addr(pub [u8; 16]);

// === impl Vni ===

impl Vni {
    /// The largest VNI.
    pub const MAX: u32 = (1 << 24) - 1;

    /// Checks `n` and makes a VNI of it.
    ///
    /// # Errors
    /// If `n` is 0 or needs more than 24 bits.
    pub const fn new(n: u32) -> Result<Self, VniError> {
        if n == 0 || n > Self::MAX { Err(VniError(n)) } else { Ok(Self(n)) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for VniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a VNI: it must be 1 to {}", self.0, Vni::MAX)
    }
}

impl core::error::Error for VniError {}

// === impl MacAddr ===

impl MacAddr {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the address names a group (the I/G bit, IEEE 802-2014 section 8.2), broadcast included.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether the address can be one interface's own.
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        !self.is_multicast() && u64::from_be_bytes(self.widened()) != 0
    }

    /// The locally administered address an endpoint gets: `02:42` and its IPv4 address, so that an
    /// address that is used again keeps the MAC its neighbours have cached.
    #[must_use]
    pub const fn of_ipv4(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// The locally administered address an endpoint without an IPv4 address gets: `02:66` and the end
    /// of its IPv6 address. What the pool gives of one range differs there.
    #[must_use]
    pub const fn of_ipv6(ip: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = ip.octets();
        Self([0x02, 0x66, a, b, c, d])
    }

    /// The link-local IPv6 address an interface with this MAC address makes for itself: its modified
    /// EUI-64 behind `fe80::/64` (RFC 4291, appendix A, and section 2.5.6).
    #[inline(always)]
    #[must_use]
    pub const fn link_local(self) -> [u8; 16] {
        let [a, b, c, d, e, f] = self.0;
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
    }

    /// The MAC address that [`Self::link_local`] makes `address` of; `None` if there is none.
    #[inline(always)]
    #[must_use]
    pub const fn of_link_local(address: [u8; 16]) -> Option<Self> {
        match address {
            [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => {
                Some(Self([a ^ 2, b, c, d, e, f]))
            }
            _ => None,
        }
    }

    const fn widened(self) -> [u8; 8] {
        let [a, b, c, d, e, f] = self.0;
        [0, 0, a, b, c, d, e, f]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(ParseMacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(Self(mac)) }
    }
}

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address: write it as 02:42:0a:00:09:02")
    }
}

impl core::error::Error for ParseMacError {}

// === impl Addr ===

impl Addr {
    /// The mapped form of the four bytes of an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4([a, b, c, d]: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// Whether it stands for this IPv4 address: compared by words, without the 16 bytes being built.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self, v4: [u8; 4]) -> bool {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.0;
        let mapped =
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]) == 0 && u32::from_be_bytes([i, j, k, l]) == 0xffff;
        mapped && u32::from_ne_bytes([m, n, o, p]) == u32::from_ne_bytes(v4)
    }

    /// Whether it stands for an IPv4 address. No IPv6 packet may carry it: it would be taken for that.
    #[inline(always)]
    #[must_use]
    pub const fn is_mapped(&self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        Ipv6Addr::from(addr.0).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vni_has_24_bits_and_is_not_zero() {
        assert_eq!(Vni::new(0), Err(VniError(0)));
        assert_eq!(Vni::new(1 << 24), Err(VniError(1 << 24)));
        assert_eq!(Vni::new(Vni::MAX).unwrap().get(), Vni::MAX);
    }

    #[test]
    fn macs_are_written_and_read_alike() {
        let mac: MacAddr = "02:42:0a:00:09:fe".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:0a:00:09:fe");
        assert_eq!(mac, MacAddr::of_ipv4(Ipv4Addr::new(10, 0, 9, 254)));
        for bad in [
            "",
            "02:42",
            "02:42:0a:00:09:fe:00",
            "2:42:0a:00:09:fe",
            "02:42:0a:00:09:fg",
            "+2:42:0a:00:09:fe:",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(ParseMacError), "{bad}");
        }
    }

    #[test]
    fn only_single_non_zero_macs_are_unicast() {
        assert!(MacAddr([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!MacAddr::default().is_unicast());
        assert!(!MacAddr::BROADCAST.is_unicast());
        assert!(!MacAddr([0x33, 0x33, 0, 0, 0, 1]).is_unicast());
    }

    #[test]
    fn a_link_local_address_is_made_of_the_mac_and_read_back() {
        let mac: MacAddr = "02:42:0a:00:09:fe".parse().unwrap();
        assert_eq!(Ipv6Addr::from(mac.link_local()).to_string(), "fe80::42:aff:fe00:9fe");
        assert_eq!(MacAddr::of_link_local(mac.link_local()), Some(mac));
        for other in ["fe80::1", "fe80::1:42:aff:fe00:9fe", "fd00::42:aff:fe00:9fe"] {
            assert_eq!(MacAddr::of_link_local(other.parse::<Ipv6Addr>().unwrap().octets()), None, "{other}");
        }
    }

    #[test]
    fn an_address_stands_for_one_ipv4_address_at_most() {
        let v4 = [192, 0, 2, 2];
        assert!(Addr::from_v4(v4).is_v4(v4) && !Addr::from_v4(v4).is_v4([192, 0, 2, 3]));
        for at in 0..12 {
            let mut other = Addr::from_v4(v4);
            other.0[at] ^= 1;
            assert!(!other.is_v4(v4), "{other:?}");
        }
    }

    #[test]
    fn addresses_of_both_families_survive_the_map_form() {
        for ip in ["10.0.9.2", "::1", "fd00::9:2"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(ip)), ip);
        }
    }
}
