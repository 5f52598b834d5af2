//! The cgroup v2 lane: Debian kernels in an emulator, running the privileged tests with nothing else on the machine.
//!
//! ```text
//! kernel      a kernel package, unpacked: image and modules
//! modules     which modules, in which order, decompressed
//! cpio        the archive format of an initramfs
//! initramfs   busybox, modules, hull, the test programs, and what they are to do
//! disk        the test images and the validation suite as read-only disks
//! emulator    qemu without hardware help, its console, its time limit
//! guest       what runs inside: the tests, and what they left
//! ```
//!
//! A 6.12 kernel runs every privileged test; a 6.1 kernel, the oldest that Hull supports, runs those that a fallback
//! concerns (`fallback` in the name) and the first ones (`smoke`).

mod cpio;
mod disk;
mod emulator;
pub mod guest;
mod initramfs;
mod kernel;
mod modules;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{ci, conformance, images, workspace};
use guest::{Program, Work};
use initramfs::Payload;
use kernel::Release;

/// Where things are inside the machine.
const GUEST_HULL: &str = "/usr/bin/hull";
const GUEST_FILES: &str = "/var/lib/hull-tests";
const GUEST_IMAGES: &str = "/images";
const GUEST_SUITE: &str = "/suite";
const GUEST_RUNTIME: &str = "/usr/bin/hull-runc";
/// Crates whose unit tests run in the machine as well: those that ask the kernel for something.
const UNIT_CRATES: [&str; 3] = ["hull-sys", "hull-kernel", "hull-snapshot"];
/// Unit tests that only compute, for minutes in an emulator, and ask the kernel nothing.
const UNIT_SKIP: [&str; 3] = ["seccomp::tests::large", "seccomp::tests::programs_do", "seccomp::tests::a_long_program"];
/// What of the end-to-end tests runs on the oldest kernel.
const FALLBACK_FILTER: [&str; 2] = ["fallback", "smoke"];
/// The longest one boot may take, with all its tests.
const BOOT_LIMIT: Duration = Duration::from_secs(18 * 60);

/// `cargo xtask vm`.
#[derive(clap::Args)]
pub struct Args {
    /// One kernel only; both when it is not given.
    #[arg(long)]
    kernel: Option<Release>,
    /// Parts of test names.
    #[arg(last = true)]
    filter: Vec<String>,
}

/// Runs the lane by hand, with its words on the terminal.
pub fn run(args: &Args) -> Result<bool> {
    let log = workspace::folder("xtask/logs")?.join("vm.log");
    File::create(&log)?;
    let ended = boots(args.kernel, &args.filter, &log);
    print!("{}", crate::program::text(&log)?);
    println!("{}", crate::count::Count::read(&crate::program::text(&log)?));
    if let Err(error) = &ended {
        eprintln!("Error: {error:#}");
    }
    Ok(ended.is_ok())
}

/// The lane as a step of the whole run.
pub fn lane(log: &Path, filter: &[String]) -> Result<()> {
    boots(None, filter, log)
}

fn boots(kernel: Option<Release>, filter: &[String], log: &Path) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the virtual machine lane knows only x86_64");
    }
    let tests = workspace::system_tests()?;
    let hull = workspace::hull()?;
    let units = if filter.is_empty() { unit_tests()? } else { Vec::new() };
    let images = disk::of(&image_files()?, "images")?;
    let suite = if filter.is_empty() { Some(suite_disk()?) } else { None };
    let mut failed = Vec::new();
    for release in [Release::Current, Release::Oldest] {
        if kernel.is_some_and(|kernel| kernel != release) {
            continue;
        }
        let began = Instant::now();
        let is_whole = filter.is_empty() && release == Release::Current;
        let filter = chosen(release, filter);
        let mut programs = vec![Program::new("system", "/tests/system").only(&filter)];
        let mut files = vec![(hull.clone(), GUEST_HULL.to_string()), (tests.clone(), "/tests/system".to_string())];
        if is_whole {
            for (name, path) in &units {
                let place = format!("/tests/{name}");
                programs.push(Program::new(name, &place).without(&UNIT_SKIP));
                files.push((path.clone(), place));
            }
        }
        let mut work = work(programs);
        let mut disks = vec![images.clone()];
        if let Some(suite) = suite.as_ref().filter(|_| is_whole) {
            work.conformance = Some(conformance_work(&[]));
            disks.push(suite.clone());
        }
        let ended = boot(release, Payload { files, work }, &disks, log);
        note(log, &format!("kernel {release}: {:.1} s", began.elapsed().as_secs_f64()))?;
        failed.extend(ended.err().map(|error| format!("kernel {release}: {error:#}")));
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

/// The validation suite alone.
pub fn conformance(log: &Path, filter: &[String]) -> Result<()> {
    let files = vec![(workspace::hull()?, GUEST_HULL.to_string())];
    let disks = [disk::of(&image_files()?, "images")?, suite_disk()?];
    let mut work = work(Vec::new());
    work.conformance = Some(conformance_work(filter));
    boot(Release::Current, Payload { files, work }, &disks, log)
}

fn suite_disk() -> Result<PathBuf> {
    disk::of(&conformance::Suite::ready()?.folder, "suite")
}

fn conformance_work(filter: &[String]) -> conformance::guest::Work {
    conformance::guest::Work { suite: GUEST_SUITE.into(), runtime: GUEST_RUNTIME.into(), filter: filter.to_vec() }
}

fn chosen(release: Release, filter: &[String]) -> Vec<String> {
    if filter.is_empty() && release == Release::Oldest {
        return FALLBACK_FILTER.map(str::to_string).to_vec();
    }
    filter.to_vec()
}

fn work(programs: Vec<Program>) -> Work {
    let path = Path::new;
    let mut env = ci::test_environment(path(GUEST_HULL), path(GUEST_FILES), path(GUEST_IMAGES), "vm");
    env.insert("RUST_BACKTRACE".into(), "0".into());
    Work { programs, env, files: GUEST_FILES.into(), conformance: None }
}

fn boot(release: Release, payload: Payload, disks: &[PathBuf], log: &Path) -> Result<()> {
    let kernel = kernel::ready(release)?;
    note(log, &format!("kernel {}", kernel.version))?;
    let nonce = format!("{release}-{}", std::process::id());
    let initramfs = initramfs::write(&kernel, &payload, &nonce)?;
    let console = workspace::folder("vm")?.join(format!("console-{release}.log"));
    emulator::run(&kernel.image, &initramfs, disks, &console, BOOT_LIMIT)?;
    let printed = crate::program::text(&console)?.replace('\r', "");
    let report = guest::Report::read(&printed, &nonce)
        .with_context(|| format!("the machine gave no result, see {}", console.display()))?;
    note(log, report.text)?;
    if !report.is_good {
        bail!("its tests failed or left something behind");
    }
    Ok(())
}

/// The unit test programs of the crates that talk to the kernel.
fn unit_tests() -> Result<Vec<(String, PathBuf)>> {
    let mut arguments = vec!["test", "--no-run", "--lib"];
    for name in UNIT_CRATES {
        arguments.extend(["--package", name]);
    }
    let made = workspace::build(&arguments)?;
    let tests = made.into_iter().filter(|program| program.is_test && program.is_library);
    Ok(tests.map(|program| (program.name, program.path)).collect())
}

fn note(log: &Path, text: &str) -> Result<()> {
    let mut file = File::options().append(true).create(true).open(log)?;
    Ok(writeln!(file, "{}", text.trim_end())?)
}

/// The images that tests load, as a folder to put on the disk.
fn image_files() -> Result<PathBuf> {
    images::debian()?;
    images::folder()
}
