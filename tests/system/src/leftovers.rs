//! What a Hull may leave behind, looked for in the kernel and on disk: processes, mounts, cgroups and files.
//!
//! Everything of a Hull carries its folders' names: its processes in their arguments or environment, its mounts in
//! mountinfo, its cgroups in the instance's name, which is derived from the state folder. The shared mounts of layers
//! may stay as long as their images do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hull_store::Roots;

use crate::is_vm;

/// Everything of this Hull except what `stored` names: one sentence each.
pub fn of(roots: &Roots, folder: &Path, stored: &BTreeSet<PathBuf>) -> Vec<String> {
    let mut left: Vec<String> = processes(folder).into_iter().map(|process| format!("process {process}")).collect();
    left.extend(mounts(folder).into_iter().filter(|line| stored.is_empty() || !is_layer_mount(line, roots)));
    left.extend(cgroups(&roots.instance()).iter().map(|path| format!("cgroup {}", path.display())));
    let now = self::stored(roots);
    let extra = files(&roots.state, 1).into_iter().chain(now.difference(stored).cloned());
    let extra = extra.filter(|path| *path != roots.layer_mounts() || stored.is_empty());
    left.extend(extra.map(|path| format!("file {}", path.display())));
    left
}

/// Mounts of layers, and the folder that they are in: what has to be gone with the last image.
pub fn of_layers(roots: &Roots) -> Vec<String> {
    let layers = roots.layer_mounts();
    let folder = layers.exists().then(|| format!("file {}", layers.display()));
    mounts(&layers).into_iter().chain(folder).collect()
}

/// Whether a line of [`mounts`] is about the folder of layers or one right below it, and no other place.
fn is_layer_mount(line: &str, roots: &Roots) -> bool {
    let layers = roots.layer_mounts();
    // `mount` and five fields before the place (proc_pid_mountinfo(5)).
    let place = line.split(' ').nth(5).map(Path::new);
    place.is_some_and(|place| place == layers || place.parent() == Some(&layers))
}

/// Asks until nothing is left, or it has been long enough for processes that were told to end.
pub fn settled(mut look: impl FnMut() -> Vec<String>) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(if is_vm() { 40 } else { 10 });
    loop {
        let left = look();
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Files of the store that images and nothing else should be the reason of: containers, volumes, snapshots, content.
pub fn stored(roots: &Roots) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    found.extend(files(&roots.containers(), 1));
    found.extend(files(&roots.volumes(), 1));
    found.extend(files(&roots.snapshots(), 2).into_iter().filter(|path| path.components().count() > depth(roots)));
    found.extend(files(&roots.content(), 4).into_iter().filter(|path| !path.is_dir()));
    found
}

fn depth(roots: &Roots) -> usize {
    roots.snapshots().components().count() + 1
}

/// Paths below a folder, down to a depth.
fn files(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path(), depth - 1));
        }
        found.push(entry.path());
    }
    found
}

/// Processes that have the folder in their arguments or environment, as `pid command`.
pub fn processes(folder: &Path) -> Vec<String> {
    let folder = folder.as_os_str().as_encoded_bytes();
    let names =
        |path: PathBuf| fs::read(path).is_ok_and(|bytes| bytes.windows(folder.len()).any(|window| window == folder));
    let mut found = Vec::new();
    for pid in pids().into_iter().filter(|pid| *pid != std::process::id()) {
        let place = PathBuf::from(format!("/proc/{pid}"));
        if names(place.join("cmdline")) || names(place.join("environ")) {
            let words = fs::read(place.join("cmdline")).unwrap_or_default();
            found.push(format!("{pid} {}", String::from_utf8_lossy(&words).replace('\0', " ")));
        }
    }
    found
}

/// Processes called `name` that have ended and that nobody has waited for.
pub fn zombies(name: &str) -> BTreeSet<u32> {
    let is_zombie = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(&format!("({name}")) && stat.contains(") Z ")
    };
    pids().into_iter().filter(is_zombie).collect()
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn mounts(folder: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let folder = folder.display().to_string();
    mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("mount {line}")).collect()
}

/// Where a cgroup hierarchy may be mounted.
pub fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = files(root, 1).into_iter().filter(|path| path.is_dir() && !path.is_symlink());
    hierarchies.chain([root.to_path_buf()]).collect()
}

/// The instance's cgroups in every hierarchy.
fn cgroups(instance: &str) -> Vec<PathBuf> {
    let all = hierarchies().into_iter().map(|hierarchy| hierarchy.join(instance));
    all.filter(|path| path.exists()).collect()
}

/// Ends what is left, so that one test's failure does not become the next one's.
pub fn end(roots: &Roots) {
    for cgroup in cgroups(&roots.instance()) {
        let folders = files(&cgroup, 4).into_iter().filter(|path| path.is_dir());
        for folder in folders.chain([cgroup.clone()]) {
            for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
                kill(pid);
            }
            // It may take a moment until the cgroup is empty; what stays is the lane's to report.
            settled(|| match fs::remove_dir(&folder) {
                Err(_) if folder.exists() => vec![folder.display().to_string()],
                _ => Vec::new(),
            });
        }
    }
    let all = processes(&roots.state);
    all.iter().filter_map(|process| process.split(' ').next()).for_each(kill);
}

fn kill(pid: &str) {
    let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in the meantime.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
}
