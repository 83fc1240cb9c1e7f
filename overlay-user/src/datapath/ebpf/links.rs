//! Programs on interfaces: attached once, pinned, and handed from one daemon to the next by an atomic
//! update of the link or filter, so that no packet passes without a program.

use std::fmt::Display;

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};

use super::{
    filters,
    object::{self, failed},
    pins::{Pins, remove_file},
};
use crate::datapath::DatapathError;

/// tc ingress on endpoints' interfaces.
pub const ENDPOINT_IN: &str = "endpoint_in";
/// tc ingress on the uplink.
pub const UPLINK_IN: &str = "uplink_in";
/// XDP on the uplink.
pub const UPLINK_XDP: &str = "uplink_xdp";
/// tc ingress on gateway ports.
pub const PORT_IN: &str = "port_in";
/// XDP on gateway ports.
pub const PORT_XDP: &str = "port_xdp";
/// tc ingress on the kernel's VXLAN devices.
pub const SLOWPATH_IN: &str = "slowpath_in";

/// Puts a tc program on an interface's ingress, or hands over what a former daemon left there: as a
/// tcx link, or as a filter on a kernel without those.
///
/// # Errors
/// If the kernel refuses; the text says what it did.
pub fn attach_tc(
    ebpf: &mut Ebpf,
    pins: &Pins,
    tcx: bool,
    name: &str,
    device: &str,
    ifindex: u32,
) -> Result<(), DatapathError> {
    let program: &mut SchedClassifier = loaded(ebpf, pins, name)?;
    if tcx {
        attach_tcx(program, pins, name, device, ifindex)
    } else {
        filters::attach(program, pins, name, device, ifindex)
    }
}

fn attach_tcx(
    program: &mut SchedClassifier,
    pins: &Pins,
    name: &str,
    device: &str,
    ifindex: u32,
) -> Result<(), DatapathError> {
    let pin = pins.link(name, ifindex);
    if let Ok(pinned) = PinnedLink::from_pin(&pin) {
        let link: Option<SchedClassifierLink> = FdLink::from(pinned).try_into().ok();
        if let Some(link) = link
            && let Ok(id) = program.attach_to_link(link)
        {
            // The pin alone holds it: without that it must be gone.
            drop(program.take_link(id));
            return Ok(());
        }
        // Its interface is gone: the kernel has let go of the link already.
        remove_file(&pin)?;
    }
    let refused = refused(name, format!("{device} (tcx ingress)"));
    let id = program
        .attach_with_options(device, TcAttachType::Ingress, TcAttachOptions::TcxOrder(LinkOrder::default()))
        .map_err(&refused)?;
    let link = FdLink::try_from(program.take_link(id).map_err(&refused)?)
        .map_err(|e| failed(&format!("{name} on {device} is not held by a link"), e))?;
    link.pin(&pin).map_err(|e| failed(&format!("cannot pin the link of {name} on {device}"), e))?;
    Ok(())
}

/// Puts an XDP program on an interface in native mode, or hands over the pinned link. A program that
/// was not loaded yet is loaded now.
///
/// # Errors
/// If the driver has no native XDP, or another program is there: it is never replaced.
pub fn attach_xdp(
    ebpf: &mut Ebpf,
    pins: &Pins,
    name: &str,
    device: &str,
    ifindex: u32,
) -> Result<(), DatapathError> {
    let program: &mut Xdp = loaded(ebpf, pins, name)?;
    let pin = pins.link(name, ifindex);
    if let Ok(pinned) = PinnedLink::from_pin(&pin) {
        let link: Option<XdpLink> = FdLink::from(pinned).try_into().ok();
        if let Some(link) = link
            && let Ok(id) = program.attach_to_link(link)
        {
            drop(program.take_link(id));
            return Ok(());
        }
        remove_file(&pin)?;
    }
    let refused = refused(name, format!("{device} (native XDP)"));
    let id = program.attach_to_if_index(ifindex, XdpMode::Driver).map_err(|error| match errno(&error) {
        Some(libc::EOPNOTSUPP) => DatapathError::Unsupported(format!(
            "the driver of {device} has no native XDP: use --datapath auto or tc"
        )),
        Some(libc::EBUSY) => DatapathError::Unsupported(format!(
            "another XDP program is on {device} and is left there: use --datapath auto or tc, or remove it"
        )),
        _ => refused(error),
    })?;
    let link = FdLink::try_from(program.take_link(id).map_err(&refused)?)
        .map_err(|e| failed(&format!("XDP on {device} is not held by a link (needs Linux 5.9)"), e))?;
    link.pin(&pin).map_err(|e| failed(&format!("cannot pin the XDP link on {device}"), e))?;
    Ok(())
}

/// The program, loaded now if it was not needed at first.
fn loaded<'a, P>(ebpf: &'a mut Ebpf, pins: &Pins, name: &str) -> Result<&'a mut P, DatapathError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| DatapathError::Unsupported(format!("the BPF object has no program {name}")))?;
    if program.fd().is_err() {
        object::load_one(pins, name, program)?;
    }
    program.try_into().map_err(|e| failed(&format!("program {name} is of another kind"), e))
}

fn errno(error: &ProgramError) -> Option<i32> {
    if let ProgramError::SyscallError(error) = error { error.io_error.raw_os_error() } else { None }
}

fn refused(program: &str, place: impl Display) -> impl Fn(ProgramError) -> DatapathError {
    let what = format!("cannot attach {program} to {place}");
    move |error| match error {
        ProgramError::SyscallError(error) => failed(&what, error.io_error),
        other => failed(&what, other),
    }
}
