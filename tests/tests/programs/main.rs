//! The programs, packet by packet, through `BPF_PROG_TEST_RUN`: what goes in, under which name it is
//! counted, and what comes out, byte for byte.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod endpoint;
mod fdb;
mod fixture;
mod frames;
mod ipv6;
mod ipv6_underlay;
mod port;
mod slowpath;
mod uplink;

use overlay_ebpf::abi::{Hook, OUTCOMES, Outcome};

/// Outcomes that no packet of a test run brings about: one needs a kernel helper to fail in the middle
/// of a packet, one a packet longer than a test run takes, one a tag that the hardware took off, one a
/// driver that refuses a frame.
const NOT_BY_PACKET: [Outcome; 4] =
    [Outcome::HelperFailed, Outcome::SlowTooLong, Outcome::OuterVlan, Outcome::RedirectLost];

/// What the program at each hook can come to, but for [`NOT_BY_PACKET`]. One outcome can have a cause of its own
/// at each.
const BY_HOOK: [(Hook, &[Outcome]); 3] = [
    (
        Hook::Endpoint,
        &[
            Outcome::Delivered,
            Outcome::Encapsulated,
            Outcome::ArpAnswered,
            Outcome::Flooded,
            Outcome::SlowNotIp,
            Outcome::SlowFanout,
            Outcome::SpoofedMac,
            Outcome::SpoofedAddress,
            Outcome::SpoofedArp,
            Outcome::UnknownDestination,
            Outcome::ArpUnknown,
            Outcome::EncapProhibited,
            Outcome::TooBig,
            Outcome::InnerVlan,
            Outcome::NoSlowPath,
            Outcome::InnerMalformed,
            Outcome::Unbound,
            Outcome::NoRoute,
        ],
    ),
    (
        Hook::Uplink,
        &[
            Outcome::Delivered,
            Outcome::Flooded,
            Outcome::PassedUp,
            Outcome::PassedUnknownVni,
            Outcome::SlowNotIp,
            Outcome::SlowEncapsulated,
            Outcome::SlowForwarded,
            Outcome::UnknownDestination,
            Outcome::InnerVlan,
            Outcome::Truncated,
            Outcome::NoVniFlag,
            Outcome::ReservedBits,
            Outcome::UnknownVtep,
            Outcome::InnerSource,
            Outcome::Nested,
            Outcome::Fragment,
            Outcome::EcnNotCapable,
            Outcome::OuterOptions,
            Outcome::NotLocal,
            Outcome::InnerMalformed,
        ],
    ),
    (
        Hook::Slowpath,
        &[
            Outcome::Delivered,
            Outcome::Flooded,
            Outcome::UnknownDestination,
            Outcome::NotLocal,
            Outcome::Unchecked,
            Outcome::Unbound,
        ],
    ),
];

#[test]
fn every_outcome_of_a_hook_is_reached_by_some_packet_there() {
    let cases = [endpoint::cases(), uplink::cases(), slowpath::cases()];
    for ((hook, outcomes), cases) in BY_HOOK.iter().zip(cases) {
        let missing: Vec<_> =
            outcomes.iter().filter(|outcome| !cases.iter().any(|case| case.outcome == **outcome)).collect();
        assert!(missing.is_empty(), "no packet at {} for {missing:?}", hook.name());
    }
}

#[test]
fn every_outcome_is_reached_by_some_packet() {
    let mut reached = std::collections::BTreeSet::new();
    for (cases, _) in [
        (endpoint::cases(), Hook::Endpoint),
        (uplink::cases(), Hook::Uplink),
        (slowpath::cases(), Hook::Slowpath),
        (port::cases(), Hook::Port),
        (ipv6::from_endpoint(), Hook::Endpoint),
        (ipv6::from_wire(), Hook::Uplink),
        (ipv6_underlay::from_endpoints(), Hook::Endpoint),
        (ipv6_underlay::from_the_wire(), Hook::Uplink),
    ] {
        reached.extend(cases.iter().map(|case| case.outcome));
    }
    reached.extend([Outcome::Received]);
    let missing: Vec<_> =
        OUTCOMES.iter().filter(|o| !reached.contains(o) && !NOT_BY_PACKET.contains(o)).collect();
    assert!(missing.is_empty(), "no packet for {missing:?}");
}
