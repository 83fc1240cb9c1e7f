//! `overlayctl`: one request to the daemon for each command, shown as a table or as JSON.

mod args;
mod docker;
mod doctor;
mod endpoint;
mod import;
mod network;
mod node;
mod output;
mod port;
mod repair;
mod status;
mod usage;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

pub use args::Cli;
use args::{
    AttachArgs, Command, DockerCommand, EndpointCommand, ImportCommand, NetworkCommand, NodeCommand,
    PortArgs, PortCommand, RepairArgs,
};
use docker::SetupError;
use import::ImportError;
use output::Output;
pub use usage::parse_or_exit;

use crate::api::{
    AddStaticEndpoint, AddStaticNode, Attach, AttachPort, Client, ClientError, CreateNetwork, DrainNode,
    Examine, Health, Named, Namespace, SetNetwork, Status,
};

/// Exit code: what was asked for failed, or the node is degraded.
const FAILED: u8 = 1;

/// Exit code: no daemon answers as it should, or the command line makes no sense.
const DOWN: u8 = 2;

/// How often `status --wait` looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl Cli {
    /// Does what was asked for and prints the result.
    pub async fn run(self) -> ExitCode {
        let client = Client::new(self.socket);
        let output = Output::new(self.output);
        match dispatch(self.command, &client, &output).await {
            // What nobody could read was not done.
            Ok(ExitCode::SUCCESS) if !output.was_shown() => ExitCode::from(FAILED),
            Ok(code) => code,
            Err(error) => {
                output::complain(&error.to_string());
                ExitCode::from(error.code())
            }
        }
    }
}

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// The daemon did not do it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// dockerd's settings are not as they should be.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A network was not made like another.
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl CommandError {
    /// The exit code.
    const fn code(&self) -> u8 {
        match self {
            Self::Client(error) | Self::Import(ImportError::Client(error)) => match error {
                ClientError::Refused(_) => FAILED,
                ClientError::NotRunning { .. }
                | ClientError::Forbidden { .. }
                | ClientError::Overdue { .. }
                | ClientError::Garbled { .. } => DOWN,
            },
            Self::Setup(_) | Self::Import(_) => FAILED,
        }
    }
}

