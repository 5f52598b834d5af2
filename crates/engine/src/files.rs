//! hosts, hostname and resolv.conf of a container, in `containers/<id>/`, from where they are bind-mounted.
//!
//! They are written at every start, since the host's resolver and a shared network's names may have changed. What
//! they say is `hull_network`'s; here is where they go and whose they are: with a user namespace they belong to the
//! container's own root.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hull_network::NetworkMode;
use hull_network::name_files::{self, COPY_LIMIT_BYTES, ExtraHost, NoGateway, OwnName};
use hull_network::resolv_conf::{Form, ResolvConf, Wanted};

/// What the files depend on.
#[derive(Debug)]
pub struct NameFiles<'a> {
    /// Network of the container.
    pub network: &'a NetworkMode,
    /// Host name inside.
    pub hostname: &'a str,
    /// NIS domain name.
    pub domainname: Option<&'a str>,
    /// Its addresses; none where they are not known yet.
    pub addresses: Option<&'a [IpAddr]>,
    /// Names that it is told besides.
    pub extra_hosts: &'a [ExtraHost],
    /// Addresses at which it reaches the host.
    pub gateways: &'a [IpAddr],
    /// What was asked for in resolv.conf.
    pub wanted: &'a Wanted,
    /// How it reaches name servers.
    pub form: Form,
    /// Folder whose files another container of the same network uses.
    pub shared_with: Option<&'a Path>,
    /// Host id of the container's root.
    pub owner: u32,
}

/// A name file that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A name is to lead to the host, which the container does not reach.
    #[error(transparent)]
    NoGateway(#[from] NoGateway),
    /// Reading or writing failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Read or write.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

impl NameFiles<'_> {
    /// Writes the three files into `folder`.
    ///
    /// # Errors
    /// A file that cannot be read (unless it is missing) or written.
    pub fn write(&self, folder: &Path) -> Result<(), FilesError> {
        self.put(folder, "hostname", name_files::hostname(self.hostname).as_bytes())?;
        self.put(folder, "hosts", &self.hosts()?)?;
        self.put(folder, "resolv.conf", &self.resolv_conf()?)
    }

    fn hosts(&self) -> Result<Vec<u8>, FilesError> {
        let further = || name_files::extra_lines(self.extra_hosts, self.gateways);
        match (self.network, self.shared_with) {
            (NetworkMode::Container(_), Some(folder)) => read_bounded(&folder.join("hosts")),
            (NetworkMode::Host, _) => Ok(name_files::hosts_of_host(&read_bounded(Path::new(HOSTS))?, &further()?)),
            _ => {
                let own = OwnName { hostname: self.hostname, domainname: self.domainname, addresses: self.addresses };
                Ok(name_files::hosts(&own, &further()?).into_bytes())
            }
        }
    }

    fn resolv_conf(&self) -> Result<Vec<u8>, FilesError> {
        if let Some(folder) = self.shared_with {
            return read_bounded(&folder.join("resolv.conf"));
        }
        let host = read_bounded(Path::new(RESOLV_CONF))?;
        match self.form {
            Form::Host if self.wanted.is_empty() => Ok(name_files::resolv_conf(&host)),
            form => Ok(ResolvConf::parse(&host).for_container(self.wanted, form).text().into_bytes()),
        }
    }

    /// Writes in place: a running container of an earlier start has no mount of this file any more, and an exec of
    /// this one must see the change.
    fn put(&self, folder: &Path, name: &str, content: &[u8]) -> Result<(), FilesError> {
        let path = folder.join(name);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(content)?;
            rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644))?;
            std::os::unix::fs::fchown(&file, Some(self.owner), Some(self.owner))
        });
        written.map_err(|source| FilesError::File { action: "write", path, source })
    }
}

/// The host's resolv.conf.
///
/// # Errors
/// When it cannot be read; a missing one is empty.
pub fn host_resolv_conf() -> Result<ResolvConf, FilesError> {
    Ok(ResolvConf::parse(&read_bounded(Path::new(RESOLV_CONF))?))
}

/// A file's content up to the limit of what is copied (and one byte more); empty when it is missing.
fn read_bounded(path: &Path) -> Result<Vec<u8>, FilesError> {
    let mut content = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(COPY_LIMIT_BYTES as u64 + 1).read_to_end(&mut content));
    match read {
        Ok(_) => Ok(content),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(FilesError::File { action: "read", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn three_files_with_mode_and_owner() {
        let folder = tempfile::tempdir().unwrap();
        let files = NameFiles {
            network: &NetworkMode::Private,
            hostname: "web",
            domainname: None,
            addresses: Some(&[]),
            extra_hosts: &[],
            gateways: &[],
            wanted: &Wanted::default(),
            form: Form::Host,
            shared_with: None,
            owner: rustix::process::getuid().as_raw(),
        };
        files.write(folder.path()).unwrap();
        files.write(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("hostname")).unwrap(), "web\n");
        assert!(fs::read_to_string(folder.path().join("hosts")).unwrap().ends_with("127.0.0.1\tweb\n"));
        let resolv = fs::metadata(folder.path().join("resolv.conf")).unwrap();
        assert_eq!(resolv.mode() & 0o777, 0o644);
    }

    #[test]
    fn a_shared_network_shares_the_names() {
        let (donor, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(donor.path().join("hosts"), "192.0.2.1\tdonor\n").unwrap();
        let files = NameFiles {
            network: &NetworkMode::Container("x".into()),
            hostname: "donor",
            domainname: None,
            addresses: Some(&[]),
            extra_hosts: &[],
            gateways: &[],
            wanted: &Wanted::default(),
            form: Form::Host,
            shared_with: Some(donor.path()),
            owner: rustix::process::getuid().as_raw(),
        };
        files.write(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("hosts")).unwrap(), "192.0.2.1\tdonor\n");
        assert_eq!(fs::read(folder.path().join("resolv.conf")).unwrap(), b"");
    }
}
