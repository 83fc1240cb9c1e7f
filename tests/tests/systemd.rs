//! The package on a machine with systemd: installed, started, upgraded under traffic, removed and purged; and what
//! Docker gets to see of a daemon that is away.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use overlay_tests::{
    cluster::{Cluster, Network},
    container::Container,
    docker_plugin::Caller,
    etcd::Etcd,
    exec::{self, eventually},
    machine::Machine,
    node::Datapath,
    package,
    probe::{Flood, ping_all},
};
use serde_json::{Value, json};

const BLUE: Network<'_> = Network { name: "blue", vni: 4242, subnet: "10.1.0.0/24" };

const SETTINGS: &str = "/etc/overlay/overlayd.toml";

const PLUGIN: &str = "/run/docker/plugins/overlayd.sock";

/// How long what systemd begins may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What Docker does first with a driver.
fn activate(machine: &Machine) -> Result<Value> {
    Caller::at(machine.file(PLUGIN)?).call("Plugin.Activate", &json!({}))
}

fn write_settings(machine: &Machine, text: &str) {
    fs::write(machine.file(SETTINGS).unwrap(), text).unwrap();
}

fn settings(cluster: &Cluster) -> String {
    format!("etcd = [\"{}\"]\n", cluster.wire.etcd())
}

/// Whether systemd was told by overlayd that it is ready: until then the unit is not active.
fn wait_active(machine: &Machine) {
    eventually(PATIENCE, || {
        let state = machine.property("overlayd.service", "ActiveState")?;
        ensure!(state == "active", "overlayd.service is {state}");
        Ok(())
    })
    .unwrap();
}

fn start_time(machine: &Machine, unit: &str, name: &str) -> u64 {
    machine.property(unit, name).unwrap().parse().unwrap()
}

/// Everything that a package might leave behind: files, interfaces, pins, tables and filters.
fn inventory(machine: &Machine) -> BTreeSet<String> {
    /// What apt, dpkg and systemd keep for themselves.
    const OTHERS: [&str; 9] = [
        "/run/systemd",
        "/run/netns",
        "/run/log",
        "/tmp",
        "/var/cache",
        "/var/lib/apt",
        "/var/lib/dpkg",
        "/var/log",
        "/var/tmp",
    ];
    let files = machine.run("find / /run /sys/fs/bpf -xdev").unwrap();
    let files = files.lines().filter(|file| !OTHERS.iter().any(|other| file.starts_with(other)));
    let links = machine.run("ip -brief link show").unwrap();
    let links = links.lines().filter_map(|line| line.split_whitespace().next());
    let tables = machine.run("nft list tables").unwrap();
    let filters = ["ingress", "egress"].map(|hook| machine.run(&format!("tc filter show dev eth0 {hook}")));
    let filters = filters.map(Result::unwrap);
    let uplink = machine.run("ip -details link show dev eth0").unwrap();
    let program = uplink.split_whitespace().find(|word| word.starts_with("prog/"));
    let all = files.chain(links).chain(tables.lines()).chain(filters.iter().flat_map(|text| text.lines()));
    all.chain(program).map(str::to_owned).collect()
}

