//! What a data path leaves in the kernel, and whether it is gone.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{MapInfo, loaded_maps},
    programs::{ProgramInfo, loaded_programs},
};

use crate::node::Node;

/// What of the overlay's is in a node's kernel, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Bridges.
    pub bridges: BTreeSet<String>,
    /// VXLAN devices.
    pub vxlan_devices: BTreeSet<String>,
    /// The host's ends of endpoints' interfaces.
    pub endpoint_devices: BTreeSet<String>,
    /// Tables of nftables.
    pub tables: BTreeSet<String>,
    /// Links between programs and interfaces, as they are pinned: `<program>-<ifindex>`.
    pub links: BTreeSet<String>,
    /// Pinned maps and programs.
    pub pins: BTreeSet<String>,
}

impl Traces {
    /// Looks for them.
    pub fn of(node: &Node) -> Result<Self> {
        let tables = node.netns().exec("nft list tables")?;
        let mut traces = Self {
            bridges: interfaces(node, "bridge")?,
            vxlan_devices: interfaces(node, "vxlan")?,
            endpoint_devices: interfaces(node, "veth")?,
            tables: tables.lines().map(str::to_owned).collect(),
            ..Self::default()
        };
        traces.look_below(node.bpffs())?;
        Ok(traces)
    }

    /// How many interfaces a program is on.
    #[must_use]
    pub fn interfaces_of(&self, program: &str) -> usize {
        let on = |link: &&String| link.rsplit_once('-').is_some_and(|(name, _)| name == program);
        self.links.iter().filter(on).count()
    }

    fn look_below(&mut self, directory: &Path) -> Result<()> {
        if !directory.exists() {
            return Ok(());
        }
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.path().is_dir() {
                self.look_below(&entry.path())?;
            } else {
                let name = entry.file_name().to_string_lossy().into_owned();
                if directory.ends_with("links") { &mut self.links } else { &mut self.pins }.insert(name);
            }
        }
        Ok(())
    }
}

/// Names of the overlay's interfaces of a kind.
fn interfaces(node: &Node, kind: &str) -> Result<BTreeSet<String>> {
    let listed = node.netns().exec(&format!("ip -brief link show type {kind}"))?;
    let names = listed.lines().filter_map(|line| line.split(['@', ' ']).next());
    Ok(names.filter(|name| name.starts_with("ov")).map(str::to_owned).collect())
}

/// The programs and maps of a node by the kernel's ids, which outlive their pins if anything holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Loaded {
    /// Those that a node has pinned.
    pub fn of(node: &Node) -> Result<Self> {
        let mut loaded = Self::default();
        for schema in fs::read_dir(node.bpffs())? {
            let schema = schema?.path();
            for entry in fs::read_dir(schema.join("programs"))? {
                loaded.programs.insert(ProgramInfo::from_pin(entry?.path())?.id());
            }
            for path in fs::read_dir(&schema)?.map(|entry| entry.map(|entry| entry.path())) {
                let path = path?;
                if !path.is_dir() {
                    let map = MapInfo::from_pin(&path);
                    loaded.maps.insert(map.with_context(|| format!("{} is no map", path.display()))?.id());
                }
            }
        }
        ensure!(!loaded.programs.is_empty() && !loaded.maps.is_empty(), "{} has nothing pinned", node.name());
        Ok(loaded)
    }

    /// Makes sure that the kernel has none of them any more.
    pub fn ensure_gone(&self) -> Result<()> {
        let programs: BTreeSet<_> = loaded_programs().filter_map(|info| Some(info.ok()?.id())).collect();
        let maps: BTreeSet<_> = loaded_maps().filter_map(|info| Some(info.ok()?.id())).collect();
        let left: Vec<_> = self.programs.intersection(&programs).collect();
        ensure!(left.is_empty(), "programs {left:?} are still loaded");
        let left: Vec<_> = self.maps.intersection(&maps).collect();
        ensure!(left.is_empty(), "maps {left:?} are still there");
        Ok(())
    }
}
