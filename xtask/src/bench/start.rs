//! How long a container takes from the command to its exit, and how long a runtime alone takes.
//!
//! Candidates run in turn, in rounds; each round begins with the next one. A candidate that cannot be measured here is
//! named with its reason, and the others go on.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::figures::{self, Samples};
use super::stage::{self, Docker, Hull, IMAGE, Podman};
use super::worker::{Start, Worker};
use super::{Settings, bundle};
use crate::peers::Peers;

/// Rounds before those that count.
const WARM_UP_ROUNDS: usize = 3;

/// What is started for one candidate in one round; `{id}` in an argument becomes a new name.
struct Candidate {
    name: &'static str,
    start: Start,
    sees_v2: bool,
}

/// `hull run` beside docker, podman and ctr, and then the runtimes alone.
pub fn whole(settings: &Settings) -> Result<()> {
    let peers = Peers::ready()?;
    let mut candidates = Vec::new();
    let hull = noted("hull", settings.wants("hull").then(|| Hull::ready(settings)));
    if let Some(hull) = &hull {
        let start = hull.start(&["run", "--rm", "--network", "none", IMAGE, "true"]);
        candidates.push(Candidate { name: "hull run", start, sees_v2: true });
    }
    let wants_docker = settings.wants("docker") || settings.wants("ctr");
    let docker = noted("docker and ctr", wants_docker.then(|| Docker::ready(settings, &peers)));
    if let Some(docker) = &docker {
        let start = docker.docker(&["run", "--rm", "--network", "none", IMAGE, "true"])?;
        candidates.push(Candidate { name: "docker run", start, sees_v2: true });
        let image = format!("docker.io/library/{IMAGE}:latest");
        let start = docker.ctr(&["run", "--rm", &image, "{id}", "true"])?;
        candidates.push(Candidate { name: "ctr run", start, sees_v2: true });
    }
    let podman = noted("podman", settings.wants("podman").then(|| Podman::ready(settings, &peers)));
    if let Some(podman) = &podman {
        let start = podman.podman(&["run", "--rm", "--network", "none", IMAGE, "true"])?;
        candidates.push(Candidate { name: "podman run", start, sees_v2: true });
    }
    let samples = rounds(settings, candidates)?;
    drop(docker);
    figures::print(settings, "Start of a container (five layers, no network)", "ms", &samples)?;
    runtimes(settings)
}

/// `hull oci run` beside runc and crun, on one bundle.
pub fn runtimes(settings: &Settings) -> Result<()> {
    let peers = Peers::ready()?;
    let bundle = bundle::make(&settings.dir)?.display().to_string();
    let mut candidates = Vec::new();
    if settings.wants("hull") {
        let argv = [&settings.hull.display().to_string(), "oci", "--root", "/run/hull-bench-oci", "run", "--bundle"];
        let mut argv: Vec<String> = argv.map(str::to_string).to_vec();
        argv.extend([bundle.clone(), "{id}".into()]);
        candidates.push(Candidate {
            name: "hull oci run",
            start: Start { argv, env: Default::default() },
            sees_v2: true,
        });
    }
    for (name, title, sees_v2) in [("runc", "runc run", true), ("crun", "crun run", false)] {
        if settings.wants(name) {
            let root = format!("/run/hull-peers/{name}");
            let start = stage::peer(&peers, name, &["--root", &root, "run", "--bundle", &bundle, "{id}"])?;
            candidates.push(Candidate { name: title, start, sees_v2 });
        }
    }
    let samples = rounds(settings, candidates)?;
    figures::print(settings, "A runtime alone (six namespaces, minimal bundle)", "ms", &samples)
}

/// What could be prepared; a reason on standard error for what could not.
fn noted<T>(name: &str, ready: Option<Result<T>>) -> Option<T> {
    match ready? {
        Ok(ready) => Some(ready),
        Err(error) => {
            eprintln!("{name}: not measured: {error:#}");
            None
        }
    }
}

fn rounds(settings: &Settings, candidates: Vec<Candidate>) -> Result<Vec<Samples>> {
    let mut plain = Worker::plain()?;
    let mut without_v2 = None;
    if candidates.iter().any(|candidate| !candidate.sees_v2) && has_both()? {
        without_v2 = Some(Worker::without_v2(&settings.dir.join("cgroup-view")).context("a view without cgroup v2")?);
    }
    let mut samples: Vec<Samples> = candidates.iter().map(|candidate| Samples::of(candidate.name)).collect();
    let mut failed = vec![false; candidates.len()];
    for round in 0..settings.rounds + WARM_UP_ROUNDS {
        for turn in 0..candidates.len() {
            let index = (round + turn) % candidates.len();
            let candidate = &candidates[index];
            if failed[index] {
                continue;
            }
            std::thread::sleep(Duration::from_millis(settings.idle_ms));
            let worker = without_v2.as_mut().filter(|_| !candidate.sees_v2).unwrap_or(&mut plain);
            match worker.time(&named(&candidate.start, &format!("bench-{round}-{index}"))) {
                Ok(taken) if round >= WARM_UP_ROUNDS => samples[index].add(taken),
                Ok(_) => {}
                Err(error) => {
                    eprintln!("{}: not measured: {error:#}", candidate.name);
                    failed[index] = true;
                    samples[index].values.clear();
                }
            }
        }
    }
    plain.finish()?;
    without_v2.map(Worker::finish).transpose()?;
    if failed.iter().all(|failed| *failed) {
        bail!("nothing could be measured");
    }
    Ok(samples)
}

/// Whether cgroup v1 and v2 are both mounted.
fn has_both() -> Result<bool> {
    let hierarchies = crate::cgroups::hierarchies()?;
    Ok(hierarchies.iter().any(|one| one.is_v2) && hierarchies.iter().any(|one| !one.is_v2))
}

fn named(start: &Start, id: &str) -> Start {
    let argv = start.argv.iter().map(|word| if word == "{id}" { id.to_string() } else { word.clone() }).collect();
    Start { argv, env: start.env.clone() }
}
