//! The steps of a run, from its seed alone. They are chosen by what should have become of those
//! before, not by what did: the same seed gives the same steps however they went.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{
    Rng as _, SeedableRng as _,
    distr::{Distribution as _, weighted::WeightedIndex},
    rngs::StdRng,
    seq::{IndexedRandom as _, IteratorRandom as _},
};

use crate::step::{Cut, Flap, Guest, Place, Slot, Step};

/// How many networks come and go.
pub const SLOTS: usize = 3;

/// Most containers at a time.
const MOST_GUESTS: usize = 16;

/// Last numbers of the underlay addresses there are to be had.
const HOSTS: std::ops::RangeInclusive<u8> = 1..=12;

/// Steps between two times that all is healed and checked.
const BURST: std::ops::RangeInclusive<usize> = 12..=24;

/// One burst in so many lasts long enough for connections to be given up.
const LONG: u32 = 40;

/// A source of steps.
pub struct Script {
    random: StdRng,
    nodes: Vec<Planned>,
    networks: [bool; SLOTS],
    guests: BTreeMap<Guest, (Place, Slot)>,
    next: Guest,
    frozen: bool,
    isolated: bool,
}

/// A node as it should be by now.
struct Planned {
    runs: bool,
    cut: bool,
    host: u8,
}

/// A kind of step, and how often there is one.
const KINDS: [(Kind, u32); 20] = [
    (Kind::Attach, 22),
    (Kind::AttachKilled, 3),
    (Kind::Detach, 15),
    (Kind::DetachKilled, 2),
    (Kind::Vanish, 4),
    (Kind::Create, 5),
    (Kind::Remove, 4),
    (Kind::Kill, 3),
    (Kind::Stop, 1),
    (Kind::Start, 4),
    (Kind::Freeze, 2),
    (Kind::Thaw, 3),
    (Kind::Restart, 1),
    (Kind::Compact, 3),
    (Kind::CutStore, 3),
    (Kind::JoinStore, 3),
    (Kind::Nodes, 3),
    (Kind::Underlay, 3),
    (Kind::Damage, 5),
    (Kind::Pause, 4),
];

#[derive(Clone, Copy)]
enum Kind {
    Attach,
    AttachKilled,
    Detach,
    DetachKilled,
    Vanish,
    Create,
    Remove,
    Kill,
    Stop,
    Start,
    Freeze,
    Thaw,
    Restart,
    Compact,
    CutStore,
    JoinStore,
    Nodes,
    Underlay,
    Damage,
    Pause,
}

impl Script {
    /// The steps of `seed` for a cluster of so many nodes, whose addresses are counted from 1.
    pub fn new(seed: u64, nodes: usize) -> Self {
        let node = |host| Planned { runs: true, cut: false, host };
        Self {
            random: StdRng::seed_from_u64(seed),
            nodes: HOSTS.take(nodes).map(node).collect(),
            networks: [false; SLOTS],
            guests: BTreeMap::new(),
            next: 0,
            frozen: false,
            isolated: false,
        }
    }

    /// The next steps before everything is healed and checked.
    pub fn burst(&mut self) -> Vec<Step> {
        let count = self.random.random_range(BURST);
        let mut steps: Vec<_> = (0..count).map(|_| self.step()).collect();
        if self.random.random_ratio(1, LONG) {
            let time = Duration::from_millis(self.random.random_range(4_000..16_000));
            steps.push(Step::Pause { time });
        }
        self.heal();
        steps
    }

    /// Which networks there should be by now. One that was to stay may have been removed, for who was to be
    /// on it could not be attached.
    pub const fn networks(&self) -> [bool; SLOTS] {
        self.networks
    }

    fn heal(&mut self) {
        for node in &mut self.nodes {
            (node.runs, node.cut) = (true, false);
        }
        (self.frozen, self.isolated) = (false, false);
    }

    fn step(&mut self) -> Step {
        let weights = KINDS.iter().map(|(_, weight)| weight);
        let kinds = WeightedIndex::new(weights).expect("the weights are numbers above zero");
        loop {
            let (kind, _) = KINDS[kinds.sample(&mut self.random)];
            if let Some(step) = self.of_kind(kind) {
                return step;
            }
        }
    }

