//! The musl build: what releases are, and what measurements compare.
//!
//! A static program that is made with glibc asks the processor some seventy things at every start (cpuid). In a virtual
//! machine each of them leaves it: half a millisecond here, more than the rest of what a start of `hull` costs. musl asks
//! nothing.
//!
//! Where the toolchain has the target, Rust brings musl's startup files and libraries, and only the C parts (SQLite, zstd,
//! the crypto library) need musl's headers, from Debian's `musl-dev`. Where it has not, the standard library is made from
//! Debian's `rust-src` of the toolchain's version and linked with all of `musl-dev`. Both are unpacked; the machine's own
//! compiler is told to use them and nothing else. The program is static and not position independent, like the other build.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::{program, workspace};

const TARGET: &str = "x86_64-unknown-linux-musl";
/// Where Debian has the sources of standard libraries, one version for each recent toolchain.
const SOURCE_SUITES: [&str; 2] = ["trixie-backports", "sid"];
/// musl's files in a tree of Debian's `musl-dev`.
const HEADERS: &str = "usr/include/x86_64-linux-musl";
const LIBRARIES: &str = "usr/lib/x86_64-linux-musl";

/// How cargo is told to build with musl.
pub struct Musl {
    arguments: Vec<String>,
    env: Vec<(String, OsString)>,
}

impl Musl {
    /// Fetches what the toolchain lacks.
    pub fn ready() -> Result<Musl> {
        let tree = workspace::folder("tools")?.join("musl");
        Apt::machine()?.unpack(&["musl-dev"], false, &tree).context("unpacking musl-dev")?;
        let mut musl = Musl {
            arguments: vec!["--target".into(), TARGET.into()],
            env: vec![("CC_x86_64_unknown_linux_musl".into(), compiler(&tree)?.into())],
        };
        let mut flags = vec!["-Crelocation-model=static".to_string(), "-Csymbol-mangling-version=v0".into()];
        if !is_in_toolchain() {
            musl.arguments.push("-Zbuild-std=std,panic_abort".into());
            // The flag is unstable, and says nothing of where the source is.
            musl.env.push(("RUSTC_BOOTSTRAP".into(), "1".into()));
            musl.env.push(("__CARGO_TESTS_ONLY_SRC_ROOT".into(), standard_library()?.into()));
            flags.extend(link_flags(&tree)?);
        }
        musl.env.push(("CARGO_ENCODED_RUSTFLAGS".into(), flags.join("\x1f").into()));
        Ok(musl)
    }

    /// The release build of `hull`.
    pub fn hull(&self) -> Result<PathBuf> {
        self.hull_with(&[])
    }

    /// The same, with more in the environment of the build.
    pub fn hull_with(&self, env: &[(&str, &Path)]) -> Result<PathBuf> {
        self.build(&["--package", "hull"], "hull", env)
    }

    /// The program that makes the bare system calls of a container, for measurements.
    pub fn floor(&self) -> Result<PathBuf> {
        self.build(&["--package", "hull-runtime", "--example", "floor"], "floor", &[])
    }

    fn build(&self, what: &[&str], name: &str, more: &[(&str, &Path)]) -> Result<PathBuf> {
        let own: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let own_env = self.env.iter().map(|(name, value)| (name.as_str(), Path::new(value)));
        let env: Vec<_> = own_env.chain(more.iter().copied()).collect();
        let made = workspace::build_with(&[&["build", "--release"], what, &own].concat(), &env)?;
        let program = made.into_iter().find(|program| program.name == name);
        Ok(program.with_context(|| format!("cargo built no program called {name}"))?.path)
    }
}

fn is_in_toolchain() -> bool {
    let mut command = Command::new("rustc");
    command.args(["--print", "target-libdir", "--target", TARGET]).current_dir(workspace::root());
    program::output(&mut command).is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}

/// A script that runs the machine's C compiler with musl's headers.
fn compiler(tree: &Path) -> Result<PathBuf> {
    let own = program::output(Command::new("cc").arg("-print-file-name=include")).context("the C compiler")?;
    let headers = tree.join(HEADERS);
    let script = tree.join("cc");
    let text =
        format!("#!/bin/sh\nexec cc -nostdinc -isystem '{}' -isystem '{}' \"$@\"\n", headers.display(), own.trim());
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

/// The source of the toolchain's own standard library.
fn standard_library() -> Result<PathBuf> {
    let said = program::output(Command::new("rustc").arg("--version").current_dir(workspace::root()))?;
    let version = said.split_whitespace().nth(1).context("rustc tells no version")?;
    let tree = workspace::folder("tools")?.join("rust-src");
    let package = format!("rust-src={version}*");
    for suite in SOURCE_SUITES {
        if let Err(error) = Apt::suite(suite)?.unpack(&[&package], false, &tree) {
            eprintln!("{suite} has no source of Rust {version}: {error:#}");
            continue;
        }
        return Ok(tree.join(format!("usr/src/rustc-{version}/library")));
    }
    bail!("the toolchain has no target {TARGET}, and Debian no source of Rust {version}")
}

/// What Rust's own files for the target would bring: musl's startup files and libraries, and a library that unwinds.
fn link_flags(tree: &Path) -> Result<Vec<String>> {
    let libraries = tree.join(LIBRARIES);
    let mut flags = vec!["-Clink-self-contained=no".to_string(), "-Clink-arg=-nostartfiles".into()];
    flags.extend(["crt1.o", "crti.o", "crtn.o"].map(|name| format!("-Clink-arg={}", libraries.join(name).display())));
    // Rust names the library before these, which need it too.
    flags.push("-Clink-arg=-lc".into());
    flags.extend([libraries, unwinder(tree)?].map(|folder| format!("-Lnative={}", folder.display())));
    Ok(flags)
}

/// The folder of a `libunwind.a`: the C compiler's unwinder, which asks a function of glibc's for its tables. Without
/// them there are no frames in the backtrace of a panic, which ends the program in any case.
fn unwinder(tree: &Path) -> Result<PathBuf> {
    let folder = tree.join("unwinder");
    fs::create_dir_all(&folder)?;
    let (archive, source, object) = (folder.join("libunwind.a"), folder.join("none.c"), folder.join("none.o"));
    let compilers =
        program::output(Command::new("cc").arg("-print-file-name=libgcc_eh.a")).context("the C compiler")?;
    fs::copy(compilers.trim(), &archive).context(compilers)?;
    fs::write(&source, "int _dl_find_object(void *address, void *result) { return -1; }\n")?;
    program::quiet(Command::new("cc").arg("-c").arg(&source).arg("-o").arg(&object))?;
    program::quiet(Command::new("ar").arg("r").arg(&archive).arg(&object))?;
    Ok(folder)
}
