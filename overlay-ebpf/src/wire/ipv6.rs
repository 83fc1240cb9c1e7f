//! Inner IPv6 headers (RFC 8200), and what is behind them.

use network_types::ip::Ipv6Hdr;

use super::{IPV6_LEN, PROTO_ICMPV6, PROTO_UDP};
use crate::abi::Outcome;

/// Most extension headers that are looked behind. Hosts send one or two; what hides behind more is
/// refused, as firewalls do (RFC 9098, section 7.1).
pub const MOST_EXTENSIONS: usize = 4;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Bytes of an upper-layer header that tell what it is: ports, or type and code.
const TELLING: usize = 4;

/// What is behind an IPv6 header and its extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// Its protocol number.
    pub protocol: u8,
    /// Where it begins, in bytes from the start of the IPv6 header.
    pub offset: usize,
}

/// Checks version and payload length; `available` is the length of the frame behind its Ethernet
/// header.
///
/// # Errors
/// [`Outcome::InnerMalformed`].
#[inline(always)]
pub const fn check(ip: &Ipv6Hdr, available: u32) -> Result<(), Outcome> {
    if ip.vcf[0] >> 4 == 6 && available as usize >= IPV6_LEN + payload_len(ip) {
        Ok(())
    } else {
        Err(Outcome::InnerMalformed)
    }
}

/// The traffic class octet.
#[inline(always)]
#[must_use]
pub const fn traffic_class(ip: &Ipv6Hdr) -> u8 {
    (ip.vcf[0] << 4) | (ip.vcf[1] >> 4)
}

/// Bytes behind the IPv6 header, extension headers included. 0 also in what is longer than the field
/// can say.
#[inline(always)]
#[must_use]
pub const fn payload_len(ip: &Ipv6Hdr) -> usize {
    u16::from_be_bytes(ip.payload_len) as usize
}

/// Looks behind the extension headers; `None` for a later fragment, which has nothing to tell. `read`
/// gives four bytes of the packet, `offset` bytes from the start of the IPv6 header.
///
/// # Errors
/// [`Outcome::InnerMalformed`] where nothing tells that it is not UDP or `ICMPv6` of a forbidden kind:
/// headers that cannot be read, more of them than are looked behind, and a first fragment without the
/// upper-layer header (RFC 7112, section 5).
#[inline(always)]
pub fn upper(ip: &Ipv6Hdr, read: impl Fn(usize) -> Option<[u8; 4]>) -> Result<Option<Upper>, Outcome> {
    let mut protocol = ip.next_hdr;
    let mut offset = IPV6_LEN;
    for _ in 0..=MOST_EXTENSIONS {
        let unit = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => 8,
            FRAGMENT => 0,
            // It counts in words of four bytes, two of which it does not count (RFC 4302, section 2.2).
            AUTHENTICATION => 4,
            _ => return told(ip, Upper { protocol, offset }),
        };
        let [next, length, high, low] = read(offset).ok_or(Outcome::InnerMalformed)?;
        if unit == 0 && u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
            return Ok(None);
        }
        protocol = next;
        offset += 8 + length as usize * unit;
    }
    Err(Outcome::InnerMalformed)
}

