use std::collections::BTreeMap;

use clap::{CommandFactory as _, Parser as _};

use super::{output::Format, *};
use crate::{
    api::{
        Attached, Counter, DatapathStatus, DnsStatus, DockerState, DockerStatus, Endpoint, Liveness, Network,
        NetworkDetail, Node, Peer, StoreState, StoreStatus, Subnet, Uplink,
    },
    datapath::{Count, Mode, Traffic},
};

fn network() -> Network {
    Network {
        name: "blue".parse().unwrap(),
        vni: 4097,
        subnet: Subnet {
            subnet: "10.0.9.0/24".parse().unwrap(),
            gateway: "10.0.9.1".parse().unwrap(),
            ip_range: "10.0.9.128/25".parse().unwrap(),
        },
        dual: Some(Subnet {
            subnet: "fd00::/64".parse().unwrap(),
            gateway: "fd00::1".parse().unwrap(),
            ip_range: "fd00::/64".parse().unwrap(),
        }),
        mtu: None,
        internal: false,
        aux: BTreeMap::from([("router".to_owned(), "10.0.9.9".parse().unwrap())]),
        policy: crate::state::Policy::default(),
        endpoints: 1,
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        id: "0123456789ab".parse().unwrap(),
        network: "blue".parse().unwrap(),
        node: "n1".parse().unwrap(),
        addresses: vec!["10.0.9.2".parse().unwrap()],
        mac: "02:42:0a:00:09:02".parse().unwrap(),
        names: vec!["web".to_owned(), "www".to_owned()],
        delivery: crate::state::Delivery::Tc,
        host_device: Some("ov0123456789ab".to_owned()),
    }
}

fn status() -> Status {
    let count = |packets, bytes| Count { packets, bytes };
    let counter = |outcome: &str, class: &str, packets, explanation: &str| Counter {
        hook: "uplink".to_owned(),
        outcome: outcome.to_owned(),
        class: class.to_owned(),
        count: count(packets, packets * 98),
        explanation: explanation.to_owned(),
    };
    Status {
        health: Health::Degraded,
        degraded: vec!["etcd: connection refused".to_owned()],
        node: "n1".parse().unwrap(),
        drained: false,
        version: "0.1.0".to_owned(),
        cluster: "default".to_owned(),
        uplink: Uplink {
            name: "eth0".to_owned(),
            address: "192.0.2.1".parse().unwrap(),
            driver: "veth".to_owned(),
            mtu: 1500,
            port: 4789,
        },
        datapath: DatapathStatus {
            mode: Mode::Kernel,
            reason: "--datapath kernel".to_owned(),
            apply_ms: Some(3),
            rows_changed: 12,
        },
        store: StoreStatus {
            state: StoreState::Lost,
            reason: Some("connection refused".to_owned()),
            revision: 42,
            applied: Some(41),
        },
        networks: 2,
        endpoints_local: 1,
        endpoints_remote: 3,
        peers: vec![Peer {
            name: "n2".parse().unwrap(),
            address: "192.0.2.2".parse().unwrap(),
            datapath: "xdp".to_owned(),
            state: Liveness::Suspect,
            drained: false,
            routed: Some(true),
            traffic: Traffic { rx: count(3, 294), tx: count(4, 392) },
        }],
        problems: vec![],
        docker: Some(DockerStatus {
            socket: "/var/run/docker.sock".into(),
            plugin: "/run/docker/plugins/overlayd.sock".into(),
            state: DockerState::Followed,
            version: Some("28.5.2".to_owned()),
            api: Some("1.51".to_owned()),
            reason: None,
            away_seconds: None,
            problems: vec!["network red was removed again".to_owned()],
        }),
        rejected: [("networks/red".to_owned(), "VNI 7 is network blue's".to_owned())].into(),
        rejected_more: 2,
        dns: Some(DnsStatus {
            address: "169.254.53.53".parse().unwrap(),
            containers: 3,
            answered: 20,
            forwarded: 4,
            unanswered: 1,
            refused: 0,
        }),
        counters: vec![
            counter("received", "received", 5, "The packet entered at this hook."),
            counter("unknown_vtep", "drop", 1, "The outer source is not a VTEP of the network."),
        ],
    }
}

