//! A host that is not ours alone: other people's programs, devices and limits.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::time::Duration;

use anyhow::{Result, ensure};
use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};
use nix::net::if_::if_nametoindex;
use overlay_ebpf::abi::VXLAN_PORT;
use overlay_tests::{
    cluster::{Cluster, Network},
    exec::eventually,
    netns::Netns,
    node::{
        Datapath::{Auto, Kernel, Tc, Xdp as OurXdp},
        Node,
    },
    probe::{ping, ping_all},
    wire::{Card, UPLINK},
};
use overlay_user::datapath::ebpf::OBJECT;

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// How long a daemon may take to give up.
const LIMIT: Duration = Duration::from_secs(10);

/// Puts an XDP program that is not the daemon's on an uplink. It is our own with empty maps, which
/// passes everything, and stays until what is returned is dropped.
fn occupy(netns: &Netns) -> Result<Ebpf> {
    netns.run(|| {
        let mut ebpf = Ebpf::load(OBJECT)?;
        let program: &mut Xdp = ebpf.program_mut("uplink_xdp").unwrap().try_into()?;
        program.load()?;
        program.attach_to_if_index(if_nametoindex(UPLINK)?, XdpMode::Driver)?;
        Ok(ebpf)
    })
}

/// The id of the XDP program on an uplink, as `ip` shows it.
fn xdp_on(netns: &Netns) -> Option<u64> {
    let links: serde_json::Value =
        serde_json::from_str(&netns.exec(&format!("ip -json link show dev {UPLINK}")).unwrap()).unwrap();
    links[0]["xdp"]["prog"]["id"].as_u64()
}

#[test]
fn another_xdp_program_on_the_uplink_is_left_there() {
    let mut cluster = Cluster::start(&[OurXdp]).unwrap();
    let mut node = Node::plug(&cluster.wire, "n2", Card::Veth, OurXdp, &[]).unwrap();
    let foreign = occupy(node.netns()).unwrap();
    let id = xdp_on(node.netns());
    assert!(id.is_some(), "the foreign program is not there");

    node.launch().unwrap();
    let status = node.daemon().unwrap().wait(LIMIT).unwrap();
    let log = node.log();
    assert!(!status.success(), "{log}");
    let last = log.lines().last().unwrap();
    assert!(["XDP", UPLINK, "--datapath"].iter().all(|word| last.contains(word)), "{last}");
    assert_eq!(xdp_on(node.netns()), id);

    // What does not need its place works beside it.
    for (datapath, mode) in [(Auto, "tc"), (Tc, "tc"), (Kernel, "kernel")] {
        node.ask_for(datapath);
        node.launch().unwrap();
        node.wait_ready().unwrap();
        assert_eq!(node.status().unwrap()["datapath"]["mode"], mode);
        assert_eq!(xdp_on(node.netns()), id, "--datapath {datapath}");
        let findings = node.doctor(&[]).unwrap();
        assert!(
            findings.len() == 1 && findings[0].what.contains("another XDP program uplink_xdp"),
            "{findings:?}"
        );
        node.stop().unwrap();
    }
    node.ask_for(Tc);
    node.launch().unwrap();
    node.wait_ready().unwrap();
    cluster.nodes.push(node);
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    ping_all(&containers[0], &containers[1]).unwrap();

    // Once it is gone, its place is ours.
    let node = cluster.nodes.last_mut().unwrap();
    node.stop().unwrap();
    drop(foreign);
    node.ask_for(OurXdp);
    node.launch().unwrap();
    node.wait_ready().unwrap();
    assert!(xdp_on(node.netns()).is_some_and(|ours| Some(ours) != id));
    ping_all(&containers[0], &containers[1]).unwrap();
}

