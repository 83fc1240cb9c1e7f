//! Endpoints whose interface or container goes without a word, and attaches that are cut off.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    etcd::Etcd,
    exec::{self, eventually},
    netns::Netns,
    node::{
        Datapath::{self, Kernel, Tc, Xdp},
        Node,
    },
    probe::ping_all,
    wire::{UPLINK, Wire},
};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

const SOON: Duration = Duration::from_secs(15);

fn endpoints(node: &Node) -> Result<BTreeSet<String>> {
    let listed = node.json(&["endpoint", "ls"])?;
    Ok(listed.as_array().into_iter().flatten().filter_map(|e| Some(e["id"].as_str()?.to_owned())).collect())
}

fn is_given_up(cluster: &Cluster, container: &Container) {
    for node in &cluster.nodes {
        eventually(SOON, || {
            ensure!(
                !endpoints(node)?.contains(&container.id),
                "{} still knows {}",
                node.name(),
                container.name
            );
            Ok(())
        })
        .unwrap();
    }
    let kept = Etcd::ctl(&cluster.wire, &["get", "--prefix", "/overlay/v1/default/"]).unwrap();
    let of_it: Vec<_> = kept.lines().filter(|line| line.contains(&container.id)).collect();
    assert!(of_it.len() == 1 && of_it[0].contains("cooling"), "{of_it:?}");
}

fn what_goes_without_a_word_is_given_up(datapath: Datapath) {
    let mut cluster = Cluster::start(&[datapath, Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let stay = cluster.attach_each(BLUE).unwrap();
    let attach = |cluster: &Cluster, name: &str| {
        Container::attach(&cluster.nodes[0], BLUE.name, name, &["--ip", &format!("10.1.0.{name}")]).unwrap()
    };
    ping_all(&stay[0], &stay[1]).unwrap();

    let container = attach(&cluster, "101");
    cluster.nodes[0].netns().exec(&format!("ip link del {}", container.host_device)).unwrap();
    is_given_up(&cluster, &container);

    let container = attach(&cluster, "102");
    exec::output(std::process::Command::new("ip").args(["netns", "delete", container.netns.name()])).unwrap();
    is_given_up(&cluster, &container);

    // A rename is not an end.
    let container = attach(&cluster, "103");
    ping_all(&stay[1], &container).unwrap();
    let device = &container.host_device;
    cluster.nodes[0].netns().exec(&format!("ip link set {device} name mine")).unwrap();
    eventually(SOON, || cluster.nodes[0].netns().exec(&format!("ip link show dev {device}"))).unwrap();
    ping_all(&stay[1], &container).unwrap();

    // Nobody was there to hear it, as with a boot of the machine.
    cluster.nodes[0].kill().unwrap();
    cluster.nodes[0].netns().exec(&format!("ip link del {device}")).unwrap();
    thread::sleep(Duration::from_secs(1));
    assert!(endpoints(&cluster.nodes[1]).unwrap().contains(&container.id), "others do not give it up");
    cluster.nodes[0].launch().unwrap();
    cluster.nodes[0].wait_ready().unwrap();
    is_given_up(&cluster, &container);
    ping_all(&stay[0], &stay[1]).unwrap();
    ping_all(&stay[1], &stay[0]).unwrap();

    // Nor was anybody there to hear that the host has another address: it is the same host.
    let container = attach(&cluster, "104");
    cluster.nodes[0].kill().unwrap();
    for line in [
        format!("ip link del {}", container.host_device),
        format!("ip address del {}/24 dev {UPLINK}", cluster.nodes[0].addr()),
        format!("ip address add 10.99.0.77/24 dev {UPLINK}"),
        format!("ip route replace default via {}", Wire::gateway()),
    ] {
        cluster.nodes[0].netns().exec(&line).unwrap();
    }
    cluster.nodes[0].launch().unwrap();
    cluster.nodes[0].wait_ready().unwrap();
    is_given_up(&cluster, &container);
    eventually(SOON, || ping_all(&stay[1], &stay[0])).unwrap();

    // The address is its own's again at once.
    attach(&cluster, "103");
}

#[test]
fn xdp_gives_up_what_goes_without_a_word() {
    what_goes_without_a_word_is_given_up(Xdp);
}

#[test]
fn the_kernel_gives_up_what_goes_without_a_word() {
    what_goes_without_a_word_is_given_up(Kernel);
}

#[test]
fn a_daemon_killed_while_it_attaches_leaves_nothing_for_good() {
    let mut cluster = Cluster::start(&[Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let mut told = BTreeSet::new();
    let mut cut_off = 0;
    for round in 0..6_u64 {
        let node = &cluster.nodes[0];
        let containers: Vec<_> = (0..4).map(|_| Netns::new("guest").unwrap()).collect();
        let attached: Vec<Result<String>> = thread::scope(|scope| {
            let attaches: Vec<_> = containers
                .iter()
                .map(|netns| {
                    scope.spawn(|| {
                        let path = netns.path();
                        let attach = ["endpoint", "attach", BLUE.name, "--netns", &path.to_string_lossy()];
                        let printed = node.json(&attach)?;
                        Ok(printed["id"].as_str().unwrap_or_default().to_owned())
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(20 + round * 25));
            node.daemon().unwrap().signal(Signal::SIGKILL).unwrap();
            node.daemon().unwrap().wait(Duration::from_secs(5)).unwrap();
            attaches.into_iter().map(|attach| attach.join().unwrap()).collect()
        });
        cut_off += attached.iter().filter(|attached| attached.is_err()).count();
        // Those whose namespace goes with this round are given up as well.
        for id in attached.into_iter().flatten() {
            told.insert(id);
        }
        let node = &mut cluster.nodes[0];
        node.launch().unwrap();
        node.wait_ready().unwrap();
        let node = &cluster.nodes[0];
        eventually(SOON, || {
            let known = endpoints(node)?;
            ensure!(known.is_subset(&told), "nobody was told of {:?}", known.difference(&told));
            let links = node.netns().exec("ip -brief link")?;
            let devices = links.lines().filter_map(|line| line.strip_prefix("ov")?.split('@').next());
            let devices: BTreeSet<_> = devices.filter(|id| id.len() == 12).map(str::to_owned).collect();
            ensure!(devices == known, "interfaces {devices:?} of endpoints {known:?}");
            Ok(())
        })
        .unwrap();
    }
    assert!(cut_off > 0, "no attach was cut off");
    eventually(SOON, || {
        let known = endpoints(&cluster.nodes[0])?;
        ensure!(known.is_empty(), "their containers are gone: {known:?}");
        Ok(())
    })
    .unwrap();
    let kept = Etcd::ctl(&cluster.wire, &["get", "--prefix", "/overlay/v1/default/macs/"]).unwrap();
    assert_eq!(kept.trim(), "");
    let kept = Etcd::ctl(&cluster.wire, &["get", "--prefix", "/overlay/v1/default/addresses/"]).unwrap();
    assert!(!kept.contains("bound"), "{kept}");
}
