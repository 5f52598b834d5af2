//! What networks cost: starts with a published port, many at once, traffic through ports, a thousand ports.
//!
//! Peers are docker and podman, where they can be measured. The host's own address is one that its loopback interface is
//! given for the time.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::Settings;
use super::figures::{self, Samples};
use super::stage::{Docker, Hull, IMAGE, Podman};
use super::start::{Candidate, noted, rounds};
use super::traffic;
use super::worker::{Start, Worker};
use crate::peers::Peers;
use crate::program;

/// Containers that are started at once.
const CROWD: usize = 50;
/// How often a crowd or a thousand ports are started, at most.
const ROUNDS: usize = 5;
/// An address of the host's own (TEST-NET-2).
pub const HOST: &str = "198.51.100.1";
/// What a thousand ports are published with.
const UDP_PORTS: &str = "20000-20999:20000-20999/udp";

/// How the test host is set: it forwarded before any engine came, so that dockerd does not close the forward hook to all
/// but its own; and bridged packets do not pass the hooks of IP, as where the module br_netfilter is not loaded.
const HOST_SETTINGS: [(&str, &str); 2] =
    [("/proc/sys/net/ipv4/ip_forward", "1"), ("/proc/sys/net/bridge/bridge-nf-call-iptables", "0")];

/// Prints every table.
pub fn measure(settings: &Settings) -> Result<()> {
    for (path, value) in HOST_SETTINGS.iter().filter(|(path, _)| Path::new(path).exists()) {
        fs::write(path, value).with_context(|| path.to_string())?;
    }
    let peers = Rc::new(Peers::ready()?);
    let hull = Hull::ready(settings)?;
    let docker = noted("docker", settings.wants("docker").then(|| Docker::networked(settings, peers.clone())));
    let podman = noted("podman", settings.wants("podman").then(|| Podman::ready(settings, peers.clone())));
    program::quiet(Command::new("ip").args(["address", "add", &format!("{HOST}/32"), "dev", "lo"]))?;

    let ways = Ways { hull, docker, podman };
    starts(settings, &ways)?;
    crowds(settings, &ways)?;
    traffic::measure(settings, &ways)?;
    ports(settings, &ways.hull)?;
    drop(ways);
    program::quiet(Command::new("ip").args(["address", "delete", &format!("{HOST}/32"), "dev", "lo"]))?;
    remove_bridges()
}

/// Every engine keeps its default bridge, and podman's plugins the place where namespaces have names.
fn remove_bridges() -> Result<()> {
    let text = program::output(Command::new("ip").args(["-o", "link", "show", "type", "bridge"]))?;
    for name in text.lines().filter_map(|line| line.split(": ").nth(1)) {
        program::quiet(Command::new("ip").args(["link", "delete", name]))?;
    }
    match unmount("/run/netns", UnmountFlags::DETACH) {
        Err(Errno::INVAL | Errno::NOENT) | Ok(()) => Ok(()),
        Err(errno) => Err(errno).context("/run/netns"),
    }
}

/// Those that can be measured here.
pub struct Ways {
    hull: Hull,
    docker: Option<Docker>,
    podman: Option<Podman>,
}

impl Ways {
    /// A command of each, under its name.
    pub fn each(&self, words: &[&str]) -> Result<Vec<(&'static str, Start)>> {
        let mut each = vec![("hull", self.hull.start(words))];
        if let Some(docker) = &self.docker {
            each.push(("docker", docker.docker(words)?));
        }
        if let Some(podman) = &self.podman {
            each.push(("podman", podman.podman(words)?));
        }
        Ok(each)
    }

    /// A command of one of them.
    pub fn one(&self, index: usize, words: &[String]) -> Result<Start> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Ok(self.each(&words)?.swap_remove(index).1)
    }

    /// The command of one of them that removes running containers at once: podman's would wait for ten seconds.
    pub fn removal(&self, index: usize, names: &[&str]) -> Result<Start> {
        let is_podman = self.each(&[])?[index].0 == "podman";
        let words: &[&str] = if is_podman { &["rm", "-f", "--time", "0"] } else { &["rm", "-f"] };
        Ok(self.each(&[words, names].concat())?.swap_remove(index).1)
    }
}

