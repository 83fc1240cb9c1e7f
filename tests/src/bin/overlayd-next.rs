//! The daemon as a later version will be: all it differs in is the schema of its maps. For tests of what
//! becomes of packets when a node's daemon is replaced by one that reads other maps.

use anyhow::Result;
use clap::Parser;
use overlay_user::{
    config::{Config, Options},
    daemon,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// overlayd with a later schema of maps
#[derive(Debug, Parser)]
struct Cli {
    /// How many schemas later
    #[arg(long, value_name = "N", default_value_t = 1)]
    schemas_later: u32,

    #[command(flatten)]
    options: Options,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Cli { schemas_later, options } = Cli::parse();
    let mut config = Config::new(options, None)?;
    config.map_schema += schemas_later;
    tracing_subscriber::fmt().with_env_filter(&config.log).with_ansi(false).init();
    let cancel = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn({
        let cancel = cancel.clone();
        async move {
            terminate.recv().await;
            cancel.cancel();
        }
    });
    Ok(daemon::run(config, cancel).await?)
}
