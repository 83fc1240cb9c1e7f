//! What the machine must have besides Rust, and which Debian package has it.

use std::{path::Path, process::Command};

use crate::{step, workspace};

/// One thing that must be there.
pub struct Requirement {
    /// How to tell.
    sign: Sign,
    /// The Debian package that has it.
    pub package: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

/// How to tell that something is there.
enum Sign {
    Program(&'static str),
    File(&'static str),
    /// A module of the system's Python.
    PythonModule(&'static str),
}

/// Everything but the BPF toolchain and bpf-linker.
pub const REQUIREMENTS: &[Requirement] = &[
    program("protoc", "protobuf-compiler", "build the etcd client"),
    Requirement {
        sign: Sign::File("/usr/include/google/protobuf/empty.proto"),
        package: "libprotobuf-dev",
        purpose: "build the etcd client",
    },
    program("etcd", "etcd-server", "the store"),
    program("etcdctl", "etcd-client", "change records as an intruder would"),
    program("bpftool", "bpftool", "look into maps"),
    program("ip", "iproute2", "network namespaces"),
    program("ethtool", "ethtool", "offloads of interfaces"),
    program("tcpdump", "tcpdump", "capture packets"),
    program("tshark", "tshark", "decode packets"),
    program("iperf3", "iperf3", "generate load"),
    program("nft", "nftables", "break links on purpose"),
    program("ping", "iputils-ping", "probe"),
    program("ovs-vswitchd", "openvswitch-switch", "a strict VTEP of somebody else's"),
    Requirement {
        sign: Sign::PythonModule("scapy"),
        package: "python3-scapy",
        purpose: "packets that no honest sender makes",
    },
];

/// What tests with Docker need besides, and the benchmark's contender with Docker's own overlay.
pub const DOCKER_REQUIREMENTS: &[Requirement] = &[
    program("dockerd", "docker.io", "the last Docker with an overlay driver for an external store"),
    program("docker", "docker.io", "its command line"),
    program("docker-init", "docker.io", "look after a lab's processes"),
    program("iptables", "iptables", "Docker's way out and its published ports"),
    program("busybox", "busybox-static", "an image for Docker without a registry"),
];

/// What `cargo xtask vm-test` needs besides.
pub const VM_REQUIREMENTS: &[Requirement] = &[
    program("qemu-system-x86_64", "qemu-system-x86", "virtual machines"),
    program("modprobe", "kmod", "kernel modules of the guests"),
    program("xz", "xz-utils", "unpack kernel modules"),
];

/// What `cargo xtask dist` needs besides.
pub const DIST_REQUIREMENTS: &[Requirement] = &[
    program("dpkg-shlibdeps", "dpkg-dev", "tell which libraries the programs need"),
    program("strip", "binutils", "programs without debug information"),
];

/// What tests that boot a Debian with systemd need besides.
pub const DEBIAN_REQUIREMENTS: &[Requirement] =
    &[program("mmdebstrap", "mmdebstrap", "a Debian to install the package in")];

const fn program(name: &'static str, package: &'static str, purpose: &'static str) -> Requirement {
    Requirement { sign: Sign::Program(name), package, purpose }
}

impl Requirement {
    /// Whether it is there.
    pub fn is_met(&self) -> bool {
        match self.sign {
            Sign::Program(name) => workspace::find_program(name).is_some(),
            Sign::File(path) => Path::new(path).exists(),
            Sign::PythonModule(name) => {
                let spec =
                    format!("import importlib.util as u, sys; sys.exit(u.find_spec({name:?}) is None)");
                step::output(Command::new("/usr/bin/python3").args(["-c", &spec])).is_some()
            }
        }
    }
}
