//! The safety cgroups: one folder in each cgroup hierarchy, holding everything that a test lane starts.
//!
//! They are made below the cgroup that xtask itself is in, so that no limit of the machine is left behind; on a v2-only
//! machine below the nearest ancestor that hands out controllers, because a v2 cgroup with processes cannot. The lane's
//! runner joins them and then enters a cgroup namespace, for which each safety cgroup is `/` (see `contained`).
//! On v2 the runner sits in a leaf, `runner`, so that the root of its view can hand out controllers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// At most this many processes and threads in a lane.
const PIDS_MAX: &str = "4096";
/// At most this much memory for a lane, in bytes: 8 GB.
const MEMORY_MAX_BYTES: &str = "8589934592";
/// The leaf that holds the runner on cgroup v2.
pub const RUNNER: &str = "runner";

/// One mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Whether it is cgroup v2.
    pub is_v2: bool,
    /// The folder of the cgroup that this process is in.
    pub own: PathBuf,
}

/// The hierarchies of this machine, and where this process is in each.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let own = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
    let found: Vec<Hierarchy> = mounts.lines().filter_map(|line| hierarchy(line, &own)).collect();
    if found.is_empty() {
        bail!("no cgroup hierarchy is mounted that this process can see");
    }
    Ok(found)
}

/// Reads one line of mountinfo, if it is a cgroup mount that shows this process's own cgroup.
fn hierarchy(line: &str, own: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let right: Vec<&str> = right.split(' ').collect();
    let (root, mount) = (*left.get(3)?, PathBuf::from(left.get(4)?));
    let is_v2 = match *right.first()? {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    let options: Vec<&str> = right.get(2)?.split(',').collect();
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let same = if is_v2 { controllers.is_empty() } else { controllers.split(',').all(|c| options.contains(&c)) };
        (same && is_v2 == controllers.is_empty()).then_some(path)
    })?;
    let below = Path::new(path).strip_prefix(root).ok()?;
    Some(Hierarchy { own: mount.join(below), mount, is_v2 })
}

/// The safety cgroups of one lane, one per hierarchy in the order of `hierarchies`.
pub struct Safety {
    folders: Vec<(Hierarchy, PathBuf)>,
}

impl Safety {
    /// Makes the cgroups, with their limits, under the name `name`.
    pub fn make(name: &str) -> Result<Safety> {
        let mut safety = Safety { folders: Vec::new() };
        for hierarchy in hierarchies()? {
            if let Err(error) = safety.add(hierarchy, name) {
                safety.remove()?;
                return Err(error);
            }
        }
        Ok(safety)
    }

    fn add(&mut self, hierarchy: Hierarchy, name: &str) -> Result<()> {
        let parent = if hierarchy.is_v2 { delegating_ancestor(&hierarchy) } else { hierarchy.own.clone() };
        let folder = parent.join(name);
        sweep(&parent, name)?;
        fs::create_dir(&folder).with_context(|| format!("safety cgroup {}", folder.display()))?;
        let is_v2 = hierarchy.is_v2;
        self.folders.push((hierarchy, folder.clone()));
        if is_v2 { fill_v2(&folder) } else { fill_v1(&parent, &folder) }
    }

    /// Pairs of mount point and safety cgroup, as arguments for the process that enters them.
    pub fn folders(&self) -> impl Iterator<Item = (&Hierarchy, &Path)> {
        self.folders.iter().map(|(hierarchy, folder)| (hierarchy, folder.as_path()))
    }

    /// Kills what is still running in the cgroups and removes them. Returns what was found there.
    pub fn remove(self) -> Result<Vec<String>> {
        let alive: BTreeSet<i32> = self.folders.iter().flat_map(|(_, folder)| processes(folder)).collect();
        let mut found = Vec::new();
        for pid in alive {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.push(format!("process {pid} ({}), killed", name.trim()));
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                // It may end by itself between the two looks; what matters is that the cgroup gets empty.
                let _already_gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for (_, folder) in &self.folders {
            remove_tree(folder)?;
        }
        Ok(found)
    }
}

/// Removes what an earlier lane of this name (`<lane>-<pid>`) left when it was killed: cgroups whose maker is gone and
/// that hold no process.
fn sweep(parent: &Path, name: &str) -> Result<()> {
    let Some((lane, _)) = name.rsplit_once('-') else { return Ok(()) };
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        let maker = path.file_name().and_then(|found| found.to_str()?.strip_prefix(lane)?.strip_prefix('-'));
        let is_gone = maker.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists());
        if is_gone && processes(&path).is_empty() {
            remove_tree(&path)?;
        }
    }
    Ok(())
}

