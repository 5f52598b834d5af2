//! Images for tests and measurements, made here: no registry is asked.
//!
//! - `busybox`: one layer, Debian's static busybox with a name for each applet;
//! - `five-layers`: the same in five layers, as images usually come; `twenty-layers` in twenty;
//! - `debian.tar`: a root file system from debootstrap (minbase), to import, and
//! - `debian`: the same as an image;
//! - `quota.ext4`: an empty file system that enforces project quotas when it is mounted with prjquota.
//!
//! Each image is written as `<name>.docker.tar` (what `docker load` takes) and as `<name>.oci.tar` (an OCI image layout
//! in a tar, for `podman load`, `ctr image import` and skopeo). Contents, and so all digests, are the same every time.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::apt::Apt;
use crate::vm::disk;
use crate::{program, workspace};

/// The time that every image and file in it carries: 2024-01-01.
const CREATED: &str = "2024-01-01T00:00:00Z";
const CREATED_SECONDS: u64 = 1_704_067_200;
/// Bytes of filler in each layer but the lowest of `five-layers` and `twenty-layers`.
const FILLER_BYTES: usize = 64 * 1024;
/// Size of the file system with quotas.
const QUOTA_DISK_BYTES: u64 = 16 << 20;

/// Debian's static busybox, unpacked once.
pub fn busybox() -> Result<PathBuf> {
    let tree = workspace::folder("tools")?.join("busybox");
    let path = tree.join("bin/busybox");
    if !path.exists() {
        Apt::machine()?.unpack(&["busybox-static"], false, &tree).context("unpacking busybox-static")?;
    }
    Ok(if path.exists() { path } else { tree.join("usr/bin/busybox") })
}

/// The folder with the small images (busybox and five-layers), made when it is missing.
pub fn folder() -> Result<PathBuf> {
    let folder = workspace::folder("images")?;
    if !folder.join("twenty-layers.oci.tar").exists() {
        let busybox = busybox()?;
        let mut layers = vec![busybox_layer(&busybox)?];
        for number in 1..20 {
            layers.push(filler_layer(number)?);
        }
        write_image(&folder, "busybox", &layers[..1])?;
        write_image(&folder, "five-layers", &layers[..5])?;
        write_image(&folder, "twenty-layers", &layers)?;
    }
    Ok(folder)
}

/// `quota.ext4` in the images folder.
pub fn quotas() -> Result<PathBuf> {
    let path = folder()?.join("quota.ext4");
    if !path.exists() {
        let partial = path.with_extension("partial");
        File::create(&partial)?.set_len(QUOTA_DISK_BYTES)?;
        let mut command = Command::new(disk::mke2fs()?);
        command.args(["-q", "-F", "-t", "ext4", "-O", "quota,project", "-E", "quotatype=prjquota"]).arg(&partial);
        program::quiet(&mut command).context("making a file system with project quotas")?;
        fs::rename(&partial, &path)?;
    }
    Ok(path)
}

/// `debian.tar` and the `debian` image in the images folder: a minimal Debian, made by debootstrap as root.
pub fn debian() -> Result<PathBuf> {
    let folder = folder()?;
    let tar = folder.join("debian.tar");
    if !folder.join("debian.oci.tar").exists() {
        debootstrap(&tar)?;
        write_image(&folder, "debian", &[fs::read(&tar)?])?;
    }
    Ok(tar)
}

fn debootstrap(tar: &Path) -> Result<()> {
    let tool = workspace::folder("tools")?.join("debootstrap");
    let apt = Apt::machine()?;
    apt.unpack(&["debootstrap"], false, &tool).context("unpacking debootstrap")?;
    let root = workspace::folder("tools")?.join("debian-root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let (suite, mirror) = apt.main_source()?;
    // In a mount namespace of its own, so that the /proc that debootstrap mounts never shows on the machine.
    let script = "mkdir -p \"$2\" && mount -t tmpfs tmpfs \"$2\" && \"$0\" --variant=minbase \"$1\" \"$2\" \"$3\" >&2 && \
                  rm -rf \"$2\"/var/cache/apt/archives/*.deb \"$2\"/var/lib/apt/lists/* \"$2\"/var/log/*.log && \
                  umount -l \"$2/proc\" 2>/dev/null; umount -l \"$2/sys\" 2>/dev/null; \
                  test -x \"$2/bin/bash\" && \
                  tar --create --sort=name --numeric-owner --xattrs --one-file-system --file \"$4\" -C \"$2\" .";
    let partial = tar.with_extension("partial");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", script]);
    command.arg(tool.join("usr/sbin/debootstrap")).args([&suite]).arg(&root).arg(mirror).arg(&partial);
    command.env("DEBOOTSTRAP_DIR", tool.join("usr/share/debootstrap")).env("LC_ALL", "C");
    program::quiet(&mut command).context("debootstrap")?;
    fs::remove_dir(&root)?;
    Ok(fs::rename(partial, tar)?)
}

/// The lowest layer: busybox, a name for each of its applets, and what a shell expects to find.
fn busybox_layer(busybox: &Path) -> Result<Vec<u8>> {
    let applets = program::output(Command::new(busybox).arg("--list"))?;
    let mut layer = tar::Builder::new(Vec::new());
    for folder in ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "var"] {
        let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
        layer.append_data(&mut header(tar::EntryType::Directory, mode, 0), folder, std::io::empty())?;
    }
    let program = fs::read(busybox)?;
    file(&mut layer, "bin/busybox", 0o755, &program)?;
    for applet in applets.lines().filter(|name| *name != "busybox") {
        layer.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), format!("bin/{applet}"), "busybox")?;
    }
    file(&mut layer, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")?;
    file(&mut layer, "etc/group", 0o644, b"root:x:0:\nuser:x:1000:\nstaff:x:50:user\n")?;
    Ok(layer.into_inner()?)
}

