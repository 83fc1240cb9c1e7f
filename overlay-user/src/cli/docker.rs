//! dockerd's settings: that containers ask overlayd for names.

use std::{
    fmt, fs,
    io::{self, ErrorKind, Write as _},
    net::Ipv4Addr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::{RawValue, to_raw_value};

use super::{args::SetupArgs, output::Show};

/// Where dockerd reads its settings.
pub const DAEMON_JSON: &str = "/etc/docker/daemon.json";

/// The setting for name servers.
const DNS: &str = "dns";

/// The setting for containers that outlive dockerd.
const LIVE_RESTORE: &str = "live-restore";

/// Who may read a new file of settings: dockerd's have no secrets.
const MODE: u32 = 0o644;

/// What was done to dockerd's settings.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Setup {
    /// The file.
    file: PathBuf,
    /// What was changed, one sentence each.
    changed: Vec<String>,
    /// dockerd was restarted.
    restarted: bool,
    /// It has to be, for that to hold.
    to_restart: bool,
}

/// Why dockerd's settings are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file cannot be read or written.
    #[error("{}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is no JSON object, or has something else where a setting should be.
    #[error("{} is not as dockerd takes it, so nothing was changed: {what}; mend it first", file.display())]
    Malformed {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// dockerd would not start with it.
    #[error(
        "dockerd was started with {flag}, and does not start with the same in {}: nothing was changed; take {flag} off \
         its command line (`systemctl edit --full docker`), then do this again",
        file.display()
    )]
    Flag {
        /// The flag.
        flag: String,
        /// The file.
        file: PathBuf,
    },
    /// It could not be restarted.
    #[error("{} is changed, but dockerd could not be restarted: {what}; restart it yourself", file.display())]
    Restart {
        /// The file.
        file: PathBuf,
        /// Why.
        what: String,
    },
}

/// A JSON object whose fields stay as they are written, and in their order.
#[derive(Debug, Default)]
struct Settings(Vec<(String, Box<RawValue>)>);

/// Sees that dockerd asks overlayd for names and leaves containers running while it restarts.
pub fn set_up(args: SetupArgs) -> Result<Setup, SetupError> {
    let SetupArgs { file, dns, restart } = args;
    let fail = |source| SetupError::File { file: file.clone(), source };
    // What a link leads to is changed, and the link left.
    let target = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
    let old = match fs::read_to_string(&target) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(fail(error)),
    };
    let malformed = |what| SetupError::Malformed { file: file.clone(), what };
    let Some((new, changed)) = changed(&old, dns).map_err(malformed)? else {
        return Ok(Setup { file, changed: Vec::new(), restarted: false, to_restart: false });
    };
    if let Some(flag) = given_flag(&file) {
        return Err(SetupError::Flag { flag, file });
    }
    write(&target, &new).map_err(fail)?;
    if restart {
        restart_dockerd().map_err(|what| SetupError::Restart { file: file.clone(), what })?;
    }
    Ok(Setup { file, changed, restarted: restart, to_restart: !restart })
}

/// The settings that are to be, and how they differ from `old`; `None` if they do not.
fn changed(old: &str, dns: Ipv4Addr) -> Result<Option<(String, Vec<String>)>, String> {
    let mut settings = Settings::parse(old)?;
    let mut changes = Vec::new();
    let ours = dns.to_string();
    let servers: Vec<String> = settings.get(DNS, "a list of addresses")?.unwrap_or_default();
    if servers.first() != Some(&ours) {
        let others: Vec<_> = servers.into_iter().filter(|server| *server != ours).collect();
        changes.push(match others.join(", ").as_str() {
            "" => format!("\"{DNS}\" is {ours} now"),
            others => format!("\"{DNS}\" is {ours} now, before {others}"),
        });
        settings.set(DNS, &[vec![ours], others].concat())?;
    }
    let live: Option<bool> = settings.get(LIVE_RESTORE, "true or false")?;
    if live != Some(true) {
        let before = live.map_or("", |_| " in place of false");
        changes.push(format!(
            "\"{LIVE_RESTORE}\" is true now{before}: containers run on while dockerd restarts"
        ));
        settings.set(LIVE_RESTORE, &true)?;
    }
    Ok((!changes.is_empty()).then(|| (settings.to_string(), changes)))
}

