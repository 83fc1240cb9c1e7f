//! The benchmark's own BPF object: loaded, put on interfaces, told what to send, asked what arrived.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, Pod, TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{Array, DevMap, HashMap, MapData, PerCpuArray},
    programs::{LinkOrder, Program, TcAttachType, Xdp, XdpMode, tc::TcAttachOptions},
};
use overlay_ebpf::bench::Stream;

use crate::{exec::eventually, netns::Netns};

/// Frames that the kernel makes at once: no more than a veth's ring or a NAPI poll takes.
const BATCH: u32 = 64;

static OBJECT: OnceLock<PathBuf> = OnceLock::new();

/// Says where the object is, once, before anything is loaded.
pub fn set_path(path: &Path) {
    OBJECT.get_or_init(|| path.to_owned());
}

/// One loaded object with maps of its own.
pub struct Object(Ebpf);

/// What a burst of frames took.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    pub frames: u32,
    pub took: Duration,
}

impl Object {
    pub fn load() -> Result<Self> {
        let path = OBJECT.get().context("nobody said where the benchmark's BPF object is")?;
        let mut ebpf = Ebpf::load_file(path)
            .with_context(|| format!("cannot load {}: run `cargo xtask bench`", path.display()))?;
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                _ => Ok(()),
            }
            .with_context(|| format!("cannot load {name}"))?;
        }
        Ok(Self(ebpf))
    }

    /// Puts a program on an interface until this is dropped or [`Self::detach`] is called: tc programs
    /// on its ingress, XDP programs in native mode.
    pub fn attach(&mut self, name: &str, netns: &Netns, device: &str) -> Result<()> {
        attach(&mut self.0, name, netns, device)
    }

    /// Takes a program off its interfaces.
    pub fn detach(&mut self, name: &str) -> Result<()> {
        detach(&mut self.0, name)
    }

    pub fn set<V: Pod>(&mut self, map: &str, value: V) -> Result<()> {
        let mut map: Array<&mut MapData, V> = self.0.map_mut(map).context("no such map")?.try_into()?;
        Ok(map.set(0, value, 0)?)
    }

    pub fn insert<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) -> Result<()> {
        let mut map: HashMap<&mut MapData, K, V> = self.0.map_mut(map).context("no such map")?.try_into()?;
        Ok(map.insert(key, value, 0)?)
    }

    /// Where the program `redirect` sends everything.
    pub fn redirect_to(&mut self, node: &Netns, device: &str) -> Result<()> {
        let map = self.0.map_mut("target").context("no such map")?;
        node.run(|| {
            let mut map: DevMap<&mut MapData> = map.try_into()?;
            let ifindex = nix::net::if_::if_nametoindex(device)?;
            Ok(map.set(0, ifindex, None, 0)?)
        })
    }

    /// How many frames the generator made so far.
    pub fn sent(&self) -> Result<u64> {
        let map: Array<&MapData, Stream> = self.0.map("stream").context("no such map")?.try_into()?;
        Ok(map.get(&0, 0)?.sent)
    }

    /// How many frames reached a sink so far.
    pub fn arrived(&self) -> Result<u64> {
        let map: PerCpuArray<&MapData, u64> = self.0.map("arrived").context("no such map")?.try_into()?;
        Ok(map.get(&0, 0)?.iter().sum())
    }

    /// Waits until all frames that were sent have arrived, or no more do; returns how many did.
    pub fn settled(&self) -> Result<u64> {
        let mut last = self.arrived()?;
        let (mut still, sent) = (Instant::now(), self.sent()?);
        loop {
            let now = self.arrived()?;
            if now != last {
                (last, still) = (now, Instant::now());
            }
            if now >= sent || still.elapsed() > Duration::from_millis(500) {
                return Ok(now);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Has a generator send bursts of `frames` copies of `frame` from a namespace, on this thread's core.
    pub fn send(
        &self,
        generator: &str,
        from: &Netns,
        frame: &[u8],
        bursts: usize,
        frames: u32,
    ) -> Result<Vec<Burst>> {
        let program: &Xdp = self.0.program(generator).context("no such generator")?.try_into()?;
        from.run(|| {
            let burst = || {
                let begin = Instant::now();
                program.test_run(TestRunOptions {
                    data_in: Some(frame),
                    repeat: frames,
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::default()
                })?;
                Ok(Burst { frames, took: begin.elapsed() })
            };
            std::iter::repeat_with(burst).take(bursts).collect()
        })
    }

    /// Nanoseconds and packets a program ran so far, while the kernel counts them.
    pub fn run_time(&self, name: &str) -> Result<(Duration, u64)> {
        run_time(&self.0, name)
    }
}

/// See [`Object::run_time`].
pub fn run_time(ebpf: &Ebpf, name: &str) -> Result<(Duration, u64)> {
    let info = match ebpf.program(name).with_context(|| format!("no program {name}"))? {
        Program::Xdp(program) => program.info()?,
        Program::SchedClassifier(program) => program.info()?,
        other => anyhow::bail!("{name} is {other:?}"),
    };
    Ok((info.run_time(), info.run_count()))
}

/// See [`Object::attach`].
pub fn attach(ebpf: &mut Ebpf, name: &str, netns: &Netns, device: &str) -> Result<()> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    // A device that was set up a moment ago may be busy with it.
    eventually(Duration::from_secs(2), || {
        netns.run(|| {
            match &mut *program {
                Program::SchedClassifier(program) => {
                    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
                    program.attach_with_options(device, TcAttachType::Ingress, first)?;
                }
                Program::Xdp(program) => {
                    program.attach(device, XdpMode::Driver)?;
                }
                other => anyhow::bail!("{name} is {other:?}"),
            }
            Ok(())
        })
    })
    .with_context(|| format!("cannot attach {name} to {device}"))
}

/// See [`Object::detach`].
pub fn detach(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    match ebpf.program_mut(name).with_context(|| format!("no program {name}"))? {
        Program::SchedClassifier(program) => {
            program.unload()?;
            program.load()?;
        }
        Program::Xdp(program) => {
            program.unload()?;
            program.load()?;
        }
        other => anyhow::bail!("{name} is {other:?}"),
    }
    Ok(())
}
