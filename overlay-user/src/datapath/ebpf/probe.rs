//! What the running kernel can do beyond the least the programs need, found out by trying it.

use aya::{Ebpf, TestRun as _, TestRunOptions, programs::SchedClassifier};
use overlay_ebpf::abi::OUTER_LEN;

/// Name of the program that tries flags of `bpf_skb_adjust_room`.
pub const DECAP: &str = "probe_decap";

/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV6` (include/uapi/linux/bpf.h): what is inside is IPv6, outside or not.
pub const DECAP_L3_IPV6: u32 = 1 << 8;

const TC_ACT_OK: u32 = 0;
/// Place of `mark` in the words of `struct __sk_buff`, and how many a test run takes.
const MARK: usize = 2;
const SK_BUFF: usize = 48;

/// Whether the kernel strips a packet with a flag of `bpf_skb_adjust_room`. A kernel that cannot be
/// asked counts as one that does not.
pub fn decap(ebpf: &Ebpf, flag: u32) -> bool {
    let Some(Ok(program)) = ebpf.program(DECAP).map(<&SchedClassifier>::try_from) else { return false };
    // An IPv4 packet as far as a test run looks at one: it takes the protocol from the Ethernet header.
    let mut packet = [0; 3 * OUTER_LEN];
    packet[12] = 0x08;
    packet[14] = 0x45;
    let mut context = [0_u32; SK_BUFF];
    context[MARK] = flag;
    let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let run = program.test_run(TestRunOptions {
        data_in: Some(&packet),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    });
    match run {
        Ok(run) => run.return_value == TC_ACT_OK,
        Err(error) => {
            tracing::debug!(%error, "no test run of {DECAP}");
            false
        }
    }
}