// === impl Settings ===

impl Settings {
    /// What a file says; an empty one says nothing.
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    fn get<'a, T: Deserialize<'a>>(&'a self, name: &str, wanted: &str) -> Result<Option<T>, String> {
        // Of several, dockerd takes the last.
        let Some((_, value)) = self.0.iter().rev().find(|(known, _)| known == name) else { return Ok(None) };
        let value = serde_json::from_str(value.get());
        value.map(Some).map_err(|_| format!("\"{name}\" should be {wanted}"))
    }

    fn set(&mut self, name: &str, value: &impl Serialize) -> Result<(), String> {
        let value = to_raw_value(value).map_err(|error| error.to_string())?;
        match self.0.iter_mut().rev().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
        Ok(())
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let before = if index == 0 { "{\n" } else { ",\n" };
            let name = serde_json::to_string(name).map_err(|_| fmt::Error)?;
            write!(f, "{before}  {name}: {}", value.get())?;
        }
        f.write_str("\n}\n")
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Settings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Settings, A::Error> {
                let mut settings = Vec::new();
                while let Some(field) = fields.next_entry()? {
                    settings.push(field);
                }
                Ok(Settings(settings))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Writes a file so that it is always whole, for whom it was before.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mode = fs::metadata(file).map_or(MODE, |old| old.permissions().mode());
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let beside = file.with_extension("json.new");
    let mut new = fs::File::options().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    fs::rename(beside, file)
}

/// A flag that a dockerd with these settings was started with, and that may not be a setting as well.
fn given_flag(file: &Path) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut commands = processes.filter_map(|process| {
        let comm = fs::read_to_string(process.path().join("comm")).ok()?;
        (comm.trim() == "dockerd").then(|| fs::read(process.path().join("cmdline")).ok())?
    });
    commands.find_map(|command| {
        let words = command.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        flag_in_the_way(file, &words.map(Into::into).collect::<Vec<_>>())
    })
}

/// The flag among a dockerd's that may not be in its `file` too.
fn flag_in_the_way(file: &Path, command: &[String]) -> Option<String> {
    // `--flag value` as `--flag=value`.
    let command = command.join("=").replace("=--", "\n--");
    let flags: Vec<_> = command.lines().filter_map(|flag| flag.split_once('=')).collect();
    let read = flags.iter().find(|(flag, _)| *flag == "--config-file").map_or(DAEMON_JSON, |(_, file)| file);
    let given =
        flags.iter().find(|(flag, _)| [DNS, LIVE_RESTORE].iter().any(|name| *flag == format!("--{name}")));
    given.filter(|_| Path::new(read) == file).map(|(flag, _)| (*flag).to_owned())
}

/// Restarts dockerd. One that runs is told to leave its containers running before.
fn restart_dockerd() -> Result<(), String> {
    const UNIT: &str = "docker.service";
    if systemctl(&["is-active", UNIT]).is_ok() {
        systemctl(&["reload", UNIT])?;
    }
    systemctl(&["restart", UNIT])
}

