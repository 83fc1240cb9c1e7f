//! Programs that hold a UDP port.

use std::{collections::BTreeSet, fs};

/// The processes that have a socket on a UDP port of this network namespace, by name and number. Sockets of the
/// kernel's own, as those of VXLAN devices, are nobody's.
pub fn holders(port: u16) -> Vec<String> {
    let mut inodes = BTreeSet::new();
    for table in ["/proc/self/net/udp", "/proc/self/net/udp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        inodes.extend(text.lines().skip(1).filter_map(|line| inode_on(line, port)));
    }
    if inodes.is_empty() {
        return Vec::new();
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|pid| has_socket(*pid, &inodes)).map(name).collect()
}

/// The socket of a line of `/proc/net/udp`, if it is on the port: the second field is address and port in
/// hexadecimal, the tenth the inode (Linux, `Documentation/networking/proc_net_tcp.rst`).
fn inode_on(line: &str, port: u16) -> Option<u64> {
    let mut fields = line.split_whitespace();
    let (_, local) = fields.nth(1)?.rsplit_once(':')?;
    let inode = fields.nth(7)?.parse().ok()?;
    (u16::from_str_radix(local, 16) == Ok(port)).then_some(inode)
}

fn has_socket(pid: u32, inodes: &BTreeSet<u64>) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| {
        let inode =
            target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        inode.is_some_and(|inode: u64| inodes.contains(&inode))
    })
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{} (process {pid})", name.trim())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_socket_of_ours_is_ours() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let found = holders(port);
        assert!(
            found.iter().any(|holder| holder.ends_with(&format!("(process {})", std::process::id()))),
            "{found:?}"
        );
        drop(socket);
        assert_eq!(holders(port), Vec::<String>::new());
    }
}
