//! `mounts` of config.json: which file system or tree goes where (config.md, "Mounts").
//!
//! Bind mounts get their attributes before anything is attached, and so do owners that are shifted. What is mounted
//! already is changed by `remount`: with `bind` the mount alone, without it the file system too. Destinations are
//! read from the container's root, as the specification allows for relative ones; `..` is taken out of them here.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use hull_kernel::cgroups::Layout;
use hull_kernel::mounts::{
    self, FilesystemOption, MOUNT_ATTR_IDMAP, MOUNT_ATTR_RDONLY, MountAttributes, MountError, Propagation,
};
use hull_oci::runtime::{LinuxIdMapping, Mount};

use super::host_tree::{HostTree, Tree};
use super::mount_options::{MountOptions, parse};
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
    /// Propagations given to it, in this order, each with whether it is for its whole tree.
    pub propagation: Vec<(Propagation, bool)>,
    /// Its owners are shifted.
    pub id_mapped: Option<IdMapping>,
}

/// How the owners of a tree are shifted.
#[derive(Debug, PartialEq, Eq)]
pub struct IdMapping {
    /// With what is mounted below it.
    pub recursive: bool,
    /// Through which map.
    pub map: IdMappingSource,
}

/// Where the map of an id-mapped mount comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum IdMappingSource {
    /// The container's user namespace.
    Container,
    /// The mount's own map.
    Own {
        /// Of users.
        uid: Vec<IdMap>,
        /// Of groups.
        gid: Vec<IdMap>,
    },
}

impl MountPlan {
    /// Shifts the owners of a tree that is to be, before it is attached anywhere.
    ///
    /// # Errors
    /// The kernel's refusal: not every file system can do it.
    pub(crate) fn shift_ids(&self, user_namespace: BorrowedFd<'_>) -> Result<(), MountError> {
        let (Some(IdMapping { recursive, .. }), MountAction::Tree(tree)) = (&self.id_mapped, &self.action) else {
            return Ok(());
        };
        let Some(tree) = tree.cloned() else { return Ok(()) };
        let attributes = MountAttributes {
            set: MOUNT_ATTR_IDMAP,
            userns_fd: user_namespace.as_raw_fd() as u64,
            ..MountAttributes::default()
        };
        let subject = format!("{} (shifting ids)", self.destination.display());
        mounts::set_attributes(tree, *recursive, &attributes, &subject)
    }

    /// Whether its owners are shifted through the container's user namespace.
    pub(crate) fn shifts_with_container(&self) -> bool {
        self.id_mapped.as_ref().is_some_and(|mapping| mapping.map == IdMappingSource::Container)
    }

    /// Whether it becomes read-only only when all is in place: in a tmpfs and in /dev more is made after it is mounted.
    pub(crate) fn is_read_only_late(&self) -> bool {
        match &self.action {
            MountAction::Filesystem { kind, attributes, .. } => {
                attributes & MOUNT_ATTR_RDONLY != 0 && (kind == "tmpfs" || self.destination == Path::new("/dev"))
            }
            _ => false,
        }
    }
}

/// What is mounted.
#[derive(Debug)]
pub enum MountAction {
    /// A tree of the host.
    Tree(Tree),
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
    /// Nothing new: what is mounted there changes.
    Remount {
        /// Attributes of the mount.
        here: MountAttributes,
        /// Attributes of all below it too.
        tree: MountAttributes,
        /// Options of the file system, unless only the mount is meant.
        filesystem: Option<Vec<FilesystemOption>>,
    },
}

/// The host's cgroup layout, as far as a mount of it goes.
#[derive(Debug)]
pub enum CgroupHierarchies {
    /// cgroup v2, mounted in the container's cgroup namespace.
    Unified,
    /// cgroup v1, mounted in it: name of each hierarchy's directory and the options that mount it.
    Legacy(Vec<(String, Vec<FilesystemOption>)>),
    /// cgroup v1 without a cgroup namespace: of each hierarchy the cgroup that the container is in.
    LegacyOwn(Layout, MountAttributes),
}

/// What the plans of mounts need to know of the rest.
pub(super) struct Surroundings<'a> {
    pub bundle: &'a Path,
    pub namespaces: &'a NamespacePlan,
    /// The container's first process clones the host's trees.
    pub later: bool,
}

/// Plans all mounts.
pub(super) fn plan(mounts: &[Mount], around: &Surroundings<'_>) -> Result<Vec<MountPlan>, PlanError> {
    mounts.iter().enumerate().map(|(index, mount)| one(index, mount, around)).collect()
}

