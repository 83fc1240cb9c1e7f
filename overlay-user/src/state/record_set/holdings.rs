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
    /// Raised when all records are taken anew.
    round: u32,
}

/// One record.
#[derive(Clone, Debug)]
struct Held {
    network: NetworkName,
    endpoint: Arc<Endpoint>,
    /// The store's revision when it was made: of two that cannot both be, the older one stands.
    created: i64,
    verdict: Verdict,
    /// Somebody claims, or did, what it claims. Nearly all are alone, and then nobody else is looked for.
    contends: bool,
    /// The round it was last taken in.
    round: u32,
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
    /// Takes a record that may be new or changed. What that makes of it, [`Self::judge`] tells. Returns whether
    /// it is.
    pub fn put(
        &mut self,
        network: NetworkName,
        endpoint: Endpoint,
        created: i64,
        changes: &mut Vec<Change>,
    ) -> bool {
        let round = self.round;
        if let Some(at) = self.find(&network, &endpoint.id)
            && let Some(held) = self.slots[at as usize].as_mut().filter(|held| *held.endpoint == endpoint)
        {
            held.round = round;
            if held.created == created {
                return false;
            }
            held.created = created;
            self.due.insert(at);
            return true;
        }
        self.remove(&network, &endpoint.id, changes);
        let endpoint = Arc::new(endpoint);
        let mut held = Held { network, endpoint, created, verdict: Verdict::Open, contends: false, round };
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("no store holds four thousand million records")
        });
        let mut contends = false;
        for claim in held.claims() {
            let hash = hash(&self.hasher, claim);
            for other in self.index.iter_hash(spread(hash)).filter(|entry| entry.hash == hash) {
                contends = true;
                if let Some(other) = self.slots[other.at as usize].as_mut() {
                    other.contends = true;
                }
            }
            self.index.insert_unique(spread(hash), Entry { hash, at }, |entry| spread(entry.hash));
        }
        held.contends = contends;
        self.slots[at as usize] = Some(held);
        self.due.insert(at);
        true
    }

    /// All records are taken anew from now on, until [`Self::end`].
    pub fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// Forgets the records that were not taken since [`Self::begin`].
    pub fn end(&mut self, changes: &mut Vec<Change>) {
        let gone = self.slots.iter().flatten().filter(|held| held.round != self.round);
        let gone: Vec<_> = gone.map(|held| (held.network.clone(), held.endpoint.id.clone())).collect();
        for (network, id) in gone {
            self.remove(&network, &id, changes);
        }
    }

    fn find(&self, network: &NetworkName, id: &EndpointId) -> Option<u32> {
        let is_it = |at: &u32| self.held(*at).is_some_and(|held| held.network == *network);
        self.who_claim(Claim::Identity(id)).find(is_it)
    }

    /// Forgets a record. Returns whether it was there.
    pub fn remove(&mut self, network: &NetworkName, id: &EndpointId, changes: &mut Vec<Change>) -> bool {
        let Some(at) = self.find(network, id) else { return false };
        let Some(held) = self.slots[at as usize].take() else { return false };
        for claim in held.claims() {
            let hash = hash(&self.hasher, claim);
            if let Ok(entry) = self.index.find_entry(spread(hash), |e| e.hash == hash && e.at == at) {
                entry.remove();
            }
            // They may stand in its place.
            let others: Vec<u32> = self.who_claim(claim).collect();
            self.due.extend(others);
        }
        self.due.remove(&at);
        self.free.push(at);
        let Held { network, endpoint, verdict, .. } = held;
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

    /// Judges what is due: of those that `fit` and cannot all be, the oldest stands. Tells what changes as it
    /// is found: there may be a million.
    pub fn judge(
        &mut self,
        fit: impl Fn(&NetworkName, &Endpoint) -> Result<(), Clash>,
        mut tell: impl FnMut(Change),
    ) {
        while let Some(first) = self.due.pop_first() {
            if let Some(alone) = self.slots[first as usize].as_mut().filter(|held| !held.contends) {
                let clash = fit(&alone.network, &alone.endpoint).err();
                if let Some(stands) = alone.decide(clash, &mut tell) {
                    tell(stands);
                }
                continue;
            }
            let mut contenders = self.contenders(first);
            for at in &contenders {
                self.due.remove(at);
            }
            let age = |at: &u32| self.held(*at).map(|held| (held.created, &held.network, &held.endpoint.id));
            contenders.sort_by_cached_key(|at| {
                age(at).map(|(created, network, id)| (created, network.clone(), id.clone()))
            });
            self.verdicts(&contenders, &fit, &mut tell);
        }
    }

    /// The verdicts on records that contend with no others, the oldest first.
    fn verdicts(
        &mut self,
        contenders: &[u32],
        fit: impl Fn(&NetworkName, &Endpoint) -> Result<(), Clash>,
        tell: &mut impl FnMut(Change),
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
            let held = self.slots[at as usize].as_mut();
            stand.extend(held.and_then(|held| held.decide(clash, tell)));
        }
        stand.into_iter().for_each(tell);
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
                if asked.insert(claim) {
                    all.extend(self.who_claim(claim).filter(|other| seen.insert(*other)));
                }
            }
        }
        all
    }

    fn who_claim(&self, claim: Claim<'_>) -> impl Iterator<Item = u32> {
        let hash = hash(&self.hasher, claim);
        let entries = self.index.iter_hash(spread(hash)).filter(move |entry| entry.hash == hash);
        let does = move |at: &u32| self.held(*at).is_some_and(|held| held.claims().any(|own| own == claim));
        entries.map(|entry| entry.at).filter(does)
    }

    fn held(&self, at: u32) -> Option<&Held> {
        self.slots.get(at as usize)?.as_ref()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
fn hash(hasher: &RandomState, claim: Claim<'_>) -> u32 {
    hasher.hash_one(claim) as u32
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

    /// Takes the verdict: it is left out for a clash, or stands. Tells at once what ends by it, and returns
    /// that it stands, if that is new.
    fn decide(&mut self, clash: Option<Clash>, tell: &mut impl FnMut(Change)) -> Option<Change> {
        let verdict = if clash.is_none() { Verdict::Stands } else { Verdict::LeftOut };
        let before = std::mem::replace(&mut self.verdict, verdict);
        let (network, endpoint) = (self.network.clone(), Arc::clone(&self.endpoint));
        let Some(clash) = clash else {
            if before == Verdict::LeftOut {
                tell(Change::Settled(network.clone(), endpoint.id.clone()));
            }
            return (before != Verdict::Stands).then_some(Change::Stands(network, endpoint));
        };
        let id = endpoint.id.clone();
        if before == Verdict::Stands {
            tell(Change::Falls(network.clone(), endpoint));
        }
        tell(Change::LeftOut(network, id, clash));
        None
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
