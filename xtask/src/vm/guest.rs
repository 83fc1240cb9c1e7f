//! What a guest boots: a kernel, and an initial file system that becomes this machine's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{create_dir, kernel::Kernel, write};
use crate::{build::Profile, packages::Packages, step, workspace};

/// Modules that make the root file system; all others are loaded from there.
const ROOT_MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// The initial file system's first program: this machine's root, a layer of memory over it, and the
/// script that the kernel's command line names, by chroot.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod $module; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose root /host &&
$b mount -t tmpfs tmpfs /layer && $b mkdir /layer/upper /layer/work &&
$b mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /root || $b poweroff -f
$b mount -t proc proc /root/proc
$b mount -t sysfs sys /root/sys
$b mount -t devtmpfs dev /root/dev
# Where nftables 0.9.8 reads a script from.
$b ln -sf /proc/self/fd/0 /root/dev/stdin
$b mount -t bpf bpf /root/sys/fs/bpf
$b mount -t tmpfs run /root/run
for word in $($b cat /proc/cmdline); do case $word in overlay.*) export "${word#overlay.}";; esac; done
$b mkdir -p /root/run/netns /root/lib/modules
$b mount -o bind /root$modules /root/lib/modules
# The same process, so that the kernel too has the new root, where it finds modprobe.
exec $b chroot /root /bin/sh $script
"#;

/// A kernel that is ready to boot.
pub struct Guest {
    release: String,
    /// The compressed kernel.
    pub image: PathBuf,
    /// Its initial file system.
    pub initrd: PathBuf,
    /// The directory of its modules, by version.
    pub modules: PathBuf,
    /// Where what its machines say is written.
    pub logs: PathBuf,
}

impl Guest {
    /// Fetches a kernel and makes its initial file system.
    ///
    /// # Errors
    /// If a package cannot be had, or has not what it should.
    pub fn prepare(packages: &Packages, kernel: &Kernel, dir: &Path) -> Result<Self> {
        let Kernel { release, .. } = kernel;
        let tools = dir.join("tools");
        packages.unpack(&["busybox-static".to_owned()], &tools)?;
        let busybox = [tools.join("usr/bin/busybox"), tools.join("bin/busybox")];
        let busybox = busybox.iter().find(|path| path.is_file()).context("busybox-static has no busybox")?;

        let root = dir.join("kernels").join(release);
        packages.unpack(&kernel.packages, &root)?;
        if !root.join("lib").exists() {
            std::os::unix::fs::symlink("usr/lib", root.join("lib")).context("cannot link lib to usr/lib")?;
        }
        let modules = root.join("lib/modules");
        if !modules.join(release).join("modules.dep.bin").exists() {
            step::run("index modules", Command::new("/sbin/depmod").arg("-b").arg(&root).arg(release))?;
        }
        let images = [root.join(format!("boot/vmlinuz-{release}")), modules.join(release).join("vmlinuz")];
        let image = images.into_iter().find(|path| path.is_file());
        let image = image.with_context(|| format!("the packages of {release} have no kernel image"))?;
        let initrd = root.join("initrd");
        write_initrd(&root, release, busybox, &initrd)?;
        let logs = dir.join("logs").join(release);
        create_dir(&logs)?;
        Ok(Self { release: release.clone(), image, initrd, modules, logs })
    }

    /// The kernel's version.
    pub fn release(&self) -> &str {
        &self.release
    }
}

fn write_initrd(root: &Path, release: &str, busybox: &Path, initrd: &Path) -> Result<()> {
    let tree = root.join("initrd.d");
    let _ = fs::remove_dir_all(&tree);
    for dir in ["bin", "modules", "proc", "dev", "host", "layer", "root"] {
        create_dir(&tree.join(dir))?;
    }
    fs::copy(busybox, tree.join("bin/busybox")).context("cannot copy busybox")?;
    for (number, module) in modules_in_order(root, release)?.iter().enumerate() {
        let target = tree.join("modules").join(format!("{number:02}.ko"));
        if Path::new(module).extension().is_some_and(|extension| extension == "xz") {
            let plain = Command::new("xz").args(["-dc", module]).output().context("cannot run xz")?;
            write(&target, plain.stdout)?;
        } else {
            fs::copy(module, &target).with_context(|| format!("cannot copy {module}"))?;
        }
    }
    write(&tree.join("init"), INIT)?;
    let mut permissions = fs::metadata(tree.join("init"))?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(tree.join("init"), permissions)?;
    let output = fs::File::create(initrd).with_context(|| format!("cannot write {}", initrd.display()))?;
    let script = "find . | \"$0\" cpio -o -H newc";
    let status = Command::new("sh")
        .current_dir(&tree)
        .args(["-c", script])
        .arg(busybox)
        .stdout(output)
        .stderr(Stdio::null())
        .status()
        .context("cannot run sh")?;
    if !status.success() {
        bail!("the initial file system cannot be packed: cpio ended with {status}");
    }
    fs::remove_dir_all(&tree).context("cannot remove the initial file system's tree")
}

/// Files of [`ROOT_MODULES`] and what they need, in the order to load them.
fn modules_in_order(root: &Path, release: &str) -> Result<Vec<String>> {
    let mut files: Vec<String> = Vec::new();
    for module in ROOT_MODULES {
        let mut command = Command::new("/sbin/modprobe");
        command.arg("-d").arg(root).args(["-S", release, "--show-depends", module]);
        let shown = step::output(&mut command);
        let shown = shown.with_context(|| format!("the kernel {release} has no module {module}"))?;
        for line in shown.lines() {
            if let Some(file) = line.strip_prefix("insmod ").map(str::trim)
                && !files.iter().any(|known| known == file)
            {
                files.push(file.to_owned());
            }
        }
    }
    Ok(files)
}

/// Builds test programs and says where they are; behind each, by commas, which of its tests to run.
///
/// # Errors
/// If one does not build.
pub fn build_tests(suite: &[(&str, &[&str])]) -> Result<Vec<String>> {
    if suite.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = workspace::cargo();
    command.args([
        "test",
        "--no-run",
        "--message-format=json-render-diagnostics",
        "--package",
        "overlay-tests",
    ]);
    for (name, _) in suite {
        command.args(["--test", name]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let built: Vec<Value> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let find = |(name, tests): &(&str, &[&str])| {
        let found = built.iter().find(|message| message["target"]["name"] == *name);
        let path = found.and_then(|message| message["executable"].as_str());
        let path = path.with_context(|| format!("cargo does not tell where the test {name} is"))?;
        Ok([&[path], *tests].concat().join(","))
    };
    suite.iter().map(find).collect()
}

/// The program that runs in a guest.
pub fn program() -> PathBuf {
    Profile::Debug.dir().join("overlay-vm-guest")
}
