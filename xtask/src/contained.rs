//! A place for privileged tests: own mount and network namespaces, inside of safety cgroups that appear as the root.
//!
//! ```text
//! xtask             makes the safety cgroups, waits, kills and removes what is left
//!  `- inside join   joins every safety cgroup, then executes unshare --mount --net --cgroup
//!      `- inside run    sees each safety cgroup as /, mounts them as /sys/fs/cgroup, /run empty, loopback up
//!          `- the program
//! ```
//!
//! In the private mount namespace the machine's view of /sys/fs/cgroup is detached and rebuilt from the safety cgroups,
//! in the same layout. So an absolute cgroup path that a test makes is below them, mountinfo and /proc/self/cgroup look
//! as on a whole machine, and the machine's own mounts are never touched. After the program has ended, mounts, cgroups,
//! processes, interfaces and test files that it left are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_move, mount_remount, unmount};
use rustix::process::{WaitOptions, WaitStatus, getpid, set_child_subreaper, wait};
use serde::{Deserialize, Serialize};

use crate::cgroups::{self, Hierarchy, Safety};
use crate::{images, program, workspace};

/// Where cgroup hierarchies are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// How long processes that were told to end may take before they count as left over.
const GRACE: Duration = Duration::from_secs(5);

/// What to run and how.
pub struct Request {
    /// Names the lane in cgroups, logs and reports.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Environment variables besides the inherited ones.
    pub env: BTreeMap<String, String>,
    /// The folder that tests make their files in; it must be empty afterwards.
    pub files: Option<PathBuf>,
    /// The folders that the program may write to; the machine's other files are then read-only for it, and /tmp is
    /// an empty one of its own. When there are none, the files are as they are.
    pub writable: Vec<PathBuf>,
    /// Where the program's output goes; the terminal when there is none.
    pub log: Option<PathBuf>,
    /// The longest the program may take.
    pub limit: Duration,
}

/// How it ended.
pub struct Outcome {
    /// The program's own end.
    pub status: ExitStatus,
    /// What it left behind, one sentence each.
    pub left: Vec<String>,
}

/// What `inside join` and `inside run` are told, through a file.
#[derive(Serialize, Deserialize)]
struct Plan {
    folders: Vec<(Hierarchy, PathBuf)>,
    outer_mount_namespace: PathBuf,
    stage: PathBuf,
    busybox: PathBuf,
    own_program: PathBuf,
    writable: Vec<PathBuf>,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    files: Option<PathBuf>,
    report: PathBuf,
}

/// Runs a program in such a place.
pub fn run(request: &Request) -> Result<Outcome> {
    if !rustix::process::geteuid().is_root() {
        bail!("{} needs root: it makes namespaces and cgroups", request.name);
    }
    let id = format!("hull-{}-{}", request.name, std::process::id());
    let folder = workspace::folder("xtask")?;
    let stage = workspace::folder(&format!("xtask/{id}.stage"))?;
    let busybox = images::busybox()?;
    let safety = Safety::make(&id)?;
    let plan = Plan {
        folders: safety.folders().map(|(hierarchy, path)| (hierarchy.clone(), path.to_path_buf())).collect(),
        outer_mount_namespace: fs::read_link("/proc/self/ns/mnt")?,
        stage: stage.clone(),
        busybox,
        own_program: workspace::own_program(),
        writable: request.writable.clone(),
        argv: request.argv.clone(),
        env: request.env.clone(),
        files: request.files.clone(),
        report: folder.join(format!("{id}.report")),
    };
    let ended = start(&plan, &folder.join(format!("{id}.plan")), request);
    let mut left = safety.remove()?;
    fs::remove_dir(&stage)?;
    let status = ended?;
    let report = fs::read_to_string(&plan.report).context("the contained runner ended without its report")?;
    left.extend(report.lines().map(str::to_string));
    fs::remove_file(&plan.report)?;
    Ok(Outcome { status, left })
}

fn start(plan: &Plan, file: &Path, request: &Request) -> Result<ExitStatus> {
    fs::write(file, serde_json::to_string(plan)?)?;
    let mut command = Command::new(&plan.own_program);
    command.args(["inside", "join"]).arg(file);
    let status = match &request.log {
        Some(log) => program::logged(&mut command, log, request.limit),
        None => command.status().context("cannot start xtask inside"),
    };
    fs::remove_file(file)?;
    status
}

/// `xtask inside join PLAN`: joins the safety cgroups and enters the namespaces. Returns only on failure.
pub fn join(file: &Path) -> Result<()> {
    let plan = read(file)?;
    for (_, folder) in &plan.folders {
        cgroups::write(&folder.join("cgroup.procs"), "0")?;
    }
    let error = Command::new("unshare")
        .args(["--mount", "--net", "--cgroup", "--propagation", "private", "--"])
        .arg(&plan.own_program)
        .args(["inside", "run"])
        .arg(file)
        .exec();
    Err(error).context("cannot start unshare (util-linux)")
}

