//! One round: operations on a store, cut at a numbered operation of its disk, and what is found afterwards.
//!
//! ```text
//! start state (whole, synced)
//!   process 1   one to three operations, each reported when it has returned     <- the cut
//! surviving disk, mounted anew; after a power cut the state folder is empty, as after a boot
//!   process 2   look, verify, collect, no leak, the operation that was cut again, verify, collect, no leak
//! ```
//!
//! What a user sees after the cut is what the last report said, or what the operation in progress was to make of it. A
//! container may be forgotten by a power cut when it was made shortly before (it is not synced), or be there still when
//! it was removed; it is never there in part.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::disk::{Disk, Mood};
use crate::images::{COUNT, Image};
use crate::mounted::{Cut, Mounted, Shared};
use crate::operate::{Operation, Orders, Report, View};
use crate::{LOADED_NAME, registry};

/// The longest a process may take; it waits for nobody.
const LIMIT: Duration = Duration::from_secs(60);
/// What may be answered to an operation that makes no sense in the state it comes to.
const REFUSALS: [&str; 4] = ["No such image", "No such container", "onflict", "no such image"];

/// A store to begin with.
#[derive(Clone)]
pub struct Start {
    /// Its disk.
    pub disk: Disk,
    /// What is seen in it.
    pub view: View,
    /// The configuration file that it was made with.
    pub configuration: PathBuf,
}

/// What all rounds have in common.
pub struct Bed {
    /// Where the registry is.
    pub registry: String,
    /// Folder with the images' archives.
    pub archives: PathBuf,
    /// Stores to begin with.
    pub starts: Vec<Start>,
    /// About how many disk operations an operation takes.
    pub lengths: Vec<u64>,
    /// Whether to write down what each disk operation was.
    pub is_traced: bool,
}

impl Start {
    /// A store of which only the view is known.
    pub fn seen(view: View, configuration: PathBuf) -> Start {
        Start { disk: Disk::new(1), view, configuration }
    }
}

impl Bed {
    /// Images and their registry, and no store to begin with; the archives go to a folder.
    pub fn in_folder(archives: &Path, address: &str) -> Result<Bed> {
        let images = Image::all();
        let registry = registry::serve(&images, address)?.to_string();
        LOADED_NAME.get_or_init(|| registry.clone());
        fs::create_dir_all(archives)?;
        let (archives, lengths) = (archives.to_owned(), vec![0; KINDS]);
        let bed = Bed { registry, archives, starts: Vec::new(), lengths, is_traced: false };
        for (number, image) in images.iter().enumerate() {
            fs::write(bed.archive(number), image.archive(&bed.name(number)))?;
        }
        Ok(bed)
    }

    /// Name of an image, for pulling and after loading.
    pub fn name(&self, image: usize) -> String {
        format!("{}/crash/{image}:latest", self.registry)
    }

    /// Archive of an image.
    pub fn archive(&self, image: usize) -> PathBuf {
        self.archives.join(format!("{image}.tar"))
    }

    /// An operation by chance.
    pub fn operation(&self, random: &mut fastrand::Rng) -> Operation {
        let image = self.name(random.usize(0..COUNT));
        let tag = format!("other:{}", random.u8(0..3));
        match random.u8(0..20) {
            0..4 => Operation::Pull(image),
            4..6 => Operation::Load(self.archive(random.usize(0..COUNT))),
            6 => Operation::Tag(image, tag),
            7..9 => Operation::RemoveImage(if random.bool() { image } else { tag }, false),
            9 => Operation::RemoveImage(image, true),
            10..12 => {
                let volume = random.bool().then(|| format!("volume-{}", random.u8(0..2)));
                Operation::Create(format!("new-{}", random.u8(0..2)), image, volume)
            }
            12..14 => Operation::RemoveContainer(["kept", "new-0", "new-1"][random.usize(0..3)].to_owned()),
            14..16 => Operation::Commit(["kept", "new-0", "new-1"][random.usize(0..3)].to_owned(), tag),
            16 => Operation::Prune(random.bool()),
            17..19 => Operation::Collect,
            _ => Operation::Recover,
        }
    }

