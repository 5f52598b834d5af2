//! Device nodes below /dev: the standard ones of every container and those that the spec adds.
//!
//! In a user namespace mknod(2) is refused, so there the host's node is bind mounted instead.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use hull_kernel::mounts::MountError;
use hull_oci::runtime::LinuxDevice;
use rustix::fs::{FileType, fstat, major, makedev, minor};
use rustix::io::Errno;

use super::host_tree::{HostTree, Tree};
use super::{NamespacePlan, PlanError};

/// One node to make.
#[derive(Debug)]
pub struct DevicePlan {
    /// Absolute path inside the container.
    pub path: PathBuf,
    /// Character, block or FIFO.
    pub kind: FileType,
    /// Device number; 0 for a FIFO.
    pub number: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The host's node to bind instead of making one.
    pub bind: Option<Tree>,
}

/// The nodes that the specification demands in every container (config-linux, "Default Devices").
const STANDARD: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Plans the standard nodes and `linux.devices`.
pub(super) fn plan(
    devices: &[LinuxDevice],
    namespaces: &NamespacePlan,
    later: bool,
) -> Result<Vec<DevicePlan>, PlanError> {
    let mut planned: Vec<DevicePlan> = Vec::with_capacity(STANDARD.len() + devices.len());
    for (path, major, minor) in STANDARD {
        planned.push(DevicePlan {
            path: PathBuf::from(path),
            kind: FileType::CharacterDevice,
            number: makedev(major, minor),
            mode: 0o666,
            uid: 0,
            gid: 0,
            bind: None,
        });
    }
    for (index, device) in devices.iter().enumerate() {
        let device = one(index, device)?;
        planned.retain(|earlier| earlier.path != device.path);
        planned.push(device);
    }
    if namespaces.has_user() {
        for device in &mut planned {
            device.bind = Some(Tree::plan(HostTree::plain(&device.path, false), later, &device.path)?);
        }
    }
    Ok(planned)
}

fn one(index: usize, device: &LinuxDevice) -> Result<DevicePlan, PlanError> {
    let field = format!("linux.devices[{index}]");
    if !device.path.is_absolute() {
        return Err(PlanError::invalid(format!("{field}.path"), format!("{:?} is not absolute", device.path)));
    }
    let kind = match device.type_.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(PlanError::invalid(format!("{field}.type"), format!("unknown device type {other:?}"))),
    };
    let number = |name: &str, value: Option<i64>| match value.map(u32::try_from) {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) => Err(PlanError::invalid(format!("{field}.{name}"), "is out of range")),
        None => Err(PlanError::invalid(format!("{field}.{name}"), "is required for this type")),
    };
    let number = match kind {
        FileType::Fifo => 0,
        _ => makedev(number("major", device.major)?, number("minor", device.minor)?),
    };
    Ok(DevicePlan {
        path: device.path.clone(),
        kind,
        number,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
        bind: None,
    })
}

/// A detached clone of the host's /dev/null. One that is made now is checked.
pub(super) fn null_device(later: bool) -> Result<Tree, PlanError> {
    let path = Path::new("/dev/null");
    let null = Tree::plan(HostTree::plain(path, false), later, path)?;
    if let Some(node) = null.cloned() {
        check_null(node).map_err(|source| PlanError::MountSource { destination: path.to_path_buf(), source })?;
    }
    Ok(null)
}

/// Checks that a file is the null device, character device 1:3, so that no other file can stand in for what masks a
/// path.
///
/// # Errors
/// `ENODEV` when it is something else.
pub(crate) fn check_null(node: BorrowedFd<'_>) -> Result<(), MountError> {
    let failed = |errno| MountError::new("checking the null device", "/dev/null", errno);
    let stat = fstat(node.as_fd()).map_err(failed)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
    if is_null { Ok(()) } else { Err(failed(Errno::NODEV)) }
}
