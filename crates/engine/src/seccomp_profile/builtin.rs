//! The filter that a container gets when nobody says otherwise: docker's default, as static tables.
//!
//! What is not listed answers EPERM, and ENOSYS when it is newer than anything listed. Left out on purpose are calls that
//! reach the whole machine (modules, clocks, swap, kexec, mounts), calls with a history of holes (io_uring, userfaultfd,
//! keyrings, AF_ALG), and calls that nothing needs any more. Calls that a capability guards are added with that
//! capability. The facts are those of docker's default profile, which a test compares; only x86 and ARM are covered, and
//! kernels from 4.8 on, where ptrace(2) no longer escapes a filter.

use hull_kernel::capabilities::number;
use hull_kernel::seccomp::Arch;
use hull_oci::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

use super::{ALLOW, ERRNO, Target};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The namespace flags of clone(2): new mount, cgroup, UTS, IPC, user, PID and network namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Values of personality(2): Linux, 32-bit Linux, each also with the old version scheme, and the question.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];

/// Builds the filter for a target; allocates its names, reads nothing.
pub fn builtin(target: &Target) -> LinuxSeccomp {
    let mut names: Vec<&str> = ALWAYS.concat();
    names.extend_from_slice(if is_arm(target.architecture) { ARM } else { X86 });
    for (capability, calls) in GUARDED {
        if has(target, capability) {
            names.extend_from_slice(calls);
        }
    }
    let mut syscalls = vec![rule(&names, ALLOW, vec![])];
    // Address families below AF_ALG, AF_NFC, and those above AF_VSOCK.
    for (op, family) in [("SCMP_CMP_LT", 38), ("SCMP_CMP_EQ", 39), ("SCMP_CMP_GT", 40)] {
        syscalls.push(rule(&["socket"], ALLOW, vec![argument_0(op, family, 0)]));
    }
    for persona in PERSONALITIES {
        syscalls.push(rule(&["personality"], ALLOW, vec![argument_0("SCMP_CMP_EQ", persona, 0)]));
    }
    if !has(target, "SYS_ADMIN") {
        let no_namespace = argument_0("SCMP_CMP_MASKED_EQ", CLONE_NAMESPACES, 0);
        syscalls.push(rule(&["clone"], ALLOW, vec![no_namespace]));
        // A filter cannot see clone3's flags; ENOSYS makes libraries fall back to clone.
        syscalls.push(LinuxSyscall { errno_ret: Some(ENOSYS), ..rule(&["clone3"], ERRNO, vec![]) });
    }
    LinuxSeccomp {
        default_action: ERRNO.to_owned(),
        default_errno_ret: Some(EPERM),
        architectures: architectures(target.architecture),
        syscalls,
        ..LinuxSeccomp::default()
    }
}

fn rule(names: &[&str], action: &str, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    LinuxSyscall {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        action: action.to_owned(),
        errno_ret: None,
        args,
    }
}

fn argument_0(op: &str, value: u64, value_two: u64) -> LinuxSeccompArg {
    LinuxSeccompArg { index: 0, value, value_two, op: op.to_owned() }
}

fn has(target: &Target, capability: &str) -> bool {
    number(capability).is_some_and(|number| target.capabilities.has(number))
}

fn is_arm(architecture: Arch) -> bool {
    matches!(architecture, Arch::Aarch64 | Arch::Arm)
}

