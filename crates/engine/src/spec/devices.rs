//! Device nodes and cgroup device rules.
//!
//! The standard nodes (null, zero, full, random, urandom, tty, ptmx) come from the runtime; here are their cgroup
//! rules and what `--device` and `--privileged` add. [`gather`] reads the host's /dev, the rest is pure.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use hull_oci::runtime::{LinuxDevice, LinuxDeviceCgroup};
use rustix::fs::{major, minor};

use super::SpecError;
use crate::request::{CreateContainer, DeviceRequest};

/// A host device that a container gets.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceGrant {
    /// The node to make.
    pub device: LinuxDevice,
    /// Any of `r`, `w`, `m`.
    pub access: String,
}

/// Folders and files below /dev that belong to the container's own /dev.
const OWN_ENTRIES: [&str; 9] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "hugepages"];

/// Character devices of every container: (major, minor), none for any.
const STANDARD: [(i64, Option<i64>); 8] =
    [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(2)), (136, None)];

/// Checks the form of device requests.
pub(crate) fn check(request: &CreateContainer) -> Result<(), SpecError> {
    for device in &request.devices {
        let valid = !device.access.is_empty()
            && device.access.chars().all(|c| "rwm".contains(c))
            && "rwm".chars().all(|c| device.access.matches(c).count() <= 1);
        if !valid {
            return Err(SpecError::DeviceAccess { access: device.access.clone() });
        }
        if !device.container_path.is_absolute() {
            return Err(SpecError::DevicePath { path: device.container_path.clone() });
        }
    }
    Ok(())
}

/// Finds the host devices that a request names; with `--privileged` also every other device of the host.
///
/// # Errors
/// A named path that is missing or has no device in it.
pub fn gather(request: &CreateContainer) -> Result<Vec<DeviceGrant>, SpecError> {
    let mut grants: Vec<DeviceGrant> = Vec::new();
    for device in &request.devices {
        let found = named(device).map_err(|source| SpecError::Device { path: device.host_path.clone(), source })?;
        grants.retain(|have| !found.iter().any(|new| new.device.path == have.device.path));
        grants.extend(found);
    }
    if request.privileged {
        let mut all = Vec::new();
        let root = Path::new("/dev");
        walk(root, root, &mut all).map_err(|source| SpecError::Device { path: root.to_owned(), source })?;
        for device in all {
            if !grants.iter().any(|have| have.device.path == device.path) {
                grants.push(DeviceGrant { device, access: "rwm".to_owned() });
            }
        }
    }
    Ok(grants)
}

fn named(request: &DeviceRequest) -> io::Result<Vec<DeviceGrant>> {
    let metadata = fs::metadata(&request.host_path)?;
    let mut devices = Vec::new();
    if metadata.is_dir() {
        walk(&request.host_path, &request.container_path, &mut devices)?;
    } else {
        devices.extend(device(&metadata, request.container_path.clone()));
    }
    if devices.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device node"));
    }
    Ok(devices.into_iter().map(|device| DeviceGrant { device, access: request.access.clone() }).collect())
}

/// Collects devices below `host`; links are left out, and so is what vanishes meanwhile.
fn walk(host: &Path, container: &Path, found: &mut Vec<LinuxDevice>) -> io::Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(host)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        let Some(name) = path.file_name() else { continue };
        if host == Path::new("/dev") && OWN_ENTRIES.iter().any(|own| name == *own) {
            continue;
        }
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => walk(&path, &container.join(name), found)?,
            Ok(metadata) => found.extend(device(&metadata, container.join(name))),
            Err(_) => {}
        }
    }
    Ok(())
}

fn device(metadata: &fs::Metadata, path: PathBuf) -> Option<LinuxDevice> {
    let kind = metadata.file_type();
    let type_ = match () {
        () if kind.is_char_device() => "c",
        () if kind.is_block_device() => "b",
        () => return None,
    };
    Some(LinuxDevice {
        path,
        type_: type_.to_owned(),
        major: Some(i64::from(major(metadata.rdev()))),
        minor: Some(i64::from(minor(metadata.rdev()))),
        file_mode: Some(metadata.mode() & 0o7777),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
    })
}

/// The device rules of the cgroup: deny all, allow the standard nodes and mknod of any, then what was granted.
pub(crate) fn cgroup_rules(request: &CreateContainer, grants: &[DeviceGrant]) -> Vec<LinuxDeviceCgroup> {
    if request.privileged {
        return vec![rule(true, "a", None, None, "rwm")];
    }
    let mut rules =
        vec![rule(false, "a", None, None, "rwm"), rule(true, "c", None, None, "m"), rule(true, "b", None, None, "m")];
    rules.extend(STANDARD.iter().map(|(major, minor)| rule(true, "c", Some(*major), *minor, "rwm")));
    rules.extend(grants.iter().map(|g| rule(true, &g.device.type_, g.device.major, g.device.minor, &g.access)));
    rules
}

fn rule(allow: bool, type_: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    LinuxDeviceCgroup { allow, type_: Some(type_.to_owned()), major, minor, access: Some(access.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, access: &str) -> CreateContainer {
        CreateContainer {
            devices: vec![DeviceRequest {
                host_path: host.into(),
                container_path: "/dev/x".into(),
                access: access.into(),
            }],
            ..CreateContainer::default()
        }
    }

    #[test]
    fn a_named_device_is_found_with_its_numbers() {
        let grants = gather(&request("/dev/null", "rw")).unwrap();
        assert_eq!((grants[0].device.major, grants[0].device.minor), (Some(1), Some(3)));
        assert_eq!(grants[0].device.path, Path::new("/dev/x"));
        let rules = cgroup_rules(&CreateContainer::default(), &grants);
        assert_eq!(rules.last().unwrap().access.as_deref(), Some("rw"));
        assert!(!rules[0].allow);
    }

    #[test]
    fn files_and_missing_paths_are_refused() {
        let missing = gather(&request("/dev/no-such-device", "rwm")).unwrap_err().to_string();
        assert!(missing.contains("/dev/no-such-device"), "{missing}");
        assert!(gather(&request("/etc/passwd", "rwm")).is_err());
        assert!(check(&request("/dev/null", "rwx")).is_err());
        assert!(check(&request("/dev/null", "rr")).is_err());
        assert!(check(&request("/dev/null", "rm")).is_ok());
    }

    #[test]
    fn privileged_sees_the_host_devices_but_not_the_hosts_terminals() {
        let grants = gather(&CreateContainer { privileged: true, ..CreateContainer::default() }).unwrap();
        assert!(grants.iter().any(|g| g.device.path == Path::new("/dev/null")));
        assert!(!grants.iter().any(|g| g.device.path.starts_with("/dev/pts")));
    }
}
