//! The container's file systems: mounts and kernel parameters.
//!
//! Every mount is attached below the root mount at a place resolved inside it. What procfs is, is decided by the file system's magic number, never by a
//! path, so a link or a fake /proc in an image changes nothing (CVE-2019-16884, CVE-2019-19921).

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::mounts::{self, FilesystemOption, MOUNT_ATTR_RDONLY, MountAttributes, MountError, inside};
use hull_kernel::tree;
use rustix::fs::{
    AtFlags, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, StatxAttributes, StatxFlags, fstat, fstatfs, openat2, statx,
};
use rustix::io::Errno;

use super::cgroup_mount;
use crate::failure::{InitFailure, Step};
use crate::plan::{CgroupHierarchies, HostTree, InitPlan, MountAction, MountPlan, Tree, check_null};

/// Where procfs is expected.
pub(super) const PROC: &str = "/proc";

/// Files below /proc that a mount may cover (the list that runc allows).
const MOUNTABLE_BELOW_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// A mount operation that failed at a step.
pub(super) fn at(step: Step) -> impl Fn(MountError) -> InitFailure {
    move |error| InitFailure::mount(step, &error)
}

/// Clones what only the child can clone, before anything of the host's is covered or cut off.
pub(super) fn complete(plan: &mut InitPlan) -> Result<(), InitFailure> {
    for mount in &mut plan.mounts {
        if let MountAction::Tree(tree) = &mut mount.action {
            tree.complete().map_err(at(Step::Mount))?;
        }
    }
    for tree in plan.devices.iter_mut().filter_map(|device| device.bind.as_mut()) {
        tree.complete().map_err(at(Step::Device))?;
    }
    if let Some(null @ Tree::Later(_)) = &mut plan.null_device {
        null.complete().map_err(at(Step::Mask))?;
        null.cloned().map_or(Ok(()), check_null).map_err(at(Step::Mask))?;
    }
    Ok(())
}

/// What is made and still needed.
#[derive(Default)]
pub(super) struct Mounted {
    /// The procfs at /proc, when the container has one of its own there.
    proc: Option<OwnedFd>,
    /// Whether kernel parameters can be written through it.
    has_parameters: bool,
    /// What becomes read-only in the end.
    read_only_late: Vec<(OwnedFd, String)>,
}

/// Makes every mount in order.
pub(super) fn mount_all(root: &OwnedFd, plans: &mut [MountPlan]) -> Result<Mounted, InitFailure> {
    let mut mounted = Mounted::default();
    for plan in plans {
        let subject = plan.destination.display().to_string();
        if let MountAction::Remount { here, tree, filesystem } = &plan.action {
            let target = remount(root, &plan.destination, here, tree, filesystem.as_deref())?;
            propagate(&target, plan, &subject)?;
            continue;
        }
        let inherited = inherited_mode(root, plan);
        let mount = make(plan, inherited)?;
        let target = target(root.as_fd(), plan, mount.as_fd())?;
        if plan.copy_up {
            tree::copy_tree(target.as_fd(), mount.as_fd())
                .map_err(|error| InitFailure::because(Step::Mount, subject.as_str(), error))?;
        }
        propagate(&mount, plan, &subject)?;
        mounts::attach(mount.as_fd(), target.as_fd(), &subject).map_err(at(Step::Mount))?;
        match &plan.action {
            MountAction::Cgroup { hierarchies: CgroupHierarchies::Legacy(hierarchies), attributes } => {
                cgroup_mount::attach_new(&mount, hierarchies, *attributes)?;
            }
            MountAction::Cgroup { hierarchies: CgroupHierarchies::LegacyOwn(layout, wanted), attributes } => {
                cgroup_mount::attach_own(&mount, layout, wanted, *attributes)?;
            }
            MountAction::Filesystem { kind, options, attributes, .. }
                if kind == "proc" && plan.destination == Path::new(PROC) =>
            {
                let is_whole = !options.iter().any(|option| option.key == "subset");
                mounted.has_parameters = is_whole && attributes & MOUNT_ATTR_RDONLY == 0;
                mounted.proc = Some(mount);
            }
            // Covered by something else.
            _ if plan.destination == Path::new(PROC) => mounted.proc = None,
            _ if plan.is_read_only_late() => mounted.read_only_late.push((mount, subject)),
            _ => {}
        }
    }
    Ok(mounted)
}