async fn dispatch(command: Command, client: &Client, output: &Output) -> Result<ExitCode, CommandError> {
    match command {
        Command::Network(command) => Ok(network_command(command, client, output).await?),
        Command::Endpoint(command) => Ok(endpoint_command(command, client, output).await?),
        Command::Port(command) => Ok(port_command(command, client, output).await?),
        Command::Node(command) => Ok(node_command(command, client, output).await?),
        Command::Docker(DockerCommand::Setup(args)) => {
            output.show(&docker::set_up(args).await?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Import(ImportCommand::Docker(args)) => {
            output.show(&vec![import::docker(args, client).await?]);
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor { fix } => {
            let report = client.examine(&Examine { fix }).await?;
            output.show(&report);
            Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
        }
        Command::Repair(RepairArgs { republish: _ }) => {
            let done = client.republish().await?;
            output.show(&done);
            Ok(if done.conflicts.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
        }
        Command::Status { wait } => {
            let status = status_within(client, Duration::from_secs(wait.unwrap_or(0))).await?;
            output.show(&status);
            Ok(match status.health {
                Health::Healthy => ExitCode::SUCCESS,
                Health::Degraded => ExitCode::from(FAILED),
            })
        }
    }
}

async fn network_command(
    command: NetworkCommand,
    client: &Client,
    output: &Output,
) -> Result<ExitCode, ClientError> {
    match command {
        NetworkCommand::Create(args) => {
            let request = CreateNetwork {
                name: args.name,
                subnets: args.subnets,
                gateways: args.gateways,
                ip_ranges: args.ip_ranges,
                vni: args.vni.map(crate::Vni::get),
                mtu: args.settings.mtu,
                internal: args.internal,
                policy: args.settings.policy(),
                allow_overlap: args.allow_overlap,
                aux: args.aux.into_iter().collect(),
            };
            output.show(&vec![client.create_network(&request).await?]);
        }
        NetworkCommand::Ls => output.show(&client.networks().await?),
        NetworkCommand::Inspect { name } => output.show(&client.network(&name).await?),
        NetworkCommand::Set { name, settings } => {
            let request = SetNetwork { mtu: settings.mtu, policy: settings.policy() };
            output.show(&vec![client.set_network(&name, &request).await?]);
        }
        NetworkCommand::Rm { names } => {
            let mut removed = Vec::new();
            for name in &names {
                removed.push(client.remove_network(name).await);
            }
            return each(removed, output);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn endpoint_command(
    command: EndpointCommand,
    client: &Client,
    output: &Output,
) -> Result<ExitCode, ClientError> {
    match command {
        EndpointCommand::Attach(AttachArgs { network, place, ifname, ips, mac, names, delivery }) => {
            let netns = match (place.netns, place.pid) {
                (Some(netns), _) => Namespace::Path(netns),
                (None, pid) => Namespace::Pid(pid.unwrap_or_else(std::process::id)),
            };
            let request = Attach { network, netns, ifname, ips, mac, names, delivery };
            output.show(&client.attach(&request).await?);
        }
        EndpointCommand::Detach { endpoints } => {
            let mut detached = Vec::new();
            for endpoint in &endpoints {
                detached.push(client.detach(endpoint).await);
            }
            return each(detached, output);
        }
        EndpointCommand::Ls { network } => output.show(&client.endpoints(network.as_ref()).await?),
        EndpointCommand::Inspect { endpoint } => output.show(&client.endpoint(&endpoint).await?),
        EndpointCommand::AddStatic { network, node, ips, mac, names } => {
            let request = AddStaticEndpoint { network, node, ips, mac, names };
            output.show(&vec![client.add_static_endpoint(&request).await?]);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn port_command(
    command: PortCommand,
    client: &Client,
    output: &Output,
) -> Result<ExitCode, ClientError> {
    match command {
        PortCommand::Attach(PortArgs { network, device, max_macs, age, datapath }) => {
            let request = AttachPort { network, device, max_macs, age, datapath };
            output.show(&vec![client.attach_port(&request).await?]);
        }
        PortCommand::Ls => output.show(&client.ports().await?),
        PortCommand::Detach { ports } => {
            let mut detached = Vec::new();
            for port in &ports {
                detached.push(client.detach_port(port).await);
            }
            return each(detached, output);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn node_command(
    command: NodeCommand,
    client: &Client,
    output: &Output,
) -> Result<ExitCode, ClientError> {
    match command {
        NodeCommand::Ls => output.show(&client.nodes().await?),
        NodeCommand::AddStatic { name, vtep, port } => {
            output.show(&vec![client.add_static_node(&AddStaticNode { name, vtep, port }).await?]);
        }
        NodeCommand::Drain { name, withdraw, undo } => {
            output.show(&client.drain_node(&name, DrainNode { drained: !undo, withdraw }).await?);
        }
        NodeCommand::Rm { name } => output.show(&vec![client.remove_node(&name).await?]),
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what was done, complains about what was not. One failure does not keep the others from
/// being tried; nobody listening does.
fn each(results: Vec<Result<Named, ClientError>>, output: &Output) -> Result<ExitCode, ClientError> {
    let mut done = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for result in results {
        match result {
            Ok(named) => done.push(named),
            Err(error @ ClientError::NotRunning { .. }) => return Err(error),
            Err(error) => {
                output::complain(&error.to_string());
                code = ExitCode::from(FAILED);
            }
        }
    }
    output.show(&done);
    Ok(code)
}

/// The status, as soon as it is healthy, or what it is when the time is over.
async fn status_within(client: &Client, patience: Duration) -> Result<Status, ClientError> {
    let end = Instant::now() + patience;
    loop {
        let status = client.status().await;
        let healthy = status.as_ref().is_ok_and(|status| status.health == Health::Healthy);
        if healthy || Instant::now() >= end {
            return status;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests;
