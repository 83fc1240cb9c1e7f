//! The records of endpoints, and who of them stands: no two have the same identity, MAC address or
//! address. A record is judged with those it contends with, and no others.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::RandomState},
    hash::{BuildHasher as _, Hash},
    net::IpAddr,
    sync::Arc,
};

use hashbrown::HashTable;

use super::{Clash, Endpoint, EndpointId, NetworkName};
use crate::MacAddr;

/// All records of endpoints that hold up by themselves.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    slots: Vec<Option<Held>>,
    free: Vec<u32>,
    /// Who claims what: a record has an entry for each of its claims, of a few bytes instead of what it is
    /// found by.
    index: HashTable<Entry>,
    hasher: RandomState,
    /// Those to be judged, anew or for the first time.
    due: BTreeSet<u32>,
}

/// One record.
#[derive(Clone, Debug)]
struct Held {
    network: NetworkName,
    endpoint: Arc<Endpoint>,
    verdict: Verdict,
}

/// What was found of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    Stands,
    LeftOut,
}

/// Of a claim: the hash, and the slot of whose it is.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    at: u32,
}

/// Something that only one endpoint may have.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Claim<'a> {
    Identity(&'a EndpointId),
    Mac(&'a NetworkName, MacAddr),
    Address(&'a NetworkName, IpAddr),
}

/// What has become of a record.
#[derive(Clone, Debug)]
pub enum Change {
    /// It stands now.
    Stands(NetworkName, Arc<Endpoint>),
    /// It stood, and does not any more.
    Falls(NetworkName, Arc<Endpoint>),
    /// It is left out, and why.
    LeftOut(NetworkName, EndpointId, Clash),
    /// It was left out, and is not any more.
    Settled(NetworkName, EndpointId),
}

// === impl Holdings ===

impl Holdings {
    /// Takes a record that is new or was changed. What that makes of it, [`Self::judge`] tells.
    pub fn put(&mut self, network: NetworkName, endpoint: Endpoint, changes: &mut Vec<Change>) {
        self.remove(&network, &endpoint.id, changes);
        let held = Held { network, endpoint: Arc::new(endpoint), verdict: Verdict::Open };
        let hashes: Vec<u32> = held.claims().map(|claim| self.hash(claim)).collect();
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("no store holds four thousand million records")
        });
        self.slots[at as usize] = Some(held);
        for hash in hashes {
            self.index.insert_unique(spread(hash), Entry { hash, at }, |entry| spread(entry.hash));
        }
        self.due.insert(at);
    }

    /// Forgets a record. Returns whether it was there.
    pub fn remove(&mut self, network: &NetworkName, id: &EndpointId, changes: &mut Vec<Change>) -> bool {
        let claim = Claim::Identity(id);
        let is_it = |at: &u32| self.held(*at).is_some_and(|held| held.network == *network);
        let Some(at) = self.who_claim(claim).find(is_it) else { return false };
        let Some(held) = self.slots[at as usize].take() else { return false };
        for claim in held.claims() {
            let hash = self.hash(claim);
            if let Ok(entry) = self.index.find_entry(spread(hash), |e| e.hash == hash && e.at == at) {
                entry.remove();
            }
            // They may stand in its place.
            let others: Vec<u32> = self.who_claim(claim).collect();
            self.due.extend(others);
        }
        self.due.remove(&at);
        self.free.push(at);
        let Held { network, endpoint, verdict } = held;
        match verdict {
            Verdict::Open => {}
            Verdict::Stands => changes.push(Change::Falls(network, endpoint)),
            Verdict::LeftOut => changes.push(Change::Settled(network, endpoint.id.clone())),
        }
        true
    }

    /// Has every record judged anew that `concerns` says yes to. Looks at all.
    pub fn review(&mut self, concerns: impl Fn(&NetworkName, &Endpoint) -> bool) {
        for (at, held) in (0..).zip(&self.slots) {
            if held.as_ref().is_some_and(|held| concerns(&held.network, &held.endpoint)) {
                self.due.insert(at);
            }
        }
    }

    /// Whether some record has this identity.
    pub fn has_identity(&self, id: &EndpointId) -> bool {
        let stands = |at: u32| self.held(at).is_some_and(|held| held.verdict == Verdict::Stands);
        self.who_claim(Claim::Identity(id)).any(stands)
    }

    /// Judges what is due: of those that `fit` and cannot all be, the oldest stands.
    pub fn judge(
        &mut self,
        fit: impl Fn(&NetworkName, &Endpoint) -> Result<(), Clash>,
        changes: &mut Vec<Change>,
    ) {
        while let Some(first) = self.due.pop_first() {
            let mut contenders = self.contenders(first);
            for at in &contenders {
                self.due.remove(at);
            }
            let age = |at: &u32| {
                self.held(*at).map(|held| (held.endpoint.created, &held.network, &held.endpoint.id))
            };
            contenders.sort_by_cached_key(|at| {
                age(at).map(|(created, network, id)| (created, network.clone(), id.clone()))
            });
            self.verdicts(&contenders, &fit, changes);
        }
    }

    /// The verdicts on records that contend with no others, the oldest first.
    fn verdicts(
        &mut self,
        contenders: &[u32],
        fit: impl Fn(&NetworkName, &Endpoint) -> Result<(), Clash>,
        changes: &mut Vec<Change>,
    ) {
        let mut found = Vec::new();
        let mut taken: HashMap<Claim<'_>, &Held> = HashMap::new();
        for at in contenders {
            let Some(held) = self.held(*at) else { continue };
            let clash = fit(&held.network, &held.endpoint)
                .err()
                .or_else(|| held.claims().find_map(|claim| Some(claim.lost_to(taken.get(&claim)?))));
            if clash.is_none() {
                taken.extend(held.claims().map(|claim| (claim, held)));
            }
            found.push((*at, clash));
        }
        drop(taken);
        // Who falls goes first: another may stand with its MAC address.
        let mut stand = Vec::new();
        for (at, clash) in found {
            let Some(held) = self.slots[at as usize].as_mut() else { continue };
            let verdict = if clash.is_none() { Verdict::Stands } else { Verdict::LeftOut };
            let before = std::mem::replace(&mut held.verdict, verdict);
            let (network, endpoint) = (held.network.clone(), Arc::clone(&held.endpoint));
            if before == Verdict::LeftOut && verdict == Verdict::Stands {
                changes.push(Change::Settled(network.clone(), endpoint.id.clone()));
            }
            match clash {
                None if before != Verdict::Stands => stand.push(Change::Stands(network, endpoint)),
                None => {}
                Some(clash) => {
                    let id = endpoint.id.clone();
                    if before == Verdict::Stands {
                        changes.push(Change::Falls(network.clone(), endpoint));
                    }
                    changes.push(Change::LeftOut(network, id, clash));
                }
            }
        }
        changes.append(&mut stand);
    }

    /// A record and all that claim what it claims, what those claim, and so on.
    fn contenders(&self, first: u32) -> Vec<u32> {
        let mut all = vec![first];
        let mut seen = HashSet::from([first]);
        let mut asked = HashSet::new();
        let mut next = 0;
        while let Some(at) = all.get(next).copied() {
            next += 1;
            for claim in self.held(at).into_iter().flat_map(Held::claims) {
                // A record alone, as nearly all are, needs no set of claims.
                let mut others = self.who_claim(claim).filter(|other| *other != at).peekable();
                if others.peek().is_some() && asked.insert(claim) {
                    all.extend(others.filter(|other| seen.insert(*other)));
                }
            }
        }
        all
    }

    fn who_claim(&self, claim: Claim<'_>) -> impl Iterator<Item = u32> {
        let hash = self.hash(claim);
        let entries = self.index.iter_hash(spread(hash)).filter(move |entry| entry.hash == hash);
        let does = move |at: &u32| self.held(*at).is_some_and(|held| held.claims().any(|own| own == claim));
        entries.map(|entry| entry.at).filter(does)
    }

    fn held(&self, at: u32) -> Option<&Held> {
        self.slots.get(at as usize)?.as_ref()
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
    fn hash(&self, claim: Claim<'_>) -> u32 {
        self.hasher.hash_one(claim) as u32
    }
}

/// The table takes its place from the lower bits of a hash and a tag from the upper.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

// === impl Held ===

impl Held {
    fn claims(&self) -> impl Iterator<Item = Claim<'_>> {
        let Self { network, endpoint, .. } = self;
        let addresses = endpoint.addresses.iter().map(move |address| Claim::Address(network, *address));
        [Claim::Identity(&endpoint.id), Claim::Mac(network, endpoint.mac)].into_iter().chain(addresses)
    }
}

// === impl Claim ===

impl Claim<'_> {
    fn lost_to(&self, holder: &Held) -> Clash {
        let id = || holder.endpoint.id.clone();
        match *self {
            Self::Identity(_) => Clash::Identity(holder.network.clone()),
            Self::Mac(_, mac) => Clash::Mac(mac, id()),
            Self::Address(_, address) => Clash::AddressTaken(address, id()),
        }
    }
}
