//! The OCI runtimes alone, on one bundle: `hull oci` beside crun, runc, and the floor.
//!
//! The floor is a program that makes the same system calls with nothing around them
//! (`crates/runtime/examples/floor.rs`): what a row takes beyond it is the runtime's own work. Each command of a
//! container's life is timed by itself; a burst is many containers created and started, and then deleted.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::figures::{self, Samples};
use super::stage::{self, Hull};
use super::start::{Candidate, has_both, named, rounds};
use super::worker::{Start, Worker};
use super::{Settings, bundle};
use crate::peers::Peers;
use crate::{cgroups, program};

/// The pause that lets a machine become idle.
const IDLE_MS: u64 = 100;
/// Containers of one burst, and how many bursts.
const BURST: usize = 100;
const BURST_ROUNDS: usize = 3;
/// Rounds before those that count.
const WARM_UP_ROUNDS: usize = 2;

/// A runtime with its folder of states; its words follow.
struct Runtime {
    name: &'static str,
    start: Start,
    sees_v2: bool,
}

impl Runtime {
    fn words(&self, words: &[&str]) -> Start {
        let argv = self.start.argv.iter().cloned().chain(words.iter().map(|word| word.to_string())).collect();
        Start { argv, env: self.start.env.clone() }
    }

    fn candidate(&self, words: &[&str]) -> Candidate {
        Candidate { name: self.name, start: self.words(words), sees_v2: self.sees_v2 }
    }
}

/// Everything that is measured of runtimes alone.
pub fn measure(settings: &Settings) -> Result<()> {
    let runtimes = runtimes(settings)?;
    let plain = make_bundle(settings, "plain", &["/bin/true"], None)?;
    let filter = default_filter(settings)?;
    let filtered = make_bundle(settings, "filtered", &["/bin/true"], Some(&filter))?;
    let compiled = settings.dir.join("filter");
    let config = Path::new(&filtered).join("config.json");
    program::quiet(Command::new(&settings.measured.floor).arg("compile").args([&config, &compiled]))
        .context("floor compile")?;

    run(settings, &runtimes, &plain, "-", settings.idle_ms, "run: six namespaces, no filter")?;
    let compiled = compiled.display().to_string();
    run(settings, &runtimes, &filtered, &compiled, settings.idle_ms, "run: docker's default seccomp profile")?;
    run(settings, &runtimes, &plain, "-", IDLE_MS, "run: after 100 ms idle")?;
    let sleeping = make_bundle(settings, "sleeping", &["/bin/sleep", "1000"], None)?;
    lives(settings, &runtimes, &sleeping)?;
    bursts(settings, &runtimes, &sleeping)?;
    peaks(settings, &runtimes, &sleeping)
}

/// Makes a bundle in the folder of the measurement.
pub fn make_bundle(settings: &Settings, name: &str, args: &[&str], seccomp: Option<&Value>) -> Result<String> {
    Ok(bundle::make(&settings.dir, name, args, seccomp)?.display().to_string())
}

fn runtimes(settings: &Settings) -> Result<Vec<Runtime>> {
    let peers = Peers::ready()?;
    let mut runtimes = Vec::new();
    if settings.wants("hull") {
        let argv =
            [&settings.measured.hull.display().to_string(), "oci", "--root", "/run/hull-bench-oci"].map(str::to_string);
        let start = Start { argv: argv.to_vec(), env: Default::default() };
        runtimes.push(Runtime { name: "hull oci", start, sees_v2: true });
    }
    for (name, sees_v2) in [("crun", false), ("runc", true)] {
        if settings.wants(name) {
            let root = format!("/run/hull-peers/{name}");
            runtimes.push(Runtime { name, start: stage::peer(&peers, name, &["--root", &root])?, sees_v2 });
        }
    }
    Ok(runtimes)
}

/// Docker's default profile as a container of `hull run` gets it.
pub fn default_filter(settings: &Settings) -> Result<Value> {
    let hull = Hull::ready(settings)?;
    let run = |words: &[&str]| {
        let start = hull.start(words);
        program::output(Command::new(&start.argv[0]).args(&start.argv[1..]))
    };
    let id = run(&["run", "--detach", "--network", "none", stage::IMAGE, "sleep", "1000"])?;
    let config = fs::read(Path::new("/run/hull-bench").join(id.trim()).join("config.json"));
    run(&["rm", "--force", id.trim()])?;
    let config: Value = serde_json::from_slice(&config.context("the config.json of a container")?)?;
    Ok(config["linux"]["seccomp"].clone())
}

/// `run` of a whole short life, beside the floor.
fn run(settings: &Settings, runtimes: &[Runtime], bundle: &str, filter: &str, idle_ms: u64, title: &str) -> Result<()> {
    let mut candidates: Vec<Candidate> =
        runtimes.iter().map(|runtime| runtime.candidate(&["run", "--bundle", bundle, "{id}"])).collect();
    candidates.push(Candidate {
        name: "the system calls alone",
        start: floor(settings, bundle, filter)?,
        sees_v2: true,
    });
    let samples = rounds(settings, &candidates, idle_ms)?;
    figures::print(settings, title, "ms", &samples)
}

