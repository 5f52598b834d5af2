//! The stage of a measurement: folders, peers' daemons, images loaded everywhere.
//!
//! One daemon serves two candidates: dockerd starts its own containerd, which `ctr` talks to as well. The daemon is this
//! process's child and is ended by its pid when the stage is taken down; sockets and pid files are in the private /run.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::rc::Rc;
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
/// Where they write beside what is there: dockerd makes /etc/docker, podman's plugins /var/lib/cni. It goes to folders of
/// the measurement, with these names.
const OVERLAID: [(&str, &str); 2] = [("/etc", "etc"), ("/var/lib", "var-lib")];

/// Mounts a tmpfs where one is asked for, and over what daemons want to write to.
pub fn prepare_folders(settings: &Settings) -> Result<()> {
    if settings.on_tmpfs {
        tmpfs(&settings.dir)?;
    }
    for path in covered() {
        tmpfs(path)?;
    }
    for (path, name) in OVERLAID {
        overlay(path, &settings.dir, name)?;
    }
    fs::create_dir_all(RUN)?;
    Ok(())
}

/// Takes down what `prepare_folders` and the peers mounted.
pub fn remove_folders(settings: &Settings) -> Result<()> {
    if settings.on_tmpfs {
        unmount(&settings.dir, UnmountFlags::DETACH)?;
    }
    for path in covered().chain(OVERLAID.iter().map(|(path, _)| Path::new(path))) {
        unmount(path, UnmountFlags::DETACH)?;
    }
    Ok(())
}

fn overlay(path: &str, dir: &Path, name: &str) -> Result<()> {
    let (upper, work) = (dir.join(name), dir.join(format!("{name}-work")));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = CString::new(format!("lowerdir={path},upperdir={},workdir={}", upper.display(), work.display()))?;
    mount(c"overlay", path, c"overlay", MountFlags::empty(), &*options).with_context(|| format!("overlay on {path}"))
}

fn covered() -> impl Iterator<Item = &'static Path> {
    COVERED.iter().map(Path::new).filter(|path| path.is_dir())
}

fn tmpfs(path: &Path) -> Result<()> {
    mount(c"tmpfs", path, c"tmpfs", MountFlags::empty(), c"mode=755").with_context(|| path.display().to_string())
}

/// Hull with roots of its own.
#[derive(Clone)]
pub struct Hull {
    argv: Vec<String>,
    images: PathBuf,
}

impl Hull {
    /// With its own choice of driver, and the image loaded.
    pub fn ready(settings: &Settings) -> Result<Hull> {
        let hull = Hull::at(settings, "hull", &[]);
        hull.load(IMAGE)?;
        Ok(hull)
    }

    /// With the storage driver of that name, and no image yet.
    pub fn with_driver(settings: &Settings, driver: &str) -> Result<Hull> {
        let config = settings.dir.join(format!("hull-{driver}.toml"));
        fs::write(&config, format!("[storage]\ndriver = \"{driver}\"\n"))?;
        Ok(Hull::at(settings, &format!("hull-{driver}"), &["--config".into(), config.display().to_string()]))
    }

    fn at(settings: &Settings, name: &str, options: &[String]) -> Hull {
        let hull = settings.measured.hull.display().to_string();
        let root = settings.dir.join(name).display().to_string();
        let mut argv = vec![hull, "--root".into(), root, "--state".into(), format!("/run/{name}-bench")];
        argv.extend_from_slice(options);
        Hull { argv, images: settings.images.clone() }
    }

    /// Loads an image.
    pub fn load(&self, image: &str) -> Result<()> {
        let archive = self.images.join(format!("{image}.docker.tar"));
        let load = self.start(&["load", "--input", &archive.display().to_string()]);
        program::quiet(Command::new(&load.argv[0]).args(&load.argv[1..])).context("hull load")
    }

    /// `hull` with its roots and `words`.
    pub fn start(&self, words: &[&str]) -> Start {
        let argv = self.argv.iter().cloned().chain(words.iter().map(|word| word.to_string())).collect();
        Start { argv, env: Default::default() }
    }
}

/// Removes the images of every Hull of the measurement, and with them the mounts of their layers.
pub fn remove_images(settings: &Settings) -> Result<()> {
    for name in ["hull", "hull-erofs", "hull-overlay"].iter().filter(|name| settings.dir.join(name).exists()) {
        let prune = Hull::at(settings, name, &[]).start(&["system", "prune", "--all", "--force"]);
        program::quiet(Command::new(&prune.argv[0]).args(&prune.argv[1..])).context("hull system prune")?;
    }
    Ok(())
}