    /// About how many disk operations the operation takes.
    fn length(&self, operation: &Operation) -> u64 {
        self.lengths.get(kind(operation)).copied().unwrap_or(100)
    }
}

/// How many kinds [`kind`] tells apart.
const KINDS: usize = 8;

/// Position of an operation's kind in [`Bed::lengths`].
pub fn kind(operation: &Operation) -> usize {
    match operation {
        Operation::Pull(_) => 0,
        Operation::Load(_) => 1,
        Operation::Create(..) => 2,
        Operation::RemoveImage(..) => 3,
        Operation::RemoveContainer(_) => 4,
        Operation::Commit(..) => 5,
        Operation::Prune(_) => 6,
        _ => 7,
    }
}

/// What came of running a process.
struct Ended {
    reports: Vec<Report>,
    words: String,
}

/// Plays the round with this number, and says whether the cut came before the end. The folder is this worker's own.
pub fn play(bed: &Bed, folder: &Path, seed: u64) -> Result<bool> {
    let mut random = fastrand::Rng::with_seed(seed);
    let start = bed.starts[random.usize(0..bed.starts.len())].clone();
    let operations: Vec<Operation> = (0..random.u8(1..4)).map(|_| bed.operation(&mut random)).collect();
    let length: u64 = operations.iter().map(|operation| bed.length(operation)).sum();
    // Most operations find part of their work done, so they are shorter than they can be.
    let number = random.u64(1..=(length * 2 / 3).max(1));
    let is_power = random.u8(0..4) != 0;
    let cut = if is_power { Cut::Power(number) } else { Cut::Kill(number) };
    let mood = [Mood::Least, Mood::Most, Mood::Between, Mood::Between][random.usize(0..4)];
    let kills_at_once = random.bool();
    let (mount, state) = (folder.join("disk"), folder.join("state"));
    clear(&state)?;
    fs::create_dir_all(&mount)?;
    let story = format!("{operations:?}, {cut:?}, {mood:?}");
    let mounted = Mounted::new(start.disk.reseeded(random.u64(..)), &mount, cut, bed.is_traced)?;
    let orders = orders(folder, &start.configuration, &operations);
    let ended = run(&orders, &mounted, folder, kills_at_once);
    let shared = take_off(mounted, &state)?;
    let ended = ended.with_context(|| story.clone())?;
    if bed.is_traced {
        println!("{story}\n{}\n{:?}\n{}", shared.trace().join("\n"), ended.reports, ended.words);
    }
    ensure!(!ended.words.contains("panicked"), "{story}: {}", ended.words);
    let last = told(&start.view, &ended.reports, shared.is_over()).with_context(|| story.clone())?;
    let disk = if is_power { shared.disk().survive(random.u64(..), mood) } else { shared.disk() };
    if is_power {
        clear(&state)?;
    }
    let failed = |report: &Report| report.error.as_ref().is_some_and(|error| !is_refusal(error));
    let interrupted = operations.get(ended.reports.iter().position(failed).unwrap_or(ended.reports.len()));
    let mut later: Vec<Operation> = (0..random.u8(0..4)).map(|_| bed.operation(&mut random)).collect();
    if operations.iter().any(|operation| matches!(operation, Operation::Prune(_))) {
        // Containers go without their volumes, which are the user's until a prune has come to them.
        later.push(Operation::Prune(false));
    }
    let story = format!("{story}, then {later:?}");
    let found = after(bed, &start, folder, disk, is_power, interrupted, &later).with_context(|| story.clone())?;
    compare(&last, &found, interrupted, is_power, &start, &operations).with_context(|| story.clone())?;
    Ok(shared.is_over())
}

/// What the user was told last. Errors before the end must be refusals.
fn told(start: &View, reports: &[Report], is_over: bool) -> Result<View> {
    let mut last = start.clone();
    for report in reports {
        match (&report.view, &report.error) {
            (Some(view), _) => last = view.clone(),
            (None, Some(error)) if is_over || is_refusal(error) => {}
            (None, error) => bail!("failed by itself: {error:?}"),
        }
    }
    Ok(last)
}

pub fn is_refusal(error: &str) -> bool {
    REFUSALS.iter().any(|words| error.contains(words))
}

