//! Cgroups made by systemd: a transient unit for each container, its limits as the unit's properties
//! (org.freedesktop.systemd1(5), systemd.resource-control(5)).
//!
//! ```text
//! unit        slice:prefix:name -> unit, slice, path of its cgroup
//! text        values of annotations in GVariant's text format
//! properties  limits -> properties, for cgroup v1 and v2
//! bus         one D-Bus connection, one call at a time, no thread
//!
//! clone3 -> the child waits -> StartTransientUnit(PIDs=[child]) -> JobRemoved -> what systemd has no property for
//!   is written into the files, and the child moved into the v1 hierarchies that systemd does not use -> it goes on
//! SetUnitProperties            an update
//! StopUnit, ResetFailedUnit    the end; then what systemd did not make is removed
//! ```
//!
//! A scope is made around a process that exists, so the child cannot be born inside: this is the one place where a process
//! id is written into cgroup.procs, by systemd and for v1 by us. From then on the cgroup is like any other: it is frozen,
//! killed, read and joined by its path. The unit is delegated, so systemd leaves what is inside alone.

mod bus;
mod error;
mod properties;
mod text;
mod unit;

use std::path::{Path, PathBuf};
use std::time::Instant;

use zbus::{OwnedObjectPath, Variant};

use super::folder::Folder;
use super::limits::Limits;
use super::{Cgroup, CgroupError, Layout, Place, convert, unified};
use bus::{Connection, Method, PATIENCE};
use properties::Present;

pub use bus::Bus;
pub use error::SystemdError;
pub use properties::Property;
pub use unit::{Unit, UnitPlace};

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// What a new unit of the same name does to an old one's job.
const MODE: &str = "replace";

/// A connection to systemd's manager.
#[derive(Debug)]
pub struct Systemd {
    connection: Connection,
}

/// Names and values as a method takes them, `a(sv)`.
type Pairs<'a> = Vec<(&'a str, &'a Variant<'static>)>;

fn pairs(properties: &[Property]) -> Pairs<'_> {
    properties.iter().map(|property| (property.name.as_str(), &property.value)).collect()
}

impl Systemd {
    /// Connects, and asks to be told of jobs that end.
    ///
    /// # Errors
    /// [`SystemdError::NoSystemd`], [`SystemdError::NoUserBus`], [`SystemdError::Refused`], and what breaks on the way.
    pub fn connect(bus: Bus) -> Result<Systemd, SystemdError> {
        let mut connection = Connection::open(bus)?;
        if connection.is_bus {
            let method = Method {
                destination: "org.freedesktop.DBus",
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member: "AddMatch",
            };
            let rule = format!("type='signal',sender='{DESTINATION}',interface='{MANAGER}',member='JobRemoved'");
            connection.call(&method, "", &rule)?;
            let subscribe =
                Method { destination: DESTINATION, path: MANAGER_PATH, interface: MANAGER, member: "Subscribe" };
            connection.call(&subscribe, "", &())?;
        }
        Ok(Systemd { connection })
    }

