//! Cache and memory bandwidth allocation: groups of the resctrl file system (Documentation/filesystems/resctrl.rst).
//!
//! ```text
//! <mount>/schemata tasks mon_groups/        the group that every task begins in
//! <mount>/<class>/schemata tasks            one class of service
//! <mount>/<class>/mon_groups/<name>/tasks   what one part of its tasks uses
//! ```
//!
//! A task joins by writing into `tasks`, where `0` is the writer. The file system is whoever administers the machine's
//! to mount; Hull makes and removes groups in it and nothing else. There are few classes, so a group that exists is
//! shared, and then it must be what was asked for.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Something that resctrl did not do.
#[derive(Debug, thiserror::Error)]
pub enum ResctrlError {
    /// A file or folder.
    #[error("{action} {path}: {source}{}", Status(status))]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's own words (`info/last_cmd_status`), where it has some.
        status: String,
        /// Why.
        source: Errno,
    },
    /// A class that must be there is not.
    #[error("there is no class of service {0:?}, and without a schema none is made")]
    NoClass(String),
    /// A class that is there is another one.
    #[error("class of service {class:?} exists with {found:?} and not with {wanted:?}")]
    Differs {
        /// Its name.
        class: String,
        /// What was asked for.
        wanted: String,
        /// The line that it has.
        found: String,
    },
}

struct Status<'a>(&'a str);

impl std::fmt::Display for Status<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " (resctrl: {})", self.0) }
    }
}

/// The mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resctrl {
    root: PathBuf,
}

/// What a process is to be in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Class {
    /// Name of the class; empty is the one that every task begins in.
    pub name: String,
    /// Whether others may be in a class of that name.
    pub shared: bool,
    /// Lines for schemata, in this order; none leaves the class as it is, which must exist then unless it is not shared.
    pub schemata: Vec<String>,
    /// Name of a monitoring group in it.
    pub monitored_as: Option<String>,
}

/// A place in a class, held open for the process that is to be in it.
#[derive(Debug)]
pub struct Membership {
    tasks: Vec<(PathBuf, fs::File)>,
    /// Groups that were made for it, to be given to [`remove`], and whether others may have come into each.
    pub made: Vec<(PathBuf, bool)>,
}

