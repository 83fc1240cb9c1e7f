//! The lab's dockerds by themselves, as they are without a plugin.

use std::{fs, path::Path};

use overlay_tests::{
    docker::{Dockerd, IMAGE, Release, World},
    netns::Netns,
    wire::{Card, Wire},
};

/// Names of directories that begin with the lab's name for them.
fn left_in(dir: &str, names: &[String]) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let found = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    found.filter(|found| names.iter().any(|name| found.contains(name))).collect()
}

#[test]
fn dockers_of_both_versions_run_beside_each_other_and_leave_nothing() {
    let wire = Wire::new().unwrap();
    let world = World::new(&wire).unwrap();
    let mut nodes = Vec::new();
    for (release, name) in Release::ALL.into_iter().zip(["old", "new"]) {
        let netns = Netns::new(name).unwrap();
        let port = wire.plug(&netns, Card::Veth).unwrap();
        let mut docker = Dockerd::place(&netns, name, release, &["--live-restore"]).unwrap();
        docker.launch().unwrap();
        nodes.push((docker, port, netns));
    }
    for (docker, port, netns) in &mut nodes {
        docker.wait_ready().unwrap();
        docker.import().unwrap();
        docker.run("web", "bridge", &["-p", "8080:80"], &["httpd", "-f", "-h", "/www"]).unwrap();
        docker.exec("web", &world.ask()).unwrap();
        let url = format!("http://{}:8080", port.addr);
        assert_eq!(world.get(&url).unwrap(), "it works\n");
        let inside = docker.netns("web").unwrap();
        assert!(inside.exec("ip -brief address").unwrap().contains("172.17.0.2"));
        // Containers outlive their dockerd, and the next one knows them.
        docker.kill().unwrap();
        assert_eq!(world.get(&url).unwrap(), "it works\n");
        docker.launch().unwrap();
        docker.wait_ready().unwrap();
        assert_eq!(docker.inspect("web", ".State.Running").unwrap(), "true");
        assert_eq!(docker.exec("web", "cat /www/index.html").unwrap(), "it works");
        docker.docker(&["run", "--rm", IMAGE, "true"]).unwrap();
        assert!(!netns.exec("ip -brief link show docker0").unwrap().is_empty());
    }
    let names: Vec<_> = nodes.iter().map(|(docker, ..)| docker.unique().to_owned()).collect();
    drop(nodes);
    for dir in ["/tmp", "/var/lib", "/run", "/sys/fs/cgroup", "/sys/fs/cgroup/memory"] {
        assert_eq!(left_in(dir, &names), Vec::<String>::new(), "in {dir}");
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("/run/docker"), "{mounts}");
    assert!(!Path::new("/run/docker/netns").exists());
}
