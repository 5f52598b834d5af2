//! Control groups, v1, v2 and both at once (cgroups(7)): what a group of processes may use, and the group as one thing
//! to freeze, kill, measure and remove.
//!
//! ```text
//! Layout::detect()                which hierarchies are mounted where
//!   .cgroup("/hull/<id>")         a name, the same in every hierarchy; touches nothing
//!      .create()                  directories, v2 controllers switched on, v1 cpusets filled
//!      .apply(&limits)            on a new cgroup       .update(&limits)  on one in use
//!      .joiner()                  descriptors for the process that will live inside
//!      .freeze() .kill_all() .stats() .processes()
//!      .remove_with_parent()      and the instance's parent with the last one
//! ```
//!
//! On a host with systemd the cgroup may be a unit's instead ([`systemd`]): it is then made, changed and ended through
//! systemd, and everything else is the same.
//!
//! Where both versions are mounted, v1 carries the controllers it has, and the cgroup also exists in v2, for the
//! controllers bound there, `CLONE_INTO_CGROUP`, cgroup.kill and cgroup.events. Callers never know which it is: limits
//! have one meaning ([`Limits`]), every formula is in [`convert`], and what a version cannot do is refused by name.
//!
//! No process id is ever written into cgroup.procs: that takes a lock with a synchronous RCU wait of milliseconds. On
//! v1 a single-threaded child writes `0` into `tasks` ([`Joiner::join_self`]), on v2 it is born inside
//! ([`Joiner::clone_into`]).
//!
//! Nothing outside of the cgroups made here is written, but the cgroup.subtree_control of v2 ancestors, and empty
//! cpusets of v1 ancestors, which could hold no process.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::Pid;

mod control;
pub mod convert;
pub mod devices;
mod error;
mod filter;
mod folder;
mod joiner;
mod layout;
mod legacy;
pub mod limits;
mod oom;
pub mod stats;
pub mod systemd;
mod tree;
mod unified;

#[cfg(test)]
mod kernel_tests;

pub use devices::{Access, DeviceKind, DeviceRule};
pub use error::CgroupError;
pub use joiner::{JoinError, Joiner};
pub use layout::{Hierarchy, Layout};
pub use limits::{BlkioThrottle, BlkioWeightDevice, HugetlbLimit, Limits, RdmaLimit, ThrottleKind};
pub use oom::OomWatch;
pub use stats::Stats;

use folder::Folder;

/// One cgroup, in every hierarchy of the machine. Holds names only; nothing is kept open.
#[derive(Clone, Debug)]
pub struct Cgroup {
    legacy: Vec<Place>,
    unified: Option<Place>,
    /// The unit that systemd made it for.
    unit: Option<systemd::Unit>,
    /// Whether the cgroup above it is somebody else's.
    keeps_parent: bool,
}

/// The cgroup in one hierarchy.
#[derive(Clone, Debug)]
struct Place {
    hierarchy: Hierarchy,
    /// Absolute in the hierarchy's mount.
    path: String,
    folder: PathBuf,
}

impl Place {
    fn new((hierarchy, path): (Hierarchy, String)) -> Place {
        let folder = hierarchy.folder(&path);
        Place { hierarchy, path, folder }
    }
}

