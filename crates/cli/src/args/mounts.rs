//! `-v`, `--mount` and `--tmpfs`: docker's three ways to write a mount, all read into [`MountRequest`].
//!
//! ```text
//! -v [SOURCE:]TARGET[:OPTION,...]        a path is a bind mount, a name is a volume
//! --mount type=bind,src=...,dst=...      comma-separated values, each may be quoted as in CSV
//! --tmpfs TARGET[:OPTION,...]            mount(8) options
//! ```
//!
//! A bind source that starts with a dot is made absolute; with `-v` it is made when missing, with `--mount`
//! it has to be there. Whether targets clash is the engine's to say.

use std::path::{Component, Path, PathBuf};

use hull_engine::request::{MountRequest, MountSource, Ownership, VolumesFrom};

use super::surroundings::Surroundings;
use super::values;

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Options a tmpfs takes besides `size`, `mode` and `ro`.
const TMPFS_OPTIONS: [&str; 16] = [
    "rw",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "strictatime",
];

/// Options of a tmpfs that have a value.
const TMPFS_VALUES: [&str; 5] = ["uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

/// Reads `-v`.
///
/// # Errors
/// With docker's words for what is wrong.
pub fn volume(text: &str, around: &dyn Surroundings) -> Result<MountRequest, String> {
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!("invalid spec: {text}: empty section between colons"));
    }
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        // An anonymous volume takes no options.
        [_, options] if are_options(options) => return Err(format!("invalid volume specification: '{text}'")),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(format!("invalid volume specification: '{text}'")),
    };
    let target = mount_target(target).map_err(|why| format!("invalid volume specification: '{text}': {why}"))?;
    let source = match source {
        None => MountSource::Volume { name: None, copy_up: true },
        Some(path) if path.starts_with(['/', '.', '~']) => {
            MountSource::Bind { path: host_path(path, around)?, create: true, recursive: true }
        }
        Some(name) => MountSource::Volume { name: Some(volume_name(name)?), copy_up: true },
    };
    let mut mount =
        MountRequest { source, target, read_only: false, propagation: None, ownership: Ownership::default() };
    if !options.is_empty() {
        volume_options(&mut mount, options, around)?;
    }
    Ok(mount)
}

fn are_options(text: &str) -> bool {
    let known =
        |option| PROPAGATIONS.contains(&option) || matches!(option, "ro" | "rw" | "z" | "Z" | "nocopy" | "U" | "idmap");
    text.split(',').all(known)
}

fn volume_options(mount: &mut MountRequest, options: &str, around: &dyn Surroundings) -> Result<(), String> {
    let invalid = || format!("invalid mode: {options}");
    let (mut access, mut relabelled, mut consistency) = (0, 0, 0);
    for option in options.split(',') {
        match (option, &mut mount.source) {
            ("ro" | "rw", _) => {
                access += 1;
                mount.read_only = option == "ro";
            }
            ("z" | "Z", _) if around.selinux() => {
                return Err(format!("option {option} is not supported yet on a machine with SELinux"));
            }
            // A label is something only SELinux gives files: without it there is nothing to do.
            ("z" | "Z", _) => relabelled += 1,
            ("nocopy", MountSource::Volume { copy_up, .. }) if *copy_up => *copy_up = false,
            ("U", _) if !mount.ownership.chown => mount.ownership.chown = true,
            ("idmap", _) if !mount.ownership.shift => mount.ownership.shift = true,
            // They choose between caches of docker's virtual machines; on Linux all are the same.
            ("consistent" | "cached" | "delegated", MountSource::Bind { .. }) => consistency += 1,
            (propagation, MountSource::Bind { .. })
                if PROPAGATIONS.contains(&propagation) && mount.propagation.is_none() =>
            {
                mount.propagation = Some(propagation.to_owned());
            }
            _ => return Err(invalid()),
        }
    }
    if access > 1 || relabelled > 1 || consistency > 1 { Err(invalid()) } else { Ok(()) }
}

/// Reads `--volumes-from`.
///
/// # Errors
/// Names the mode that there is not.
pub fn volumes_from(text: &str) -> Result<VolumesFrom, String> {
    let (container, mode) = text.split_once(':').unwrap_or((text, "rw"));
    match mode {
        _ if container.is_empty() => Err("an empty container name".to_owned()),
        "ro" | "rw" => Ok(VolumesFrom { container: container.to_owned(), read_only: mode == "ro" }),
        _ => Err(format!("invalid mode: {mode}")),
    }
}

