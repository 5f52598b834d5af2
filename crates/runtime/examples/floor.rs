//! The floor of `run`: the system calls that make and end a container, with nothing around them.
//!
//! No command line, no config.json, no plan: places and values are written down here, for the bundle that
//! `cargo xtask bench runtime` measures with (six namespaces, the usual mounts, nine masked and five read-only paths).
//! What a runtime takes beyond this is its own. Errors end it with the name of the step; what it made is then left.
//!
//! ```text
//! floor run ROOTFS STATE ID FILTER CGROUP...
//!   STATE    folder for the container's record
//!   FILTER   compiled seccomp filter, or - for none
//!   CGROUP   a hierarchy: its mount point, with a leading + for cgroup v2
//! floor compile CONFIG FILTER
//!   writes the compiled linux.seccomp of a config.json
//! ```
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::seccomp::Program;
use hull_oci::runtime::Spec;
use hull_sys::memory::close_from;
use hull_sys::mount::{MOUNT_ATTR_RDONLY, MountAttributes, mount_setattr};
use hull_sys::process::{self as sys, Cloned, ExecVectors};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, chmodat, makedev, mkdirat, mknodat, openat2, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::{
    DumpableBehavior, Gid, Pid, Resource, Rlimit, Uid, WaitOptions, chdir, fchdir, pivot_root, set_dumpable_behavior,
    setrlimit, setsid, umask, waitpid,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs, set_thread_groups};

