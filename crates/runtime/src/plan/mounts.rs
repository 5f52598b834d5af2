//! `mounts` of config.json: which file system or tree, with which attributes (mount(8), config.md "Linux mount options").
//!
//! An option is one of: an attribute of the mount, set or cleared; the same for the whole tree (`rro` and its like);
//! a propagation; a word of the specification (`bind`, `rbind`, `tmpcopyup`); else it goes to the file system, which
//! may refuse it. Sources of bind mounts are opened here and get their attributes before anything is attached.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::cgroups::Layout;
use hull_kernel::mounts::{
    self, FilesystemOption, MOUNT_ATTR_ATIME, MOUNT_ATTR_IDMAP, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME, MountAttributes, MountError, Propagation,
};
use hull_oci::runtime::{LinuxIdMapping, Mount};
use rustix::fs::CWD;

use super::{IdMap, NamespacePlan, PlanError};

/// One mount of the container.
#[derive(Debug)]
pub struct MountPlan {
    /// Absolute path inside the container.
    pub destination: PathBuf,
    /// What is mounted.
    pub action: MountAction,
    /// Fill it, a new tmpfs, with what it covers.
    pub copy_up: bool,
    /// Propagation given to it, and whether to its whole tree.
    pub propagation: Option<(Propagation, bool)>,
    /// Its owners are shifted through the container's user namespace, once that exists; recursively when true.
    pub id_mapped: Option<bool>,
}

impl MountPlan {
    /// Shifts the owners of a tree that is to be, before it is attached anywhere.
    ///
    /// # Errors
    /// The kernel's refusal: not every file system can do it.
    pub(crate) fn shift_ids(&self, user_namespace: BorrowedFd<'_>) -> Result<(), MountError> {
        let (Some(recursive), MountAction::Tree(Some(tree))) = (self.id_mapped, &self.action) else { return Ok(()) };
        let attributes = MountAttributes {
            set: MOUNT_ATTR_IDMAP,
            userns_fd: user_namespace.as_raw_fd() as u64,
            ..MountAttributes::default()
        };
        let subject = format!("{} (shifting ids)", self.destination.display());
        mounts::set_attributes(tree.as_fd(), recursive, &attributes, &subject)
    }
}

/// What is mounted.
#[derive(Debug)]
pub enum MountAction {
    /// A tree of the host, cloned and with its attributes set; detached. Taken when it is attached.
    Tree(Option<OwnedFd>),
    /// A new file system, made by the child in its namespaces.
    Filesystem {
        /// Type, as /proc/filesystems names it.
        kind: String,
        /// Source shown in /proc/mounts.
        source: String,
        /// Options of the file system.
        options: Vec<FilesystemOption>,
        /// `MOUNT_ATTR_*` bits.
        attributes: u64,
    },
    /// The cgroup hierarchies as the container may see them.
    Cgroup {
        /// Which hierarchies there are.
        hierarchies: CgroupHierarchies,
        /// `MOUNT_ATTR_*` bits.
        attributes: u64,
    },
}

/// The host's cgroup layout, as far as a mount of it goes.
#[derive(Debug)]
pub enum CgroupHierarchies {
    /// cgroup v2 alone.
    Unified,
    /// cgroup v1: name of each hierarchy's directory and the options that mount it.
    Legacy(Vec<(String, Vec<FilesystemOption>)>),
    /// cgroup v1 without a cgroup namespace: of each hierarchy the cgroup that the container is in.
    LegacyOwn(Layout, MountAttributes),
}

/// What the options of one mount say.
#[derive(Debug, Default)]
struct Options {
    here: MountAttributes,
    tree: MountAttributes,
    propagation: Option<(Propagation, bool)>,
    bind: Option<bool>,
    copy_up: bool,
    id_mapped: Option<bool>,
    filesystem: Vec<FilesystemOption>,
}

