//! Where this machine's cgroups are: one v2 tree, one v1 tree for each controller, or both (cgroups(7)).
//!
//! A host with v2 at /sys/fs/cgroup is recognised by one statfs(2). Everything else is read from /proc/self/mountinfo,
//! once: the same hierarchy may be mounted several times (bind mounts, containers' views), and mounts may lie hidden
//! under later ones, so the entry taken is a visible one, with the hierarchy's root at its top if there is one. Inside a
//! cgroup namespace the root that is shown is the namespace's, which is what paths are relative to anyway.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Cgroup, CgroupError};

/// The controllers and other words that can stand among a v1 mount's options without being a controller's name.
const NOT_A_CONTROLLER: [&str; 8] =
    ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "seclabel"];

/// One mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The cgroup that is seen at `mount`: `/` unless only a part of the hierarchy is mounted.
    pub root: PathBuf,
    /// v1: the controllers of this hierarchy as its mount options name them, including `name=...` for a hierarchy
    /// without one. v2: empty, since what a v2 cgroup controls is read from its cgroup.controllers.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// The directory of the cgroup `path`, which is absolute in this mount.
    pub(super) fn folder(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_start_matches('/'))
    }

    /// The name of the directory that it is mounted on, such as `cpu,cpuacct`.
    pub fn directory(&self) -> String {
        self.mount.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// Which hierarchies exist and where. It can be stored, since reading it anew costs more the more mounts a machine has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    legacy: Vec<Hierarchy>,
    unified: Option<Hierarchy>,
}