fn one(index: usize, mount: &Mount, around: &Surroundings<'_>) -> Result<MountPlan, PlanError> {
    let field = format!("mounts[{index}]");
    let destination = from_root(&mount.destination);
    let options = parse(&mount.options);
    if destination == Path::new("/") && !options.remount {
        return Err(PlanError::unsupported(format!("{field}.destination"), "the root directory is root.path alone"));
    }
    let kind = mount.type_.as_deref().unwrap_or("");
    let action = match (options.bind, kind) {
        _ if options.remount => remount(&field, &options)?,
        (Some(_), _) | (None, "bind" | "none" | "") => tree(&field, mount, &destination, &options, around)?,
        (None, "cgroup" | "cgroup2") => cgroup(&field, kind, &destination, &options, around)?,
        (None, kind) => filesystem(&field, kind, mount, &options, around.namespaces)?,
    };
    if options.copy_up && !matches!(&action, MountAction::Filesystem { kind, .. } if kind == "tmpfs") {
        return Err(PlanError::invalid(format!("{field}.options"), "tmpcopyup is for tmpfs mounts"));
    }
    let id_mapped = id_mapped(&field, mount, &options, around)?;
    let plan = MountPlan { destination, action, copy_up: options.copy_up, propagation: options.propagation, id_mapped };
    if let Some(namespace) = around.namespaces.joined_user().filter(|_| plan.shifts_with_container()) {
        plan.shift_ids(namespace)
            .map_err(|source| PlanError::MountSource { destination: plan.destination.clone(), source })?;
    }
    Ok(plan)
}

/// A destination as an absolute path without `.` and `..`.
fn from_root(destination: &Path) -> PathBuf {
    let mut path = PathBuf::from("/");
    for component in destination.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    path
}

/// Whether and how owners are shifted (config.md, `uidMappings`, `gidMappings`, `idmap`, `ridmap`).
fn id_mapped(
    field: &str,
    mount: &Mount,
    options: &MountOptions,
    around: &Surroundings<'_>,
) -> Result<Option<IdMapping>, PlanError> {
    let mappings_field = || format!("{field}.uidMappings");
    let given = (!mount.uid_mappings.is_empty(), !mount.gid_mappings.is_empty());
    if given == (false, false) && options.id_mapped.is_none() {
        return Ok(None);
    }
    let namespaces = around.namespaces;
    match () {
        () if options.bind.is_none() || options.remount => {
            return Err(PlanError::unsupported(mappings_field(), "only bind mounts are shifted"));
        }
        () if around.later => {
            return Err(PlanError::unsupported(mappings_field(), "shifting the owners of the host's files needs root"));
        }
        () if given.0 != given.1 => {
            return Err(PlanError::invalid(mappings_field(), "uidMappings and gidMappings go together"));
        }
        () if given == (false, false) && !namespaces.has_user() => {
            let why = "idmap without mappings needs a user namespace, whose mappings it takes";
            return Err(PlanError::invalid(format!("{field}.options"), why));
        }
        () => {}
    }
    let maps = |mappings: &[LinuxIdMapping]| -> Vec<IdMap> {
        let one = |m: &LinuxIdMapping| IdMap { inside: m.container_id, outside: m.host_id, count: m.size };
        mappings.iter().map(one).collect()
    };
    let (uid, gid) = (maps(&mount.uid_mappings), maps(&mount.gid_mappings));
    if let Some(index) = uid.iter().chain(&gid).position(|line| line.count == 0) {
        return Err(PlanError::invalid(format!("{field}.uidMappings[{}].size", index % uid.len()), "must not be zero"));
    }
    let is_containers = given == (false, false)
        || (namespaces.creates_user() && uid == namespaces.uid_map && gid == namespaces.gid_map);
    let map = if is_containers { IdMappingSource::Container } else { IdMappingSource::Own { uid, gid } };
    Ok(Some(IdMapping { recursive: options.id_mapped.unwrap_or(false), map }))
}

fn remount(field: &str, options: &MountOptions) -> Result<MountAction, PlanError> {
    let refused = |what: String| Err(PlanError::invalid(format!("{field}.options"), what));
    let mistake = options.filesystem.iter().find(|option| option.value.is_none());
    let filesystem = match (options.bind, mistake) {
        (Some(_), Some(option)) => return refused(format!("unknown bind option {:?}", option.key)),
        (Some(_), None) => None,
        (None, _) => Some(options.filesystem.clone()),
    };
    if options.copy_up {
        return refused("tmpcopyup is for tmpfs mounts".to_owned());
    }
    Ok(MountAction::Remount { here: options.here, tree: options.tree, filesystem })
}

