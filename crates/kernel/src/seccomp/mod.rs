//! System call filters: rules in, one small BPF program out.
//!
//! A [`Filter`] says, for each architecture, which calls get which [`Action`]; [`compile()`] turns it into a [`Program`].
//! The meaning of a filter is libseccomp's, as runc uses it, so that profiles mean here what they mean there:
//!
//! - A rule whose action is the filter's default says nothing and is passed over.
//! - The first rule without conditions for a call decides it, whatever conditional rules exist for it.
//! - Otherwise conditional rules are tried in the order written; the first whose conditions all hold decides. (Where
//!   conditional rules for one call overlap, libseccomp loses some of them; here each holds as written.)
//! - On the 32-bit ABIs (i386, x32, arm) conditions see the low 32 bits of the argument and of the value.
//! - On i386 a rule for a socket or System V IPC call also covers that call inside socketcall(2) or ipc(2). Arguments
//!   cannot be seen there: a condition on argument 0 gives way to the test of the sub-call.
//! - A call of an architecture that the filter does not name ends the thread ([`FOREIGN_ARCHITECTURE`]). The native one
//!   is always named. The x32 ABI counts as an architecture: bit 30 of the number on x86_64.
//! - A number above every call that the rules name is newer than the profile: it answers ENOSYS, so that programs fall
//!   back to what they did before it existed, unless the default action lets calls through (allow, log, trace).
//!
//! The program dispatches on the architecture and then walks a balanced tree over ranges of equal verdict, in about
//! eight comparisons; the kernel's own cache of always-allowed calls is filled from it in one pass at load.

mod compile;
mod graph;
mod multiplex;
mod program;
mod syscalls;

#[cfg(test)]
mod tests;

pub use compile::compile;
pub use hull_sys::seccomp::Instruction;
pub use program::{Call, Program, STORED_VERSION};

use syscalls::{NONE, SYSCALLS};

/// What happens to a call of an architecture that the filter does not name.
pub const FOREIGN_ARCHITECTURE: Action = Action::KillThread;

/// Why a filter cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// The program would be longer than the kernel takes.
    #[error("the seccomp filter needs more than {limit} BPF instructions, which the kernel does not take")]
    TooLong {
        /// The kernel's limit.
        limit: usize,
    },
    /// System calls have six arguments.
    #[error("the seccomp filter has a condition on argument {argument} of {syscall}, but arguments are 0 to 5")]
    Argument {
        /// Name of the call.
        syscall: &'static str,
        /// Index as given.
        argument: u8,
    },
    /// Bytes that are not a stored program.
    #[error("the stored seccomp program is not usable: {reason}")]
    Stored {
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// A processor architecture and ABI whose calls can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86 (i386).
    X86,
    /// 32-bit pointers on 64-bit x86; told from [`Arch::X86_64`] by bit 30 of the call number.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM (EABI).
    Arm,
}

/// Bit of the call number that marks x32.
const X32_BIT: u32 = 0x4000_0000;

impl Arch {
    /// Every architecture.
    pub const ALL: [Self; 5] = [Self::X86_64, Self::X86, Self::X32, Self::Aarch64, Self::Arm];

    /// The architecture of this program.
    pub const fn native() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// The value of `seccomp_data.arch` (`AUDIT_ARCH_*` of linux/audit.h).
    pub const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 32 bits.
    const fn is_32_bit(self) -> bool {
        matches!(self, Self::X86 | Self::X32 | Self::Arm)
    }

    /// Column of the number table.
    const fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::X86 => 1,
            Self::X32 => 2,
            Self::Aarch64 => 3,
            Self::Arm => 4,
        }
    }
}

/// A system call that is known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Syscall(u16);

impl Syscall {
    /// Finds a call by the kernel's name; `None` when no architecture of [`Arch::ALL`] has it.
    pub fn named(name: &str) -> Option<Self> {
        SYSCALLS.binary_search_by(|(known, _)| (*known).cmp(name)).ok().map(|index| Self(index as u16))
    }