impl Mounted {
    /// The procfs at /proc, when the container has one of its own there.
    pub(super) fn proc(&self) -> Option<&OwnedFd> {
        self.proc.as_ref()
    }

    /// The same, when kernel parameters can be written through it.
    pub(super) fn parameters(&self) -> Option<&OwnedFd> {
        self.proc().filter(|_| self.has_parameters)
    }

    /// Makes read-only what had to wait for it.
    pub(super) fn finish(&self) -> Result<(), InitFailure> {
        let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        for (mount, subject) in &self.read_only_late {
            mounts::set_attributes(mount.as_fd(), false, &attributes, subject).map_err(at(Step::ReadOnly))?;
        }
        Ok(())
    }
}

fn propagate(mount: &OwnedFd, plan: &MountPlan, subject: &str) -> Result<(), InitFailure> {
    for (propagation, recursive) in &plan.propagation {
        let attributes = MountAttributes { propagation: *propagation as u64, ..MountAttributes::default() };
        mounts::set_attributes(mount.as_fd(), *recursive, &attributes, subject).map_err(at(Step::Mount))?;
    }
    Ok(())
}

/// The mode of the directory that a tmpfs covers, where the spec gives it none, as runc does.
fn inherited_mode(root: &OwnedFd, plan: &MountPlan) -> Option<FilesystemOption> {
    let MountAction::Filesystem { kind, options, .. } = &plan.action else { return None };
    if kind != "tmpfs" || options.iter().any(|option| option.key == "mode") {
        return None;
    }
    let covered = inside::open_path(root.as_fd(), &plan.destination).ok()?;
    let mode = fstat(&covered).ok()?.st_mode & 0o7777;
    Some(FilesystemOption { key: "mode".to_owned(), value: Some(format!("{mode:o}")) })
}

/// The detached mount of one plan; a tree was cloned before. `inherited` is one more option of a tmpfs.
fn make(plan: &mut MountPlan, inherited: Option<FilesystemOption>) -> Result<OwnedFd, InitFailure> {
    let late = plan.is_read_only_late();
    let named = |mut error: MountError| {
        error.subject = format!("{} at {}", error.subject, plan.destination.display());
        InitFailure::mount(Step::Mount, &error)
    };
    match &mut plan.action {
        MountAction::Tree(tree) => tree.take().map_err(named),
        MountAction::Filesystem { kind, source, options, attributes } => {
            options.extend(inherited);
            let now = if late { *attributes & !MOUNT_ATTR_RDONLY } else { *attributes };
            match mounts::new_filesystem(kind, Some(source), options, now) {
                // The network namespace that it would show belongs to somebody else: the host's, as that one sees it.
                Err(error) if kind == "sysfs" && error.errno == Errno::PERM => {
                    let whole = MountAttributes { set: now, ..MountAttributes::default() };
                    HostTree { whole, ..HostTree::plain("/sys", true) }.clone_detached().map_err(|_| named(error))
                }
                other => other.map_err(named),
            }
        }
        MountAction::Cgroup { hierarchies: CgroupHierarchies::Unified, attributes } => {
            mounts::new_filesystem("cgroup2", Some("cgroup"), &[], *attributes).map_err(named)
        }
        MountAction::Cgroup { attributes, .. } => {
            let mode = FilesystemOption::parse("mode=755");
            mounts::new_filesystem("tmpfs", Some("cgroup"), &[mode], *attributes & !MOUNT_ATTR_RDONLY).map_err(named)
        }
        MountAction::Remount { .. } => Err(named(MountError::new("mount", "nothing new", Errno::INVAL))),
    }
}

