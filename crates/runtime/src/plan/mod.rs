//! From a spec to an [`InitPlan`]: all validation and every decision, no kernel change.
//!
//! Sources of bind mounts are opened here, by the parent, with the parent's view of the host; destinations are
//! resolved by the child just before each mount. A field that this runtime does not honour is refused by its name
//! in config.json, never skipped.

mod devices;
#[cfg(test)]
mod foreign;
mod host_tree;
mod labels;
mod limits;
mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod ownership;
mod placement;
pub(crate) mod process;
mod resctrl;
mod unit;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hull_kernel::cgroups::systemd::{Property, UnitPlace};
use hull_kernel::cgroups::{CgroupError, Limits};
use hull_kernel::mounts::{FilesystemOption, MountError, Propagation};
use hull_kernel::resctrl::{Membership, ResctrlError};
use hull_oci::runtime::{Linux, Spec};
use rustix::process::geteuid;

use crate::filters::Filters;
use crate::hooks;
use crate::listener::planned_state;

pub use devices::DevicePlan;
pub(crate) use devices::check_null;
pub use host_tree::{HostTree, Tree};
pub use labels::LabelPlan;
pub(crate) use limits::field_of as limit_field;
pub use limits::limits as cgroup_limits;
pub(crate) use limits::plan as plan_cgroup;
pub(crate) use mount_options::option_words;
use mounts::Surroundings;
pub use mounts::{CgroupHierarchies, IdMapping, IdMappingSource, MountAction, MountPlan};
pub use namespaces::{IdMap, MountNamespace, NamespacePlan};
pub use net_devices::NetDevicePlan;
pub use placement::Placement;
pub(crate) use placement::{Affinity, MEMORY_FLAGS, MEMORY_MODES};
pub use process::ProcessPlan;
pub use resctrl::ResctrlPlan;
pub(crate) use unit::PROPERTY_ANNOTATION;