/// The header found, if the packet itself, and not what trails it, says what it is.
#[inline(always)]
const fn told(ip: &Ipv6Hdr, upper: Upper) -> Result<Option<Upper>, Outcome> {
    let length = payload_len(ip);
    let telling = matches!(upper.protocol, PROTO_UDP | PROTO_ICMPV6);
    if telling && length != 0 && upper.offset + TELLING > IPV6_LEN + length {
        return Err(Outcome::InnerMalformed);
    }
    Ok(Some(upper))
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, Ipv6Extensions, Ipv6FragmentHeader, Ipv6RawExtHeader};
    use proptest::prelude::*;

    use super::*;

    fn header(next_hdr: u8, payload: usize) -> Ipv6Hdr {
        let payload_len = u16::try_from(payload).unwrap().to_be_bytes();
        let (vcf, hop_limit) = ([0x6b, 0x90, 0, 0], 64);
        Ipv6Hdr { vcf, payload_len, next_hdr, hop_limit, src_addr: [0; 16], dst_addr: [0; 16] }
    }

    /// What is behind a header, of a packet whose payload these bytes are.
    fn behind(next: u8, payload: &[u8]) -> Result<Option<Upper>, Outcome> {
        upper(&header(next, payload.len()), |offset| payload.get(offset - 40..)?.first_chunk().copied())
    }

    #[test]
    fn version_and_length_are_checked() {
        let good = header(6, 20);
        assert_eq!(check(&good, 60), Ok(()));
        assert_eq!(check(&good, 61), Ok(()), "bytes behind it are no part of it");
        assert_eq!(check(&good, 59), Err(Outcome::InnerMalformed));
        let four = Ipv6Hdr { vcf: [0x4b, 0x90, 0, 0], ..good };
        assert_eq!(check(&four, 60), Err(Outcome::InnerMalformed));
        assert_eq!(traffic_class(&good), 0xb9);
    }

    #[test]
    fn what_has_no_extensions_is_found_at_once() {
        assert_eq!(behind(6, &[]), Ok(Some(Upper { protocol: 6, offset: 40 })));
        assert_eq!(behind(17, &[0; 8]), Ok(Some(Upper { protocol: 17, offset: 40 })));
        assert_eq!(behind(59, &[]), Ok(Some(Upper { protocol: 59, offset: 40 })));
        assert_eq!(behind(17, &[0; 3]), Err(Outcome::InnerMalformed));
    }

    #[test]
    fn fragments_tell_only_at_their_beginning() {
        let fragment = |offset: u8, more: u8| [17, 0, 0, offset << 3 | more, 0, 0, 0, 1, 0x13, 0x88, 0, 53];
        assert_eq!(behind(44, &fragment(0, 1)), Ok(Some(Upper { protocol: 17, offset: 48 })));
        assert_eq!(behind(44, &fragment(0, 0)), Ok(Some(Upper { protocol: 17, offset: 48 })));
        assert_eq!(behind(44, &fragment(1, 1)), Ok(None));
        assert_eq!(behind(44, &fragment(0, 1)[..10]), Err(Outcome::InnerMalformed));
    }

    #[test]
    fn what_hides_is_refused() {
        let options = |count: usize| {
            let mut chain: Vec<u8> = (1..count).flat_map(|_| [60, 0, 1, 4, 0, 0, 0, 0]).collect();
            chain.extend([17, 0, 1, 4, 0, 0, 0, 0]);
            [chain, vec![0; 8]].concat()
        };
        let found = behind(60, &options(MOST_EXTENSIONS));
        assert_eq!(found, Ok(Some(Upper { protocol: 17, offset: 40 + 8 * MOST_EXTENSIONS })));
        assert_eq!(behind(60, &options(MOST_EXTENSIONS + 1)), Err(Outcome::InnerMalformed));
        assert_eq!(behind(0, &[17, 9, 0, 0, 0, 0, 0, 0]), Err(Outcome::InnerMalformed), "beyond the end");
        assert_eq!(behind(0, &[17]), Err(Outcome::InnerMalformed));
    }

    fn raw(len: usize) -> Ipv6RawExtHeader {
        Ipv6RawExtHeader::new_raw(IpNumber(0), &vec![0; 6 + len * 8]).unwrap()
    }

    proptest! {
        #[test]
        fn it_is_what_an_independent_writer_put_there(
            hop: Option<u8>, destination: Option<u8>, authentication: Option<u8>, fragment: Option<bool>, udp: bool,
        ) {
            let mut extensions = Ipv6Extensions {
                hop_by_hop_options: hop.map(|n| raw(n.into())),
                destination_options: destination.map(|n| raw(n.into())),
                fragment: fragment.map(|more| Ipv6FragmentHeader::new(
                    IpNumber(0), etherparse::IpFragOffset::ZERO, more, 7)),
                auth: authentication.map(|n| etherparse::IpAuthHeader::new(
                    IpNumber(0), 1, 2, &vec![0; usize::from(n % 200) * 4]).unwrap()),
                ..Ipv6Extensions::default()
            };
            let last = if udp { 17 } else { 6 };
            let next = extensions.set_next_headers(IpNumber(last));
            let mut payload = Vec::new();
            extensions.write(&mut payload, next).unwrap();
            let offset = 40 + payload.len();
            payload.extend([0; 20]);
            prop_assert_eq!(behind(next.0, &payload), Ok(Some(Upper { protocol: last, offset })));
        }

        #[test]
        fn no_bytes_lead_beyond_the_bound(next: u8, payload: Vec<u8>) {
            if let Ok(Some(found)) = behind(next, &payload) {
                prop_assert!(found.offset <= 40 + MOST_EXTENSIONS * 2048);
            }
        }
    }
}