fn floor(settings: &Settings, bundle: &str, filter: &str) -> Result<Start> {
    let state = Path::new("/run/hull-bench-floor");
    fs::create_dir_all(state)?;
    let words = [&format!("{bundle}/rootfs"), &state.display().to_string(), "{id}", filter].map(str::to_string);
    let mut argv = vec![settings.measured.floor.display().to_string(), "run".into()];
    argv.extend(words);
    for hierarchy in cgroups::hierarchies()? {
        let mark = if hierarchy.is_v2 { "+" } else { "" };
        argv.push(format!("{mark}{}", hierarchy.mount.display()));
    }
    Ok(Start { argv, env: Default::default() })
}

/// The two views of the cgroups that runtimes are started in.
struct Workers {
    plain: Worker,
    without_v2: Option<Worker>,
}

impl Workers {
    fn ready(settings: &Settings) -> Result<Workers> {
        let stage = settings.dir.join("cgroup-view");
        let without_v2 = if has_both()? { Some(Worker::without_v2(&stage)?) } else { None };
        Ok(Workers { plain: Worker::plain()?, without_v2 })
    }

    fn of(&mut self, runtime: &Runtime) -> &mut Worker {
        self.without_v2.as_mut().filter(|_| !runtime.sees_v2).unwrap_or(&mut self.plain)
    }

    fn finish(self) -> Result<()> {
        self.plain.finish()?;
        self.without_v2.map(Worker::finish).transpose().map(drop)
    }
}

/// Each command of a container's life, timed by itself.
fn lives(settings: &Settings, runtimes: &[Runtime], bundle: &str) -> Result<()> {
    let steps: [(&str, &[&str]); 4] = [
        ("create", &["create", "--bundle", bundle, "{id}"]),
        ("start", &["start", "{id}"]),
        ("exec of true", &["exec", "{id}", "/bin/true"]),
        ("delete --force of a running container", &["delete", "--force", "{id}"]),
    ];
    let mut workers = Workers::ready(settings)?;
    let mut samples: Vec<Vec<Samples>> =
        steps.iter().map(|_| runtimes.iter().map(|runtime| Samples::of(runtime.name)).collect()).collect();
    for round in 0..settings.rounds + WARM_UP_ROUNDS {
        for turn in 0..runtimes.len() {
            let index = (round + turn) % runtimes.len();
            let runtime = &runtimes[index];
            std::thread::sleep(Duration::from_millis(settings.idle_ms));
            for (step, (_, words)) in steps.iter().enumerate() {
                let start = named(&runtime.words(words), &format!("life-{round}-{index}"));
                let taken = workers.of(runtime).time(&start)?;
                if round >= WARM_UP_ROUNDS {
                    samples[step][index].add(taken);
                }
            }
        }
    }
    workers.finish()?;
    for ((title, _), samples) in steps.iter().zip(&samples) {
        figures::print(settings, title, "ms", samples)?;
    }
    Ok(())
}

/// Many containers created and started, and then deleted, one command after the other.
fn bursts(settings: &Settings, runtimes: &[Runtime], bundle: &str) -> Result<()> {
    let mut workers = Workers::ready(settings)?;
    let mut samples: Vec<Samples> = runtimes.iter().map(|runtime| Samples::of(runtime.name)).collect();
    for round in 0..BURST_ROUNDS {
        for turn in 0..runtimes.len() {
            let index = (round + turn) % runtimes.len();
            let runtime = &runtimes[index];
            let worker = workers.of(runtime);
            let mut total = Duration::ZERO;
            // A container is started right after it was created, as a client does.
            for number in 0..BURST {
                let id = format!("burst-{round}-{index}-{number}");
                for words in [&["create", "--bundle", bundle, "{id}"][..], &["start", "{id}"]] {
                    total += worker.time(&named(&runtime.words(words), &id))?;
                }
            }
            for number in 0..BURST {
                let id = format!("burst-{round}-{index}-{number}");
                total += worker.time(&named(&runtime.words(&["delete", "--force", "{id}"]), &id))?;
            }
            samples[index].add(total);
        }
    }
    workers.finish()?;
    figures::print(settings, &format!("a burst: {BURST} containers created and started, then deleted"), "ms", &samples)
}

/// The most memory that the runtime itself has had while its container runs.
fn peaks(settings: &Settings, runtimes: &[Runtime], bundle: &str) -> Result<()> {
    let mut workers = Workers::ready(settings)?;
    let mut samples: Vec<Samples> = runtimes.iter().map(|runtime| Samples::of(runtime.name)).collect();
    for round in 0..BURST_ROUNDS {
        for (index, runtime) in runtimes.iter().enumerate() {
            let id = format!("peak-{round}-{index}");
            let run = named(&runtime.words(&["run", "--bundle", bundle, "{id}"]), &id);
            samples[index].values.push(workers.of(runtime).peak_kb(&run, "sleep")? as f64);
        }
    }
    workers.finish()?;
    figures::print(settings, "peak resident memory of run", "kB", &samples)
}