    /// A step of a kind, if there can be one now.
    fn of_kind(&mut self, kind: Kind) -> Option<Step> {
        match kind {
            Kind::Attach => {
                let (guest, at, slot) = self.newcomer()?;
                Some(Step::Attach { guest, at, slot })
            }
            Kind::AttachKilled => {
                let (guest, at, slot) = self.newcomer()?;
                self.guests.remove(&guest);
                self.nodes[at].runs = false;
                Some(Step::AttachKilled { guest, at, slot, after: self.moment() })
            }
            Kind::Detach => Some(Step::Detach { guest: self.leaver()?.0 }),
            Kind::DetachKilled => {
                let (guest, at) = self.leaver()?;
                self.nodes[at].runs = false;
                Some(Step::DetachKilled { guest, after: self.moment() })
            }
            Kind::Vanish => Some(Step::Vanish { guest: self.leaver()?.0 }),
            Kind::Create => {
                let slot = (0..SLOTS).filter(|slot| !self.networks[*slot]).choose(&mut self.random)?;
                self.networks[slot] = true;
                Some(Step::Create { slot, at: self.any_node() })
            }
            Kind::Remove => self.removal(),
            Kind::Kill => Some(Step::Kill { at: self.quitter()? }),
            Kind::Stop => Some(Step::Stop { at: self.quitter()? }),
            Kind::Start => {
                let at = self.node_that(|node| !node.runs)?;
                self.nodes[at].runs = true;
                Some(Step::Start { at })
            }
            Kind::Freeze => (!std::mem::replace(&mut self.frozen, true)).then_some(Step::Freeze),
            Kind::Thaw => std::mem::take(&mut self.frozen).then_some(Step::Thaw),
            Kind::Restart => {
                self.frozen = false;
                Some(Step::Restart)
            }
            Kind::Compact => Some(Step::Compact),
            Kind::CutStore => {
                let at = self.node_that(|node| !node.cut)?;
                self.nodes[at].cut = true;
                let cut = *[Cut::Dropped, Cut::Refused].choose(&mut self.random)?;
                Some(Step::CutStore { at, cut })
            }
            Kind::JoinStore => {
                let at = self.node_that(|node| node.cut)?;
                self.nodes[at].cut = false;
                Some(Step::JoinStore { at })
            }
            Kind::Nodes => {
                self.isolated = !self.isolated;
                if !self.isolated {
                    return Some(Step::JoinNodes);
                }
                let [a, b] = (0..self.nodes.len()).choose_multiple(&mut self.random, 2)[..] else {
                    return None;
                };
                Some(Step::CutNodes { pair: [a, b] })
            }
            Kind::Underlay => Some(self.underlay()),
            Kind::Damage => {
                Some(Step::Damage { at: self.any_node(), seed: self.random.random_range(0..10_000) })
            }
            Kind::Pause => {
                Some(Step::Pause { time: Duration::from_millis(self.random.random_range(10..150)) })
            }
        }
    }

    /// What happens to a node's uplink.
    fn underlay(&mut self) -> Step {
        let at = self.any_node();
        if self.random.random_bool(0.3) {
            let taken: BTreeSet<_> = self.nodes.iter().map(|node| node.host).collect();
            let free = HOSTS.filter(|host| !taken.contains(host));
            let host = free.choose(&mut self.random).expect("there are more addresses than nodes");
            self.nodes[at].host = host;
            return Step::Readdress { at, host, gap: self.random.random() };
        }
        let flap = if self.random.random() { Flap::Admin } else { Flap::Carrier };
        let down = Duration::from_millis(self.random.random_range(1..120));
        Step::Flap { at, flap, down }
    }

    /// A network that goes; mostly one that nobody should be on.
    fn removal(&mut self) -> Option<Step> {
        let used: BTreeSet<_> = self.guests.values().map(|(_, slot)| *slot).collect();
        let slot = (0..SLOTS).filter(|slot| self.networks[*slot]).choose(&mut self.random)?;
        if used.contains(&slot) {
            if !self.random.random_bool(0.3) {
                return None;
            }
        } else {
            self.networks[slot] = false;
        }
        Some(Step::Remove { slot, at: self.any_node() })
    }

    /// A container that is new: on a network that is there, and mostly on a node whose daemon runs.
    fn newcomer(&mut self) -> Option<(Guest, Place, Slot)> {
        if self.guests.len() >= MOST_GUESTS {
            return None;
        }
        let slot = (0..SLOTS).filter(|slot| self.networks[*slot]).choose(&mut self.random)?;
        let at =
            if self.random.random_ratio(1, 20) { self.any_node() } else { self.node_that(|node| node.runs)? };
        self.next += 1;
        self.guests.insert(self.next, (at, slot));
        Some((self.next, at, slot))
    }

    fn leaver(&mut self) -> Option<(Guest, Place)> {
        let guest = *self.guests.keys().choose(&mut self.random)?;
        let (at, _) = self.guests.remove(&guest)?;
        Some((guest, at))
    }

    fn quitter(&mut self) -> Option<Place> {
        let at = self.node_that(|node| node.runs)?;
        self.nodes[at].runs = false;
        Some(at)
    }

    fn any_node(&mut self) -> Place {
        self.random.random_range(0..self.nodes.len())
    }

    fn node_that(&mut self, is: impl Fn(&Planned) -> bool) -> Option<Place> {
        let places = self.nodes.iter().enumerate().filter(|(_, node)| is(node)).map(|(at, _)| at);
        places.choose(&mut self.random)
    }

    /// A moment in the middle of an attach or a detach, which take some milliseconds.
    fn moment(&mut self) -> Duration {
        Duration::from_micros(self.random.random_range(0..40_000))
    }
}
