//! A node's status, shown: first whether all is well, then the parts.

use super::{
    node::standing,
    output::{Show, or_dash, pairs, table},
};
use crate::api::{
    Counter, DnsStatus, DockerState, DockerStatus, Health, Peer, Status, StoreState, StoreStatus,
};

impl Show for Status {
    fn text(&self) -> String {
        let health = match self.health {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
        };
        let uplink = &self.uplink;
        let rows = [
            ("node", format!("{} in cluster {}, overlayd {}", self.node, self.cluster, self.version)),
            (
                "health",
                if self.drained {
                    format!("{health}; drained: it takes no new endpoints")
                } else {
                    health.to_owned()
                },
            ),
            (
                "uplink",
                format!(
                    "{} {} ({}), MTU {}, VXLAN port {}",
                    uplink.name, uplink.address, uplink.driver, uplink.mtu, uplink.port
                ),
            ),
            ("data path", format!("{}: {}", self.datapath.mode.name(), self.datapath.reason)),
            ("store", store(&self.store)),
            ("networks", self.networks.to_string()),
            ("endpoints", format!("{} here, {} elsewhere", self.endpoints_local, self.endpoints_remote)),
            ("docker", self.docker.as_ref().map_or_else(|| "not looked at".to_owned(), docker)),
        ];
        let names = self.dns.iter().map(|dns| ("names", names(dns)));
        let mut text = pairs(rows.into_iter().chain(names));
        section(&mut text, "Degraded because", self.degraded.iter().cloned());
        let of_docker = self.docker.iter().flat_map(|docker| &docker.problems);
        section(&mut text, "Docker", of_docker.filter(|problem| !self.degraded.contains(problem)).cloned());
        let rejected = self.rejected.iter().map(|(key, why)| format!("{key}: {why}"));
        let more = (self.rejected_more > 0).then(|| format!("and {} more", self.rejected_more));
        section(&mut text, "Records left out (warning)", rejected.chain(more));
        if !self.peers.is_empty() {
            text.push('\n');
            text.push_str(&peers(&self.peers));
        }
        if !self.counters.is_empty() {
            text.push('\n');
            text.push_str(&counters(&self.counters));
        }
        text
    }
}

fn store(store: &StoreStatus) -> String {
    let state = match store.state {
        StoreState::Connecting => "connecting",
        StoreState::Synced => "synced",
        StoreState::Lost => "lost",
        StoreState::Frozen => "frozen",
    };
    format!("{state}, revision {} read, {} applied", store.revision, or_dash(store.applied.as_ref()))
}

fn docker(docker: &DockerStatus) -> String {
    let socket = docker.socket.display();
    match docker.state {
        DockerState::None => format!("none on {socket}"),
        DockerState::Followed => {
            let (version, api) = (or_dash(docker.version.as_ref()), or_dash(docker.api.as_ref()));
            format!("{version} on {socket}, API {api}, driver on {}", docker.plugin.display())
        }
        DockerState::Away => {
            let seconds = docker.away_seconds.unwrap_or_default();
            format!("away for {seconds} s: {}", or_dash(docker.reason.as_ref()))
        }
    }
}

fn names(dns: &DnsStatus) -> String {
    let DnsStatus { address, containers, answered, forwarded, unanswered, refused } = dns;
    format!(
        "{address} in {containers} containers; {answered} queries answered, {forwarded} by others, {unanswered} by \
         nobody, {refused} refused"
    )
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    for (index, line) in lines.enumerate() {
        if index == 0 {
            text.extend(["\n", title, ":\n"]);
        }
        text.extend(["  ", &line, "\n"]);
    }
}

fn peers(peers: &[Peer]) -> String {
    let rows = peers.iter().map(|peer| {
        let route = match peer.routed {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let traffic = &peer.traffic;
        [
            peer.name.to_string(),
            peer.address.to_string(),
            or_dash(Some(&peer.datapath)),
            standing(peer.state, peer.drained),
            route.to_owned(),
            traffic.tx.packets.to_string(),
            traffic.tx.bytes.to_string(),
            traffic.rx.packets.to_string(),
            traffic.rx.bytes.to_string(),
        ]
    });
    let header = [
        "PEER",
        "ADDRESS",
        "DATA PATH",
        "STATE",
        "ROUTE",
        "PACKETS FROM",
        "BYTES FROM",
        "PACKETS TO",
        "BYTES TO",
    ];
    table(header, rows)
}

fn counters(counters: &[Counter]) -> String {
    let rows = counters.iter().map(|counter| {
        let explained = matches!(counter.class.as_str(), "drop" | "slowpath");
        [
            counter.hook.clone(),
            counter.outcome.clone(),
            counter.count.packets.to_string(),
            counter.count.bytes.to_string(),
            if explained { counter.explanation.clone() } else { String::new() },
        ]
    });
    table(["HOOK", "OUTCOME", "PACKETS", "BYTES", "MEANING"], rows)
}
