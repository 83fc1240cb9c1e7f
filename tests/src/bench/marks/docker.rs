//! Marks of the section `docker`.

use super::{Ask, Mark};
use crate::bench::{contender::Kind, docker::Figure};

/// All of them.
pub fn marks() -> Vec<Mark> {
    let asked = [
        ("a network, on the other node", Figure::Visible, Ask::AtMost(300.0, "")),
        ("first ping, on the first packet", Figure::FirstPingsLost, Ask::AtMost(0.0, "")),
        ("docker run to the first ping", Figure::FirstPing, Ask::NoWorse(Kind::Docker)),
        ("docker run", Figure::RunAdds, Ask::NoWorse(Kind::Docker)),
        ("a name, after docker run", Figure::SlowestName, Ask::AtMost(100.0, "")),
        ("TCP, one stream, in Docker", Figure::Tcp, Ask::AtLeast(Kind::Docker, 1.25)),
        ("UDP 64 B, in Docker", Figure::Udp, Ask::AtLeast(Kind::Docker, 2.5)),
        ("dockerd killed", Figure::DockerdKilled, Ask::AtMost(0.0, "")),
        ("overlayd killed", Figure::OverlaydKilled, Ask::AtMost(0.0, "")),
    ];
    let mark = |(what, figure, ask): (_, Figure, _)| Mark {
        what,
        section: "docker",
        measure: figure.name(),
        ours: Kind::PluggedIn.to_string(),
        ask,
    };
    asked.into_iter().map(mark).collect()
}