#[test]
fn another_vxlan_device_on_the_same_port_keeps_working() {
    let cluster = Cluster::start(&[OurXdp, Tc, Kernel]).unwrap();
    let ends: Vec<_> =
        cluster.nodes.iter().zip(1..).map(|(node, number)| (node, foreign_end(number))).collect();
    for (node, addr) in &ends {
        let netns = node.netns();
        let local = node.addr();
        let line =
            format!("ip link add foreign type vxlan id 999 local {local} dstport {VXLAN_PORT} nolearning");
        netns.exec(&line).unwrap();
        netns.exec(&format!("ip address add {addr}/24 dev foreign")).unwrap();
        netns.exec("ip link set foreign up").unwrap();
        for (peer, _) in ends.iter().filter(|(peer, _)| peer.addr() != local) {
            let line = format!("bridge fdb append 00:00:00:00:00:00 dev foreign dst {}", peer.addr());
            netns.exec(&line).unwrap();
        }
    }
    let all = || {
        for (from, _) in &ends {
            for (to, addr) in ends.iter().filter(|(to, _)| to.addr() != from.addr()) {
                let loss = ping(from.netns(), *addr, 20, &[]).unwrap();
                assert_eq!(loss.lost(), 0, "from {} to {}: {loss}", from.name(), to.name());
            }
        }
    };
    all();
    // The same with networks of ours, whose devices share the socket of that port.
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    for pair in [[0, 1], [1, 2], [2, 0]] {
        ping_all(&containers[pair[0]], &containers[pair[1]]).unwrap();
    }
    all();
    for node in &cluster.nodes {
        assert!(node.counter("uplink", "passed_unknown_vni").unwrap() >= 40, "{}", node.name());
        let findings = node.doctor(&[]).unwrap();
        assert!(
            findings.len() == 1 && findings[0].what.contains("the VXLAN device foreign is on UDP port 4789"),
            "{findings:?}"
        );
    }
}

/// The address of a node's end of the network that is not ours.
fn foreign_end(number: u8) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::new(10, 200, 0, number)
}

#[test]
fn a_setting_that_the_kernels_device_cannot_follow_is_a_problem_in_status() -> Result<()> {
    let mut cluster = Cluster::start(&[Tc])?;
    let node = Node::start(&cluster.wire, "n2", Card::Veth, Kernel, &["--reserved-bits", "ignore"])?;
    eventually(LIMIT, || {
        let status = node.status()?;
        let told = status["problems"].to_string().contains("--reserved-bits");
        ensure!(status["health"] == "degraded" && told, "{status}");
        Ok(())
    })?;
    // It forwards all the same.
    cluster.nodes.push(node);
    cluster.create_network(BLUE)?;
    let containers = cluster.attach_each(BLUE)?;
    ping_all(&containers[0], &containers[1])?;
    Ok(())
}

#[test]
fn a_bpf_file_system_that_is_not_mounted_is_mounted() {
    let mut cluster = Cluster::start(&[Tc]).unwrap();
    let mut node = Node::plug(&cluster.wire, "n2", Card::Veth, Tc, &[]).unwrap();
    // New namespaces of containers still show in the daemon's view; what it mounts is its own.
    let script = "umount /sys/fs/bpf && exec \"$@\"";
    node.launch_by(&["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh"]).unwrap();
    node.wait_ready().unwrap();
    let pid = node.daemon().unwrap().pid();
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    assert_eq!(mounts.lines().filter(|line| line.starts_with("bpf /sys/fs/bpf bpf ")).count(), 1, "{mounts}");
    assert!(!node.bpffs().exists(), "it was not its own file system that the daemon used");
    cluster.nodes.push(node);
    cluster.create_network(BLUE).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    ping_all(&containers[0], &containers[1]).unwrap();
    ping_all(&containers[1], &containers[0]).unwrap();
}

#[test]
fn where_bpf_is_refused_auto_falls_back_to_the_kernel_and_says_why() -> Result<()> {
    let mut cluster = Cluster::start(&[Tc])?;
    let mut node = Node::plug(&cluster.wire, "n2", Card::Veth, Kernel, &[])?;
    node.launch()?;
    node.wait_ready()?;
    cluster.nodes.push(node);
    cluster.create_network(BLUE)?;
    let containers = cluster.attach_each(BLUE)?;
    ping_all(&containers[0], &containers[1])?;

    // The rest of root's capabilities stays: NET_ADMIN is what the kernel's devices take.
    let without_bpf = ["setpriv", "--bounding-set=-bpf,-sys_admin"];
    let node = &mut cluster.nodes[1];
    node.stop()?;
    node.ask_for(Auto);
    node.launch_by(&without_bpf)?;
    node.wait_ready()?;
    let status = node.status()?;
    let reason = status["datapath"]["reason"].as_str().unwrap();
    assert_eq!(status["datapath"]["mode"], "kernel", "{reason}");
    assert!(reason.contains("BPF") && reason.contains("not permitted"), "{reason}");
    assert!(node.log().contains("falling back to kernel VXLAN"), "{}", node.log());
    ping_all(&containers[0], &containers[1])?;

    // Who asks for it by name is refused instead.
    node.stop()?;
    node.ask_for(Tc);
    node.launch_by(&without_bpf)?;
    let status = node.daemon()?.wait(LIMIT)?;
    let log = node.log();
    let last = log.lines().last().unwrap();
    ensure!(!status.success() && last.contains("not permitted"), "{last}");
    ping_all(&containers[0], &containers[1])?;
    Ok(())
}
