//! The container's file systems: root, mounts, kernel parameters, and leaving the host's tree for good.
//!
//! The root mount is attached over the child's own `/`, every other mount below it at a place resolved inside it, and
//! pivot_root(2) then makes it the root. What procfs is, is decided by the file system's magic number, never by a
//! path, so a link or a fake /proc in an image changes nothing (CVE-2019-16884, CVE-2019-19921).

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::cgroups::Layout;
use hull_kernel::mounts::{
    self, FilesystemOption, MOUNT_ATTR_RDONLY, MountAttributes, MountError, Propagation, inside,
};
use hull_kernel::tree;
use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, mkdirat, openat, openat2, symlinkat};
use rustix::io::Errno;
use rustix::process::{chdir, fchdir, pivot_root};

use crate::failure::{InitFailure, Step};
use crate::plan::{CgroupHierarchies, MountAction, MountPlan};

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

/// Cuts the mount namespace off from the host's and puts the root mount over `/`.
pub(super) fn attach_root(root: &OwnedFd) -> Result<(), InitFailure> {
    mounts::set_propagation(c"/", true, Propagation::Private).map_err(at(Step::Root))?;
    mounts::attach_over_root(root.as_fd()).map_err(at(Step::Root))
}

fn at(step: Step) -> impl Fn(MountError) -> InitFailure {
    move |error| InitFailure::mount(step, &error)
}

/// Makes every mount in order; returns the procfs at /proc, when the container has one of its own there.
pub(super) fn mount_all(root: &OwnedFd, plans: &mut [MountPlan]) -> Result<Option<OwnedFd>, InitFailure> {
    let mut proc = None;
    for plan in plans {
        let mount = make(plan)?;
        let target = target(root.as_fd(), plan, mount.as_fd())?;
        let subject = plan.destination.display().to_string();
        if plan.copy_up {
            copy_up(&target, &mount, plan)?;
        }
        if let Some((propagation, recursive)) = plan.propagation {
            let attributes = MountAttributes { propagation: propagation as u64, ..MountAttributes::default() };
            mounts::set_attributes(mount.as_fd(), recursive, &attributes, &subject).map_err(at(Step::Mount))?;
        }
        mounts::attach(mount.as_fd(), target.as_fd(), &subject).map_err(at(Step::Mount))?;
        match &plan.action {
            MountAction::Cgroup { hierarchies: CgroupHierarchies::Legacy(hierarchies), attributes } => {
                for (name, options) in hierarchies {
                    let hierarchy = mounts::new_filesystem("cgroup", Some("cgroup"), options, *attributes);
                    attach_legacy_cgroup(&mount, name, &hierarchy.map_err(at(Step::Mount))?)?;
                }
                finish_legacy_cgroups(&mount, *attributes)?;
            }
            MountAction::Cgroup { hierarchies: CgroupHierarchies::LegacyOwn(layout, wanted), attributes } => {
                attach_own_cgroups(&mount, layout, wanted)?;
                finish_legacy_cgroups(&mount, *attributes)?;
            }
            MountAction::Filesystem { kind, .. } if kind == "proc" && plan.destination == Path::new(PROC) => {
                proc = Some(mount);
            }
            // Covered by something else.
            _ if plan.destination == Path::new(PROC) => proc = None,
            _ => {}
        }
    }
    Ok(proc)
}

/// The detached mount of one plan; a tree was cloned by the parent.
fn make(plan: &mut MountPlan) -> Result<OwnedFd, InitFailure> {
    let named = |mut error: MountError| {
        error.subject = format!("{} at {}", error.subject, plan.destination.display());
        InitFailure::mount(Step::Mount, &error)
    };
    match &mut plan.action {
        MountAction::Tree(tree) => tree
            .take()
            .ok_or_else(|| InitFailure::new(Step::Mount, plan.destination.display().to_string(), Errno::BADF)),
        MountAction::Filesystem { kind, source, options, attributes } => {
            // What is to be filled becomes read-only afterwards.
            let attributes = if plan.copy_up { *attributes & !MOUNT_ATTR_RDONLY } else { *attributes };
            mounts::new_filesystem(kind, Some(source), options, attributes).map_err(named)
        }
        MountAction::Cgroup { hierarchies: CgroupHierarchies::Unified, attributes } => {
            mounts::new_filesystem("cgroup2", Some("cgroup"), &[], *attributes).map_err(named)
        }
        MountAction::Cgroup { attributes, .. } => {
            let mode = FilesystemOption::parse("mode=755");
            mounts::new_filesystem("tmpfs", Some("cgroup"), &[mode], *attributes & !MOUNT_ATTR_RDONLY).map_err(named)
        }
    }
}

