//! The guard: nftables rules that drop what the kernel's VXLAN and bridge would let through, and
//! that count by the names of [`Outcome`].
//!
//! Linux takes VXLAN from anybody, on any interface and address of the host, with any inner source,
//! and decapsulates VXLAN inside VXLAN. The BPF programs do not, and neither must their fallback.
//! One table of family `netdev` looks at packets as they come in by the uplink and from endpoints;
//! one of the underlay's family, `ip` or `ip6`, drops VXLAN for our networks that came another way.
//! Both are named [`TABLE`].
//!
//! An update is one transaction. Rules are replaced; counters stay, those of outcomes also where no rule counts them
//! any more; sets and the chains that rules and maps lead to stay too, and only elements that differ are written: a
//! packet that is under way goes on by the old rules, but finds no element any more that went with them. Where only
//! endpoints of other nodes come and go, elements are all that is written.

mod from_endpoint;
mod from_wire;
mod host_firewall;
mod names;
mod nft;
mod ruleset;
mod sets;

use std::collections::{BTreeMap, BTreeSet};

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
use sets::{Element, Set};

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
    objects: Vec<Value>,
}

/// What the kernel shows.
#[derive(PartialEq)]
struct Shown {
    /// See [`stable`].
    objects: Vec<Value>,
    /// The elements of sets, by their names.
    sets: BTreeMap<String, BTreeSet<String>>,
}

impl Installed {
    /// Whether it is `wanted`, and the kernel has it as it was installed.
    fn is(&self, wanted: &Ruleset, shown: &Shown) -> bool {
        self.ruleset == *wanted && self.objects == shown.objects && wanted.shown_sets() == shown.sets
    }
}

impl Shown {
    fn of(listing: &[Value]) -> Self {
        Self { objects: stable(listing), sets: sets::shown_sets(listing) }
    }
}

impl Guard {
    /// Brings the kernel's rules to `wanted` and returns whether they differed.
    pub(super) async fn apply(&mut self, wanted: &Ruleset) -> Result<bool, NftError> {
        wanted.check_names()?;
        let present = nft::list(TABLE).await?;
        let before = Shown::of(&present);
        if self.installed.as_ref().is_some_and(|installed| installed.is(wanted, &before)) {
            return Ok(false);
        }
        let kept = self.installed.take().map(|installed| installed.ruleset.ingress_chains());
        // A device that was made anew looks like the one before.
        let moved = kept.as_ref().is_some_and(|kept| *kept != wanted.ingress_chains());
        let kept = kept.unwrap_or_default();
        if let Err(error) = nft::run(&update(wanted, &present, &kept)).await {
            // Somebody may have made something else by a name of ours.
            let removal = delete_tables(&present);
            if removal.is_empty() {
                return Err(error);
            }
            tracing::debug!(%error, "the guard could not be changed to what it should be: making it anew");
            nft::run(&(removal + &update(wanted, &[], &BTreeMap::new()))).await?;
        }
        let after = Shown::of(&nft::list(TABLE).await?);
        let changed = moved || before != after;
        self.installed = Some(Installed { ruleset: wanted.clone(), objects: after.objects });
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
        let shown = |elements: &BTreeSet<(Set, Element)>| {
            let mut by_set: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
            for (set, element) in elements {
                by_set.entry(set.to_string()).or_default().insert(element.shown(*set));
            }
            by_set
        };
        let (gone, come) = (shown(gone), shown(come));
        // A MAC address that goes elsewhere has the same key.
        let lines = beside("delete", &gone, &come).chain(beside("add", &come, &gone));
        let script: String = lines.map(|line| line + "\n").collect();
        if !script.is_empty() {
            nft::run(&script).await?;
            installed.ruleset.take(exchange);
        }
        let changed = exchange.gone.symmetric_difference(&exchange.come).count();
        self.installed = Some(installed);
        Ok(Some(changed))
    }