    /// systemd's version, such as 252.
    ///
    /// # Errors
    /// What breaks on the way.
    pub fn version(&mut self) -> Result<u32, SystemdError> {
        let text = self.manager_property("Version")?;
        let digits = text.trim_start_matches('v');
        let digits = &digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())];
        digits.parse().map_err(|_| self.connection.malformed(format!("its version is {text:?}")))
    }

    /// The cgroup that systemd itself manages, below which all its units are: empty for the host's, for a user's
    /// `/user.slice/user-1000.slice/user@1000.service`.
    ///
    /// # Errors
    /// What breaks on the way.
    pub fn control_group(&mut self) -> Result<String, SystemdError> {
        self.manager_property("ControlGroup")
    }

    fn manager_property(&mut self, name: &str) -> Result<String, SystemdError> {
        let method = Method {
            destination: DESTINATION,
            path: MANAGER_PATH,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
        };
        let answer = self.connection.call(&method, name, &(MANAGER, name))?;
        let value: zbus::OwnedVariant = answer.body().map_err(|reason| self.connection.malformed(reason))?;
        match value.into() {
            Variant::Str(text) => Ok(text.to_string()),
            other => Err(self.connection.malformed(format!("{name} is {other}"))),
        }
    }

    fn call<B: serde::Serialize + zbus::Type>(
        &mut self,
        member: &'static str,
        unit: &str,
        body: &B,
    ) -> Result<bus::Message, SystemdError> {
        let method = Method { destination: DESTINATION, path: MANAGER_PATH, interface: MANAGER, member };
        self.connection.call(&method, unit, body)
    }

    /// Makes the unit and waits until it is there. One of that name that has failed is forgotten first; a slice that is
    /// there already is as good.
    ///
    /// # Errors
    /// [`SystemdError::Call`], [`SystemdError::Job`].
    pub fn start(&mut self, unit: &Unit, properties: &[Property]) -> Result<(), SystemdError> {
        let no_others: Vec<(&str, Pairs<'_>)> = Vec::new();
        let body = (unit.name.as_str(), MODE, pairs(properties), no_others);
        let answer = match self.call("StartTransientUnit", &unit.name, &body) {
            Err(error) if error.is(UNIT_EXISTS) && unit.is_slice() => return Ok(()),
            Err(error) if error.is(UNIT_EXISTS) => {
                self.forget(unit)?;
                self.call("StartTransientUnit", &unit.name, &body)?
            }
            other => other?,
        };
        match self.job_result(&answer)?.as_str() {
            "done" => Ok(()),
            result => {
                // The job's end is the error to tell.
                let _ = self.forget(unit);
                Err(SystemdError::Job { unit: unit.name.clone(), result: result.to_owned() })
            }
        }
    }

    /// Changes properties of a unit until it ends.
    ///
    /// # Errors
    /// [`SystemdError::Call`].
    pub fn set(&mut self, unit: &Unit, properties: &[Property]) -> Result<(), SystemdError> {
        self.call("SetUnitProperties", &unit.name, &(unit.name.as_str(), true, pairs(properties))).map(drop)
    }

    /// Stops the unit, waits for it, and has a failed one forgotten. One that is not there is fine.
    ///
    /// # Errors
    /// [`SystemdError::Call`].
    pub fn stop(&mut self, unit: &Unit) -> Result<(), SystemdError> {
        match self.call("StopUnit", &unit.name, &(unit.name.as_str(), MODE)) {
            // Whatever the job's result, what matters is what is left in the cgroup, which the caller looks at.
            Ok(answer) => drop(self.job_result(&answer)?),
            Err(error) if error.is(NO_SUCH_UNIT) => {}
            Err(error) => return Err(error),
        }
        self.forget(unit)
    }

    /// Has a failed unit forgotten.
    fn forget(&mut self, unit: &Unit) -> Result<(), SystemdError> {
        match self.call("ResetFailedUnit", &unit.name, &unit.name.as_str()) {
            Err(error) if !error.is(NO_SUCH_UNIT) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits for the end of the job that a reply names: `done`, or what else became of it.
    fn job_result(&mut self, answer: &bus::Message) -> Result<String, SystemdError> {
        let job: OwnedObjectPath = answer.body().map_err(|reason| self.connection.malformed(reason))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let signal = self.connection.signal("JobRemoved", deadline)?;
            let (_, removed, _, result): (u32, OwnedObjectPath, String, String) =
                signal.body().map_err(|reason| self.connection.malformed(reason))?;
            if removed == job {
                return Ok(result);
            }
        }
    }
}

/// A unit that is to be made for a process that waits.
#[derive(Debug)]
pub struct UnitStart {
    systemd: Systemd,
    place: UnitPlace,
    properties: Vec<Property>,
    limits: Limits,
    owner: Option<u32>,
}

impl UnitStart {
    /// Connects to systemd and finds out where the unit's cgroup will be. `properties` are the ones of the container's own;
    /// `owner` is the user that the cgroup is handed to ([`Cgroup::delegate`]).
    ///
    /// # Errors
    /// [`CgroupError::Systemd`].
    pub fn prepare(
        layout: &Layout,
        place: UnitPlace,
        properties: Vec<Property>,
        mut limits: Limits,
        owner: Option<u32>,
    ) -> Result<(UnitStart, Cgroup), CgroupError> {
        if place.unit.bus == Bus::User && !layout.is_unified() {
            return Err(SystemdError::UserOnLegacy.into());
        }
        let mut systemd = Systemd::connect(place.unit.bus)?;
        let path = match place.unit.bus {
            Bus::System => place.path.clone(),
            Bus::User => format!("{}{}", systemd.control_group()?.trim_end_matches('/'), place.path),
        };
        let cgroup = layout.cgroup(&path)?.in_unit(place.unit.clone());
        limits.round_quota(None);
        Ok((UnitStart { systemd, place, properties, limits, owner }, cgroup))
    }

    /// Makes the unit around the process and sets the limits that have no property.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`], and those of [`Cgroup::create`] and [`Cgroup::apply`]. The unit may be there then.
    pub fn start(mut self, cgroup: &Cgroup, pid: i32) -> Result<(), CgroupError> {
        let version = self.systemd.version()?;
        let is_legacy = !cgroup.legacy.is_empty();
        let mut all = properties::of_unit(&self.place, pid, is_legacy);
        all.append(&mut self.properties);
        all.extend(properties::of_limits(&self.limits, version, is_legacy, &Present::default())?);
        self.systemd.start(&self.place.unit, &all)?;
        cgroup.create()?;
        cgroup.take_in(pid)?;
        // systemd has written into the files already, so they are not as in a new cgroup.
        cgroup.write_limits(&self.limits, false)?;
        self.owner.map_or(Ok(()), |uid| cgroup.delegate(uid))
    }
}

impl Cgroup {
    /// The cgroup as that of a unit, which is changed and ended through systemd.
    #[must_use]
    pub fn in_unit(self, unit: Unit) -> Cgroup {
        Cgroup { unit: Some(unit), ..self }
    }

    /// The unit, where systemd made the cgroup.
    pub fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }

    /// Changes the properties of the cgroup's unit; gives the limits to be written into the files.
    pub(super) fn update_unit(&self, unit: &Unit, limits: &Limits) -> Result<Limits, CgroupError> {
        let mut limits = limits.clone();
        let present = self.present(&limits)?;
        limits.round_quota(present.cpu_max.as_deref());
        let mut systemd = Systemd::connect(unit.bus)?;
        let version = systemd.version()?;
        let properties = properties::of_limits(&limits, version, !self.legacy.is_empty(), &present)?;
        if !properties.is_empty() {
            systemd.set(unit, &properties)?;
        }
        Ok(limits)
    }

    /// As systemd writes the limit before anybody else can look.
    pub(super) fn check_memory_in_use(&self, limits: &Limits) -> Result<(), CgroupError> {
        match self.unified_folder().filter(|_| self.legacy.is_empty()) {
            Some(folder) => unified::check_in_use(&Folder::at(folder), limits),
            None => Ok(()),
        }
    }

    /// What the files say where the limits give one half of two.
    fn present(&self, limits: &Limits) -> Result<Present, CgroupError> {
        let mut present = Present::default();
        let given = |value: bool, other: bool| value != other;
        let (quota, period) =
            (limits.cpu_quota_us.is_some_and(|v| v != 0), limits.cpu_period_us.is_some_and(|v| v != 0));
        if given(quota, period) {
            present.cpu_max = match (self.legacy_folder("cpu"), self.unified_folder()) {
                (Some(folder), _) => {
                    let read = |file| Folder::at(folder).read(file).map(|text| text.trim().to_owned());
                    let quota = read("cpu.cfs_quota_us")?;
                    let quota = if quota.starts_with('-') { convert::MAX.to_owned() } else { quota };
                    Some(format!("{quota} {}", read("cpu.cfs_period_us")?))
                }
                (None, Some(folder)) => Some(Folder::at(folder).read("cpu.max")?),
                (None, None) => None,
            };
        }
        if limits.memory_swap_total.is_some_and(|total| total > 0)
            && limits.memory_max_bytes.is_none_or(|limit| limit == 0)
            && let Some(folder) = self.unified_folder().filter(|_| self.legacy.is_empty())
        {
            present.memory_max = i64::try_from(Folder::at(folder).number("memory.max")?).ok();
        }
        Ok(present)
    }

    /// Puts a process into the cgroup in every hierarchy where it is not there yet: systemd puts it only into those that
    /// it uses itself, and into no slice.
    fn take_in(&self, pid: i32) -> Result<(), CgroupError> {
        let file = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = std::fs::read_to_string(&file).map_err(|source| CgroupError::Read { path: file, source })?;
        for place in self.places() {
            if !is_in(place, &text) {
                Folder::at(&place.folder).write("cgroup.procs", &pid.to_string())?;
            }
        }
        Ok(())
    }

    /// Ends the unit and removes what is left of the cgroup. When systemd is out of reach and nothing of the cgroup is
    /// left, the unit is gone or will be.
    pub(super) fn remove_unit(&self, unit: &Unit) -> Result<(), CgroupError> {
        let stopped = Systemd::connect(unit.bus).and_then(|mut systemd| systemd.stop(unit));
        let removed = self.remove_folders();
        match (stopped, removed) {
            (_, Err(error)) if self.exists() => Err(error),
            (Err(SystemdError::NoSystemd { .. }), _) | (Ok(()), _) => Ok(()),
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// Whether a /proc/PID/cgroup file says that the process is in this very cgroup.
fn is_in(place: &Place, text: &str) -> bool {
    let wanted = place.hierarchy.root.join(place.path.trim_start_matches('/'));
    text.lines().any(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return false };
        let is_this = match controllers {
            "" => place.hierarchy.controllers.is_empty(),
            list => list.split(',').all(|name| place.hierarchy.controllers.iter().any(|known| known == name)),
        };
        is_this && Path::new(path) == wanted
    })
}
