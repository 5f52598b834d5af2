//! `cargo xtask ci`: every check and every test of the project, in order, from a clean clone.
//!
//! A step that fails shows what it printed, and the run goes on; the end is a failure when any step failed. The last
//! line of all counts the tests of every lane, as their runners reported them. A step that fails without a failed test
//! (a lint, a compiler error, something left behind) counts as one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::contained::{self, Request};
use crate::count::Count;
use crate::peers::Peers;
use crate::{conformance, images, layers, program, vm, workspace};

/// The longest a step may take.
const STEP_LIMIT: Duration = Duration::from_secs(30 * 60);
/// How much of a failing step's output is shown; the whole is in its log.
const SHOWN_LINES: usize = 300;

/// One step of the run, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// Formatting, as rustfmt.toml says.
    Fmt,
    /// Clippy over everything, warnings denied.
    Clippy,
    /// The documentation builds, warnings denied.
    Doc,
    /// Who may use whom; headers; no unsafe code.
    Layers,
    /// Unit and integration tests of all crates, and the examples in their documentation.
    Unit,
    /// The privileged end-to-end tests on this machine, in namespaces and cgroups of their own.
    System,
    /// Image and container operations cut at every point, on a disk that keeps only what was synced.
    Crash,
    /// The OCI runtime validation suite on this machine, each of its programs in a place of its own.
    Conformance,
    /// The privileged tests on cgroup v2, in virtual machines.
    Vm,
}

/// Runs the given steps (all when there are none) and prints the count. Returns whether all is well.
pub fn run(only: &[Step], skip: &[Step], filter: &[String]) -> Result<bool> {
    let logs = workspace::folder("xtask/logs")?;
    let mut total = Count::default();
    let mut bad = Vec::new();
    for step in Step::value_variants().iter().filter(|step| only.is_empty() || only.contains(step)) {
        if skip.contains(step) {
            continue;
        }
        let name = format!("{step:?}").to_lowercase();
        println!("==> {name}");
        let log = logs.join(format!("{name}.log"));
        fs::write(&log, "")?;
        let began = Instant::now();
        let ended = step.run(&log, filter);
        let mut count = Count::read(&program::text(&log)?);
        if let Err(error) = &ended {
            count.failed = count.failed.max(1);
            show(&log, error)?;
            bad.push(name.clone());
        }
        total = total + count;
        let word = if ended.is_ok() { "ok" } else { "FAILED" };
        let tests = if count == Count::default() { String::new() } else { format!(", {count}") };
        println!("    {name}: {word} in {:.1} s{tests}", began.elapsed().as_secs_f64());
    }
    if !bad.is_empty() {
        println!("failed: {}", bad.join(", "));
    }
    println!("{total}");
    Ok(bad.is_empty() && total.failed == 0)
}

/// Prints the end of a failing step's log without what went well, and the error.
fn show(log: &Path, error: &anyhow::Error) -> Result<()> {
    let text = program::text(log)?;
    let well = |line: &str| {
        let line = line.trim_start();
        let (building, passed) = (["Compiling ", "Checking ", "Documenting "], line.contains(" ... ok"));
        line.is_empty() || passed || building.iter().any(|word| line.starts_with(word))
    };
    let lines: Vec<&str> = text.lines().filter(|line| !well(line)).collect();
    let hidden = lines.len().saturating_sub(SHOWN_LINES);
    if hidden > 0 {
        println!("    ({hidden} lines more in {})", log.display());
    }
    for line in &lines[hidden..] {
        println!("    {line}");
    }
    println!("    {error:#}");
    Ok(())
}

impl Step {
    fn run(self, log: &Path, filter: &[String]) -> Result<()> {
        match self {
            Step::Fmt => cargo(&["fmt", "--all", "--check"], &[], log),
            Step::Clippy => cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"], &[], log),
            Step::Doc => cargo(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "--deny warnings")], log),
            Step::Layers => layers::check(),
            Step::Unit => unit(log, filter),
            Step::System => system(log, filter),
            Step::Crash => crash(log),
            Step::Conformance => conformance::lane(log, filter),
            Step::Vm => vm::lane(log, filter),
        }
    }
}

fn cargo(arguments: &[&str], env: &[(&str, &str)], log: &Path) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(arguments).envs(env.iter().copied());
    let status = program::logged(&mut command, log, STEP_LIMIT)?;
    if !status.success() {
        bail!("cargo {}: {status}", arguments.join(" "));
    }
    Ok(())
}

