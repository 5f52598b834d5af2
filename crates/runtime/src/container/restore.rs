//! `restore`: a container whose processes come from the files of a checkpoint.
//!
//! The container's folder and cgroup are made as for any other, criu runs inside that cgroup, and the process that it
//! restores is the caller's child. criu wants the root file system as a mount of its own: it gets a bind mount that
//! only it can see, in a mount namespace of its own. Hooks of the creation are not run, so a bundle with some is refused.

use std::fs::{self, DirBuilder};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use hull_kernel::cgroups::{Cgroup, CgroupError, Layout};
use hull_kernel::mounts::{clone_tree, inside};
use hull_oci::runtime::{Linux, Spec};
use rustix::fs::{CWD, Mode};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::checkpoint::DESCRIPTORS_FILE;
use super::criu::{self, CriuError, CriuOptions, Surroundings};
use super::record::{Record, start_time};
use super::{ContainerError, Containers, New, default_cgroup, exec, run_poststart};
use crate::create::CreateError;
use crate::plan::{CgroupPlan, Streams, plan_cgroup};

const LOG_FILE: &str = "restore.log";
const ROOT: &str = "criu-root";
const PID_FILE: &str = "criu.pid";

/// What `restore` is told.
#[derive(Debug)]
pub struct RestoreRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Folder with config.json.
    pub bundle: &'a Path,
    /// Standard streams, which take the place of pipes that the processes had.
    pub streams: Streams,
    /// What it has in common with checkpoint.
    pub options: CriuOptions,
    /// Another label than the one checkpointed, as `apparmor:name`.
    pub lsm_profile: Option<String>,
    /// Another context for mounts that have one.
    pub lsm_mount_context: Option<String>,
}

impl Containers {
    /// Makes a container from a checkpoint; it runs when this returns.
    ///
    /// The caller must have one thread; the restored process is its child.
    ///
    /// # Errors
    /// An id that is taken, what cannot be handed to criu, and criu's own failures; nothing is left behind.
    pub fn restore(&self, spec: &Spec, request: &RestoreRequest<'_>) -> Result<New, ContainerError> {
        criu::refuse(spec)?;
        refuse_hooks(spec)?;
        if self.systemd_cgroup {
            let reason = "criu needs a cgroup before there is a process for systemd to put there";
            return Err(CriuError::Unsupported { what: "--systemd-cgroup".to_owned(), reason }.into());
        }
        let program = criu::find()?;
        let folder = self.make_folder(request.id)?;
        let result = restore_in(&folder, spec, request, &program);
        if result.is_err() {
            // The failure is what the caller needs; a folder that stays is seen and removed by delete --force.
            let _ = fs::remove_dir_all(&folder);
        }
        result
    }
}

fn refuse_hooks(spec: &Spec) -> Result<(), CriuError> {
    let Some(hooks) = &spec.hooks else { return Ok(()) };
    let made = [
        (&hooks.prestart, "hooks.prestart"),
        (&hooks.create_runtime, "hooks.createRuntime"),
        (&hooks.create_container, "hooks.createContainer"),
        (&hooks.start_container, "hooks.startContainer"),
    ];
    match made.into_iter().find(|(hooks, _)| !hooks.is_empty()) {
        Some((_, what)) => Err(CriuError::Unsupported { what: what.to_owned(), reason: "criu makes the namespaces" }),
        None => Ok(()),
    }
}

fn restore_in(folder: &Path, spec: &Spec, request: &RestoreRequest<'_>, program: &Path) -> Result<New, ContainerError> {
    let bundle = std::path::absolute(request.bundle).map_err(ContainerError::file("find", request.bundle))?;
    let empty = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&empty);
    let wanted = plan_cgroup(linux, default_cgroup(spec, request.id))?;
    let mut record = super::record(spec, &bundle, wanted.as_ref());
    exec::Template::of(spec, &record).write(folder)?;
    let cgroup = wanted.as_ref().map(prepare).transpose()?;
    record.keeps_cgroup_parent = cgroup.as_ref().is_some_and(Cgroup::keeps_parent);
    let result = run(folder, &record, spec, request, program, cgroup.as_ref()).and_then(|new| {
        record.pid = new.pid;
        record.start_time = start_time(new.pid).unwrap_or_default();
        record.draft(folder).and_then(|()| Record::publish(folder))?;
        run_poststart(request.id, &record).map(|()| new)
    });
    if let (Err(_), Some(cgroup)) = (&result, &cgroup) {
        // The failure is what the caller needs to hear of; a cgroup that stays is removed by the next of this id.
        let _ = cgroup.kill_all().and_then(|()| cgroup.remove_with_parent());
    }
    result
}

/// Makes the cgroup with its limits.
fn prepare(wanted: &CgroupPlan) -> Result<Cgroup, ContainerError> {
    let failed = |source: CgroupError| CreateError::Cgroup { path: wanted.path.clone(), source };
    let mut cgroup = Layout::detect().and_then(|layout| layout.cgroup(&wanted.path)).map_err(failed)?;
    if !cgroup.create().map_err(failed)? {
        cgroup.keep_parent();
    }
    if let Err(error) = cgroup.apply(&wanted.limits) {
        let _ = cgroup.remove_with_parent();
        return Err(failed(error).into());
    }
    Ok(cgroup)
}