/// Attribute options: name, bits set, bits cleared. With an `r` before the name they hold for the whole tree.
const ATTRIBUTES: [(&str, u64, u64); 19] = [
    ("ro", MOUNT_ATTR_RDONLY, 0),
    ("rw", 0, MOUNT_ATTR_RDONLY),
    ("nosuid", MOUNT_ATTR_NOSUID, 0),
    ("suid", 0, MOUNT_ATTR_NOSUID),
    ("nodev", MOUNT_ATTR_NODEV, 0),
    ("dev", 0, MOUNT_ATTR_NODEV),
    ("noexec", MOUNT_ATTR_NOEXEC, 0),
    ("exec", 0, MOUNT_ATTR_NOEXEC),
    ("nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0),
    ("symfollow", 0, MOUNT_ATTR_NOSYMFOLLOW),
    ("nodiratime", MOUNT_ATTR_NODIRATIME, 0),
    ("diratime", 0, MOUNT_ATTR_NODIRATIME),
    ("noatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME),
    ("atime", MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    ("relatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    ("norelatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    ("strictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    ("nostrictatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    ("defaults", 0, 0),
];

/// The propagation that an option word names, and whether it holds for the whole tree.
pub(super) fn propagation(word: &str) -> Option<(Propagation, bool)> {
    Some(match word {
        "private" => (Propagation::Private, false),
        "rprivate" => (Propagation::Private, true),
        "slave" => (Propagation::Slave, false),
        "rslave" => (Propagation::Slave, true),
        "shared" => (Propagation::Shared, false),
        "rshared" => (Propagation::Shared, true),
        "unbindable" => (Propagation::Unbindable, false),
        "runbindable" => (Propagation::Unbindable, true),
        _ => return None,
    })
}

/// The option words that have a meaning here, sorted; others go to the file system.
pub(crate) fn option_words() -> Vec<String> {
    const PROPAGATIONS: [&str; 8] =
        ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];
    let attributes = ATTRIBUTES.iter().map(|(name, ..)| *name);
    let recursive = attributes.clone().filter(|name| *name != "defaults").map(|name| format!("r{name}"));
    let mut words: Vec<String> = attributes
        .chain(PROPAGATIONS)
        .chain(["bind", "rbind", "tmpcopyup"])
        .map(str::to_owned)
        .chain(recursive)
        .collect();
    words.sort();
    words
}

fn attribute(attributes: &mut MountAttributes, set: u64, clear: u64) {
    attributes.set = (attributes.set & !clear) | set;
    attributes.clear = (attributes.clear & !set) | clear;
}

fn parse(field: &str, options: &[String]) -> Result<Options, PlanError> {
    let known = |word: &str| ATTRIBUTES.iter().find(|(name, ..)| *name == word);
    let mut parsed = Options::default();
    for option in options {
        if let Some((_, set, clear)) = known(option) {
            attribute(&mut parsed.here, *set, *clear);
        } else if let Some((_, set, clear)) = option.strip_prefix('r').and_then(known) {
            attribute(&mut parsed.tree, *set, *clear);
        } else if let Some(propagation) = propagation(option) {
            parsed.propagation = Some(propagation);
        } else {
            match option.as_str() {
                "bind" => parsed.bind = Some(parsed.bind.unwrap_or(false)),
                "rbind" => parsed.bind = Some(true),
                "tmpcopyup" => parsed.copy_up = true,
                "idmap" => parsed.id_mapped = Some(false),
                "ridmap" => parsed.id_mapped = Some(true),
                "remount" => return Err(PlanError::unsupported(format!("{field}.options: {option}"), "")),
                other => parsed.filesystem.push(FilesystemOption::parse(other)),
            }
        }
    }
    Ok(parsed)
}

/// Plans all mounts.
pub(super) fn plan(mounts: &[Mount], bundle: &Path, namespaces: &NamespacePlan) -> Result<Vec<MountPlan>, PlanError> {
    mounts.iter().enumerate().map(|(index, mount)| one(index, mount, bundle, namespaces)).collect()
}

fn one(index: usize, mount: &Mount, bundle: &Path, namespaces: &NamespacePlan) -> Result<MountPlan, PlanError> {
    let field = format!("mounts[{index}]");
    // The specification allows a relative destination and reads it from the root.
    let destination = Path::new("/").join(&mount.destination);
    let options = parse(&field, &mount.options)?;
    let kind = mount.type_.as_deref().unwrap_or("");
    let action = match (options.bind, kind) {
        (Some(_), _) | (None, "bind" | "none" | "") => tree(&field, mount, &destination, &options, bundle)?,
        (None, "cgroup" | "cgroup2") => cgroup(&destination, &options, namespaces)?,
        (None, kind) => filesystem(&field, kind, mount, &options)?,
    };
    if options.copy_up && !matches!(&action, MountAction::Filesystem { kind, .. } if kind == "tmpfs") {
        return Err(PlanError::invalid(format!("{field}.options"), "tmpcopyup is for tmpfs mounts"));
    }
    let id_mapped = id_mapped(&field, mount, &options, namespaces)?;
    let plan = MountPlan { destination, action, copy_up: options.copy_up, propagation: options.propagation, id_mapped };
    if let Some(namespace) = namespaces.joined_user() {
        plan.shift_ids(namespace)
            .map_err(|source| PlanError::MountSource { destination: plan.destination.clone(), source })?;
    }
    Ok(plan)
}

/// Whether owners are shifted: through the container's own user namespace, which is the only map there is.
fn id_mapped(
    field: &str,
    mount: &Mount,
    options: &Options,
    namespaces: &NamespacePlan,
) -> Result<Option<bool>, PlanError> {
    let given = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if !given && options.id_mapped.is_none() {
        return Ok(None);
    }
    if options.bind.is_none() {
        return Err(PlanError::unsupported(format!("{field}.uidMappings"), "only bind mounts are shifted"));
    }
    let own = |mappings: &[LinuxIdMapping], map: &[IdMap]| {
        let of = |m: &LinuxIdMapping| IdMap { inside: m.container_id, outside: m.host_id, count: m.size };
        mappings.iter().map(of).eq(map.iter().copied())
    };
    let same = own(&mount.uid_mappings, &namespaces.uid_map) && own(&mount.gid_mappings, &namespaces.gid_map);
    let has_namespace = namespaces.creates_user() || namespaces.joined_user().is_some();
    if !has_namespace || (given && namespaces.creates_user() && !same) {
        let why = "a mount can only have the map of the container's own user namespace";
        return Err(PlanError::unsupported(format!("{field}.uidMappings"), why));
    }
    Ok(Some(options.id_mapped.unwrap_or(false)))
}

fn tree(
    field: &str,
    mount: &Mount,
    destination: &Path,
    options: &Options,
    bundle: &Path,
) -> Result<MountAction, PlanError> {
    let Some(source) = &mount.source else {
        return Err(PlanError::invalid(format!("{field}.source"), "a bind mount needs it"));
    };
    // Words for the file system have no effect on one that is mounted already, as in mount(2); other words are mistakes.
    if let Some(option) = options.filesystem.iter().find(|option| option.value.is_none()) {
        return Err(PlanError::invalid(format!("{field}.options"), format!("unknown bind option {:?}", option.key)));
    }
    let recursive = options.bind.unwrap_or(true);
    let path = bundle.join(source);
    let tree = match options.propagation {
        Some((Propagation::Shared, _)) => open_shared(&path, destination, recursive)?,
        _ => open_source(&path, destination, recursive)?,
    };
    let failed = |source| PlanError::MountSource { destination: destination.to_path_buf(), source };
    if options.tree != MountAttributes::default() {
        mounts::set_attributes(tree.as_fd(), true, &options.tree, "bind mount tree").map_err(failed)?;
    }
    if options.here != MountAttributes::default() {
        mounts::set_attributes(tree.as_fd(), false, &options.here, "bind mount").map_err(failed)?;
    }
    Ok(MountAction::Tree(Some(tree)))
}

/// Clones the host's tree at `path`; `destination` names the mount in errors. The clone receives what the host mounts
/// below it later and gives nothing back: on most machines everything is shared, and a mount that the container made
/// on a shared clone would appear on the host.
pub(super) fn open_source(path: &Path, destination: &Path, recursive: bool) -> Result<OwnedFd, PlanError> {
    let tree = open_shared(path, destination, recursive)?;
    let receiving = MountAttributes { propagation: Propagation::Slave as u64, ..MountAttributes::default() };
    mounts::set_attributes(tree.as_fd(), true, &receiving, "the clone of a mount")
        .map_err(|source| PlanError::MountSource { destination: destination.to_path_buf(), source })?;
    Ok(tree)
}

/// The clone that still exchanges mounts with the host. A path below `/proc/PID/root` is that process' own: it is
/// cloned in its mount namespace.
fn open_shared(path: &Path, destination: &Path, recursive: bool) -> Result<OwnedFd, PlanError> {
    let tree = match of_process(path) {
        Some((pid, inside)) => mounts::foreign::clone_tree_of_process(pid, &inside, recursive),
        None => mounts::clone_tree(CWD, path, recursive),
    };
    tree.map_err(|source| PlanError::MountSource { destination: destination.to_path_buf(), source })
}

fn of_process(path: &Path) -> Option<(i32, PathBuf)> {
    let mut components = path.strip_prefix("/proc").ok()?.components();
    let pid = components.next()?.as_os_str().to_str()?.parse().ok()?;
    let inside = components.as_path().strip_prefix("root").ok()?;
    Some((pid, Path::new("/").join(inside)))
}

fn cgroup(destination: &Path, options: &Options, namespaces: &NamespacePlan) -> Result<MountAction, PlanError> {
    let layout = Layout::detect()
        .map_err(|error| PlanError::Cgroup { destination: destination.to_path_buf(), source: Box::new(error) })?;
    let attributes = options.here.set;
    let hierarchies = match (layout.is_unified(), namespaces.has_cgroup()) {
        (true, true) => CgroupHierarchies::Unified,
        (false, true) => CgroupHierarchies::Legacy(legacy(&layout)),
        (false, false) => CgroupHierarchies::LegacyOwn(layout, options.here),
        // A mount of cgroup v2 shows all that its creator's cgroup namespace has, which here is the host's.
        (true, false) => {
            let tree = open_source(Path::new("/sys/fs/cgroup"), destination, true)?;
            let failed = |source| PlanError::MountSource { destination: destination.to_path_buf(), source };
            mounts::set_attributes(tree.as_fd(), true, &options.here, "cgroup tree").map_err(failed)?;
            return Ok(MountAction::Tree(Some(tree)));
        }
    };
    Ok(MountAction::Cgroup { hierarchies, attributes })
}

/// What the host mounts, as the child mounts it again in its own cgroup namespace.
fn legacy(layout: &Layout) -> Vec<(String, Vec<FilesystemOption>)> {
    let legacy = layout.legacy().iter().map(|hierarchy| {
        let mut options: Vec<FilesystemOption> =
            hierarchy.controllers.iter().map(|controller| FilesystemOption::parse(controller)).collect();
        if options.iter().any(|option| option.value.is_some()) {
            // A hierarchy that has a name and no controller is mounted with `none,name=...` (cgroups(7)).
            options.insert(0, FilesystemOption::parse("none"));
        }
        (hierarchy.directory(), options)
    });
    legacy.collect()
}

fn filesystem(field: &str, kind: &str, mount: &Mount, options: &Options) -> Result<MountAction, PlanError> {
    if options.tree != MountAttributes::default() {
        return Err(PlanError::invalid(format!("{field}.options"), "recursive options are for bind mounts"));
    }
    let source = mount.source.as_ref().map_or(kind.to_owned(), |source| source.display().to_string());
    Ok(MountAction::Filesystem {
        kind: kind.to_owned(),
        source,
        options: options.filesystem.clone(),
        attributes: options.here.set,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(options: &[&str]) -> Options {
        parse("mounts[0]", &options.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_later_of_two_opposites_wins() {
        let options = words(&["ro", "nosuid", "rw"]);
        assert_eq!(options.here.set, MOUNT_ATTR_NOSUID);
        assert_eq!(options.here.clear, MOUNT_ATTR_RDONLY);
        assert_eq!(words(&["rw", "ro"]).here.set, MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn an_r_before_an_attribute_means_the_whole_tree() {
        let options = words(&["rro", "rnoatime"]);
        assert_eq!(options.tree.set, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME);
        assert_eq!(options.here, MountAttributes::default());
        assert_eq!(words(&["relatime"]).here.clear, MOUNT_ATTR_ATIME);
    }

    #[test]
    fn what_is_no_option_of_ours_goes_to_the_file_system() {
        let options = words(&["size=64k", "mode=755", "rprivate", "rbind"]);
        assert_eq!(options.filesystem, [FilesystemOption::parse("size=64k"), FilesystemOption::parse("mode=755")]);
        assert_eq!(options.propagation, Some((Propagation::Private, true)));
        assert_eq!(options.bind, Some(true));
    }

    #[test]
    fn options_that_this_runtime_lacks_are_refused_by_name() {
        let error = parse("mounts[3]", &["remount".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "config.json: mounts[3].options: remount is not supported");
    }
}
