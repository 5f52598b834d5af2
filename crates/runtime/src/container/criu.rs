//! Running criu(8), the program that writes a tree of processes into files and makes it anew from them.
//!
//! It is driven by its command line. What the container did not make itself (bind mounts, masked files, namespaces that
//! it joined) is *external* to it: named by a key when it is dumped, and given again under that key when it is restored.
//! A terminal cannot be handed over this way, only over criu's RPC, so containers with one are refused by name.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hull_kernel::cgroups::Joiner;
use hull_kernel::mounts::{self, Propagation};
use hull_oci::runtime::{Linux, LinuxNamespaceType, Mount, Spec};
use hull_sys::process::{self as sys, CLONE_NEWNS, Cloned, ExecVectors};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

use crate::plan::Streams;

/// What went wrong with criu.
#[derive(Debug, thiserror::Error)]
pub enum CriuError {
    /// It is not installed.
    #[error("exec: \"criu\": executable file not found in $PATH (checkpoint and restore need criu, see criu(8))")]
    Missing,
    /// It could not be started or waited for.
    #[error("running {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says that it can do nothing on this machine.
    #[error("criu cannot run on this machine (criu check: {reason})")]
    Unable {
        /// Its own words.
        reason: String,
    },
    /// It did not do what it was told.
    #[error("criu {command} failed: {reason} (log file: {})", log.display())]
    Failed {
        /// dump, pre-dump or restore.
        command: &'static str,
        /// Its last error, or how it ended.
        reason: String,
        /// Where it says more.
        log: PathBuf,
    },
    /// The container or the request has something that cannot be handed to criu.
    #[error("{what} is not supported with checkpoint and restore: {reason}")]
    Unsupported {
        /// The field or flag.
        what: String,
        /// Why.
        reason: &'static str,
    },
}

/// What checkpoint and restore are both told.
#[derive(Debug, Default)]
pub struct CriuOptions {
    /// Folder of the image files.
    pub images: PathBuf,
    /// Folder for logs; the images' when there is none.
    pub work: Option<PathBuf>,
    /// Allow established TCP connections.
    pub tcp_established: bool,
    /// Allow Unix sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// Allow a session led from outside.
    pub shell_job: bool,
    /// Keep file locks.
    pub file_locks: bool,
    /// soft, full, strict or ignore.
    pub manage_cgroups: Option<String>,
    /// Drop pages from parent images that are in newer ones.
    pub auto_dedup: bool,
    /// Move pages when they are touched.
    pub lazy_pages: bool,
}

impl CriuOptions {
    /// The folder with the log.
    pub(super) fn logs(&self) -> &Path {
        self.work.as_deref().unwrap_or(&self.images)
    }

    /// Their part of the command line. Network devices are not criu's to make, so the namespace comes back empty.
    pub(super) fn words(&self, log: &str) -> Vec<String> {
        let mut words = vec!["--images-dir".to_owned(), text(&self.images), "--log-file".to_owned(), log.to_owned()];
        if let Some(work) = &self.work {
            words.extend(["--work-dir".to_owned(), text(work)]);
        }
        words.extend(["-v4", "--empty-ns", "net"].map(str::to_owned));
        words.push(format!("--manage-cgroups={}", self.manage_cgroups.as_deref().unwrap_or("soft")));
        words.extend(switches(&[
            (self.tcp_established, "--tcp-established"),
            (self.ext_unix_sk, "--ext-unix-sk"),
            (self.shell_job, "--shell-job"),
            (self.file_locks, "--file-locks"),
            (self.auto_dedup, "--auto-dedup"),
            (self.lazy_pages, "--lazy-pages"),
        ]));
        words
    }
}

/// The words whose condition holds.
pub(super) fn switches(all: &[(bool, &str)]) -> Vec<String> {
    all.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned()).collect()
}

pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The configuration file that the container's annotation names, or the one for all containers, where there is one.
pub(super) fn configuration(spec: &Spec) -> Vec<String> {
    let path = spec.annotations.get("org.criu.config").map_or("/etc/criu/runc.conf", String::as_str);
    if !path.is_empty() && Path::new(path).exists() { vec!["--config".to_owned(), path.to_owned()] } else { Vec::new() }
}

/// Whether a mount shows files of the host.
pub(super) fn is_bind(mount: &Mount) -> bool {
    mount.type_.as_deref() == Some("bind") || mount.options.iter().any(|option| option == "bind" || option == "rbind")
}

