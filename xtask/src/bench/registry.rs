//! Debian's docker-registry on loopback, filled with the images of a measurement.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Settings, stage};
use crate::peers::Peers;
use crate::program;

/// How long it may take to come up.
const LIMIT: Duration = Duration::from_secs(20);
/// Where it listens: the contained place has a loopback of its own.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5000);

/// A running registry.
pub struct Registry {
    daemon: Child,
    folder: PathBuf,
}

impl Registry {
    /// Starts it, with its data in the folder of the measurement.
    pub fn start(settings: &Settings, peers: &Peers) -> Result<Registry> {
        let folder = settings.dir.join("registry");
        fs::create_dir_all(&folder)?;
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{ADDRESS}'}}\n",
            folder.join("data").display()
        );
        fs::write(&config, text)?;
        let log = File::create(folder.join("log"))?;
        let mut command = peers.command("docker-registry")?;
        command.arg("serve").arg(&config).stdout(log.try_clone()?).stderr(log);
        let daemon = command.spawn().context("starting docker-registry")?;
        let mut registry = Registry { daemon, folder };
        registry.wait_until_up()?;
        Ok(registry)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while TcpStream::connect(ADDRESS).is_err() {
            if self.daemon.try_wait()?.is_some() || Instant::now() > end {
                bail!("docker-registry did not come up: {}", program::text(&self.folder.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Name of an image in it.
    pub fn name(&self, image: &str) -> String {
        format!("{ADDRESS}/bench/{image}:latest")
    }

    /// Brings an image in, its layers packed with gzip.
    pub fn fill(&self, settings: &Settings, peers: &Peers, image: &str) -> Result<()> {
        let archive = settings.images.join(format!("{image}.docker.tar"));
        let source = format!("docker-archive:{}", archive.display());
        let target = format!("docker://{}", self.name(image));
        let start = stage::peer(peers, "skopeo", &["copy", "--dest-tls-verify=false", &source, &target])?;
        let mut command = Command::new(&start.argv[0]);
        program::quiet(command.args(&start.argv[1..]).envs(&start.env)).context("skopeo copy")
    }

    /// The file of the largest blob.
    pub fn largest_blob(&self) -> Result<PathBuf> {
        let blobs = self.folder.join("data/docker/registry/v2/blobs/sha256");
        let mut files = Vec::new();
        for folder in entries(&blobs)? {
            for blob in entries(&folder)? {
                let data = blob.join("data");
                files.push((fs::metadata(&data)?.len(), data));
            }
        }
        files.into_iter().max().map(|(_, path)| path).context("the registry has no blobs")
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Err(error) = stage::stop(&mut self.daemon) {
            eprintln!("docker-registry: {error:#}");
        }
    }
}
