//! Hull's own binary as containers may see it: behind a read-only mount that is in no mount table (CVE-2019-5736).
//!
//! The process that executes a container's program is still this binary at that moment, and a program that is a script
//! for the interpreter `/proc/self/exe` has it executed inside: from there `/proc/PID/exe` leads to the file on the
//! host, for writing too. So before a process is cloned that will enter a container, the kernel is told another way to
//! the same file, whose mount refuses to write whatever the rights of who asks. Nothing is executed or copied for it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use hull_kernel::mounts::{self, MOUNT_ATTR_RDONLY, MountAttributes, MountError, Propagation};
use hull_sys::executable::change_executable;
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, statvfs};
use rustix::io::Errno;

const OWN_PROGRAM: &str = "/proc/self/exe";

/// This very program through a read-only, detached mount of its own.
///
/// # Errors
/// The mount call that failed.
pub(crate) fn read_only_mount() -> Result<OwnedFd, MountError> {
    let program = mounts::clone_tree(CWD, Path::new(OWN_PROGRAM), false)?;
    let attributes = MountAttributes {
        set: MOUNT_ATTR_RDONLY,
        propagation: Propagation::Private as u64,
        ..MountAttributes::default()
    };
    mounts::set_attributes(program.as_fd(), false, &attributes, OWN_PROGRAM)?;
    Ok(program)
}

/// Makes `/proc/self/exe` of this process, and of those that it clones, lead through a read-only mount. Does nothing
/// where it does already. One descriptor stays open for it until the process ends, since closing it makes the kernel
/// wait for a grace period.
///
/// # Errors
/// The call that failed.
pub(crate) fn protect() -> Result<(), MountError> {
    let failed = |operation| move |errno| MountError::new(operation, OWN_PROGRAM, errno);
    let here = statvfs(OWN_PROGRAM).map_err(failed("statvfs"))?;
    if here.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let mount = read_only_mount()?;
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let program = rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open"))?;
    change_executable(program.as_fd())
        .map_err(|error| failed("PR_SET_MM_EXE_FILE")(Errno::from_io_error(&error).unwrap_or(Errno::INVAL)))?;
    std::mem::forget(mount);
    Ok(())
}
