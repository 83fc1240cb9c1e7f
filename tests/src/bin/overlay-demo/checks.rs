//! What must hold.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    container::Container,
    exec::uninterrupted,
    netns::{self, Netns},
    node::Node,
    probe::{self, Flood, Loss},
};

use crate::stage::{NETWORKS, Stage, first, pairs, ping_pairs};

/// What is moved by TCP.
const BYTES: u64 = 100_000_000;

/// Where containers answer the question who they are.
const WHO_PORT: u16 = 7;

/// Pings all pairs of both networks, the networks at the same time.
pub fn ping(stage: &Stage) -> Result<String> {
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = stage.containers.iter().map(|c| scope.spawn(move || ping_pairs(c))).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let (mut count, mut answers) = (0, 0);
    for (network, result) in NETWORKS.iter().zip(results) {
        let (pairs, received) = result.ok().context("a thread panicked")??;
        println!("    {}: {pairs} pairs, {received} of {received} packets answered", network.name);
        (count, answers) = (count + pairs, answers + received);
    }
    Ok(format!("{count} pairs, {answers} packets, 0 lost"))
}

/// Moves [`BYTES`] from each node to the next.
pub fn transfers(stage: &Stage) -> Result<String> {
    let nodes = &stage.cluster.nodes;
    let mut rates = Vec::new();
    for index in 0..nodes.len() {
        let (from, to) = (stage.first(0, index), stage.first(0, (index + 1) % nodes.len()));
        let done = probe::transfer(&from.netns, &to.netns, to.addr, BYTES)
            .with_context(|| format!("from {} to {}", from.name, to.name))?;
        let rate = done.mbit_per_second();
        println!("    {} to {}: {rate:.0} Mbit/s, sha256 {}", from.name, to.name, done.sha256);
        rates.push(format!("{rate:.0}"));
    }
    Ok(format!("{} transfers, sha256 equal, {} Mbit/s", rates.len(), rates.join(", ")))
}

/// Every address answers for its own network, and an address that only one network has does not
/// answer in the other.
pub fn isolation(stage: &Stage) -> Result<String> {
    let mut asked = 0;
    let over = Arc::new(AtomicBool::new(false));
    let servers: Vec<_> =
        stage.containers.iter().flatten().map(|c| answer_who(c, &over)).collect::<Result<_>>()?;
    for containers in &stage.containers {
        for (from, to) in pairs(containers) {
            let who = ask_who(&from.netns, to.addr)?;
            ensure!(who == to.name, "{} asked {} and got an answer from {who}", from.name, to.addr);
            asked += 1;
        }
    }
    over.store(true, Ordering::Relaxed);
    for server in servers {
        netns::join(server)?;
    }
    println!(
        "    {asked} times somebody answered whose address the other network has too: always the right one"
    );

    let (node, [blue, red]) = (&stage.cluster.nodes[0], NETWORKS);
    let single = Container::attach(node, red.name, "red-only", &["--ip", "10.10.0.99"])?;
    let reached = probe::ping(&stage.first(1, 1).netns, single.addr, 3, &[])?.received;
    let crossed = probe::ping(&stage.first(0, 1).netns, single.addr, 3, &[])?.received;
    ensure!(crossed == 0, "{} reaches {} of {}", blue.name, single.addr, red.name);
    ensure!(reached > 0, "{} does not reach its own {}", red.name, single.addr);
    println!("    {} answers in {}, and not in {}", single.addr, red.name, blue.name);
    node.ctl(&["endpoint", "detach", &single.id])?;
    Ok(format!("{asked} answers from the right twin, 0 across"))
}

/// Kills each node's daemon under traffic, and starts it again.
pub fn kill(stage: &mut Stage) -> Result<String> {
    let mut total = 0;
    let Stage { cluster, containers: [blue, _] } = stage;
    let count = cluster.nodes.len();
    for (index, node) in cluster.nodes.iter_mut().enumerate() {
        let (from, to) = (first(blue, index), first(blue, (index + 1) % count));
        let Loss { sent, received } = kill_under_flood(node, from, to)?;
        let lost = sent - received;
        println!("    {}: {sent} packets there and back, {lost} lost", node.name());
        ensure!(lost == 0, "{lost} of {sent} packets lost when the daemon of {} was killed", node.name());
        total += sent;
    }
    Ok(format!("{total} packets, 0 lost, all daemons healthy again"))
}

fn kill_under_flood(node: &mut Node, from: &Container, to: &Container) -> Result<Loss> {
    let flood = Flood::start(&from.netns, &to.netns, to.addr, Duration::from_micros(500))?;
    thread::sleep(Duration::from_millis(500));
    node.kill()?;
    thread::sleep(Duration::from_secs(1));
    let restarted = node.launch().and_then(|()| node.wait_ready());
    let loss = flood.stop()?;
    restarted?;
    Ok(loss)
}

/// Has a container answer datagrams with its name until it is over.
fn answer_who(container: &Container, over: &Arc<AtomicBool>) -> Result<JoinHandle<Result<()>>> {
    let (name, addr, over) = (container.name.clone(), container.addr, Arc::clone(over));
    let socket = container.netns.run(move || Ok(UdpSocket::bind((addr, WHO_PORT))?))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            if let Ok((_, asker)) = socket.recv_from(&mut [0; 16]) {
                socket.send_to(name.as_bytes(), asker)?;
            }
        }
        Ok(())
    }))
}

fn ask_who(from: &Netns, addr: Ipv4Addr) -> Result<String> {
    from.run(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect((addr, WHO_PORT))?;
        socket.send(b"who?")?;
        let mut name = [0; 64];
        let length = uninterrupted(|| socket.recv(&mut name))
            .with_context(|| format!("{addr} does not say who it is"))?;
        Ok(String::from_utf8_lossy(&name[..length]).into_owned())
    })
}
