//! The stage of a measurement: folders, peers' daemons, images loaded everywhere.
//!
//! One daemon serves two candidates: dockerd starts its own containerd, which `ctr` talks to as well. The daemon is this
//! process's child and is ended by its pid when the stage is taken down; sockets and pid files are in the private /run.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::Settings;
use super::worker::Start;
use crate::peers::Peers;
use crate::program;

/// The image that whole containers are measured with.
pub const IMAGE: &str = "five-layers";
/// Sockets, pid files and state, in the contained place's own /run.
const RUN: &str = "/run/hull-peers";
/// How long a daemon may take to come up or go down.
const DAEMON_LIMIT: Duration = Duration::from_secs(60);

/// Where daemons write of their own accord; the machine's own folders are read-only here anyway.
const COVERED: [&str; 2] = ["/opt", "/var/cache"];

/// Mounts a tmpfs where one is asked for, and over what daemons want to write to.
pub fn prepare_folders(settings: &Settings) -> Result<()> {
    if settings.on_tmpfs {
        tmpfs(&settings.dir)?;
    }
    for path in covered() {
        tmpfs(path)?;
    }
    cover_etc(&settings.dir)?;
    fs::create_dir_all(RUN)?;
    Ok(())
}

/// Takes down what `prepare_folders` and the peers mounted.
pub fn remove_folders(settings: &Settings) -> Result<()> {
    if settings.on_tmpfs {
        unmount(&settings.dir, UnmountFlags::DETACH)?;
    }
    for path in covered().chain([Path::new("/etc")]) {
        unmount(path, UnmountFlags::DETACH)?;
    }
    Ok(())
}

/// dockerd makes /etc/docker: what is written to /etc goes to a folder of the measurement.
fn cover_etc(dir: &Path) -> Result<()> {
    let (upper, work) = (dir.join("etc"), dir.join("etc-work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    mount(c"overlay", c"/etc", c"overlay", MountFlags::empty(), &*CString::new(options)?).context("overlay on /etc")
}

fn covered() -> impl Iterator<Item = &'static Path> {
    COVERED.iter().map(Path::new).filter(|path| path.is_dir())
}

fn tmpfs(path: &Path) -> Result<()> {
    mount(c"tmpfs", path, c"tmpfs", MountFlags::empty(), c"mode=755").with_context(|| path.display().to_string())
}

/// Hull with roots of its own.
pub struct Hull<'a> {
    settings: &'a Settings,
}

impl<'a> Hull<'a> {
    /// Loads the image.
    pub fn ready(settings: &'a Settings) -> Result<Hull<'a>> {
        let hull = Hull { settings };
        let archive = settings.images.join(format!("{IMAGE}.docker.tar"));
        let load = hull.start(&["load", "--input", &archive.display().to_string()]);
        program::quiet(Command::new(&load.argv[0]).args(&load.argv[1..])).context("hull load")?;
        Ok(hull)
    }

    /// `hull` with its roots and `words`.
    pub fn start(&self, words: &[&str]) -> Start {
        let root = self.settings.dir.join("hull").display().to_string();
        let hull = self.settings.hull.display().to_string();
        let mut argv = vec![hull, "--root".into(), root, "--state".into(), "/run/hull-bench".into()];
        argv.extend(words.iter().map(|word| word.to_string()));
        Start { argv, env: Default::default() }
    }
}

/// A docker daemon with its containerd.
pub struct Docker<'a> {
    daemon: Child,
    peers: &'a Peers,
}

