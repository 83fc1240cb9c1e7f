//! An image without a registry: busybox and little else.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::exec;

/// Its name.
pub const IMAGE: &str = "box";

/// What it can do. Its wget has no time limit: Debian's build fails where it is given one.
const APPLETS: [&str; 10] =
    ["cat", "httpd", "ip", "nslookup", "ping", "ping6", "sleep", "timeout", "true", "wget"];

/// What its web server answers with.
const PAGE: &str = "it works\n";

/// Makes an archive of its files in a directory.
pub fn archive(dir: &Path) -> Result<PathBuf> {
    let (root, archive) = (dir.join("image"), dir.join("image.tar"));
    for part in ["bin", "www", "tmp"] {
        fs::create_dir_all(root.join(part))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.context("busybox is missing")?, root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("www/index.html"), PAGE)?;
    let mut tar = Command::new("tar");
    exec::output(tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
    Ok(archive)
}
