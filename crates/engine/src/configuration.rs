//! The configuration file: what an administrator sets once for every command, in TOML.
//!
//! ```toml
//! [registries."registry.example:5000"]
//! ca = "registry.crt"       # trusted besides the usual authorities; a relative path begins at this file's folder
//! insecure = false          # do not verify its TLS certificate, speak plain HTTP where it has no TLS
//! plain-http = false        # speak nothing but plain HTTP
//! client-certificate = { file = "client.pem", key = "client.key" }
//!
//! [registries."docker.io"]
//! mirrors = ["mirror.example", "http://10.0.0.1:5000/hub"]   # asked before the registry itself, in this order
//!
//! [trust] # see hull_image::registry::TrustPolicy
//! "docker.io/library/*" = { cosign-key = "debian.pub" }      # or "accept", or "reject"
//!
//! [storage]
//! driver = "erofs"          # how layers are kept: "erofs", "overlay", "copy"; else the first of them that works
//! [gc]                      # what goes by itself when the file system of the images is full; see `Gc` below
//! high-water = 85           # and enabled = true, low-water = 75, keep = "24h"
//! [limits]                  # what an image may be at most; see `Limits` below
//! layer-size = 137438953472 # and layer-entries = 10000000, archive-size = 549755813888
//! [publish]
//! allow = ["8080", "53/udp"] # ports open to other hosts although the host's input policy is drop; "all" for every one
//! [network]
//! pools = [{ base = "10.200.0.0/16", size = 24 }] # subnets of networks that are made without one
//! shortcut = true           # containers reach their own published ports without going through the host's rules each time
//! ```
//! It is `/etc/hull/hull.toml`, which may be missing, or the file that `--config` or `HULL_CONFIG` names, which must
//! be there. Nothing is read until something asks, so what needs no setting is not stopped by a bad one. A field that is
//! not known is an error, as is everything else that cannot be meant.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hull_image::registry::{Registries, TrustPolicy};
use hull_image::unpack::UnpackOptions;
use hull_network::cni;
use hull_network::publishing::Allowed;
use hull_network::subnet::Pool;
use hull_snapshot::Driver;
use jiff::SignedDuration;
use serde::Deserialize;

/// The file that is read when none is named.
pub const DEFAULT_PATH: &str = "/etc/hull/hull.toml";

/// What the file says; each part has its defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Configuration {
    /// How registries are reached.
    pub registries: Registries,
    /// Which repositories must be signed.
    pub trust: TrustPolicy,
    /// How images are kept.
    pub storage: Storage,
    /// What is collected by itself.
    pub gc: Gc,
    /// What an image may be at most.
    pub limits: Limits,
    /// Which ports are published to other hosts.
    pub publish: Publish,
    /// Where networks' addresses come from.
    pub network: NetworkSection,
    /// Where CNI's lists and plugins are: `config-dir = "/etc/cni/net.d"`, `plugin-dirs = ["/opt/cni/bin"]`.
    pub cni: cni::Folders,
}

/// `[network]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct NetworkSection {
    /// Where IPv4 subnets are taken from that nobody asks for, in this order; docker's pools when empty.
    pub pools: Vec<Pool>,
    /// Whether established connections of a container with its own published ports take the shortcut (see hull_network's
    /// shortcut.rs), where the kernel can.
    pub shortcut: bool,
}

impl Default for NetworkSection {
    fn default() -> NetworkSection {
        NetworkSection { pools: Vec::new(), shortcut: true }
    }
}

/// `[publish]`: what the host's own firewall does not decide (see hull_network's publishing.rs).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Publish {
    /// Ports that are open to other hosts although the host's firewall is closed.
    pub allow: Allowed,
}

/// `[limits]`: far above any image that is meant well, and below what would fill a machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of file content that one layer may unpack to.
    #[serde(rename = "layer-size")]
    pub layer_bytes: u64,
    /// Entries that one layer may have.
    pub layer_entries: u64,
    /// Bytes that an archive may have, uncompressed.
    #[serde(rename = "archive-size")]
    pub archive_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layer_bytes: 128 << 30, layer_entries: 10_000_000, archive_bytes: 512 << 30 }
    }
}

impl Limits {
    /// What a layer may be when it is unpacked.
    pub fn unpacking(&self) -> UnpackOptions {
        UnpackOptions {
            entries_max: self.layer_entries,
            content_bytes_max: Some(self.layer_bytes),
            ..UnpackOptions::default()
        }
    }
}

/// `[storage]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Storage {
    /// How layers are kept from now on; absent for the default.
    pub driver: Option<StorageDriver>,
}