fn volume_name(name: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && name.len() >= 2 && name.bytes().all(allowed) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
         allowed. If you intended to pass a host directory, use absolute path"
    ))
}

fn host_path(path: &str, around: &dyn Surroundings) -> Result<PathBuf, String> {
    let full = match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = around.variable("HOME").ok_or_else(|| format!("cannot expand {path:?}: HOME is not set"))?;
            PathBuf::from(home + rest)
        }
        _ if path.starts_with('/') => PathBuf::from(path),
        _ => {
            let current =
                around.current_folder().map_err(|error| format!("cannot find the current folder: {error}"))?;
            current.join(path)
        }
    };
    Ok(cleaned(&full))
}

/// The path without `.`, `..` and doubled slashes, by text alone, as docker cleans it.
fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

fn mount_target(target: &str) -> Result<PathBuf, String> {
    if !target.starts_with('/') {
        return Err(format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    let clean = cleaned(Path::new(target));
    if clean == Path::new("/") {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    Ok(clean)
}

/// Reads `--tmpfs`.
///
/// # Errors
/// Names the option that a tmpfs does not have.
pub fn tmpfs(text: &str) -> Result<MountRequest, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = mount_target(target)?;
    let mut mount = MountRequest {
        source: empty_tmpfs(),
        target,
        read_only: false,
        propagation: None,
        ownership: Ownership::default(),
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        tmpfs_option(&mut mount, option)?;
    }
    Ok(mount)
}

fn empty_tmpfs() -> MountSource {
    MountSource::Tmpfs { size_bytes: None, mode: None, options: Vec::new() }
}

fn tmpfs_option(mount: &mut MountRequest, option: &str) -> Result<(), String> {
    let MountSource::Tmpfs { size_bytes, mode, options } = &mut mount.source else {
        return Err(format!("invalid tmpfs option [{option:?}]"));
    };
    match option.split_once('=') {
        Some(("size", share)) if share.ends_with('%') => options.push(option.to_owned()),
        Some(("size", size)) => *size_bytes = Some(values::size(size)?),
        Some(("mode", digits)) => *mode = Some(octal(digits)?),
        Some((name, _)) if TMPFS_VALUES.contains(&name) => options.push(option.to_owned()),
        None if option == "ro" => mount.read_only = true,
        None if option == "defaults" => {}
        None if TMPFS_OPTIONS.contains(&option) => options.push(option.to_owned()),
        None if PROPAGATIONS.contains(&option) => mount.propagation = Some(option.to_owned()),
        _ => return Err(format!("invalid tmpfs option [{option:?}]")),
    }
    Ok(())
}

fn octal(digits: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("invalid value for mode: {digits}"))
}

/// The fields of one `--mount`, before they are put together.
#[derive(Default)]
struct MountFields {
    kind: Option<String>,
    source: Option<String>,
    target: Option<PathBuf>,
    read_only: bool,
    propagation: Option<String>,
    recursive: Option<bool>,
    create_source: bool,
    nocopy: bool,
    ownership: Ownership,
    tmpfs: Vec<String>,
    /// The first field that only one kind has, for the error when the kind is another one.
    special: Option<(&'static str, &'static str)>,
}

/// Reads `--mount`.
///
/// # Errors
/// With docker's words for what is wrong; what is not supported yet is refused by name.
pub fn mount(text: &str, around: &dyn Surroundings) -> Result<MountRequest, String> {
    let mut fields = MountFields::default();
    for field in comma_separated(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.to_ascii_lowercase(), None),
        };
        mount_field(&mut fields, &key, value.as_deref(), &field)?;
    }
    assembled(fields, around)
}

