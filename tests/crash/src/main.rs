//! Crash tests of the store: image and container operations on a disk that keeps only what was synced.
//!
//! ```text
//! disk      what survives a power cut, in memory          mounted   the disk over FUSE, with the cut
//! syncfs    syncfs(2) for it                              operate   the process under test, this program again
//! images    what is pulled, loaded and removed            registry  where it is pulled from
//! endure    the same on a machine that is switched off
//! verify    what must be true, asked independently        round     a cut and what is found afterwards
//! ```
//!
//! `HULL_CRASH_ROUNDS` says how many rounds (1000), `HULL_CRASH_SEED` where they begin (a time, printed), and
//! `HULL_CRASH_TRACE=1` that every disk operation is printed. A failure prints its seed; one round with that seed plays
//! it again, up to the order in which threads and processes run.
//!
//! That it finds something was tried by taking syncs away, 250 to 300 rounds each: the database's before an image is
//! reported (146 failures), the one of a single blob (24), the one before layers are committed (8), the one of a blob's
//! folder (5). The shared one of several blobs (none) is followed by that of the layers, on the same disk.
#![forbid(unsafe_code)]

mod disk;
mod endure;
mod images;
mod mounted;
mod operate;
mod registry;
mod round;
mod syncfs;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result};

use disk::Disk;
use operate::Operation;
use round::Bed;

/// Rounds when nobody says otherwise.
const ROUNDS: u64 = 1000;
/// How layers are kept: every start state is made with each.
const DRIVERS: [&str; 3] = ["erofs", "overlay", "copy"];
/// Failures after which a run gives up.
const FAILURES_MAX: usize = 10;
/// The registry's name, under which archives are loaded too.
static LOADED_NAME: OnceLock<String> = OnceLock::new();

fn main() -> ExitCode {
    let ended = match std::env::args().nth(1).as_deref() {
        Some("operate") => operate::main().map(|()| true),
        Some("endure") => endure::main(&std::env::args().skip(2).collect::<Vec<_>>()).map(|()| true),
        _ => rounds(),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn number(name: &str) -> Result<Option<u64>> {
    let text = std::env::var(name).ok();
    text.map(|text| text.parse().with_context(|| format!("{name}={text}"))).transpose()
}

fn rounds() -> Result<bool> {
    let count = number("HULL_CRASH_ROUNDS")?.unwrap_or(ROUNDS);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let first = number("HULL_CRASH_SEED")?.unwrap_or(now);
    let folder = std::env::temp_dir().join(format!("hull-crash-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let ended = bed(&folder).map(|bed| play(&bed, &folder, first, count));
    let removed = fs::remove_dir_all(&folder).with_context(|| folder.display().to_string());
    let failed = ended?;
    removed?;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("rounds with the seeds {first} to {}", first + count - 1);
    println!("test result: {word}. {} passed; {failed} failed; 0 ignored", count - failed);
    Ok(failed == 0)
}

/// Images, registry and the stores to begin with.
fn bed(folder: &Path) -> Result<Bed> {
    let mut bed = Bed::in_folder(&folder.join("archives"), "127.0.0.1:0")?;
    bed.is_traced = number("HULL_CRASH_TRACE")?.is_some_and(|value| value != 0);
    let name = |number| bed.name(number);
    let volume = || Some("volume-0".to_owned());
    let histories = [
        vec![Operation::Recover],
        vec![Operation::Load(bed.archive(0)), Operation::Prune(false)],
        vec![
            Operation::Pull(name(0)),
            Operation::Pull(name(1)),
            Operation::Tag(name(0), "other:0".to_owned()),
            Operation::Create("kept".to_owned(), name(1), volume()),
        ],
        vec![
            Operation::Load(bed.archive(2)),
            Operation::Create("kept".to_owned(), name(2), None),
            Operation::RemoveImage(name(2), true),
            Operation::Pull(name(0)),
            Operation::Create("new-0".to_owned(), name(0), None),
            Operation::Commit("new-0".to_owned(), "other:1".to_owned()),
            Operation::RemoveContainer("new-0".to_owned()),
            Operation::RemoveImage(name(0), false),
        ],
    ];
    for driver in DRIVERS {
        let file = folder.join(format!("{driver}.toml"));
        fs::write(&file, format!("[storage]\ndriver = \"{driver}\"\n"))?;
        let nothing = round::Start { disk: Disk::new(1), view: operate::View::default(), configuration: file.clone() };
        bed.starts.push(nothing);
        for history in &histories {
            let (start, counts) = round::prepare(folder, &file, history)
                .with_context(|| format!("making a start state with the driver {driver}"))?;
            for (operation, count) in history.iter().zip(counts) {
                let length = &mut bed.lengths[round::kind(operation)];
                *length = (*length).max(count);
            }
            bed.starts.push(start);
        }
    }
    Ok(bed)
}

/// Plays the rounds on all processors and says how many failed.
fn play(bed: &Bed, folder: &Path, first: u64, count: u64) -> u64 {
    let (next, cut) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let own: PathBuf = folder.join(worker.to_string());
            let (next, cut, failures) = (&next, &cut, &failures);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let failed = || failures.lock().unwrap_or_else(PoisonError::into_inner);
                    if number >= count || failed().len() >= FAILURES_MAX {
                        return;
                    }
                    let ended = fs::create_dir_all(&own).map_err(Into::into);
                    let ended = ended.and_then(|()| round::play(bed, &own, first + number));
                    match ended {
                        Err(error) => {
                            println!("seed {}: {error:#}", first + number);
                            failed().push(number);
                        }
                        Ok(was_cut) => drop(cut.fetch_add(u64::from(was_cut), Ordering::Relaxed)),
                    }
                }
            });
        }
    });
    let failed = failures.into_inner().unwrap_or_else(PoisonError::into_inner).len() as u64;
    let played = next.into_inner().min(count);
    println!("{} of {played} rounds were cut before their end", cut.into_inner());
    if played < count {
        println!("given up after {played} rounds");
    }
    failed + (count - played)
}