    /// Whether the kernel's rules are `wanted`, as far as this guard installed them.
    pub(super) async fn is(&self, wanted: &Ruleset) -> Result<bool, NftError> {
        let shown = Shown::of(&nft::list(TABLE).await?);
        Ok(self.installed.as_ref().is_some_and(|installed| installed.is(wanted, &shown)))
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
        let script = delete_tables(&present);
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
    // Before the chains that elements go to.
    let (mut there, should, kinds) = (sets::shown_sets(present), wanted.shown_sets(), wanted.set_kinds());
    for kind in ["set", "map"] {
        for (family, name) in objects(present, kind).filter(|(family, _)| stays(family)) {
            if family != Family::Netdev.name() || kinds.get(&name) != Some(&kind) {
                there.remove(&name);
                line(format!("delete {kind} {family} {TABLE} {name}"));
            }
        }
    }
    there.retain(|name, _| should.contains_key(name));
    beside("delete", &there, &should).for_each(&mut line);
    let (ingress, inner) = (wanted.ingress_chains(), wanted.inner_chains());
    let on_hook: BTreeSet<_> = objects_with(present, "chain", "hook").collect();
    for chain in objects(present, "chain") {
        let stays_as_it_is = if on_hook.contains(&chain) {
            kept.get(&chain.1).is_some_and(|base| ingress.get(&chain.1) == Some(base))
        } else {
            inner.contains(&chain)
        };
        let (family, name) = chain;
        if !stays_as_it_is && stays(&family) {
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
    wanted.lines(TABLE).for_each(&mut line);
    beside("add", &should, &there).for_each(&mut line);
    wanted.rules(TABLE).for_each(&mut line);
    script
}

/// Lines of a script with the elements of sets that `others` have not, one for each set.
fn beside<'a>(
    verb: &'static str,
    sets: &'a BTreeMap<String, BTreeSet<String>>,
    others: &'a BTreeMap<String, BTreeSet<String>>,
) -> impl Iterator<Item = String> + use<'a> {
    static NONE: BTreeSet<String> = BTreeSet::new();
    sets.iter().filter_map(move |(set, elements)| {
        let beside: Vec<_> =
            elements.difference(others.get(set).unwrap_or(&NONE)).map(String::as_str).collect();
        let family = Family::Netdev;
        (!beside.is_empty())
            .then(|| format!("{verb} element {family} {TABLE} {set} {{ {} }}", beside.join(", ")))
    })
}

/// The script that removes the tables.
fn delete_tables(present: &[Value]) -> String {
    tables(present).map(|family| delete_table(&family) + "\n").collect()
}

fn delete_table(family: &str) -> String {
    format!("delete table {family} {TABLE}")
}

/// The families of the tables.
fn tables(present: &[Value]) -> impl Iterator<Item = String> + use<'_> {
    objects(present, "table").map(|(family, _)| family)
}

/// Family and name of the objects of a kind.
fn objects<'a>(present: &'a [Value], kind: &'a str) -> impl Iterator<Item = (String, String)> + use<'a> {
    objects_with(present, kind, "name")
}

/// Family and name of those objects of a kind that have a field.
fn objects_with<'a>(
    present: &'a [Value],
    kind: &'a str,
    field: &'a str,
) -> impl Iterator<Item = (String, String)> + use<'a> {
    let text = |object: &Value, field: &str| Some(object.get(field)?.as_str()?.to_owned());
    present.iter().filter_map(move |object| {
        let object = object.get(kind)?;
        object.get(field)?;
        Some((text(object, "family")?, text(object, "name")?))
    })
}

/// A listing without what changes by itself, counts, handles and the order of objects, and without elements of sets.
fn stable(listing: &[Value]) -> Vec<Value> {
    let mut listing = listing.to_vec();
    for object in listing.iter_mut().filter_map(Value::as_object_mut).flat_map(|object| object.values_mut()) {
        if let Some(fields) = object.as_object_mut() {
            for volatile in ["handle", "packets", "bytes", "elem"] {
                fields.remove(volatile);
            }
        }
    }
    listing.sort_by_cached_key(|object| {
        let (kind, object) = object.as_object()?.iter().next()?;
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        // Rules stay in the order of their chain.
        let name = if kind == "rule" { text("chain") } else { text("name") };
        Some((kind.clone(), text("family"), name))
    });
    listing
}
