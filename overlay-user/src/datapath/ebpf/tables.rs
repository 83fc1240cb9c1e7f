//! All maps, brought from the rows they hold to the rows they should hold in an order that never
//! opens a black hole: what a row points to is there before it, and goes after it.

use std::{collections::BTreeMap, net::IpAddr};

use aya::Ebpf;
use overlay_ebpf::abi::{Addr, Bucket, Config, FloodKey, Member, MemberKey, Network, Vtep};

use super::{
    array::ArrayTable,
    devices::DeviceTable,
    names::{self, Names},
    port_table::PortTable,
    rows::Rows,
    stations::{Stations, Task},
    table::Table,
};
use crate::datapath::{DatapathError, Differences};

/// Every map the daemon writes.
pub struct Tables {
    /// `config`
    config: ArrayTable<Config>,
    /// `vteps`
    pub vteps: ArrayTable<Vtep>,
    /// `endpoints`, `neighbours`, `locals` and `fdb`
    pub stations: Stations,
    vtep_addrs: Table<Addr, Member>,
    networks: Table<u32, Network>,
    bum_buckets: Table<u32, Bucket>,
    slow_devices: Table<u32, u32>,
    members: Table<MemberKey, Member>,
    flood_vteps: Table<FloodKey, u32>,
    flood_ports: Table<FloodKey, u32>,
    /// `ports` and `port_rows`
    ports: PortTable,
    redirect_targets: DeviceTable,
}

impl Tables {
    /// Takes the maps out of the loaded object and reads what a former daemon left in them.
    ///
    /// # Errors
    /// If one is missing, of another kind or cannot be read.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            config: ArrayTable::open(ebpf, "config")?,
            vteps: ArrayTable::open(ebpf, "vteps")?,
            stations: Stations::open(ebpf)?,
            vtep_addrs: Table::open(ebpf, "vtep_addrs")?,
            networks: Table::open(ebpf, "networks")?,
            bum_buckets: Table::open(ebpf, "bum_buckets")?,
            slow_devices: Table::open(ebpf, "slow_devices")?,
            members: Table::open(ebpf, "members")?,
            flood_vteps: Table::open(ebpf, "flood_vteps")?,
            flood_ports: Table::open(ebpf, "flood_ports")?,
            ports: PortTable::open(ebpf)?,
            redirect_targets: DeviceTable::open(ebpf, "redirect_targets")?,
        })
    }

    /// Reads every map anew, so that the next difference also repairs what someone else changed.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn reread(&mut self) -> Result<(), DatapathError> {
        self.config.reread()?;
        self.vteps.reread()?;
        self.stations.reread()?;
        self.vtep_addrs.reread()?;
        self.networks.reread()?;
        self.bum_buckets.reread()?;
        self.slow_devices.reread()?;
        self.members.reread()?;
        self.flood_vteps.reread()?;
        self.flood_ports.reread()?;
        self.redirect_targets.reread()?;
        self.ports.reread()
    }

    /// Compares what the maps have now with `want`, and changes nothing; those of [`Stations`] of which there may be
    /// a million rows are left out.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn audit(
        &self,
        want: &Rows,
        names: &Names<'_>,
        found: &mut Differences,
    ) -> Result<(), DatapathError> {
        let ip = |addr: Addr| IpAddr::from(addr);
        let by_vni = |vni: &u32| names.network(*vni);
        let flood = |to: &str, key: &FloodKey| format!("{}, {to} {}", names.network(key.vni), key.slot);
        self.config.audit(
            &BTreeMap::from([(0, want.config)]),
            |_| "this node's address and settings".into(),
            found,
        )?;
        self.vtep_addrs.audit(
            &want.vtep_addrs,
            Member::eq,
            |addr| format!("tunnel address {}", ip(*addr)),
            found,
        )?;
        self.vteps.audit(&want.vteps, |index| names.node(index), found)?;
        self.flood_vteps.audit(&want.flood_vteps, u32::eq, |key| flood("broadcast to node", key), found)?;
        self.flood_ports.audit(
            &want.flood_ports,
            u32::eq,
            |key| flood("broadcast to interface", key),
            found,
        )?;
        self.redirect_targets.audit(&want.redirect_targets, names::device, found)?;
        // The programs write what is in them.
        self.bum_buckets.audit(&want.bum_buckets, |_, _| true, by_vni, found)?;
        self.slow_devices.audit(&want.slow_devices, u32::eq, |ifindex| names::device(*ifindex), found)?;
        self.networks.audit(&want.networks, Network::eq, by_vni, found)?;
        self.stations.audit_locals(&want.locals, names, found)?;
        let member = |key: &MemberKey| format!("{}, node at {}", names.network(key.vni), ip(key.addr));
        self.members.audit(&want.members, Member::eq, member, found)?;
        self.ports.audit(&want.ports, found)
    }

    /// Adds and changes rows, what is pointed to first. Returns how many.
    pub fn add(&mut self, want: &Rows, task: &Task<'_>, problems: &mut Vec<String>) -> usize {
        self.config.add(&BTreeMap::from([(0, want.config)]), problems)
            + self.vtep_addrs.add(&want.vtep_addrs, problems)
            + self.vteps.add(&want.vteps, problems)
            + self.flood_vteps.add(&want.flood_vteps, problems)
            + self.flood_ports.add(&want.flood_ports, problems)
            + self.redirect_targets.add(&want.redirect_targets, problems)
            + self.bum_buckets.add_missing(&want.bum_buckets, problems)
            + self.slow_devices.add(&want.slow_devices, problems)
            + self.networks.add(&want.networks, problems)
            + self.stations.add(task, &want.locals, problems)
            + self.members.add(&want.members, problems)
            + self.ports.add(&want.ports, problems)
    }

    /// Adds the rows that are missing, what is pointed to first, and changes none that is there but
    /// this node's own and the ways to nodes. Returns how many.
    pub fn add_missing(&mut self, want: &Rows, task: &Task<'_>, problems: &mut Vec<String>) -> usize {
        self.config.add(&BTreeMap::from([(0, want.config)]), problems)
            + self.vtep_addrs.add_missing(&want.vtep_addrs, problems)
            + self.vteps.add(&want.vteps, problems)
            + self.flood_vteps.add_missing(&want.flood_vteps, problems)
            + self.flood_ports.add_missing(&want.flood_ports, problems)
            + self.redirect_targets.add(&want.redirect_targets, problems)
            + self.bum_buckets.add_missing(&want.bum_buckets, problems)
            + self.slow_devices.add_missing(&want.slow_devices, problems)
            + self.networks.add_missing(&want.networks, problems)
            + self.stations.add(task, &want.locals, problems)
            + self.members.add_missing(&want.members, problems)
            + self.ports.add_missing(&want.ports, problems)
    }

    /// Removes rows, what points to others first. Returns how many.
    pub fn remove(&mut self, want: &Rows, task: &Task<'_>, problems: &mut Vec<String>) -> usize {
        self.ports.remove(&want.ports, problems)
            + self.members.remove(&want.members, problems)
            + self.stations.remove(task, &want.locals, problems)
            + self.networks.remove(&want.networks, problems)
            + self.bum_buckets.remove(&want.bum_buckets, problems)
            + self.slow_devices.remove(&want.slow_devices, problems)
            + self.redirect_targets.remove(&want.redirect_targets, problems)
            + self.flood_ports.remove(&want.flood_ports, problems)
            + self.flood_vteps.remove(&want.flood_vteps, problems)
            + self.vteps.remove(&want.vteps, problems)
            + self.vtep_addrs.remove(&want.vtep_addrs, problems)
    }
}
