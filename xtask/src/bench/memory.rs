//! What idle detached containers cost: the proportional set size of the processes that keep them.
//!
//! Counted are the processes of Hull (its executable is the program under test), of docker and ctr (the shims) and of
//! podman (conmon), not the containers' own. PSS shares a page's cost among all who map it (proc(5), smaps_rollup), so
//! the sum over many containers divided by their number is what one more costs.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Settings;
use super::figures::{self, Samples};
use super::stage::{Docker, Hull, IMAGE, Podman};
use super::worker::{Start, Worker};
use crate::cgroups;
use crate::peers::Peers;

/// Containers of the peers, which take long to start; the cost per container hardly depends on their number.
const PEER_CONTAINERS: usize = 5;
/// What the containers run.
const IDLE: [&str; 2] = ["sleep", "100000"];

/// Starts the containers, waits until they are quiet, and prints the cost of one.
pub fn measure(settings: &Settings) -> Result<()> {
    let peers = Rc::new(Peers::ready()?);
    let mut samples = Vec::new();
    if settings.wants("hull") {
        samples.push(hull(settings)?);
    }
    if settings.wants("docker") {
        let docker = Docker::ready(settings, peers.clone())?;
        let run = docker.docker(&[&["run", "--detach", "--network", "none", IMAGE], &IDLE[..]].concat())?;
        samples.push(peer("docker (containerd-shim)", &run, "containerd-shim-runc-v2", |name| {
            docker.docker(&["rm", "--force", name])
        })?);
    }
    if settings.wants("podman") {
        let podman = Podman::ready(settings, peers.clone())?;
        let run = podman.podman(&[&["run", "--detach", "--network", "none", IMAGE], &IDLE[..]].concat())?;
        samples.push(peer("podman (conmon)", &run, "conmon", |name| podman.podman(&["rm", "--force", name]))?);
    }
    figures::print(settings, "Processes that keep one idle container", "kB", &samples)
}

fn hull(settings: &Settings) -> Result<Samples> {
    let hull = Hull::ready(settings)?;
    let mut worker = Worker::plain()?;
    let mut names = Vec::new();
    for number in 0..settings.containers {
        let name = format!("idle-{number}");
        let words = [&["run", "--detach", "--network", "none", "--name", &name, IMAGE], &IDLE[..]].concat();
        worker.time(&hull.start(&words)).context("starting an idle container")?;
        names.push(name);
    }
    std::thread::sleep(Duration::from_secs(1));
    let sizes = sizes_kb(&settings.measured.hull)?;
    for name in &names {
        worker.time(&hull.start(&["rm", "--force", name]))?;
    }
    worker.finish()?;
    per_container(&format!("hull ({} processes)", sizes.len()), &sizes, settings.containers)
}

fn peer(title: &str, run: &Start, keeper: &str, remove: impl Fn(&str) -> Result<Start>) -> Result<Samples> {
    let mut worker = Worker::plain()?;
    let mut names = Vec::new();
    for number in 0..PEER_CONTAINERS {
        let name = format!("idle-{number}");
        let mut named = run.clone();
        let image = named.argv.iter().position(|word| word == IMAGE).context("a command without the image")?;
        named.argv.splice(image..image, ["--name".to_string(), name.clone()]);
        worker.time(&named)?;
        names.push(name);
    }
    std::thread::sleep(Duration::from_secs(1));
    let sizes = sizes_kb(Path::new(keeper))?;
    for name in &names {
        worker.time(&remove(name)?)?;
    }
    worker.finish()?;
    per_container(title, &sizes, PEER_CONTAINERS)
}

fn per_container(title: &str, sizes: &[u64], containers: usize) -> Result<Samples> {
    ensure!(!sizes.is_empty(), "{title}: no process was found");
    Ok(Samples { name: title.to_string(), values: vec![sizes.iter().sum::<u64>() as f64 / containers as f64] })
}

/// The PSS of every process of this place whose executable is `program`: a whole path, or a file name.
pub(super) fn sizes_kb(program: &Path) -> Result<Vec<u64>> {
    let hierarchies = cgroups::hierarchies()?;
    let place = &hierarchies.first().context("no cgroup hierarchy")?.mount;
    let mut sizes = Vec::new();
    for pid in cgroups::processes(place) {
        let Ok(executable) = fs::read_link(format!("/proc/{pid}/exe")) else { continue };
        if executable == program || executable.file_name() == Some(program.as_os_str()) {
            sizes.push(pss_kb(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?)?);
        }
    }
    Ok(sizes)
}

fn pss_kb(rollup: &str) -> Result<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no Pss line in smaps_rollup")?;
    Ok(number.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_proportional_size() {
        let rollup = "00400000-7fff ---p 00000000 00:00 0  [rollup]\nRss:  900 kB\nPss:     133 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(pss_kb(rollup).unwrap(), 133);
        assert!(pss_kb("Rss: 1 kB\n").is_err());
    }
}
