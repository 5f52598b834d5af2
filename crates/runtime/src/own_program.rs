//! Hull's own binary as containers may see it: behind a read-only mount that is in no mount table (CVE-2019-5736).
//!
//! The process that executes a container's program is still this binary at that moment, and a program that is a script
//! for the interpreter `/proc/self/exe` has it executed inside: from there `/proc/PID/exe` leads to the file on the
//! host, for writing too. So each process that will enter a container first tells the kernel another way to
//! the same file, whose mount refuses to write whatever the rights of who asks. Nothing is executed for it.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use hull_kernel::mounts::{self, MOUNT_ATTR_RDONLY, MountAttributes, MountError, Propagation};
use hull_sys::executable::change_executable;
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::process::geteuid;

const OWN_PROGRAM: &str = "/proc/self/exe";
/// A file that every host has.
const LEFT_AT: &CStr = c"/dev/null";

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

/// Another way to this very program, opened by the parent for the child that will enter a container.
#[derive(Debug)]
pub(crate) struct ReadOnlyWay {
    /// The detached mount. Whoever closes the last descriptor of it waits for a grace period of the kernel's, unless it
    /// is attached somewhere by then.
    mount: OwnedFd,
    program: OwnedFd,
}

impl ReadOnlyWay {
    /// Opens it; `None` where `/proc/self/exe` leads through a read-only mount already, and for a caller without rights
    /// over the host, for whom the file is somebody else's or their own to change anyway.
    ///
    /// # Errors
    /// The call that failed.
    pub(crate) fn open() -> Result<Option<ReadOnlyWay>, MountError> {
        let failed = |operation| move |errno| MountError::new(operation, OWN_PROGRAM, errno);
        let here = statvfs(OWN_PROGRAM).map_err(failed("statvfs"))?;
        if here.f_flag.contains(StatVfsMountFlags::RDONLY) || !geteuid().is_root() {
            return Ok(None);
        }
        let mount = read_only_mount()?;
        let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let program = rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open"))?;
        Ok(Some(ReadOnlyWay { mount, program }))
    }

    /// The child's first act: `/proc/self/exe` leads this way from here on. Done in the child because its copy of the
    /// parent's memory has hardly a page of the program mapped yet, so that none has to be found again.
    ///
    /// # Errors
    /// The call that failed.
    pub(crate) fn take(&self) -> Result<(), MountError> {
        change_executable(self.program.as_fd()).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
            MountError::new("PR_SET_MM_EXE_FILE", OWN_PROGRAM, errno)
        })
    }

    /// Attaches the mount in a mount namespace of the child's own, somewhere in the tree that it is about to leave: it
    /// goes with all of that at once, and closing it here is no more than that. A tree without the place keeps it
    /// detached.
    pub(crate) fn leave_behind(self) {
        let _detached_is_slower = mounts::attach_at(self.mount.as_fd(), LEFT_AT);
    }

    /// The mount alone, to be closed when there is time.
    pub(crate) fn into_mount(self) -> OwnedFd {
        self.mount
    }
}