/// A docker daemon with its containerd.
pub struct Docker {
    daemon: Child,
    peers: Rc<Peers>,
}

impl Docker {
    /// Starts the daemon, without a bridge and rules of its own.
    pub fn start(settings: &Settings, peers: Rc<Peers>) -> Result<Docker> {
        let configuration = peers.daemon_settings();
        Docker::configured(settings, peers, &configuration)
    }

    /// Starts the daemon with its bridge, its proxies and its rules in the measurement's network namespace, and loads the
    /// image.
    pub fn networked(settings: &Settings, peers: Rc<Peers>) -> Result<Docker> {
        let configuration = settings.dir.join("networked.json");
        fs::write(&configuration, r#"{"storage-driver": "overlay2", "log-level": "warn"}"#)?;
        let docker = Docker::configured(settings, peers, &configuration)?;
        let archive = settings.images.join(format!("{IMAGE}.docker.tar")).display().to_string();
        docker.quiet(&docker.docker(&["load", "--input", &archive])?)?;
        Ok(docker)
    }

    fn configured(settings: &Settings, peers: Rc<Peers>, configuration: &Path) -> Result<Docker> {
        let mut docker = Docker { daemon: start_dockerd(&settings.dir, &peers, configuration)?, peers };
        docker.wait_until_up(&settings.dir)?;
        Ok(docker)
    }

    /// Starts the daemon and loads the image into docker and, for `ctr`, into its containerd.
    pub fn ready(settings: &Settings, peers: Rc<Peers>) -> Result<Docker> {
        let docker = Docker::start(settings, peers)?;
        let archive = settings.images.join(format!("{IMAGE}.docker.tar")).display().to_string();
        docker.quiet(&docker.docker(&["load", "--input", &archive])?)?;
        let archive = settings.images.join(format!("{IMAGE}.oci.tar")).display().to_string();
        docker.quiet(&docker.ctr(&["images", "import", &archive])?)?;
        Ok(docker)
    }

    /// `docker` on this daemon.
    pub fn docker(&self, words: &[&str]) -> Result<Start> {
        let host = format!("unix://{RUN}/docker.sock");
        peer(&self.peers, "docker", &[&["--host", &host], words].concat())
    }

    /// `ctr` on this daemon's containerd.
    pub fn ctr(&self, words: &[&str]) -> Result<Start> {
        let socket = format!("{RUN}/docker/containerd/containerd.sock");
        peer(&self.peers, "ctr", &[&["--address", &socket, "--namespace", "bench"], words].concat())
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

impl Drop for Docker {
    fn drop(&mut self) {
        let stopped = stop(&mut self.daemon);
        if let Err(error) = stopped {
            eprintln!("dockerd: {error:#}");
        }
    }
}

fn start_dockerd(dir: &Path, peers: &Peers, configuration: &Path) -> Result<Child> {
    let log = File::create(dir.join("dockerd.log"))?;
    let mut command = peers.command("dockerd")?;
    command.arg("--config-file").arg(configuration).arg("--data-root").arg(dir.join("docker"));
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

/// Ends a daemon and waits for it.
pub fn stop(daemon: &mut Child) -> Result<()> {
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
pub struct Podman {
    dir: PathBuf,
    peers: Rc<Peers>,
}

impl Podman {
    /// With its storage in the measurement's folder.
    pub fn new(settings: &Settings, peers: Rc<Peers>) -> Podman {
        Podman { dir: settings.dir.join("podman"), peers }
    }

    /// With the image loaded.
    pub fn ready(settings: &Settings, peers: Rc<Peers>) -> Result<Podman> {
        let podman = Podman::new(settings, peers);
        let archive = settings.images.join(format!("{IMAGE}.docker.tar")).display().to_string();
        let load = podman.podman(&["load", "--quiet", "--input", &archive])?;
        program::quiet(Command::new(&load.argv[0]).args(&load.argv[1..]).envs(&load.env)).context("podman load")?;
        Ok(podman)
    }

    /// `podman` with its storage in the measurement's folder.
    pub fn podman(&self, words: &[&str]) -> Result<Start> {
        let root = self.dir.display().to_string();
        let own = ["--root", &root, "--runroot", "/run/hull-peers/podman", "--tmpdir", "/run/hull-peers/libpod"];
        peer(&self.peers, "podman", &[&own, words].concat())
    }
}

/// A peer with its environment, ready to be started.
pub fn peer(peers: &Peers, name: &str, words: &[&str]) -> Result<Start> {
    let program = peers.program(name)?.display().to_string();
    let argv = std::iter::once(program).chain(words.iter().map(|word| word.to_string())).collect();
    Ok(Start { argv, env: peers.environment() })
}
