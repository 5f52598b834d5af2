//! How long a container takes from the command to its exit.
//!
//! Candidates run in turn, in rounds; each round begins with the next one. A candidate that cannot be measured here is
//! named with its reason, and the others go on.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::figures::{self, Samples};
use super::stage::{Docker, Hull, IMAGE, Podman};
use super::worker::{Start, Worker};
use super::{Settings, runtime};
use crate::peers::Peers;

/// Rounds before those that count.
const WARM_UP_ROUNDS: usize = 3;

/// What is started for one candidate in one round; `{id}` in an argument becomes a new name.
pub(super) struct Candidate {
    /// Its row in the table.
    pub name: &'static str,
    /// What is timed.
    pub start: Start,
    /// Whether it copes with cgroup v1 and v2 side by side.
    pub sees_v2: bool,
}

/// `hull run` beside docker, podman and ctr, and then the runtimes alone.
pub fn whole(settings: &Settings) -> Result<()> {
    let peers = Rc::new(Peers::ready()?);
    let mut candidates = Vec::new();
    let hull = noted("hull", settings.wants("hull").then(|| Hull::ready(settings)));
    if let Some(hull) = &hull {
        let start = hull.start(&["run", "--rm", "--network", "none", IMAGE, "true"]);
        candidates.push(Candidate { name: "hull run", start, sees_v2: true });
    }
    let wants_docker = settings.wants("docker") || settings.wants("ctr");
    let docker = noted("docker and ctr", wants_docker.then(|| Docker::ready(settings, peers.clone())));
    if let Some(docker) = &docker {
        let start = docker.docker(&["run", "--rm", "--network", "none", IMAGE, "true"])?;
        candidates.push(Candidate { name: "docker run", start, sees_v2: true });
        let image = format!("docker.io/library/{IMAGE}:latest");
        let start = docker.ctr(&["run", "--rm", &image, "{id}", "true"])?;
        candidates.push(Candidate { name: "ctr run", start, sees_v2: true });
    }
    let podman = noted("podman", settings.wants("podman").then(|| Podman::ready(settings, peers.clone())));
    if let Some(podman) = &podman {
        let start = podman.podman(&["run", "--rm", "--network", "none", IMAGE, "true"])?;
        candidates.push(Candidate { name: "podman run", start, sees_v2: true });
    }
    let samples = rounds(settings, &candidates, settings.idle_ms)?;
    drop(docker);
    figures::print(settings, "Start of a container (five layers, no network)", "ms", &samples)?;
    runtime::measure(settings)
}

/// What could be prepared; a reason on standard error for what could not.
pub(super) fn noted<T>(name: &str, ready: Option<Result<T>>) -> Option<T> {
    match ready? {
        Ok(ready) => Some(ready),
        Err(error) => {
            eprintln!("{name}: not measured: {error:#}");
            None
        }
    }
}

/// Runs the candidates in turn, with a pause before each, and gives their times.
pub(super) fn rounds(settings: &Settings, candidates: &[Candidate], idle_ms: u64) -> Result<Vec<Samples>> {
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
            std::thread::sleep(Duration::from_millis(idle_ms));
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
pub(super) fn has_both() -> Result<bool> {
    let hierarchies = crate::cgroups::hierarchies()?;
    Ok(hierarchies.iter().any(|one| one.is_v2) && hierarchies.iter().any(|one| !one.is_v2))
}

/// `start` with `id` in the place of `{id}`.
pub(super) fn named(start: &Start, id: &str) -> Start {
    let argv = start.argv.iter().map(|word| if word == "{id}" { id.to_string() } else { word.clone() }).collect();
    Start { argv, env: start.env.clone() }
}
