//! The host's settings that networks need: that it passes packets on between its interfaces (sysctl(8)).
//!
//! Only what is not so yet is changed, and each change is told with the value before. A host that passes IPv6 packets on
//! no longer listens to router advertisements (`accept_ra` 1), by which it may have its own default route, so the
//! interfaces that did are told to go on (`accept_ra` 2).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::network::Network;

/// A setting of the kernel that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedSetting {
    /// `net.ipv4.ip_forward`
    pub name: String,
    /// Before.
    pub previous: String,
    /// Now.
    pub value: &'static str,
}

/// A setting that was not read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}, so that packets of network {network} leave this host", path.display())]
pub struct SettingError {
    action: &'static str,
    path: PathBuf,
    network: String,
    #[source]
    source: io::Error,
}

/// Has the host pass on a network's packets, unless it is internal. Tells what was changed.
///
/// # Errors
/// [`SettingError`].
pub fn forward(network: &Network) -> Result<Vec<ChangedSetting>, SettingError> {
    forward_in(Path::new("/proc/sys"), network)
}

fn forward_in(root: &Path, network: &Network) -> Result<Vec<ChangedSetting>, SettingError> {
    let mut changed = Vec::new();
    if network.internal || network.bridge().is_none() {
        return Ok(changed);
    }
    if network.subnet_v4().is_some() {
        changed.extend(set(root, Path::new("net/ipv4/ip_forward"), "1", network)?);
    }
    if network.subnet_v6().is_some() {
        let all = Path::new("net/ipv6/conf/all/forwarding");
        if read(root, all, network)? != "1" {
            changed.extend(keep_listening(root, network)?);
        }
        changed.extend(set(root, all, "1", network)?);
    }
    Ok(changed)
}

/// Interfaces that listen to router advertisements go on when the host becomes a router itself.
fn keep_listening(root: &Path, network: &Network) -> Result<Vec<ChangedSetting>, SettingError> {
    let folder = Path::new("net/ipv6/conf");
    let listed = fs::read_dir(root.join(folder)).map_err(failed("reading", folder, network))?;
    let mut changed = Vec::new();
    for entry in listed {
        let name = entry.map_err(failed("reading", folder, network))?.file_name();
        let path = folder.join(&name).join("accept_ra");
        let hears = !["all", "default", "lo"].iter().any(|other| name == *other);
        if hears && read(root, &path, network)? == "1" {
            changed.extend(set(root, &path, "2", network)?);
        }
    }
    Ok(changed)
}

fn set(
    root: &Path,
    path: &Path,
    value: &'static str,
    network: &Network,
) -> Result<Option<ChangedSetting>, SettingError> {
    let previous = read(root, path, network)?;
    if previous == value {
        return Ok(None);
    }
    fs::write(root.join(path), value).map_err(failed("setting", path, network))?;
    let name = path.display().to_string().replace('/', ".");
    Ok(Some(ChangedSetting { name, previous, value }))
}

fn read(root: &Path, path: &Path, network: &Network) -> Result<String, SettingError> {
    let text = fs::read_to_string(root.join(path)).map_err(failed("reading", path, network))?;
    Ok(text.trim().to_owned())
}

fn failed(action: &'static str, path: &Path, network: &Network) -> impl FnOnce(io::Error) -> SettingError {
    let (path, network) = (Path::new("/proc/sys").join(path), network.name.clone());
    move |source| SettingError { action, path, network, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::network;
    use crate::subnet::Subnet;

    fn settings(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, value) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        root
    }

    fn told(root: &Path, network: &Network) -> Vec<String> {
        let mut told: Vec<_> = forward_in(root, network).unwrap().iter().map(|c| format!("{c:?}")).collect();
        told.sort();
        told
    }

    #[test]
    fn only_what_is_not_so_is_changed_and_told() {
        let root = settings(&[
            ("net/ipv4/ip_forward", "0"),
            ("net/ipv6/conf/all/forwarding", "0"),
            ("net/ipv6/conf/all/accept_ra", "1"),
            ("net/ipv6/conf/wan/accept_ra", "1"),
            ("net/ipv6/conf/lan/accept_ra", "0"),
        ]);
        let mut network = network();
        network.internal = true;
        assert!(told(root.path(), &network).is_empty());
        network.internal = false;
        let change =
            |name: &str, previous: &str, value| ChangedSetting { name: name.into(), previous: previous.into(), value };
        assert_eq!(forward_in(root.path(), &network).unwrap(), [change("net.ipv4.ip_forward", "0", "1")]);
        assert!(told(root.path(), &network).is_empty());
        network.subnets.push(Subnet::of("fd00::/64".parse().unwrap()));
        let expected =
            [change("net.ipv6.conf.wan.accept_ra", "1", "2"), change("net.ipv6.conf.all.forwarding", "0", "1")];
        assert_eq!(forward_in(root.path(), &network).unwrap(), expected);
        assert!(told(root.path(), &network).is_empty());
        assert_eq!(fs::read_to_string(root.path().join("net/ipv6/conf/lan/accept_ra")).unwrap(), "0\n");
    }

    #[test]
    fn a_setting_that_is_not_there_is_named() {
        let root = settings(&[]);
        let said = forward_in(root.path(), &network()).unwrap_err().to_string();
        assert_eq!(said, "reading /proc/sys/net/ipv4/ip_forward, so that packets of network web leave this host");
    }
}