fn mount_field(fields: &mut MountFields, key: &str, value: Option<&str>, field: &str) -> Result<(), String> {
    let flag = |value: Option<&str>| match value {
        None => Ok(true),
        Some(value) => values::truth(value).map_err(|_| format!("invalid value for {key}: {value}")),
    };
    match key {
        "readonly" | "ro" => return flag(value).map(|set| fields.read_only = set),
        "u" | "chown" => return flag(value).map(|set| fields.ownership.chown = set),
        "idmap" => return flag(value).map(|set| fields.ownership.shift = set),
        "volume-nocopy" => {
            fields.special = Some(("volume", "volume-nocopy"));
            return flag(value).map(|set| fields.nocopy = set);
        }
        "bind-nonrecursive" => {
            fields.special = Some(("bind", "bind-nonrecursive"));
            return flag(value).map(|set| fields.recursive = Some(!set));
        }
        "bind-create-src" => {
            fields.special = Some(("bind", "bind-create-src"));
            return flag(value).map(|set| fields.create_source = set);
        }
        _ => {}
    }
    let value = value.ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
    let later = || Err(format!("{key} is not supported yet"));
    match key {
        "type" => fields.kind = Some(value.to_ascii_lowercase()),
        "source" | "src" => fields.source = Some(value.to_owned()),
        "target" | "dst" | "destination" => fields.target = Some(mount_target(value)?),
        "bind-propagation" if PROPAGATIONS.contains(&value) => {
            fields.special = Some(("bind", "bind-propagation"));
            fields.propagation = Some(value.to_owned());
        }
        "bind-propagation" => return Err(format!("invalid propagation: {value}")),
        "bind-recursive" => {
            fields.special = Some(("bind", "bind-recursive"));
            fields.recursive = Some(recursion(value)?);
        }
        "consistency" if matches!(value, "default" | "consistent" | "cached" | "delegated") => {}
        "consistency" => return Err(format!("invalid value for consistency: {value}")),
        "tmpfs-size" => {
            fields.special = Some(("tmpfs", "tmpfs-size"));
            values::size(value).map_err(|_| format!("invalid value for {key}: {value}"))?;
            fields.tmpfs.push(format!("size={value}"));
        }
        "tmpfs-mode" => {
            fields.special = Some(("tmpfs", "tmpfs-mode"));
            octal(value).map_err(|_| format!("invalid value for {key}: {value}"))?;
            fields.tmpfs.push(format!("mode={value}"));
        }
        "volume-driver" if value == "local" => {}
        "volume-driver" | "volume-label" | "volume-opt" | "volume-subpath" | "image-subpath" => return later(),
        _ => return Err(format!("unexpected key '{key}' in '{field}'")),
    }
    Ok(())
}

/// `bind-recursive`.
fn recursion(value: &str) -> Result<bool, String> {
    match value {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        "writable" | "readonly" => Err(format!("bind-recursive={value} is not supported yet")),
        _ => Err(format!(
            "invalid value for bind-recursive: {value} (must be \"enabled\", \"disabled\", \"writable\", or \
             \"readonly\")"
        )),
    }
}

fn assembled(fields: MountFields, around: &dyn Surroundings) -> Result<MountRequest, String> {
    let kind = fields.kind.as_deref().unwrap_or("volume");
    let target = fields.target.ok_or("target is required")?;
    if let Some((owner, option)) = fields.special
        && owner != kind
        && matches!(kind, "bind" | "volume" | "tmpfs")
    {
        return Err(format!("cannot mix '{option}' with mount type '{kind}'"));
    }
    if kind == "tmpfs" && fields.ownership != Ownership::default() {
        return Err("cannot mix 'U' or 'idmap' with mount type 'tmpfs'".to_owned());
    }
    let source = match kind {
        "bind" => {
            let source = fields.source.ok_or("source is required for a mount of type bind")?;
            if !source.starts_with(['/', '.', '~']) {
                return Err(format!("invalid mount path: '{source}' mount path must be absolute"));
            }
            let path = host_path(&source, around)?;
            MountSource::Bind { path, create: fields.create_source, recursive: fields.recursive.unwrap_or(true) }
        }
        "volume" => {
            let name = fields.source.filter(|name| !name.is_empty());
            if name.as_ref().is_some_and(|name| name.starts_with('/')) {
                return Err("the source of a mount of type volume is a name, not a path; use type=bind".to_owned());
            }
            let name = name.as_deref().map(volume_name).transpose()?;
            MountSource::Volume { name, copy_up: !fields.nocopy }
        }
        "tmpfs" if fields.source.is_some() => return Err("source is not allowed for a mount of type tmpfs".to_owned()),
        "tmpfs" => empty_tmpfs(),
        "npipe" | "cluster" | "image" => return Err(format!("mount type {kind} is not supported yet")),
        _ => return Err(format!("invalid mount type {kind:?}: must be bind, volume or tmpfs")),
    };
    let mut mount = MountRequest {
        source,
        target,
        read_only: fields.read_only,
        propagation: fields.propagation,
        ownership: fields.ownership,
    };
    for option in &fields.tmpfs {
        tmpfs_option(&mut mount, option)?;
    }
    Ok(mount)
}