#[test]
fn the_command_line_holds_together() {
    Cli::command().debug_assert();
}

fn parsed(line: &str) -> Command {
    Cli::try_parse_from(line.split(' ')).unwrap().command
}

#[test]
fn attach_takes_a_namespace_by_name_path_or_process() {
    let place = |line: &str| match parsed(line) {
        Command::Endpoint(EndpointCommand::Attach(args)) => (args.place.netns, args.place.pid),
        other => panic!("{other:?}"),
    };
    assert_eq!(place("overlayctl endpoint attach blue --netns c1").0, Some("/run/netns/c1".into()));
    assert_eq!(
        place("overlayctl endpoint attach blue --netns /proc/7/ns/net").0,
        Some("/proc/7/ns/net".into())
    );
    let relative = place("overlayctl endpoint attach blue --netns ./c1").0.unwrap();
    assert_eq!(relative, std::env::current_dir().unwrap().join("c1"));
    assert_eq!(place("overlayctl ep attach blue --pid 7").1, Some(7));
    for bad in [
        "attach blue",
        "attach blue --pid 7 --netns x",
        "attach blue --pid 7 --mac 1:2",
        "attach b/ue --pid 7",
    ] {
        let line = format!("overlayctl endpoint {bad}");
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{bad}");
    }
}

#[test]
fn options_may_stand_anywhere() {
    let cli = Cli::try_parse_from(["overlayctl", "network", "ls", "-o", "json", "--socket", "/x"]).unwrap();
    assert_eq!((cli.output, cli.socket.to_str()), (Format::Json, Some("/x")));
    let cli = Cli::try_parse_from(["overlayctl", "--socket=/x", "-ojson", "status", "--wait", "5"]).unwrap();
    assert!(matches!(cli.command, Command::Status { wait: Some(5) }));
}

#[test]
fn numbers_out_of_range_are_refused_before_anybody_is_asked() {
    for bad in [
        "network create a --vni 0",
        "network create a --vni 16777216",
        "network create a --dscp 64",
        "network create a --bum-rate 0",
        "network set a --broadcast maybe",
        "network set a --vlan 7",
        "node add-static a --vtep 1.2.3.4 --port 0",
    ] {
        let line = format!("overlayctl {bad}");
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{bad}");
    }
}

fn shown(what: &impl output::Show) -> String {
    format!("\n{}", output::render(Format::Table, what))
}

#[test]
fn networks_are_shown_as_a_table() {
    assert_eq!(
        shown(&vec![network()]),
        "
NAME   VNI    SUBNET                   GATEWAY             MTU    INTERNAL   ENDPOINTS
blue   4097   10.0.9.0/24, fd00::/64   10.0.9.1, fd00::1   auto   false      1
"
    );
    assert_eq!(
        shown(&Vec::<Network>::new()),
        "\nNAME   VNI   SUBNET   GATEWAY   MTU   INTERNAL   ENDPOINTS\n"
    );
    assert_eq!(
        shown(&NetworkDetail { network: network(), members: vec![endpoint()] }),
        "
name              blue
vni               4097
subnet            10.0.9.0/24, fd00::/64
gateway           10.0.9.1, fd00::1
ip range          10.0.9.128/25, fd00::/64
aux addresses     router=10.0.9.9
mtu               auto
internal          false
dscp              inherit
broadcast         flood
multicast         flood
unknown unicast   drop
flood cap         none
bum rate          1000
vlan              drop
endpoints         1

ID             NETWORK   NODE   ADDRESS    MAC                 NAMES
0123456789ab   blue      n1     10.0.9.2   02:42:0a:00:09:02   web, www
"
    );
}

