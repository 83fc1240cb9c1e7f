//! Marks of the section `control`.

use super::{Ask, Mark};
use crate::bench::control::Figure;

/// All of them, by how many endpoints there are.
pub fn marks() -> Vec<Mark> {
    let most = |limit| Ask::AtMost(limit, "");
    let mut marks = Vec::new();
    let mut add = |what, figure: Figure, columns: &[&'static str], ask: &dyn Fn() -> Ask| {
        marks.extend(columns.iter().map(|measure| Mark {
            what,
            section: "control",
            measure,
            ours: figure.name().into(),
            ask: ask(),
        }));
    };
    let ends = ["10 k", "1 M"];
    add("etcd to the map, idle", Figure::PutP50, &ends, &|| most(2.0));
    add("etcd to the map, idle", Figure::PutP99, &ends, &|| most(10.0));
    add("etcd to the map, 1,000 changes/s", Figure::BusyP99, &ends, &|| most(100.0));
    add("attach, then the first packet", Figure::SlowestFirstPing, &ends, &|| most(50.0));
    add("attach, then the first packet", Figure::LostFirstPings, &ends, &|| most(0.0));
    add("cold start", Figure::ColdStart, &["100 k"], &|| most(2.0));
    add("cold start", Figure::ColdStart, &["1 M"], &|| most(20.0));
    add("warm restart", Figure::WarmRows, &["1 M"], &|| most(0.0));
    add("memory", Figure::MostMemory, &["1 M"], &|| most(400.0));
    add("memory", Figure::WarmMemory, &["1 M"], &|| most(400.0));
    add("memory", Figure::MapMemory, &["1 M"], &|| most(200.0));
    add("sustained changes", Figure::Sustained, &ends, &|| Ask::NoLess(5_000.0));
    add("etcd load", Figure::Watches, &["1 M"], &|| most(1.0));
    add("etcd load: no polling", Figure::IdleRequests, &["1 M"], &|| most(1.0));
    for figure in [Figure::CpuOfChange, Figure::BytesOfChange] {
        add("a change costs O(1)", figure, &["1 M"], &|| Ask::AtMostTimes("10 k", 1.5));
    }
    marks
}