#[test]
fn an_upgrade_loses_nothing_and_a_purge_leaves_nothing() {
    let cluster = Cluster::start(&[Datapath::Tc]).unwrap();
    cluster.create_network(BLUE).unwrap();
    let machine = Machine::boot(&cluster.wire, "sd1").unwrap();
    let before = inventory(&machine);

    machine.install(&package::current().unwrap()).unwrap();
    wait_active(&machine);
    write_settings(&machine, &settings(&cluster));
    machine.run("systemctl restart overlayd").unwrap();
    machine.run("overlayctl status --wait 20").unwrap();
    assert_eq!(machine.property("overlayd.service", "StatusText").unwrap(), "forwarding");

    let containers = [
        Container::attach(&cluster.nodes[0], BLUE.name, "there", &[]).unwrap(),
        Container::attach_by(|words| machine.overlayctl(words), BLUE.name, "here", &[]).unwrap(),
    ];
    ping_all(&containers[0], &containers[1]).unwrap();
    is_upgraded(&machine, &containers);

    machine.run("apt-get remove -y overlayd").unwrap();
    assert!(!machine.file(PLUGIN).unwrap().exists());
    assert_eq!(machine.property("overlayd.service", "ActiveState").unwrap(), "inactive");
    ping_all(&containers[1], &containers[0]).unwrap();

    machine.run("apt-get purge -y overlayd").unwrap();
    let after = inventory(&machine);
    let (left, gone) = (after.difference(&before), before.difference(&after));
    assert_eq!(left.chain(gone).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// What a container's sockets got and could not keep.
fn sockets(container: &Container) -> String {
    let counted = container.netns.exec("grep -E ^(Ip|Udp): /proc/net/snmp").unwrap();
    format!("{}:\n{counted}", container.name)
}

/// Datagrams in both directions, and what Docker asks, while the package is replaced.
fn is_upgraded(machine: &Machine, [there, here]: &[Container; 2]) {
    let socket = || fs::metadata(machine.file(PLUGIN).unwrap()).unwrap().ino();
    let (old_socket, old_daemon) = (socket(), machine.property("overlayd.service", "MainPID").unwrap());
    let over = AtomicBool::new(false);
    let (losses, answers) = thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut answers = 0;
            while !over.load(Ordering::Relaxed) {
                activate(machine)?;
                answers += 1;
                thread::sleep(Duration::from_millis(20));
            }
            anyhow::Ok(answers)
        });
        let flood = |from: &Container, to: &Container| {
            Flood::start(&from.netns, &to.netns, to.addr, Duration::from_millis(1))
        };
        let losses = (|| {
            let floods = [flood(there, here)?, flood(here, there)?];
            thread::sleep(Duration::from_millis(500));
            machine.install(&package::next()?)?;
            thread::sleep(Duration::from_millis(500));
            floods.into_iter().map(Flood::stop).collect::<Result<Vec<_>>>()
        })();
        // Whatever happened: who asks is waited for.
        over.store(true, Ordering::Relaxed);
        (losses, asked.join().unwrap())
    });
    for loss in losses.unwrap() {
        eprintln!("an upgrade under traffic: {loss}");
        assert!(loss.sent > 500, "the flood was a trickle: {loss}");
        let seen = || machine.run("overlayctl status").unwrap() + &sockets(there) + &sockets(here);
        assert_eq!(loss.lost(), 0, "{loss}\n{}", seen());
    }
    let answers = answers.unwrap();
    eprintln!("an upgrade under traffic: Docker asked and was answered {answers} times");
    assert!(answers > 10);
    wait_active(machine);
    let version = machine.run("dpkg-query --show --showformat=${Version} overlayd").unwrap();
    assert!(version.ends_with("+next"), "{version}");
    assert_ne!(machine.property("overlayd.service", "MainPID").unwrap(), old_daemon);
    assert_eq!(socket(), old_socket, "systemd held it all the while");
    let restarts = machine.property("overlayd.service", "NRestarts").unwrap();
    assert_eq!(restarts, "0", "the new daemon did not start at once");
}

#[test]
fn docker_waits_for_no_daemon_that_is_away() {
    let cluster = Cluster::empty().unwrap();
    let mut machine = Machine::boot(&cluster.wire, "sd2").unwrap();
    // As it is installed it finds no etcd: that keeps neither systemd nor Docker.
    machine.install(&package::current().unwrap()).unwrap();
    activate(&machine).unwrap();
    wait_active(&machine);
    let settings = settings(&cluster);
    write_settings(&machine, &settings);

    machine.reboot().unwrap();
    wait_active(&machine);
    let listens = start_time(&machine, "overlayd.socket", "ActiveEnterTimestampMonotonic");
    let runs = start_time(&machine, "overlayd.service", "ExecMainStartTimestampMonotonic");
    assert!(
        0 < listens && listens <= runs,
        "the socket listens at {listens}, overlayd was started at {runs}"
    );
    let order = ["Before", "After"].map(|name| machine.property("overlayd.service", name).unwrap());
    assert!(!order.concat().contains("docker"), "dockerd waits for overlayd, or overlayd for it: {order:?}");
    assert!(machine.property("overlayd.socket", "Before").unwrap().contains("docker.service"));

    // One that does not run is started by who asks, and answers.
    machine.run("systemctl stop overlayd.service").unwrap();
    let answer = activate(&machine).unwrap();
    assert_eq!(answer, json!({ "Implements": ["NetworkDriver", "IpamDriver"] }));
    wait_active(&machine);

    cannot_start(&machine, &settings);
    serves_no_docker(&machine, &settings);
    has_a_socket_of_its_own(&machine);
}

/// A daemon that ends at each start keeps nobody, and answers once it can start.
fn cannot_start(machine: &Machine, settings: &str) {
    write_settings(machine, "no-such-setting = 1\n");
    // It fails, as it should.
    let _ = machine.run("systemctl restart overlayd.service");
    for _ in 0..3 {
        let begin = Instant::now();
        let refused = activate(machine).unwrap_err();
        let took = begin.elapsed();
        eprintln!(
            "overlayd does not start: who asks has this after {:.1} s: {refused:#}",
            took.as_secs_f32()
        );
        assert!(took < Duration::from_secs(8), "{took:?}: {refused:#}");
        assert!(format!("{refused:#}").contains("no-such-setting"), "Docker does not say why: {refused:#}");
    }
    // One that cannot even say why.
    let program = machine.file("/usr/sbin/overlayd").unwrap();
    let aside = program.with_extension("aside");
    fs::rename(&program, &aside).unwrap();
    let begin = Instant::now();
    let refused = eventually(PATIENCE, || match activate(machine).unwrap_err().to_string() {
        told if told.contains("no-such-setting") => anyhow::bail!("it still runs"),
        closed => Ok(closed),
    });
    eprintln!(
        "overlayd is gone: who asks has this after {:.1} s: {}",
        begin.elapsed().as_secs_f32(),
        refused.unwrap()
    );
    fs::rename(&aside, &program).unwrap();
    assert_eq!(machine.property("overlayd.socket", "ActiveState").unwrap(), "active");
    write_settings(machine, settings);
    eventually(PATIENCE, || activate(machine)).unwrap();
    wait_active(machine);
}

