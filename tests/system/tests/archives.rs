//! Archives and layouts that go to docker, podman, skopeo and umoci and come back: the same ids, the same trees.
//!
//! The image has one of everything that a layer can hold. Trees are compared in whole (see `tree`); of docker, which
//! shows a tree as `docker export` only, in what that keeps. Not in the virtual machine, where these tools are not.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use system_tests::archive::{Image, digest};
use system_tests::place::{Place, Tool};
use system_tests::tree::{Tree, as_docker_exports, differences, of_folder, of_tar};
use system_tests::{Hull, Run, is_vm, peers};
use tar::{Builder, EntryType, Header};

const NAME: &str = "odd:1";

/// A place, none in the virtual machine.
fn place() -> Option<Place> {
    let Some(scripts) = peers() else {
        assert!(is_vm(), "HULL_PEERS is not set: run this through cargo xtask test system");
        return None;
    };
    Some(Place::new(scripts, &["docker", "libpod_parent"]))
}

struct Entry<'e> {
    kind: EntryType,
    path: &'e [u8],
    link: &'e str,
    mode: u32,
    owner: (u64, u64),
    device: (u32, u32),
    content: &'e [u8],
    records: &'e [(&'e str, &'e [u8])],
}

const PLAIN: Entry<'static> = Entry {
    kind: EntryType::Regular,
    path: b"",
    link: "",
    mode: 0o644,
    owner: (0, 0),
    device: (0, 0),
    content: b"",
    records: &[],
};

fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for entry in entries {
        let path = (entry.path.len() > 100).then_some(("path", entry.path));
        let records: Vec<(&str, &[u8])> = entry.records.iter().copied().chain(path).collect();
        tar.append_pax_extensions(records).expect("memory");
        let mut header = Header::new_ustar();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(1_700_000_000);
        header.set_size(entry.content.len() as u64);
        header.set_device_major(entry.device.0).and(header.set_device_minor(entry.device.1)).expect("ustar has them");
        let raw = header.as_old_mut();
        let shown = &entry.path[..entry.path.len().min(100)];
        raw.name[..shown.len()].copy_from_slice(shown);
        raw.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_cksum();
        tar.append(&header, entry.content).expect("memory");
    }
    tar.into_inner().expect("memory")
}

/// Two layers above busybox: one of everything, and one that deletes and hides some of it.
fn odd_image() -> Image {
    const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let folder = |path| Entry { kind: EntryType::Directory, path, mode: 0o750, owner: (1000, 50), ..PLAIN };
    let file = |path| Entry { path, content: b"content", ..PLAIN };
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.security.capability", CAPABILITY),
        ("SCHILY.xattr.user.note", b"x\0y=z"),
        ("mtime", b"1700000000.25"),
        ("uid", b"3000000"),
    ];
    let linked = |path| Entry { mode: 0o4755, owner: (0, 77), records, ..file(path) };
    let link = |path| Entry { kind: EntryType::Link, link: "odd/file", ..linked(path) };
    let long: Vec<u8> = [b"odd/".as_slice(), &[b'l'; 120], b"/", &[b'm'; 200], b"/", &[b'n'; 150]].concat();
    let node = |path, kind, device| Entry { path, kind, device, mode: 0o640, ..PLAIN };
    let first = layer(&[
        folder(b"odd/"),
        linked(b"odd/file"),
        // With the attributes of the file, as every tar program writes them: some apply them once more.
        Entry { content: b"", ..link(b"odd/hard") },
        Entry { content: b"", ..link(b"odd/another") },
        node(b"odd/null", EntryType::Char, (1, 3)),
        node(b"odd/disk", EntryType::Block, (259, 1000)),
        node(b"odd/fifo", EntryType::Fifo, (0, 0)),
        Entry { kind: EntryType::Symlink, path: b"odd/link", link: "../nowhere", mode: 0o777, owner: (5, 6), ..PLAIN },
        folder(&long[..125]),
        folder(&long[..326]),
        file(&long),
        file(b"odd/not \xff utf-8"),
        file(b"odd/gone"),
        folder(b"odd/hides/"),
        file(b"odd/hides/below"),
        folder(b"odd/kept/"),
        file(b"odd/kept/below"),
    ]);
    let mark = |path| Entry { path, ..PLAIN };
    let second = layer(&[
        folder(b"odd/"),
        mark(b"odd/.wh.gone"),
        folder(b"odd/hides/"),
        mark(b"odd/hides/.wh..wh..opq"),
        file(b"odd/hides/above"),
        folder(b"odd/kept/"),
        file(b"odd/kept/above"),
    ]);
    let mut image = Image::new(NAME, json!({"Cmd": ["sh"], "Labels": {"a": "b"}}));
    image.layers.extend([first, second]);
    image
}

