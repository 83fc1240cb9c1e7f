//! What the tests do with nodes again and again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    docker::{DockerNode, IMAGE},
    exec::eventually,
};
use serde_json::Value;

/// Where the resolver of every container is.
pub const RESOLVER: [&str; 2] = ["--dns", "169.254.53.53"];

/// How long a change may take to reach another dockerd on a busy machine.
pub const HEARD: Duration = Duration::from_secs(15);

/// Makes a network by `docker network create`.
pub fn create(node: &DockerNode, name: &str, more: &[&str]) {
    let create = ["network", "create", "-d", "overlayd", "--ipam-driver", "overlayd"];
    node.docker.docker(&[&create[..], more, &[name]].concat()).unwrap();
}

/// Waits until a Docker has a network with a subnet.
pub fn has(node: &DockerNode, network: &str, subnet: &str) {
    eventually(HEARD, || {
        let subnets = node.docker.inspect(network, "range .IPAM.Config}}{{.Subnet}} {{end")?;
        ensure!(subnets.contains(subnet), "{}: {network} has {subnets}and not {subnet}", node.name());
        Ok(())
    })
    .unwrap();
}

/// Waits until a Docker has a network no more.
pub fn has_not(node: &DockerNode, network: &str) {
    eventually(HEARD, || {
        let listed = node.docker.docker(&["network", "ls", "--format", "{{.Name}}"])?;
        ensure!(listed.lines().all(|line| line != network), "{} still has {network}", node.name());
        Ok(())
    })
    .unwrap();
}

/// When a Docker created a network, by its own event, which comes after the network.
pub fn created(node: &DockerNode, network: &str) -> Result<Duration> {
    let wanted = format!(" create {network}");
    eventually(HEARD, || {
        let until = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64().to_string();
        let events = ["events", "--since", "1", "--until", &until, "--filter", "type=network"];
        let format = "{{.TimeNano}} {{.Action}} {{.Actor.Attributes.name}}";
        let printed = node.docker.docker(&[&events[..], &["--format", format]].concat())?;
        let nanoseconds = printed.lines().find_map(|line| line.strip_suffix(&wanted));
        let told = nanoseconds.with_context(|| format!("{}: no event tells of {network}", node.name()))?;
        Ok(Duration::from_nanos(told.parse()?))
    })
}

/// Runs a command in a container of its own and returns what it printed.
pub fn once(node: &DockerNode, network: &str, more: &[&str], line: &str) -> Result<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    node.docker.docker(&[&["run", "--rm", "--network", network], more, &[IMAGE], &words].concat())
}

/// Waits until a container can do something.
pub fn can(node: &DockerNode, container: &str, line: &str) {
    eventually(HEARD, || node.docker.exec(container, line)).unwrap();
}

/// Waits until a container cannot do something any more.
pub fn cannot(node: &DockerNode, container: &str, line: &str) {
    eventually(HEARD, || {
        let done = node.docker.exec(container, line);
        ensure!(done.is_err(), "{container} still can: {line}");
        Ok(())
    })
    .unwrap();
}

/// What a node knows of a network's endpoints.
pub fn endpoints(node: &DockerNode, network: &str) -> Result<Vec<Value>> {
    let listed = node.node.json(&["endpoint", "ls"])?;
    let all = listed.as_array().context("endpoint ls printed no list")?;
    Ok(all.iter().filter(|endpoint| endpoint["network"] == network).cloned().collect())
}

/// Waits until as many endpoints are in a network.
pub fn has_endpoints(node: &DockerNode, network: &str, count: usize) {
    eventually(HEARD, || {
        let found = endpoints(node, network)?;
        ensure!(found.len() == count, "{} of {count}: {found:?}", found.len());
        Ok(())
    })
    .unwrap();
}