/// A daemon that is told not to serve Docker says so to who asks.
fn serves_no_docker(machine: &Machine, settings: &str) {
    write_settings(machine, &format!("{settings}docker-plugin = \"none\"\n"));
    machine.run("systemctl restart overlayd.service").unwrap();
    let refused = activate(machine).unwrap_err().to_string();
    assert!(refused.contains("--docker-plugin"), "{refused}");
    write_settings(machine, settings);
    machine.run("systemctl restart overlayd.service").unwrap();
    activate(machine).unwrap();
}

/// Without the socket unit, or without its file, overlayd listens itself.
fn has_a_socket_of_its_own(machine: &Machine) {
    let file = machine.file(PLUGIN).unwrap();
    fs::remove_file(&file).unwrap();
    eventually(PATIENCE, || activate(machine)).unwrap();
    machine.run("systemctl stop overlayd.socket overlayd.service").unwrap();
    assert!(!file.exists());
    machine.run("systemctl start overlayd.service").unwrap();
    eventually(PATIENCE, || activate(machine)).unwrap();
    machine.run("systemctl stop overlayd.service").unwrap();
    assert!(!file.exists());
}

/// dockerd itself, which has a container on an overlay to start at boot.
#[test]
#[ignore = "boots a machine with Docker: cargo xtask test --full"]
fn dockerd_boots_beside_a_daemon_that_does_not_start() {
    let cluster = Cluster::empty().unwrap();
    let mut machine = Machine::boot(&cluster.wire, "sd3").unwrap();
    machine.install(&package::current().unwrap()).unwrap();
    write_settings(&machine, &settings(&cluster));
    machine.run("systemctl restart overlayd").unwrap();
    machine.run("systemctl enable --now docker.service").unwrap();
    let image = "mkdir -p /tmp/box/bin; cp /bin/busybox /tmp/box/bin/sleep; tar -C /tmp/box -c . | docker import - box";
    exec::output(machine.command("sh").unwrap().args(["-c", image])).unwrap();
    let create = "docker network create -d overlayd --ipam-driver overlayd --subnet 10.9.0.0/24 blue";
    machine.run(create).unwrap();
    machine.run("docker run -d --name web --restart always --network blue box sleep 10000").unwrap();

    // Containers leave their networks before overlayd ends.
    let took = machine.shut_down().unwrap();
    eprintln!("a machine with a container on an overlay was shut down in {:.1} s", took.as_secs_f32());
    let left = Etcd::ctl(&cluster.wire, &["get", "--prefix", "/overlay/v1/default/endpoints/"]).unwrap();
    assert_eq!(left, "", "the container did not leave");
    machine.start().unwrap();
    let took = docker_took(&machine);
    eprintln!("dockerd beside overlayd was ready in {:.1} s", took.as_secs_f32());
    is_up(&machine);

    write_settings(&machine, "no-such-setting = 1\n");
    machine.reboot().unwrap();
    let took = docker_took(&machine);
    eprintln!("dockerd beside an overlayd that does not start was ready in {:.1} s", took.as_secs_f32());
    assert!(took < Duration::from_secs(30));
    assert_ne!(machine.property("overlayd.service", "ActiveState").unwrap(), "active");
    write_settings(&machine, &settings(&cluster));
    wait_active(&machine);
    machine.run("docker start web").unwrap();
    is_up(&machine);
}

/// How long dockerd took to be ready.
fn docker_took(machine: &Machine) -> Duration {
    let at = |name| start_time(machine, "docker.service", name);
    eventually(Duration::from_secs(100), || {
        ensure!(machine.property("docker.service", "ActiveState")? == "active", "dockerd is not ready");
        Ok(())
    })
    .unwrap();
    Duration::from_micros(at("ActiveEnterTimestampMonotonic") - at("InactiveExitTimestampMonotonic"))
}

fn is_up(machine: &Machine) {
    eventually(PATIENCE, || {
        let state = machine.run("docker inspect --format {{.State.Running}}-{{.State.Error}} web")?;
        ensure!(state.trim() == "true-", "web: {state}");
        machine.run("docker exec web sleep 0").map(drop)
    })
    .unwrap();
}
