//! The kernel modules that tests need, in an order in which each finds what it depends on.
//!
//! The package has no `modules.dep` (depmod makes it at installation), so the dependencies are read from the modules
//! themselves: the `.modinfo` section holds `depends=a,b`. The guest has no modprobe: whatever the kernel might ask for
//! is loaded at boot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Loaded when the kernel has them as modules; an error when it has them not at all.
const NEEDED: [&str; 18] = [
    "virtio_pci",
    "virtio_blk",
    "overlay",
    "loop",
    "erofs",
    "squashfs",
    "veth",
    "bridge",
    "br_netfilter",
    "ifb",
    "sch_tbf",
    "sch_ingress",
    "act_mirred",
    "cls_bpf",
    "cls_u32",
    "nf_tables",
    "nft_nat",
    "nft_masq",
];
/// Loaded when the kernel has them: parts that were joined with others in some version, and things to try.
const WELCOME: [&str; 22] = [
    "nft_chain_nat",
    "nft_ct",
    "nft_counter",
    "nft_redir",
    "nft_limit",
    "nft_log",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_fib_inet",
    "nft_numgen",
    "nft_hash",
    "nft_compat",
    "nf_conntrack_netlink",
    "cls_matchall",
    "sch_htb",
    "sch_fq_codel",
    "dummy",
    "macvlan",
    "fuse",
    "quota_v2",
];

/// A module ready to be loaded.
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The object, decompressed.
    pub object: Vec<u8>,
}

/// Reads what is needed below `folder` (`/lib/modules/<version>`), in loading order.
pub fn collect(folder: &Path, busybox: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(&folder.join("kernel"), &mut files)?;
    let builtin = fs::read_to_string(folder.join("modules.builtin")).context("modules.builtin")?;
    let builtin: BTreeSet<String> = builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
    let mut loader = Loader { files, builtin, busybox, done: BTreeSet::new(), order: Vec::new() };
    for name in NEEDED {
        loader.add(name)?;
    }
    for name in WELCOME {
        if loader.files.contains_key(name) {
            loader.add(name)?;
        }
    }
    Ok(loader.order)
}

fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `kernel/net/br-netfilter.ko.xz` is the module `br_netfilter`.
fn module_name(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

struct Loader<'a> {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    busybox: &'a Path,
    done: BTreeSet<String>,
    order: Vec<Module>,
}

impl Loader<'_> {
    fn add(&mut self, name: &str) -> Result<()> {
        if self.builtin.contains(name) || !self.done.insert(name.to_string()) {
            return Ok(());
        }
        let path = self.files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        let object = read(path, self.busybox)?;
        for dependency in dependencies(&object) {
            self.add(&dependency)?;
        }
        self.order.push(Module { name: name.to_string(), object });
        Ok(())
    }
}

fn read(path: &Path, busybox: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => fs::read(path).with_context(|| path.display().to_string()),
        Some("xz") => {
            let mut command = Command::new(busybox);
            let out = command.arg("xzcat").arg(path).stdin(Stdio::null()).output().context("busybox xzcat")?;
            if !out.status.success() || out.stdout.is_empty() {
                bail!("busybox xzcat {}: {}", path.display(), out.status);
            }
            Ok(out.stdout)
        }
        _ => bail!("{}: compressed in a way that xtask does not know", path.display()),
    }
}

/// The modules named by `depends=` in an object.
fn dependencies(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = object.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = object[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_dependencies() {
        assert_eq!(module_name(Path::new("kernel/net/br-netfilter.ko.xz")).unwrap(), "br_netfilter");
        assert_eq!(module_name(Path::new("kernel/fs/overlay.ko")).unwrap(), "overlay");
        assert_eq!(module_name(Path::new("modules.order")), None);
        let object = b"junk\0license=GPL\0depends=nf-tables,nf_nat\0retpoline=Y\0";
        assert_eq!(dependencies(object), ["nf_tables", "nf_nat"]);
        assert!(dependencies(b"\0depends=\0retpoline=Y\0").is_empty());
    }
}
