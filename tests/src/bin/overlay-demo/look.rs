//! What one sees with the usual tools.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    exec::{self, Process},
    probe::ping,
    wire::UPLINK,
};

use crate::stage::{NETWORKS, Stage};

/// Lines of a map that are shown: one row.
const MAP_LINES: usize = 18;

/// Captures a packet between two nodes on the wire and has tshark say what it is.
pub fn packet(stage: &Stage) -> Result<String> {
    let (from, to) = (stage.first(0, 0), stage.first(0, 1));
    let node = &stage.cluster.nodes[0];
    let file = std::env::temp_dir().join(format!("{}.pcap", node.netns().name()));
    let port = &node.port().name;
    let mut tcpdump = stage.cluster.wire.netns().command("tcpdump");
    tcpdump.args(["-U", "-c", "1", "-i", port, "-w"]).arg(&file).arg("udp port 4789");
    tcpdump.stderr(Stdio::null());
    let captured = Process::spawn(&mut tcpdump).and_then(|capture| {
        // It says that it listens only to people: a packet every ten milliseconds until it has one.
        exec::eventually(Duration::from_secs(10), || {
            ping(&from.netns, to.addr, 5, &[])?;
            capture.ended()?.context("tcpdump saw no packet")
        })
    });
    let decoded = captured.and_then(|_| decode(&file));
    let _ = fs::remove_file(&file);
    let decoded = decoded?;
    for line in decoded.lines().filter(|line| !line.trim().is_empty()) {
        println!("    {line}");
    }
    let vni = format!("VXLAN Network Identifier (VNI): {}", NETWORKS[0].vni);
    ensure!(decoded.contains(&vni), "tshark does not say {vni:?}");
    Ok(format!("tshark: VXLAN, VNI {}, ICMP from {} to {}", NETWORKS[0].vni, from.addr, to.addr))
}

fn decode(file: &Path) -> Result<String> {
    let mut tshark = Command::new("tshark");
    // Runs as root, which tshark warns of on standard error.
    exec::output(tshark.arg("-r").arg(file).args(["-O", "vxlan"]))
}

/// Shows the status of the first node.
pub fn status(stage: &Stage) -> Result<String> {
    let node = &stage.cluster.nodes[0];
    for line in node.ctl(&["status"])?.lines() {
        println!("    {line}");
    }
    let status = node.status()?;
    let (mode, reason) = (&status["datapath"]["mode"], &status["datapath"]["reason"]);
    ensure!(mode == "xdp", "{} runs {mode}: {reason}", node.name());
    Ok(format!("healthy, xdp on {UPLINK}"))
}

/// Shows rows of the first node's map of endpoints.
pub fn map(stage: &Stage) -> Result<String> {
    let node = &stage.cluster.nodes[0];
    let pin = find(node.bpffs(), "endpoints").context("no map named endpoints is pinned")?;
    println!("    bpftool map dump pinned {}", pin.display());
    let dump = exec::output(Command::new("bpftool").args(["map", "dump", "pinned"]).arg(&pin))?;
    for line in dump.lines().take(MAP_LINES) {
        println!("    {line}");
    }
    let rows = dump.matches("\"key\"").count();
    let expected = stage.containers.iter().flatten().count();
    ensure!(rows == expected && dump.contains("\"vni\""), "{rows} rows for {expected} containers");
    println!("    … {rows} rows");
    Ok(format!("{rows} endpoints, fields by name"))
}

/// A pin by its name, anywhere below a directory.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find_map(|path| if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) })
}