fn tree(
    field: &str,
    mount: &Mount,
    destination: &Path,
    options: &MountOptions,
    around: &Surroundings<'_>,
) -> Result<MountAction, PlanError> {
    let Some(source) = &mount.source else {
        return Err(PlanError::invalid(format!("{field}.source"), "a bind mount needs it"));
    };
    // Words for the file system have no effect on one that is mounted already, as in mount(2); other words are mistakes.
    if let Some(option) = options.filesystem.iter().find(|option| option.value.is_none()) {
        return Err(PlanError::invalid(format!("{field}.options"), format!("unknown bind option {:?}", option.key)));
    }
    let tree = HostTree {
        path: around.bundle.join(source),
        recursive: options.bind.unwrap_or(true),
        exchanging: options.propagation.iter().any(|(propagation, _)| *propagation == Propagation::Shared),
        whole: options.tree,
        top: options.here,
    };
    Ok(MountAction::Tree(Tree::plan(tree, around.later, destination)?))
}

fn cgroup(
    field: &str,
    kind: &str,
    destination: &Path,
    options: &MountOptions,
    around: &Surroundings<'_>,
) -> Result<MountAction, PlanError> {
    no_recursive(field, options)?;
    let attributes = options.here.set;
    let layout = layout(destination)?;
    let is_unified = kind == "cgroup2" || layout.is_unified();
    let hierarchies = match (is_unified, around.namespaces.has_cgroup()) {
        (true, true) => CgroupHierarchies::Unified,
        (false, true) => CgroupHierarchies::Legacy(legacy(&layout)),
        (false, false) => CgroupHierarchies::LegacyOwn(layout, options.here),
        // A mount of cgroup v2 shows all that its creator's cgroup namespace has, which here is the host's, and would
        // change how the host has it mounted.
        (true, false) => {
            let Some(unified) = layout.unified() else {
                let why = "this host has mounted no cgroup v2";
                return Err(PlanError::unsupported(format!("{field}.type: cgroup2"), why));
            };
            let tree = HostTree { whole: options.here, ..HostTree::plain(&unified.mount, true) };
            return Ok(MountAction::Tree(Tree::plan(tree, around.later, destination)?));
        }
    };
    Ok(MountAction::Cgroup { hierarchies, attributes })
}