/// An upper layer: a folder, a file of its own, a file that the next layer replaces, and one that it removes.
fn filler_layer(number: usize) -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    let folder = format!("srv/layer{number}");
    layer.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), &folder, std::io::empty())?;
    let filler: Vec<u8> = (0..FILLER_BYTES).map(|index| (index * number % 251) as u8).collect();
    file(&mut layer, &format!("{folder}/data"), 0o644, &filler)?;
    file(&mut layer, "srv/top", 0o644, format!("layer {number}\n").as_bytes())?;
    file(&mut layer, &format!("srv/only{number}"), 0o644, b"gone in the next layer\n")?;
    if number > 1 {
        file(&mut layer, &format!("srv/.wh.only{}", number - 1), 0o644, b"")?;
    }
    Ok(layer.into_inner()?)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(CREATED_SECONDS);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn file(tar: &mut tar::Builder<impl Write>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
    Ok(tar.append_data(&mut header, path, bytes)?)
}

/// `sha256:` and the digest of `bytes`.
fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Writes an image in both forms, under temporary names first.
fn write_image(folder: &Path, name: &str, layers: &[Vec<u8>]) -> Result<()> {
    let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let history: Vec<Value> = ids.iter().map(|_| json!({"created": CREATED, "created_by": "xtask images"})).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": architecture()?,
        "os": "linux",
        "created": CREATED,
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
        "history": history,
    }))?;
    for (form, write) in [("docker", docker_archive as Form), ("oci", oci_archive as Form)] {
        let partial = folder.join(format!("{name}.{form}.partial"));
        let mut out = tar::Builder::new(File::create(&partial)?);
        write(&mut out, name, &config, layers)?;
        out.into_inner()?.sync_all()?;
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o644))?;
        fs::rename(&partial, folder.join(format!("{name}.{form}.tar")))?;
    }
    Ok(())
}

type Form = fn(&mut tar::Builder<File>, &str, &[u8], &[Vec<u8>]) -> Result<()>;

/// `manifest.json`, the config, and one `<digest>/layer.tar` per layer.
fn docker_archive(out: &mut tar::Builder<File>, name: &str, config: &[u8], layers: &[Vec<u8>]) -> Result<()> {
    let config_name = format!("{}.json", &digest(config)[7..]);
    let paths: Vec<String> = layers.iter().map(|layer| format!("{}/layer.tar", &digest(layer)[7..])).collect();
    for (path, layer) in paths.iter().zip(layers) {
        file(out, path, 0o644, layer)?;
    }
    file(out, &config_name, 0o644, config)?;
    let manifest = json!([{"Config": config_name, "RepoTags": [format!("{name}:latest")], "Layers": paths}]);
    file(out, "manifest.json", 0o644, &serde_json::to_vec(&manifest)?)
}

/// An OCI image layout: `oci-layout`, `index.json`, and blobs by digest.
fn oci_archive(out: &mut tar::Builder<File>, name: &str, config: &[u8], layers: &[Vec<u8>]) -> Result<()> {
    let described = |kind: &str, bytes: &[u8]| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
    };
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", config),
        "layers": layers.iter().map(|layer| described("layer.v1.tar", layer)).collect::<Vec<_>>(),
    }))?;
    let mut entry = described("manifest.v1+json", &manifest);
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": "latest",
        "io.containerd.image.name": format!("docker.io/library/{name}:latest"),
    });
    file(out, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    file(out, "index.json", 0o644, &serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?)?;
    for blob in layers.iter().map(Vec::as_slice).chain([config, &manifest]) {
        file(out, &format!("blobs/sha256/{}", &digest(blob)[7..]), 0o644, blob)?;
    }
    Ok(())
}

/// The machine's architecture, as images name it.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("images have no name for the architecture {other}"),
    }
}

/// A bundle for runtimes alone: `rootfs` with the busybox layer, `config.json` written by the caller.
pub fn bundle(folder: &Path) -> Result<()> {
    let rootfs = folder.join("rootfs");
    fs::create_dir_all(&rootfs)?;
    let layer = busybox_layer(&busybox()?)?;
    tar::Archive::new(layer.as_slice()).unpack(&rootfs).context("unpacking the busybox layer")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Reads one file of a tar that this module wrote.
    fn entry(tar: &[u8], name: &str) -> Option<Vec<u8>> {
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries().ok()? {
            let mut entry = entry.ok()?;
            if entry.path().ok()?.to_str() == Some(name) {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).ok()?;
                return Some(bytes);
            }
        }
        None
    }

    #[test]
    fn both_forms_carry_the_same_image() {
        let folder = workspace::folder("xtask/images-test").unwrap();
        write_image(&folder, "two", &[filler_layer(1).unwrap(), filler_layer(2).unwrap()]).unwrap();
        let docker = fs::read(folder.join("two.docker.tar")).unwrap();
        let oci = fs::read(folder.join("two.oci.tar")).unwrap();
        let manifest: Value = serde_json::from_slice(&entry(&docker, "manifest.json").unwrap()).unwrap();
        let config_name = manifest[0]["Config"].as_str().unwrap();
        let blob = format!("blobs/sha256/{}", config_name.strip_suffix(".json").unwrap());
        assert_eq!(entry(&docker, config_name), entry(&oci, &blob));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn upper_layers_remove_files_of_lower_ones() {
        let layer = filler_layer(3).unwrap();
        assert!(entry(&layer, "srv/.wh.only2").is_some());
        assert_eq!(entry(&layer, "srv/top").unwrap(), b"layer 3\n");
    }
}