/// The odd image in a Hull, with its tree.
struct Loaded {
    hull: Hull,
    id: String,
    tree: Tree,
}

fn loaded() -> Loaded {
    let mut hull = Hull::new();
    let image = odd_image();
    let archive = hull.files().join("odd.tar");
    image.write(&archive);
    hull.load(&archive);
    let id = digest(&image.document());
    assert_eq!(hull.inspect(NAME)["Id"], id.as_str());
    let tree = tree_of(&hull, NAME);
    let odd = |path: &str| tree.get(Path::new(path)).unwrap_or_else(|| panic!("no {path}"));
    assert_eq!(odd("odd/hard").group, odd("odd/file").group);
    assert_eq!(odd("odd/file").mtime, (1_700_000_000, 250_000_000));
    assert_eq!(odd("odd/file").xattrs.len(), 2);
    for gone in ["odd/gone", "odd/hides/below"] {
        assert!(!tree.contains_key(Path::new(gone)), "{gone}");
    }
    assert!(tree.contains_key(Path::new("odd/kept/below")));
    Loaded { hull, id, tree }
}

/// The tree of an image in Hull: what a container that never ran exports.
fn tree_of(hull: &Hull, image: &str) -> Tree {
    let id = hull.ok(&["create", image, "true"]);
    let path = hull.file("exported.tar");
    hull.ok(&["export", "-o", &path, &id]);
    hull.ok(&["rm", &id]);
    let tree = of_tar(File::open(&path).expect("what was exported"));
    fs::remove_file(path).expect("what was exported");
    tree
}

/// Loads what another tool wrote into a Hull of its own and expects the odd image.
#[track_caller]
fn expect_odd(path: &Path, wanted: &Loaded) {
    let mut hull = Hull::new();
    let said = hull.ok(&["load", "-i", &path.display().to_string()]);
    hull.keep_stored();
    let name = said.lines().next().and_then(|line| line.rsplit_once(": ")).expect("a name or an id").1;
    let name = name.trim_start_matches("ID: ");
    let all = hull.inspect(name);
    assert_eq!(all["Id"], wanted.id.as_str(), "{}", path.display());
    assert_eq!(all["RootFS"], wanted.hull.inspect(NAME)["RootFS"]);
    assert_eq!(differences(&tree_of(&hull, name), &wanted.tree), Vec::<String>::new(), "{}", path.display());
}

/// Saves the odd image and says where.
fn save(loaded: &Loaded, place: &Place, format: &str) -> String {
    let path = place.files().join(format!("hull.{format}")).display().to_string();
    loaded.hull.ok(&["save", "--format", format, "-o", &path, NAME]);
    path
}

/// What is below some folders of a tree.
fn below(tree: &Tree, folders: &[&str]) -> Tree {
    tree.iter()
        .filter(|(path, _)| folders.iter().any(|folder| path.starts_with(folder)))
        .map(|(path, facts)| (path.clone(), facts.clone()))
        .collect()
}

#[test]
fn docker_takes_and_gives_the_same_image() {
    let Some(place) = place() else { return };
    let loaded = loaded();
    let settings = peers().expect("the peers").join("../etc/daemon.json").display().to_string();
    let mut daemon = place.start("dockerd", &["--config-file", &settings, "--data-root", "/run/hull-peers/docker"]);
    let docker = place.tool("docker", &[]);
    daemon.wait_until_up(&docker, &["version"]);
    // docker 26 with its own store reads docker's list, which only the default format has.
    let said = docker.ok(&["load", "-i", &save(&loaded, &place, "docker-archive")]);
    assert!(said.contains(NAME), "{said}");
    assert_eq!(docker.ok(&["image", "inspect", "-f", "{{.Id}}", NAME]), loaded.id);
    docker_exports_the_same(&docker, &place, &loaded);
    let back = place.files().join("docker.tar");
    docker.ok(&["save", "-o", &back.display().to_string(), NAME]);
    expect_odd(&back, &loaded);
    daemon.end(&place);
}

fn docker_exports_the_same(docker: &Tool<'_>, place: &Place, loaded: &Loaded) {
    docker.ok(&["create", "--name", "box", NAME]);
    let exported = place.files().join("docker-export.tar").display().to_string();
    docker.ok(&["export", "-o", &exported, "box"]);
    docker.ok(&["rm", "box"]);
    // Elsewhere docker puts files of its own.
    let folders = ["odd", "bin", "home", "root"];
    let theirs = of_tar(File::open(&exported).expect("what was exported"));
    let ours = as_docker_exports(loaded.tree.clone());
    assert_eq!(
        differences(&below(&as_docker_exports(theirs), &folders), &below(&ours, &folders)),
        Vec::<String>::new()
    );
}

