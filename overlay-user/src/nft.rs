//! Running `nft`, in the network namespace of the thread: no shell, scripts on its standard input.

use std::{io, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// Where the program may be: daemons do not always have the `sbin` directories in their PATH.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];
/// No update takes as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why nftables did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is not there.
    #[error("nft is not installed: install nftables")]
    Missing,
    /// The program could not be run to its end.
    #[error("nft: {0}")]
    Io(#[from] io::Error),
    /// The program refused; its first words.
    #[error("nft: {0}")]
    Refused(String),
    /// The program took too long.
    #[error("nft did not end within {} s", PATIENCE.as_secs())]
    Stuck,
    /// An interface has a name that cannot stand in a script.
    #[error("interface {0:?} has a name that nft cannot be told: rename it")]
    Name(String),
}

/// Runs a script, as one transaction.
///
/// # Errors
/// If it was not run.
pub async fn run(script: &str) -> Result<(), NftError> {
    call(&["-f", "-"], script).await.map(|_| ())
}

/// Runs `nft` with `arguments` and `input`, and returns what it printed.
///
/// # Errors
/// If it did not succeed.
pub async fn call(arguments: &[&str], input: &str) -> Result<Vec<u8>, NftError> {
    let mut child = PROGRAMS.iter().find_map(|program| match spawn(program, arguments) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other),
    });
    let child = child.take().ok_or(NftError::Missing)?;
    let mut child = child?;
    let mut stdin = child.stdin.take();
    let talk = async {
        let write = async {
            let result = match &mut stdin {
                Some(stdin) => stdin.write_all(input.as_bytes()).await,
                None => Ok(()),
            };
            stdin = None;
            match result {
                // It ended without reading: what it printed says why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                other => other,
            }
        };
        tokio::try_join!(write, child.wait_with_output()).map(|((), output)| output)
    };
    let output = timeout(PATIENCE, talk).await.map_err(|_| NftError::Stuck)??;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed without a word");
    Err(NftError::Refused(first.chars().take(300).collect()))
}

fn spawn(program: &str, arguments: &[&str]) -> io::Result<tokio::process::Child> {
    Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}