/// The fields of one line of CSV: a field in double quotes may hold commas, and quotes written twice.
fn comma_separated(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut characters = text.chars().peekable();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        let field = fields.len() - 1;
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                fields[field].push('"');
            }
            '"' if quoted => quoted = false,
            '"' if fields[field].is_empty() => quoted = true,
            '"' => return Err(format!("bare \" in field {:?}", fields[field])),
            ',' if !quoted => fields.push(String::new()),
            other => fields[field].push(other),
        }
    }
    if quoted { Err(format!("the quote in '{text}' is not closed")) } else { Ok(fields) }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    struct World {
        selinux: bool,
    }

    impl Surroundings for World {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "HOME").then(|| "/home/me".to_owned())
        }

        fn read(&self, _path: &Path) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn current_folder(&self) -> io::Result<PathBuf> {
            Ok(PathBuf::from("/work/here"))
        }

        fn selinux(&self) -> bool {
            self.selinux
        }
    }

    const WORLD: World = World { selinux: false };

    /// One line for a mount, short enough for a table.
    fn line(mount: &MountRequest) -> String {
        let source = match &mount.source {
            MountSource::Bind { path, create, recursive } => {
                format!(
                    "bind {}{}{}",
                    path.display(),
                    if *create { " create" } else { "" },
                    if *recursive { "" } else { " flat" }
                )
            }
            MountSource::Volume { name, copy_up } => {
                format!("volume {}{}", name.as_deref().unwrap_or("-"), if *copy_up { "" } else { " nocopy" })
            }
            MountSource::Tmpfs { size_bytes, mode, options } => {
                format!("tmpfs {size_bytes:?} {:?} {}", mode.map(|mode| format!("{mode:o}")), options.join(","))
            }
        };
        let propagation = mount.propagation.as_deref().map(|p| format!(" {p}")).unwrap_or_default();
        let owned = if mount.ownership.chown { " U" } else { "" };
        let shifted = if mount.ownership.shift { " idmap" } else { "" };
        let access = if mount.read_only { " ro" } else { "" };
        format!("{source} -> {}{access}{propagation}{owned}{shifted}", mount.target.display())
    }

    #[track_caller]
    fn check(parse: impl Fn(&str) -> Result<MountRequest, String>, rows: &[(&str, &str)]) {
        for (text, expected) in rows {
            let got = parse(text).map_or_else(|error| format!("error: {error}"), |mount| line(&mount));
            assert_eq!(got, *expected, "{text}");
        }
    }

    #[test]
    fn volumes() {
        check(
            |text| volume(text, &WORLD),
            &[
                ("/data", "volume - -> /data"),
                ("/data:ro", "error: invalid volume specification: '/data:ro'"),
                ("cache:/data", "volume cache -> /data"),
                ("cache:/data:nocopy,ro", "volume cache nocopy -> /data ro"),
                ("/a:/b", "bind /a create -> /b"),
                ("/a:/b:ro", "bind /a create -> /b ro"),
                ("/a:/b:rw,rslave", "bind /a create -> /b rslave"),
                ("/a:/b:ro,Z,shared,cached", "bind /a create -> /b ro shared"),
                ("./x:/b", "bind /work/here/x create -> /b"),
                ("../x/./y:/b/../c", "bind /work/x/y create -> /c"),
                ("~/x:/b", "bind /home/me/x create -> /b"),
                (":/x", "error: invalid spec: :/x: empty section between colons"),
                ("a:b:c:d", "error: invalid volume specification: 'a:b:c:d'"),
                (
                    "/a:b",
                    "error: invalid volume specification: '/a:b': invalid mount path: 'b' mount path must be absolute",
                ),
                (
                    "/a:/",
                    "error: invalid volume specification: '/a:/': invalid specification: destination can't be '/'",
                ),
                ("/a:/b:U,idmap", "bind /a create -> /b U idmap"),
                ("cache:/b:ro,U", "volume cache -> /b ro U"),
                ("/a:/b:U,U", "error: invalid mode: U,U"),
                ("/a:/b:idmap=uids=0-1-1", "error: invalid mode: idmap=uids=0-1-1"),
                ("/a:/b:zz", "error: invalid mode: zz"),
                ("/a:/b:ro,rw", "error: invalid mode: ro,rw"),
                ("/a:/b:nocopy", "error: invalid mode: nocopy"),
                ("vol:/b:shared", "error: invalid mode: shared"),
                (
                    "a/b:/c",
                    "error: \"a/b\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path",
                ),
            ],
        );
        let error = volume("/a:/b:z", &World { selinux: true }).unwrap_err();
        assert_eq!(error, "option z is not supported yet on a machine with SELinux");
    }

    #[test]
    fn mounts() {
        check(
            |text| mount(text, &WORLD),
            &[
                ("type=bind,src=/a,dst=/b", "bind /a -> /b"),
                ("type=bind,source=/a,target=/b,readonly", "bind /a -> /b ro"),
                (
                    "type=bind,source=./a,destination=/b,ro=false,bind-propagation=rshared",
                    "bind /work/here/a -> /b rshared",
                ),
                ("type=bind,src=/a,dst=/b,bind-recursive=disabled", "bind /a flat -> /b"),
                ("type=bind,src=/a,dst=/b,bind-create-src", "bind /a create -> /b"),
                ("src=cache,dst=/b", "volume cache -> /b"),
                ("type=volume,dst=/b,volume-nocopy=true", "volume - nocopy -> /b"),
                ("type=tmpfs,dst=/b", "tmpfs None None  -> /b"),
                ("type=tmpfs,dst=/b,tmpfs-size=64m,tmpfs-mode=1770", "tmpfs Some(67108864) Some(\"1770\")  -> /b"),
                ("type=bind,\"src=/a,b\",dst=/c", "bind /a,b -> /c"),
                ("type=bind,src=/a,dst=/b,U=true,idmap", "bind /a -> /b U idmap"),
                ("type=tmpfs,dst=/b,chown=true", "error: cannot mix 'U' or 'idmap' with mount type 'tmpfs'"),
                ("foo", "error: invalid field 'foo' must be a key=value pair"),
                ("type=bind,src=/a", "error: target is required"),
                ("type=bind,dst=/a", "error: source is required for a mount of type bind"),
                ("type=bind,src=a,dst=/a", "error: invalid mount path: 'a' mount path must be absolute"),
                ("type=foo,dst=/x", "error: invalid mount type \"foo\": must be bind, volume or tmpfs"),
                ("type=image,dst=/x", "error: mount type image is not supported yet"),
                ("dst=/x,foo=bar", "error: unexpected key 'foo' in 'foo=bar'"),
                ("dst=/x,volume-opt=a=b", "error: volume-opt is not supported yet"),
                ("dst=/x,tmpfs-size=1k", "error: cannot mix 'tmpfs-size' with mount type 'volume'"),
                ("type=tmpfs,dst=/x,tmpfs-mode=9", "error: invalid value for tmpfs-mode: 9"),
                ("dst=/x,readonly=maybe", "error: invalid value for readonly: maybe"),
                ("\"dst=/x", "error: the quote in '\"dst=/x' is not closed"),
            ],
        );
    }

    #[test]
    fn tmpfs_mounts() {
        check(
            tmpfs,
            &[
                ("/run", "tmpfs None None  -> /run"),
                ("/run:rw,noexec,size=64m,mode=700", "tmpfs Some(67108864) Some(\"700\") rw,noexec -> /run"),
                ("/run:ro,size=50%,uid=5", "tmpfs None None size=50%,uid=5 -> /run ro"),
                ("rel", "error: invalid mount path: 'rel' mount path must be absolute"),
                ("/x:zz", "error: invalid tmpfs option [\"zz\"]"),
                ("/x:mode=abc", "error: invalid value for mode: abc"),
                ("/x:size=big", "error: invalid size: 'big'"),
            ],
        );
    }
}