/// Fills a tmpfs that is not attached yet with what it will cover.
fn copy_up(covered: &OwnedFd, tmpfs: &OwnedFd, plan: &MountPlan) -> Result<(), InitFailure> {
    let subject = plan.destination.display().to_string();
    tree::copy_tree(covered.as_fd(), tmpfs.as_fd())
        .map_err(|error| InitFailure::because(Step::Mount, subject.as_str(), error))?;
    match &plan.action {
        MountAction::Filesystem { attributes, .. } if attributes & MOUNT_ATTR_RDONLY != 0 => {
            let read_only = MountAttributes { set: MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
            mounts::set_attributes(tmpfs.as_fd(), false, &read_only, &subject).map_err(at(Step::Mount))
        }
        _ => Ok(()),
    }
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

/// Below the tmpfs at the cgroup mount's place: a directory with one v1 hierarchy, and links for the names of controllers
/// that share it.
fn attach_legacy_cgroup(tmpfs: &OwnedFd, name: &str, hierarchy: &OwnedFd) -> Result<(), InitFailure> {
    let failed = |errno| InitFailure::new(Step::Mount, format!("cgroup hierarchy {name}"), errno);
    mkdirat(tmpfs, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
    let directory =
        openat(tmpfs, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    mounts::attach(hierarchy.as_fd(), directory.as_fd(), name).map_err(at(Step::Mount))?;
    for part in name.split(',').filter(|part| *part != name) {
        symlinkat(name, tmpfs, part).map_err(failed)?;
    }
    Ok(())
}

/// Below it the cgroups that this process is in, for a container that sees the host's hierarchies otherwise.
fn attach_own_cgroups(tmpfs: &OwnedFd, layout: &Layout, wanted: &MountAttributes) -> Result<(), InitFailure> {
    let own = layout.own_legacy_folders().map_err(|error| InitFailure::because(Step::Mount, "cgroup", error))?;
    for (hierarchy, folder) in own {
        let own = mounts::clone_tree(CWD, &folder, false).map_err(at(Step::Mount))?;
        mounts::set_attributes(own.as_fd(), false, wanted, "cgroup").map_err(at(Step::Mount))?;
        attach_legacy_cgroup(tmpfs, &hierarchy.directory(), &own)?;
    }
    Ok(())
}

/// The tmpfs as the spec wants it, now that everything in it is there.
fn finish_legacy_cgroups(tmpfs: &OwnedFd, attributes: u64) -> Result<(), InitFailure> {
    let attributes = MountAttributes { set: attributes & MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    mounts::set_attributes(tmpfs.as_fd(), false, &attributes, "cgroup tmpfs").map_err(at(Step::Mount))
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

/// Makes `root` the root directory and drops the host's tree (pivot_root(2), "pivot_root(".", ".")").
pub(super) fn pivot(
    root: OwnedFd,
    read_only: bool,
    propagation: Option<(Propagation, bool)>,
) -> Result<(), InitFailure> {
    let failed = |call: &'static str| move |errno| InitFailure::new(Step::Pivot, call, errno);
    fchdir(&root).map_err(failed("fchdir"))?;
    pivot_root(c".", c".").map_err(failed("pivot_root"))?;
    mounts::detach(c".").map_err(at(Step::Pivot))?;
    chdir(c"/").map_err(failed("chdir"))?;
    if let Some((propagation, recursive)) = propagation {
        mounts::set_propagation(c"/", recursive, propagation).map_err(at(Step::Pivot))?;
    }
    if read_only {
        let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        mounts::set_attributes(root.as_fd(), false, &attributes, "/").map_err(at(Step::Pivot))?;
    }
    Ok(())
}
