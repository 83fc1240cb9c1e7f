//! The Debian package as it is unpacked. `systemd` installs it.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use overlay_tests::{exec, package};
use tempfile::TempDir;

fn unpacked() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    exec::output(Command::new("dpkg-deb").arg("-R").arg(package::current().unwrap()).arg(dir.path()))
        .unwrap();
    dir
}

fn run(program: &Path, arguments: &[&str]) -> String {
    exec::output(Command::new(program).args(arguments)).unwrap()
}

#[test]
fn programs_and_their_pages_are_in_the_package() {
    let root = unpacked();
    let at = |path: &str| root.path().join(path);
    assert!(run(&at("usr/sbin/overlayd"), &["--version"]).starts_with("overlayd "));
    assert!(run(&at("usr/bin/overlayctl"), &["--version"]).starts_with("overlayctl "));
    let pages: BTreeSet<_> =
        fs::read_dir(at("usr/share/man/man8")).unwrap().map(|e| e.unwrap().file_name()).collect();
    for page in ["overlayd.8.gz", "overlayctl.8.gz", "overlayctl-endpoint-attach.8.gz"] {
        assert!(pages.contains(std::ffi::OsStr::new(page)), "{page} is not among {pages:?}");
    }
    let page =
        exec::output(Command::new("zcat").arg(at("usr/share/man/man8/overlayctl-network-create.8.gz")))
            .unwrap();
    for words in ["overlayctl network create", "\\-\\-subnet", "Create a network"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let sums = "set -e; cd \"$1\"; md5sum --quiet -c DEBIAN/md5sums";
    exec::output(Command::new("sh").args(["-c", sums, "sh"]).arg(root.path())).unwrap();
}

#[test]
fn a_shell_completes_from_the_package() {
    let root = unpacked();
    let completions = root.path().join("usr/share/bash-completion/completions/overlayctl");
    let script = format!(
        ". {}; COMP_WORDS=(overlayctl network cr); COMP_CWORD=2; _overlayctl overlayctl cr network; echo ${{COMPREPLY[@]}}",
        completions.display()
    );
    assert_eq!(exec::output(Command::new("bash").args(["-c", &script])).unwrap().trim(), "create");
}

/// overlayd takes the settings file of the package as it is, and with everything in it uncommented is none of
/// this test's: `config::sample` is held to that.
#[test]
fn the_settings_file_is_taken_as_it_is() {
    let root = unpacked();
    let settings = root.path().join("etc/overlay/overlayd.toml");
    let mut overlayd = Command::new(root.path().join("usr/sbin/overlayd"));
    // Refused after the file was read: no daemon starts, and nothing here is touched.
    let refused = exec::run(overlayd.arg("--config").arg(&settings).args(["--verify-every", "0"])).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("--verify-every"), "{said}");
    assert_eq!(
        fs::read_to_string(root.path().join("DEBIAN/conffiles")).unwrap(),
        "/etc/overlay/overlayd.toml\n"
    );
}

#[test]
fn systemd_and_the_shell_have_nothing_to_say_against_units_and_scripts() {
    let root = unpacked();
    let units = ["overlayd.service", "overlayd.socket"].map(|name| {
        let unit = fs::read_to_string(root.path().join("usr/lib/systemd/system").join(name)).unwrap();
        // Where it is here: verify looks for the program.
        let unit = unit.replace("=/usr/sbin/", &format!("={}/usr/sbin/", root.path().display()));
        let here = root.path().join(name);
        fs::write(&here, unit).unwrap();
        here
    });
    let verified =
        exec::run(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units)).unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("overlayd"), "{said}");
    for script in ["postinst", "prerm", "postrm"] {
        let script = root.path().join("DEBIAN").join(script);
        assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o755);
        exec::output(Command::new("sh").arg("-n").arg(&script)).unwrap();
    }
}
