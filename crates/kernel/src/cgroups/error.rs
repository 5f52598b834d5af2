//! What can go wrong with a cgroup: what was being done, to which file, with which value, and the errno.

use std::io;
use std::path::PathBuf;

use super::systemd::SystemdError;

/// What went wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// /proc is not mounted or not readable.
    #[error("cannot read /proc/self/mountinfo")]
    Mountinfo {
        /// Why.
        source: io::Error,
    },
    /// There is no cgroup file system in this mount namespace.
    #[error("no cgroup file system is mounted (expected at /sys/fs/cgroup)")]
    NothingMounted,
    /// A cgroup path that cannot be used.
    #[error("cgroup path {path:?} cannot be used: {reason}")]
    BadPath {
        /// As given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// mkdir(2).
    #[error("cannot make cgroup {}", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// rmdir(2).
    #[error("cannot remove cgroup {}", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why; `EBUSY` when processes are left in it.
        source: io::Error,
    },
    /// open(2).
    #[error("cannot open {}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// write(2), or the open before it.
    #[error("cannot write {value:?} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// read(2), or the open before it.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A cgroup file says something that is not understood.
    #[error("unexpected content in {}: {content:?}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The content.
        content: String,
    },
    /// A limit that no kernel would take.
    #[error("{field} cannot be {value:?}: {reason}")]
    Invalid {
        /// The field of [`Limits`](super::Limits).
        field: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        reason: &'static str,
    },
    /// A limit that this kernel or this version of cgroups does not have.
    #[error("{field} is not possible here: {reason}")]
    Unsupported {
        /// The field of [`Limits`](super::Limits).
        field: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// No hierarchy has the controller that a limit needs.
    #[error("the cgroup controller {controller} is not available on this machine")]
    NoController {
        /// The controller.
        controller: &'static str,
    },
    /// A v2 ancestor has processes of its own and therefore cannot pass a controller on.
    #[error(
        "the cgroup controller {controller} cannot be passed on by {}: processes are in that cgroup itself, and cgroup \
         v2 allows limits only below one without; move them into a child cgroup first",
        path.display()
    )]
    InternalProcesses {
        /// The ancestor.
        path: PathBuf,
        /// The controller.
        controller: &'static str,
    },
    /// A v2 ancestor does not pass a controller on for another reason.
    #[error("the cgroup controller {controller} cannot be switched on in {}", path.display())]
    EnableController {
        /// The ancestor.
        path: PathBuf,
        /// The controller.
        controller: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A limit on swap on a kernel that does not count swap.
    #[error(
        "memory_swap_total cannot be set: this kernel does not account for swap ({} is missing; boot with swapaccount=1)",
        path.display()
    )]
    NoSwapAccounting {
        /// The file that a kernel with swap accounting has.
        path: PathBuf,
    },
    /// A memory limit below what is in use.
    #[error("the memory limit {limit} is below the {usage} bytes in use")]
    LimitBelowUsage {
        /// Bytes asked for.
        limit: i64,
        /// Bytes in use.
        usage: u64,
    },
    /// A device rule that cannot be carried out.
    #[error("device rule {rule:?} cannot be carried out: {reason}")]
    DeviceRule {
        /// The rule.
        rule: String,
        /// Why.
        reason: String,
    },
    /// The eBPF program of a v2 cgroup.
    #[error("cannot {action} the device filter of cgroup {}", path.display())]
    DeviceFilter {
        /// What was being done.
        action: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// chown(2).
    #[error("cannot hand {} to user {uid}", path.display())]
    Delegate {
        /// The file or directory.
        path: PathBuf,
        /// The user.
        uid: u32,
        /// Why.
        source: io::Error,
    },
    /// Freezing or thawing took too long and was taken back.
    #[error("the processes of cgroup {} did not all freeze or thaw in time", path.display())]
    FreezeTimeout {
        /// The cgroup.
        path: PathBuf,
    },
    /// A process could not be killed.
    #[error("cannot kill process {pid}")]
    Kill {
        /// The process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// poll(2).
    #[error("cannot wait for processes to end")]
    Wait {
        /// Why.
        source: io::Error,
    },
    /// Killed processes did not end in time.
    #[error("processes of cgroup {} did not end after SIGKILL: {processes:?}", path.display())]
    StillPopulated {
        /// The cgroup.
        path: PathBuf,
        /// Their ids.
        processes: Vec<i32>,
    },
    /// What systemd was asked for.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// Several hierarchies failed; the work went on past each.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<CgroupError>),
}

impl CgroupError {
    /// The errno underneath, where a system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            CgroupError::Mountinfo { source }
            | CgroupError::Make { source, .. }
            | CgroupError::Remove { source, .. }
            | CgroupError::Open { source, .. }
            | CgroupError::Write { source, .. }
            | CgroupError::Read { source, .. }
            | CgroupError::EnableController { source, .. }
            | CgroupError::DeviceFilter { source, .. }
            | CgroupError::Delegate { source, .. }
            | CgroupError::Kill { source, .. }
            | CgroupError::Wait { source } => source.raw_os_error(),
            _ => None,
        }
    }
}