/// Changes what is mounted at `destination`, and gives it.
fn remount(
    root: &OwnedFd,
    destination: &Path,
    here: &MountAttributes,
    tree: &MountAttributes,
    filesystem: Option<&[FilesystemOption]>,
) -> Result<OwnedFd, InitFailure> {
    let subject = format!("{} (remount)", destination.display());
    let failed = |errno| InitFailure::new(Step::Mount, subject.as_str(), errno);
    let mount = inside::open_path(root.as_fd(), destination).map_err(failed)?;
    let stat = statx(&mount, c"", AtFlags::EMPTY_PATH, StatxFlags::empty()).map_err(failed)?;
    if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(InitFailure::because(Step::Mount, subject, "nothing is mounted there"));
    }
    for (recursive, attributes) in [(true, tree), (false, here)] {
        if *attributes != MountAttributes::default() {
            mounts::set_attributes(mount.as_fd(), recursive, attributes, &subject).map_err(at(Step::Mount))?;
        }
    }
    if let Some(options @ [_, ..]) = filesystem {
        mounts::reconfigure(mount.as_fd(), options, &subject).map_err(at(Step::Mount))?;
    }
    Ok(mount)
}

/// Resolves, and where needed makes, the place of a mount.
fn target(root: BorrowedFd<'_>, plan: &MountPlan, mount: BorrowedFd<'_>) -> Result<OwnedFd, InitFailure> {
    let refused = |errno| InitFailure::new(Step::Mount, plan.destination.display().to_string(), errno);
    if let MountAction::Filesystem { kind, .. } = &plan.action
        && (kind == "proc" || kind == "sysfs")
    {
        return kernel_directory(root, &plan.destination).map_err(refused);
    }
    let target = inside::mount_point(root, &plan.destination, mount).map_err(at(Step::Mount))?;
    let below_proc = plan.destination == Path::new(PROC) || is_proc(target.as_fd());
    let allowed = MOUNTABLE_BELOW_PROC.iter().any(|path| Path::new(path) == plan.destination);
    if below_proc && !allowed && !is_proc(mount) {
        return Err(InitFailure::because(
            Step::Mount,
            plan.destination.display().to_string(),
            "it is inside /proc, where only the kernel decides",
        ));
    }
    Ok(target)
}

fn is_proc(mount: BorrowedFd<'_>) -> bool {
    fstatfs(mount).is_ok_and(|stat| stat.f_type == PROC_SUPER_MAGIC)
}

/// The directory for procfs or sysfs: an ordinary one, no link anywhere on its path.
fn kernel_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let relative = path.strip_prefix("/").unwrap_or(path);
    match openat2(root, relative, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT) => {
            inside::make_directory(root, path, Mode::from_raw_mode(0o755)).map_err(|error| error.errno)?;
            openat2(root, relative, flags, Mode::empty(), resolve)
        }
        other => other,
    }
}

/// Writes kernel parameters through the container's own procfs, or a private one when it mounts none.
pub(super) fn set_sysctls(proc: Option<&OwnedFd>, sysctls: &[(PathBuf, String)]) -> Result<(), InitFailure> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let private;
    let proc = match proc {
        Some(proc) => proc,
        None => {
            private = mounts::new_filesystem("proc", Some("proc"), &[], 0).map_err(at(Step::Sysctl))?;
            &private
        }
    };
    for (path, value) in sysctls {
        let failed = |error: std::io::Error| match Errno::from_io_error(&error) {
            Some(errno) => InitFailure::new(Step::Sysctl, path.display().to_string(), errno),
            None => InitFailure::because(Step::Sysctl, path.display().to_string(), error),
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let below = Path::new("sys").join(path);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat2(proc, &below, flags, Mode::empty(), resolve).map_err(|errno| failed(errno.into()))?;
        std::fs::File::from(file).write_all(value.as_bytes()).map_err(failed)?;
    }
    Ok(())
}
