//! The guard: nftables rules that drop what the kernel's VXLAN and bridge would let through, and
//! that count by the names of [`Outcome`].
//!
//! Linux takes VXLAN from anybody, on any interface and address of the host, with any inner source,
//! and decapsulates VXLAN inside VXLAN. The BPF programs do not, and neither must their fallback.
//! One table of family `netdev` looks at packets as they come in by the uplink and from endpoints;
//! one of the underlay's family, `ip` or `ip6`, drops VXLAN for our networks that came another way.
//! Both are named [`TABLE`].
//!
//! An update is one transaction: rules, chains and sets are replaced, counters stay, those of outcomes also
//! where no rule counts them any more. Where only endpoints of other nodes come and go, elements of sets are all
//! that is written.

mod from_endpoint;
mod from_wire;
mod host_firewall;
mod names;
mod nft;
mod ruleset;
mod sets;

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

pub(super) use self::{
    host_firewall::obstacle as host_obstacle,
    names::{Peer, outcome_of, peer_of},
    ruleset::Ruleset,
    sets::Exchange,
};
use super::super::Count;
use crate::nft::NftError;
use ruleset::{Base, Family};

/// Name of the tables.
const TABLE: &str = "overlay_guard";

/// The guard as it was installed last.
#[derive(Default)]
pub(super) struct Guard {
    installed: Option<Installed>,
}

struct Installed {
    ruleset: Ruleset,
    /// What the kernel showed right after, without elements of sets.
    shown: Vec<Value>,
}

impl Guard {
    /// Brings the kernel's rules to `wanted` and returns whether they differed.
    pub(super) async fn apply(&mut self, wanted: &Ruleset) -> Result<bool, NftError> {
        wanted.check_names()?;
        let present = nft::list(TABLE).await?;
        let before = stable(&present);
        if let Some(installed) = &self.installed
            && installed.ruleset == *wanted
            && installed.shown == before
            && wanted.shown_sets() == sets::shown_sets(&present)
        {
            return Ok(false);
        }
        let kept =
            self.installed.take().map(|installed| installed.ruleset.ingress_chains()).unwrap_or_default();
        nft::run(&update(wanted, &present, &kept)).await?;
        let now = nft::list(TABLE).await?;
        let after = stable(&now);
        let changed = before != after || sets::shown_sets(&present) != sets::shown_sets(&now);
        self.installed = Some(Installed { ruleset: wanted.clone(), shown: after });
        Ok(changed)
    }

    /// Has sets lose and get elements, as one transaction; returns how many. `None` if there is more to do than that.
    ///
    /// # Errors
    /// If the sets are not as they were left, or cannot be written: nothing is changed, and the next
    /// [`Self::apply`] replaces everything.
    pub(super) async fn exchange(&mut self, exchange: &Exchange) -> Result<Option<usize>, NftError> {
        let Exchange { gone, come } = exchange;
        let Some(mut installed) = self.installed.take() else { return Ok(None) };
        if come.iter().any(|(set, _)| !installed.ruleset.has(*set)) {
            self.installed = Some(installed);
            return Ok(None);
        }
        let (mut script, mut changed) = (String::new(), 0);
        // A MAC address that goes elsewhere has the same key.
        for (verb, elements) in [("delete", gone.difference(come)), ("add", come.difference(gone))] {
            let mut by_set: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for (set, element) in elements {
                by_set.entry(*set).or_default().push(element);
                changed += 1;
            }
            for (set, elements) in by_set {
                let elements = set.elements(elements);
                writeln!(script, "{verb} element {} {TABLE} {elements}", Family::Netdev).ok();
            }
        }
        if changed > 0 {
            nft::run(&script).await?;
            installed.ruleset.take(exchange);
        }
        self.installed = Some(installed);
        Ok(Some(changed))
    }

    /// Whether the kernel's rules are `wanted`, as far as this guard installed them.
    pub(super) async fn is(&self, wanted: &Ruleset) -> Result<bool, NftError> {
        let present = nft::list(TABLE).await?;
        Ok(self.installed.as_ref().is_some_and(|installed| {
            installed.ruleset == *wanted
                && installed.shown == stable(&present)
                && wanted.shown_sets() == sets::shown_sets(&present)
        }))
    }