fn layout(destination: &Path) -> Result<Layout, PlanError> {
    Layout::detect()
        .map_err(|error| PlanError::Cgroup { destination: destination.to_path_buf(), source: Box::new(error) })
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

fn filesystem(
    field: &str,
    kind: &str,
    mount: &Mount,
    options: &MountOptions,
    namespaces: &NamespacePlan,
) -> Result<MountAction, PlanError> {
    no_recursive(field, options)?;
    if kind == "devpts" {
        check_group(field, options, namespaces)?;
    }
    let source = mount.source.as_ref().map_or(kind.to_owned(), |source| source.display().to_string());
    Ok(MountAction::Filesystem {
        kind: kind.to_owned(),
        source,
        options: options.filesystem.clone(),
        attributes: options.here.set,
    })
}

/// A group of terminals that the container's new user namespace does not have: the kernel would not say which it was.
fn check_group(field: &str, options: &MountOptions, namespaces: &NamespacePlan) -> Result<(), PlanError> {
    let group = options.filesystem.iter().rev().find(|option| option.key == "gid");
    let Some(gid) = group.and_then(|option| option.value.as_ref()?.parse::<u32>().ok()) else { return Ok(()) };
    let has = |line: &IdMap| gid >= line.inside && gid - line.inside < line.count;
    if namespaces.creates_user() && !namespaces.gid_map.iter().any(has) {
        let why = format!("gid={gid} is not mapped in the container's user namespace");
        return Err(PlanError::invalid(format!("{field}.options"), why));
    }
    Ok(())
}

fn no_recursive(field: &str, options: &MountOptions) -> Result<(), PlanError> {
    if options.tree != MountAttributes::default() {
        return Err(PlanError::invalid(format!("{field}.options"), "recursive options are for bind mounts"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_oci::runtime::{Linux, LinuxNamespace, LinuxNamespaceType};

    fn mount(destination: &str, kind: &str, options: &[&str]) -> Mount {
        Mount {
            destination: destination.into(),
            type_: Some(kind.to_owned()),
            source: Some("/dev/null".into()),
            options: options.iter().map(|word| (*word).to_owned()).collect(),
            ..serde_json::from_str("{\"destination\": \"/\"}").unwrap()
        }
    }

    fn map(inside: u32, outside: u32, count: u32) -> Vec<LinuxIdMapping> {
        vec![LinuxIdMapping { container_id: inside, host_id: outside, size: count }]
    }

    fn planned(mount: &Mount, user: bool) -> Result<MountPlan, String> {
        let mut kinds = vec![LinuxNamespaceType::Mount];
        let mut linux = Linux::default();
        if user {
            kinds.push(LinuxNamespaceType::User);
            (linux.uid_mappings, linux.gid_mappings) = (map(0, 1000, 10), map(0, 1000, 5));
        }
        linux.namespaces = kinds.into_iter().map(|type_| LinuxNamespace { type_, path: None }).collect();
        let namespaces = super::super::namespaces::plan(&linux).unwrap();
        let around = Surroundings { bundle: Path::new("/"), namespaces: &namespaces, later: false };
        one(3, mount, &around).map_err(|error| error.to_string())
    }

    #[test]
    fn destinations_start_at_the_root_and_stay_in_it() {
        for (given, expected) in
            [("data", "/data"), ("/a/./b/", "/a/b"), ("/a/../b", "/b"), ("../../etc", "/etc"), ("./x/..", "/")]
        {
            assert_eq!(from_root(Path::new(given)), Path::new(expected), "{given}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        let table = [
            (mount("/", "tmpfs", &[]), "mounts[3].destination is not supported"),
            (mount("/x", "proc", &["rro"]), "mounts[3].options: recursive options are for bind mounts"),
            (mount("/x", "bind", &["bind", "sized"]), "mounts[3].options: unknown bind option \"sized\""),
            (mount("/x", "", &["bind", "remount", "sized"]), "mounts[3].options: unknown bind option \"sized\""),
            (mount("/x", "bind", &["bind", "tmpcopyup"]), "mounts[3].options: tmpcopyup is for tmpfs mounts"),
            (mount("/x", "tmpfs", &["idmap"]), "mounts[3].uidMappings is not supported: only bind mounts are shifted"),
            (
                mount("/x", "bind", &["bind", "idmap"]),
                "mounts[3].options: idmap without mappings needs a user namespace",
            ),
        ];
        for (mount, expected) in table {
            let error = planned(&mount, false).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = planned(&mount("/dev/pts", "devpts", &["gid=5"]), true).unwrap_err();
        assert!(error.contains("gid=5 is not mapped"), "{error}");
        planned(&mount("/dev/pts", "devpts", &["gid=4"]), true).unwrap();
    }

    #[test]
    fn the_map_of_a_mount_is_the_containers_or_its_own() {
        let of = |mount: &Mount, user| planned(mount, user).map(|plan| plan.id_mapped.map(|mapping| mapping.map));
        let mut bind = mount("/x", "bind", &["bind", "idmap"]);
        assert_eq!(of(&bind, true), Ok(Some(IdMappingSource::Container)));
        bind.uid_mappings = map(0, 1000, 10);
        assert!(of(&bind, true).unwrap_err().contains("go together"));
        bind.gid_mappings = map(0, 1000, 5);
        assert_eq!(of(&bind, true), Ok(Some(IdMappingSource::Container)));
        bind.gid_mappings = map(0, 2000, 5);
        let own = |outside, count| vec![IdMap { inside: 0, outside, count }];
        let expected = IdMappingSource::Own { uid: own(1000, 10), gid: own(2000, 5) };
        assert_eq!(of(&bind, false), Ok(Some(expected)));
        bind.uid_mappings[0].size = 0;
        assert!(of(&bind, false).unwrap_err().contains("mounts[3].uidMappings[0].size"));
    }

    #[test]
    fn read_only_waits_where_more_is_made() {
        let late = |mount: Mount| planned(&mount, false).unwrap().is_read_only_late();
        assert!(late(mount("/x", "tmpfs", &["ro"])) && late(mount("/dev", "devtmpfs", &["ro"])));
        assert!(!late(mount("/x", "tmpfs", &[])) && !late(mount("/x", "proc", &["ro"])));
    }
}
