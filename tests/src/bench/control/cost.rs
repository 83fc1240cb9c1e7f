//! What a process takes: processor time and memory.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::{time::clock_getcpuclockid, unistd::Pid};

/// Memory of a process in bytes, maps that it shares with the kernel not counted: those are [`super::maps`]'.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// The most it was.
    pub most: u64,
}

/// Processor time that a process has taken.
pub fn cpu(process: Pid) -> Result<Duration> {
    let time = clock_getcpuclockid(process)?.now()?;
    Ok(Duration::from(time))
}

/// The memory of a process (proc(5)).
pub fn memory(process: Pid) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let smaps = fs::read_to_string(format!("/proc/{process}/smaps"))?;
    let maps = shared_with_kernel(&smaps);
    let field = |name| kilobytes(&status, name).with_context(|| format!("/proc has no {name}"));
    let less = |bytes: u64| bytes.saturating_sub(maps);
    Ok(Memory { now: less(field("VmRSS:")?), most: less(field("VmHWM:")?) })
}

/// Resident bytes of BPF maps among the mappings of a process.
fn shared_with_kernel(smaps: &str) -> u64 {
    let (mut of_a_map, mut sum) = (false, 0);
    for line in smaps.lines() {
        // A mapping begins with its addresses, a figure with its name and a colon.
        if !line.split_whitespace().next().is_some_and(|word| word.ends_with(':')) {
            of_a_map = line.contains("bpf-map");
        } else if of_a_map {
            sum += kilobytes(line, "Rss:").unwrap_or(0);
        }
    }
    sum
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_maps_is_told_from_other_memory() {
        let smaps = "7f00-7f10 rw-p 00000000 00:00 0 \nSize: 64 kB\nRss: 40 kB\n\
                     7f20-7f30 rw-s 00000000 00:0e 12 anon_inode:bpf-map\nRss:      32 kB\nPss: 32 kB\n";
        assert_eq!(shared_with_kernel(smaps), 32 * 1024);
        let own = memory(Pid::this()).unwrap();
        assert!(own.now > 0 && own.most >= own.now);
    }

    #[test]
    fn processor_time_grows() {
        let before = cpu(Pid::this()).unwrap();
        let mut n = 0_u64;
        while cpu(Pid::this()).unwrap() <= before {
            n = std::hint::black_box(n + 1);
        }
    }
}
