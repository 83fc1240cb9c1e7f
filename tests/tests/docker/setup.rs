//! `overlayctl docker setup` beside a dockerd that reads what it writes, and is restarted by it.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    thread,
};

use anyhow::{Context as _, ensure};
use overlay_tests::{
    docker::{DockerCluster, DockerNode, IMAGE, Release},
    exec::{self, eventually},
    node::program,
};

use crate::stage::{HEARD, can, create};

const NET: &str = "calm";
const SERVE: [&str; 4] = ["httpd", "-f", "-h", "/www"];

/// It as it is run beside dockerd: with its processes and its /etc/docker.
fn command(node: &DockerNode, more: &[&str]) -> Command {
    let program = program("overlayctl").unwrap();
    let mut command = node.docker.space().command(&program.to_string_lossy());
    command.args(["docker", "setup", "--docker", &node.docker.host()]).args(more);
    command
}

fn set_up(node: &DockerNode, more: &[&str]) -> Output {
    exec::run(&mut command(node, more)).unwrap()
}

/// Requires that it is done, and returns what it says.
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Requires that it is not done, and returns why.
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it with a command that has the lab restart dockerd, as a machine's own supervisor would.
fn restarted(node: &mut DockerNode) -> Output {
    let sign = std::env::temp_dir().join(node.docker.unique()).join("restart");
    let shown = sign.display();
    let restart = format!("touch {shown} && while [ -e {shown} ]; do sleep 0.1; done");
    let mut setup = command(node, &["--restart-by", &restart]);
    let running = thread::spawn(move || exec::run(&mut setup).unwrap());
    eventually(HEARD, || {
        ensure!(!running.is_finished(), "it did not ask for a restart");
        fs::metadata(&sign).context("it did not ask for a restart yet")
    })
    .unwrap();
    node.docker.stop().unwrap();
    node.docker.launch().unwrap();
    node.docker.wait_ready().unwrap();
    fs::remove_file(&sign).unwrap();
    running.join().unwrap()
}

fn settings(node: &DockerNode) -> PathBuf {
    node.docker.space().file("/etc/docker/daemon.json")
}

fn sets_up(release: Release) {
    let mut cluster = DockerCluster::start(&[release; 2], &[]).unwrap();
    let (node, others) = cluster.nodes.split_first_mut().unwrap();
    let other = &others[0];
    in_a_swarm_containers_are_left_to_end(node);
    create(other, NET, &["--subnet", "10.0.9.0/24"]);
    other.docker.run("web", NET, &[], &SERVE).unwrap();
    node.docker.idle("old", "bridge", &[]).unwrap();
    let began = node.docker.inspect("old", ".State.StartedAt").unwrap();

    let said = done(&set_up(node, &[]));
    for part in ["\"dns\" is 169.254.53.53 now", "\"live-restore\" is true now", "must be restarted once"] {
        assert!(said.contains(part), "{said}");
    }
    let said = done(&set_up(node, &[]));
    assert!(said.contains("nothing to change") && said.contains("must be restarted once"), "{said}");
    let said = refused(&set_up(node, &["--restart-by", "echo nobody does that >&2; exit 3"]));
    assert!(said.contains("as it should be") && said.contains("says: nobody does that"), "{said}");

    let said = done(&restarted(node));
    assert!(said.contains("nothing to change") && said.contains("dockerd was restarted"), "{said}");
    // What ran runs on, and what is started asks us for names.
    assert_eq!(node.docker.inspect("old", ".State.StartedAt").unwrap(), began);
    node.docker.exec("old", "true").unwrap();
    let asked = node.docker.docker(&["run", "--rm", IMAGE, "cat", "/etc/resolv.conf"]).unwrap();
    assert!(asked.contains("nameserver 169.254.53.53"), "{asked}");
    node.docker.idle("new", NET, &[]).unwrap();
    can(node, "new", "timeout 5 wget -q -O /dev/null http://web");
    // Once is enough.
    let said = done(&set_up(node, &["--restart-by", "exit 3"]));
    assert!(said.contains("nothing to change") && !said.contains("restarted"), "{said}");

    // Both at once, with what others have set.
    fs::write(settings(node), "{\"dns\": [\"10.99.0.254\"], \"live-restore\": true}").unwrap();
    let said = done(&restarted(node));
    assert!(
        said.contains("is 169.254.53.53 now, before 10.99.0.254") && said.contains("was restarted"),
        "{said}"
    );
    assert_eq!(node.docker.inspect("old", ".State.StartedAt").unwrap(), began);
    node.docker.docker(&["rm", "-f", "old", "new"]).unwrap();
    other.docker.docker(&["rm", "-f", "web"]).unwrap();
}

/// A dockerd in a Swarm does not start with live-restore.
fn in_a_swarm_containers_are_left_to_end(node: &DockerNode) {
    let addr = node.node.addr().to_string();
    node.docker.docker(&["swarm", "init", "--advertise-addr", &addr]).unwrap();
    let said = refused(&set_up(node, &["--restart-by", "exit 3"]));
    assert!(said.contains("in a Swarm"), "{said}");
    let text = fs::read_to_string(settings(node)).unwrap();
    assert!(text.contains("169.254.53.53") && !text.contains("live-restore"), "{text}");
    node.docker.docker(&["swarm", "leave", "--force"]).unwrap();
    fs::remove_file(settings(node)).unwrap();
}

#[test]
fn the_newest_docker_is_set_up_and_restarted_and_its_containers_run_on() {
    sets_up(Release::Newest);
}

#[test]
#[ignore = "the same with Docker 20.10: cargo xtask test --full"]
fn docker_20_10_is_set_up_and_restarted_and_its_containers_run_on() {
    sets_up(Release::V20_10);
}
