//! ARP for IPv4 over Ethernet (RFC 826): requests that the endpoint's side answers itself.

use network_types::arp::ArpHdr;

use super::{ETHERTYPE_IPV4, ethernet::Ethernet};
use crate::abi::{MacAddr, Outcome};

/// Length of an ARP packet for IPv4 over Ethernet.
pub const LEN: usize = 28;

const ETHERNET: u16 = 1;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// What an endpoint's ARP packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Who has this address?
    WhoHas([u8; 4]),
    /// Nothing we answer: a reply, an announcement, or a probe for the asker's own address (RFC 5227).
    Announcement,
}

/// Checks that an ARP packet comes from `mac` and claims no address but the endpoint's, and says
/// what it asks. `owns` tells whether an address is the endpoint's own.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn question(arp: &ArpHdr, mac: MacAddr, owns: impl Fn([u8; 4]) -> bool) -> Result<Question, Outcome> {
    if u16::from_be_bytes(arp.htype) != ETHERNET
        || u16::from_be_bytes(arp.ptype) != ETHERTYPE_IPV4
        || arp.hlen != 6
        || arp.plen != 4
    {
        return Err(Outcome::InnerMalformed);
    }
    // A probe has the sender address zero (RFC 5227, section 2.1.1).
    let probe = arp.spa == [0; 4];
    if arp.sha != mac.0 || !(probe || owns(arp.spa)) {
        return Err(Outcome::SpoofedArp);
    }
    if u16::from_be_bytes(arp.oper) != REQUEST || arp.tpa == arp.spa || (probe && owns(arp.tpa)) {
        return Ok(Question::Announcement);
    }
    Ok(Question::WhoHas(arp.tpa))
}

/// Turns a request into the reply that `answer` has the address asked for.
#[inline(always)]
pub fn reply(eth: &mut Ethernet, arp: &mut ArpHdr, answer: MacAddr) {
    let (asker, wanted) = (arp.spa, arp.tpa);
    eth.destination = MacAddr(arp.sha);
    eth.source = answer;
    arp.oper = REPLY.to_be_bytes();
    arp.tha = arp.sha;
    arp.tpa = asker;
    arp.sha = answer.0;
    arp.spa = wanted;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0x42, 10, 0, 9, 2]);
    const OTHER: MacAddr = MacAddr([2, 0x42, 10, 0, 9, 3]);

    fn request(spa: [u8; 4], tpa: [u8; 4]) -> ArpHdr {
        ArpHdr {
            htype: [0, 1],
            ptype: [8, 0],
            hlen: 6,
            plen: 4,
            oper: [0, 1],
            sha: MAC.0,
            spa,
            tha: [0; 6],
            tpa,
        }
    }

    fn ask(arp: &ArpHdr) -> Result<Question, Outcome> {
        question(arp, MAC, |a| a == [10, 0, 9, 2])
    }

    #[test]
    fn a_request_is_a_question_and_an_announcement_is_not() {
        assert_eq!(ask(&request([10, 0, 9, 2], [10, 0, 9, 3])), Ok(Question::WhoHas([10, 0, 9, 3])));
        assert_eq!(ask(&request([0; 4], [10, 0, 9, 3])), Ok(Question::WhoHas([10, 0, 9, 3])));
        assert_eq!(ask(&request([10, 0, 9, 2], [10, 0, 9, 2])), Ok(Question::Announcement));
        assert_eq!(ask(&request([0; 4], [10, 0, 9, 2])), Ok(Question::Announcement));
        let reply = ArpHdr { oper: [0, 2], ..request([10, 0, 9, 2], [10, 0, 9, 3]) };
        assert_eq!(ask(&reply), Ok(Question::Announcement));
    }

    #[test]
    fn claims_of_others_addresses_are_spoofs() {
        assert_eq!(ask(&request([10, 0, 9, 7], [10, 0, 9, 3])), Err(Outcome::SpoofedArp));
        let other = ArpHdr { sha: OTHER.0, ..request([10, 0, 9, 2], [10, 0, 9, 3]) };
        assert_eq!(ask(&other), Err(Outcome::SpoofedArp));
        let garbage = ArpHdr { hlen: 8, ..request([10, 0, 9, 2], [10, 0, 9, 3]) };
        assert_eq!(ask(&garbage), Err(Outcome::InnerMalformed));
    }

    #[test]
    fn the_reply_is_what_rfc_826_says() {
        let mut eth = Ethernet::new(MacAddr::BROADCAST, MAC, 0x0806);
        let mut arp = request([10, 0, 9, 2], [10, 0, 9, 3]);
        reply(&mut eth, &mut arp, OTHER);
        assert_eq!((eth.destination, eth.source), (MAC, OTHER));
        assert_eq!((arp.oper, arp.sha, arp.spa), ([0, 2], OTHER.0, [10, 0, 9, 3]));
        assert_eq!((arp.tha, arp.tpa), (MAC.0, [10, 0, 9, 2]));
    }
}
