//! The operator's tool.

use std::process::ExitCode;

use overlay_user::cli::{Cli, parse_or_exit};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    parse_or_exit::<Cli>().run().await
}
