//! The initramfs: two cpio archives in one file, the part that stays (busybox, modules, first script) and the part that
//! changes with every build (hull, test programs, what to do).
//!
//! ```text
//! /init            loads the modules, copies the rest to a tmpfs and makes that the root (pivot_root and detached
//!                  mounts need a real root), then runs /etc/rc
//! /etc/rc          mounts what a machine has mounted, and hands over to `xtask inside guest`
//! /modules/        the modules, and `order`
//! /bin             busybox, xtask
//! /tests /usr/bin  the test programs, hull
//! ```

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::guest::Work;
use super::kernel::Kernel;
use super::{System, modules, systemd};
use crate::{images, program, workspace};

/// What changes with every build.
pub struct Payload {
    /// Programs of this build, and where each goes.
    pub files: Vec<(PathBuf, String)>,
    /// What the guest is to do.
    pub task: Task,
    /// What its first program is.
    pub system: System,
}

/// What a guest does when its root is there.
pub enum Task {
    /// Tests.
    Tests(Work),
    /// A shell script, which has a text beside it, at [`STORY`].
    Script {
        /// The script.
        text: String,
        /// The text.
        story: String,
    },
}

/// Where a script's text is.
pub const STORY: &str = "/etc/story";

const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /root.new
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r name; do
    # These two make devices of their own accord unless told not to.
    case $name in ifb) option=numifbs=0;; dummy) option=numdummies=0;; *) option=;; esac
    insmod /modules/$name.ko $option || echo \"init: cannot load $name\"
done < /modules/order
mount -t tmpfs -o mode=755,size=80% root /root.new
cp -a /bin /etc /tests /usr /root.new/
cd /root.new
mkdir -p proc sys dev run tmp var/lib var/tmp images suite root home
ln -s usr/bin/env bin/env 2>/dev/null
mount -o move /proc proc
mount -o move /sys sys
mount -o move /dev dev
exec switch_root /root.new /bin/busybox sh /etc/rc
";

const RC: &str = "export PATH=/usr/bin:/bin HOME=/root
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mkdir -p /dev/pts /dev/shm /dev/mqueue /var/lib/hull-tests
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/runner
echo $$ > /sys/fs/cgroup/runner/cgroup.procs
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo +$controller > /sys/fs/cgroup/cgroup.subtree_control
done
ip link set lo up
hostname hull-vm
";
const TESTS: &str = "mount -t ext4 -o ro /dev/vda /images
[ ! -b /dev/vdb ] || mount -t ext4 -o ro /dev/vdb /suite
ln -s hull /usr/bin/hull-runc
/bin/xtask inside guest /etc/work.json
poweroff -f
";

/// Writes the initramfs for one boot.
pub fn write(kernel: &Kernel, payload: &Payload, nonce: &str) -> Result<PathBuf> {
    let folder = workspace::folder("vm")?;
    let base = base(kernel, &folder)?;
    let path = folder.join("initramfs");
    let mut out = BufWriter::new(File::create(&path)?);
    std::io::copy(&mut File::open(base)?, &mut out)?;
    let mut archive = Archive::new(out);
    let xtask = (workspace::own_program(), "/bin/xtask".to_string());
    for (source, place) in payload.files.iter().chain([&xtask]) {
        archive.file(place, 0o755, &stripped(source, &folder)?)?;
    }
    let last = match &payload.task {
        Task::Tests(work) => {
            archive.file("/etc/work.json", 0o644, serde_json::to_string(&(nonce, work))?.as_bytes())?;
            TESTS
        }
        Task::Script { text, story } => {
            archive.file(STORY, 0o644, story.as_bytes())?;
            text
        }
    };
    match payload.system {
        System::Busybox => {
            archive.file("/etc/rc", 0o644, format!("{RC}{last}").as_bytes())?;
            // A host without name servers; tests have theirs in its place.
            archive.file("/etc/resolv.conf", 0o644, b"")?;
            archive.file("/init", 0o755, INIT.as_bytes())?;
        }
        System::Systemd => {
            archive.file("/etc/hull-tests.service", 0o644, systemd::UNIT.as_bytes())?;
            archive.file("/init", 0o755, systemd::INIT.as_bytes())?;
        }
    }
    archive.finish()?.flush()?;
    Ok(path)
}

/// The part that stays, made once for each kernel.
fn base(kernel: &Kernel, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(format!("base-{}.cpio", kernel.version));
    let busybox = images::busybox()?;
    let mut archive = Archive::new(Vec::new());
    archive.file("/bin/busybox", 0o755, &fs::read(&busybox)?)?;
    archive.file("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")?;
    archive.file("/etc/group", 0o644, b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n")?;
    archive.link("/usr/bin/env", "/bin/busybox")?;
    let mut order = String::new();
    for module in modules::collect(&kernel.modules, &busybox)? {
        order += &format!("{}\n", module.name);
        archive.file(&format!("/modules/{}.ko", module.name), 0o644, &module.object)?;
    }
    archive.file("/modules/order", 0o644, order.as_bytes())?;
    fs::write(&path, archive.finish()?).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// A program without its debug information, which would only fill the machine's memory.
fn stripped(program: &Path, folder: &Path) -> Result<Vec<u8>> {
    let small = folder.join("stripped");
    let mut command = Command::new("strip");
    let made = program::quiet(command.arg("--strip-debug").arg("-o").arg(&small).arg(program));
    let source = if made.is_ok() { small.as_path() } else { program };
    let bytes = fs::read(source).with_context(|| source.display().to_string())?;
    if small.exists() {
        fs::remove_file(small)?;
    }
    Ok(bytes)
}
