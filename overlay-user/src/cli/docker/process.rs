//! The dockerd that reads a file of settings, as the processes of this machine tell.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    DAEMON_JSON,
    settings::{DNS, LIVE_RESTORE},
};

/// What the kernel tells times of processes in (`USER_HZ`).
const TICKS_A_SECOND: u64 = 100;

/// The kernel tells when it began in whole seconds.
const ROUNDED: Duration = Duration::from_secs(2);

/// A dockerd that runs.
#[derive(Debug)]
pub struct Dockerd {
    pid: Pid,
    /// Its command line, with each flag and value as `--flag=value`.
    command: String,
}

impl Dockerd {
    /// The one that reads `file`.
    pub fn reading(file: &Path) -> Option<Self> {
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut dockerds = processes.filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let comm = fs::read_to_string(process.path().join("comm")).ok()?;
            let command =
                (comm.trim() == "dockerd").then(|| fs::read(process.path().join("cmdline")).ok())??;
            let words = command.split(|&byte| byte == 0).map(String::from_utf8_lossy);
            Some(Self {
                pid: Pid::from_raw(pid),
                command: joined(&words.map(Into::into).collect::<Vec<_>>()),
            })
        });
        dockerds.find(|dockerd| dockerd.reads(file))
    }

    fn reads(&self, file: &Path) -> bool {
        let read = flags(&self.command).find(|(flag, _)| *flag == "--config-file");
        Path::new(read.map_or(DAEMON_JSON, |(_, file)| file)) == file
    }

    /// The flag it was started with that may not be a setting as well.
    pub fn flag_in_the_way(&self) -> Option<String> {
        let is_setting = |flag: &str| [DNS, LIVE_RESTORE].iter().any(|name| flag == format!("--{name}"));
        flags(&self.command).find(|(flag, _)| is_setting(flag)).map(|(flag, _)| flag.to_owned())
    }

    /// Whether it was started before `file` was last written, so that it may not have read all of it.
    pub fn is_older_than(&self, file: &Path) -> bool {
        let written = fs::metadata(file).and_then(|file| file.modified());
        written.is_ok_and(|written| self.began().is_some_and(|began| began + ROUNDED < written))
    }

    fn began(&self) -> Option<SystemTime> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // The name, in brackets, may have blanks; of what is behind it the twentieth is the moment since the boot.
        let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let boot: u64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        let ticks = Duration::from_millis(ticks * (1000 / TICKS_A_SECOND));
        Some(UNIX_EPOCH + Duration::from_secs(boot) + ticks)
    }

    /// Has it read again what of its settings needs no restart.
    pub fn reload(&self) -> Result<(), Errno> {
        kill(self.pid, Signal::SIGHUP)
    }
}

/// `--flag value` as `--flag=value`, one a line.
fn joined(words: &[String]) -> String {
    words.join("=").replace("=--", "\n--")
}

fn flags(command: &str) -> impl Iterator<Item = (&str, &str)> {
    command.lines().filter_map(|flag| flag.split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_is_a_setting_too_would_keep_dockerd_from_starting() {
        let flag = |file: &str, command: &str| {
            let command = joined(&command.split(' ').map(str::to_owned).collect::<Vec<_>>());
            let dockerd = Dockerd { pid: Pid::this(), command };
            dockerd.reads(Path::new(file)).then(|| dockerd.flag_in_the_way())
        };
        assert_eq!(
            flag(DAEMON_JSON, "dockerd -H fd:// --dns 10.0.0.2 --debug"),
            Some(Some("--dns".to_owned()))
        );
        assert_eq!(
            flag("/x", "dockerd --config-file=/x --live-restore=true"),
            Some(Some("--live-restore".to_owned()))
        );
        assert_eq!(flag(DAEMON_JSON, "dockerd --config-file /x --dns=10.0.0.2"), None, "another's settings");
        assert_eq!(flag(DAEMON_JSON, "dockerd -H fd:// --dns-opt=ndots:0"), Some(None));
    }

    #[test]
    fn who_was_started_before_its_settings_were_written_has_not_read_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let dockerd = Dockerd { pid: Pid::this(), command: String::new() };
        let now = SystemTime::now();
        for (written, older) in [(now + Duration::from_mins(1), true), (now - Duration::from_mins(10), false)]
        {
            file.as_file().set_modified(written).unwrap();
            assert_eq!(dockerd.is_older_than(file.path()), older);
        }
        assert!(!dockerd.is_older_than(Path::new("/nonexistent")));
    }
}