/// Builds first, with the network at hand; then runs as root in a contained place, or as a user directly.
fn unit(log: &Path, filter: &[String]) -> Result<()> {
    let chosen = ["--workspace", "--exclude", "system-tests"];
    let runner: &[&str] = if has_nextest() { &["nextest", "run"] } else { &["test", "--no-fail-fast"] };
    let targets: &[&str] = if has_nextest() { &[] } else { &["--lib", "--bins", "--tests"] };
    let arguments = [runner, &chosen, targets].concat();
    cargo(&[&arguments[..], &["--no-run"]].concat(), &[], log)?;
    let filter: Vec<&str> = filter.iter().map(String::as_str).collect();
    let separator: &[&str] = if filter.is_empty() { &[] } else { &["--"] };
    let all = [&arguments[..], separator, &filter].concat();
    let ran = if rustix::process::geteuid().is_root() { apart(&all, log) } else { cargo(&all, &[], log) };
    if filter.is_empty() {
        ran.and(cargo(&["test", "--doc", "--workspace", "--exclude", "system-tests", "--exclude", "xtask"], &[], log))
    } else {
        ran
    }
}

fn has_nextest() -> bool {
    let mut command = workspace::cargo();
    command.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs cargo in a contained place: unit tests of the lower layers make cgroups and mounts too.
fn apart(arguments: &[&str], log: &Path) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let argv = std::iter::once(cargo).chain(arguments.iter().map(|word| word.to_string())).collect();
    let env = BTreeMap::from([("CARGO_NET_OFFLINE".to_string(), "true".to_string())]);
    contain("unit", argv, env, None, log)
}

/// The privileged end-to-end tests against the release build of `hull`.
fn system(log: &Path, filter: &[String]) -> Result<()> {
    let peers = Peers::ready()?;
    images::debian()?;
    fs::remove_dir_all(workspace::folder("system")?)?;
    let files = workspace::folder("system")?;
    let tests = workspace::system_tests()?;
    let mut env = test_environment(&workspace::hull()?, &files, &images::folder()?, "host");
    env.insert("HULL_PEERS".into(), peers.scripts().display().to_string());
    env.insert("RUST_BACKTRACE".into(), "1".into());
    let own = workspace::own_program();
    let words = [own.as_path(), Path::new("inside"), Path::new("tests"), &tests].map(|path| path.display().to_string());
    let argv = words.into_iter().chain(filter.iter().cloned()).collect();
    contain("system", argv, env, Some(files), log)
}

/// The rounds of tests/crash; HULL_CRASH_ROUNDS and HULL_CRASH_SEED say how many and where to begin.
fn crash(log: &Path) -> Result<()> {
    let argv = vec![workspace::crash_tests()?.display().to_string()];
    let env = BTreeMap::from([("RUST_BACKTRACE".to_string(), "1".to_string())]);
    contain("crash", argv, env, None, log)
}

/// What the end-to-end tests are told, in every lane.
pub fn test_environment(hull: &Path, files: &Path, images: &Path, lane: &str) -> BTreeMap<String, String> {
    let text = |path: &Path| path.display().to_string();
    BTreeMap::from([
        ("HULL_BIN".to_string(), text(hull)),
        ("HULL_TEST_DIR".to_string(), text(files)),
        ("HULL_TEST_IMAGES".to_string(), text(images)),
        ("HULL_LANE".to_string(), lane.to_string()),
    ])
}

fn contain(
    name: &str,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    files: Option<PathBuf>,
    log: &Path,
) -> Result<()> {
    let log = Some(log.to_path_buf());
    let writable = if files.is_some() { vec![workspace::folder("")?] } else { Vec::new() };
    let request = Request { name: name.into(), argv, env, files, writable, log, limit: STEP_LIMIT };
    let outcome = contained::run(&request)?;
    if !outcome.left.is_empty() {
        bail!("left behind ({}):\n{}", outcome.status, outcome.left.join("\n"));
    }
    if !outcome.status.success() {
        bail!("the {name} tests: {}", outcome.status);
    }
    Ok(())
}

/// `cargo xtask contained -- PROGRAM ARGS`: runs a program by hand in the place that the system tests run in.
pub fn by_hand(words: &[String]) -> Result<bool> {
    let peers = Peers::ready()?;
    let env = BTreeMap::from([("HULL_PEERS".to_string(), peers.scripts().display().to_string())]);
    let argv = words.to_vec();
    let (limit, writable) = (Duration::MAX, vec![workspace::folder("")?]);
    let request = Request { name: "hand".into(), argv, env, files: None, writable, log: None, limit };
    let outcome = contained::run(&request)?;
    for left in &outcome.left {
        eprintln!("left behind: {left}");
    }
    Ok(outcome.status.success() && outcome.left.is_empty())
}

/// The command line and the machine, as one line: printed under every measurement.
pub fn machine_line() -> Result<String> {
    let kernel = program::output(Command::new("uname").arg("-r"))?;
    let cpus = std::thread::available_parallelism().context("number of CPUs")?;
    let info = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown processor");
    Ok(format!("Linux {}, {cpus} CPUs, {}", kernel.trim(), model.trim_start_matches(['\t', ' ', ':'])))
}