impl Resctrl {
    /// Mounted at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Resctrl {
        Resctrl { root: root.into() }
    }

    /// The first mount of it that the process sees.
    pub fn find() -> Option<Resctrl> {
        mount_of(&fs::read_to_string("/proc/self/mountinfo").ok()?)
    }

    /// Makes sure of the class and opens it. What was made is removed again on failure.
    ///
    /// # Errors
    /// See [`ResctrlError`].
    pub fn enter(&self, class: &Class) -> Result<Membership, ResctrlError> {
        let mut membership = Membership { tasks: Vec::new(), made: Vec::new() };
        match self.fill(class, &mut membership) {
            Ok(()) => Ok(membership),
            Err(error) => {
                // The first failure is the one to tell.
                let _ = remove(&membership.made);
                Err(error)
            }
        }
    }

    fn fill(&self, class: &Class, membership: &mut Membership) -> Result<(), ResctrlError> {
        let folder = self.root.join(&class.name);
        let exists = folder.is_dir();
        if exists {
            self.compare(class, &folder)?;
        } else if class.shared && class.schemata.is_empty() {
            return Err(ResctrlError::NoClass(class.name.clone()));
        } else {
            fs::create_dir(&folder).map_err(self.failed("make", &folder))?;
            membership.made.push((folder.clone(), class.shared));
            if !class.schemata.is_empty() {
                self.write(&folder.join("schemata"), &class.schemata)?;
            }
        }
        membership.tasks.push(self.open(folder.join("tasks"))?);
        let Some(name) = &class.monitored_as else { return Ok(()) };
        let monitor = folder.join("mon_groups").join(name);
        match fs::create_dir(&monitor) {
            Ok(()) => membership.made.push((monitor.clone(), false)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(self.failed("make", &monitor)(error)),
        }
        membership.tasks.push(self.open(monitor.join("tasks"))?);
        Ok(())
    }

    /// Every line must be in force in a class that exists.
    fn compare(&self, class: &Class, folder: &Path) -> Result<(), ResctrlError> {
        if class.schemata.is_empty() {
            return Ok(());
        }
        let path = folder.join("schemata");
        let present = fs::read_to_string(&path).map_err(self.failed("read", &path))?;
        for wanted in class.schemata.iter().flat_map(|lines| lines.lines()) {
            let resource = wanted.split(':').next().unwrap_or_default().trim();
            let found = present.lines().find(|line| line.split(':').next().is_some_and(|own| own.trim() == resource));
            let found = found.unwrap_or_default().trim();
            if !is_in_force(wanted, found) {
                let (wanted, found) = (wanted.to_owned(), found.to_owned());
                return Err(ResctrlError::Differs { class: class.name.clone(), wanted, found });
            }
        }
        Ok(())
    }

    fn open(&self, path: PathBuf) -> Result<(PathBuf, fs::File), ResctrlError> {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(&path);
        match file {
            Ok(file) => Ok((path, file)),
            Err(error) => Err(self.failed("open", &path)(error)),
        }
    }

    fn write(&self, path: &Path, lines: &[String]) -> Result<(), ResctrlError> {
        for line in lines {
            let (_, mut file) = self.open(path.to_path_buf())?;
            file.write_all(format!("{line}\n").as_bytes()).map_err(self.failed("write", path))?;
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ResctrlError {
        let (path, status) = (path.to_path_buf(), self.root.join("info/last_cmd_status"));
        move |source| {
            let status = fs::read_to_string(status).unwrap_or_default();
            let status = status.trim().to_owned();
            let status = if status == "ok" { String::new() } else { status };
            let source = Errno::from_io_error(&source).unwrap_or(Errno::IO);
            ResctrlError::File { action, path, status, source }
        }
    }
}

impl Membership {
    /// Puts the calling task into the class.
    ///
    /// # Errors
    /// [`ResctrlError::File`].
    pub fn join_self(&self) -> Result<(), ResctrlError> {
        for (path, file) in &self.tasks {
            rustix::io::write(file, b"0").map_err(|source| ResctrlError::File {
                action: "write 0 to",
                path: path.clone(),
                status: String::new(),
                source,
            })?;
        }
        Ok(())
    }
}

/// Removes groups that were made, the latest first. A class that others have come into is left to them; tasks of any
/// other are back in the group that all begin in.
///
/// # Errors
/// [`ResctrlError::File`]; one that is gone is fine.
pub fn remove(made: &[(PathBuf, bool)]) -> Result<(), ResctrlError> {
    for (path, shared) in made.iter().rev() {
        if *shared && fs::read(path.join("tasks")).is_ok_and(|tasks| !tasks.is_empty()) {
            continue;
        }
        match fs::remove_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let (path, status) = (path.clone(), String::new());
                let source = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                return Err(ResctrlError::File { action: "remove", path, status, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where resctrl is mounted, of proc_pid_mountinfo(5).
fn mount_of(mountinfo: &str) -> Option<Resctrl> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let is_resctrl = filesystem.split(' ').next() == Some("resctrl");
        let point = mount.split(' ').nth(4).filter(|_| is_resctrl)?;
        Some(Resctrl { root: PathBuf::from(point.replace("\\040", " ")) })
    })
}

/// Whether a line of schemata says what another asks for: `L3:0=0f;1=F` is in force in `L3:0=00f;1=f;2=ff`.
fn is_in_force(wanted: &str, found: &str) -> bool {
    let domains = |line: &str| -> Vec<(String, String)> {
        let (_, list) = line.split_once(':').unwrap_or_default();
        let domain = |part: &str| {
            let (domain, value) = part.split_once('=')?;
            let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
            Some((domain.trim().to_owned(), value))
        };
        list.split(';').filter_map(domain).collect()
    };
    let found = domains(found);
    domains(wanted).iter().all(|wanted| found.contains(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "20 1 254:0 / / rw - ext4 /dev/vda rw\n\
        31 24 0:27 / /sys/fs/res\\040ctrl rw,relatime shared:9 - resctrl resctrl rw\n";

    #[test]
    fn the_mount_is_found_by_its_type() {
        assert_eq!(mount_of(MOUNTS), Some(Resctrl { root: "/sys/fs/res ctrl".into() }));
        assert_eq!(mount_of("31 24 0:27 / /sys/fs/resctrl rw - tmpfs resctrl rw\n"), None);
    }

    #[test]
    fn schemata_are_compared_as_numbers_by_domain() {
        let table = [
            ("L3:0=7f0;1=1f", "L3:0=7f0;1=1f", true),
            ("L3:0=7F0", "L3:0=7f0;1=1f", true),
            ("L3: 1=01f", "L3:0=7f0;1=1f", true),
            ("L3:2=1f", "L3:0=7f0;1=1f", false),
            ("MB:0=20", "MB:0= 20;1=100", true),
            ("MB:0=30", "MB:0= 20;1=100", false),
            ("MB:0=30", "", false),
        ];
        for (wanted, found, expected) in table {
            assert_eq!(is_in_force(wanted, found), expected, "{wanted} in {found}");
        }
    }

    /// Groups as far as a plain folder can stand for them: what is there is taken as it is, what is not is named.
    #[test]
    fn a_class_that_exists_must_be_the_one_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let resctrl = Resctrl { root: folder.path().to_path_buf() };
        let class = Class { name: "gold".to_owned(), shared: true, ..Class::default() };
        assert!(matches!(resctrl.enter(&class), Err(ResctrlError::NoClass(name)) if name == "gold"));
        let gold = folder.path().join("gold");
        fs::create_dir(&gold).unwrap();
        fs::write(gold.join("schemata"), "    MB:0= 20;1=100\n    L3:0=7f0;1=7ff\n").unwrap();
        fs::write(gold.join("tasks"), "").unwrap();
        assert!(resctrl.enter(&class).unwrap().made.is_empty());
        let with = |line: &str| Class { schemata: vec![line.to_owned()], ..class.clone() };
        resctrl.enter(&with("L3:0=7f0\nMB:1=100")).unwrap().join_self().unwrap();
        assert_eq!(fs::read_to_string(gold.join("tasks")).unwrap(), "0");
        let error = resctrl.enter(&with("L3:0=f")).unwrap_err().to_string();
        assert_eq!(error, "class of service \"gold\" exists with \"L3:0=7f0;1=7ff\" and not with \"L3:0=f\"");
    }

    #[test]
    fn a_failed_class_is_removed_again_and_one_with_tasks_stays() {
        let folder = tempfile::tempdir().unwrap();
        let resctrl = Resctrl { root: folder.path().to_path_buf() };
        // A plain folder has no schemata that could be written.
        let class = Class { name: "box".to_owned(), schemata: vec!["L3:0=f".to_owned()], ..Class::default() };
        assert!(matches!(resctrl.enter(&class), Err(ResctrlError::File { action: "open", .. })));
        assert!(!folder.path().join("box").exists());
        let busy = folder.path().join("busy");
        fs::create_dir(&busy).unwrap();
        fs::write(busy.join("tasks"), "1\n").unwrap();
        remove(&[(folder.path().join("gone"), false), (busy.clone(), true)]).unwrap();
        assert!(busy.exists());
    }
}
