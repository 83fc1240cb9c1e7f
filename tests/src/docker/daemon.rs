//! A dockerd with everything of its own, and its command line.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::signal::{Signal, kill};

use super::{IMAGE, Release, image, space::Space};
use crate::{
    cleanup::{self, Resource, Undo},
    exec::{self, Process, child, eventually},
    netns::Netns,
};

/// How long a daemon may take to start on a busy machine.
const READY: Duration = Duration::from_mins(1);

/// How long it may take to end.
const END: Duration = Duration::from_secs(40);

/// A dockerd on a node.
pub struct Dockerd {
    release: Release,
    process: Option<Process>,
    arguments: Vec<String>,
    name: String,
    space: Space,
    dir: PathBuf,
    _undo: [Undo; 2],
}

impl Dockerd {
    /// Makes room for one in a node's namespace; [`Self::launch`] starts it. `more` goes to dockerd.
    pub fn place(netns: &Netns, name: &str, release: Release, more: &[&str]) -> Result<Self> {
        let unique = cleanup::unique(&format!("docker-{name}"));
        let dir = std::env::temp_dir().join(&unique);
        let undo = [Resource::Directory(dir.clone()), Resource::Cgroup(unique.clone())].map(Undo::new);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let arguments = [
            ["--data-root".to_owned(), at("data")],
            ["--pidfile".to_owned(), at("pid")],
            ["--host".to_owned(), format!("unix://{}", at("docker.sock"))],
            ["--cgroup-parent".to_owned(), format!("/{unique}")],
            ["--exec-opt", "native.cgroupdriver=cgroupfs"].map(str::to_owned),
            ["--storage-driver", "vfs"].map(str::to_owned),
        ];
        let more = more.iter().map(|&argument| argument.to_owned());
        let arguments = arguments.into_iter().flatten().chain(more).collect();
        let space = Space::new(netns, name)?;
        let name = name.to_owned();
        Ok(Self { release, process: None, arguments, name, space, dir, _undo: undo })
    }

    /// Which one it is.
    #[must_use]
    pub const fn release(&self) -> Release {
        self.release
    }

    /// Where it lives.
    #[must_use]
    pub const fn space(&self) -> &Space {
        &self.space
    }

    /// Its name on this machine: of its directory and its control group.
    #[must_use]
    pub fn unique(&self) -> &str {
        self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Where it listens, as dockerd's own options have it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.join("docker.sock").display())
    }

    /// What it said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    // === the daemon ===

    /// Starts it. Does not wait for it.
    pub fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = self.space.command("dockerd");
        command.args(&self.arguments).env("PATH", self.release.path()?).stdout(log.try_clone()?).stderr(log);
        self.process = Some(Process::spawn(&mut command)?);
        Ok(())
    }

    /// Waits until it answers.
    pub fn wait_ready(&self) -> Result<()> {
        eventually(READY, || {
            if let Some(status) = self.process()?.ended()? {
                return Ok(Err(anyhow!("dockerd ended with {status}")));
            }
            self.docker(&["version"]).map(|_| Ok(()))
        })
        .flatten()
        .with_context(|| {
            format!("{} of {} does not run; it said:\n{}", self.release, self.name, tail(&self.log(), 20))
        })
    }

    /// Kills it with signal 9. Its containers run on.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// Asks it to stop, and waits until it did.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// Ends it, its containers and everything that is in memory, all at once, as a reset of the machine does.
    pub fn reset(&mut self, netns: &Netns, name: &str) -> Result<()> {
        self.process = None;
        self.space = Space::new(netns, name)?;
        // Of what a process that is gone had; on a machine it is in memory as well.
        fs::remove_file(self.dir.join("pid")).context("dockerd had no file for its process")
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let process = self.process()?;
        kill(child(process.pid())?, signal).context("cannot send a signal to dockerd")?;
        process.wait(END)?;
        self.process = None;
        Ok(())
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("dockerd of {} does not run", self.name))
    }

    /// Makes the image [`IMAGE`], unless it is there.
    pub fn import(&self) -> Result<()> {
        if self.try_docker(&["image", "inspect", IMAGE])?.status.success() {
            return Ok(());
        }
        let archive = image::archive(&self.dir)?;
        self.docker(&["import", &archive.to_string_lossy(), IMAGE]).map(|_| ())
    }

    // === its command line ===

    /// A command of docker's for this daemon.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        if let Some(path) = self.release.client_path() {
            command.env("PATH", path);
        }
        command.env("DOCKER_CONFIG", &self.dir).args(["--host", &self.host()]).args(arguments);
        command
    }

    /// Runs docker and returns what it printed, without the last line's end.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        let printed = exec::output(&mut self.command(arguments))?;
        Ok(printed.trim_end().to_owned())
    }

    /// Runs docker to its end, whatever that is.
    pub fn try_docker(&self, arguments: &[&str]) -> Result<Output> {
        exec::run(&mut self.command(arguments))
    }

    /// Runs docker, which must not succeed, and returns what it says about that.
    pub fn refused(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_docker(arguments)?;
        ensure!(!output.status.success(), "docker {} was done", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Whether the daemon itself, asked by its API for a path, has something there. Takes no time of a program's
    /// start.
    pub fn answers(&self, path: &str) -> Result<bool> {
        let mut stream = UnixStream::connect(self.dir.join("docker.sock"))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut status = String::new();
        BufReader::new(stream).read_line(&mut status)?;
        Ok(status.split(' ').nth(1) == Some("200"))
    }

    /// Starts a container that goes on; `more` are options of `docker run`.
    pub fn run(&self, name: &str, network: &str, more: &[&str], command: &[&str]) -> Result<()> {
        let run = ["run", "-d", "--name", name, "--network", network];
        self.docker(&[&run[..], more, &[IMAGE], command].concat()).map(|_| ())
    }

    /// Starts a container that does nothing.
    pub fn idle(&self, name: &str, network: &str, more: &[&str]) -> Result<()> {
        self.run(name, network, more, &["sleep", "86400"])
    }

    /// Runs a command in a container and returns what it printed.
    pub fn exec(&self, container: &str, line: &str) -> Result<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        self.docker(&[&["exec", container][..], &words].concat())
    }

    /// A container's IPv4 address in a network.
    pub fn addr<T: std::str::FromStr>(&self, container: &str, network: &str) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.inspect(container, &format!("(index .NetworkSettings.Networks \"{network}\").IPAddress"))?
            .parse()
            .with_context(|| format!("{container} has no address in {network}"))
    }

    /// A field of what `docker inspect` tells, by Go's template language.
    pub fn inspect(&self, object: &str, field: &str) -> Result<String> {
        self.docker(&["inspect", "-f", &format!("{{{{{field}}}}}"), object])
    }

    /// Takes hold of a container's network namespace, which stays there until that is dropped.
    pub fn netns(&self, container: &str) -> Result<Netns> {
        let key = self.inspect(container, ".NetworkSettings.SandboxKey")?;
        ensure!(!key.is_empty(), "{container} does not run");
        Netns::adopt(container, &self.space.file(&key))
    }
}

/// The interface inside a namespace that has an address.
pub fn interface(netns: &Netns, addr: IpAddr) -> Result<String> {
    let listed = exec::output(netns.command("ip").args(["-brief", "address"]))?;
    let found = listed.lines().find(|line| line.contains(&format!(" {addr}/")));
    let name = found.and_then(|line| line.split(['@', ' ']).next());
    Ok(name.with_context(|| format!("no interface has {addr}:\n{listed}"))?.to_owned())
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- dockerd of {}:\n{}", self.name, tail(&self.log(), 60));
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
