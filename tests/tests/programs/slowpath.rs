//! By way of the kernel's VXLAN device: `slowpath_in`.

use overlay_ebpf::abi::{CHECKED_MARK, Hook, Outcome};

use crate::{
    fixture::{Case, Setup, TC_REDIRECT, TC_SHOT, check_tc},
    frames::{ALL, B, C, Host, NOBODY, raw, udp},
};

#[test]
fn packets_from_the_kernels_device() {
    check_tc("slowpath_in", Hook::Slowpath, &cases());
}

pub fn cases() -> Vec<Case> {
    let checked = Setup { mark: CHECKED_MARK, ..Setup::default() };
    let frame = raw(C, B, 0x88b5, &[1; 50]);
    let case =
        |what, setup, packet, action, outcome| Case { what, setup, packet, action, outcome, output: None };
    vec![
        case("to an endpoint", checked, frame.clone(), TC_REDIRECT, Outcome::Delivered),
        case("a broadcast", checked, raw(C, ALL, 0x88b5, &[1; 50]), TC_SHOT, Outcome::Flooded),
        case(
            "not seen by the uplink's program",
            Setup::default(),
            frame.clone(),
            TC_SHOT,
            Outcome::Unchecked,
        ),
        case(
            "to an endpoint that is not here",
            checked,
            raw(B, C, 0x88b5, &[1; 50]),
            TC_SHOT,
            Outcome::NotLocal,
        ),
        case("to a MAC nobody has", checked, udp(C, NOBODY, 1, b"x"), TC_SHOT, Outcome::UnknownDestination),
        case(
            "on a device that is no network's",
            Setup { unbound: true, ..checked },
            raw(C, Host { ..B }, 0x88b5, &[1; 50]),
            TC_SHOT,
            Outcome::Unbound,
        ),
    ]
}
