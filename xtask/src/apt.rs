//! Debian packages, unpacked into `target/` and never installed.
//!
//! apt runs with folders of its own (`target/apt/<name>`: source list, lists, archives), made from the mirror and the
//! keyring that the machine itself is configured with. It reads the machine's package status, so that libraries which
//! are already there are not fetched again, and it changes nothing outside of `target/`. No root is needed.
//!
//! ```text
//! target/apt/<name>/sources.list   the suites asked for
//! target/apt/<name>/lists          what apt-get update fetched
//! <tree>.archives/*.deb            what one set needed
//! <tree>/                          the set, unpacked; .complete holds the names it was made for
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{program, workspace};

/// How old fetched lists may be before they are fetched again.
const LISTS_STAY: Duration = Duration::from_secs(24 * 3600);
/// The keyring that Debian installs for apt itself.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt that works in folders of its own.
pub struct Apt {
    dir: PathBuf,
    /// The suite whose packages are taken before others', newer or not.
    preferred: Option<String>,
}

/// One configured package source: where, which suite, which component.
struct Source {
    uri: String,
    suite: String,
    component: String,
}

impl Apt {
    /// The suites of the release that the machine runs.
    pub fn machine() -> Result<Apt> {
        let lines: Vec<String> = machine_sources()?.iter().map(source_line).collect();
        Apt::with_sources("machine", &lines)
    }

    /// The suites of the release that the machine runs, and before them newer packages that were built for it.
    pub fn backports() -> Result<Apt> {
        let sources = machine_sources()?;
        let main = sources.first().context("no package source")?;
        let suite = format!("{}-backports", main.suite);
        let newer = source_line(&Source { uri: main.uri.clone(), suite: suite.clone(), component: "main".into() });
        let lines: Vec<String> = sources.iter().map(source_line).chain([newer]).collect();
        Ok(Apt { preferred: Some(suite), ..Apt::with_sources("machine-backports", &lines)? })
    }

    /// One suite (`bookworm`, `bookworm-backports`, `trixie`) on the machine's own mirror.
    pub fn suite(suite: &str) -> Result<Apt> {
        let sources = machine_sources()?;
        let main = sources.first().context("no package source")?;
        let line = source_line(&Source { uri: main.uri.clone(), suite: suite.into(), component: "main".into() });
        Apt::with_sources(suite, &[line])
    }

    /// The source packages of one suite, on the machine's own mirror.
    pub fn sources(suite: &str) -> Result<Apt> {
        let sources = machine_sources()?;
        let main = sources.first().context("no package source")?;
        let line = source_line(&Source { uri: main.uri.clone(), suite: suite.into(), component: "main".into() });
        Apt::with_sources(&format!("{suite}-sources"), &[line.replacen("deb ", "deb-src ", 1)])
    }

    /// The release that the machine runs and the mirror it comes from.
    pub fn main_source(&self) -> Result<(String, String)> {
        let source = machine_sources()?.into_iter().next().context("no package source")?;
        Ok((source.suite, source.uri))
    }

    fn with_sources(name: &str, lines: &[String]) -> Result<Apt> {
        let apt = Apt { dir: workspace::folder(&format!("apt/{name}"))?, preferred: None };
        fs::create_dir_all(apt.dir.join("lists/partial"))?;
        fs::create_dir_all(apt.dir.join("cache/archives/partial"))?;
        fs::write(apt.dir.join("sources.list"), lines.join("\n") + "\n")?;
        Ok(apt)
    }