/// `xtask inside run PLAN`: prepares the view, runs the program, and writes what it left. Returns its exit code.
pub fn inside(file: &Path) -> Result<u8> {
    let plan = read(file)?;
    if fs::read_link("/proc/self/ns/mnt")? == plan.outer_mount_namespace {
        bail!("this is still the machine's mount namespace");
    }
    for (_, folder) in plan.folders.iter().filter(|(hierarchy, _)| hierarchy.is_v2) {
        cgroups::settle_v2(folder)?;
    }
    show_cgroups(&plan.folders, &plan.stage)?;
    fresh_tmpfs("/run", c"mode=755")?;
    if !plan.writable.is_empty() {
        keep_files(&plan.writable)?;
    }
    program::quiet(Command::new(&plan.busybox).args(["ip", "link", "set", "lo", "up"]))?;
    let hierarchies = plan.folders.iter().map(|(hierarchy, _)| hierarchy.mount.clone()).collect();
    let mut folders: Vec<PathBuf> = plan.files.iter().cloned().chain(["/run/hull".into()]).collect();
    if !plan.writable.is_empty() {
        folders.push("/tmp".into());
    }
    let place = Place { hierarchies, folders };
    let before = Traces::now(&place)?;
    let (name, arguments) = plan.argv.split_first().context("no program to run")?;
    // Orphans come to this process, which reaps them: on a machine whose first process does not, programs that wait
    // for a daemonized child to be gone would wait for ever.
    set_child_subreaper(Some(getpid())).context("becoming a subreaper")?;
    let child = Command::new(name).args(arguments).envs(&plan.env).spawn().with_context(|| name.clone())?;
    let status = reap_until(i32::try_from(child.id())?)?;
    let left = Traces::settled(&place, &before)?;
    fs::write(&plan.report, left.join("\n"))?;
    Ok(status.exit_status().map_or(1, |code| u8::try_from(code).unwrap_or(1)))
}

/// Reaps every child until the one with the number `pid` has ended.
fn reap_until(pid: i32) -> Result<WaitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended.as_raw_nonzero().get() == pid => return Ok(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for the program"),
        }
    }
}

/// Reaps the orphans that have ended by now.
fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

fn read(file: &Path) -> Result<Plan> {
    Ok(serde_json::from_str(&fs::read_to_string(file).with_context(|| file.display().to_string())?)?)
}

fn fresh_tmpfs(path: &str, options: &CStr) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount(c"tmpfs", path, c"tmpfs", flags, options).with_context(|| format!("tmpfs on {path}"))
}

/// Makes the root mount of this mount namespace read-only, and the temporary folders empty ones of its own.
/// Only the mount changes, not the file system: the machine itself goes on writing.
fn keep_files(writable: &[PathBuf]) -> Result<()> {
    for path in ["/tmp", "/var/tmp", "/dev/shm"] {
        fresh_tmpfs(path, c"mode=1777")?;
    }
    for folder in writable {
        mount_bind(folder, folder).with_context(|| folder.display().to_string())?;
    }
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, c"").context("making / read-only")
}

/// Rebuilds /sys/fs/cgroup of this mount namespace from the given folders, each at the place of its hierarchy.
pub fn show_cgroups(folders: &[(Hierarchy, PathBuf)], stage: &Path) -> Result<()> {
    let root = Path::new(CGROUP_ROOT);
    let whole = folders.iter().find(|(hierarchy, _)| hierarchy.mount == root);
    if let Some((_, folder)) = whole {
        mount_bind(folder, stage).with_context(|| folder.display().to_string())?;
    } else {
        mount(c"tmpfs", stage, c"tmpfs", MountFlags::empty(), c"mode=755").context("tmpfs for the cgroup view")?;
        copy_links(root, stage)?;
    }
    for (hierarchy, folder) in folders {
        let Ok(below) = hierarchy.mount.strip_prefix(root) else { continue };
        if below.as_os_str().is_empty() {
            continue;
        }
        let place = stage.join(below);
        if !place.exists() {
            fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
        }
        mount_bind(folder, &place).with_context(|| folder.display().to_string())?;
    }
    unmount(root, UnmountFlags::DETACH).context("detaching the old view of /sys/fs/cgroup")?;
    mount_move(stage, root).context("moving the new view to /sys/fs/cgroup")?;
    Ok(())
}

/// Links such as `cpu -> cpu,cpuacct` beside the hierarchies.
fn copy_links(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Where to look for what a program left, besides mounts and interfaces.
pub struct Place {
    /// Mount points of cgroup hierarchies.
    pub hierarchies: Vec<PathBuf>,
    /// Folders in which every file counts.
    pub folders: Vec<PathBuf>,
}

/// What a program can leave behind in its place, one sentence each.
pub struct Traces(BTreeSet<String>);

impl Traces {
    /// What is there now.
    pub fn now(place: &Place) -> Result<Traces> {
        let mut found = BTreeSet::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let source = line.rsplit(" - ").next().unwrap_or_default();
            found.insert(format!("mount {} of {source} (number {})", fields[4], fields[0]));
        }
        let interfaces = fs::read_to_string("/proc/self/net/dev")?;
        let names = interfaces.lines().filter_map(|line| line.split_once(':'));
        found.extend(names.map(|(name, _)| format!("interface {}", name.trim())));
        for mount in &place.hierarchies {
            // By its path in the hierarchy: what is in all of them is said once.
            let folders = cgroups::subtree(mount);
            let below = folders.iter().filter_map(|path| path.strip_prefix(mount).ok());
            found.extend(below.map(|path| format!("cgroup /{}", path.display())));
            let alive = cgroups::processes(mount).into_iter().filter(|pid| !is_kernel_thread(*pid));
            found.extend(alive.map(|pid| format!("process {pid} {}", command_line(pid))));
        }
        for folder in &place.folders {
            let entries = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| entry.ok());
            found.extend(entries.map(|entry| format!("file {}", entry.path().display())));
        }
        Ok(Traces(found))
    }

    /// What is there beyond `before`, once processes that were told to end have had their time.
    pub fn settled(place: &Place, before: &Traces) -> Result<Vec<String>> {
        let end = Instant::now() + GRACE;
        loop {
            reap();
            let left = Traces::now(place)?.beyond(before);
            if left.is_empty() || Instant::now() > end {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn beyond(&self, before: &Traces) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Children of kthreadd (2) and it itself: the root cgroup of a whole machine holds them.
fn is_kernel_thread(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    pid == 2 || after_name.split(' ').nth(1) == Some("2")
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").chars().take(200).collect()
}