impl Layout {
    /// Finds the mounted hierarchies of this process' mount namespace.
    ///
    /// # Errors
    /// [`CgroupError::Mountinfo`] when /proc is missing, [`CgroupError::NothingMounted`].
    pub fn detect() -> Result<Layout, CgroupError> {
        let usual = Path::new("/sys/fs/cgroup");
        if rustix::fs::statfs(usual).is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC) {
            return Ok(Layout::unified_at(usual));
        }
        let text = read_mountinfo().map_err(|errno| CgroupError::Mountinfo { source: errno.into() })?;
        Layout::from_mountinfo(&text)
    }

    pub(super) fn of(legacy: Vec<Hierarchy>, unified: Option<Hierarchy>) -> Layout {
        Layout { legacy, unified }
    }

    /// The layout of a machine with v2 alone, mounted there.
    pub fn unified_at(mount: impl Into<PathBuf>) -> Layout {
        let unified = Hierarchy { mount: mount.into(), root: PathBuf::from("/"), controllers: Vec::new() };
        Layout { legacy: Vec::new(), unified: Some(unified) }
    }

    /// The v1 part alone, to try on one machine what another one has.
    #[cfg(test)]
    pub(super) fn without_unified(mut self) -> Layout {
        self.unified = None;
        self
    }

    /// The layout that a mountinfo file (proc_pid_mountinfo(5)) describes.
    ///
    /// # Errors
    /// [`CgroupError::NothingMounted`].
    pub fn from_mountinfo(text: &str) -> Result<Layout, CgroupError> {
        let mounts: Vec<Entry<'_>> = text.lines().filter_map(Entry::parse).collect();
        let mut legacy: Vec<(&str, Hierarchy)> = Vec::new();
        let mut unified: Option<(&str, Hierarchy)> = None;
        for entry in mounts.iter().filter(|entry| matches!(entry.kind, "cgroup" | "cgroup2")) {
            if entry.is_hidden(&mounts) {
                continue;
            }
            let candidate = entry.hierarchy();
            if entry.kind == "cgroup2" {
                match &mut unified {
                    Some((_, known)) if !is_better(&candidate, known) => {}
                    place => *place = Some((entry.device, candidate)),
                }
                continue;
            }
            match legacy.iter_mut().find(|(device, _)| *device == entry.device) {
                Some((_, known)) if !is_better(&candidate, known) => {}
                Some((_, known)) => *known = candidate,
                None => legacy.push((entry.device, candidate)),
            }
        }
        if legacy.is_empty() && unified.is_none() {
            return Err(CgroupError::NothingMounted);
        }
        Ok(Layout {
            legacy: legacy.into_iter().map(|(_, hierarchy)| hierarchy).collect(),
            unified: unified.map(|(_, hierarchy)| hierarchy),
        })
    }

    /// The v1 hierarchies, in the order of their mounting; empty on a host with v2 alone.
    pub fn legacy(&self) -> &[Hierarchy] {
        &self.legacy
    }

    /// The v2 hierarchy, where one is mounted.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.unified.as_ref()
    }

    /// Whether there is v2 and no v1.
    pub fn is_unified(&self) -> bool {
        self.legacy.is_empty()
    }

    /// The v1 hierarchy that carries this controller.
    pub(super) fn legacy_with(&self, controller: &str) -> Option<&Hierarchy> {
        self.legacy.iter().find(|hierarchy| hierarchy.has(controller))
    }

    /// Whether a limit on swap can be set. Docker asks the same before it fills in its default of twice the memory;
    /// without swap accounting (`swapaccount=0`, a kernel without swap) it limits memory alone and warns, and refuses
    /// nothing but an explicit wish. Costs one access(2).
    pub fn can_limit_swap(&self) -> bool {
        match self.legacy_with("memory") {
            Some(memory) => memory.mount.join("memory.memsw.limit_in_bytes").exists(),
            // The root of v2 has no memory.swap.max; since Linux 6.1 it is wherever there is swap at all.
            None => Path::new("/proc/swaps").exists(),
        }
    }

    /// The cgroup at `path`, which is absolute from the top of every mount, such as `/hull/<id>`. Touches nothing.
    ///
    /// # Errors
    /// [`CgroupError::BadPath`] for a path that is empty, the root, relative, or has `.` or `..` in it.
    pub fn cgroup(&self, path: &str) -> Result<Cgroup, CgroupError> {
        let path = normal_path(path)?;
        let folders = self.legacy.iter().map(|hierarchy| (hierarchy.clone(), path.clone())).collect();
        Ok(Cgroup::new(folders, self.unified.clone().map(|hierarchy| (hierarchy, path))))
    }

    /// The cgroup that a process is in now, which may be another path in every hierarchy.
    ///
    /// # Errors
    /// [`CgroupError::Read`] when there is no such process; [`CgroupError::BadPath`] when it is in the root of a
    /// hierarchy or outside of this cgroup namespace.
    pub fn cgroup_of(&self, pid: rustix::process::Pid) -> Result<Cgroup, CgroupError> {
        let file = PathBuf::from(format!("/proc/{}/cgroup", pid.as_raw_nonzero()));
        let text = std::fs::read_to_string(&file).map_err(|source| CgroupError::Read { path: file, source })?;
        self.cgroup_from_proc(&text)
    }

    /// The v1 hierarchies with the directory of the cgroup that the calling process is in.
    ///
    /// # Errors
    /// [`CgroupError::Read`] without /proc; [`CgroupError::BadPath`] when it is outside of what is mounted.
    pub fn own_legacy_folders(&self) -> Result<Vec<(&Hierarchy, PathBuf)>, CgroupError> {
        let file = PathBuf::from("/proc/self/cgroup");
        let text = std::fs::read_to_string(&file).map_err(|source| CgroupError::Read { path: file, source })?;
        let own = self.places_from_proc(&text)?.into_iter().filter(|(hierarchy, _)| !hierarchy.controllers.is_empty());
        Ok(own.map(|(hierarchy, below)| (hierarchy, hierarchy.mount.join(below))).collect())
    }

    /// What a process's cgroup file (proc_pid_cgroup(5)) says of the hierarchies that are mounted here, with paths
    /// relative to their mounts.
    fn places_from_proc<'a>(&'a self, text: &str) -> Result<Vec<(&'a Hierarchy, PathBuf)>, CgroupError> {
        let mut places = Vec::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let hierarchy = match controllers {
                "" => self.unified.as_ref(),
                list => self.legacy.iter().find(|known| list.split(',').all(|name| known.has(name))),
            };
            let Some(hierarchy) = hierarchy else { continue };
            let below = Path::new(path).strip_prefix(&hierarchy.root).ok();
            let below = below.filter(|below| !below.components().any(|part| part == Component::ParentDir));
            let outside =
                || CgroupError::BadPath { path: path.to_owned(), reason: "it is outside of what is mounted here" };
            places.push((hierarchy, below.ok_or_else(outside)?.to_owned()));
        }
        Ok(places)
    }

    fn cgroup_from_proc(&self, text: &str) -> Result<Cgroup, CgroupError> {
        let mut legacy = Vec::new();
        let mut unified = None;
        for (hierarchy, below) in self.places_from_proc(text)? {
            let path = normal_path(&format!("/{}", below.display()))?;
            match hierarchy.controllers.is_empty() {
                true => unified = Some((hierarchy.clone(), path)),
                false => legacy.push((hierarchy.clone(), path)),
            }
        }
        if legacy.is_empty() && unified.is_none() {
            return Err(CgroupError::NothingMounted);
        }
        Ok(Cgroup::new(legacy, unified))
    }
}

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h, "cgrp".
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// Reads the list a page at a time, which is how the kernel hands it out; std would begin with 32 bytes.
fn read_mountinfo() -> Result<String, Errno> {
    let file = open("/proc/self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::with_capacity(8192);
    let mut page = [0u8; 4096];
    loop {
        match rustix::io::read(&file, &mut page) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&page[..count]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    // Names that are not UTF-8 belong to mounts that do not matter here.
    Ok(String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Whether `candidate` shows more of its hierarchy than `known` does: its root, else the deeper part, which is the one
/// made for this process; of equals the first, which is the one under /sys/fs/cgroup.
fn is_better(candidate: &Hierarchy, known: &Hierarchy) -> bool {
    let depth = |hierarchy: &Hierarchy| match hierarchy.root.components().count() {
        1 => usize::MAX,
        count => count,
    };
    depth(candidate) > depth(known)
}

fn normal_path(path: &str) -> Result<String, CgroupError> {
    let bad = |reason| Err(CgroupError::BadPath { path: path.to_owned(), reason });
    if !path.starts_with('/') {
        return bad("it is not absolute");
    }
    let mut normal = String::with_capacity(path.len());
    for part in path.split('/').filter(|part| !part.is_empty()) {
        match part {
            "." | ".." => return bad("it has . or .. in it"),
            _ if part.len() > 255 => return bad("a part of it is longer than 255 bytes"),
            _ if part.contains(['\0', '\n']) => return bad("it has a line break or a zero byte in it"),
            _ => {
                normal.push('/');
                normal.push_str(part);
            }
        }
    }
    if normal.is_empty() { bad("it is the root of the hierarchy") } else { Ok(normal) }
}

/// The parts of a mountinfo line that matter here.
struct Entry<'a> {
    id: u32,
    parent: u32,
    device: &'a str,
    root: &'a str,
    mount: &'a str,
    kind: &'a str,
    super_options: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Entry<'a>> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ');
        let mut right = right.split(' ');
        Some(Entry {
            id: left.next()?.parse().ok()?,
            parent: left.next()?.parse().ok()?,
            device: left.next()?,
            root: left.next()?,
            mount: left.next()?,
            kind: right.next()?,
            super_options: right.nth(1).unwrap_or(""),
        })
    }

    /// Whether a later mount lies over this one or over a directory on the way to it.
    fn is_hidden(&self, mounts: &[Entry<'_>]) -> bool {
        let mut below = self;
        // A mount on our own root hides us; one on an ancestor's tree hides us when it covers where we branch off.
        let covers = |mount: &Entry<'_>, parent: u32, path: &str| {
            mount.parent == parent
                && path
                    .strip_prefix(mount.mount)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || mount.mount.ends_with('/'))
        };
        if mounts.iter().any(|mount| mount.id != mount.parent && covers(mount, self.id, self.mount)) {
            return true;
        }
        for _ in 0..mounts.len() {
            let hidden = mounts.iter().any(|mount| {
                mount.id != below.id && mount.id != mount.parent && covers(mount, below.parent, below.mount)
            });
            if hidden {
                return true;
            }
            match mounts.iter().find(|mount| mount.id == below.parent && mount.id != below.id) {
                Some(parent) => below = parent,
                None => return false,
            }
        }
        false
    }

    fn hierarchy(&self) -> Hierarchy {
        let controllers = if self.kind == "cgroup2" {
            Vec::new()
        } else {
            let options = self.super_options.split(',');
            options
                .filter(|option| !NOT_A_CONTROLLER.contains(option))
                .filter(|option| option.starts_with("name=") || !option.contains('='))
                .map(str::to_owned)
                .collect()
        };
        Hierarchy { mount: unescape(self.mount), root: unescape(self.root), controllers }
    }
}

