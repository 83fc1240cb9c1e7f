//! What can become of a packet: one stable enum that names the counters in the maps, in `status`
//! and in the log.

/// Where a packet entered our programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Hook {
    /// From a container: tc on the host side of an endpoint's interface.
    Endpoint = 0,
    /// From the wire: XDP or tc on the uplink.
    Uplink = 1,
    /// From the wire by way of the kernel's VXLAN device: tc on that device.
    Slowpath = 2,
    /// From the hosts behind a gateway port: XDP or tc on that interface.
    Port = 3,
}

/// What kind of thing an [`Outcome`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Entered. Not an end: every packet has exactly one other outcome as well.
    Received,
    /// Forwarded or answered by our programs.
    Forwarded,
    /// Not ours: left to the host's stack as it came.
    Passed,
    /// Ours, but left to the kernel's VXLAN device, untouched.
    SlowPath,
    /// Dropped.
    Drop,
}

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal, $class:ident, $text:literal;)+) => {
        /// What became of a packet. At each hook, the count of [`Outcome::Received`] is the sum of
        /// the counts of all the others.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Outcome { $($(#[doc = $doc])+ $name = $value,)+ }

        /// Every outcome, in the order of their numbers.
        pub const OUTCOMES: &[Outcome] = &[$(Outcome::$name),+];

        impl Outcome {
            /// The name in `status`, in metrics and in the log.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// What kind of thing this outcome is.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class),+ }
            }

            /// One sentence about it, for the operator.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii()),+ }
            }
        }
    };
}

