//! AppArmor profiles and SELinux labels that a process asks for its next program (apparmor(7), selinux(8)).
//!
//! Both are written by the process itself into a file of its own below /proc/self/attr, and take effect at its next
//! execve(2). A file that only looks like it would make the write a wish that nobody hears, or worse (CVE-2019-16884,
//! CVE-2019-19921, CVE-2025-52881), so it is opened while the process still sees the host's /proc, below a descriptor
//! that is verified to be the root of procfs, with no link that leads elsewhere and nothing mounted on the way; it can
//! be written at any time until the program.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FsWord, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, openat2, statfs};
use rustix::io::Errno;

/// `SELINUX_MAGIC` of linux/magic.h.
const SELINUX_MAGIC: FsWord = 0xf97c_ff8c;
/// `PROC_ROOT_INO` of linux/proc_ns.h.
const PROC_ROOT_INODE: u64 = 1;

/// Whether AppArmor decides on this machine.
pub fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|answer| answer.starts_with(b"Y"))
}

/// Whether SELinux decides on this machine: its file system is where it always is.
pub fn has_selinux() -> bool {
    statfs("/sys/fs/selinux").is_ok_and(|stat| stat.f_type == SELINUX_MAGIC)
}

/// What a [`LabelFile`] decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelKind {
    /// The AppArmor profile of the next program.
    AppArmorProfile,
    /// The SELinux label of the next program.
    SelinuxProcess,
    /// The SELinux label of keyrings made from now on.
    SelinuxKeys,
}

impl LabelKind {
    fn file(self) -> &'static str {
        match self {
            LabelKind::AppArmorProfile => "self/attr/apparmor/exec",
            LabelKind::SelinuxProcess => "self/attr/exec",
            LabelKind::SelinuxKeys => "self/attr/keycreate",
        }
    }
}

/// A label that could not be set.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LabelError {
    /// /proc is something else.
    #[error("/proc is not the kernel's, so no label can be set through it")]
    NotProc,
    /// The file could not be opened.
    #[error("open /proc/{file}: {errno}")]
    Open {
        /// Below /proc.
        file: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The kernel does not take the label.
    #[error("write {label:?} to /proc/{file}: {errno}")]
    Write {
        /// Below /proc.
        file: &'static str,
        /// The label.
        label: String,
        /// Why.
        errno: Errno,
    },
}

/// The calling process' own file for one kind of label.
#[derive(Debug)]
pub struct LabelFile {
    kind: LabelKind,
    file: OwnedFd,
}

impl LabelFile {
    /// Opens the file in the /proc that the process sees.
    ///
    /// # Errors
    /// [`LabelError::NotProc`], [`LabelError::Open`].
    pub fn open(kind: LabelKind) -> Result<LabelFile, LabelError> {
        LabelFile::open_in(Path::new("/proc"), kind)
    }

    fn open_in(proc: &Path, kind: LabelKind) -> Result<LabelFile, LabelError> {
        let failed = |errno| LabelError::Open { file: kind.file(), errno };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let proc = openat2(CWD, proc, flags, Mode::empty(), ResolveFlags::empty()).map_err(failed)?;
        let is_proc = fstatfs(&proc).is_ok_and(|stat| stat.f_type == PROC_SUPER_MAGIC);
        if !is_proc || !fstat(&proc).is_ok_and(|stat| stat.st_ino == PROC_ROOT_INODE) {
            return Err(LabelError::NotProc);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        let file = openat2(&proc, kind.file(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve);
        Ok(LabelFile { kind, file: file.map_err(failed)? })
    }

    /// Asks for a label; an empty one takes the wish back.
    ///
    /// # Errors
    /// [`LabelError::Write`]: `ENOENT` for an AppArmor profile that is not loaded, `EINVAL` for a label that the SELinux
    /// policy does not know.
    pub fn write(&self, label: &str) -> Result<(), LabelError> {
        let text = match self.kind {
            LabelKind::AppArmorProfile => format!("exec {label}"),
            _ => label.to_owned(),
        };
        let failed = |errno| LabelError::Write { file: self.kind.file(), label: label.to_owned(), errno };
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, text.as_bytes())) {
            Ok(count) if count == text.len() => Ok(()),
            Ok(_) => Err(failed(Errno::IO)),
            Err(errno) => Err(failed(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_proc_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("self/attr")).unwrap();
        std::fs::write(folder.path().join("self/attr/exec"), "").unwrap();
        let error = LabelFile::open_in(folder.path(), LabelKind::SelinuxProcess).unwrap_err();
        assert!(matches!(error, LabelError::NotProc), "{error}");
        let error = LabelFile::open_in(Path::new("/proc/sys"), LabelKind::SelinuxProcess).unwrap_err();
        assert!(matches!(error, LabelError::NotProc), "not its root: {error}");
        let link = folder.path().join("proc");
        std::os::unix::fs::symlink("/proc", &link).unwrap();
        assert!(LabelFile::open_in(&link, LabelKind::SelinuxProcess).is_err());
    }

    #[test]
    fn a_label_nobody_knows_is_refused_by_the_kernel() {
        for (kind, label) in
            [(LabelKind::SelinuxProcess, "no_u:no_r:no_t:s0"), (LabelKind::AppArmorProfile, "hull-no-such-profile")]
        {
            let Ok(file) = LabelFile::open(kind) else { continue };
            let error = file.write(label).unwrap_err();
            assert!(error.to_string().contains(label), "{error}");
        }
    }
}
