//! Running `nft`: no shell, scripts on its standard input, listings as JSON.

use std::{io, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use super::Family;

/// Where the program may be: daemons do not always have the `sbin` directories in their PATH.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];
/// No update takes as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why nftables did not do it.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum NftError {
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
pub(super) async fn run(script: &str) -> Result<(), NftError> {
    call(&["-f", "-"], script).await.map(|_| ())
}

/// The objects of the tables called `table`; none if there are no such tables.
pub(super) async fn list(table: &str) -> Result<Vec<Value>, NftError> {
    per_family(&["-j", "list", "table"], table).await
}

/// The counters of the tables called `table`.
pub(super) async fn counters(table: &str) -> Result<Vec<Value>, NftError> {
    per_family(&["-j", "list", "counters", "table"], table).await
}

/// The chains of every IPv4 table: of families `ip` and `inet`.
pub(super) async fn chains() -> Result<Vec<Value>, NftError> {
    let mut chains = Vec::new();
    for family in ["ip", "inet"] {
        chains.extend(parse(&call(&["-j", "list", "chains", family], "").await?)?);
    }
    Ok(chains)
}

async fn per_family(arguments: &[&str], table: &str) -> Result<Vec<Value>, NftError> {
    let mut objects = Vec::new();
    for family in Family::ALL {
        let arguments: Vec<_> = arguments.iter().copied().chain([family.name(), table]).collect();
        match call(&arguments, "").await {
            Ok(output) => objects.extend(parse(&output)?),
            // No such table, or a kernel without the family.
            Err(NftError::Refused(text))
                if ["No such file or directory", "not supported"].iter().any(|why| text.contains(why)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(objects)
}

fn parse(output: &[u8]) -> Result<Vec<Value>, NftError> {
    let mut listing: Value = serde_json::from_slice(output).map_err(io::Error::from)?;
    match listing.get_mut("nftables").map(Value::take) {
        Some(Value::Array(objects)) => {
            Ok(objects.into_iter().filter(|object| object.get("metainfo").is_none()).collect())
        }
        _ => Err(NftError::Refused("the listing is not as expected".into())),
    }
}

async fn call(arguments: &[&str], input: &str) -> Result<Vec<u8>, NftError> {
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
