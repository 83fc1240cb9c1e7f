//! What the running kernel can do beyond the least the programs need, found out by trying it.

use aya::{Ebpf, TestRun as _, TestRunOptions, programs::SchedClassifier};
use overlay_ebpf::abi::OUTER_LEN;

/// Name of the program that tries [`overlay_ebpf::abi::DECAP_L4_UDP`].
pub const DECAP: &str = "probe_decap";

const TC_ACT_OK: u32 = 0;

/// Whether stripping a UDP tunnel also takes its mark off the packet. A kernel that cannot be asked
/// counts as one that does not.
pub fn decap_clears_tunnel(ebpf: &Ebpf) -> bool {
    let Some(Ok(program)) = ebpf.program(DECAP).map(<&SchedClassifier>::try_from) else { return false };
    // An IPv4 packet as far as a test run looks at one: it takes the protocol from the Ethernet header.
    let mut packet = [0; 2 * OUTER_LEN];
    packet[12] = 0x08;
    packet[14] = 0x45;
    let run = program.test_run(TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() });
    match run {
        Ok(run) => run.return_value == TC_ACT_OK,
        Err(error) => {
            tracing::debug!(%error, "no test run of {DECAP}");
            false
        }
    }
}