fn architectures(architecture: Arch) -> Vec<String> {
    let names: &[&str] = match architecture {
        Arch::X86_64 | Arch::X86 | Arch::X32 => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        Arch::Aarch64 | Arch::Arm => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Everything that every container may call.
const ALWAYS: [&[&str]; 14] = [
    CONTENT,
    DIRECTORIES,
    ATTRIBUTES,
    MEMORY,
    PROCESSES,
    SIGNALS,
    IDENTITIES,
    SCHEDULING,
    TIME,
    EVENTS,
    IPC,
    SOCKETS,
    SYSTEM,
    CONFINEMENT,
];

/// Only on x86.
const X86: &[&str] = &["arch_prctl", "modify_ldt"];

/// Only on ARM.
#[rustfmt::skip]
const ARM: &[&str] = &[
    "arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "sync_file_range2",
];

/// What a capability adds.
#[rustfmt::skip]
const GUARDED: &[(&str, &[&str])] = &[
    ("BPF", &["bpf"]),
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("PERFMON", &["perf_event_open"]),
    ("SYSLOG", &["syslog"]),
    ("SYS_ADMIN", &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie",
        "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount",
        "open_tree", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog",
        "umount", "umount2", "unshare",
    ]),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["ioperm", "iopl"]),
    ("SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
];

/// Signals: sending, waiting, handlers.
#[rustfmt::skip]
const SIGNALS: &[&str] = &[
    "kill", "pause", "pidfd_send_signal", "restart_syscall", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
    "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo", "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn", "tgkill", "tkill",
];

/// Sockets, except socket(2) itself, whose families are looked at.
#[rustfmt::skip]
const SOCKETS: &[&str] = &[
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recv",
    "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg", "sendto", "setsockopt",
    "shutdown", "socketcall", "socketpair",
];

/// Users, groups and capabilities, as far as the caller's own rights allow.
#[rustfmt::skip]
const IDENTITIES: &[&str] = &[
    "capget", "capset", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups",
    "getgroups32", "getresgid", "getresgid32", "getresuid", "getresuid32", "getuid", "getuid32", "setfsgid",
    "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setregid",
    "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setuid",
    "setuid32",
];

/// Clocks, timers and sleeping.
#[rustfmt::skip]
const TIME: &[&str] = &[
    "adjtimex", "alarm", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64",
    "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "getitimer",
    "gettimeofday", "nanosleep", "setitimer", "time", "timer_create", "timer_delete", "timer_getoverrun",
    "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime",
    "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times",
];

/// System V and POSIX inter-process communication, futexes.
#[rustfmt::skip]
const IPC: &[&str] = &[
    "futex", "futex_requeue", "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "get_robust_list",
    "ipc", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend",
    "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop",
    "semtimedop", "semtimedop_time64", "set_robust_list", "shmat", "shmctl", "shmdt", "shmget",
];

/// Memory: mapping, locking, protection keys.
#[rustfmt::skip]
const MEMORY: &[&str] = &[
    "brk", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mlock",
    "mlock2", "mlockall", "mmap", "mmap2", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall",
    "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect", "remap_file_pages",
];

/// Waiting for events: epoll, poll, inotify, asynchronous I/O.
#[rustfmt::skip]
const EVENTS: &[&str] = &[
    "_newselect", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2",
    "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "fanotify_mark", "inotify_add_watch", "inotify_init",
    "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents",
    "io_pgetevents_time64", "io_setup", "io_submit", "poll", "ppoll", "ppoll_time64", "pselect6",
    "pselect6_time64", "select",
];

/// Scheduling, priorities and resource limits.
#[rustfmt::skip]
const SCHEDULING: &[&str] = &[
    "getcpu", "getpriority", "getrlimit", "getrusage", "ioprio_get", "ioprio_set", "prlimit64",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64", "sched_setaffinity",
    "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "setpriority", "setrlimit",
    "ugetrlimit",
];

/// Processes and threads, except clone(2) and clone3(2), whose flags are looked at.
#[rustfmt::skip]
const PROCESSES: &[&str] = &[
    "execve", "execveat", "exit", "exit_group", "fork", "get_thread_area", "getpgid", "getpgrp", "getpid",
    "getppid", "getsid", "gettid", "pidfd_open", "prctl", "process_mrelease", "process_vm_readv",
    "process_vm_writev", "ptrace", "rseq", "set_thread_area", "set_tid_address", "setpgid",
    "setsid", "uretprobe", "vfork", "wait4", "waitid", "waitpid",
];

/// What a process may use to confine itself further.
#[rustfmt::skip]
const CONFINEMENT: &[&str] = &[
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp",
];

/// Questions about the system.
#[rustfmt::skip]
const SYSTEM: &[&str] = &[
    "getrandom", "listmount", "statmount", "sysinfo", "uname",
];

/// Files: what they are, who owns them, what is attached to them.
#[rustfmt::skip]
const ATTRIBUTES: &[&str] = &[
    "access", "chmod", "chown", "chown32", "faccessat", "faccessat2", "fchmod", "fchmodat", "fchmodat2",
    "fchown", "fchown32", "fchownat", "fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "fstat",
    "fstat64", "fstatat64", "fstatfs", "fstatfs64", "futimesat", "getxattr", "getxattrat", "lchown", "lchown32",
    "lgetxattr", "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lsetxattr", "lstat", "lstat64",
    "newfstatat", "removexattr", "removexattrat", "setxattr", "setxattrat", "stat", "stat64", "statfs",
    "statfs64", "statx", "umask", "utime", "utimensat", "utimensat_time64", "utimes",
];

/// Files: names, directories and links.
#[rustfmt::skip]
const DIRECTORIES: &[&str] = &[
    "chdir", "fchdir", "getcwd", "getdents", "getdents64", "link", "linkat", "mkdir", "mkdirat", "mknod",
    "mknodat", "name_to_handle_at", "readlink", "readlinkat", "rename", "renameat", "renameat2", "rmdir",
    "symlink", "symlinkat", "unlink", "unlinkat",
];

/// Files: opening, reading, writing, copying, flushing.
#[rustfmt::skip]
const CONTENT: &[&str] = &[
    "_llseek", "cachestat", "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3",
    "fadvise64", "fadvise64_64", "fallocate", "fcntl", "fcntl64", "fdatasync", "flock", "fsync", "ftruncate",
    "ftruncate64", "ioctl", "lseek", "open", "openat", "openat2", "pipe", "pipe2", "pread64", "preadv",
    "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readv", "sendfile", "sendfile64",
    "splice", "sync", "sync_file_range", "syncfs", "tee", "truncate", "truncate64", "vmsplice", "write",
    "writev",
];
