//! Where the binary takes its settings from, and how it says that they are wrong. Which run directory
//! it chose shows by the socket it says is in use.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

fn overlayd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlayd"));
    command.env_clear();
    command
}

/// Runs what must fail, soon and in one line.
fn refusal(command: &mut Command) -> String {
    let start = Instant::now();
    let Output { status, stderr, .. } = command.output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(!status.success());
    let stderr = String::from_utf8(stderr).unwrap();
    let line = stderr.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "more than one line: {line}");
    line.to_owned()
}

/// Makes a run directory that somebody uses.
fn used(directory: &Path, name: &str) -> (String, UnixListener) {
    let run_dir = directory.join(name);
    std::fs::create_dir(&run_dir).unwrap();
    let listener = UnixListener::bind(run_dir.join("overlayd.sock")).unwrap();
    (run_dir.to_str().unwrap().to_owned(), listener)
}

#[test]
fn a_flag_goes_before_a_variable_and_a_variable_before_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let [flag, variable, file] = ["flag", "variable", "file"].map(|name| used(directory.path(), name));
    let config = directory.path().join("overlayd.toml");
    std::fs::write(&config, format!("run-dir = \"{}\"\nnode = \"n1\"\n", file.0)).unwrap();
    let in_use = |run_dir: &str| {
        format!(
            "overlayd: another overlayd runs here, on {run_dir}/overlayd.sock: stop it, or give this one a --run-dir of its own"
        )
    };
    let config = config.to_str().unwrap();
    assert_eq!(refusal(overlayd().args(["--config", config])), in_use(&file.0));
    assert_eq!(refusal(overlayd().env("OVERLAY_CONFIG", config)), in_use(&file.0));
    let with_variable = || {
        let mut command = overlayd();
        command.args(["--config", config]).env("OVERLAY_RUN_DIR", &variable.0);
        command
    };
    assert_eq!(refusal(&mut with_variable()), in_use(&variable.0));
    assert_eq!(refusal(with_variable().args(["--run-dir", &flag.0])), in_use(&flag.0));
}

#[test]
fn mistakes_are_said_in_one_line() {
    assert_eq!(
        refusal(overlayd().args(["--datapath", "ebpf"])),
        "error: invalid value 'ebpf' for '--datapath <MODE>' [possible values: auto, xdp, tc, kernel]; \
         For more information, try '--help'."
    );
    assert_eq!(
        refusal(overlayd().args(["--node=n1", "--etcd=http://localhost/v3"])),
        "overlayd: --etcd: \"http://localhost/v3\" is not an etcd URL: it must end after the port"
    );
    assert_eq!(
        refusal(overlayd().env("OVERLAY_MTU", "1").args(["--node", "n1"])),
        "overlayd: --mtu \"1\": give auto, or 576 to 65535 bytes"
    );
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("overlayd.toml");
    std::fs::write(&config, "node = \"n1\"\nlisten = 4789\n").unwrap();
    let said = refusal(overlayd().arg("--config").arg(&config));
    let expected =
        format!("overlayd: --config {}, line 2: unknown field `listen`, expected one of ", config.display());
    assert!(said.starts_with(&expected), "{said}");
}

#[test]
fn a_log_filter_that_is_none_is_said() {
    let said = refusal(overlayd().args(["--node=n1", "--log=overlay_user=loud"]));
    assert!(said.starts_with("overlayd: --log \"overlay_user=loud\": give a filter as info or "), "{said}");
}