type Step<T> = Result<T, (&'static str, Errno)>;

/// A mount: file system, place, options, attributes.
type Mount = (&'static str, &'static str, &'static [(&'static str, &'static str)], u32);
const MOUNTS: [Mount; 6] = [
    ("proc", "proc", &[], 0),
    ("tmpfs", "dev", &[("mode", "755"), ("size", "65536k")], 0x22),
    ("devpts", "dev/pts", &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")], 0xa),
    ("tmpfs", "dev/shm", &[("mode", "1777"), ("size", "65536k")], 0xe),
    ("mqueue", "dev/mqueue", &[], 0xe),
    ("sysfs", "sys", &[], 0xf),
];
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
const MASKED: [&str; 9] = [
    "proc/acpi",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/sched_debug",
    "sys/firmware",
    "proc/scsi",
];
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];
const DEVICE_RULES: [&str; 10] = [
    "b *:* m",
    "c *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];
/// CAP_KILL, CAP_NET_BIND_SERVICE, CAP_AUDIT_WRITE.
const CAPABILITIES: u64 = 1 << 5 | 1 << 10 | 1 << 29;
const LAST_CAPABILITY: u32 = 40;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = match &words[..] {
        ["run", rootfs, state, id, filter, cgroups @ ..] => {
            let folders: Vec<(PathBuf, bool)> = cgroups.iter().map(|word| cgroup(word, id)).collect();
            filter_in(filter).and_then(|filter| run(rootfs, &Path::new(state).join(id), filter.as_ref(), &folders))
        }
        ["compile", config, filter] => compile(config, filter),
        _ => Err(("usage: see the head of this file", Errno::INVAL)),
    };
    if let Err((step, errno)) = ended {
        eprintln!("{step}: {errno}");
        std::process::exit(1);
    }
}

fn cgroup(word: &str, id: &str) -> (PathBuf, bool) {
    match word.strip_prefix('+') {
        Some(mount) => (Path::new(mount).join(id), true),
        None => (Path::new(word).join(id), false),
    }
}

fn filter_in(path: &str) -> Step<Option<Program>> {
    if path == "-" {
        return Ok(None);
    }
    let bytes = fs::read(path).map_err(errno("filter"))?;
    Program::from_bytes(&bytes).map(Some).map_err(|_| ("filter", Errno::INVAL))
}

fn compile(config: &str, filter: &str) -> Step<()> {
    let invalid = |_| ("config.json", Errno::INVAL);
    let spec: Spec =
        serde_json::from_slice(&fs::read(config).map_err(errno("config.json"))?).map_err(|_| invalid(()))?;
    let seccomp = spec.linux.and_then(|linux| linux.seccomp).ok_or(invalid(()))?;
    let wanted = hull_runtime::seccomp::filter(&seccomp).map_err(|_| invalid(()))?;
    let program = hull_kernel::seccomp::compile(&wanted).map_err(|_| invalid(()))?;
    fs::write(filter, program.to_bytes()).map_err(errno("filter"))
}

fn errno(step: &'static str) -> impl Fn(std::io::Error) -> (&'static str, Errno) {
    move |error| (step, Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn at(step: &'static str) -> impl Fn(Errno) -> (&'static str, Errno) {
    move |errno| (step, errno)
}

/// The parent's half, and the end.
fn run(rootfs: &str, state: &Path, filter: Option<&Program>, cgroups: &[(PathBuf, bool)]) -> Step<()> {
    fs::create_dir(state).map_err(errno("state"))?;
    let tree = |path: &str| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        open_tree(CWD, path, flags).map_err(at("open_tree"))
    };
    let (null, root) = (tree("/dev/null")?, tree(rootfs)?);
    let (tasks, born_in) = make_cgroups(cgroups)?;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(at("socketpair"))?;
    let namespaces = sys::CLONE_NEWNS | sys::CLONE_NEWPID | sys::CLONE_NEWNET | sys::CLONE_NEWIPC | sys::CLONE_NEWUTS;
    let cloned = sys::clone3(namespaces as u64, born_in.as_ref().map(AsFd::as_fd)).map_err(errno("clone3"))?;
    let Cloned::Parent { pid, .. } = cloned else {
        let ended = become_container(&tasks, &root, null, filter, theirs.as_fd());
        eprintln!("child: {ended:?}");
        sys::exit_now(1)
    };
    drop(theirs);
    let mut word = [0; 16];
    recv(&ours, &mut word, RecvFlags::empty()).map_err(at("ready"))?;
    let record = state.join("state.json");
    fs::write(&record, pid.to_string()).map_err(errno("record"))?;
    send(&ours, b"start", SendFlags::NOSIGNAL).map_err(at("start"))?;
    recv(&ours, &mut word, RecvFlags::empty()).map_err(at("running"))?;
    waitpid(Pid::from_raw(pid), WaitOptions::empty()).map_err(at("wait"))?;
    for (folder, _) in cgroups {
        rustix::fs::rmdir(folder).map_err(at("rmdir cgroup"))?;
    }
    fs::remove_file(&record).map_err(errno("record"))?;
    fs::remove_dir(state).map_err(errno("state"))
}

/// Makes the cgroups, sets the device rules, and opens what the child gets in by.
fn make_cgroups(cgroups: &[(PathBuf, bool)]) -> Step<(Vec<File>, Option<OwnedFd>)> {
    let (mut tasks, mut born_in) = (Vec::new(), None);
    for (folder, is_v2) in cgroups {
        rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755)).map_err(at("mkdir cgroup"))?;
        let put = |file: &str, values: &[&str]| -> Step<()> {
            let mut file = File::options().write(true).open(folder.join(file)).map_err(errno("cgroup file"))?;
            values.iter().try_for_each(|value| file.write_all(value.as_bytes())).map_err(errno("cgroup value"))
        };
        let mount = folder.parent().unwrap_or(folder);
        if mount.ends_with("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read_to_string(mount.join(file)).map_err(errno("cpuset"))?;
                put(file, &[value.trim()])?;
            }
        }
        if mount.ends_with("devices") {
            put("devices.deny", &["a"])?;
            put("devices.allow", &DEVICE_RULES)?;
        }
        if *is_v2 {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            born_in = Some(rustix::fs::open(folder, flags, Mode::empty()).map_err(at("cgroup v2"))?);
        } else {
            tasks.push(File::options().write(true).open(folder.join("tasks")).map_err(errno("tasks"))?);
        }
    }
    Ok((tasks, born_in))
}

/// The child's half.
fn become_container(
    tasks: &[File],
    root: &OwnedFd,
    null: OwnedFd,
    filter: Option<&Program>,
    parent: BorrowedFd<'_>,
) -> Step<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at("dumpable"))?;
    for mut file in tasks {
        file.write_all(b"0").map_err(errno("join"))?;
    }
    sys::unshare(sys::CLONE_NEWCGROUP).map_err(errno("unshare"))?;
    setsid().map_err(at("setsid"))?;
    sys::join_session_keyring(None).map_err(errno("keyring"))?;
    rustix::system::sethostname(b"floor").map_err(at("hostname"))?;
    hull_kernel::loopback::set_up().map_err(|_| ("loopback", Errno::IO))?;
    build_root(root, null)?;
    fchdir(root).map_err(at("fchdir"))?;
    pivot_root(c".", c".").map_err(at("pivot_root"))?;
    unmount(c".", UnmountFlags::DETACH).map_err(at("umount"))?;
    chdir(c"/").map_err(at("chdir"))?;
    read_only(root.as_fd(), false)?;
    send(parent, b"ready", SendFlags::NOSIGNAL).map_err(at("ready"))?;
    let mut word = [0; 16];
    recv(parent, &mut word, RecvFlags::empty()).map_err(at("start"))?;
    drop_rights(filter)?;
    close_files(parent)?;
    let vectors = ExecVectors::new(&["/bin/true"], &["PATH=/bin"]).map_err(errno("vectors"))?;
    Err(errno("execve")(sys::execve(c"/bin/true", &vectors)))
}