/// Looks at what survived, goes on working, repeats what was interrupted, and returns what was seen first.
fn after(
    bed: &Bed,
    start: &Start,
    folder: &Path,
    disk: Disk,
    has_booted: bool,
    interrupted: Option<&Operation>,
    later: &[Operation],
) -> Result<View> {
    let (mount, state) = (folder.join("disk"), folder.join("state"));
    let check = [Operation::Verify, Operation::Collect, Operation::Leaks];
    let first = if has_booted { Operation::Boot } else { Operation::Recover };
    let mut operations = vec![first, Operation::Verify];
    operations.extend(later.iter().cloned().chain(check.clone()));
    operations.extend(interrupted.into_iter().cloned().chain(check));
    let may_be_refused = |operation: &Operation| later.contains(operation) || interrupted == Some(operation);
    let orders = orders(folder, &start.configuration, &operations);
    let mounted = Mounted::new(disk, &mount, Cut::Never, bed.is_traced)?;
    let ended = run(&orders, &mounted, folder, false);
    let shared = take_off(mounted, &state)?;
    let ended = ended?;
    if bed.is_traced {
        println!("afterwards\n{}\n{:?}\n{}", shared.trace().join("\n"), ended.reports, ended.words);
    }
    for (operation, report) in operations.iter().zip(&ended.reports) {
        if let Some(error) = report.error.as_ref().filter(|error| !(is_refusal(error) && may_be_refused(operation))) {
            bail!("afterwards, {operation:?}: {error}");
        }
    }
    ensure!(ended.reports.len() == operations.len(), "afterwards: ended early: {}", ended.words);
    ended.reports[0].view.clone().context("no view")
}

/// Compares what is found with what was told.
pub fn compare(
    last: &View,
    found: &View,
    interrupted: Option<&Operation>,
    is_power: bool,
    start: &Start,
    operations: &[Operation],
) -> Result<()> {
    let fits = |wanted: &View| wanted.tags == found.tags && (is_power || wanted.containers == found.containers);
    let fits = |wanted: &View| match interrupted {
        // It takes one thing after another.
        Some(Operation::Prune(_)) => {
            found.tags.iter().all(|(tag, id)| wanted.tags.get(tag) == Some(id))
                && (is_power || found.containers.is_subset(&wanted.containers))
        }
        // Its id has the time in it.
        Some(Operation::Commit(_, tag)) => {
            let others =
                |view: &View| view.tags.clone().into_iter().filter(|(name, _)| name != tag).collect::<Vec<_>>();
            let is_kept = !wanted.tags.contains_key(tag) || found.tags.contains_key(tag);
            is_kept && others(wanted) == others(found) && (is_power || wanted.containers == found.containers)
        }
        _ => fits(wanted),
    };
    let meant = interrupted.map(|operation| outcomes(last, operation)).unwrap_or_default();
    if !fits(last) && !meant.iter().any(fits) {
        bail!("told {last:?}, found {found:?}");
    }
    let removed: BTreeSet<&String> = operations
        .iter()
        .flat_map(|operation| match operation {
            Operation::RemoveContainer(name) => vec![name],
            Operation::Prune(_) => start.view.containers.iter().collect(),
            _ => Vec::new(),
        })
        .collect();
    let lost = start.view.containers.iter().find(|name| !found.containers.contains(*name) && !removed.contains(name));
    ensure!(lost.is_none(), "the container {lost:?} is lost");
    Ok(())
}

/// What a user may see when the operation has been done.
fn outcomes(before: &View, operation: &Operation) -> Vec<View> {
    let mut after = before.clone();
    let known = Image::all();
    let id = |name: &str| {
        let number = known.iter().position(|image| name.contains(&image.repository));
        number.map(|number| known[number].id())
    };
    match operation {
        Operation::Pull(name) => drop(after.tags.insert(name.clone(), id(name).unwrap_or_default())),
        Operation::Create(container, image, _) => {
            after.tags.insert(image.clone(), id(image).unwrap_or_default());
            let pulled = View { tags: after.tags.clone(), ..before.clone() };
            after.containers.insert(container.clone());
            return vec![pulled, after];
        }
        Operation::Load(archive) => {
            let number = archive.file_stem().and_then(|stem| stem.to_str()?.parse::<usize>().ok()).unwrap_or_default();
            let name = LOADED_NAME.get().map(|prefix| format!("{prefix}/crash/{number}:latest"));
            after.tags.insert(name.unwrap_or_default(), known[number].id());
        }
        Operation::Tag(source, target) => {
            if let Some(id) = before.tags.get(source).cloned() {
                after.tags.insert(target.clone(), id);
            }
        }
        Operation::RemoveImage(name, _) => drop(after.tags.remove(name)),
        Operation::RemoveContainer(name) => drop(after.containers.remove(name)),
        _ => {}
    }
    vec![after]
}

