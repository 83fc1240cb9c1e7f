//! Development commands, run as `cargo xtask <command>`. Each one installs what it finds missing.

mod artifact;
mod bench;
mod build;
mod chaos;
mod debian;
mod dist;
mod docker;
mod ebpf;
mod lab;
mod nftables;
mod packages;
mod requirement;
mod setup;
mod step;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::build::Profile;

/// Development commands of the overlay.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is needed to build, to test and to run the demo
    Setup,
    /// Build the BPF programs into target/bpf/overlay.bpf.o
    BuildEbpf,
    /// Build the BPF programs, overlayd, overlayctl and the lab
    Build {
        /// With optimisations
        #[arg(long)]
        release: bool,
    },
    /// Show three nodes forwarding for each other (root)
    Demo,
    /// Measure our data paths beside what people use; results go to target/bench (root)
    Bench {
        /// Fewer and shorter rounds: under five minutes in all
        #[arg(long)]
        quick: bool,
        /// Only these sections: pods, forward, programs, control, docker
        #[arg(value_name = "SECTION")]
        sections: Vec<String>,
        /// The same, with commas between
        #[arg(long, value_name = "SECTIONS", value_delimiter = ',')]
        section: Vec<String>,
        /// Rounds of all contenders
        #[arg(long, value_name = "N")]
        rounds: Option<usize>,
        /// Measure nothing: judge and draw what earlier runs left in target/bench
        #[arg(long)]
        render: bool,
    },
    /// Do random things to a cluster, kill and cut off parts of it, and check that it gets over them (root)
    Chaos {
        /// What all that is random comes from
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// How many steps
        #[arg(long, value_name = "N", default_value_t = 2000)]
        steps: usize,
        /// End after this step, and check there
        #[arg(long, value_name = "STEP")]
        until: Option<usize>,
        /// Do nothing: print the steps
        #[arg(long)]
        list: bool,
    },
    /// Build a Debian package below target/dist
    Dist {
        /// Without optimisations, as the tests want it
        #[arg(long)]
        debug: bool,
    },
    /// Run the programs and two nodes on Debian's kernels in virtual machines (root)
    VmTest {
        /// Kernels by the beginning of their version, as 5.10 or 7; usually 5.10, 6.1, 6.12 and 7
        #[arg(value_name = "KERNEL")]
        kernels: Vec<String>,
        /// Only this part; usually all
        #[arg(long)]
        part: Option<vm::Part>,
    },
    /// Check format and lints, run all tests (root)
    Test {
        /// Run only the tests whose names contain this, and no format or lint checks
        #[arg(long, value_name = "TEXT")]
        filter: Option<String>,
        /// Also the whole matrix of Docker's versions and options, which takes many minutes more
        #[arg(long)]
        full: bool,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup => setup::setup(),
        Command::BuildEbpf => setup::ensure().and_then(|()| ebpf::build()).map(|_| ()),
        Command::Build { release } => setup::ensure().and_then(|()| build::build(release.into())),
        Command::Demo => setup::ensure().and_then(|()| lab::run("overlay-demo", Vec::new())),
        Command::Bench { quick, sections, section, rounds, render } => {
            bench::bench(quick, &[sections, section].concat(), rounds, render)
        }
        Command::Chaos { seed, steps, until, list } => chaos::chaos(seed, until.unwrap_or(steps), list),
        Command::Dist { debug } => dist::dist(if debug { Profile::Debug } else { Profile::Release }),
        Command::VmTest { kernels, part } => vm::test(&kernels, part),
        Command::Test { filter, full } => test::test(filter.as_deref(), full),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
