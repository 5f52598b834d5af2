//! What networks cost: starts with a published port, many at once, requests and bytes through ports, a thousand ports.
//!
//! Peers are docker and podman, where they can be measured. Traffic goes between programs of the tree
//! (`crates/network/examples/requests.rs`), mounted into the container, so that no client or server is another one's. The
//! host's own address is one that its loopback interface is given for the time; a remote host would measure its own wire.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::Settings;
use super::figures::{self, Samples};
use super::stage::{Docker, Hull, IMAGE, Podman};
use super::start::{Candidate, noted, rounds};
use super::worker::{Start, Worker};
use crate::peers::Peers;
use crate::program;

/// Containers that are started at once.
const CROWD: usize = 50;
/// How often traffic is measured at each place, and a crowd or a thousand ports are started, at most.
const ROUNDS: usize = 7;
/// How long traffic is measured, seconds.
const SECONDS: &str = "1";
/// An address of the host's own (TEST-NET-2).
const HOST: &str = "198.51.100.1";
/// What a thousand ports are published with.
const UDP_PORTS: &str = "20000-20999:20000-20999/udp";

/// Prints every table.
pub fn measure(settings: &Settings) -> Result<()> {
    let peers = Rc::new(Peers::ready()?);
    let hull = Hull::ready(settings)?;
    let docker = noted("docker", settings.wants("docker").then(|| Docker::networked(settings, peers.clone())));
    let podman = noted("podman", settings.wants("podman").then(|| Podman::ready(settings, peers.clone())));
    program::quiet(Command::new("ip").args(["address", "add", &format!("{HOST}/32"), "dev", "lo"]))?;

    let ways = Ways { hull, docker, podman };
    starts(settings, &ways)?;
    crowds(settings, &ways)?;
    traffic(settings, &ways)?;
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
struct Ways {
    hull: Hull,
    docker: Option<Docker>,
    podman: Option<Podman>,
}

impl Ways {
    /// A command of each, under its name.
    fn each(&self, words: &[&str]) -> Result<Vec<(&'static str, Start)>> {
        let mut each = vec![("hull", self.hull.start(words))];
        if let Some(docker) = &self.docker {
            each.push(("docker", docker.docker(words)?));
        }
        if let Some(podman) = &self.podman {
            each.push(("podman", podman.podman(words)?));
        }
        Ok(each)
    }

    /// The command of one of them that removes running containers at once: podman's would wait for ten seconds.
    fn removal(&self, index: usize, names: &[&str]) -> Result<Start> {
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

fn quiet(start: &Start) -> Result<()> {
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

/// A number that a program prints.
fn number(start: &Start) -> Result<f64> {
    let output = Command::new(&start.argv[0]).args(&start.argv[1..]).envs(&start.env).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match said.trim().parse() {
        Ok(number) if output.status.success() => Ok(number),
        _ => bail!("{}: {said}{}", start.argv.join(" "), String::from_utf8_lossy(&output.stderr)),
    }
}

/// Requests and bytes per second straight to a container and through its published port.
fn traffic(settings: &Settings, ways: &Ways) -> Result<()> {
    let program = settings.requests.display().to_string();
    let mount = format!("{program}:/requests:ro");
    let mut served = Vec::new();
    for (index, (name, _)) in ways.each(&[])?.into_iter().enumerate() {
        let port = (8081 + index).to_string();
        let publish = format!("{port}:80");
        let run = ["run", "-d", "--name", "server", "-v", &mount, "-p", &publish, IMAGE, "/requests", "serve", "80"];
        let inspect = ["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "server"];
        quiet(&ways.each(&run)?[index].1)?;
        let inspect = &ways.each(&inspect)?[index].1;
        let output = Command::new(&inspect.argv[0]).args(&inspect.argv[1..]).envs(&inspect.env).output()?;
        let address = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(!address.is_empty(), "{name} has given its container no address");
        served.push((index, name, address, port));
    }
    std::thread::sleep(Duration::from_millis(500));
    for (verb, title, unit) in
        [("ask", "Requests on open connections", "1/s"), ("send", "Bytes of one connection", "Mbit/s")]
    {
        let mut samples: Vec<Samples> = Vec::new();
        let mut places = Vec::new();
        for (index, name, address, port) in &served {
            let by_host = |at: String| Start {
                argv: vec![program.clone(), verb.into(), at, SECONDS.into()],
                env: Default::default(),
            };
            let own = format!("{HOST}:{port}");
            let hairpin = ways.each(&["exec", "server", "/requests", verb, &own, SECONDS])?[*index].1.clone();
            places.push((format!("{name}, straight"), by_host(format!("{address}:80"))));
            places.push((format!("{name}, host's address"), by_host(own)));
            places.push((format!("{name}, 127.0.0.1"), by_host(format!("127.0.0.1:{port}"))));
            places.push((format!("{name}, from itself"), hairpin));
        }
        samples.extend(places.iter().map(|(name, _)| Samples::of(name)));
        for round in 0..settings.rounds.min(ROUNDS) {
            for turn in 0..places.len() {
                let index = (round + turn) % places.len();
                samples[index].values.push(number(&places[index].1)?);
            }
        }
        figures::print(settings, title, unit, &samples)?;
    }
    for (index, ..) in &served {
        quiet(&ways.removal(*index, &["server"])?)?;
    }
    Ok(())
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