/// A way of keeping layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageDriver {
    /// Each layer an EROFS image.
    Erofs,
    /// Each layer a folder.
    Overlay,
    /// Each container a copy of its layers.
    Copy,
}

impl From<StorageDriver> for Driver {
    fn from(driver: StorageDriver) -> Driver {
        match driver {
            StorageDriver::Erofs => Driver::Erofs,
            StorageDriver::Overlay => Driver::Overlay,
            StorageDriver::Copy => Driver::Copy,
        }
    }
}

/// `[gc]`: when images that nobody asked for go by themselves (see hull_image's unasked.rs). What was pulled, loaded,
/// imported, committed or tagged by a command of its own never does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "GcSection")]
pub struct Gc {
    /// Whether anything goes after a pull, load, import or commit, and not only by `hull system gc`.
    pub enabled: bool,
    /// Collecting begins when more than this is used, in percent of the file system's blocks, as df(1) counts.
    pub high_water: u8,
    /// Collecting ends when no more than this is used, in percent.
    pub low_water: u8,
    /// An image of which a container was made or removed within this time stays.
    pub keep: SignedDuration,
}

impl Default for Gc {
    fn default() -> Self {
        Self { enabled: true, high_water: 85, low_water: 75, keep: SignedDuration::from_hours(24) }
    }
}

/// `[gc]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct GcSection {
    enabled: Option<bool>,
    high_water: Option<u8>,
    low_water: Option<u8>,
    keep: Option<String>,
}

impl TryFrom<GcSection> for Gc {
    type Error = String;

    fn try_from(section: GcSection) -> Result<Gc, String> {
        let default = Gc::default();
        let high_water = section.high_water.unwrap_or(default.high_water);
        let low_water = section.low_water.unwrap_or(default.low_water.min(high_water));
        if high_water > 100 {
            return Err(format!("high-water is {high_water}, which is no percentage"));
        }
        if low_water > high_water {
            return Err(format!("low-water ({low_water}) is above high-water ({high_water})"));
        }
        let keep = match &section.keep {
            Some(text) => {
                let keep = text.parse().ok().filter(|keep: &SignedDuration| !keep.is_negative());
                keep.ok_or_else(|| format!("keep is {text:?}, which is no length of time such as \"90m\" or \"24h\""))?
            }
            None => default.keep,
        };
        Ok(Gc { enabled: section.enabled.unwrap_or(default.enabled), high_water, low_water, keep })
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The file cannot be read, or was named and is not there.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file says something that cannot be meant.
    #[error("{}:{line}: {}{reason}", path.display(), field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field, with the sections around it; absent when the text is no TOML.
        field: Option<String>,
        /// What is wrong.
        reason: String,
    },
}

impl Configuration {
    /// Reads the file: the one that was named, which must be there, or the default one, which need not.
    ///
    /// # Errors
    /// [`ConfigurationError`].
    pub fn read(named: Option<&Path>) -> Result<Self, ConfigurationError> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigurationError::Read { path: path.to_path_buf(), source }),
        }
    }

    /// Reads the text of the file at `path`.
    fn parse(text: &str, path: &Path) -> Result<Self, ConfigurationError> {
        let invalid = |span: Option<Range<usize>>, field: Option<String>, reason: &str| ConfigurationError::Invalid {
            path: path.to_path_buf(),
            line: line_at(text, span.map_or(0, |span| span.start)),
            field,
            reason: reason.to_owned(),
        };
        let document = toml::Deserializer::parse(text);
        let document = document.map_err(|error| invalid(error.span(), None, error.message()))?;
        let parsed: Result<Self, _> = serde_path_to_error::deserialize(document);
        let mut configuration = parsed.map_err(|error| {
            let field = Some(error.path().to_string()).filter(|field| field != ".");
            invalid(error.inner().span(), field, error.inner().message())
        })?;
        configuration.resolve_paths(path.parent().unwrap_or(Path::new("/")));
        Ok(configuration)
    }

    /// Relative paths begin where the file is.
    fn resolve_paths(&mut self, folder: &Path) {
        for key in self.trust.keys_mut() {
            *key = folder.join(&*key);
        }
        for settings in self.registries.values_mut() {
            let client = settings.client_certificate.as_mut();
            let paths = client.into_iter().flat_map(|client| [&mut client.file, &mut client.key]);
            for path in paths.chain(settings.ca.as_mut()) {
                *path = folder.join(&*path);
            }
        }
    }
}

