//! Who is asked for what is not ours.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use nix::net::if_::if_nametoindex;

/// Servers beyond the third are not asked, as resolv.conf(5) has it.
const MOST: usize = 3;

/// A resolv.conf that is longer is none.
const LONGEST_FILE: u64 = 64 << 10;

/// Where a name server listens.
pub const PORT: u16 = 53;

/// Who is asked for what is not ours.
#[derive(Debug)]
pub enum Upstreams {
    /// These.
    Told(Arc<[SocketAddr]>),
    /// Those that a resolv.conf names, as it is at the moment.
    File(ResolvConf),
}

/// The name servers of a resolv.conf, read again when it changes.
#[derive(Debug)]
pub struct ResolvConf {
    path: PathBuf,
    /// Our own address: asking that would go round.
    own: IpAddr,
    read: Mutex<Option<Read>>,
}

/// What was in the file, and by what it is known to be the same still.
#[derive(Debug)]
struct Read {
    stamp: Stamp,
    servers: Arc<[SocketAddr]>,
}

/// When it was changed, and its length.
type Stamp = (SystemTime, u64);

// === impl Upstreams ===

impl Upstreams {
    /// They, in the order in which they are to be asked. None if nobody is there to ask.
    #[must_use]
    pub fn now(&self) -> Arc<[SocketAddr]> {
        match self {
            Self::Told(servers) => Arc::clone(servers),
            Self::File(file) => file.servers(),
        }
    }
}

// === impl ResolvConf ===

impl ResolvConf {
    /// The name servers that the file at `path` names, other than `own`.
    #[must_use]
    pub fn new(path: PathBuf, own: IpAddr) -> Self {
        Self { path, own, read: Mutex::default() }
    }

    fn servers(&self) -> Arc<[SocketAddr]> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = self.stamp().and_then(|stamp| match &*read {
            Some(read) if read.stamp == stamp => Ok(None),
            _ => Ok(Some(Read { stamp, servers: self.parse(&fs::read_to_string(&self.path)?) })),
        });
        match fresh {
            Ok(None) => {}
            Ok(Some(fresh)) => {
                tracing::debug!(servers = ?fresh.servers, "name servers read from {}", self.path.display());
                *read = Some(fresh);
            }
            // It is replaced at this moment, or gone: what it said serves.
            Err(error) => tracing::debug!(%error, "{} cannot be read", self.path.display()),
        }
        read.as_ref().map_or_else(Arc::default, |read| Arc::clone(&read.servers))
    }

    fn stamp(&self) -> io::Result<Stamp> {
        let metadata = fs::metadata(&self.path)?;
        if !metadata.is_file() || metadata.len() > LONGEST_FILE {
            return Err(io::Error::other("it is no file of a sensible size"));
        }
        Ok((metadata.modified()?, metadata.len()))
    }

    fn parse(&self, text: &str) -> Arc<[SocketAddr]> {
        let words = text.lines().map(str::split_whitespace);
        let named =
            words.filter_map(|mut words| (words.next() == Some("nameserver")).then(|| words.next())?);
        named.filter_map(server).filter(|server| !leads_back(server.ip(), self.own)).take(MOST).collect()
    }
}

/// Whether asking at an address would lead to us again: it is ours, or that of Docker's resolver in a
/// container, which asks us.
#[must_use]
pub fn leads_back(address: IpAddr, own: IpAddr) -> bool {
    address == own || address == IpAddr::from([127, 0, 0, 11])
}

/// A name server's address as it stands in a resolv.conf; an IPv6 one may have `%` and an interface after it.
fn server(text: &str) -> Option<SocketAddr> {
    match text.split_once('%') {
        None => Some(SocketAddr::new(text.parse().ok()?, PORT)),
        Some((address, interface)) => {
            let index = if_nametoindex(interface).ok().or_else(|| interface.parse().ok())?;
            Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, index).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, Upstreams) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        fs::write(&path, text).unwrap();
        (directory, Upstreams::File(ResolvConf::new(path, [169, 254, 53, 53].into())))
    }

    fn named(upstreams: &Upstreams) -> Vec<String> {
        upstreams.now().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn name_servers_are_those_of_the_file_but_for_ourselves() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\nnameserver 169.254.53.53\nnameserver 127.0.0.11\n\
                    nameserver 127.0.0.53\n nameserver\t192.0.2.1 # this one\nnameserver nowhere\nnameserver\n\
                    nameserver fe80::1%lo\nnameserver 192.0.2.4\noptions edns0\n";
        let (_directory, upstreams) = file(text);
        assert_eq!(named(&upstreams), ["127.0.0.53:53", "192.0.2.1:53", "[fe80::1%1]:53"]);
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_one_that_goes_away_is_remembered() {
        let (directory, upstreams) = file("nameserver 192.0.2.1\n");
        assert_eq!(named(&upstreams), ["192.0.2.1:53"]);
        let path = directory.path().join("resolv.conf");
        fs::write(&path, "nameserver 192.0.2.22\n").unwrap();
        assert_eq!(named(&upstreams), ["192.0.2.22:53"]);
        fs::remove_file(&path).unwrap();
        assert_eq!(named(&upstreams), ["192.0.2.22:53"]);
    }
}
