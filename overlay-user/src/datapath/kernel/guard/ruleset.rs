//! What the guard has to be: chains with their rules, and the counters these name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use overlay_ebpf::abi::{Hook, Outcome};

use super::{
    NftError, from_endpoint, from_wire, names,
    sets::{self, Element, Exchange, Set},
};
use crate::{
    datapath::{Underlay, kernel::bridge},
    plan::Plan,
};

/// Family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    /// Packets as they come in by a device.
    Netdev,
    /// IPv4 packets for this host.
    Ip,
    /// IPv6 packets for this host.
    Ip6,
}

/// The rules for a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Ruleset {
    counters: BTreeSet<(Family, String)>,
    sets: BTreeMap<Set, BTreeSet<Element>>,
    chains: Vec<Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    family: Family,
    name: String,
    base: Option<Base>,
    rules: Vec<String>,
}

/// Where packets enter a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Base {
    /// As they come in by a device.
    Ingress { device: String, ifindex: u32, policy: Policy },
    /// When they are for this host.
    LocalIn,
}

/// What becomes of a packet that no rule decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Policy {
    Accept,
    Drop,
}

/// A chain being written; its packets are counted at one hook.
pub(super) struct Writer<'a> {
    ruleset: &'a mut Ruleset,
    hook: Hook,
    chain: Chain,
}

impl Ruleset {
    /// The rules for `plan`. Devices are looked up in `indices`, by name; those that are not there
    /// have no rules.
    pub(in super::super) fn new(plan: &Plan, underlay: &Underlay, indices: &BTreeMap<&str, u32>) -> Self {
        let mut ruleset = Self::default();
        from_wire::uplink(&mut ruleset, plan, underlay);
        from_wire::other_ways(&mut ruleset, plan, underlay);
        for (vni, network) in &plan.networks {
            from_wire::network(&mut ruleset, plan, underlay, *vni, network);
            from_endpoint::network(&mut ruleset, plan, underlay.port, *vni, network, indices);
            // The host is no member of the network: what the bridge hands up ends here.
            let device = bridge::name(*vni);
            if let Some(ifindex) = indices.get(device.as_str()) {
                let name = format!("host_{device}");
                let base = Base::Ingress { device, ifindex: *ifindex, policy: Policy::Drop };
                ruleset.chain(Hook::Endpoint, Family::Netdev, name, Some(base)).end();
            }
            let over_ipv6 = underlay.addr.is_ipv6();
            for (mac, endpoint) in network.endpoints() {
                ruleset.fill(sets::of_endpoint(plan, over_ipv6, (*vni, mac), &endpoint));
            }
        }
        let protected = plan.protected.iter().map(|addr| {
            let set = if addr.is_ipv6() { Set::Protected6 } else { Set::Protected };
            (set, Element::Address(*addr))
        });
        ruleset.fill(protected);
        ruleset
    }

    /// Adds elements to the sets that rules name.
    pub(super) fn fill(&mut self, elements: impl IntoIterator<Item = (Set, Element)>) {
        for (set, element) in elements {
            if let Some(there) = self.sets.get_mut(&set) {
                there.insert(element);
            }
        }
    }

    /// Takes note of what its sets lost and got.
    pub(super) fn take(&mut self, exchange: &Exchange) {
        for (set, element) in exchange.gone.difference(&exchange.come) {
            if let Some(there) = self.sets.get_mut(set) {
                there.remove(element);
            }
        }
        self.fill(exchange.come.iter().copied());
    }

    /// Whether it has the set.
    pub(super) fn has(&self, set: Set) -> bool {
        self.sets.contains_key(&set)
    }