fn run(
    folder: &Path,
    record: &Record,
    spec: &Spec,
    request: &RestoreRequest<'_>,
    program: &Path,
    cgroup: Option<&Cgroup>,
) -> Result<New, ContainerError> {
    let root = folder.join(ROOT);
    DirBuilder::new().mode(0o755).create(&root).map_err(ContainerError::file("make", &root))?;
    let mount = clone_tree(CWD, &record.rootfs, true).map_err(mount_failure)?;
    make_mount_points(&mount, spec)?;
    let pid_file = folder.join(PID_FILE);
    let mut words = criu::configuration(spec);
    words.extend(["--root".to_owned(), criu::text(&root), "--pidfile".to_owned(), criu::text(&pid_file)]);
    words.extend(["--restore-detached", "--restore-sibling", "--evasive-devices"].map(str::to_owned));
    words.extend(request.options.words(LOG_FILE));
    for (flag, value) in [("--lsm-profile", &request.lsm_profile), ("--lsm-mount-context", &request.lsm_mount_context)]
    {
        words.extend(value.iter().flat_map(|value| [flag.to_owned(), value.clone()]));
    }
    words.extend(cgroup_roots(cgroup));
    words.extend(external_mounts(spec, &record.bundle));
    words.extend(inherited_pipes(&request.options.images)?);
    let (fds, more) = joined_namespaces(spec)?;
    words.extend(more);
    let joiner = cgroup.map(Cgroup::joiner).transpose()?;
    let surroundings = Surroundings {
        streams: Some(&request.streams),
        fds: &fds,
        joiner: joiner.as_ref(),
        root: Some((&mount, &root)),
    };
    let log = request.options.logs().join(LOG_FILE);
    criu::run(program, "restore", &words, &surroundings, &log)?;
    // Empty here: what was mounted on it was mounted in criu's own namespace.
    let _ = fs::remove_dir(&root);
    let pid = fs::read_to_string(&pid_file).map_err(ContainerError::file("read", &pid_file))?;
    let pid = pid.trim().parse().ok().and_then(Pid::from_raw).ok_or(ContainerError::NotRunning)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| ContainerError::NotRunning)?;
    Ok(New { pid: pid.as_raw_nonzero().get(), pidfd, terminal: None, readiness: None })
}

fn mount_failure(error: hull_kernel::mounts::MountError) -> ContainerError {
    ContainerError::Create(CreateError::Root(error))
}

/// Makes the mount points that a fresh root file system lacks. What is below a tmpfs comes with the images.
fn make_mount_points(root: &OwnedFd, spec: &Spec) -> Result<(), ContainerError> {
    let is_tmpfs = |mount: &&hull_oci::runtime::Mount| mount.type_.as_deref() == Some("tmpfs");
    let tmpfs: Vec<&Path> = spec.mounts.iter().filter(is_tmpfs).map(|mount| mount.destination.as_path()).collect();
    for mount in &spec.mounts {
        let at = mount.destination.as_path();
        if tmpfs.iter().any(|above| at.starts_with(above) && at != *above) {
            continue;
        }
        let is_file = criu::is_bind(mount) && mount.source.as_ref().is_some_and(|source| source.is_file());
        let made = match is_file {
            true => inside::make_file(root.as_fd(), at),
            false => inside::make_directory(root.as_fd(), at, Mode::from_raw_mode(0o755)),
        };
        made.map_err(mount_failure)?;
    }
    Ok(())
}

/// The container's cgroup for each controller; the empty name is cgroup v2.
fn cgroup_roots(cgroup: Option<&Cgroup>) -> Vec<String> {
    let roots = cgroup.map(Cgroup::paths_by_controller).unwrap_or_default();
    roots.into_iter().flat_map(|(name, path)| ["--cgroup-root".to_owned(), format!("{name}:{path}")]).collect()
}

/// What the keys of the checkpoint stand for now.
fn external_mounts(spec: &Spec, bundle: &Path) -> Vec<String> {
    let external = |key: &str, source: &str| ["--external".to_owned(), format!("mnt[{key}]:{source}")];
    let binds = spec.mounts.iter().filter(|mount| criu::is_bind(mount)).filter_map(|mount| {
        let source = bundle.join(mount.source.as_ref()?);
        Some(external(&criu::text(&mount.destination), &criu::text(&source)))
    });
    let mut words: Vec<String> = binds.flatten().collect();
    if spec.linux.as_ref().is_some_and(|linux| !linux.masked_paths.is_empty()) {
        words.extend(external("/dev/null", "/dev/null"));
    }
    words
}

/// The streams that take the place of the checkpointed processes' pipes.
fn inherited_pipes(images: &Path) -> Result<Vec<String>, ContainerError> {
    let path = images.join(DESCRIPTORS_FILE);
    let text = fs::read(&path).map_err(ContainerError::file("open", &path))?;
    let names: Vec<String> = serde_json::from_slice(&text).map_err(|source| ContainerError::Json { path, source })?;
    let pipes = names.into_iter().take(3).enumerate().filter(|(_, name)| name.starts_with("pipe:"));
    Ok(pipes.flat_map(|(fd, name)| ["--inherit-fd".to_owned(), format!("fd[{fd}]:{name}")]).collect())
}

/// The namespaces to join: descriptors that criu gets from 3 on, and the words that say so.
fn joined_namespaces(spec: &Spec) -> Result<(Vec<OwnedFd>, Vec<String>), ContainerError> {
    let mut fds = Vec::new();
    let mut words = Vec::new();
    for (_, key, path) in spec.linux.iter().flat_map(criu::joined) {
        words.extend(["--inherit-fd".to_owned(), format!("fd[{}]:{key}", 3 + fds.len())]);
        fds.push(fs::File::open(path).map_err(ContainerError::file("open", path))?.into());
    }
    Ok((fds, words))
}
