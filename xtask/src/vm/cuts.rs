//! `cargo xtask cuts`: real power cuts. A machine works on a store on an ext4 disk, is switched off by killing the
//! emulator, and boots again, where what it finds is compared with what its console had told (tests/crash, endure.rs).
//!
//! The disk is a sparse file that the emulator writes through its host's page cache: what dies with the machine is the
//! guest's own page cache, which is what a power cut takes from a machine whose disk honours flushes. The last boot
//! looks and is not cut. A failure leaves the disk and the console, and says where they are.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use super::emulator::{self, Machine};
use super::initramfs::{self, Payload, Task};
use super::kernel::{self, Release};
use super::{EMULATOR_FAULT, System, disk};
use crate::{program, workspace};

/// Where things are inside the machine.
const GUEST_CRASH: &str = "/tests/crash";
const GUEST_STORE: &str = "/store";
/// The disk's size; it is sparse.
const DISK_BYTES: u64 = 1 << 30;
/// How long a boot and a look at everything may take in an emulator.
const LOOK_LIMIT: Duration = Duration::from_secs(240);
/// How long a machine works before it is cut, in milliseconds.
const WORK_MS: std::ops::Range<u64> = 500..9000;
const DRIVERS: [&str; 3] = ["erofs", "overlay", "copy"];

/// `cargo xtask cuts`.
#[derive(clap::Args)]
pub struct Args {
    /// How often the machine is switched off.
    #[arg(long, default_value_t = 20)]
    count: u64,
    /// Where chance begins; a time when it is not given.
    #[arg(long)]
    seed: Option<u64>,
}

/// Cuts, and says what was found after each.
pub fn run(args: &Args) -> Result<bool> {
    let folder = workspace::folder("vm")?;
    let (disk, console) = (folder.join("cuts.ext4"), folder.join("console-cuts.log"));
    let crash = workspace::crash_tests()?;
    make_disk(&disk)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let seed = args.seed.unwrap_or(now);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut story = String::new();
    for boot in 0..=args.count {
        let driver = DRIVERS[random.usize(0..DRIVERS.len())];
        let script = script(driver, random.u64(..));
        let boot_once = || start(&crash, &disk, &console, Task::Script { text: script.clone(), story: story.clone() });
        let mut machine = boot_once()?;
        let mut looked = look(&mut machine, &console);
        if looked.is_err() && program::text(&console)?.contains(EMULATOR_FAULT) {
            machine = boot_once()?;
            looked = look(&mut machine, &console);
        }
        if looked.is_ok() && boot < args.count {
            std::thread::sleep(Duration::from_millis(random.u64(WORK_MS)));
        }
        machine.kill().and_then(|()| machine.wait()).context("ending the emulator")?;
        looked.with_context(|| {
            format!("boot {boot} with seed {seed}: see {} and {}", console.display(), disk.display())
        })?;
        story = told(&program::text(&console)?.replace('\r', ""));
        ensure!(!story.contains("BROKEN"), "boot {boot} with seed {seed}: {story}");
        if boot == args.count {
            println!("boot {boot}: whole");
            break;
        }
        let (done, begun) = (story.matches("\nREPORT ").count(), story.matches("\nOPERATION ").count());
        let word = if done < begun { "in the middle of one more" } else { "between two" };
        println!("boot {boot}: whole; {driver}; {done} operations, then off {word}");
    }
    fs::remove_file(&disk)?;
    println!("test result: ok. {} passed; 0 failed; 0 ignored", args.count);
    Ok(true)
}

/// An empty file system with a journal.
fn make_disk(path: &Path) -> Result<()> {
    File::create(path)?.set_len(DISK_BYTES)?;
    let mut command = std::process::Command::new(disk::mke2fs()?);
    program::quiet(command.args(["-q", "-F", "-t", "ext4"]).arg(path)).context("making the disk")
}

/// What the machine does once its root is there.
fn script(driver: &str, seed: u64) -> String {
    format!(
        "mkdir -p {GUEST_STORE} /run/hull
mount -t ext4 /dev/vda {GUEST_STORE} || echo BROKEN cannot mount the disk
printf '[storage]\\ndriver = \"{driver}\"\\n' > /etc/cuts.toml
{GUEST_CRASH} endure {GUEST_STORE} /run/hull /etc/cuts.toml {seed} {}
echo BROKEN it ended
poweroff -f
",
        initramfs::STORY
    )
}

fn start(crash: &Path, disk: &Path, console: &Path, task: Task) -> Result<Child> {
    let kernel = kernel::ready(Release::Current)?;
    let files = vec![(crash.to_path_buf(), GUEST_CRASH.to_string())];
    let initramfs: PathBuf = initramfs::write(&kernel, &Payload { files, task, system: System::Busybox }, "")?;
    let machine = Machine {
        kernel: &kernel.image,
        initramfs: &initramfs,
        disks: &[],
        scratch: None,
        kept: Some(disk),
        words: "",
    };
    emulator::start(&machine, console)
}

/// Waits until the machine has looked at what there was.
fn look(machine: &mut Child, console: &Path) -> Result<()> {
    let end = Instant::now() + LOOK_LIMIT;
    loop {
        let text = program::text(console)?.replace('\r', "");
        if text.contains("\nFOUND ") {
            return Ok(());
        }
        if let Some(at) = text.find("BROKEN ") {
            bail!("{}", &text[at..]);
        }
        if let Some(status) = machine.try_wait()? {
            bail!("the machine ended by itself ({status})");
        }
        ensure!(Instant::now() < end, "nothing after {} s", LOOK_LIMIT.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a console says of the store, without the boot.
fn told(console: &str) -> String {
    console.find("WHOLE\n").map_or_else(String::new, |at| console[at..].to_owned())
}
