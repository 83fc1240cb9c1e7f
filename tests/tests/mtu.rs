//! How large packets may be: by the way to a node, and by what a network's owner decides.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    exec::eventually,
    node::Datapath::{Kernel, Tc, Xdp},
    probe::{ping, reach, transfer},
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

/// How long a change may take to reach all nodes on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// The MTU a container has learned for an address.
fn learned(from: &Container, to: IpAddr) -> Result<Option<u64>> {
    let shown = from.netns.exec(&format!("ip route get {to}"))?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "mtu");
    Ok(words.nth(1).map(str::parse).transpose()?)
}

#[test]
fn a_sender_learns_of_a_path_that_became_smaller() {
    let cluster = Cluster::start(&[Tc, Xdp, Kernel]).unwrap();
    let subnets = ["--subnet", BLUE.subnet, "--subnet", "fd00:1::/64"];
    cluster.nodes[0].ctl(&[&["network", "create", BLUE.name][..], &subnets].concat()).unwrap();
    let containers = cluster.attach_each(BLUE).unwrap();
    let pairs = [(0, 1), (1, 2), (2, 0)];
    for (from, to) in pairs {
        let (node, peer) = (&cluster.nodes[from], &cluster.nodes[to]);
        reach(&containers[from], &containers[to]).unwrap();
        node.netns().exec(&format!("ip route add {}/32 dev eth0 mtu 1400", peer.addr())).unwrap();
    }
    for (from, to) in pairs {
        let (node, from, to) = (&cluster.nodes[from], &containers[from], &containers[to]);
        for address in [IpAddr::from(to.addr), to.addr6.unwrap().into()] {
            // Linux's VXLAN device answers by itself.
            let by_program = from.name != "n3";
            let answered = node.counter("endpoint", "too_big_answered").unwrap();
            eventually(SOON, || {
                // The programs answer packets without DF too.
                let discover = if by_program { "dont" } else { "want" };
                let echo = ping(&from.netns, address, 3, &["-M", discover, "-s", "1400"])?;
                ensure!(
                    echo.received > 0,
                    "no answer to large packets from {} to {address}: {echo}",
                    from.name
                );
                let seen = learned(from, address)?;
                ensure!(seen == Some(1350), "{} knows of an MTU of {seen:?} to {address}", from.name);
                transfer(&from.netns, &to.netns, address, 1 << 20)?;
                Ok(())
            })
            .unwrap();
            let counted = node.counter("endpoint", "too_big_answered").unwrap() > answered;
            assert_eq!(counted, by_program, "{} to {address}", node.name());
        }
    }
}
