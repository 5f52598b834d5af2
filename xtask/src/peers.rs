//! The programs that Hull is compared and tested with, from Debian: unpacked below `target/peers`, never installed.
//!
//! ```text
//! target/peers/tree/           the packages and the libraries that the machine lacks
//! target/peers/criu/           criu of a later release, with all of its libraries
//! target/peers/bin/<program>   a script that runs the program with its libraries and settings: for tests and shells
//! target/peers/etc/            settings that name the tree instead of /usr and /etc
//! ```
//!
//! A daemon among them is started only by code that runs in a mount and network namespace of its own (see
//! `contained`), with its folders given on its command line, and is ended by its pid.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::{images, workspace};

/// What is unpacked, besides the libraries that these need.
const PACKAGES: [&str; 16] = [
    "runc",
    "crun",
    "docker.io",
    "containerd",
    "podman",
    "conmon",
    "skopeo",
    "umoci",
    "docker-registry",
    "tini",
    "catatonit",
    "containernetworking-plugins",
    "golang-github-containers-common",
    "iptables",
    "nftables",
    "strace",
];
/// criu of the release after bookworm, whose own fails on today's kernels, with the libraries that it is linked with:
/// they are newer than the machine's, so it is started by its own dynamic loader.
const CRIU_PACKAGES: [&str; 24] = [
    "criu",
    "libc6",
    "libbsd0",
    "libmd0",
    "libnet1",
    "libnl-3-200",
    "libprotobuf-c1",
    "libuuid1",
    "libnftables1",
    "libnftnl11",
    "libmnl0",
    "libxtables12",
    "libjansson4",
    "libedit2",
    "libtinfo6",
    "libgnutls30t64",
    "libp11-kit0",
    "libidn2-0",
    "libunistring5",
    "libtasn1-6",
    "libnettle8t64",
    "libhogweed6t64",
    "libgmp10",
    "libffi8",
];
/// The release that criu is of.
const CRIU_SUITE: &str = "trixie";
/// What gets a script: the rest of the tree are helpers and things that every machine has.
const PROGRAMS: [&str; 22] = [
    "runc",
    "crun",
    "docker",
    "dockerd",
    "docker-init",
    "docker-proxy",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "podman",
    "conmon",
    "skopeo",
    "umoci",
    "docker-registry",
    "tini",
    "catatonit",
    "iptables",
    "ip6tables",
    "iptables-save",
    "iptables-restore",
    "nft",
    "strace",
];
/// Where programs lie in the tree.
const FOLDERS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// The unpacked peers.
pub struct Peers {
    root: PathBuf,
}

impl Peers {
    /// Unpacks them when they are not there yet.
    pub fn ready() -> Result<Peers> {
        let peers = Peers { root: workspace::folder("peers")? };
        Apt::machine()?.unpack(&PACKAGES, true, &peers.tree()).context("unpacking the peers")?;
        peers.name_alternatives()?;
        peers.write_settings()?;
        peers.write_scripts()?;
        Apt::suite(CRIU_SUITE)?.unpack(&CRIU_PACKAGES, false, &peers.root.join("criu")).context("unpacking criu")?;
        peers.write_criu_script()?;
        Ok(peers)
    }

    fn tree(&self) -> PathBuf {
        self.root.join("tree")
    }

    /// The folder of scripts to put in front of PATH.
    pub fn scripts(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// The settings that every docker daemon here is started with.
    pub fn daemon_settings(&self) -> PathBuf {
        self.root.join("etc/daemon.json")
    }

    /// The program itself, or an error that names it.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let found = FOLDERS.iter().map(|folder| self.tree().join(folder).join(name)).find(|path| path.exists());
        found.with_context(|| format!("no {name} among the peers in {}", self.tree().display()))
    }

    /// A command for a peer, with `environment` set.
    pub fn command(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(self.program(name)?);
        command.envs(self.environment());
        Ok(command)
    }

