//! What of newer kernels' abilities the running one has: found by trying, never by its version.

use aya::{
    programs::{ProgramType, SchedClassifier, TcAttachType},
    sys::{BpfHelper, is_helper_supported},
};

/// Abilities that the data path makes use of and does without where they are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// tcx links (Linux 6.6).
    pub tcx: bool,
    /// XDP on packets of several buffers (Linux 5.18).
    pub xdp_frags: bool,
}

impl Features {
    /// Tries each. What cannot be tried, for want of rights, counts as missing: loading will say so.
    #[must_use]
    pub fn probe() -> Self {
        // Every network namespace has a loopback interface. To ask what is attached changes nothing.
        let tcx = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok();
        // Helper and program flag came together (5.18); the library has no way to try the flag.
        let helper = BpfHelper::BPF_FUNC_xdp_get_buff_len;
        let xdp_frags = is_helper_supported(ProgramType::Xdp, helper).unwrap_or(false);
        Self { tcx, xdp_frags }
    }

    /// What is missing and what is done instead, for the operator.
    #[must_use]
    pub fn missing(self) -> Vec<&'static str> {
        [
            (self.tcx, "no tcx links: clsact filters"),
            (self.xdp_frags, "no XDP on packets of several buffers: MTUs up to about 3500 bytes"),
        ]
        .into_iter()
        .filter_map(|(there, what)| (!there).then_some(what))
        .collect()
    }
}