    /// `apt-get` or `apt-cache` with the folders of this apt.
    fn command(&self, tool: &str) -> Command {
        let dir = self.dir.display();
        let mut command = Command::new(tool);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        for option in [
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=-".into(),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::Cache={dir}/cache"),
            "Debug::NoLocking=1".into(),
            "APT::Sandbox::User=root".into(),
            "Acquire::Retries=3".into(),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
        ] {
            command.arg("-o").arg(option);
        }
        if let Some(suite) = &self.preferred {
            command.arg("-o").arg(format!("APT::Default-Release={suite}"));
        }
        command
    }

    /// Fetches the package lists when there are none or they are a day old.
    fn refresh(&self) -> Result<()> {
        let stamp = self.dir.join("updated");
        let age = fs::metadata(&stamp).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age < LISTS_STAY) {
            return Ok(());
        }
        program::quiet(self.command("apt-get").args(["update", "--quiet"]))?;
        Ok(fs::write(stamp, "")?)
    }

    /// The packages that `package` depends on, by name.
    pub fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        self.refresh()?;
        let text = program::output(self.command("apt-cache").args(["depends", "--important", package]))?;
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_string).collect())
    }

    /// Unpacks `packages` into the folder `tree`: with `closure` also whatever they depend on and the machine lacks.
    /// A tree that was made for the same names is kept as it is, without asking the mirror.
    pub fn unpack(&self, packages: &[&str], closure: bool, tree: &Path) -> Result<()> {
        let stamp = tree.join(".complete");
        let wanted = packages.join(" ");
        if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
            return Ok(());
        }
        self.refresh()?;
        let archives = tree.with_extension("archives");
        for dir in [tree, &archives] {
            if dir.exists() {
                fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
            }
        }
        fs::create_dir_all(tree)?;
        fs::create_dir_all(archives.join("partial"))?;
        self.download(packages, closure, &archives)?;
        for deb in debs(&archives)? {
            program::quiet(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(tree))?;
        }
        fs::remove_dir_all(&archives)?;
        Ok(fs::write(stamp, wanted)?)
    }

    /// Fetches the upstream archive of a source package, or finds it in `folder`, where it is alone. apt checks it
    /// against the digest in the suite's signed list.
    pub fn upstream(&self, package: &str, folder: &Path) -> Result<PathBuf> {
        let found = || -> Result<Option<PathBuf>> {
            let mut entries = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
            Ok(entries.find(|path| path.to_string_lossy().contains(".orig.tar.")))
        };
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        if let Some(archive) = found()? {
            return Ok(archive);
        }
        self.refresh()?;
        let mut command = self.command("apt-get");
        command.args(["source", "--download-only", "--tar-only", package]).current_dir(folder);
        program::quiet(&mut command)?;
        found()?.with_context(|| format!("apt fetched no archive of {package}"))
    }

    fn download(&self, packages: &[&str], closure: bool, archives: &Path) -> Result<()> {
        program::quiet(self.command("apt-get").arg("download").args(packages).current_dir(archives))?;
        if closure {
            let option = format!("Dir::Cache::archives={}/", archives.display());
            let mut command = self.command("apt-get");
            command.args(["install", "--download-only", "--no-install-recommends", "--yes", "-o", &option]);
            program::quiet(command.args(packages))?;
        }
        Ok(())
    }
}

/// The `.deb` files in a folder, in the order of their names.
fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The machine's own sources of its release, the main archive first.
fn machine_sources() -> Result<Vec<Source>> {
    let codename = codename()?;
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let listed = Command::new("apt-get")
        .args(["--no-release-info", "indextargets", "--format", format, "Created-By: Packages"])
        .output();
    let Ok(listed) = listed else {
        bail!("apt-get cannot be started: the system lanes take their tools from Debian's archive");
    };
    let mut sources = parse_sources(&String::from_utf8_lossy(&listed.stdout), &codename);
    sources.sort_by_key(|source| source.suite != codename);
    if sources.first().is_none_or(|source| source.suite != codename) {
        bail!("apt on this machine has no source for {codename}/main: the system lanes need Debian's archive");
    }
    Ok(sources)
}

/// Keeps each source of the release `codename` once, without third-party ones.
fn parse_sources(listed: &str, codename: &str) -> Vec<Source> {
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    let sources = lines.iter().filter_map(|line| {
        let mut words = line.split_whitespace();
        let source = Source { uri: words.next()?.into(), suite: words.next()?.into(), component: words.next()?.into() };
        Some(source)
    });
    let suites = [codename.to_string(), format!("{codename}-updates"), format!("{codename}-security")];
    sources.filter(|source| source.component == "main" && suites.contains(&source.suite)).collect()
}

fn source_line(source: &Source) -> String {
    let signed = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    format!("deb {signed}{} {} {}", source.uri, source.suite, source.component)
}

/// The Debian release that the machine runs, such as `bookworm`.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no VERSION_CODENAME")?.trim_matches('"').to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_each_source_of_the_release_once() {
        let listed = "http://m.example/debian/ bookworm main\nhttp://m.example/debian/ bookworm main\n\
                      http://m.example/sec bookworm-security main\nhttps://other.example/ cloud-sdk-bookworm main\n\
                      http://m.example/debian/ bookworm contrib\n";
        let kept: Vec<String> = parse_sources(listed, "bookworm").iter().map(|s| s.suite.clone()).collect();
        assert_eq!(kept, ["bookworm", "bookworm-security"]);
    }
}