/// Runs a process to its end, by itself or by the cut.
fn run(orders: &Orders, mounted: &Mounted, folder: &Path, kills_at_once: bool) -> Result<Ended> {
    let words = folder.join("stderr");
    let mut child = Command::new("/proc/self/exe")
        .arg("operate")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&words)?)
        .spawn()
        .context("starting this program again")?;
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process without a number")?;
    mounted.shared.set_user(pidfd_open(pid, PidfdFlags::empty())?, kills_at_once);
    let mut stdin = child.stdin.take().context("no pipe")?;
    writeln!(stdin, "{}", serde_json::to_string(orders)?)?;
    drop(stdin);
    let output = output(&mut child)?;
    let status = child.wait()?;
    let words = fs::read_to_string(&words)?;
    ensure!(status.code().is_none_or(|code| code == 0), "the process ended with {status}: {words}");
    // A line that was cut short is no report.
    let reports = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let reports = reports.map(serde_json::from_str).collect::<Result<_, _>>().context("a report")?;
    Ok(Ended { reports, words })
}

/// Everything that the process says; it is ended when it takes too long.
fn output(child: &mut Child) -> Result<String> {
    let mut stdout = child.stdout.take().context("no pipe")?;
    let end = Instant::now() + LIMIT;
    let mut all = Vec::new();
    let mut part = [0; 64 << 10];
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now()))?;
        if poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&left))? == 0 {
            child.kill()?;
            child.wait()?;
            bail!("the process hung");
        }
        match stdout.read(&mut part)? {
            0 => return Ok(String::from_utf8(all)?),
            length => all.extend_from_slice(&part[..length]),
        }
    }
}

fn orders(folder: &Path, configuration: &Path, operations: &[Operation]) -> Orders {
    Orders {
        mount: folder.join("disk"),
        state: folder.join("state"),
        configuration: configuration.to_owned(),
        operations: operations.to_vec(),
    }
}

/// Unmounts the disk, and before it what Hull has mounted from it: layers, in the state folder.
fn take_off(mounted: Mounted, state: &Path) -> Result<Arc<Shared>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut inside: Vec<&Path> = points.filter(|point| point.starts_with(state)).collect();
    inside.reverse();
    for point in inside {
        unmount(point, UnmountFlags::DETACH).with_context(|| point.display().to_string())?;
    }
    mounted.unmount().context("unmounting the disk")
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(fs::create_dir_all(folder)?)
}

/// Makes a start state by operations on another one, and says how many disk operations each took.
pub fn prepare(folder: &Path, configuration: &Path, history: &[Operation]) -> Result<(Start, Vec<u64>)> {
    let (mount, state) = (folder.join("disk"), folder.join("state"));
    fs::create_dir_all(&mount)?;
    clear(&state)?;
    let (mut disk, mut counts, mut view) = (Disk::new(1), Vec::new(), View::default());
    for operation in history {
        let mounted = Mounted::new(disk, &mount, Cut::Never, false)?;
        let orders = orders(folder, configuration, std::slice::from_ref(operation));
        let ended = run(&orders, &mounted, folder, false);
        let shared = take_off(mounted, &state)?;
        let ended = ended?;
        let report = ended.reports.first().context("no report")?;
        view = report.view.clone().with_context(|| format!("{operation:?}: {:?} {}", report.error, ended.words))?;
        counts.push(shared.operations());
        disk = shared.disk();
    }
    disk.sync_all();
    Ok((Start { disk, view, configuration: configuration.to_owned() }, counts))
}
