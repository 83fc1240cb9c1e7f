//! Doing harm to one node, and undoing it.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};
use overlay_ebpf::abi::MacAddr;
use overlay_tests::{
    capture::PacketSocket,
    exec,
    frame::{ArpOperation, Station, arp},
    node::Node,
    wire::{UPLINK, Wire},
};
use rand::{SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::Value;

use crate::step::{Cut, Flap};

/// The table of packet filter rules that keeps a node from etcd.
const TABLE: &str = "inet chaos";

/// Most rows that are damaged at once.
const MOST_ROWS: usize = 4;

/// Keeps a node and etcd from each other.
pub fn cut_from_store(node: &Node, cut: Cut) -> Result<()> {
    let outwards = match cut {
        Cut::Dropped => "drop",
        Cut::Refused => "reject with tcp reset",
    };
    let rules = format!(
        "add table {TABLE}
         add chain {TABLE} out {{ type filter hook output priority 0; }}
         add chain {TABLE} in {{ type filter hook input priority 0; }}
         add rule {TABLE} out tcp dport 2379 {outwards}
         add rule {TABLE} in tcp sport 2379 drop"
    );
    let mut nft = node.netns().command("nft");
    exec::output(nft.arg(rules)).map(drop)
}

/// Lets it reach etcd again.
pub fn join_to_store(node: &Node) -> Result<()> {
    node.netns().exec(&format!("nft delete table {TABLE}")).map(drop)
}

/// Keeps nodes from each other, or no longer: isolated ports of a bridge pass nothing to each other.
pub fn isolate(wire: &Wire, nodes: [&Node; 2], isolated: bool) -> Result<()> {
    let word = if isolated { "on" } else { "off" };
    for node in nodes {
        wire.netns().exec(&format!("bridge link set dev {} isolated {word}", node.port().name))?;
    }
    Ok(())
}

/// Takes a node's uplink down.
pub fn take_down(wire: &Wire, node: &Node, flap: Flap) -> Result<()> {
    set_uplink(wire, node, flap, "down")
}

/// Brings it up again.
pub fn bring_up(wire: &Wire, node: &Node, flap: Flap) -> Result<()> {
    set_uplink(wire, node, flap, "up")?;
    route(node)
}

fn set_uplink(wire: &Wire, node: &Node, flap: Flap, to: &str) -> Result<()> {
    match flap {
        Flap::Admin => node.netns().exec(&format!("ip link set {UPLINK} {to}")),
        Flap::Carrier => wire.netns().exec(&format!("ip link set {} {to}", node.port().name)),
    }
    .map(drop)
}

/// The default route goes with an interface that is set down, and with its last address.
fn route(node: &Node) -> Result<()> {
    node.netns().exec(&format!("ip route replace default via {}", Wire::gateway())).map(drop)
}

/// Gives a node another address on the underlay.
pub fn readdress(node: &Node, from: u8, to: u8, gap: bool) -> Result<()> {
    let add = format!("ip address add 10.99.0.{to}/24 dev {UPLINK}");
    let remove = format!("ip address del 10.99.0.{from}/24 dev {UPLINK}");
    // The second address of a subnet would go with the first.
    node.netns().exec(&format!("sysctl -q -w net.ipv4.conf.{UPLINK}.promote_secondaries=1"))?;
    let order = if gap { [remove, add] } else { [add, remove] };
    for command in order {
        node.netns().exec(&command)?;
    }
    announce(node, to)?;
    route(node)
}

/// Tells the segment where an address is now, as whoever moves addresses does (RFC 5227, section 2.3): etcd's host may
/// have talked to the node that had it before, and would go on to for half a minute.
fn announce(node: &Node, to: u8) -> Result<()> {
    let mac = node.netns().mac(UPLINK)?;
    let own = Station { mac, addr: Ipv4Addr::new(10, 99, 0, to) };
    let socket = PacketSocket::open(node.netns(), UPLINK)?;
    // By an uplink that is down nobody is told.
    let _ = socket.send(&arp(mac, MacAddr([0xff; 6]), ArpOperation::Request, own, own));
    Ok(())
}

/// Deletes or overwrites rows of a node behind its daemon's back. Says which.
pub fn damage(node: &Node, seed: u64) -> Result<String> {
    let mut random = StdRng::seed_from_u64(seed);
    let maps = node.bpffs().join("v1");
    if maps.is_dir() { damage_map(&maps, &mut random) } else { damage_fdb(node, &mut random) }
}

/// Maps of which rows are deleted, and those of which they are zeroed.
const DELETED: [&str; 8] =
    ["endpoints", "neighbours", "members", "vtep_addrs", "networks", "ports", "flood_vteps", "slow_devices"];
const ZEROED: [&str; 5] = ["endpoints", "neighbours", "vteps", "locals", "fdb"];

fn damage_map(maps: &Path, random: &mut StdRng) -> Result<String> {
    let deletes = rand::Rng::random_bool(random, 0.6);
    let name =
        if deletes { DELETED.choose(random) } else { ZEROED.choose(random) }.copied().unwrap_or_default();
    let path = maps.join(name);
    let pinned = ["pinned", &path.to_string_lossy()].map(str::to_owned);
    let bpftool = |words: &[&str], more: &[String]| {
        let mut command = std::process::Command::new("bpftool");
        exec::output(command.args(["-j", "map"]).args(words).args(&pinned).args(more))
    };
    let dumped: Vec<Value> = serde_json::from_str(&bpftool(&["dump"], &[])?)?;
    // Of an array only rows that say something.
    let rows: Vec<_> = dumped.iter().filter(|row| says_something(&row["value"])).collect();
    let chosen: Vec<_> = rows.choose_multiple(random, MOST_ROWS).collect();
    for row in &chosen {
        let key = bytes(&row["key"])?;
        let words = [&["key".to_owned()], &key[..]].concat();
        if deletes {
            // The daemon may have been faster.
            let _ = bpftool(&["delete"], &words);
        } else {
            let zeros = bytes(&row["value"])?.iter().map(|_| "0".to_owned()).collect::<Vec<_>>();
            let _ = bpftool(&["update"], &[&words[..], &["value".to_owned()], &zeros].concat());
        }
    }
    Ok(format!(
        "{} of {} rows of {name} {}",
        chosen.len(),
        rows.len(),
        if deletes { "deleted" } else { "zeroed" }
    ))
}

fn says_something(value: &Value) -> bool {
    value.as_array().is_some_and(|bytes| bytes.iter().any(|byte| byte.as_str() != Some("0x00")))
}

fn bytes(value: &Value) -> Result<Vec<String>> {
    let bytes = value.as_array().context("bpftool printed a row without bytes")?;
    Ok(bytes.iter().filter_map(|byte| Some(byte.as_str()?.to_owned())).collect())
}

fn damage_fdb(node: &Node, random: &mut StdRng) -> Result<String> {
    let listed = node.netns().exec("bridge fdb show")?;
    let ours = |line: &&str| line.contains(" dev ov") && !line.contains("permanent self");
    let rows: Vec<_> = listed.lines().filter(ours).collect();
    let chosen: Vec<_> = rows.choose_multiple(random, MOST_ROWS).collect();
    for row in &chosen {
        let words: Vec<_> = row.split_whitespace().collect();
        let [mac, _, device, rest @ ..] = &words[..] else { continue };
        let far = rest.iter().skip_while(|word| **word != "dst").take(2).copied();
        let place = if rest.contains(&"self") { "self" } else { "master" };
        let line: Vec<_> =
            ["bridge", "fdb", "del", mac, "dev", device].into_iter().chain(far).chain([place]).collect();
        // The daemon may have been faster.
        let _ = node.netns().exec(&line.join(" "));
    }
    Ok(format!("{} of {} rows of the kernel's databases deleted", chosen.len(), rows.len()))
}