impl<'a> Docker<'a> {
    /// Starts the daemon and loads the image into docker and, for `ctr`, into its containerd.
    pub fn ready(settings: &Settings, peers: &'a Peers) -> Result<Docker<'a>> {
        let mut docker = Docker { daemon: start_dockerd(&settings.dir, peers)?, peers };
        docker.wait_until_up(&settings.dir)?;
        let archive = settings.images.join(format!("{IMAGE}.docker.tar")).display().to_string();
        docker.quiet(&docker.docker(&["load", "--input", &archive])?)?;
        let archive = settings.images.join(format!("{IMAGE}.oci.tar")).display().to_string();
        docker.quiet(&docker.ctr(&["images", "import", &archive])?)?;
        Ok(docker)
    }

    /// `docker` on this daemon.
    pub fn docker(&self, words: &[&str]) -> Result<Start> {
        let host = format!("unix://{RUN}/docker.sock");
        peer(self.peers, "docker", &[&["--host", &host], words].concat())
    }

    /// `ctr` on this daemon's containerd.
    pub fn ctr(&self, words: &[&str]) -> Result<Start> {
        let socket = format!("{RUN}/docker/containerd/containerd.sock");
        peer(self.peers, "ctr", &[&["--address", &socket, "--namespace", "bench"], words].concat())
    }

    /// Runs one of the above and expects it to end well.
    pub fn quiet(&self, start: &Start) -> Result<()> {
        program::quiet(Command::new(&start.argv[0]).args(&start.argv[1..]).envs(&start.env))
    }

    fn wait_until_up(&mut self, dir: &Path) -> Result<()> {
        let end = Instant::now() + DAEMON_LIMIT;
        let ask = self.docker(&["version"])?;
        while let Err(error) = self.quiet(&ask) {
            if self.daemon.try_wait()?.is_some() || Instant::now() > end {
                let log = program::text(&dir.join("dockerd.log"))?;
                bail!("dockerd did not come up: {error:#}\n{log}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let stopped = stop(&mut self.daemon);
        if let Err(error) = stopped {
            eprintln!("dockerd: {error:#}");
        }
    }
}

fn start_dockerd(dir: &Path, peers: &Peers) -> Result<Child> {
    let log = File::create(dir.join("dockerd.log"))?;
    let mut command = peers.command("dockerd")?;
    command.arg("--config-file").arg(peers.daemon_settings()).arg("--data-root").arg(dir.join("docker"));
    command.args([
        "--exec-root",
        &format!("{RUN}/docker"),
        "--pidfile",
        &format!("{RUN}/docker.pid"),
        "--host",
        &format!("unix://{RUN}/docker.sock"),
    ]);
    command.stdout(log.try_clone()?).stderr(log).spawn().context("starting dockerd")
}

fn stop(daemon: &mut Child) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(daemon.id())?).context("a process without a number")?;
    if daemon.try_wait()?.is_none() {
        kill_process(pid, Signal::TERM)?;
    }
    let end = Instant::now() + DAEMON_LIMIT;
    while daemon.try_wait()?.is_none() {
        if Instant::now() > end {
            daemon.kill()?;
            bail!("it did not end when told to");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Podman, which has no daemon.
pub struct Podman<'a> {
    dir: PathBuf,
    peers: &'a Peers,
}

impl<'a> Podman<'a> {
    /// Loads the image.
    pub fn ready(settings: &Settings, peers: &'a Peers) -> Result<Podman<'a>> {
        let podman = Podman { dir: settings.dir.join("podman"), peers };
        let archive = settings.images.join(format!("{IMAGE}.docker.tar")).display().to_string();
        let load = podman.podman(&["load", "--quiet", "--input", &archive])?;
        program::quiet(Command::new(&load.argv[0]).args(&load.argv[1..]).envs(&load.env)).context("podman load")?;
        Ok(podman)
    }

    /// `podman` with its storage in the measurement's folder.
    pub fn podman(&self, words: &[&str]) -> Result<Start> {
        let root = self.dir.display().to_string();
        let own = ["--root", &root, "--runroot", "/run/hull-peers/podman", "--tmpdir", "/run/hull-peers/libpod"];
        peer(self.peers, "podman", &[&own, words].concat())
    }
}

/// A peer with its environment, ready to be started.
pub fn peer(peers: &Peers, name: &str, words: &[&str]) -> Result<Start> {
    let program = peers.program(name)?.display().to_string();
    let argv = std::iter::once(program).chain(words.iter().map(|word| word.to_string())).collect();
    Ok(Start { argv, env: peers.environment() })
}