/// `run --rm -p`, beside a container without a network.
fn starts(settings: &Settings, ways: &Ways) -> Result<()> {
    let published = ["run", "--rm", "-p", "8080:80", IMAGE, "true"];
    let mut candidates = Vec::new();
    for (name, start) in ways.each(&published)? {
        let name = match name {
            "hull" => "hull run -p",
            "docker" => "docker run -p",
            _ => "podman run -p",
        };
        candidates.push(Candidate { name, start, sees_v2: true });
    }
    let start = ways.hull.start(&["run", "--rm", "--network", "none", IMAGE, "true"]);
    candidates.push(Candidate { name: "hull run, no network", start, sees_v2: true });
    let samples = rounds(settings, &candidates, settings.idle_ms)?;
    figures::print(settings, "Start of a container with a published port (five layers)", "ms", &samples)
}

fn spawn(start: &Start) -> Result<Child> {
    let mut command = Command::new(&start.argv[0]);
    command.args(&start.argv[1..]).envs(&start.env).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().with_context(|| start.argv[0].clone())
}

/// Runs a command and expects it to end well.
pub fn quiet(start: &Start) -> Result<()> {
    program::quiet(Command::new(&start.argv[0]).args(&start.argv[1..]).envs(&start.env))
}

/// Fifty detached containers on a bridge, started at once, until the last command has ended.
fn crowds(settings: &Settings, ways: &Ways) -> Result<()> {
    let names: Vec<String> = (0..CROWD).map(|number| format!("crowd-{number}")).collect();
    let mut samples: Vec<Samples> = ways.each(&[])?.iter().map(|(name, _)| Samples::of(name)).collect();
    for _ in 0..settings.rounds.min(ROUNDS) {
        for (index, samples) in samples.iter_mut().enumerate() {
            let began = Instant::now();
            let mut children = Vec::new();
            for name in &names {
                children.push(spawn(&ways.each(&["run", "-d", "--name", name, IMAGE, "sleep", "1000"])?[index].1)?);
            }
            for child in children {
                let output = child.wait_with_output()?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            samples.add(began.elapsed());
            quiet(&ways.removal(index, &names.iter().map(String::as_str).collect::<Vec<_>>())?)?;
        }
    }
    figures::print(settings, "Fifty containers on a bridge, started at once", "ms", &samples)
}

/// What the kernel and the processes of Hull have of memory, kB: slabs, page tables, per-cpu data (proc(5), meminfo).
fn memory_kb(settings: &Settings) -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kernel = text.lines().filter(|line| {
        ["Slab:", "KernelStack:", "PageTables:", "Percpu:", "VmallocUsed:"].iter().any(|name| line.starts_with(name))
    });
    let kernel: u64 = kernel.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum();
    Ok((kernel + super::memory::sizes_kb(&settings.measured.hull)?.iter().sum::<u64>()) as f64)
}

/// A thousand published UDP ports: what they add to a start, and to memory while they are there.
fn ports(settings: &Settings, hull: &Hull) -> Result<()> {
    let mut worker = Worker::plain()?;
    let names = ["hull, no port", "hull, 1000 UDP ports"];
    let (mut times, mut sizes) = (names.map(Samples::of), names.map(Samples::of));
    for _ in 0..settings.rounds.min(ROUNDS) {
        for (index, flags) in [&[][..], &["-p", UDP_PORTS]].into_iter().enumerate() {
            let before = memory_kb(settings)?;
            let words = [&["run", "-d", "--name", "ports"], flags, &[IMAGE, "sleep", "1000"]].concat();
            times[index].add(worker.time(&hull.start(&words))?);
            std::thread::sleep(Duration::from_millis(300));
            sizes[index].values.push(memory_kb(settings)? - before);
            worker.time(&hull.start(&["rm", "-f", "ports"]))?;
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    worker.finish()?;
    figures::print(settings, "Start in the background", "ms", &times)?;
    figures::print(settings, "Memory of the kernel's and of Hull's processes that a container adds", "kB", &sizes)
}
