//! Endpoints' interfaces.

use std::path::PathBuf;

use overlay_user::{
    MacAddr,
    device::{self, EndpointDevice, Netns as Target},
};

use crate::netns::Netns;

fn endpoint(container: &Netns) -> EndpointDevice {
    EndpointDevice {
        host: "ov0123456789ab".into(),
        netns: Some(Target::Path(container.path())),
        ifname: "eth0".into(),
        mac: MacAddr([2, 0x42, 10, 0, 9, 2]),
        mtu: 1450,
        addresses: vec!["10.0.9.2/24".parse().unwrap(), "fd00::9:2/64".parse().unwrap()],
        takes_redirects: false,
    }
}

fn create(host: &Netns, device: &EndpointDevice) -> Result<(), String> {
    host.run(async || device::create(device).await.map_err(|error| error.to_string()))
}

#[test]
fn both_ends_are_as_asked_for_and_silent() {
    let (host, container) = (Netns::new("host"), Netns::new("c"));
    container.ip("link set lo down");
    create(&host, &endpoint(&container)).unwrap();

    let inside = container.ip("addr show eth0");
    for part in [
        "mtu 1450",
        "02:42:0a:00:09:02",
        "inet 10.0.9.2/24 brd 10.0.9.255",
        "inet6 fd00::9:2/64 scope global nodad",
        ",UP",
    ] {
        assert!(inside.contains(part), "{part} in {inside}");
    }
    assert!(container.ip("link show lo").contains(",UP"));
    assert_eq!(container.exec("cat /proc/sys/net/ipv6/conf/eth0/accept_ra").trim(), "0");

    let outside = host.ip("addr show ov0123456789ab");
    assert!(outside.contains("mtu 1450"), "{outside}");
    assert!(!outside.contains("UP"), "down until a data path guards it: {outside}");
    assert!(!outside.contains("inet"), "no address: {outside}");
    assert!(host.run(async || device::exists("ov0123456789ab").await.unwrap()));

    for _ in 0..2 {
        host.run(async || device::remove("ov0123456789ab").await.unwrap());
    }
    assert!(!host.run(async || device::exists("ov0123456789ab").await.unwrap()));
    assert!(!container.ip("link").contains("eth0"));
}

#[test]
fn an_end_that_somebody_fetches_waits_in_the_hosts_namespace() {
    let (host, container) = (Netns::new("host"), Netns::new("c"));
    let device = EndpointDevice { netns: None, ifname: "ovp0123456789a".into(), ..endpoint(&container) };
    create(&host, &device).unwrap();
    for name in ["ov0123456789ab", "ovp0123456789a"] {
        let shown = host.ip(&format!("addr show {name}"));
        assert!(shown.contains("mtu 1450") && !shown.contains("UP") && !shown.contains("inet"), "{shown}");
    }
    assert!(host.ip("link show ovp0123456789a").contains("02:42:0a:00:09:02"));
    let error = create(&host, &EndpointDevice { host: "ov000000000001".into(), ..device }).unwrap_err();
    assert!(error.contains("ovp0123456789a exists in the namespace already"), "{error}");
    host.run(async || device::remove("ov0123456789ab").await.unwrap());
    assert!(!host.ip("link").contains("ovp"));
}

#[test]
fn a_taken_name_is_explained_and_nothing_is_left() {
    let (host, container) = (Netns::new("host"), Netns::new("c"));
    container.ip("link add eth0 type bridge");
    let before = (host.ip("link"), container.ip("link"));
    let error = create(&host, &endpoint(&container)).unwrap_err();
    assert!(error.contains("eth0 exists in the namespace already"), "{error}");
    assert_eq!((host.ip("link"), container.ip("link")), before);

    container.ip("link del eth0");
    host.ip("link add ov0123456789ab type bridge");
    let error = create(&host, &endpoint(&container)).unwrap_err();
    assert!(error.contains("ov0123456789ab exists already"), "{error}");
    assert!(host.ip("-d link show ov0123456789ab").contains("bridge"), "what was there stays");
}

#[test]
fn a_failure_inside_takes_the_pair_back() {
    let (host, container) = (Netns::new("host"), Netns::new("c"));
    let before = (host.ip("link"), container.ip("link"));
    let mut device = endpoint(&container);
    device.addresses.push(device.addresses[0]);
    let error = create(&host, &device).unwrap_err();
    assert!(error.contains("give eth0 the address 10.0.9.2/24: File exists"), "{error}");
    assert_eq!((host.ip("link"), container.ip("link")), before);

    device.addresses.clear();
    device.mac = MacAddr::BROADCAST;
    let error = create(&host, &device).unwrap_err();
    assert!(error.contains("ff:ff:ff:ff:ff:ff cannot be the address"), "{error}");
    assert_eq!((host.ip("link"), container.ip("link")), before);
}

#[test]
fn a_file_that_is_no_network_namespace_is_refused() {
    let (host, container) = (Netns::new("host"), Netns::new("c"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let error_for = |netns| {
        let netns = Some(netns);
        create(&host, &EndpointDevice { netns, ..endpoint(&container) }).unwrap_err()
    };

    let error = error_for(Target::Path(file.path().into()));
    assert!(error.contains("not bound to a namespace"), "{error}");
    let error = error_for(Target::Path(PathBuf::from("/proc/self/ns/mnt")));
    assert!(error.contains("not a network namespace"), "{error}");
    let error = error_for(Target::Path(PathBuf::from("/run/netns/no-such-namespace")));
    assert!(error.contains("/run/netns/no-such-namespace: No such file"), "{error}");
    let error = error_for(Target::Path(host.path()));
    assert!(error.contains("the host's own"), "{error}");
    let pipe = std::env::temp_dir().join(format!("ovt{}-pipe", std::process::id()));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let error = error_for(Target::Path(pipe.clone()));
    std::fs::remove_file(&pipe).unwrap();
    assert!(error.contains("not bound to a namespace"), "{error}");
    let error = error_for(Target::Pid(u32::MAX));
    assert!(error.contains("is the process still running?"), "{error}");
}
