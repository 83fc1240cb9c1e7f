//! tc programs on kernels without tcx links (before 6.6): filters of the interface's clsact qdisc.
//!
//! A filter holds its program by itself, so packets flow with nothing pinned. What is pinned, the
//! filter's program, is the note that a filter of ours is there, for the next daemon and for
//! `--purge`. It is written before the filter, so that none is ever forgotten.

use std::{fs, ops::RangeInclusive};

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    links::Link as _,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};

use futures::TryStreamExt as _;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcOption};
use rtnetlink::Handle;

use super::{object::failed, pins::Pins};
use crate::datapath::DatapathError;

/// Tells our filters from others', as a routing protocol's number does routes: "ovly".
const HANDLE: TcHandle = TcHandle::new(0x6f76, 0x6c79);

/// In front of others', as tcx links are; the next priority where another kind of filter has the first.
const PRIORITIES: RangeInclusive<u16> = 1..=8;

/// Puts a program on an interface's ingress, or in place of the program of a former daemon: the
/// kernel exchanges a filter's program at once (`cls_bpf_change`), so that no packet passes without.
///
/// # Errors
/// If the kernel refuses; the text says what it did.
pub fn attach(
    program: &mut SchedClassifier,
    pins: &Pins,
    name: &str,
    device: &str,
    ifindex: u32,
) -> Result<(), DatapathError> {
    let what = format!("cannot attach {name} to {device} (clsact ingress)");
    match tc::qdisc_add_clsact(device) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => other.map_err(|e| failed(&what, e))?,
    }
    let existing = pins.filter(name, ifindex).exists();
    note(program, pins, name, ifindex)?;
    if existing && PRIORITIES.into_iter().any(|priority| replace(program, device, priority)) {
        return Ok(());
    }
    let mut last = Ok(());
    for priority in PRIORITIES {
        let options = NlOptions { priority, handle: HANDLE, classid: None };
        match program.attach_with_options(device, TcAttachType::Ingress, TcAttachOptions::Netlink(options)) {
            Ok(id) => {
                keep(program.take_link(id));
                return Ok(());
            }
            // Left by a daemon whose pins are gone.
            Err(error) if errno(&error) == Some(libc::EEXIST) && replace(program, device, priority) => {
                return Ok(());
            }
            Err(error) => last = Err(failed(&what, error)),
        }
    }
    last
}

/// Whether a program is our filter on an interface's ingress.
pub async fn has(kernel: &Handle, ifindex: u32, program: u32) -> bool {
    let Ok(index) = i32::try_from(ifindex) else { return false };
    let filters: Result<Vec<_>, _> =
        kernel.traffic_filter(index).get().ingress().execute().try_collect().await;
    let wanted = TcOption::Bpf(TcFilterBpfOption::ProgId(program));
    filters
        .unwrap_or_default()
        .iter()
        .flat_map(|filter| &filter.attributes)
        .any(|attribute| matches!(attribute, TcAttribute::Options(options) if options.contains(&wanted)))
}

/// Takes our filter off an interface; the clsact qdisc stays, for others may have put filters there.
///
/// # Errors
/// If it is there and the kernel refuses.
pub fn detach(name: &str, device: &str) -> Result<(), DatapathError> {
    let what = format!("cannot take {name} off {device}");
    for priority in PRIORITIES {
        let link = SchedClassifierLink::attached(device, TcAttachType::Ingress, priority, HANDLE, None)
            .map_err(|e| failed(&what, e))?;
        match link.detach() {
            // No such filter, or no clsact qdisc at all.
            Err(error) if matches!(errno(&error), Some(libc::ENOENT | libc::EINVAL)) => {}
            other => other.map_err(|e| failed(&what, e))?,
        }
    }
    Ok(())
}

/// Pins the program under the filter's name, in one step whatever was pinned there.
fn note(program: &mut SchedClassifier, pins: &Pins, name: &str, ifindex: u32) -> Result<(), DatapathError> {
    let (new, pin) = (pins.new_filter(), pins.filter(name, ifindex));
    let what = format!("cannot pin the filter's program at {}", pin.display());
    super::pins::remove_file(&new)?;
    program.pin(&new).map_err(|e| failed(&what, e))?;
    fs::rename(&new, &pin).map_err(|e| failed(&what, e))
}

/// Exchanges the program of our filter at a priority, if it is there.
fn replace(program: &mut SchedClassifier, device: &str, priority: u16) -> bool {
    SchedClassifierLink::attached(device, TcAttachType::Ingress, priority, HANDLE, None)
        .map_err(|error| TcError::from(error).into())
        .and_then(|link| program.attach_to_link(link))
        .map(|id| keep(program.take_link(id)))
        .is_ok()
}

/// Lets go of the library's handle, which would take the filter off when dropped.
fn keep(link: Result<SchedClassifierLink, ProgramError>) {
    std::mem::forget(link);
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => {
            error.raw_os_error()
        }
        _ => None,
    }
}