    /// What the programs need in their environment: where they, their libraries and their settings are.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let tree = self.tree();
        let inside = |folders: &[&str]| -> Vec<String> {
            folders.iter().map(|folder| tree.join(folder).display().to_string()).collect()
        };
        let mut path = inside(&FOLDERS);
        path.extend(std::env::var("PATH").ok());
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let libraries = inside(&[&format!("usr/lib/{triplet}"), &format!("lib/{triplet}")]);
        let settings = |name: &str| self.root.join("etc").join(name).display().to_string();
        BTreeMap::from([
            ("PATH".to_string(), path.join(":")),
            ("LD_LIBRARY_PATH".to_string(), libraries.join(":")),
            ("XTABLES_LIBDIR".to_string(), tree.join(format!("usr/lib/{triplet}/xtables")).display().to_string()),
            ("CONTAINERS_CONF".to_string(), settings("containers.conf")),
            ("CONTAINERS_REGISTRIES_CONF".to_string(), settings("registries.conf")),
            ("CONTAINERS_STORAGE_CONF".to_string(), settings("storage.conf")),
            ("HOME".to_string(), self.root.join("home").display().to_string()),
        ])
    }

    /// Names that Debian's alternatives would make at installation.
    fn name_alternatives(&self) -> Result<()> {
        let sbin = self.tree().join("usr/sbin");
        for name in ["iptables", "ip6tables", "iptables-save", "iptables-restore"] {
            if !sbin.join(name).exists() && sbin.join("xtables-nft-multi").exists() {
                symlink("xtables-nft-multi", sbin.join(name)).with_context(|| name.to_string())?;
            }
        }
        Ok(())
    }

    /// Settings for podman and skopeo: the tree's helpers, no search registries, any image accepted, and limits that a
    /// machine with a low hard limit of open files can give. For dockerd: no network of its own, so that it touches
    /// neither addresses nor packet filters.
    fn write_settings(&self) -> Result<()> {
        let tree = self.tree();
        let tree = tree.display();
        // Podman starts conmon, and that podman's clean-up, with only the variables that are named here.
        let variables: Vec<String> =
            self.environment().iter().map(|(name, value)| format!("\"{name}={value}\"")).collect();
        let variables = variables.join(", ");
        let containers = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             init_path = \"{tree}/usr/bin/catatonit\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n\
             conmon_env_vars = [{variables}]\nconmon_path = [\"{tree}/usr/bin/conmon\"]\nhelper_binaries_dir = [\"{tree}/usr/lib/podman\"]\n\
             [engine.runtimes]\nrunc = [\"{tree}/usr/sbin/runc\"]\ncrun = [\"{tree}/usr/bin/crun\"]\n\
             [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{tree}/usr/lib/cni\"]\n\
             network_config_dir = \"/run/hull-peers/cni\"\n"
        );
        let storage = "[storage]\ndriver = \"overlay\"\nrunroot = \"/run/hull-peers/containers\"\n\
                       graphroot = \"/run/hull-peers/storage\"\n";
        let accept = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        let daemon = r#"{"bridge": "none", "iptables": false, "ip6tables": false, "ip-masq": false,
"userland-proxy": false, "storage-driver": "overlay2", "log-level": "warn"}"#;
        for (path, text) in [
            ("etc/containers.conf", containers.as_str()),
            ("etc/storage.conf", storage),
            ("etc/registries.conf", "unqualified-search-registries = []\n"),
            ("etc/daemon.json", daemon),
            ("etc/criu.conf", "network-lock nftables\n"),
            ("home/.config/containers/policy.json", accept),
        ] {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().context("a settings file without a folder")?)?;
            write_changed(&path, text)?;
        }
        Ok(())
    }

    /// One script per program, so that a shell or a test finds it with only PATH set.
    fn write_scripts(&self) -> Result<()> {
        let folder = self.scripts();
        fs::create_dir_all(&folder)?;
        let mut head = String::from("#!/bin/sh\n");
        for (name, value) in self.environment().iter().filter(|(name, _)| *name != "PATH") {
            head += &format!("export {name}='{value}'\n");
        }
        let own = FOLDERS.map(|folder| self.tree().join(folder).display().to_string()).join(":");
        head += &format!("export PATH='{own}':\"$PATH\"\n");
        for name in PROGRAMS {
            write_script(&head, &self.program(name)?, &folder)?;
        }
        Ok(())
    }
}

impl Peers {
    /// criu with its own loader and libraries. It closes a container's network with nftables itself instead of
    /// executing iptables.
    fn write_criu_script(&self) -> Result<()> {
        let libraries = self.root.join(format!("criu/usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        let mut entries = fs::read_dir(&libraries)?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_loader =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux"));
        let loader = entries.find(is_loader).context("no dynamic loader beside criu")?;
        let script = format!(
            "#!/bin/sh\nexport CRIU_CONFIG_FILE='{}'\nexec '{}' --library-path '{}' '{}' \"$@\"\n",
            self.root.join("etc/criu.conf").display(),
            loader.display(),
            libraries.display(),
            self.root.join("criu/usr/sbin/criu").display(),
        );
        let path = self.scripts().join("criu");
        write_changed(&path, &script)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    }
}

fn write_script(head: &str, program: &Path, folder: &Path) -> Result<()> {
    let name = program.file_name().context("a program without a name")?;
    let script = folder.join(name);
    write_changed(&script, &format!("{head}exec '{}' \"$@\"\n", program.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Writes a file that is not as it should be; one that is stays untouched, because somebody may be reading it.
fn write_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// `cargo xtask peers`: unpacks everything that tests and measurements need, and says where it is.
pub fn prepare() -> Result<()> {
    let peers = Peers::ready()?;
    println!("programs: {}", peers.scripts().display());
    println!("images:   {}", images::folder()?.display());
    println!("debian:   {}", images::debian()?.display());
    Ok(())
}

/// `cargo xtask peer -- PROGRAM ARGS`: runs one peer and returns its exit code.
pub fn run(words: &[String]) -> Result<u8> {
    let Some((name, arguments)) = words.split_first() else { bail!("which program? cargo xtask peer -- PROGRAM ARGS") };
    let status = Peers::ready()?.command(name)?.args(arguments).status().with_context(|| name.clone())?;
    Ok(status.code().map_or(1, |code| u8::try_from(code).unwrap_or(1)))
}
