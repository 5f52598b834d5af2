//! How long a pull takes, from a registry on loopback, until the image is ready to be run.
//!
//! Two images: Debian as one layer of some 6000 files, and one of twenty small layers. Each candidate pulls the image
//! and then, outside of the time, removes it again. Beside them stands what cannot be avoided: decompressing the layer
//! and hashing its bytes, packed and unpacked (`crates/image/examples/inflate.rs`). Two starts follow: of an image with
//! twenty layers and of one with one.

use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Settings;
use super::figures::{self, Samples};
use super::registry::Registry;
use super::stage::{Docker, Hull, Podman};
use super::start::{Candidate, noted, rounds};
use super::worker::{Start, Worker};
use crate::peers::Peers;
use crate::program;

/// The large image, and the one of many layers.
const DEBIAN: &str = "debian";
const TWENTY: &str = "twenty-layers";
/// Rounds before those that count.
const WARM_UP_ROUNDS: usize = 1;
/// Ways of keeping layers that are measured.
const DRIVERS: [(&str, &str); 2] = [("hull pull (erofs)", "erofs"), ("hull pull (overlay)", "overlay")];

/// The command line that does something with an image.
type Words = Box<dyn Fn(&str) -> Result<Start>>;

/// What pulls an image, and what removes it again.
struct Puller {
    name: &'static str,
    pull: Words,
    remove: Words,
}

/// All measurements of pulls.
pub fn measure(settings: &Settings) -> Result<()> {
    let peers = Rc::new(Peers::ready()?);
    let registry = Registry::start(settings, &peers)?;
    for image in [DEBIAN, TWENTY] {
        registry.fill(settings, &peers, image)?;
    }
    let docker = settings.wants("docker") || settings.wants("ctr");
    let docker = noted("docker and ctr", docker.then(|| Docker::start(settings, peers.clone())));
    let docker = docker.map(Rc::new);
    let mut pullers = Vec::new();
    if settings.wants("hull") {
        for (name, driver) in DRIVERS {
            pullers.push(hull(settings, name, driver)?);
        }
    }
    pullers.extend(docker.iter().filter(|_| settings.wants("docker")).map(of_docker));
    pullers.extend(docker.iter().filter(|_| settings.wants("ctr")).map(of_ctr));
    if settings.wants("podman") {
        pullers.push(of_podman(settings, &peers));
    }
    for (image, title) in [(DEBIAN, "Pull of Debian, one layer"), (TWENTY, "Pull of twenty small layers")] {
        let mut samples = pulls(settings, &pullers, &registry.name(image))?;
        if image == DEBIAN {
            samples.push(least(settings, &registry)?);
        }
        figures::print(settings, title, "ms", &samples)?;
    }
    starts(settings)
}

fn hull(settings: &Settings, name: &'static str, driver: &str) -> Result<Puller> {
    let hull = Hull::with_driver(settings, driver)?;
    let (pulling, removing) = (hull.clone(), hull);
    Ok(Puller {
        name,
        pull: Box::new(move |image| Ok(pulling.start(&["pull", "--quiet", image]))),
        remove: Box::new(move |image| Ok(removing.start(&["rmi", "--force", image]))),
    })
}

fn of_docker(docker: &Rc<Docker>) -> Puller {
    let (pulling, removing) = (docker.clone(), docker.clone());
    Puller {
        name: "docker pull",
        pull: Box::new(move |image| pulling.docker(&["pull", "--quiet", image])),
        remove: Box::new(move |image| removing.docker(&["rmi", "--force", image])),
    }
}

fn of_ctr(docker: &Rc<Docker>) -> Puller {
    let (pulling, removing) = (docker.clone(), docker.clone());
    Puller {
        name: "ctr images pull",
        pull: Box::new(move |image| pulling.ctr(&["images", "pull", "--plain-http", image])),
        remove: Box::new(move |image| removing.ctr(&["images", "rm", "--sync", image])),
    }
}

fn of_podman(settings: &Settings, peers: &Rc<Peers>) -> Puller {
    let podman = Rc::new(Podman::new(settings, peers.clone()));
    let (pulling, removing) = (podman.clone(), podman);
    Puller {
        name: "podman pull",
        pull: Box::new(move |image| pulling.podman(&["pull", "--quiet", "--tls-verify=false", image])),
        remove: Box::new(move |image| removing.podman(&["rmi", "--force", image])),
    }
}

/// Every candidate pulls the image once in each round, and removes it.
fn pulls(settings: &Settings, pullers: &[Puller], image: &str) -> Result<Vec<Samples>> {
    let mut worker = Worker::plain()?;
    let mut samples: Vec<Samples> = pullers.iter().map(|puller| Samples::of(puller.name)).collect();
    let mut failed = vec![false; pullers.len()];
    for round in 0..settings.rounds + WARM_UP_ROUNDS {
        for turn in 0..pullers.len() {
            let index = (round + turn) % pullers.len();
            if failed[index] {
                continue;
            }
            match pull_once(&mut worker, &pullers[index], image) {
                Ok(taken) if round >= WARM_UP_ROUNDS => samples[index].add(taken),
                Ok(_) => {}
                Err(error) => {
                    eprintln!("{}: not measured: {error:#}", pullers[index].name);
                    failed[index] = true;
                    samples[index].values.clear();
                }
            }
        }
    }
    worker.finish()?;
    if failed.iter().all(|failed| *failed) {
        bail!("nothing could be measured");
    }
    Ok(samples)
}

fn pull_once(worker: &mut Worker, puller: &Puller, image: &str) -> Result<Duration> {
    // What the removal before this left for the disk to do is not the next candidate's.
    rustix::fs::sync();
    let taken = worker.time(&(puller.pull)(image)?)?;
    let remove = (puller.remove)(image)?;
    program::quiet(Command::new(&remove.argv[0]).args(&remove.argv[1..]).envs(&remove.env)).context("removing")?;
    Ok(taken)
}

/// Decompressing and hashing alone.
fn least(settings: &Settings, registry: &Registry) -> Result<Samples> {
    let argv = vec![settings.inflate.display().to_string(), registry.largest_blob()?.display().to_string()];
    let start = Start { argv, env: Default::default() };
    let mut worker = Worker::plain()?;
    let mut samples = Samples::of("decompression and hashes");
    for round in 0..settings.rounds + WARM_UP_ROUNDS {
        let taken = worker.time(&start)?;
        if round >= WARM_UP_ROUNDS {
            samples.add(taken);
        }
    }
    worker.finish()?;
    Ok(samples)
}

/// `hull run` of an image with one layer and of one with twenty.
fn starts(settings: &Settings) -> Result<()> {
    if !settings.wants("hull") {
        return Ok(());
    }
    for (_, driver) in DRIVERS {
        let hull = Hull::with_driver(settings, driver)?;
        let mut candidates = Vec::new();
        for (name, image) in [("one layer", "busybox"), ("twenty layers", TWENTY)] {
            hull.load(image)?;
            let start = hull.start(&["run", "--rm", "--network", "none", image, "true"]);
            candidates.push(Candidate { name, start, sees_v2: true });
        }
        let samples = rounds(settings, &candidates, settings.idle_ms)?;
        figures::print(settings, &format!("hull run by layers ({driver})"), "ms", &samples)?;
    }
    Ok(())
}
