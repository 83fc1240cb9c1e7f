//! The node's daemon.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use overlay_user::{
    cli::parse_or_exit,
    config::{CommandLine, Config},
    daemon::{self, DaemonError},
    docker,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    match run(parse_or_exit()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "overlayd: {error:#}");
            // An uplink may come the next moment: Docker, which is not told, tries again.
            if !matches!(error.downcast_ref(), Some(DaemonError::Underlay(_))) {
                docker::tell_who_waits(&format!("{error:#}")).await;
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(CommandLine { config, purge, options }: CommandLine) -> anyhow::Result<()> {
    let file = config.as_deref().map(Config::read_file).transpose()?.unwrap_or_default();
    let config = Config::new(options.or(file), std::env::var("OVERLAY_ETCD_PASSWORD").ok())?;
    let filter = EnvFilter::try_new(&config.log).with_context(|| {
        format!("--log {:?}: give a filter as info or info,overlay_user=debug", config.log)
    })?;
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    if purge {
        return Ok(daemon::purge(&config).await?);
    }
    let cancel = CancellationToken::new();
    tokio::spawn(cancel_on_signal(cancel.clone())?);
    daemon::run(config, cancel).await?;
    Ok(())
}

/// Cancels at the first SIGTERM or SIGINT, and ends the process at the second.
fn cancel_on_signal(cancel: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    Ok(async move {
        tracing::info!("{}: stopping; forwarding goes on", next().await);
        cancel.cancel();
        tracing::warn!("{} again: not waiting for what is under way", next().await);
        std::process::exit(1);
    })
}