    /// Every known call, by name.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SYSCALLS.len()).map(|index| Self(index as u16))
    }

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        SYSCALLS[usize::from(self.0)].0
    }

    /// The number as `seccomp_data.nr` shows it (x32 with its bit), when the architecture has the call.
    pub fn number(self, arch: Arch) -> Option<u32> {
        match (SYSCALLS[usize::from(self.0)].1[arch.column()], arch) {
            (NONE, _) => None,
            (number, Arch::X32) => Some(number | X32_BIT),
            (number, _) => Some(number),
        }
    }
}

/// What happens to a call (seccomp(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// End the process as by SIGSYS.
    KillProcess,
    /// End the thread as by SIGSYS.
    KillThread,
    /// Send SIGSYS.
    Trap,
    /// Do not make the call, answer this error number (0 to 4095; 0 pretends success).
    Errno(u16),
    /// Ask the ptrace tracer, with this message; ENOSYS without one.
    Trace(u16),
    /// Ask the holder of the notification descriptor.
    Notify,
    /// Make the call and log it.
    Log,
    /// Make the call.
    Allow,
}

impl Action {
    /// `SECCOMP_RET_*` with data.
    pub const fn to_return(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0x0000_0000,
            Self::Trap => 0x0003_0000,
            Self::Errno(number) => 0x0005_0000 | number as u32,
            Self::Notify => 0x7fc0_0000,
            Self::Trace(message) => 0x7ff0_0000 | message as u32,
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }

    /// The action that a return value means; the kernel takes unknown ones as [`Action::KillProcess`].
    pub const fn from_return(value: u32) -> Self {
        let data = value as u16;
        match value & 0xffff_0000 {
            0x0000_0000 => Self::KillThread,
            0x0003_0000 => Self::Trap,
            0x0005_0000 => Self::Errno(data),
            0x7fc0_0000 => Self::Notify,
            0x7ff0_0000 => Self::Trace(data),
            0x7ffc_0000 => Self::Log,
            0x7fff_0000 => Self::Allow,
            _ => Self::KillProcess,
        }
    }

    /// Whether calls that nobody thought of go through to the kernel or a tracer, which answer for themselves.
    const fn lets_unknown_calls_through(self) -> bool {
        matches!(self, Self::Allow | Self::Log | Self::Trace(_))
    }
}

/// How an argument is compared, as an unsigned number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// Not equal.
    NotEqual(u64),
    /// Less than.
    Less(u64),
    /// Less than or equal.
    LessOrEqual(u64),
    /// Equal.
    Equal(u64),
    /// Greater than or equal.
    GreaterOrEqual(u64),
    /// Greater than.
    Greater(u64),
    /// Equal in the bits of the mask; other bits of the value do not count.
    MaskedEqual {
        /// Bits that count.
        mask: u64,
        /// What they must be.
        value: u64,
    },
}

/// A condition on one argument of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// What must hold.
    pub comparison: Comparison,
}

/// These calls, when all conditions hold, get this action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which calls.
    pub syscalls: Vec<Syscall>,
    /// What happens.
    pub action: Action,
    /// When; always, when empty.
    pub conditions: Vec<Condition>,
}

/// Flags given to the kernel with the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// Load into every thread of the process.
    pub all_threads: bool,
    /// Log every action but allow.
    pub log: bool,
    /// Leave speculative store bypass as it is.
    pub speculation_allowed: bool,
    /// A notified process waits so that only fatal signals interrupt it; needs an [`Action::Notify`].
    pub wait_killable: bool,
}

/// Which calls get which action, on which architectures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// What happens to calls that no rule decides.
    pub default: Action,
    /// Architectures beside the native one; repetitions do not matter.
    pub architectures: Vec<Arch>,
    /// Rules.
    pub rules: Vec<Rule>,
    /// Flags.
    pub flags: Flags,
}
