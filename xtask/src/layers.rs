//! The layer list of ARCHITECTURE.md as a check: who may use whom, and what every file and crate must say of itself.
//!
//! An edge between two of Hull's crates is allowed when it leads to a lower layer, crates of one layer do not know each
//! other, and the kernel mechanisms know no OCI. Edges of every kind count: normal, build and test. Besides that:
//! `#![forbid(unsafe_code)]` at the root of every target except in `sys`, a `//!` header on every file, and no file
//! over 800 lines.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{program, workspace};

/// Each layer uses only the ones before it.
const LAYERS: [&[&str]; 7] = [
    &["hull-sys", "hull-oci"],
    &["hull-kernel", "hull-store"],
    &["hull-runtime", "hull-image", "hull-snapshot", "hull-network"],
    &["hull-supervisor"],
    &["hull-engine"],
    &["hull-docker-api", "hull-cri"],
    &["hull"],
];
/// Edges that lead downwards and are refused all the same.
const REFUSED: [(&str, &str, &str); 1] = [("hull-kernel", "hull-oci", "kernel mechanisms know no OCI")];
/// Packages around Hull, which use what they like and which nothing uses.
const AROUND: [&str; 4] = ["xtask", "system-tests", "crash-tests", "hull-fuzz"];
/// The one crate that may contain unsafe code.
const UNSAFE_CRATE: &str = "hull-sys";
/// The longest file that is not to be split.
const LONGEST_FILE_LINES: usize = 800;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

/// Checks the whole workspace; the error lists everything that is wrong.
pub fn check() -> Result<()> {
    let text =
        program::output(workspace::cargo().args(["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        wrong.extend(edges(package).filter_map(|(from, to)| refusal(from, to)));
        wrong.extend(roots(package)?);
        wrong.extend(files(package)?);
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("{} packages keep to the layers", metadata.packages.len());
    Ok(())
}

/// The edges of a package to others of this workspace.
fn edges(package: &Package) -> impl Iterator<Item = (&str, &str)> {
    let inside = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
    inside.map(|dependency| (package.name.as_str(), dependency.name.as_str()))
}

/// Why the edge `from -> to` is not allowed, if it is not.
fn refusal(from: &str, to: &str) -> Option<String> {
    if AROUND.contains(&to) {
        return Some(format!("{from} -> {to}: nothing may depend on {to}"));
    }
    if AROUND.contains(&from) {
        return None;
    }
    let Some(above) = layer(from) else { return Some(format!("{from} is not in the layer list")) };
    let Some(below) = layer(to) else { return Some(format!("{to} is not in the layer list")) };
    if let Some((_, _, why)) = REFUSED.iter().find(|(user, used, _)| (*user, *used) == (from, to)) {
        return Some(format!("{from} -> {to}: {why}"));
    }
    (below >= above).then(|| format!("{from} (L{above}) -> {to} (L{below}): a crate uses only lower layers"))
}

fn layer(package: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&package))
}

/// Target roots that do not forbid unsafe code.
fn roots(package: &Package) -> Result<Vec<String>> {
    if package.name == UNSAFE_CRATE {
        return Ok(Vec::new());
    }
    let mut wrong = Vec::new();
    for target in package.targets.iter().filter(|target| !target.kind.iter().any(|kind| kind == "custom-build")) {
        let text = fs::read_to_string(&target.src_path).with_context(|| target.src_path.display().to_string())?;
        if !text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]") {
            wrong.push(format!("{}: lacks #![forbid(unsafe_code)]", target.src_path.display()));
        }
    }
    Ok(wrong)
}

/// Every `.rs` file of the package that breaks the rules for files.
fn files(package: &Package) -> Result<Vec<String>> {
    let mut found = BTreeSet::new();
    collect(package.manifest_path.parent().context("manifest without a folder")?, &mut found)?;
    let mut wrong = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        wrong.extend(fault(&text).map(|fault| format!("{}: {fault}", path.display())));
    }
    Ok(wrong)
}

fn collect(folder: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(path);
        }
    }
    Ok(())
}

/// What is wrong with the text of one source file.
fn fault(text: &str) -> Option<String> {
    let header = text.lines().take_while(|line| line.starts_with("//!")).count();
    if header == 0 {
        return Some("does not begin with a //! header".into());
    }
    if header > 30 {
        return Some(format!("its //! header has {header} lines, more than 30"));
    }
    let lines = text.lines().count();
    (lines > LONGEST_FILE_LINES).then(|| format!("has {lines} lines, more than {LONGEST_FILE_LINES}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_lead_downwards() {
        for (from, to) in [
            ("hull-kernel", "hull-sys"),
            ("hull-runtime", "hull-oci"),
            ("hull-image", "hull-store"),
            ("hull-engine", "hull-supervisor"),
            ("hull-docker-api", "hull-engine"),
            ("hull", "hull-sys"),
            ("xtask", "hull-engine"),
        ] {
            assert_eq!(refusal(from, to), None, "{from} -> {to}");
        }
    }

    #[test]
    fn other_edges_are_refused() {
        for (from, to) in [
            ("hull-sys", "hull-oci"),
            ("hull-kernel", "hull-oci"),
            ("hull-kernel", "hull-store"),
            ("hull-image", "hull-snapshot"),
            ("hull-network", "hull-runtime"),
            ("hull-supervisor", "hull-engine"),
            ("hull-cri", "hull-docker-api"),
            ("hull-engine", "hull"),
            ("hull", "xtask"),
            ("hull", "hull-unheard-of"),
            ("hull-unheard-of", "hull-sys"),
        ] {
            assert!(refusal(from, to).is_some(), "{from} -> {to}");
        }
    }

    #[test]
    fn files_open_with_a_header() {
        assert_eq!(fault("//! One.\n//! Two.\n//! Three.\nfn main() {}\n"), None);
        assert!(fault("fn main() {}\n").is_some());
        assert!(fault(&"//! Line.\n".repeat(31)).is_some());
        assert!(fault("\n//! One.\n//! Two.\n//! Three.\n").is_some());
        assert!(fault(&format!("//! One.\n//!\n//! Two.\n{}", "\n".repeat(798))).is_some());
    }
}
