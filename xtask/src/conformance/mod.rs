//! The OCI runtime validation suite, run against Hull: `cargo xtask conformance`.
//!
//! ```text
//! suite     fetches and builds it
//! tap       one program's results
//! expected  the programs that no runtime passes in a place, and why
//! guest     the same in the virtual machine, on cgroup v2
//! ```
//!
//! Each program runs in a contained place of its own, because they leave containers behind and one mounts onto the
//! host. A program that is expected to pass and does not fails the lane, and so does one that passes against the list.
//! `--runtime` runs the suite with another runtime, to see what that one passes; nothing is expected of it.

mod expected;
pub mod guest;
mod suite;
mod tap;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::contained::{self, Request};
use crate::peers::Peers;
use crate::{program, vm, workspace};
use expected::{Expected, Place};
pub use suite::Suite;
use tap::Results;

/// The longest one program may take: they wait for ten seconds at most for what never comes.
const PROGRAM_LIMIT: Duration = Duration::from_secs(90);
/// How many run at once on each processor: they sleep for most of the time.
const AT_ONCE: usize = 2;

/// `cargo xtask conformance`.
#[derive(clap::Args)]
pub struct Args {
    /// Another runtime: a peer by name, or a path.
    #[arg(long)]
    runtime: Option<String>,
    /// In the virtual machine.
    #[arg(long, conflicts_with = "runtime")]
    vm: bool,
    /// Parts of program names.
    #[arg(last = true)]
    filter: Vec<String>,
}

/// One program's end.
struct Ended {
    complaint: Option<String>,
    left: Vec<String>,
    seconds: f64,
}

/// Runs the suite by hand, with its words on the terminal.
pub fn run(args: &Args) -> Result<bool> {
    let log = workspace::folder("xtask/logs")?.join("conformance.log");
    File::create(&log)?;
    let ended = match &args.runtime {
        None if args.vm => vm::conformance(&log, &args.filter),
        None => lane(&log, &args.filter),
        Some(name) => survey(&runtime(name)?, &args.filter, &log),
    };
    print!("{}", program::text(&log)?);
    if let Err(error) = &ended {
        eprintln!("Error: {error:#}");
    }
    Ok(ended.is_ok())
}

/// The lane as a step of the whole run.
pub fn lane(log: &Path, filter: &[String]) -> Result<()> {
    let hull = named("hull-runc", &workspace::hull()?)?;
    let suite = Suite::ready()?;
    let ended = programs(&suite, &hull, filter)?;
    let (text, is_good) = judge(&ended, Place::Machine);
    note(log, &text)?;
    if !is_good { bail!("see {}", logs()?.display()) } else { Ok(()) }
}

/// What another runtime passes.
fn survey(runtime: &Path, filter: &[String], log: &Path) -> Result<()> {
    let ended = programs(&Suite::ready()?, runtime, filter)?;
    let mut text = String::new();
    for (name, end) in &ended {
        let word = end.complaint.as_deref().unwrap_or("ok");
        text += &format!("{name}: {word} ({:.1} s)\n", end.seconds);
    }
    let passed = ended.values().filter(|end| end.complaint.is_none()).count();
    note(log, &format!("{text}{passed} of {} pass", ended.len()))
}

fn runtime(name: &str) -> Result<PathBuf> {
    let path = if name.contains('/') { PathBuf::from(name) } else { Peers::ready()?.scripts().join(name) };
    fs::canonicalize(&path).with_context(|| path.display().to_string())
}

/// A link to the program under the name that makes it an OCI runtime.
fn named(name: &str, program: &Path) -> Result<PathBuf> {
    let link = workspace::folder("conformance/bin")?.join(name);
    if link.is_symlink() {
        fs::remove_file(&link)?;
    }
    symlink(program, &link).with_context(|| link.display().to_string())?;
    Ok(link)
}

fn logs() -> Result<PathBuf> {
    workspace::folder("conformance/logs")
}

/// Runs the programs that the filter lets through, several at once.
fn programs(suite: &Suite, runtime: &Path, filter: &[String]) -> Result<BTreeMap<String, Ended>> {
    let wanted = |name: &String| filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()));
    let names: VecDeque<String> = suite.programs()?.into_iter().filter(wanted).collect();
    let waiting = Mutex::new(names);
    let ended = Mutex::new(BTreeMap::new());
    let at_once = std::thread::available_parallelism().context("number of processors")?.get() * AT_ONCE;
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(name) = waiting.lock().ok().and_then(|mut names| names.pop_front()) {
                    let end = one(suite, runtime, &name).unwrap_or_else(|error| Ended::broken(&error));
                    if let Ok(mut ended) = ended.lock() {
                        ended.insert(name, end);
                    }
                }
            });
        }
    });
    Ok(ended.into_inner().unwrap_or_default())
}

impl Ended {
    fn broken(error: &anyhow::Error) -> Ended {
        Ended { complaint: Some(format!("{error:#}")), left: Vec::new(), seconds: 0.0 }
    }
}

fn one(suite: &Suite, runtime: &Path, name: &str) -> Result<Ended> {
    let log = logs()?.join(format!("{name}.log"));
    fs::write(&log, "")?;
    let bundles = workspace::folder(&format!("conformance/bundles/{name}"))?;
    let script = "cd \"$0\" && exec \"./$1\"";
    let words = ["sh", "-c", script, &suite.folder.display().to_string(), name].map(str::to_string);
    let env = BTreeMap::from([
        ("RUNTIME".to_string(), runtime.display().to_string()),
        ("TMPDIR".to_string(), bundles.display().to_string()),
    ]);
    let request = Request {
        name: format!("conformance-{name}"),
        argv: words.to_vec(),
        env,
        files: None,
        writable: vec![workspace::folder("")?],
        log: Some(log.clone()),
        limit: PROGRAM_LIMIT,
    };
    let began = Instant::now();
    let outcome = contained::run(&request)?;
    fs::remove_dir_all(&bundles).with_context(|| bundles.display().to_string())?;
    let complaint = Results::read(&program::text(&log)?).complaint(outcome.status.success());
    Ok(Ended { complaint, left: outcome.left, seconds: began.elapsed().as_secs_f64() })
}

/// Compares the ends with what is expected, one line each, and the summary that counts them.
fn judge(ended: &BTreeMap<String, Ended>, place: Place) -> (String, bool) {
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    let mut text = String::new();
    for (name, end) in ended {
        let word = match (expected::of(name, place), &end.complaint) {
            (Expected::Pass | Expected::Either(_), None) => {
                passed += 1;
                "ok".to_string()
            }
            (Expected::Pass, Some(complaint)) => {
                failed += 1;
                format!("FAILED: {complaint}")
            }
            (Expected::Fail(reason), None) => {
                failed += 1;
                format!("FAILED: it passes, and the list says that it cannot: {reason}")
            }
            (Expected::Fail(reason) | Expected::Either(reason), Some(_)) => {
                ignored += 1;
                format!("ignored: {reason}")
            }
        };
        text += &format!("test {name} ... {word} ({:.1} s)\n", end.seconds);
        text += &end.left.iter().map(|left| format!("    left: {left}\n")).collect::<String>();
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    text += &format!("test result: {word}. {passed} passed; {failed} failed; {ignored} ignored\n");
    (text, failed == 0)
}

fn note(log: &Path, text: &str) -> Result<()> {
    let mut file = File::options().append(true).create(true).open(log)?;
    Ok(writeln!(file, "{}", text.trim_end())?)
}
