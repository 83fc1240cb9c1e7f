//! What is in the package, and where.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{change, tree::Tree};
use crate::{build::Profile, workspace};

/// Names of programs, and where they go.
pub const PROGRAMS: [(&str, &str); 2] =
    [("overlayd", "usr/sbin/overlayd"), ("overlayctl", "usr/bin/overlayctl")];

/// A file of the package.
pub struct File {
    from: From,
    to: &'static str,
    mode: u32,
}

/// Where it comes from.
enum From {
    /// A program, by its name, without what only debuggers read.
    Program(&'static str),
    /// What `overlay-pages` wrote.
    Page(&'static str),
    /// A file of the source.
    Source(&'static str),
    /// Text.
    Text(&'static str),
}

/// Everything but manual pages and what the package manager makes of it.
pub const FILES: &[File] = &[
    File { from: From::Program(PROGRAMS[0].0), to: PROGRAMS[0].1, mode: 0o755 },
    File { from: From::Program(PROGRAMS[1].0), to: PROGRAMS[1].1, mode: 0o755 },
    page("overlayd.toml", "etc/overlay/overlayd.toml"),
    page("bash/overlayd", "usr/share/bash-completion/completions/overlayd"),
    page("bash/overlayctl", "usr/share/bash-completion/completions/overlayctl"),
    page("zsh/_overlayd", "usr/share/zsh/vendor-completions/_overlayd"),
    page("zsh/_overlayctl", "usr/share/zsh/vendor-completions/_overlayctl"),
    page("fish/overlayd.fish", "usr/share/fish/vendor_completions.d/overlayd.fish"),
    page("fish/overlayctl.fish", "usr/share/fish/vendor_completions.d/overlayctl.fish"),
    text(include_str!("debian/overlayd.service"), "usr/lib/systemd/system/overlayd.service"),
    text(include_str!("debian/overlayd.socket"), "usr/lib/systemd/system/overlayd.socket"),
    text(include_str!("debian/10-overlay.link"), "usr/lib/systemd/network/10-overlay.link"),
    text(include_str!("debian/copyright"), "usr/share/doc/overlayd/copyright"),
    source("README.md", "usr/share/doc/overlayd/README.md"),
    source("ARCHITECTURE.md", "usr/share/doc/overlayd/ARCHITECTURE.md"),
    source("LICENSE-MIT", "usr/share/doc/overlayd/LICENSE-MIT"),
    text("/etc/overlay/overlayd.toml\n", "DEBIAN/conffiles"),
    script(include_str!("debian/postinst"), "DEBIAN/postinst"),
    script(include_str!("debian/prerm"), "DEBIAN/prerm"),
    script(include_str!("debian/postrm"), "DEBIAN/postrm"),
];

const fn page(name: &'static str, to: &'static str) -> File {
    File { from: From::Page(name), to, mode: 0o644 }
}

const fn source(name: &'static str, to: &'static str) -> File {
    File { from: From::Source(name), to, mode: 0o644 }
}

const fn text(text: &'static str, to: &'static str) -> File {
    File { from: From::Text(text), to, mode: 0o644 }
}

const fn script(text: &'static str, to: &'static str) -> File {
    File { from: From::Text(text), to, mode: 0o755 }
}

impl File {
    /// Puts it into the package's tree. `pages` is where `overlay-pages` wrote.
    ///
    /// # Errors
    /// If it is not where it should be, or the system refuses.
    pub fn put(&self, tree: &Tree, profile: Profile, pages: &Path) -> Result<()> {
        let Self { from, to, mode } = self;
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        match from {
            From::Program(name) => {
                let program = tree.write(to, read(&profile.dir().join(name))?, *mode)?;
                change("strip", "strip", &["--strip-unneeded"], &program)
            }
            From::Page(name) => tree.write(to, read(&pages.join(name))?, *mode).map(drop),
            From::Source(name) => tree.write(to, read(&workspace::root().join(name))?, *mode).map(drop),
            From::Text(text) => tree.write(to, text, *mode).map(drop),
        }
    }
}