/// The namespaces of other makers that criu can be given: its name for the kind, the key, and the path.
pub(super) fn joined(linux: &Linux) -> impl Iterator<Item = (&'static str, &'static str, &Path)> {
    linux.namespaces.iter().filter_map(|namespace| {
        let (name, key) = match namespace.type_ {
            LinuxNamespaceType::Network => ("net", "extRootNetNS"),
            LinuxNamespaceType::Pid => ("pid", "extRootPidNS"),
            _ => return None,
        };
        Some((name, key, namespace.path.as_deref()?))
    })
}

/// Refuses what cannot be handed to criu in either direction.
pub(super) fn refuse(spec: &Spec) -> Result<(), CriuError> {
    let unsupported = |what: String, reason| Err(CriuError::Unsupported { what, reason });
    if spec.process.as_ref().is_some_and(|process| process.terminal) {
        return unsupported("process.terminal".to_owned(), "criu hands a terminal back over its RPC only");
    }
    if spec.linux.as_ref().is_some_and(|linux| linux.intel_rdt.is_some()) {
        return unsupported("linux.intelRdt".to_owned(), "criu leaves the class out");
    }
    let linux = spec.linux.iter().flat_map(|linux| linux.namespaces.iter().enumerate());
    for (index, namespace) in linux.filter(|(_, namespace)| namespace.path.is_some()) {
        if !matches!(namespace.type_, LinuxNamespaceType::Network | LinuxNamespaceType::Pid) {
            let what = format!("linux.namespaces[{index}].path");
            return unsupported(what, "only network and pid namespaces can be joined");
        }
    }
    Ok(())
}

/// criu on the caller's PATH.
pub(super) fn find() -> Result<PathBuf, CriuError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_program =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&path).map(|folder| folder.join("criu")).find(is_program).ok_or(CriuError::Missing)
}

/// What criu is started with besides its words.
#[derive(Default)]
pub(super) struct Surroundings<'a> {
    /// Its standard streams, which restored processes take over.
    pub streams: Option<&'a Streams>,
    /// Descriptors from 3 on.
    pub fds: &'a [OwnedFd],
    /// The cgroup in which it runs.
    pub joiner: Option<&'a Joiner>,
    /// A mount to attach at a path in a mount namespace of its own.
    pub root: Option<(&'a OwnedFd, &'a Path)>,
}

/// Runs criu to its end.
///
/// The caller must have one thread.
///
/// # Errors
/// [`CriuError::Run`], [`CriuError::Unable`] and [`CriuError::Failed`].
pub(super) fn run(
    program: &Path,
    command: &'static str,
    words: &[String],
    surroundings: &Surroundings<'_>,
    log: &Path,
) -> Result<(), CriuError> {
    let failed = |source: io::Error| CriuError::Run { program: program.to_path_buf(), source };
    let all: Vec<&[u8]> =
        ["criu", command].into_iter().chain(words.iter().map(String::as_str)).map(str::as_bytes).collect();
    let env: Vec<Vec<u8>> =
        std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    let vectors = ExecVectors::new(&all, &env).map_err(failed)?;
    let path = CString::new(program.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    let flags = if surroundings.root.is_some() { CLONE_NEWNS as u64 } else { 0 };
    let into = surroundings.joiner.and_then(Joiner::clone_into);
    let pid = match sys::clone3(flags, into).map_err(failed)? {
        Cloned::Child => {
            let error = become_criu(&path, &vectors, surroundings);
            eprintln!("{}: {error}", program.display());
            sys::exit_now(127)
        }
        Cloned::Parent { pid, .. } => pid,
    };
    let status = wait(pid).map_err(|errno| failed(errno.into()))?;
    if status.exit_status() == Some(0) {
        return Ok(());
    }
    if let Some(reason) = check(program) {
        return Err(CriuError::Unable { reason });
    }
    let ended = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("it exited with {code}"),
        (None, signal) => format!("it was ended by signal {}", signal.unwrap_or(0)),
    };
    Err(CriuError::Failed { command, reason: last_error(log).unwrap_or(ended), log: log.to_path_buf() })
}