/// A spec that cannot be turned into a container.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A field has a value that makes no sense.
    #[error("config.json: {field}: {reason}")]
    Invalid {
        /// Path of the field, as `linux.namespaces[2].path`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A field that the specification has and this runtime does not honour.
    #[error("config.json: {field} is not supported{}", Because(reason))]
    Unsupported {
        /// Path of the field.
        field: String,
        /// Why, where there is more to say.
        reason: &'static str,
    },
    /// A mount source could not be opened.
    #[error("mount source of {destination}")]
    MountSource {
        /// Where it was to be mounted.
        destination: PathBuf,
        /// Why.
        #[source]
        source: MountError,
    },
    /// A file that the spec names could not be opened.
    #[error("{field}: open {path}")]
    Open {
        /// Path of the field.
        field: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host's cgroup layout could not be read for a cgroup mount.
    #[error("mount of {destination}")]
    Cgroup {
        /// Where it was to be mounted.
        destination: PathBuf,
        /// Why.
        #[source]
        source: Box<CgroupError>,
    },
    /// The container's class of service is not there for one more process.
    #[error("linux.intelRdt")]
    Resctrl(#[source] Box<ResctrlError>),
    /// The seccomp section cannot be compiled.
    #[error("config.json: linux.seccomp")]
    Seccomp(#[source] Box<dyn std::error::Error + Send + Sync>),
}

struct Because<'a>(&'a &'static str);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

impl PlanError {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> PlanError {
        PlanError::Invalid { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn unsupported(field: impl Into<String>, reason: &'static str) -> PlanError {
        PlanError::Unsupported { field: field.into(), reason }
    }
}

/// Where the container's root file system comes from.
pub enum RootSource {
    /// A mount that nothing shows yet, such as an overlay made by the snapshotter.
    Detached(OwnedFd),
    /// Made once the container's user namespace exists; it gets that namespace, for id-mapped layers.
    InUserNamespace(RootInUserNamespace),
    /// The directory that `root.path` of the spec names, relative to the bundle.
    Spec,
}

/// Makes a detached root mount whose ids are shifted through the user namespace given.
pub type RootInUserNamespace = Box<dyn FnOnce(OwnedFd) -> Result<OwnedFd, MountError>>;

/// The three standard streams of a process without a terminal.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// What the caller of [`plan`] decides besides the spec.
pub struct PlanOptions<'a> {
    /// Root file system.
    pub root: RootSource,
    /// Folder that relative paths of the spec start from.
    pub bundle: &'a Path,
    /// Standard streams; must be absent exactly when `process.terminal` is set.
    pub streams: Option<Streams>,
    /// Make Hull's own init PID 1 and the program its child.
    pub init: bool,
    /// Cgroup path in every hierarchy, such as `/hull/<id>`; overrides `linux.cgroupsPath`.
    pub cgroup_path: Option<String>,
    /// Who makes the cgroup; systemd takes no notice of `cgroup_path`.
    pub cgroup_driver: CgroupDriver<'a>,
    /// Clone the container's process as a sibling (`CLONE_PARENT`), so that the caller's parent waits for it.
    pub sibling: bool,
    /// Where compiled filters are kept.
    pub filters: Option<&'a Filters>,
}

/// The root file system, decided.
pub struct RootPlan {
    /// The detached mount, or how to make it; taken when it is used.
    pub source: Option<RootMount>,
    /// Make it read-only at the end.
    pub read_only: bool,
    /// Propagation of the container's root mount after pivot_root.
    pub propagation: Option<(Propagation, bool)>,
    /// How it becomes the root directory.
    pub entry: RootEntry,
}

impl RootPlan {
    /// Does without pivot_root(2).
    ///
    /// # Errors
    /// A private propagation, which is not safe then: the host's tree stays below the container's.
    pub fn enter_without_pivot(&mut self) -> Result<(), PlanError> {
        if let Some((Propagation::Private, _)) = self.propagation {
            return Err(PlanError::invalid("linux.rootfsPropagation", "private is not safe without pivot_root"));
        }
        if self.entry == RootEntry::Pivot {
            self.entry = RootEntry::Cover;
        }
        Ok(())
    }
}

/// How the container's root becomes the root directory of its processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootEntry {
    /// pivot_root(2), after which nothing of the host's tree is left.
    Pivot,
    /// It is put over `/` and chroot(2) leads into it, where the host's root is the kernel's initial ramfs, which
    /// pivot_root(2) cannot leave.
    Cover,
    /// It is mounted on this directory, in a mount namespace that the container shares with others, and chroot(2) leads
    /// into it.
    Share(PathBuf),
}

/// Where the child gets the root mount from.
pub enum RootMount {
    /// Opened already.
    Ready(OwnedFd),
    /// A directory of the host, to be cloned by the child.
    Later(HostTree),
    /// Made by the parent after the user namespace exists.
    InUserNamespace(RootInUserNamespace),
}

/// The cgroup, decided.
pub struct CgroupPlan {
    /// Path in every hierarchy.
    pub path: String,
    /// Limits to apply before the process joins.
    pub limits: Limits,
    /// The unit that systemd makes for it; without one its directories are made here.
    pub unit: Option<UnitPlan>,
    /// Go on without a cgroup where none can be made and no limit needs it: a user without rights over cgroups, who
    /// named none.
    pub optional: bool,
    /// The user of the host that it is handed to, with cgroup v2.
    pub owner: Option<u32>,
}

/// The unit of a container, decided.
pub struct UnitPlan {
    /// Its name and slice.
    pub place: UnitPlace,
    /// Properties that the container's annotations set.
    pub properties: Vec<Property>,
}

/// Who makes the container's cgroup.
#[derive(Debug, Clone, Copy)]
pub enum CgroupDriver<'a> {
    /// The runtime itself, at a path.
    Files,
    /// systemd, as a unit that is named `slice:prefix:name` by `linux.cgroupsPath`, or after this id.
    Systemd(&'a str),
}

/// Everything that will be done, in the order of the fields.
pub struct InitPlan {
    /// Cgroup to make and join; `None` stays in the caller's.
    pub cgroup: Option<CgroupPlan>,
    /// Class of service to be in.
    pub resctrl: Option<ResctrlPlan>,
    /// That class, once the parent has made sure of it.
    pub class: Option<Membership>,
    /// The process is put into its cgroup by systemd and waits for it; said by who makes the cgroup.
    pub waits_for_cgroup: bool,
    /// Namespaces to make and join.
    pub namespaces: NamespacePlan,
    /// Interfaces that the parent moves into the network namespace.
    pub net_devices: Vec<NetDevicePlan>,
    /// Clone as a sibling of the caller.
    pub sibling: bool,
    /// Root file system.
    pub root: RootPlan,
    /// Mounts, in order.
    pub mounts: Vec<MountPlan>,
    /// Option that labels the covers of masked directories, as it does new file systems.
    pub mount_label: Option<FilesystemOption>,
    /// Device nodes below /dev.
    pub devices: Vec<DevicePlan>,
    /// Paths hidden under an empty file or directory.
    pub masked_paths: Vec<PathBuf>,
    /// Paths made read-only.
    pub read_only_paths: Vec<PathBuf>,
    /// A detached clone of the host's /dev/null, to mask files with.
    pub null_device: Option<Tree>,
    /// Kernel parameters: path below /proc/sys, value.
    pub sysctls: Vec<(PathBuf, String)>,
    /// Host name.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// The program and its rights.
    pub process: ProcessPlan,
    /// A listening socket to whose first caller the conversation goes over; without it the creating process starts the
    /// program.
    pub start_socket: Option<OwnedFd>,
    /// Join a new session keyring.
    pub new_keyring: bool,
}

impl InitPlan {
    /// Gives the container its id, which a spec does not know, for whoever is told of it.
    pub fn set_id(&mut self, id: &str) {
        if let Some(hooks) = &mut self.process.hooks {
            hooks.set_id(id);
        }
        if let Some(listener) = &mut self.process.listener {
            listener.set_id(id);
        }
        if let Some(resctrl) = &mut self.resctrl {
            resctrl.set_id(id);
        }
    }
}

/// Makes the plan.
///
/// # Errors
/// The field of the spec that is wrong, unsupported, or names something that cannot be opened.
pub fn plan(spec: &Spec, options: PlanOptions<'_>) -> Result<InitPlan, PlanError> {
    let empty = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&empty);
    let process = spec.process.as_ref().ok_or_else(|| PlanError::invalid("process", "is required to start"))?;
    // For processes added later; what is wrong with it is said now.
    Affinity::plan(process.exec_cpu_affinity.as_ref())?;
    let hooks = hooks::plan(spec.hooks.as_ref(), options.bundle, &spec.annotations)?;
    let state = || planned_state(options.bundle, &spec.annotations);
    let namespaces = namespaces::plan(linux)?;
    // Without rights over the runtime's mounts trees of the host can only be cloned in a mount namespace of the child's.
    let later = namespaces.has_user() && !geteuid().is_root();
    let around = Surroundings { bundle: options.bundle, namespaces: &namespaces, later };
    let mut mounts = mounts::plan(&spec.mounts, &around)?;
    let mount_label = labels::mount_option(linux)?;
    if let Some(option) = &mount_label {
        labels::label_mounts(&mut mounts, option);
    }
    let mut cgroup = match options.cgroup_driver {
        CgroupDriver::Files => limits::plan(linux, options.cgroup_path)?,
        CgroupDriver::Systemd(id) => Some(unit::plan(spec, linux, id)?),
    };
    if let Some(cgroup) = &mut cgroup {
        cgroup.owner = ownership::owner(&spec.mounts, process.user.uid, &namespaces);
    }
    let masked_paths = absolute_paths("linux.maskedPaths", &linux.masked_paths)?;
    let null_device = if masked_paths.is_empty() { None } else { Some(devices::null_device(later)?) };
    Ok(InitPlan {
        net_devices: net_devices::plan(linux, &namespaces)?,
        resctrl: resctrl::plan(linux)?,
        class: None,
        cgroup,
        waits_for_cgroup: false,
        sibling: options.sibling,
        root: root(spec, linux, options.root, &around)?,
        mounts,
        mount_label,
        devices: devices::plan(&linux.devices, &namespaces, later)?,
        masked_paths,
        read_only_paths: absolute_paths("linux.readonlyPaths", &linux.readonly_paths)?,
        null_device,
        sysctls: namespaces::sysctls(&linux.sysctl, &namespaces)?,
        hostname: in_own_uts("hostname", &spec.hostname, &namespaces)?,
        domainname: in_own_uts("domainname", &spec.domainname, &namespaces)?,
        process: ProcessPlan {
            hooks,
            ..process::plan(process, linux, options.streams, options.init, options.filters, state)?
        },
        namespaces,
        start_socket: None,
        new_keyring: true,
    })
}

fn root(spec: &Spec, linux: &Linux, source: RootSource, around: &Surroundings<'_>) -> Result<RootPlan, PlanError> {
    let root = spec.root.as_ref().ok_or_else(|| PlanError::invalid("root", "is required"))?;
    let path = around.bundle.join(&root.path);
    let source = match source {
        RootSource::Detached(mount) => RootMount::Ready(mount),
        RootSource::InUserNamespace(make) => RootMount::InUserNamespace(make),
        RootSource::Spec => {
            let tree = HostTree::plain(&path, true);
            match around.later {
                true => RootMount::Later(tree),
                false => RootMount::Ready(
                    tree.clone_detached()
                        .map_err(|source| PlanError::MountSource { destination: PathBuf::from("/"), source })?,
                ),
            }
        }
    };
    let entry = match around.namespaces.mount {
        MountNamespace::New => RootEntry::Pivot,
        MountNamespace::Joined | MountNamespace::Runtime => RootEntry::Share(path),
    };
    let propagation = match linux.rootfs_propagation.as_deref() {
        None | Some("") => None,
        Some(word) => Some(
            mount_options::propagation(word)
                .ok_or_else(|| PlanError::invalid("linux.rootfsPropagation", format!("unknown value {word:?}")))?,
        ),
    };
    Ok(RootPlan { source: Some(source), read_only: root.readonly, propagation, entry })
}

fn absolute_paths(field: &str, paths: &[String]) -> Result<Vec<PathBuf>, PlanError> {
    let absolute = |(index, path): (usize, &String)| match path.starts_with('/') {
        true => Ok(PathBuf::from(path)),
        false => Err(PlanError::invalid(format!("{field}[{index}]"), format!("{path:?} is not absolute"))),
    };
    paths.iter().enumerate().map(absolute).collect()
}

fn in_own_uts(field: &str, name: &Option<String>, namespaces: &NamespacePlan) -> Result<Option<String>, PlanError> {
    /// `__NEW_UTS_LEN` of linux/utsname.h.
    const MAXIMUM_LENGTH: usize = 64;
    match name.as_deref() {
        None | Some("") => Ok(None),
        Some(_) if !namespaces.has_uts => {
            Err(PlanError::invalid(field, "unable to set it without a private UTS namespace"))
        }
        Some(name) if name.len() > MAXIMUM_LENGTH => {
            Err(PlanError::invalid(field, format!("{name:?} is longer than {MAXIMUM_LENGTH} bytes")))
        }
        Some(name) => Ok(Some(name.to_owned())),
    }
}
