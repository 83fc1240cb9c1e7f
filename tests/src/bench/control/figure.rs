//! What is measured, by its name in the table.

use crate::bench::report::Row;

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// From etcd's acknowledgement of a record to its rows in the node's maps: the median, and what one in a
    /// hundred exceeds.
    PutP50,
    PutP99,
    /// The same while others change as well, and how many do.
    BusyP50,
    BusyP99,
    ChangesMeanwhile,
    /// The attach command on another node; from its end to the answer to the first packet from the node.
    Attach,
    FirstPing,
    SlowestFirstPing,
    LostFirstPings,
    /// From the daemon's start to all rows in the maps: with none there, and with all.
    ColdStart,
    WarmStart,
    /// Rows that were changed at a start with all there.
    WarmRows,
    /// The daemon's memory: when all was measured, the most it was, and the most after the restart.
    Memory,
    MostMemory,
    WarmMemory,
    /// The maps' memory for each endpoint.
    MapMemory,
    /// How long `overlayctl doctor` takes, the slowest record meanwhile, and the most memory after it.
    Doctor,
    PutBesideDoctor,
    DoctorMemory,
    /// Changes a second that the node keeps up with on one core, how many etcd took meanwhile, and what each
    /// takes of the core.
    Sustained,
    Written,
    CpuOfBurst,
    /// What a change costs a node.
    CpuOfChange,
    BytesOfChange,
    /// What it costs etcd, and what for each node more.
    EtcdOfChange,
    EtcdOfWatcher,
    /// What etcd has of a node that has nothing to do.
    Watches,
    IdleRequests,
    /// What etcd needs for all.
    EtcdData,
    EtcdMemory,
}

/// The values of all lines.
pub struct Figures(Vec<(Figure, Row)>);

impl Figure {
    const ALL: [Self; 30] = [
        Self::PutP50,
        Self::PutP99,
        Self::BusyP50,
        Self::BusyP99,
        Self::ChangesMeanwhile,
        Self::Attach,
        Self::FirstPing,
        Self::SlowestFirstPing,
        Self::LostFirstPings,
        Self::ColdStart,
        Self::WarmStart,
        Self::WarmRows,
        Self::Memory,
        Self::MostMemory,
        Self::WarmMemory,
        Self::MapMemory,
        Self::Doctor,
        Self::PutBesideDoctor,
        Self::DoctorMemory,
        Self::Sustained,
        Self::Written,
        Self::CpuOfBurst,
        Self::CpuOfChange,
        Self::BytesOfChange,
        Self::EtcdOfChange,
        Self::EtcdOfWatcher,
        Self::Watches,
        Self::IdleRequests,
        Self::EtcdData,
        Self::EtcdMemory,
    ];

    /// The name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PutP50 => "record to map, p50 ms",
            Self::PutP99 => "record to map, p99 ms",
            Self::BusyP50 => "record to map, others changing, p50 ms",
            Self::BusyP99 => "record to map, others changing, p99 ms",
            Self::ChangesMeanwhile => "… changes a second meanwhile",
            Self::Attach => "endpoint attach, median ms",
            Self::FirstPing => "first ping after it, median ms",
            Self::SlowestFirstPing => "first ping after it, slowest ms",
            Self::LostFirstPings => "first pings lost",
            Self::ColdStart => "cold start, s",
            Self::WarmStart => "warm restart, s",
            Self::WarmRows => "rows changed by it",
            Self::Memory => "daemon memory, MiB",
            Self::MostMemory => "daemon memory, most, MiB",
            Self::WarmMemory => "daemon memory, most, after a warm restart, MiB",
            Self::MapMemory => "map memory an endpoint, bytes",
            Self::Doctor => "doctor, s",
            Self::PutBesideDoctor => "record to map meanwhile, slowest ms",
            Self::DoctorMemory => "daemon memory, most, after it, MiB",
            Self::Sustained => "changes a second, one core",
            Self::Written => "… changes a second written meanwhile",
            Self::CpuOfBurst => "… node's CPU for each, µs",
            Self::CpuOfChange => "a change: node's CPU, µs",
            Self::BytesOfChange => "a change: to the node, bytes",
            Self::EtcdOfChange => "a change: etcd's CPU, µs",
            Self::EtcdOfWatcher => "a change: etcd's CPU for a node more, µs",
            Self::Watches => "watches of a node",
            Self::IdleRequests => "messages a second of an idle node",
            Self::EtcdData => "etcd's data in use, MiB",
            Self::EtcdMemory => "etcd's memory, MiB",
        }
    }
}

impl Figures {
    pub fn new() -> Self {
        Self(Figure::ALL.iter().map(|figure| (*figure, Row::new(figure.name().to_owned(), &[]))).collect())
    }

    /// Adds a value of a line in a column.
    pub fn add(&mut self, figure: Figure, column: &str, value: f64) {
        for (_, row) in self.0.iter_mut().filter(|(of, _)| *of == figure) {
            row.add_one(column, value);
        }
    }

    /// The lines that have values.
    pub fn into_rows(self) -> Vec<Row> {
        self.0.into_iter().map(|(_, row)| row).filter(|row| !row.samples.is_empty()).collect()
    }
}