fn systemctl(arguments: &[&str]) -> Result<(), String> {
    let done = Command::new("systemctl").args(arguments).stdin(Stdio::null()).output();
    let done = done.map_err(|error| format!("systemctl: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("`systemctl {}` says: {}", arguments.join(" "), said.trim().replace('\n', "; ")))
}

impl Show for Setup {
    fn text(&self) -> String {
        let Self { file, changed, restarted, to_restart } = self;
        if changed.is_empty() {
            return format!("{}: nothing to change\n", file.display());
        }
        let mut text: String =
            changed.iter().flat_map(|change| [file.display().to_string(), format!(": {change}\n")]).collect();
        if *restarted {
            text.push_str("dockerd was restarted\n");
        }
        if *to_restart {
            text.push_str(
                "dockerd must be restarted once, for it reads name servers only at its start: `systemctl reload docker && \
                 systemctl restart docker`. The reload first, so that containers run on\n",
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);

    fn set(old: &str) -> (String, Vec<String>) {
        changed(old, OURS).unwrap().unwrap()
    }

    #[test]
    fn settings_are_made_where_there_were_none() {
        for empty in ["", " \n", "{}"] {
            let (new, changes) = set(empty);
            assert_eq!(new, "{\n  \"dns\": [\"169.254.53.53\"],\n  \"live-restore\": true\n}\n", "{empty:?}");
            assert_eq!(changes.len(), 2);
            assert_eq!(changed(&new, OURS).unwrap(), None, "done once");
        }
    }

    #[test]
    fn all_else_stays_as_it_is_written_and_in_its_order() {
        let old = "{\n  \"log-opts\": {\n    \"max-size\": \"10m\"\n  },\n  \"live-restore\": true,\n  \"bip\": \"10.9.0.1/24\",\n  \
                   \"a\\u0022b\": 1.50\n}\n";
        let (new, changes) = set(old);
        assert_eq!(
            new,
            old.replace("1.50\n}", "1.50,\n  \"dns\": [\"169.254.53.53\"]\n}").replace("\\u0022", "\\\"")
        );
        assert_eq!(changes, ["\"dns\" is 169.254.53.53 now"]);
    }

    #[test]
    fn other_name_servers_come_after_ours() {
        let (new, changes) = set(r#"{"dns":["10.0.0.2","169.254.53.53"],"live-restore":false}"#);
        assert!(new.contains(r#""dns": ["169.254.53.53","10.0.0.2"]"#), "{new}");
        assert_eq!(changes[0], "\"dns\" is 169.254.53.53 now, before 10.0.0.2");
        assert!(changes[1].contains("in place of false"), "{}", changes[1]);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for (bad, says) in [
            ("{", "EOF"),
            ("[]", "a JSON object"),
            ("{\"a\":1,}", "trailing comma"),
            ("{} x", "trailing characters"),
            (r#"{"dns":"10.0.0.2"}"#, "\"dns\" should be a list of addresses"),
            (r#"{"live-restore":1}"#, "\"live-restore\" should be true or false"),
        ] {
            let error = changed(bad, OURS).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn a_flag_that_is_a_setting_too_would_keep_dockerd_from_starting() {
        let flag = |file: &str, command: &str| {
            flag_in_the_way(Path::new(file), &command.split(' ').map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(flag(DAEMON_JSON, "dockerd -H fd:// --dns 10.0.0.2 --debug"), Some("--dns".to_owned()));
        assert_eq!(
            flag("/x", "dockerd --config-file=/x --live-restore=true"),
            Some("--live-restore".to_owned())
        );
        assert_eq!(flag(DAEMON_JSON, "dockerd --config-file /x --dns=10.0.0.2"), None, "another's settings");
        assert_eq!(flag(DAEMON_JSON, "dockerd -H fd:// --dns-opt=ndots:0"), None);
    }

    #[test]
    fn a_file_is_replaced_for_whom_it_was_and_links_are_left() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("real.json"), directory.path().join("daemon.json"));
        fs::write(&file, "{}").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let args = || SetupArgs { file: link.clone(), dns: OURS, restart: false };
        let done = set_up(args()).unwrap();
        assert!(done.changed.len() == 2 && done.to_restart && !done.restarted, "{done:?}");
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(set_up(args()).unwrap().changed.is_empty());
        fs::write(&file, "{").unwrap();
        let error = set_up(args()).unwrap_err().to_string();
        assert!(error.contains("so nothing was changed: EOF"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "{");
    }
}