    /// Reads every counter.
    pub(super) async fn counters(&self) -> Result<BTreeMap<String, Count>, NftError> {
        let objects = nft::counters(TABLE).await?;
        let count = |object: &Value| {
            let counter = object.get("counter")?;
            let count =
                Count { packets: counter.get("packets")?.as_u64()?, bytes: counter.get("bytes")?.as_u64()? };
            Some((counter.get("name")?.as_str()?.to_owned(), count))
        };
        Ok(objects.iter().filter_map(count).collect())
    }

    /// Takes the tables out. Without nftables there is nothing to take out.
    pub(super) async fn remove(&mut self) -> Result<(), NftError> {
        self.installed = None;
        let present = match nft::list(TABLE).await {
            Err(NftError::Missing) => return Ok(()),
            present => present?,
        };
        let script: String = tables(&present).map(|family| delete_table(&family) + "\n").collect();
        if script.is_empty() { Ok(()) } else { nft::run(&script).await }
    }
}

/// The transaction from `present` to `wanted`. Chains on a device are made anew unless they are
/// `kept`: one whose device was made anew is attached to nothing.
fn update(wanted: &Ruleset, present: &[Value], kept: &BTreeMap<String, Base>) -> String {
    let mut script = String::new();
    let mut line = |text: String| {
        script.push_str(&text);
        script.push('\n');
    };
    let families = wanted.families();
    // The underlay was of another family.
    for family in tables(present).filter(|name| families.iter().all(|family| family.name() != name)) {
        line(delete_table(&family));
    }
    let stays = |family: &str| families.iter().any(|wanted| wanted.name() == family);
    for family in &families {
        line(format!("add table {family} {TABLE}"));
        line(format!("flush table {family} {TABLE}"));
    }
    // Before the chains that their elements go to.
    for kind in ["set", "map"] {
        for (family, name) in objects(present, kind).filter(|(family, _)| stays(family)) {
            line(format!("delete {kind} {family} {TABLE} {name}"));
        }
    }
    let ingress = wanted.ingress_chains();
    for (family, name) in objects(present, "chain") {
        let kept = kept.get(&name).is_some_and(|base| ingress.get(&name) == Some(base));
        if !kept && stays(&family) {
            line(format!("delete chain {family} {TABLE} {name}"));
        }
    }
    for (family, name) in objects(present, "counter") {
        let named = wanted.counters().any(|(of, counter)| of.name() == family && *counter == name);
        // What is no longer dropped was; a node that is gone is not shown.
        if !named && peer_of(&name).is_some() && stays(&family) {
            line(format!("delete counter {family} {TABLE} {name}"));
        }
    }
    for (family, name) in wanted.counters() {
        line(format!("add counter {family} {TABLE} {name}"));
    }
    for text in wanted.lines(TABLE) {
        line(text);
    }
    script
}

fn delete_table(family: &str) -> String {
    format!("delete table {family} {TABLE}")
}

/// The families of the tables.
fn tables(present: &[Value]) -> impl Iterator<Item = String> + use<'_> {
    objects(present, "table").map(|(family, _)| family)
}

/// Family and name of the objects of a kind.
fn objects<'a>(present: &'a [Value], kind: &str) -> impl Iterator<Item = (String, String)> + use<'a> {
    let kind = kind.to_owned();
    let text = |object: &Value, field: &str| Some(object.get(field)?.as_str()?.to_owned());
    present.iter().filter_map(move |object| {
        let object = object.get(&kind)?;
        Some((text(object, "family")?, text(object, "name")?))
    })
}

/// A listing without what changes by itself, counts and handles, and without elements of sets.
fn stable(listing: &[Value]) -> Vec<Value> {
    let mut listing = listing.to_vec();
    for object in listing.iter_mut().filter_map(Value::as_object_mut).flat_map(|object| object.values_mut()) {
        if let Some(fields) = object.as_object_mut() {
            for volatile in ["handle", "packets", "bytes", "elem"] {
                fields.remove(volatile);
            }
        }
    }
    listing
}
