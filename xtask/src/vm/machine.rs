//! A virtual machine: QEMU as long as it runs, and what its guest reports.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    guest::{self, Guest},
    write,
};

/// A network card.
#[derive(Clone, Copy)]
pub struct Card {
    /// What it is called.
    pub name: &'static str,
    /// The wire it is on.
    pub wire: &'static str,
    /// QEMU's name for its kind.
    model: &'static str,
    /// Pairs of queues.
    pub queues: u8,
    /// The machine it is in.
    pub number: u8,
}

impl Card {
    /// By which guests reach each other whatever becomes of the other cards.
    pub const fn control(number: u8) -> Self {
        Self { name: "control", wire: "control", model: "virtio-net-pci", queues: 1, number }
    }

    /// With native XDP: a pair of queues for each CPU, and as many for XDP to send by.
    pub const fn virtio(number: u8) -> Self {
        Self { name: "virtio", wire: "underlay", model: "virtio-net-pci", queues: 2 * CPUS, number }
    }

    /// Without native XDP.
    pub const fn e1000(number: u8) -> Self {
        Self { name: "e1000", wire: "underlay", model: "e1000", queues: 1, number }
    }

    /// Tells guests which card is which.
    fn mac(self) -> String {
        let kind = match self.name {
            "control" => 1,
            "virtio" => 2,
            _ => 3,
        };
        format!("52:54:00:00:{kind:02}:{:02}", self.number)
    }
}

/// A card with its end of the wire.
pub struct Plugged {
    pub card: Card,
    pub tap: String,
    pub netns: String,
}

const CPUS: u8 = 2;

/// A machine; killed when dropped.
pub struct Machine {
    name: String,
    child: Child,
    console: PathBuf,
    results: PathBuf,
}

/// What a guest reported, line by line: fields are separated by tabs.
pub struct Reported {
    /// Its lines.
    pub lines: Vec<Vec<String>>,
    /// Whether it came to its end.
    pub complete: bool,
    /// Where its console was written.
    pub console: PathBuf,
}

impl Machine {
    /// Boots a machine whose guest program gets these arguments.
    ///
    /// # Errors
    /// If QEMU cannot be started.
    pub fn start(guest: &Guest, name: &str, arguments: &str, cards: &[Plugged]) -> Result<Self> {
        let path = |suffix: &str| guest.logs.join(format!("{name}.{suffix}"));
        let (script, console, results) = (path("sh"), path("console"), path("results"));
        let program = guest::program();
        let program = program.display();
        let power_off = "echo 1 > /proc/sys/kernel/sysrq; echo o > /proc/sysrq-trigger; sleep 10";
        write(
            &script,
            format!(
                "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root OVERLAY_LAB_PATIENCE=6\n\
                 {program} {arguments} > /dev/ttyS0 2>&1\n{power_off}\n"
            ),
        )?;
        for file in [&console, &results] {
            write(file, "")?;
        }
        // Killed with us, whatever ends us.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(plugged) = cards.first() {
            command.arg("nsenter").arg(format!("--net=/run/netns/{}", plugged.netns));
        }
        command.arg("qemu-system-x86_64");
        let append = format!(
            "console=ttyS0 quiet panic=-1 overlay.modules={} overlay.script={}",
            guest.modules.display(),
            script.display()
        );
        // Two virtual CPUs that share one of ours wait for each other's locks while the other does not run; one
        // thread for both changes over there.
        let shared = thread::available_parallelism().is_ok_and(|cpus| cpus.get() < usize::from(CPUS));
        let accelerator = if shared { "tcg,thread=single" } else { "tcg,thread=multi" };
        command
            .args(["-M", "q35", "-accel", accelerator, "-cpu", "max", "-m", "1024"])
            .args(["-smp", &CPUS.to_string(), "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-serial", &format!("file:{}", results.display())])
            .args(["-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"])
            .arg("-kernel")
            .arg(&guest.image)
            .arg("-initrd")
            .arg(&guest.initrd)
            .args(["-append", &append])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("qemu")).context("cannot write QEMU's log")?);
        for Plugged { card, tap, .. } in cards {
            let queues = card.queues;
            let mut device = format!("{},netdev={tap},mac={}", card.model, card.mac());
            let mut netdev = format!("tap,id={tap},ifname={tap},script=no,downscript=no");
            if queues > 1 {
                netdev = format!("{netdev},queues={queues}");
                device = format!("{device},mq=on,vectors={}", 2 * queues + 2);
            }
            command.args(["-netdev", &netdev, "-device", &device]);
        }
        let child = command.spawn().context("cannot start QEMU")?;
        Ok(Self { name: name.to_owned(), child, console, results })
    }

    /// Shows what the guest reports until the machine is off; after `limit` it is killed.
    ///
    /// # Errors
    /// If the machine cannot be waited for.
    pub fn follow(mut self, limit: Duration) -> Result<Reported> {
        let begin = Instant::now();
        let mut shown = 0;
        loop {
            let ended = self.child.try_wait().context("cannot wait for QEMU")?.is_some();
            let text =
                String::from_utf8_lossy(&fs::read(&self.results).unwrap_or_default()).replace('\r', "");
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let lines: Vec<Vec<String>> =
                whole.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
            for line in lines.iter().skip(shown) {
                eprintln!("    {:6.1} s {} {}", begin.elapsed().as_secs_f32(), self.name, line.join(" "));
            }
            shown = lines.len();
            let over = begin.elapsed() > limit;
            if ended || over {
                let complete = lines.last().is_some_and(|line| line[0] == "end");
                if over && !ended {
                    eprintln!("    {} still runs after {} s: killed", self.name, limit.as_secs());
                }
                return Ok(Reported { lines, complete, console: self.console.clone() });
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