#[test]
fn podman_takes_and_gives_the_same_image() {
    let Some(place) = place() else { return };
    let loaded = loaded();
    let podman = place.tool("podman", &[]);
    for format in ["docker-archive", "oci-archive", "oci-dir", "docker-dir"] {
        let mut saved = save(&loaded, &place, format);
        let is_folder = format.ends_with("-dir");
        if is_folder {
            // podman names an image by its folder's path, which has to be a name, in lower case.
            place.run("/bin/cp", &["-r", &saved, "/run/odd"]).expect(0);
            saved = "/run/odd".to_owned();
        }
        podman.ok(&["load", "-q", "-i", &saved]);
        let id = podman.ok(&["images", "-q", "--no-trunc"]);
        assert_eq!(id, loaded.id, "{format}");
        let mounted = podman.ok(&["image", "mount", &id]);
        let theirs = of_folder(&place.path(&mounted));
        assert_eq!(differences(&theirs, &loaded.tree), Vec::<String>::new(), "{format}");
        podman.ok(&["image", "unmount", &id]);
        if is_folder {
            place.run("/bin/rm", &["-r", &saved]).expect(0);
            podman.ok(&["tag", &id, NAME]);
        } else {
            assert_eq!(podman.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]), "docker.io/library/odd:1");
        }
        let back = place.files().join(format!("podman.{format}"));
        podman.ok(&["save", "-q", "--format", format, "-o", &back.display().to_string(), NAME]);
        expect_odd(&back, &loaded);
        podman.ok(&["rmi", "-f", &id]);
    }
}

#[test]
fn skopeo_takes_and_gives_the_same_image() {
    let Some(scripts) = peers() else { return };
    let Some(place) = place() else { return };
    let loaded = loaded();
    let skopeo = |words: &[&str]| {
        let mut command = std::process::Command::new(scripts.join("skopeo"));
        let output = command.args(words).stdin(Stdio::null()).output().expect("skopeo");
        Run::new(words, output).expect(0).text().to_owned()
    };
    let transports = [
        ("docker-archive", "docker-archive"),
        ("oci-archive", "oci-archive"),
        ("oci-dir", "oci"),
        ("docker-dir", "dir"),
    ];
    for (format, transport) in transports {
        let from = format!("{transport}:{}", save(&loaded, &place, format));
        let raw: Value = serde_json::from_str(&skopeo(&["inspect", "--raw", &from])).expect("a manifest");
        assert_eq!(raw["config"]["digest"], loaded.id.as_str(), "{format}");
        for (_, transport) in transports {
            let back = place.files().join(format!("skopeo.{format}.{transport}"));
            let name = if transport == "dir" { "" } else { ":odd:1" };
            skopeo(&["copy", "--quiet", &from, &format!("{transport}:{}{name}", back.display())]);
            expect_odd(&back, &loaded);
        }
    }
}

#[test]
fn umoci_takes_and_gives_the_same_image() {
    let Some(place) = place() else { return };
    let mut loaded = loaded();
    let umoci = place.tool("umoci", &[]);
    let layout = save(&loaded, &place, "oci-dir");
    let bundle = place.files().join("bundle");
    umoci.ok(&["unpack", "--image", &format!("{layout}:1"), &bundle.display().to_string()]);
    let theirs = of_folder(&bundle.join("rootfs"));
    assert_eq!(differences(&theirs, &loaded.tree), Vec::<String>::new());
    fs::write(bundle.join("rootfs/odd/new"), "new").expect("a file");
    fs::remove_file(bundle.join("rootfs/odd/fifo")).expect("a fifo");
    // umoci writes whole seconds.
    let second = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_001);
    for path in ["rootfs/odd/new", "rootfs/odd"] {
        let changed = File::open(bundle.join(path)).expect("what was changed");
        changed.set_modified(second).expect("a time");
    }
    umoci.ok(&["repack", "--image", &format!("{layout}:more"), &bundle.display().to_string()]);
    umoci.ok(&["rm", "--image", &format!("{layout}:1")]);
    let said = loaded.hull.ok(&["load", "-i", &layout]);
    loaded.hull.keep_stored();
    // umoci keeps the annotation with the name.
    let name = said.rsplit_once(": ").unwrap_or_else(|| panic!("no name in {said}")).1;
    let ours = tree_of(&loaded.hull, name);
    assert!(!ours.contains_key(Path::new("odd/fifo")) && ours.contains_key(Path::new("odd/new")));
    assert_eq!(differences(&of_folder(&bundle.join("rootfs")), &ours), Vec::<String>::new());
}