/// Space, tab, line feed and backslash are written as three octal digits in mountinfo.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let code = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "\
23 1 0:21 / /sys rw - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory,clone_children
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    fn mounts(layout: &Layout) -> Vec<&str> {
        layout.legacy().iter().map(|hierarchy| hierarchy.mount.to_str().unwrap()).collect()
    }

    #[test]
    fn reads_comounted_named_and_unified_hierarchies() {
        let layout = Layout::from_mountinfo(MIXED).unwrap();
        let names: Vec<_> = layout.legacy().iter().map(|h| h.controllers.join("+")).collect();
        assert_eq!(names, ["cpu+cpuacct", "memory", "name=systemd"]);
        assert_eq!(layout.unified().unwrap().mount, Path::new("/sys/fs/cgroup/unified"));
        assert!(!layout.is_unified());
        assert_eq!(layout.legacy_with("cpuacct").unwrap().mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert!(layout.legacy_with("pids").is_none());
        let folder = layout.legacy()[1].folder("/hull/abc");
        assert_eq!(folder, Path::new("/sys/fs/cgroup/memory/hull/abc"));
    }

    #[test]
    fn a_bind_mounted_part_loses_against_the_root_and_wins_alone() {
        let part = "90 1 0:32 /docker/abc /mnt/memory rw - cgroup cgroup rw,memory\n";
        let both = format!("{part}{MIXED}");
        let layout = Layout::from_mountinfo(&both).unwrap();
        assert_eq!(layout.legacy_with("memory").unwrap().mount, Path::new("/sys/fs/cgroup/memory"));
        let alone = Layout::from_mountinfo(part).unwrap();
        assert_eq!(alone.legacy()[0].root, Path::new("/docker/abc"));
        let deeper = format!("{part}91 1 0:32 /docker/abc/def /mnt/deep rw - cgroup cgroup rw,memory\n");
        let layout = Layout::from_mountinfo(&deeper).unwrap();
        assert_eq!(mounts(&layout), ["/mnt/deep"]);
    }

    #[test]
    fn hidden_mounts_are_not_taken() {
        // A fresh tmpfs over /sys/fs/cgroup with only two hierarchies bound into it.
        let over = format!(
            "{MIXED}\
60 31 0:50 / /sys/fs/cgroup rw - tmpfs tmpfs rw
61 60 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
62 60 0:29 / /sys/fs/cgroup/cpu\\040cpuacct rw - cgroup cgroup rw,cpu,cpuacct
"
        );
        let layout = Layout::from_mountinfo(&over).unwrap();
        assert_eq!(mounts(&layout), ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu cpuacct"]);
        assert_eq!(layout.unified(), None, "the v2 mount lies under the tmpfs");
        // Something mounted straight onto one hierarchy hides that one alone.
        let onto = format!("{MIXED}70 35 0:60 / /sys/fs/cgroup/memory rw - tmpfs tmpfs rw\n");
        let layout = Layout::from_mountinfo(&onto).unwrap();
        assert_eq!(mounts(&layout), ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/systemd"]);
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_never_panics(text in ".{0,200}", lines in "([0-9]{1,3} [0-9]{1,3} 0:1 /[a-z]? /[a-z/]{0,4} rw - cgroup2? x [a-z,=]{0,9}\n){0,8}") {
            let _either = Layout::from_mountinfo(&text);
            let _either = Layout::from_mountinfo(&lines);
            let _either = Layout::from_mountinfo(MIXED).unwrap().cgroup_from_proc(&text);
            let _either = normal_path(&text);
            unescape(&text);
        }
    }

    #[test]
    fn a_machine_without_cgroups_is_told_so() {
        let text = "23 1 0:21 / /sys rw - sysfs sysfs rw\nnonsense\n";
        assert!(matches!(Layout::from_mountinfo(text), Err(CgroupError::NothingMounted)));
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        let layout = Layout::from_mountinfo(MIXED).unwrap();
        for path in ["", "/", "//", "hull", "/hull/..", "/./hull", "/a\nb"] {
            assert!(matches!(layout.cgroup(path), Err(CgroupError::BadPath { .. })), "{path:?}");
        }
        assert_eq!(layout.cgroup("//hull//x/").unwrap().path(), "/hull/x");
        assert!(layout.cgroup(&format!("/{}", "x".repeat(256))).is_err());
    }

    #[test]
    fn a_process_own_cgroup_is_found_per_hierarchy() {
        let layout = Layout::from_mountinfo(MIXED).unwrap();
        let text = "9:name=systemd:/hull/a\n4:memory:/hull/a/b\n2:cpuacct,cpu:/hull/a\n3:cpuset:/\n0::/hull/v2\n";
        let cgroup = layout.cgroup_from_proc(text).unwrap();
        assert_eq!(cgroup.legacy_folder("memory").unwrap(), Path::new("/sys/fs/cgroup/memory/hull/a/b"));
        assert_eq!(cgroup.legacy_folder("cpu").unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/hull/a"));
        assert_eq!(cgroup.unified_folder().unwrap(), Path::new("/sys/fs/cgroup/unified/hull/v2"));
        let outside = "4:memory:/../elsewhere\n";
        assert!(matches!(layout.places_from_proc(outside), Err(CgroupError::BadPath { .. })));
        let root = layout.places_from_proc("4:memory:/\n").unwrap();
        assert_eq!((root[0].0.directory().as_str(), root[0].1.as_path()), ("memory", Path::new("")));
    }
}