    /// Its sets: whether one is a set or a map, by its name.
    pub(super) fn set_kinds(&self) -> BTreeMap<String, &'static str> {
        self.sets.keys().map(|set| (set.to_string(), set.kind().0)).collect()
    }

    /// Family and name of the chains that other chains lead to.
    pub(super) fn inner_chains(&self) -> BTreeSet<(String, String)> {
        let inner = self.chains.iter().filter(|chain| chain.base.is_none());
        inner.map(|chain| (chain.family.name().to_owned(), chain.name.clone())).collect()
    }

    /// The elements of its sets as they are listed, by the sets' names.
    pub(super) fn shown_sets(&self) -> BTreeMap<String, BTreeSet<String>> {
        let shown = |(set, elements): (&Set, &BTreeSet<Element>)| {
            (set.to_string(), elements.iter().map(|element| element.shown(*set)).collect())
        };
        self.sets.iter().map(shown).collect()
    }

    /// Begins a chain whose packets are counted at `hook`.
    pub(super) fn chain(
        &mut self,
        hook: Hook,
        family: Family,
        name: String,
        base: Option<Base>,
    ) -> Writer<'_> {
        Writer { ruleset: self, hook, chain: Chain { family, name, base, rules: Vec::new() } }
    }

    /// The families of the chains.
    pub(super) fn families(&self) -> BTreeSet<Family> {
        self.chains.iter().map(|chain| chain.family).collect()
    }

    /// Every counter the rules name.
    pub(super) fn counters(&self) -> impl Iterator<Item = &(Family, String)> {
        self.counters.iter()
    }

    /// The chains on devices.
    pub(super) fn ingress_chains(&self) -> BTreeMap<String, Base> {
        let ingress = |chain: &Chain| match &chain.base {
            Some(base @ Base::Ingress { .. }) => Some((chain.name.clone(), base.clone())),
            _ => None,
        };
        self.chains.iter().filter_map(ingress).collect()
    }

    /// The lines of a script that adds the sets and chains to the tables called `table`.
    pub(super) fn lines(&self, table: &str) -> impl Iterator<Item = String> {
        let sets = self.sets.keys().map(move |set| {
            let (kind, of) = set.kind();
            format!("add {kind} {} {table} {set} {{ {of} }}", Family::Netdev)
        });
        let chains = self.chains.iter().map(move |chain| {
            let Chain { family, name, base, rules: _ } = chain;
            let base = base.as_ref().map(Base::to_string).unwrap_or_default();
            format!("add chain {family} {table} {name} {base}")
        });
        sets.chain(chains)
    }

    /// The lines of one that adds the rules.
    pub(super) fn rules(&self, table: &str) -> impl Iterator<Item = String> {
        self.chains.iter().flat_map(move |chain| {
            let Chain { family, name, base: _, rules } = chain;
            rules.iter().map(move |rule| format!("add rule {family} {table} {name} {rule}"))
        })
    }

    /// Makes sure that every device's name can stand between quotes. All other text is ours.
    pub(super) fn check_names(&self) -> Result<(), NftError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-@+".contains(c);
        for chain in &self.chains {
            if let Some(Base::Ingress { device, .. }) = &chain.base
                && !device.chars().all(plain)
            {
                return Err(NftError::Name(device.clone()));
            }
        }
        Ok(())
    }
}

impl Writer<'_> {
    /// Counts every packet that gets here.
    pub(super) fn count(&mut self, outcome: Outcome) {
        let counter = self.counter(outcome);
        self.rule(format_args!("counter name {counter}"));
    }

    /// Drops and counts what matches.
    pub(super) fn drop(&mut self, what: impl Display, outcome: Outcome) {
        let counter = self.counter(outcome);
        self.rule(format_args!("{what} counter name {counter} drop"));
    }

    /// Drops what matches, and counts it as having entered as well.
    pub(super) fn drop_entering(&mut self, what: impl Display, outcome: Outcome) {
        let (received, dropped) = (self.counter(Outcome::Received), self.counter(outcome));
        self.rule(format_args!("{what} counter name {received} counter name {dropped} drop"));
    }

    /// Lets through and counts what matches.
    pub(super) fn accept(&mut self, what: impl Display, outcome: Outcome) {
        let counter = self.counter(outcome);
        self.rule(format_args!("{what} counter name {counter} accept"));
    }

    /// Adds a rule as it is.
    pub(super) fn rule(&mut self, text: impl Display) {
        self.chain.rules.push(text.to_string());
    }

    /// Makes sure that there is a set, and returns how a rule names it.
    pub(super) fn set(&mut self, set: Set) -> String {
        self.ruleset.sets.entry(set).or_default();
        format!("@{set}")
    }

    /// Makes sure that there is a counter called `name`, and returns the name.
    pub(super) fn named_counter(&mut self, name: String) -> String {
        self.ruleset.counters.insert((self.chain.family, name.clone()));
        name
    }

    /// The chain is complete.
    pub(super) fn end(self) {
        self.ruleset.chains.push(self.chain);
    }

    fn counter(&mut self, outcome: Outcome) -> String {
        self.named_counter(names::of_outcome(self.hook, outcome))
    }
}

impl Family {
    /// Every one.
    pub(super) const ALL: [Self; 3] = [Self::Netdev, Self::Ip, Self::Ip6];

    /// As nftables writes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Netdev => "netdev",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ingress { device, ifindex: _, policy } => {
                let policy = match policy {
                    Policy::Accept => "accept",
                    Policy::Drop => "drop",
                };
                write!(
                    f,
                    "{{ type filter hook ingress device \"{device}\" priority filter; policy {policy}; }}"
                )
            }
            Self::LocalIn => f.write_str("{ type filter hook input priority raw; policy accept; }"),
        }
    }
}

/// An anonymous set of `items`, or `None` if there are none: nftables has no empty ones.
pub(super) fn set<T: Display>(items: impl IntoIterator<Item = T>) -> Option<String> {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    (!items.is_empty()).then(|| format!("{{ {} }}", items.join(", ")))
}

/// The IPv6 addresses among `addresses`.
pub(super) fn v6<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> BTreeSet<Ipv6Addr> {
    let v6 = |addr: &IpAddr| match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(addr) => Some(*addr),
    };
    addresses.into_iter().filter_map(v6).collect()
}

/// The IPv4 addresses among `addresses`.
pub(super) fn v4<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> BTreeSet<Ipv4Addr> {
    let v4 = |addr: &IpAddr| match addr {
        IpAddr::V4(addr) => Some(*addr),
        IpAddr::V6(_) => None,
    };
    addresses.into_iter().filter_map(v4).collect()
}

/// An IPv6 address as the number that raw bits are compared with.
pub(super) fn bits6(addr: Ipv6Addr) -> String {
    format!("{:#034x}", u128::from(addr))
}
