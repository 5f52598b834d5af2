//! The validation suite itself: sources, Go, and the programs built from them, once.
//!
//! ```text
//! target/tools/golang/            Debian's Go and the Go libraries that the suite uses, unpacked
//! target/conformance/source/      the upstream archive of Debian's golang-github-opencontainers-runtime-tools
//! target/conformance/go/src/      what the compiler sees of it, and the TAP producer (tap.go beside this file)
//! target/conformance/suite/       the programs, runtimetest, the root file system; .complete tells what they are from
//! ```
//!
//! Debian's binary package holds the suite's libraries only, so the programs come from the source package: apt checks
//! the archive against the digest in the signed list of sources. The TAP producer that upstream imports is in no
//! Debian package; the one here has the same names. Go never asks the network: modules are off.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::{program, workspace};

/// The suite of Debian whose source package is taken, on every machine the same.
const SOURCE_SUITE: &str = "trixie";
const SOURCE_PACKAGE: &str = "golang-github-opencontainers-runtime-tools";
/// Go and the libraries.
const PACKAGES: [&str; 3] =
    ["golang-go", "golang-github-opencontainers-runtime-tools-dev", "golang-github-google-uuid-dev"];
/// Where the compiler looks for the suite and for its TAP producer.
const SUITE_IMPORT: &str = "github.com/opencontainers/runtime-tools";
const TAP_IMPORT: &str = "github.com/mndrix/tap-go";
const TAP_PRODUCER: &str = include_str!("tap.go");
/// Changes when the suite's folder is made in another way.
const LAYOUT: u32 = 1;
/// The program that the suite puts into its containers.
const INNER_PROGRAM: &str = "runtimetest";
const ROOT_FILE_SYSTEM: &str = "rootfs-amd64.tar.gz";

/// The built suite.
pub struct Suite {
    /// The folder that its programs are run in.
    pub folder: PathBuf,
}

impl Suite {
    /// Fetches and builds it when that has not been done yet.
    pub fn ready() -> Result<Suite> {
        let made = workspace::folder("conformance")?;
        let archive = Apt::sources(SOURCE_SUITE)?.upstream(SOURCE_PACKAGE, &made.join("source"))?;
        let suite = Suite { folder: made.join("suite") };
        let stamp = suite.folder.join(".complete");
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        let wanted = format!("{LAYOUT} {name}\n{TAP_PRODUCER}");
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(suite);
        }
        fresh(&suite.folder)?;
        let go_path = made.join("go");
        lay_out(&archive, &go_path)?;
        build(&go_path, &suite.folder)?;
        plain(&go_path.join("src").join(SUITE_IMPORT).join(ROOT_FILE_SYSTEM), &suite.folder.join(ROOT_FILE_SYSTEM))?;
        fs::write(stamp, wanted)?;
        Ok(suite)
    }

    /// The names of the programs, sorted.
    pub fn programs(&self) -> Result<Vec<String>> {
        programs(&self.folder)
    }
}

/// The names of the validation programs in a folder, sorted.
pub fn programs(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() && name != INNER_PROGRAM && !name.contains('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn fresh(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())
}

/// Unpacks the sources to where their import paths say.
fn lay_out(archive: &Path, go_path: &Path) -> Result<()> {
    let (suite, tap) = (go_path.join("src").join(SUITE_IMPORT), go_path.join("src").join(TAP_IMPORT));
    fresh(&suite)?;
    fresh(&tap)?;
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--strip-components=1", "--file"]).arg(archive).arg("--directory").arg(suite);
    program::quiet(&mut unpack)?;
    Ok(fs::write(tap.join("tap.go"), TAP_PRODUCER)?)
}

/// Copies the root file system uncompressed, under the name that the programs know: the tar of the virtual machine
/// recognizes no compression.
fn plain(compressed: &Path, target: &Path) -> Result<()> {
    let file = File::create(target).with_context(|| target.display().to_string())?;
    let status = Command::new("gzip").args(["--decompress", "--stdout"]).arg(compressed).stdout(file).status()?;
    if !status.success() {
        bail!("gzip {}: {status}", compressed.display());
    }
    Ok(())
}

/// Static programs: they run in the virtual machine and in the suite's own root file system too.
fn build(go_path: &Path, out: &Path) -> Result<()> {
    let tree = workspace::folder("tools")?.join("golang");
    Apt::machine()?.unpack(&PACKAGES, true, &tree).context("unpacking Go")?;
    let places = [tree.join("usr"), PathBuf::from("/usr")];
    let root = places.iter().map(|place| place.join("lib/go")).find(|root| root.join("bin/go").exists());
    let root = root.with_context(|| format!("no Go in {}", tree.display()))?;
    let libraries = places.iter().map(|place| place.join("share/gocode"));
    let path = std::env::join_paths(std::iter::once(go_path.to_path_buf()).chain(libraries))?;
    let mut command = Command::new(root.join("bin/go"));
    command.args(["build", "-trimpath", "-tags", "netgo osusergo", "-ldflags", "-s -w", "-o"]).arg(out);
    command.args(["./validation/...", "./cmd/runtimetest"]);
    command.current_dir(go_path.join("src").join(SUITE_IMPORT));
    command.env("GOROOT", &root).env("GOPATH", path).env("GOCACHE", go_path.join("cache"));
    command.env("GO111MODULE", "off").env("GOFLAGS", "").env("GOPROXY", "off").env("CGO_ENABLED", "0");
    program::quiet(&mut command).context("building the validation suite")
}