/// The nearest ancestor that hands memory and pids to its children; the own cgroup when there is none.
fn delegating_ancestor(hierarchy: &Hierarchy) -> PathBuf {
    let mut folder = hierarchy.own.as_path();
    while folder.starts_with(&hierarchy.mount) {
        let given = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
        let given: Vec<&str> = given.split_whitespace().collect();
        if given.contains(&"memory") && given.contains(&"pids") {
            return folder.to_path_buf();
        }
        let Some(parent) = folder.parent() else { break };
        folder = parent;
    }
    hierarchy.own.clone()
}

fn fill_v1(parent: &Path, folder: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read_to_string(parent.join(file)) {
            write(&folder.join(file), value.trim())?;
        }
    }
    limit(folder, "pids.max", PIDS_MAX)?;
    limit(folder, "memory.limit_in_bytes", MEMORY_MAX_BYTES)
}

fn fill_v2(folder: &Path) -> Result<()> {
    limit(folder, "pids.max", PIDS_MAX)?;
    limit(folder, "memory.max", MEMORY_MAX_BYTES)?;
    fs::create_dir(folder.join(RUNNER)).with_context(|| folder.display().to_string())
}

/// Moves this process from a v2 safety cgroup to its leaf, and lets the cgroup hand out every controller it has.
pub fn settle_v2(folder: &Path) -> Result<()> {
    write(&folder.join(RUNNER).join("cgroup.procs"), "0")?;
    let controllers = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        write(&folder.join("cgroup.subtree_control"), &format!("+{controller}"))?;
    }
    Ok(())
}

/// Writes a limit where the hierarchy has that file.
fn limit(folder: &Path, file: &str, value: &str) -> Result<()> {
    let path = folder.join(file);
    if path.exists() { write(&path, value) } else { Ok(()) }
}

/// Writes a value to a cgroup file.
pub fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("writing {value} to {}", path.display()))
}

/// The processes in a cgroup and in all cgroups below it.
pub fn processes(folder: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for folder in subtree(folder) {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    found
}

/// A cgroup and all cgroups below it, the deepest last.
pub fn subtree(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_path_buf()];
    let mut next = 0;
    while next < found.len() {
        let children = fs::read_dir(&found[next]).into_iter().flatten().filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_type().ok()?.is_dir().then(|| entry.path())
        });
        let children: Vec<PathBuf> = children.collect();
        found.extend(children);
        next += 1;
    }
    found
}

/// Removes a cgroup and everything below it, waiting up to two seconds for killed processes to be gone.
fn remove_tree(folder: &Path) -> Result<()> {
    for folder in subtree(folder).iter().rev() {
        let mut tries = 0;
        while let Err(error) = fs::remove_dir(folder) {
            tries += 1;
            if error.kind() == std::io::ErrorKind::NotFound {
                break;
            }
            if tries > 100 {
                return Err(error).with_context(|| format!("removing cgroup {}", folder.display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "9:name=systemd:/\n4:memory:/jobs/one\n2:cpuacct,cpu:/\n0::/\n";

    #[test]
    fn finds_the_own_cgroup_in_each_hierarchy() {
        let memory = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";
        let found = hierarchy(memory, OWN).unwrap();
        assert_eq!(found.own, Path::new("/sys/fs/cgroup/memory/jobs/one"));
        assert!(!found.is_v2);
        let joint = "35 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct";
        assert_eq!(hierarchy(joint, OWN).unwrap().own, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        let named = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd";
        assert!(hierarchy(named, OWN).is_some());
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        assert!(hierarchy(unified, OWN).unwrap().is_v2);
    }

    #[test]
    fn passes_over_what_does_not_show_the_own_cgroup() {
        let elsewhere = "35 31 0:32 /jobs/two /mnt/memory rw - cgroup cgroup rw,memory";
        assert_eq!(hierarchy(elsewhere, OWN), None);
        assert_eq!(hierarchy("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard", OWN), None);
        let inside = "35 31 0:32 /jobs /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        assert_eq!(hierarchy(inside, OWN).unwrap().own, Path::new("/sys/fs/cgroup/memory/one"));
    }
}
