//! What went wrong between clone and exec, as data that crosses from the child to the parent.
//!
//! The child has no terminal and no log; it sends the step, the thing and the errno, and the parent words it. The
//! wording of a program that cannot be executed is the one that docker, containerd and podman match on.

use std::fmt;

use hull_kernel::mounts::MountError;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// A step of the child, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Joining the cgroup.
    Cgroup,
    /// Joining the class of service.
    Resctrl,
    /// Joining or making a namespace.
    Namespace,
    /// Becoming root of a new user namespace.
    UserNamespace,
    /// The session, its keyring, its terminal.
    Session,
    /// Network interfaces of the host.
    NetDevices,
    /// Host and domain name.
    Hostname,
    /// The loopback interface.
    Loopback,
    /// The root file system.
    Root,
    /// One of the mounts.
    Mount,
    /// A device node.
    Device,
    /// The container's terminal.
    Terminal,
    /// A masked path.
    Mask,
    /// A read-only path.
    ReadOnly,
    /// A kernel parameter.
    Sysctl,
    /// A hook of the container.
    Hook,
    /// pivot_root(2) and leaving the old root.
    Pivot,
    /// A resource limit.
    Rlimit,
    /// oom_score_adj.
    OomScore,
    /// Scheduling, I/O priority, memory policy, execution domain.
    Placement,
    /// AppArmor profile or SELinux label.
    Label,
    /// User, groups and umask.
    User,
    /// Capabilities.
    Capabilities,
    /// The system call filter.
    Seccomp,
    /// The standard streams.
    Streams,
    /// The working directory.
    WorkingDirectory,
    /// Waiting for the word to start.
    Start,
    /// The program.
    Exec,
}

impl Step {
    fn words(self) -> &'static str {
        match self {
            Step::Cgroup => "joining the cgroup",
            Step::Resctrl => "joining linux.intelRdt's class of service",
            Step::Namespace => "entering a namespace",
            Step::UserNamespace => "becoming root of the user namespace",
            Step::Session => "starting a session",
            Step::NetDevices => "waiting for network interfaces",
            Step::Hostname => "setting the name",
            Step::Loopback => "bringing up the loopback interface",
            Step::Root => "mounting the root file system",
            Step::Mount => "mounting",
            Step::Device => "making the device",
            Step::Terminal => "making the terminal",
            Step::Mask => "masking",
            Step::ReadOnly => "making read-only",
            Step::Sysctl => "setting kernel parameter",
            Step::Hook => "running the hook",
            Step::Pivot => "changing the root",
            Step::Rlimit => "setting the resource limit",
            Step::OomScore => "setting oom_score_adj",
            Step::Placement => "setting",
            Step::Label => "labelling the process",
            Step::User => "changing to user",
            Step::Capabilities => "setting capabilities",
            Step::Seccomp => "loading the seccomp filter",
            Step::Streams => "placing the standard streams",
            Step::WorkingDirectory => "changing to the working directory",
            Step::Start => "waiting to be started",
            Step::Exec => "executing",
        }
    }
}

/// What failed in the child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitFailure {
    /// At which step.
    pub step: Step,
    /// What it was done to: a path, a name; empty when the step says it all.
    pub subject: String,
    /// errno(3); 0 when the reason is in `detail` alone.
    pub errno: i32,
    /// More about it, such as the kernel's own message.
    pub detail: String,
}

impl InitFailure {
    /// A failure with an errno.
    pub fn new(step: Step, subject: impl Into<String>, errno: Errno) -> InitFailure {
        InitFailure { step, subject: subject.into(), errno: errno.raw_os_error(), detail: String::new() }
    }

    /// A failure that a lower layer words.
    pub fn because(step: Step, subject: impl Into<String>, reason: impl fmt::Display) -> InitFailure {
        InitFailure { step, subject: subject.into(), errno: 0, detail: reason.to_string() }
    }

    /// A mount operation that failed.
    pub fn mount(step: Step, error: &MountError) -> InitFailure {
        InitFailure::because(step, "", error)
    }

    /// The errno, when there is one.
    fn errno(&self) -> Option<Errno> {
        (self.errno > 0).then(|| Errno::from_raw_os_error(self.errno))
    }

    /// What the whole command should exit with: 127 for a program that is not there, 126 for one that cannot be
    /// executed, 125 for anything else (docker-run(1), "Exit Status").
    pub fn exit_code(&self) -> u8 {
        match (self.step, self.errno()) {
            (Step::Exec, Some(Errno::NOENT)) => 127,
            (Step::Exec, _) => 126,
            _ => 125,
        }
    }
}

impl fmt::Display for InitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Step::Exec, Some(errno)) = (self.step, self.errno()) {
            return match errno {
                Errno::NOENT if !self.subject.contains('/') => {
                    write!(f, "exec: {:?}: executable file not found in $PATH", self.subject)
                }
                _ => write!(f, "exec: {:?}: {}", self.subject, lower_case(&errno)),
            };
        }
        f.write_str(self.step.words())?;
        if !self.subject.is_empty() {
            write!(f, " {}", self.subject)?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if let Some(errno) = self.errno() {
            write!(f, ": {}", lower_case(&errno))?;
        }
        Ok(())
    }
}

impl std::error::Error for InitFailure {}

/// The errno's text as Go programs print it, which is what their users and scripts look for: `permission denied`.
fn lower_case(errno: &Errno) -> String {
    let text = errno.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_run_is_worded_as_the_clients_expect() {
        let failure = |subject: &str, errno| InitFailure::new(Step::Exec, subject, errno);
        let table = [
            (failure("nope", Errno::NOENT), "exec: \"nope\": executable file not found in $PATH", 127),
            (failure("/nope", Errno::NOENT), "exec: \"/nope\": no such file or directory", 127),
            (failure("/etc", Errno::ACCESS), "exec: \"/etc\": permission denied", 126),
            (failure("/x", Errno::NOEXEC), "exec: \"/x\": exec format error", 126),
        ];
        for (failure, text, code) in table {
            assert_eq!((failure.to_string().as_str(), failure.exit_code()), (text, code));
        }
    }

    #[test]
    fn other_failures_are_hulls_own() {
        let failure = InitFailure::new(Step::Sysctl, "net/x", Errno::NOENT);
        assert_eq!(failure.to_string(), "setting kernel parameter net/x: no such file or directory");
        assert_eq!(failure.exit_code(), 125);
        let worded = InitFailure::because(Step::Mount, "/x", "no luck");
        assert_eq!((worded.to_string().as_str(), worded.exit_code()), ("mounting /x: no luck", 125));
    }
}