fn close_files(parent: BorrowedFd<'_>) -> Step<()> {
    let moved = sys::dup_above(parent, 10).map_err(errno("dup"))?;
    sys::place_fd(moved.as_fd(), 3).map_err(errno("dup"))?;
    std::mem::forget(moved);
    close_from(4).map_err(errno("close_range"))?;
    sys::cloexec_from(3).map_err(errno("close_range"))
}

fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Step<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags).map_err(at("move_mount"))
}

fn copy(mount: BorrowedFd<'_>) -> Step<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(mount, c"", flags).map_err(at("open_tree"))
}

fn read_only(mount: BorrowedFd<'_>, recursive: bool) -> Step<()> {
    let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    mount_setattr(mount, c"", recursive, &attributes).map_err(errno("mount_setattr"))
}

fn filesystem(kind: &str, options: &[(&str, &str)], attributes: u32) -> Step<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen"))?;
    fsconfig_set_string(context.as_fd(), "source", kind).map_err(at("fsconfig"))?;
    for (key, value) in options {
        let set = if value.is_empty() {
            fsconfig_set_flag(context.as_fd(), *key)
        } else {
            fsconfig_set_string(context.as_fd(), *key, *value)
        };
        set.map_err(at("fsconfig"))?;
    }
    fsconfig_create(context.as_fd()).map_err(at("fsconfig"))?;
    let attributes = MountAttrFlags::from_bits_retain(attributes);
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("fsmount"))
}

fn build_root(root: &OwnedFd, null: OwnedFd) -> Step<()> {
    let private = MountAttributes { propagation: 1 << 18, ..MountAttributes::default() };
    mount_setattr(CWD, c"/", true, &private).map_err(errno("private"))?;
    move_mount(root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(at("root"))?;
    let open = |path: &str| {
        openat2(
            root,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    };
    let mode = Mode::from_raw_mode(0o755);
    for (kind, place, options, attributes) in MOUNTS {
        let mount = filesystem(kind, options, attributes)?;
        let target = match open(place) {
            Err(Errno::NOENT) => {
                mkdirat(root, place, mode).map_err(at("mkdir"))?;
                open(place)
            }
            other => other,
        };
        attach(mount.as_fd(), target.map_err(at("mount point"))?.as_fd())?;
    }
    let dev = open("dev").map_err(at("dev"))?;
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(major, minor)).map_err(at("mknod"))?;
        chmodat(&dev, name, mode, AtFlags::empty()).map_err(at("chmod"))?;
    }
    for (target, name) in LINKS {
        symlinkat(target, &dev, name).map_err(at("symlink"))?;
    }
    // The kernel clones only what is attached, so each cover is attached once and cloned from there.
    let empty = filesystem("tmpfs", &[("nr_inodes", "1"), ("mode", "755")], 0xf)?;
    let (mut covered_file, mut covered_directory) = (false, false);
    for path in MASKED {
        let Ok(target) = open(path) else { continue };
        let stat = rustix::fs::fstat(&target).map_err(at("fstat"))?;
        let (cover, used) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => (&empty, &mut covered_directory),
            _ => (&null, &mut covered_file),
        };
        if std::mem::replace(used, true) {
            attach(copy(cover.as_fd())?.as_fd(), target.as_fd())?;
        } else {
            attach(cover.as_fd(), target.as_fd())?;
        }
    }
    for path in READ_ONLY {
        let Ok(target) = open(path) else { continue };
        let mount = copy(target.as_fd())?;
        read_only(mount.as_fd(), true)?;
        attach(mount.as_fd(), target.as_fd())?;
    }
    Ok(())
}

fn drop_rights(filter: Option<&Program>) -> Step<()> {
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum: Some(1024) }).map_err(at("setrlimit"))?;
    for number in (0..=LAST_CAPABILITY).filter(|number| CAPABILITIES & (1 << number) == 0) {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        rustix::thread::remove_capability_from_bounding_set(capability).map_err(at("bounding set"))?;
    }
    umask(Mode::from_raw_mode(0o022));
    set_thread_groups(&[]).map_err(at("setgroups"))?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(at("setresgid"))?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(at("setresuid"))?;
    let set = CapabilitySet::from_bits_retain(CAPABILITIES);
    let sets = CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(at("capset"))?;
    set_no_new_privs(true).map_err(at("no_new_privs"))?;
    if let Some(filter) = filter {
        filter.load().map_err(errno("seccomp"))?;
    }
    Ok(())
}
