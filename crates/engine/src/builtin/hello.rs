//! The program inside the image `hello`: it prints how its process sees the world.
//!
//! Everything comes from /proc, /sys and uname(2), read as any program in a container could read it; what cannot be
//! read is left out or said to be unknown, since a container may hide anything. Nothing here knows Hull's files.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use hull_kernel::capabilities::{Capabilities, NAMES};

/// Widest line, in characters.
const WIDTH: usize = 100;
/// Width of the first column.
const MARGIN: usize = 14;

/// Prints the report on standard output.
pub fn hello_main() -> ExitCode {
    use std::io::Write as _;
    let report = World::read().report();
    match std::io::stdout().lock().write_all(report.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What a process can find out about itself.
#[derive(Debug, Default)]
struct World {
    status: String,
    hostname: String,
    kernel: String,
    namespaces: Vec<String>,
    mountinfo: String,
    interfaces: Vec<String>,
    uid_map: String,
    memory: Option<String>,
    cpu: Option<(String, String)>,
    pids: Option<String>,
}

impl World {
    fn read() -> World {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let uname = rustix::system::uname();
        World {
            status: text("/proc/self/status"),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            kernel: format!("Linux {} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy()),
            namespaces: namespaces(),
            mountinfo: text("/proc/self/mountinfo"),
            interfaces: interfaces(),
            uid_map: text("/proc/self/uid_map"),
            memory: first_of(&["memory.max", "memory/memory.limit_in_bytes"]),
            cpu: cpu_limit(),
            pids: first_of(&["pids.max", "pids/pids.max"]),
        }
    }

    fn report(&self) -> String {
        let mut text = String::from("Hello from Hull! This is how a process in this container sees its world.\n\n");
        let ids = |name| self.field(name).split_whitespace().next().unwrap_or("?").to_owned();
        let others = self.field("Groups").split_whitespace().filter(|group| *group != ids("Gid"));
        let groups = Some(others.collect::<Vec<_>>().join(" ")).filter(|groups| !groups.is_empty());
        let groups = groups.as_deref().unwrap_or("none");
        let process = format!(
            "PID {}, parent {}, user {}, group {}, other groups {groups}",
            ids("Pid"),
            ids("PPid"),
            ids("Uid"),
            ids("Gid")
        );
        line(&mut text, "process", &[process]);
        line(&mut text, "kernel", std::slice::from_ref(&self.kernel));
        line(&mut text, "hostname", std::slice::from_ref(&self.hostname));
        line(&mut text, "namespaces", &self.namespaces);
        line(&mut text, "uid map", &id_ranges(&self.uid_map));
        line(&mut text, "interfaces", &self.interfaces);
        line(&mut text, "mounts", &mounts(&self.mountinfo));
        line(&mut text, "limits", &self.limits());
        line(&mut text, "capabilities", &self.capabilities());
        line(&mut text, "seccomp", &[self.seccomp()]);
        let no_new_privs = if self.field("NoNewPrivs") == "1" { "set" } else { "not set" };
        line(&mut text, "no_new_privs", &[no_new_privs.to_owned()]);
        text
    }

    /// A line of /proc/self/status.
    fn field(&self, name: &str) -> &str {
        let value = self.status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map_or("", str::trim)
    }

    fn limits(&self) -> Vec<String> {
        let unlimited = |text: &Option<String>| match text.as_deref() {
            None => "unknown".to_owned(),
            Some("max" | "-1") => "unlimited".to_owned(),
            Some(value) => value.to_owned(),
        };
        let memory = match self.memory.as_deref().and_then(|text| text.parse::<u64>().ok()) {
            // What cgroup v1 shows for "no limit".
            Some(bytes) if bytes > 1 << 62 => "unlimited".to_owned(),
            Some(bytes) => mebibytes(bytes),
            None => unlimited(&self.memory),
        };
        let cpu = match &self.cpu {
            Some((quota, period)) => match (quota.parse::<f64>(), period.parse::<f64>()) {
                (Ok(quota), Ok(period)) if quota > 0.0 && period > 0.0 => format!("{:.2} CPUs", quota / period),
                _ => "unlimited".to_owned(),
            },
            None => "unknown".to_owned(),
        };
        vec![format!("memory {memory},"), format!("cpu {cpu},"), format!("pids {}", unlimited(&self.pids))]
    }

    fn capabilities(&self) -> Vec<String> {
        let set = |name| Capabilities(u64::from_str_radix(self.field(name), 16).unwrap_or(0));
        let (effective, bounding) = (set("CapEff"), set("CapBnd"));
        let names = |set: Capabilities| set.names().map(|name| name.trim_start_matches("CAP_").to_ascii_lowercase());
        if bounding == Capabilities::ALL && effective == bounding {
            return vec![format!("all {}", NAMES.len())];
        }
        let mut words = vec![format!("{} of {}:", effective.0.count_ones(), NAMES.len())];
        words.extend(names(effective));
        if effective != bounding {
            words.push(format!("(at most {} can be gained)", bounding.0.count_ones()));
        }
        words
    }

    fn seccomp(&self) -> String {
        match (self.field("Seccomp"), self.field("Seccomp_filters")) {
            ("0", _) => "off".to_owned(),
            ("1", _) => "strict".to_owned(),
            ("2", "") => "filter".to_owned(),
            ("2", "1") => "1 filter".to_owned(),
            ("2", count) => format!("{count} filters"),
            _ => "unknown".to_owned(),
        }
    }
}

/// Appends `name` and the words, wrapped at [`WIDTH`].
fn line(text: &mut String, name: &str, words: &[String]) {
    let mut column = MARGIN;
    let _ = write!(text, "{name:<MARGIN$}");
    for (index, word) in words.iter().enumerate() {
        let length = word.chars().count();
        if index > 0 && column + 1 + length > WIDTH {
            let _ = write!(text, "\n{:MARGIN$}", "");
            column = MARGIN;
        } else if index > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
}

fn namespaces() -> Vec<String> {
    ["pid", "net", "mnt", "uts", "ipc", "cgroup", "user"]
        .iter()
        .map(|kind| {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap_or_default();
            let link = link.to_string_lossy();
            let inode = link.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']')).unwrap_or("?").to_owned();
            format!("{kind}:{inode}")
        })
        .collect()
}

fn interfaces() -> Vec<String> {
    const IFF_UP: u32 = 1;
    let folder = Path::new("/sys/class/net");
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    let described = names.iter().map(|name| {
        let flags = fs::read_to_string(folder.join(name).join("flags")).unwrap_or_default();
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        format!("{name} ({})", if flags & IFF_UP != 0 { "up" } else { "down" })
    });
    let described: Vec<String> = described.collect();
    if described.is_empty() { vec!["none".to_owned()] } else { described }
}

/// Each mount as `path type` with `ro` when it is read-only, in the order of mounting.
fn mounts(mountinfo: &str) -> Vec<String> {
    let parsed: Vec<String> = mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut fields = left.split(' ');
            let (point, options) = (fields.nth(4)?, fields.next()?);
            let kind = right.split(' ').next()?;
            let read_only = options.split(',').any(|option| option == "ro");
            Some(format!("{point}={kind}{}", if read_only { "(ro)" } else { "" }))
        })
        .collect();
    let mut words = vec![format!("{}:", parsed.len())];
    words.extend(parsed);
    words
}