outcomes! {
    /// The packet entered at this hook.
    Received = 0, Received, "received";

    /// Handed to an endpoint on this node.
    Delivered = 1, Forwarded, "delivered";
    /// Sent to another node in VXLAN.
    Encapsulated = 2, Forwarded, "encapsulated";
    /// An ARP request answered by the program.
    ArpAnswered = 3, Forwarded, "arp_answered";
    /// Broadcast or multicast, copied to its receivers.
    Flooded = 4, Forwarded, "flooded";
    /// A neighbour solicitation answered by the program (RFC 4861).
    NdAnswered = 5, Forwarded, "nd_answered";
    /// Larger than the path to the other node carries, and answered with ICMP.
    TooBigAnswered = 6, Forwarded, "too_big_answered";

    /// Not VXLAN to this node's tunnel address: the host's own traffic.
    PassedUp = 8, Passed, "passed_up";
    /// VXLAN for a VNI with no endpoint here: left to other VXLAN devices of the host.
    PassedUnknownVni = 9, Passed, "passed_unknown_vni";

    /// The inner frame is not IP: `bpf_skb_adjust_room` cannot add or strip headers.
    SlowNotIp = 16, SlowPath, "slow_not_ip";
    /// The kernel refused to add headers, as for a packet that is encapsulated already.
    SlowEncapsulated = 17, SlowPath, "slow_encapsulated";
    /// A broadcast to more nodes than the program copies to, to one whose neighbour entry is not known yet, or over IPv6.
    SlowFanout = 18, SlowPath, "slow_fanout";
    /// A super-packet that would be longer than an IP packet can say with the outer headers added.
    SlowTooLong = 19, SlowPath, "slow_too_long";
    /// The outer IPv6 packet needs a UDP checksum that the program cannot tell: of a super-packet, or around
    /// something that is no whole TCP, UDP or ICMP packet with a checksum.
    SlowChecksum = 20, SlowPath, "slow_checksum";
    /// A frame with a VLAN tag, of a network that carries them: `bpf_skb_adjust_room` cannot add or strip headers.
    SlowVlan = 22, SlowPath, "slow_vlan";

    /// A merged packet that its endpoint will forward on: only the kernel's device makes it an ordinary one again.
    SlowForwarded = 21, SlowPath, "slow_forwarded";

    /// The source MAC is not the endpoint's.
    SpoofedMac = 32, Drop, "spoofed_mac";
    /// The source address is not one of the endpoint's.
    SpoofedAddress = 33, Drop, "spoofed_address";
    /// The ARP packet claims a MAC or an address that is not the endpoint's.
    SpoofedArp = 34, Drop, "spoofed_arp";
    /// No endpoint of the network has the destination MAC.
    UnknownDestination = 35, Drop, "unknown_destination";
    /// An ARP request for an address no endpoint of the network has.
    ArpUnknown = 36, Drop, "arp_unknown";
    /// An endpoint sent VXLAN to a node's tunnel address.
    EncapProhibited = 37, Drop, "encap_prohibited";
    /// Larger than the path to the other node carries, and not answered: for everybody, an error itself, or one of too many.
    TooBig = 38, Drop, "too_big";
    /// The inner frame has a VLAN tag, which RFC 7348 section 6.1 has us discard unless the network carries them.
    InnerVlan = 39, Drop, "inner_vlan";
    /// Shorter than its headers, or than they say it is.
    Truncated = 40, Drop, "truncated";
    /// The VXLAN header's I flag is not set (RFC 7348 section 5).
    NoVniFlag = 41, Drop, "no_vni_flag";
    /// Reserved bits of the VXLAN header are set.
    ReservedBits = 42, Drop, "reserved_bits";
    /// The outer source is not a VTEP of the network.
    UnknownVtep = 43, Drop, "unknown_vtep";
    /// The inner source belongs to an endpoint behind another VTEP, or to none.
    InnerSource = 44, Drop, "inner_source";
    /// VXLAN inside VXLAN, addressed to a node.
    Nested = 45, Drop, "nested";
    /// A fragment of a VXLAN packet: VTEPs do not reassemble (RFC 7348 section 4.3).
    Fragment = 46, Drop, "fragment";
    /// The network marked congestion on a packet whose inner header cannot carry the mark (RFC 6040 section 4.2).
    EcnNotCapable = 47, Drop, "ecn_not_capable";
    /// The outer header has options or extensions.
    OuterOptions = 48, Drop, "outer_options";
    /// The endpoint is on another node: what came from the overlay never goes out again.
    NotLocal = 49, Drop, "not_local";
    /// The kernel's VXLAN device has to carry it, and this network has none.
    NoSlowPath = 50, Drop, "no_slow_path";
    /// It reached the kernel's VXLAN device without having passed the uplink's checks.
    Unchecked = 51, Drop, "unchecked";
    /// A kernel helper failed on a packet already begun.
    HelperFailed = 52, Drop, "helper_failed";
    /// An inner header is malformed, or hides what is behind it.
    InnerMalformed = 53, Drop, "inner_malformed";
    /// The endpoint's interface is not bound to a network (any more).
    Unbound = 54, Drop, "unbound";
    /// The underlay has no route to the other node.
    NoRoute = 55, Drop, "no_route";
    /// VXLAN from another VLAN on the uplink, whose tag the driver hid from XDP.
    OuterVlan = 56, Drop, "outer_vlan";
    /// A neighbour solicitation for an address no endpoint of the network has.
    NdUnknown = 57, Drop, "nd_unknown";
    /// The neighbour discovery packet claims a MAC or an address that is not the endpoint's.
    SpoofedNd = 58, Drop, "spoofed_nd";
    /// A router advertisement or a redirect: an overlay has no routers.
    RouterAdvert = 59, Drop, "router_advert";
    /// A broadcast or multicast, which the network's owner has dropped.
    BumPolicy = 60, Drop, "bum_policy";
    /// A frame for everybody, more than the network's owner lets its endpoints on this node send.
    BumRate = 61, Drop, "bum_rate";
    /// A MAC address that is not known yet, on a gateway port that has learned as many as it may.
    LearnLimit = 62, Drop, "learn_limit";
    /// Redirected by XDP to an interface that did not take it, as a veth with neither GRO nor an XDP program inside; told by the interface's own statistics.
    RedirectLost = 63, Drop, "redirect_lost";
    /// To a host behind the very port it came from: their own switch has delivered it.
    SamePort = 64, Drop, "same_port";
    /// VXLAN over IPv6 without a UDP checksum, which RFC 8200 section 8.1 has us discard: see --udp6-zero-checksum.
    ZeroChecksum = 66, Drop, "zero_checksum";
}

/// Room for outcomes at each hook in the counters map.
const PER_HOOK: u32 = 128;

/// Entries of the counters map.
pub const COUNTERS: u32 = 4 * PER_HOOK;

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 4] = [Self::Endpoint, Self::Uplink, Self::Slowpath, Self::Port];

    /// The name in `status` and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Uplink => "uplink",
            Self::Slowpath => "slowpath",
            Self::Port => "port",
        }
    }

    /// Index of `outcome` at this hook in the counters map.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self, outcome: Outcome) -> u32 {
        self as u32 * PER_HOOK + outcome as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_own_counter_and_name() {
        let mut indices: Vec<_> =
            Hook::ALL.iter().flat_map(|hook| OUTCOMES.iter().map(|o| hook.counter(*o))).collect();
        assert!(indices.iter().all(|i| *i < COUNTERS));
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), Hook::ALL.len() * OUTCOMES.len());

        let mut names: Vec<_> = OUTCOMES.iter().map(|o| o.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OUTCOMES.len());
        assert!(OUTCOMES.iter().all(|o| (*o as u32) < PER_HOOK && !o.explanation().is_empty()));
    }
}
