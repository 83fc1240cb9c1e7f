//! What is in the nodes' kernels, and whether it is what should be there and no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nameindex;
use overlay_tests::{
    cleanup::NETNS_DIR,
    node::{Datapath, Node},
};

/// Compares the overlay's interfaces of a node, and the programs on interfaces, with the endpoints and
/// networks (by VNI) that it has.
pub fn check(
    node: &Node,
    datapath: Datapath,
    endpoints: &BTreeSet<String>,
    vnis: &BTreeSet<u32>,
) -> Result<()> {
    let there: BTreeMap<u32, String> = node.netns().run(|| {
        let listed = if_nameindex()?;
        Ok(listed.iter().map(|i| (i.index(), i.name().to_string_lossy().into_owned())).collect())
    })?;
    let ours: BTreeSet<_> = there.values().filter(|name| name.starts_with("ov")).cloned().collect();
    let mut should = endpoints.clone();
    for vni in vnis {
        should.insert(format!("ovv{vni:x}"));
        if datapath == Datapath::Kernel {
            should.insert(format!("ovb{vni:x}"));
        }
    }
    let (left, missing) =
        (ours.difference(&should).collect::<Vec<_>>(), should.difference(&ours).collect::<Vec<_>>());
    ensure!(
        left.is_empty() && missing.is_empty(),
        "{} has interfaces {left:?} left and {missing:?} missing",
        node.name()
    );
    if datapath == Datapath::Kernel {
        return Ok(());
    }
    let links = node.bpffs().join("v1/links");
    for link in fs::read_dir(&links).with_context(|| format!("{} is not there", links.display()))? {
        let name = link?.file_name().to_string_lossy().into_owned();
        let interface = name.rsplit_once('-').and_then(|(_, index)| index.parse::<u32>().ok());
        ensure!(
            interface.is_some_and(|index| there.contains_key(&index)),
            "{} has a pin {name} of an interface that is gone",
            node.name()
        );
    }
    Ok(())
}

/// How many namespaces of this run there are.
pub fn namespaces() -> Result<usize> {
    let own = format!("ovlab-{}-", std::process::id());
    let names = fs::read_dir(NETNS_DIR)?.flatten().map(|entry| entry.file_name());
    Ok(names.filter(|name| name.to_string_lossy().starts_with(&own)).count())
}