#[test]
fn an_attached_endpoint_is_shown_as_a_table() {
    let attached = Attached {
        id: "0123456789ab".parse().unwrap(),
        network: "blue".parse().unwrap(),
        address: "10.0.9.2/24".parse().unwrap(),
        addresses: ["10.0.9.2/24", "fd00::2/64"].map(|address| address.parse().unwrap()).to_vec(),
        mac: "02:42:0a:00:09:02".parse().unwrap(),
        host_device: "ov0123456789ab".to_owned(),
        ifname: "eth0".parse().unwrap(),
        vni: 4097,
        mtu: 1450,
    };
    assert_eq!(
        shown(&attached),
        "
ID             NETWORK   ADDRESS                   MAC                 INTERFACE   HOST DEVICE      VNI    MTU
0123456789ab   blue      10.0.9.2/24, fd00::2/64   02:42:0a:00:09:02   eth0        ov0123456789ab   4097   1450
"
    );
}

#[test]
fn nodes_are_shown_as_a_table() {
    let node = |name: &str, this: bool, state, datapath: &str| Node {
        name: name.parse().unwrap(),
        vtep: "192.0.2.1".parse().unwrap(),
        mtu: this.then_some(1500),
        datapath: datapath.to_owned(),
        reason: if this { "it works".to_owned() } else { String::new() },
        state,
        drained: false,
        endpoints: 2,
        this,
    };
    assert_eq!(
        shown(&vec![node("n1", true, Liveness::Alive, "xdp"), node("switch", false, Liveness::Static, "")]),
        "
NAME     VTEP        MTU    STATE    ENDPOINTS   DATA PATH   WHY
n1 *     192.0.2.1   1500   alive    2           xdp         it works
switch   192.0.2.1   -      static   2           -           -
"
    );
}

#[test]
fn a_status_says_first_whether_all_is_well() {
    assert_eq!(
        shown(&status()),
        "
node        n1 in cluster default, overlayd 0.1.0
health      degraded
uplink      eth0 192.0.2.1 (veth), MTU 1500, VXLAN port 4789
data path   kernel: --datapath kernel
store       lost, revision 42 read, 41 applied
networks    2
endpoints   1 here, 3 elsewhere
docker      28.5.2 on /var/run/docker.sock, API 1.51, driver on /run/docker/plugins/overlayd.sock
names       169.254.53.53 in 3 containers; 20 queries answered, 4 by others, 1 by nobody, 0 refused

Degraded because:
  etcd: connection refused

Docker:
  network red was removed again

Records left out (warning):
  networks/red: VNI 7 is network blue's
  and 2 more

PEER   ADDRESS     DATA PATH   STATE     ROUTE   PACKETS FROM   BYTES FROM   PACKETS TO   BYTES TO
n2     192.0.2.2   xdp         suspect   yes     4              392          3            294

HOOK     OUTCOME        PACKETS   BYTES   MEANING
uplink   received       5         490
uplink   unknown_vtep   1         98      The outer source is not a VTEP of the network.
"
    );
}

#[test]
fn json_has_the_fields_programs_rely_on() {
    assert_eq!(
        output::render(Format::Json, &vec![network()]),
        r#"[
  {
    "name": "blue",
    "vni": 4097,
    "subnet": "10.0.9.0/24",
    "gateway": "10.0.9.1",
    "ip_range": "10.0.9.128/25",
    "dual": {
      "subnet": "fd00::/64",
      "gateway": "fd00::1",
      "ip_range": "fd00::/64"
    },
    "mtu": null,
    "internal": false,
    "aux": {
      "router": "10.0.9.9"
    },
    "policy": {
      "dscp": "inherit",
      "broadcast": "flood",
      "multicast": "flood",
      "unknown_unicast": "drop",
      "bum_rate": 1000,
      "vlan": "drop"
    },
    "endpoints": 1
  }
]
"#
    );
    let status: serde_json::Value = serde_json::from_str(&output::render(Format::Json, &status())).unwrap();
    assert_eq!(status["health"], "degraded");
    assert_eq!(status["datapath"]["mode"], "kernel");
    assert_eq!(
        status["store"],
        serde_json::json!({
            "state": "lost", "reason": "connection refused", "revision": 42, "applied": 41
        })
    );
    assert_eq!(status["peers"][0]["traffic"]["rx"]["packets"], 3);
    assert_eq!(
        status["counters"][1],
        serde_json::json!({
            "hook": "uplink", "outcome": "unknown_vtep", "class": "drop", "packets": 1, "bytes": 98,
            "explanation": "The outer source is not a VTEP of the network."
        })
    );
}
