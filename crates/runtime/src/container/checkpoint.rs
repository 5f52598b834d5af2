//! `checkpoint`: the processes of a container become files, and usually end with that.
//!
//! Which mounts and namespaces are external is read from the bundle's config.json, as it is now.

use std::fs::{self, DirBuilder};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use hull_oci::runtime::{Linux, Spec, Status};

use super::criu::{self, CriuError, CriuOptions, Surroundings};
use super::record::Record;
use super::{ContainerError, Containers, process, status};
use crate::create::await_end;
use crate::hooks::HookError;

/// Which descriptors of the container's process were pipes.
pub(super) const DESCRIPTORS_FILE: &str = "descriptors.json";
const LOG_FILE: &str = "dump.log";

/// What `checkpoint` is told.
#[derive(Debug, Default)]
pub struct CheckpointRequest {
    /// What it has in common with restore.
    pub options: CriuOptions,
    /// Images of an earlier pre-dump, relative to the images' folder.
    pub parent: Option<PathBuf>,
    /// Let the container go on afterwards.
    pub leave_running: bool,
    /// Ignore TCP connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Allow files that were removed while open.
    pub link_remap: bool,
    /// Only its memory; it goes on.
    pub pre_dump: bool,
    /// Address and port of a server for the pages.
    pub page_server: Option<(String, u16)>,
    /// Where criu writes a zero byte when lazy pages can be asked for.
    pub status_fd: Option<i32>,
}

impl Containers {
    /// Writes the container's processes into files. Unless it is left running it is removed; gives the poststop hooks
    /// that failed, which changes nothing.
    ///
    /// # Errors
    /// A container in the wrong state, what cannot be handed to criu, and criu's own failures.
    pub fn checkpoint(&self, id: &str, request: &CheckpointRequest) -> Result<Vec<HookError>, ContainerError> {
        let folder = self.folder(id)?;
        let record = Record::read(&folder)?;
        match status(&folder, &record)? {
            Status::Running | Status::Paused => {}
            status => return Err(ContainerError::CannotCheckpoint(status)),
        }
        let pidfd = process(&record)?;
        let spec = Containers::read_spec(&record.bundle)?;
        criu::refuse(&spec)?;
        let program = criu::find()?;
        for folder in std::iter::once(&request.options.images).chain(&request.options.work) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(ContainerError::file("make", folder))?;
        }
        let mut words = words(&record, &spec, request)?;
        if let Some(freezer) = freezer(&record)? {
            words.extend(["--freeze-cgroup".to_owned(), criu::text(&freezer)]);
        }
        if !request.pre_dump {
            write_descriptors(&request.options.images, record.pid)?;
        }
        let command = if request.pre_dump { "pre-dump" } else { "dump" };
        let log = request.options.logs().join(LOG_FILE);
        criu::run(&program, command, &words, &Surroundings::default(), &log)?;
        if request.leave_running || request.pre_dump {
            return Ok(Vec::new());
        }
        await_end(pidfd.as_fd());
        self.delete(id, true)
    }
}

fn words(record: &Record, spec: &Spec, request: &CheckpointRequest) -> Result<Vec<String>, ContainerError> {
    let mut words = criu::configuration(spec);
    words.extend(["--tree".to_owned(), record.pid.to_string(), "--root".to_owned(), criu::text(&record.rootfs)]);
    words.extend(request.options.words(LOG_FILE));
    words.extend(criu::switches(&[
        (request.leave_running, "--leave-running"),
        (request.tcp_skip_in_flight, "--skip-in-flight"),
        (request.link_remap, "--link-remap"),
        (request.parent.is_some(), "--track-mem"),
    ]));
    if let Some(parent) = &request.parent {
        words.extend(["--prev-images-dir".to_owned(), criu::text(parent)]);
    }
    if let Some((address, port)) = &request.page_server {
        let server = ["--page-server", "--address", address, "--port", &port.to_string()];
        words.extend(server.map(str::to_owned));
    }
    if let Some(fd) = request.status_fd {
        words.extend(["--status-fd".to_owned(), fd.to_string()]);
    }
    let empty = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&empty);
    for (kind, key, path) in criu::joined(linux) {
        let inode = fs::metadata(path).map_err(ContainerError::file("open", path))?.ino();
        words.extend(["--external".to_owned(), format!("{kind}[{inode}]:{key}")]);
    }
    if !request.pre_dump {
        words.extend(external_mounts(spec, linux, Path::new(&format!("/proc/{}/root", record.pid))));
    }
    Ok(words)
}

/// The mounts that show what is not the container's: bind mounts, and files masked by /dev/null.
fn external_mounts(spec: &Spec, linux: &Linux, root: &Path) -> Vec<String> {
    let external = |inside: &str, key: &str| ["--external".to_owned(), format!("mnt[{inside}]:{key}")];
    let binds = spec.mounts.iter().filter(|mount| criu::is_bind(mount)).map(|mount| criu::text(&mount.destination));
    let mut words: Vec<String> = binds.flat_map(|inside| external(&inside, &inside)).collect();
    let is_file =
        |path: &&String| fs::metadata(root.join(path.trim_start_matches('/'))).is_ok_and(|masked| !masked.is_dir());
    words.extend(linux.masked_paths.iter().filter(is_file).flat_map(|path| external(path, "/dev/null")));
    words
}

/// The cgroup by which criu freezes the processes.
fn freezer(record: &Record) -> Result<Option<PathBuf>, ContainerError> {
    let Some(cgroup) = record.cgroup()? else { return Ok(None) };
    Ok(cgroup.legacy_folder("freezer").or(cgroup.unified_folder()).map(Path::to_path_buf))
}

fn write_descriptors(images: &Path, pid: i32) -> Result<(), ContainerError> {
    let path = images.join(DESCRIPTORS_FILE);
    let names: Vec<String> = (0..3).map(|fd| criu::target(pid, fd)).collect();
    let text = serde_json::to_vec(&names).map_err(|source| ContainerError::Json { path: path.clone(), source })?;
    fs::write(&path, text).map_err(ContainerError::file("write", &path))
}

impl From<CriuError> for ContainerError {
    fn from(error: CriuError) -> ContainerError {
        ContainerError::Criu(Box::new(error))
    }
}