fn id_ranges(map: &str) -> Vec<String> {
    let ranges: Vec<String> = map
        .lines()
        .filter_map(|line| {
            let numbers: Vec<&str> = line.split_whitespace().collect();
            let [inside, outside, count] = numbers[..] else { return None };
            Some(format!("{inside} is {outside} outside, {count} ids"))
        })
        .collect();
    match ranges.as_slice() {
        [] => vec!["unknown".to_owned()],
        [all] if all == "0 is 0 outside, 4294967295 ids" => vec!["none (ids are those of the host)".to_owned()],
        _ => ranges,
    }
}

/// The content of the first of these files below /sys/fs/cgroup that can be read.
fn first_of(names: &[&str]) -> Option<String> {
    let folder = Path::new("/sys/fs/cgroup");
    names.iter().find_map(|name| fs::read_to_string(folder.join(name)).ok()).map(|text| text.trim().to_owned())
}

fn cpu_limit() -> Option<(String, String)> {
    if let Some(max) = first_of(&["cpu.max"]) {
        let (quota, period) = max.split_once(' ')?;
        return Some((quota.to_owned(), period.to_owned()));
    }
    let both = |name: &str| first_of(&[&format!("cpu/{name}"), &format!("cpu,cpuacct/{name}")]);
    Some((both("cpu.cfs_quota_us")?, both("cpu.cfs_period_us")?))
}

fn mebibytes(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    if bytes.is_multiple_of(MIB) { format!("{} MiB", bytes / MIB) } else { format!("{bytes} bytes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_a_default_container() {
        let world = World {
            status: "Pid:\t1\nPPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \nCapEff:\t00000000a80425fb\n\
                     CapBnd:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n"
                .into(),
            hostname: "0123456789ab".into(),
            kernel: "Linux 6.12.0 x86_64".into(),
            namespaces: vec!["pid:1".into(), "net:2".into()],
            mountinfo: "1 0 0:1 / / rw - overlay overlay rw\n2 1 0:2 / /sys ro,nosuid - sysfs sysfs ro\n".into(),
            interfaces: vec!["lo (up)".into()],
            uid_map: "         0          0 4294967295\n".into(),
            memory: Some("67108864".into()),
            cpu: Some(("50000".into(), "100000".into())),
            pids: Some("max".into()),
        };
        insta::assert_snapshot!(world.report());
    }

    #[test]
    fn nothing_readable_is_still_a_report() {
        let report = World::default().report();
        assert!(report.contains("limits        memory unknown, cpu unknown, pids unknown"), "{report}");
    }

    #[test]
    fn this_process_can_say_who_it_is() {
        let report = World::read().report();
        assert!(report.contains(&format!("PID {},", std::process::id())), "{report}");
        assert!(report.lines().all(|line| line.chars().count() <= WIDTH + 80), "{report}");
    }
}