/// Where a controller's files are for a cgroup.
enum Home<'a> {
    Legacy(&'a Path),
    Unified(&'a Path),
}

impl Cgroup {
    fn new(legacy: Vec<(Hierarchy, String)>, unified: Option<(Hierarchy, String)>) -> Cgroup {
        let legacy = legacy.into_iter().map(Place::new).collect();
        Cgroup { legacy, unified: unified.map(Place::new), unit: None, keeps_parent: false }
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.legacy.iter().chain(&self.unified)
    }

    /// The hierarchies that it is in.
    pub fn layout(&self) -> Layout {
        let hierarchy = |place: &Place| place.hierarchy.clone();
        Layout::of(self.legacy.iter().map(hierarchy).collect(), self.unified.as_ref().map(hierarchy))
    }

    /// The path, absolute from the top of each mount, as given to [`Layout::cgroup`].
    pub fn path(&self) -> &str {
        self.places().next().map_or("/", |place| &place.path)
    }

    /// The directory in the v1 hierarchy of this controller (`memory`, `name=systemd`), where there is one.
    pub fn legacy_folder(&self, controller: &str) -> Option<&Path> {
        let place =
            self.legacy.iter().find(|place| place.hierarchy.controllers.iter().any(|name| name == controller))?;
        Some(&place.folder)
    }

    /// The directory in the v2 hierarchy, where there is one.
    pub fn unified_folder(&self) -> Option<&Path> {
        self.unified.as_ref().map(|place| place.folder.as_path())
    }

    /// The path for each controller of v1, and for v2 under the empty name.
    pub fn paths_by_controller(&self) -> Vec<(String, String)> {
        let named = |place: &Place| {
            let path = place.path.clone();
            place.hierarchy.controllers.clone().into_iter().map(move |name| (name, path.clone())).collect::<Vec<_>>()
        };
        let unified = self.unified.iter().map(|place| (String::new(), place.path.clone()));
        self.legacy.iter().flat_map(named).chain(unified).collect()
    }

    /// The cgroup above; `None` for one just below the root.
    pub fn parent(&self) -> Option<Cgroup> {
        let above = |place: &Place| {
            let (parent, _) = place.path.rsplit_once('/')?;
            let parent = Some(parent).filter(|parent| !parent.is_empty())?;
            Some(Place::new((place.hierarchy.clone(), parent.to_owned())))
        };
        let legacy = self.legacy.iter().map(above).collect::<Option<Vec<_>>>()?;
        let unified = match &self.unified {
            Some(place) => Some(above(place)?),
            None => None,
        };
        Some(Cgroup { legacy, unified, unit: None, keeps_parent: false })
    }

    /// The cgroup of that name below this one.
    ///
    /// # Errors
    /// [`CgroupError::BadPath`] when the name is not one plain path component.
    pub fn child(&self, name: &str) -> Result<Cgroup, CgroupError> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0', '\n']) || name.len() > 255 {
            return Err(CgroupError::BadPath { path: name.to_owned(), reason: "it is not one plain name" });
        }
        let below = |place: &Place| Place::new((place.hierarchy.clone(), format!("{}/{name}", place.path)));
        let unified = self.unified.as_ref().map(below);
        let legacy = self.legacy.iter().map(below).collect();
        Ok(Cgroup { legacy, unified, unit: None, keeps_parent: false })
    }

    /// The cgroup at `path` below this one: in the hierarchy of one controller, elsewhere this one, or in every
    /// hierarchy when `controller` is empty. Beside v1, the v2 hierarchy follows only where it has that cgroup.
    ///
    /// # Errors
    /// [`CgroupError::BadPath`] for a path that leads out, and for a controller that this machine has no hierarchy of.
    pub fn below(&self, controller: &str, path: &str) -> Result<Cgroup, CgroupError> {
        let bad = |path: &str, reason| CgroupError::BadPath { path: path.to_owned(), reason };
        let mut below = String::new();
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            if part == ".." || part.contains(['\0', '\n']) {
                return Err(bad(path, "it is not a sub cgroup path"));
            }
            below.push('/');
            below.push_str(part);
        }
        let moved = |place: &Place| Place::new((place.hierarchy.clone(), format!("{}{below}", place.path)));
        let mut cgroup = self.clone();
        if controller.is_empty() {
            cgroup.legacy = self.legacy.iter().map(moved).collect();
            cgroup.unified = self.unified.as_ref().map(moved);
            if !self.legacy.is_empty() && cgroup.unified.as_ref().is_some_and(|place| !place.folder.exists()) {
                cgroup.unified.clone_from(&self.unified);
            }
            return Ok(cgroup);
        }
        let has = |place: &&mut Place| place.hierarchy.controllers.iter().any(|name| name == controller);
        match cgroup.legacy.iter_mut().find(has) {
            Some(place) => *place = moved(place),
            None => return Err(bad(controller, "it names an unknown controller")),
        }
        Ok(cgroup)
    }

    /// Whether it exists in any hierarchy.
    pub fn exists(&self) -> bool {
        self.places().any(|place| place.folder.exists())
    }

    /// Makes the cgroup and what is missing above it, in every hierarchy; on v2 switches the controllers on, on v1
    /// gives empty cpusets their parent's. An existing cgroup is taken over as it is.
    ///
    /// Says whether something above it was missing, so that whoever takes it away again knows what else is theirs.
    ///
    /// Safe against peers that create and remove cgroups under the same parent at the same time. When a hierarchy
    /// refuses, what was made before stays; [`Cgroup::remove_with_parent`] takes it away.
    ///
    /// # Errors
    /// [`CgroupError::Make`], and those of reading and filling a cpuset.
    pub fn create(&self) -> Result<bool, CgroupError> {
        let mut made_parent = false;
        for place in &self.legacy {
            let mount = &place.hierarchy.mount;
            if !place.hierarchy.controllers.iter().any(|name| name == "cpuset") {
                made_parent |= tree::make(mount, &place.path, &|_| Ok(()))?;
                continue;
            }
            made_parent |= tree::make(mount, &place.path, &|folder| tree::prepare_cpuset(mount, folder))?;
            tree::fill_cpuset(mount, &place.folder)?;
        }
        if let Some(place) = &self.unified {
            made_parent |= tree::make(&place.hierarchy.mount, &place.path, &|_| Ok(()))?;
            // Beside v1, v2's few controllers are switched on only when a limit needs one.
            if self.legacy.is_empty() {
                unified::enable_usual(&place.hierarchy, &place.path)?;
            }
        }
        Ok(made_parent)
    }

    /// Sets the limits of a cgroup that was just created and has no process yet.
    ///
    /// # Errors
    /// See [`Limits::validate`]; else names the file and the value, or what this machine lacks. Limits written before
    /// stay.
    pub fn apply(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.write_limits(limits, true)
    }

    /// Changes the limits of a cgroup in use. What is not given stays, with docker's one exception: memory set to
    /// unlimited makes swap unlimited too. As with docker, lowering memory below memory+swap is allowed, and raising it
    /// above needs `memory_swap_total` as well on v1; on v2 swap is counted on its own and keeps its limit.
    ///
    /// # Errors
    /// As [`Cgroup::apply`]; [`CgroupError::LimitBelowUsage`] where memory in use cannot be reclaimed (v1 always, v2
    /// with `memory_check_before_update`, since v2 would kill).
    pub fn update(&self, limits: &Limits) -> Result<(), CgroupError> {
        let Some(unit) = &self.unit else { return self.write_limits(limits, false) };
        limits.validate()?;
        self.check_memory_in_use(limits)?;
        let limits = self.update_unit(unit, limits)?;
        self.write_limits(&limits, false)
    }

    fn write_limits(&self, limits: &Limits, fresh: bool) -> Result<(), CgroupError> {
        limits.validate()?;
        if limits.wants_cpuset() {
            match self.home("cpuset")? {
                Home::Legacy(folder) | Home::Unified(folder) => legacy::cpuset(&Folder::at(folder), limits)?,
            }
        }
        if limits.wants_cpu() {
            match self.home("cpu")? {
                Home::Legacy(folder) => legacy::cpu(&Folder::opened(folder)?, limits, fresh)?,
                Home::Unified(folder) => unified::cpu(&Folder::opened(folder)?, limits, fresh)?,
            }
        }
        if limits.wants_memory() {
            match self.home("memory")? {
                Home::Legacy(folder) => legacy::memory(&Folder::opened(folder)?, limits, fresh)?,
                Home::Unified(folder) => unified::memory(&Folder::opened(folder)?, limits, fresh)?,
            }
        }
        if let Some(limit) = limits.pids_max {
            let (Home::Legacy(folder) | Home::Unified(folder)) = self.home("pids")?;
            legacy::pids(&Folder::at(folder), limit)?;
        }
        self.write_rarer_limits(limits)?;
        self.write_devices(limits, fresh)?;
        self.write_unified_files(limits)
    }

    fn write_rarer_limits(&self, limits: &Limits) -> Result<(), CgroupError> {
        if limits.wants_io() {
            match self.home_of("blkio", "io")? {
                Home::Legacy(folder) => legacy::blkio(&Folder::opened(folder)?, limits)?,
                Home::Unified(folder) => unified::io(&Folder::opened(folder)?, limits)?,
            }
        }
        if !limits.hugetlb.is_empty() {
            match self.home("hugetlb")? {
                Home::Legacy(folder) => legacy::hugetlb(&Folder::opened(folder)?, limits)?,
                Home::Unified(folder) => unified::hugetlb(&Folder::opened(folder)?, limits)?,
            }
        }
        if !limits.rdma.is_empty() {
            let (Home::Legacy(folder) | Home::Unified(folder)) = self.home("rdma")?;
            legacy::rdma(&Folder::at(folder), limits)?;
        }
        if let Some(class) = limits.net_cls_classid {
            legacy::net_cls(&self.legacy_only("net_cls", "net_cls_classid")?, class)?;
        }
        if !limits.net_prio.is_empty() {
            legacy::net_prio(&self.legacy_only("net_prio", "net_prio")?, limits)?;
        }
        Ok(())
    }

    fn write_devices(&self, limits: &Limits, fresh: bool) -> Result<(), CgroupError> {
        if limits.devices.is_empty() {
            return Ok(());
        }
        match (self.legacy_folder("devices"), self.unified_folder()) {
            (Some(folder), _) => devices::write_legacy(&Folder::opened(folder)?, &limits.devices, fresh),
            (None, Some(folder)) => unified::devices(folder, &limits.devices, fresh),
            (None, None) => Err(CgroupError::NoController { controller: "devices" }),
        }
    }

    fn write_unified_files(&self, limits: &Limits) -> Result<(), CgroupError> {
        for (file, value) in &limits.unified {
            let Some(place) = &self.unified else {
                return Err(limits::invalid("unified", file, "this machine has cgroup v1 only"));
            };
            let prefix = file.split('.').next().unwrap_or("");
            if prefix != "cgroup" {
                let known = Folder::at(&place.hierarchy.mount).read("cgroup.controllers")?;
                if !self.legacy.is_empty() && !known.split_ascii_whitespace().any(|name| name == prefix) {
                    return Err(limits::invalid("unified", file, "that controller is cgroup v1 on this machine"));
                }
                if let Some(controller) = unified::known_controller(prefix) {
                    unified::require(&place.hierarchy, &place.path, controller)?;
                }
            }
            unified::raw(&Folder::at(&place.folder), file, value)?;
        }
        Ok(())
    }

    fn home(&self, controller: &'static str) -> Result<Home<'_>, CgroupError> {
        self.home_of(controller, controller)
    }

    /// The v1 folder of a controller if it has one, else the v2 folder with the controller switched on.
    fn home_of(&self, v1: &'static str, v2: &'static str) -> Result<Home<'_>, CgroupError> {
        if let Some(folder) = self.legacy_folder(v1) {
            return Ok(Home::Legacy(folder));
        }
        match &self.unified {
            Some(place) => {
                unified::require(&place.hierarchy, &place.path, v2)?;
                Ok(Home::Unified(&place.folder))
            }
            None => Err(CgroupError::NoController { controller: v1 }),
        }
    }

    fn legacy_only(&self, controller: &'static str, field: &'static str) -> Result<Folder, CgroupError> {
        match self.legacy_folder(controller) {
            Some(folder) => Ok(Folder::at(folder)),
            None if self.legacy.is_empty() => {
                Err(CgroupError::Unsupported { field, reason: "cgroup v2 has no such setting" })
            }
            None => Err(CgroupError::NoController { controller }),
        }
    }

    /// Hands the v2 cgroup to a user: the directory and the files with which it makes and fills child cgroups, and
    /// nothing that sets the cgroup's own limits (runtime-spec config-linux.md, "Cgroup ownership"). Does nothing on
    /// v1, whose directories cannot be handed over safely.
    ///
    /// # Errors
    /// [`CgroupError::Delegate`].
    pub fn delegate(&self, uid: u32) -> Result<(), CgroupError> {
        match self.unified_folder().filter(|_| self.legacy.is_empty()) {
            Some(folder) => unified::delegate(folder, uid),
            None => Ok(()),
        }
    }

    /// Opens what the process needs that will live in the cgroup.
    ///
    /// # Errors
    /// [`CgroupError::Open`].
    pub fn joiner(&self) -> Result<Joiner, CgroupError> {
        let mut tasks = Vec::with_capacity(self.legacy.len());
        for place in &self.legacy {
            let path = place.folder.join("tasks");
            let file = open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| CgroupError::Open { path: path.clone(), source: errno.into() })?;
            tasks.push((path, file));
        }
        let directory = self.unified_folder().map(unified::open_directory).transpose()?;
        Ok(Joiner { tasks, directory })
    }

    /// The folder whose process list is the cgroup's: all hierarchies hold the same processes.
    fn members(&self) -> Option<&Path> {
        let first = || self.legacy.first().map(|place| place.folder.as_path());
        self.legacy_folder("freezer").or_else(first).or_else(|| self.unified_folder())
    }

    /// The processes of this cgroup and of those below it.
    ///
    /// # Errors
    /// [`CgroupError::Open`] with `ENOENT` when the cgroup does not exist.
    pub fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        self.members().map_or_else(|| Ok(Vec::new()), control::processes)
    }

    /// Freezes all processes and waits until they are. Bounded; what cannot be frozen in time is thawed again.
    ///
    /// # Errors
    /// [`CgroupError::FreezeTimeout`], [`CgroupError::NoController`] on v1 without the freezer.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        match (self.legacy_folder("freezer"), self.unified_folder()) {
            (Some(folder), _) => control::freeze_legacy(folder),
            (None, Some(folder)) => control::set_frozen_unified(folder, true),
            (None, None) => Err(CgroupError::NoController { controller: "freezer" }),
        }
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match (self.legacy_folder("freezer"), self.unified_folder()) {
            (Some(folder), _) => control::thaw_legacy(folder),
            (None, Some(folder)) => control::set_frozen_unified(folder, false),
            (None, None) => Err(CgroupError::NoController { controller: "freezer" }),
        }
    }

    /// Whether all processes are frozen now.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        match (self.legacy_folder("freezer"), self.unified_folder()) {
            (Some(folder), _) => control::is_frozen_legacy(folder),
            (None, Some(folder)) => control::is_frozen_unified(folder),
            (None, None) => Ok(false),
        }
    }

    /// Kills all processes, frozen ones too, and waits until none is alive. A cgroup that does not exist has none.
    ///
    /// # Errors
    /// [`CgroupError::StillPopulated`] when some did not end within ten seconds.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        match self.kill_members() {
            // systemd removes the cgroup of a unit as soon as its last process has ended.
            Err(error) if self.unit.is_some() && tree::is_gone(&error) => Ok(()),
            other => other,
        }
    }

    fn kill_members(&self) -> Result<(), CgroupError> {
        if let Some(folder) = self.unified_folder().filter(|folder| folder.exists()) {
            if self.legacy.is_empty() {
                return control::kill_unified(folder);
            }
            // v1's freezer keeps even a killed process.
            control::kill_unified_at_once(folder)?;
            if let Some(freezer) = self.legacy_folder("freezer").filter(|folder| folder.exists()) {
                control::thaw_legacy(freezer)?;
            }
            control::wait_until_empty_unified(folder)?;
        }
        // Whoever is in v1 alone, put there by another hand.
        let freezer = self.legacy_folder("freezer").filter(|folder| folder.exists());
        match self.legacy.iter().map(|place| place.folder.as_path()).find(|folder| folder.exists()) {
            Some(members) => control::kill_legacy(freezer.unwrap_or(members), freezer),
            None => Ok(()),
        }
    }

    /// A file with a line `oom_kill N` that counts the processes killed for want of memory in this cgroup:
    /// memory.oom_control on v1, memory.events on v2. `None` without a memory controller.
    pub fn oom_events_path(&self) -> Option<PathBuf> {
        match self.legacy_folder("memory") {
            Some(folder) => Some(folder.join("memory.oom_control")),
            None => self.unified_folder().filter(|_| self.legacy.is_empty()).map(|folder| folder.join("memory.events")),
        }
    }

    /// What the cgroup has used and is using. Parts without a controller are `None`.
    ///
    /// # Errors
    /// [`CgroupError::Read`] and [`CgroupError::Parse`].
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        stats::read(self)
    }

    /// Removes the cgroup and those below it, in every hierarchy; one that is not there is fine. Goes on past a
    /// hierarchy that refuses. Processes must be gone; a moment's delay is waited for.
    ///
    /// # Errors
    /// [`CgroupError::Remove`], with `EBUSY` when processes are left; [`CgroupError::Several`].
    pub fn remove(&self) -> Result<(), CgroupError> {
        match &self.unit {
            Some(unit) => self.remove_unit(unit),
            None => self.remove_folders(),
        }
    }

    fn remove_folders(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + tree::REMOVAL_PATIENCE;
        let mut errors: Vec<_> =
            self.places().filter_map(|place| tree::remove(&place.folder, deadline).err()).collect();
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(CgroupError::Several(errors)),
        }
    }

    /// Removes the cgroup in every hierarchy where it has neither processes nor child cgroups; says whether it is gone
    /// from all of them.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] for anything but being in use.
    pub fn remove_if_unused(&self) -> Result<bool, CgroupError> {
        let mut gone = true;
        for place in self.places() {
            gone &= tree::remove_if_unused(&place.folder)?;
        }
        Ok(gone)
    }

    /// Lets [`Cgroup::remove_with_parent`] leave the cgroup above alone, because somebody else made it.
    pub fn keep_parent(&mut self) {
        self.keeps_parent = true;
    }

    /// Whether it does.
    pub fn keeps_parent(&self) -> bool {
        self.keeps_parent
    }

    /// [`Cgroup::remove`], and then the parent if this was the last cgroup in it. For cgroups under an instance's own
    /// parent, and those under one that [`Cgroup::create`] made. What is above a unit's cgroup is systemd's.
    ///
    /// # Errors
    /// As [`Cgroup::remove`].
    pub fn remove_with_parent(&self) -> Result<(), CgroupError> {
        self.remove()?;
        self.remove_parent()
    }

    /// Removes the cgroup above if nothing is in it any more. One that is kept is kept where it can hold a limit: engines
    /// make and remove their parents in the hierarchies of controllers, and know nothing of the others, in which only a
    /// runtime makes them.
    ///
    /// # Errors
    /// [`CgroupError::Remove`] for anything but being in use.
    pub fn remove_parent(&self) -> Result<(), CgroupError> {
        let Some(parent) = self.parent().filter(|_| self.unit.is_none()) else { return Ok(()) };
        if !self.keeps_parent {
            return parent.remove_if_unused().map(drop);
        }
        let holds_nothing = |place: &&Place| place.hierarchy.controllers.iter().all(|name| name.starts_with("name="));
        let beside = parent.unified.iter().filter(|_| !parent.legacy.is_empty());
        for place in parent.legacy.iter().filter(holds_nothing).chain(beside) {
            tree::remove_if_unused(&place.folder)?;
        }
        Ok(())
    }
}
