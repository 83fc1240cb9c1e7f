//! Section `docker`: the same containers in the same Docker, by its own overlay and by ours.

mod figure;
mod own;

use anyhow::{Context as _, Result};
use serde_json::json;

use self::own::side;
pub use self::{
    figure::Figure,
    own::{NETWORK, Own, SUBNET, WayOut},
};
use super::{
    Options,
    contender::{Carries, Contender, Kind, Side, prepare},
    measure::{self, Server},
    report::{Report, Row},
};
use crate::docker::{DockerCluster, Release};

/// What both dockerds are started with; Docker's own overlay answers for names itself.
const DOCKERD: [&str; 3] = ["--live-restore", "--dns", "169.254.53.53"];

pub fn run(options: &Options) -> Result<()> {
    let title = "the same containers in Docker 20.10, two nodes, wire gso";
    let mut report = Report::new("docker", title, &Figure::ALL.map(Figure::name));
    let mut contenders = Vec::new();
    for kind in [Kind::Docker, Kind::PluggedIn] {
        eprintln!("    docker: setting up {kind}");
        let contender = match kind {
            Kind::Docker => Contender::own_of_docker(Carries::Gso, WayOut::Usual),
            _ => Contender::set_up(kind, Carries::Gso),
        }
        .with_context(|| format!("cannot set up {kind}"))?;
        let server = Server::start(&contender)?;
        contenders.push((contender, server, Row::new(kind.to_string(), &[])));
    }
    for round in 1..=options.rounds {
        for (contender, _, row) in &mut contenders {
            let kind = contender.kind;
            sample(contender, row, round, options).with_context(|| format!("{kind}, round {round}"))?;
            eprintln!("    docker, round {round} of {}: {kind}", options.rounds);
        }
    }
    for (mut contender, _, mut row) in contenders {
        let kind = contender.kind;
        if let Some(slowest) = row.most(Figure::Name.name()) {
            row.add_one(Figure::SlowestName.name(), slowest);
        }
        if let Some(lost) = figure::overlayd_killed(&mut contender).context(kind)? {
            row.add_one(Figure::OverlaydKilled.name(), lost);
        }
        row.add_one(Figure::DockerdKilled.name(), figure::dockerd_killed(&mut contender).context(kind)?);
        report.push(row);
    }
    report.options = json!({ "rounds": options.rounds, "runs": figure::RUNS, "seconds": options.seconds });
    report.finish(&options.output)
}

/// One round of a contender.
fn sample(contender: &Contender, row: &mut Row, round: usize, options: &Options) -> Result<()> {
    let mut add = |figure: Figure, value: f64| row.add_one(figure.name(), value);
    add(Figure::Visible, figure::visible(contender, round)?);
    for run in 0..figure::RUNS {
        add(Figure::RunAdds, figure::run_adds(contender)?);
        let (took, lost) = figure::first_ping(contender)?;
        add(Figure::FirstPing, took);
        add(Figure::FirstPingsLost, lost);
        add(Figure::Name, figure::name(contender, &format!("name-{round}-{run}"))?);
    }
    add(Figure::Tcp, measure::tcp(contender, 1, options.seconds)?.gbit);
    add(Figure::Udp, measure::udp64(contender, options.seconds)?);
    let latency = measure::latency(contender, options.round_trips)?;
    add(Figure::RttP50, latency.p50);
    add(Figure::RttP99, latency.p99);
    Ok(())
}

/// Two nodes with Docker and a container on each, by our plugin.
pub fn plugged_in(carries: Carries) -> Result<(DockerCluster, [Side; 2])> {
    let cluster = DockerCluster::start(&[Release::V20_10; 2], &DOCKERD)?;
    for node in &cluster.nodes {
        prepare(cluster.wire.netns(), node.node.netns(), node.node.port(), carries)?;
    }
    let create =
        ["network", "create", "-d", "overlayd", "--ipam-driver", "overlayd", "--subnet", SUBNET, NETWORK];
    cluster.nodes[0].docker.docker(&create)?;
    let sides = [side(&cluster.nodes[0].docker, "client")?, side(&cluster.nodes[1].docker, "server")?];
    Ok((cluster, sides))
}