/// The line, from 1, on which a byte is.
fn line_at(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use hull_image::registry::TrustRule;

    use super::*;

    fn parse(text: &str) -> Result<Configuration, String> {
        Configuration::parse(text, Path::new("/etc/x/hull.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_every_section() {
        let configuration = parse(
            "[registries.\"r.example:5000\"]\nca = \"r.crt\"\n[registries.\"docker.io\"]\nca = \"/d.crt\"\n\
             insecure = true\nplain-http = true\nclient-certificate = { file = \"c\", key = \"/k\" }\n\
             [storage]\ndriver = \"overlay\"\n[gc]\nhigh-water = 60\nkeep = \"90m\"\n[limits]\nlayer-size = 5\nlayer-entries = 6\narchive-size = 7\n",
        )
        .expect("valid");
        let unpacking = configuration.limits.unpacking();
        assert_eq!((unpacking.content_bytes_max, unpacking.entries_max), (Some(5), 6));
        assert_eq!(configuration.limits.archive_bytes, 7);
        let keep = SignedDuration::from_mins(90);
        assert_eq!(configuration.gc, Gc { enabled: true, high_water: 60, low_water: 60, keep });
        assert_eq!(configuration.registries["r.example:5000"].ca, Some(PathBuf::from("/etc/x/r.crt")));
        let docker = &configuration.registries["docker.io"];
        assert_eq!((docker.ca.as_deref(), docker.insecure, docker.plain_http), (Some(Path::new("/d.crt")), true, true));
        let client = docker.client_certificate.as_ref().expect("given");
        assert_eq!((client.file.as_path(), client.key.as_path()), (Path::new("/etc/x/c"), Path::new("/k")));
        assert_eq!(configuration.storage.driver, Some(StorageDriver::Overlay));
        assert_eq!(parse(""), Ok(Configuration::default()));
        let configuration =
            parse("[trust]\n\"a.b/*\" = { cosign-key = [\"k\", \"/l\"] }\n\"a.b/c\" = \"reject\"\n").expect("valid");
        let keys = TrustRule::CosignKeys(vec![PathBuf::from("/etc/x/k"), PathBuf::from("/l")]);
        let rule = |pattern| configuration.trust.rule_of(pattern);
        assert_eq!((rule("a.b/*"), rule("a.b/c")), (Some(&keys), Some(&TrustRule::Reject)));
    }

    #[test]
    fn errors_name_file_line_and_field() {
        for (text, place, words) in [
            ("\nnosuch = 1\n", "/etc/x/hull.toml:2: nosuch: ", "unknown field `nosuch`"),
            ("[storage]\ndriver = \"floppy\"\n", "/etc/x/hull.toml:2: storage.driver: ", "`floppy`"),
            ("[storage]\n\ndriver = 5\n", "/etc/x/hull.toml:3: storage.driver: ", ""),
            ("[limits]\nlayer-size = -1\n", "/etc/x/hull.toml:2: limits.layer-size: ", ""),
            ("[gc]\nx = 1\n", "/etc/x/hull.toml:2: gc.x: ", "unknown field `x`"),
            ("[gc]\nhigh-water = 101\n", "/etc/x/hull.toml:1: gc: ", "no percentage"),
            ("[gc]\nlow-water = 90\n", "/etc/x/hull.toml:1: gc: ", "low-water (90) is above high-water (85)"),
            ("[gc]\nkeep = \"often\"\n", "/etc/x/hull.toml:1: gc: ", "no length of time"),
            ("[gc]\nkeep = \"-1h\"\n", "/etc/x/hull.toml:1: gc: ", "no length of time"),
            ("[registries.\"a.b\"]\ninsecure = 1\n", "/etc/x/hull.toml:2: registries.a.b.insecure: ", "boolean"),
            ("[registries.\"a b\"]\n", "/etc/x/hull.toml:1: ", "\"a b\" is not a registry"),
            ("[storage\n", "/etc/x/hull.toml:1: ", ""),
            ("[trust]\n\"a/*\" = \"maybe\"\n", "/etc/x/hull.toml:", "\"accept\", \"reject\""),
            ("[trust]\ndebian = \"reject\"\n", "/etc/x/hull.toml:1: trust: ", "\"debian\" fits no repository"),
            ("[trust]\n\"a/*\" = { cosign = \"k\" }\n", "/etc/x/hull.toml:2: ", "unknown field `cosign`"),
            (
                "[registries.\"a.b\"]\nmirrors = [\"ftp://x\"]\n",
                "/etc/x/hull.toml:2: registries.a.b.mirrors",
                "is not a mirror",
            ),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(place) && error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_named_file_must_be_there() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("hull.toml");
        let error = Configuration::read(Some(&path)).expect_err("missing").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        fs::write(&path, "[storage]\ndriver = \"overlay\"\n").expect("writes");
        assert!(Configuration::read(Some(&path)).expect("reads").storage.driver.is_some());
    }
}