/// The child's half; returns only with what failed.
fn become_criu(path: &CString, vectors: &ExecVectors, surroundings: &Surroundings<'_>) -> io::Error {
    let prepare = || -> io::Result<()> {
        let other = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
        if let Some(joiner) = surroundings.joiner {
            joiner.join_self().map_err(|error| other(&error))?;
        }
        if let Some((root, place)) = surroundings.root {
            mounts::set_propagation(c"/", true, Propagation::Slave).map_err(|error| other(&error))?;
            let place = fs::File::open(place)?;
            mounts::attach(root.as_fd(), place.as_fd(), "the root file system").map_err(|error| other(&error))?;
        }
        place_fds(surroundings)
    };
    if let Err(error) = prepare() {
        return error;
    }
    sys::default_signals();
    sys::execve(path, vectors)
}

/// Puts the streams at 0, 1 and 2 and the others from 3 on.
fn place_fds(surroundings: &Surroundings<'_>) -> io::Result<()> {
    let streams = surroundings.streams.map(|streams| [&streams.stdin, &streams.stdout, &streams.stderr]);
    let first: RawFd = if streams.is_some() { 0 } else { 3 };
    let all: Vec<&OwnedFd> = streams.into_iter().flatten().chain(surroundings.fds).collect();
    let above = first + all.len() as RawFd;
    // Above the final numbers first, so that placing one cannot overwrite another.
    let copies: Vec<_> = all.iter().map(|fd| sys::dup_above(fd.as_fd(), above.max(10))).collect::<io::Result<_>>()?;
    for (number, copy) in (first..).zip(&copies) {
        sys::place_fd(copy.as_fd(), number)?;
    }
    Ok(())
}

fn wait(pid: i32) -> Result<WaitStatus, Errno> {
    loop {
        match waitpid(Pid::from_raw(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// What criu says is wrong with this machine; `None` when nothing is.
fn check(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("check").stdin(Stdio::null()).output().ok()?;
    if output.status.success() {
        return None;
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().filter(|line| line.contains("Error")).find(|line| !line.contains("exited, status"));
    Some(line.or_else(|| said.lines().last()).map_or_else(|| output.status.to_string(), |line| line.trim().to_owned()))
}

/// The last error in criu's log.
fn last_error(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().rfind(|line| line.contains("Error")).map(|line| line.trim().to_owned())
}

/// The name of a descriptor's target, as `pipe:[4711]`.
pub(super) fn target(pid: i32, fd: RawFd) -> String {
    let link = fs::read_link(format!("/proc/{pid}/fd/{fd}"));
    link.as_deref().map_or(OsStr::new("/dev/null"), Path::as_os_str).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_oci::runtime::{LinuxNamespace, Process};

    #[test]
    fn options_become_words() {
        let options =
            CriuOptions { images: "/i".into(), tcp_established: true, lazy_pages: true, ..Default::default() };
        assert_eq!(
            options.words("dump.log").join(" "),
            "--images-dir /i --log-file dump.log -v4 --empty-ns net --manage-cgroups=soft --tcp-established --lazy-pages"
        );
        let options = CriuOptions {
            images: "/i".into(),
            work: Some("/w".into()),
            manage_cgroups: Some("full".to_owned()),
            ..Default::default()
        };
        assert_eq!(
            options.words("l").join(" "),
            "--images-dir /i --log-file l --work-dir /w -v4 --empty-ns net --manage-cgroups=full"
        );
        assert_eq!(options.logs(), Path::new("/w"));
    }

    #[test]
    fn what_criu_cannot_be_given_is_refused_by_name() {
        let terminal = Process { terminal: true, ..Process::default() };
        let error = refuse(&Spec { process: Some(terminal), ..Spec::default() }).unwrap_err().to_string();
        assert!(error.starts_with("process.terminal is not supported"), "{error}");
        let joining = |type_| {
            let namespaces = vec![LinuxNamespace { type_, path: Some("/n".into()) }];
            Spec { linux: Some(Linux { namespaces, ..Linux::default() }), ..Spec::default() }
        };
        let error = refuse(&joining(LinuxNamespaceType::Ipc)).unwrap_err().to_string();
        assert!(error.starts_with("linux.namespaces[0].path is not supported"), "{error}");
        let spec = joining(LinuxNamespaceType::Network);
        refuse(&spec).unwrap();
        let joined: Vec<_> = joined(spec.linux.as_ref().unwrap()).collect();
        assert_eq!(joined, [("net", "extRootNetNS", Path::new("/n"))]);
    }
}
