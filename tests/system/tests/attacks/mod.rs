//! Every published attack on runc and crun, made against Hull: each must leave the host as it was.
//!
//! A test mounts the attack itself, not a paraphrase, and says in its comment how it works, what Hull does against it,
//! and with which change to Hull it was seen to succeed. Such weakened builds run in the virtual machine only. On the
//! machine itself what an attack aims at is a file of the test's own or a kernel parameter of a namespace; in the
//! virtual machine it is the real thing as well.
//!
//! ```text
//! own_binary   overwriting the runtime through /proc/self/exe
//! joining      looking into a process that joins, descriptors that leak
//! fake_proc    a /proc that is not what it seems: masks, parameters
//! mount_races  symbolic links put in the way of mounts
//! devices      /dev, /dev/null, /dev/console and terminals as links
//! credentials  users and capabilities of an exec
//! cgroups      the cgroup tree, writable
//! lengths      sizes that overflow
//! ```

mod cgroups;
mod credentials;
mod devices;
mod fake_proc;
mod joining;
mod lengths;
mod mount_races;
mod own_binary;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};
use system_tests::bundle::Bundle;

/// What no container may read.
const SECRET: &str = "a secret of the host";

/// The path of a file in the bundle's root file system.
fn in_root(bundle: &Bundle, path: &str) -> PathBuf {
    Path::new(&bundle.folder).join("rootfs").join(path.trim_start_matches('/'))
}

/// Lets the container write to its root file system.
fn writable(config: &mut Value) {
    config["root"]["readonly"] = json!(false);
}

/// Puts an executable file into the bundle's root file system.
fn executable(bundle: &Bundle, path: &str, text: &str) {
    let path = in_root(bundle, path);
    fs::write(&path, text).expect("a file of the image");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
}

/// A folder of the host outside of every container, with a secret in it; its path.
fn host_folder(bundle: &Bundle) -> String {
    let folder = bundle.hull.make_folder("host");
    fs::write(format!("{folder}/secret"), SECRET).expect("the secret");
    folder
}

/// Names in a folder, sorted.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A thread that exchanges two paths without a pause (renameat2(2) `RENAME_EXCHANGE`), until it is dropped.
struct Exchange {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Exchange {
    fn start(one: &Path, other: &Path) -> Exchange {
        let (one, other) = (one.to_path_buf(), other.to_path_buf());
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::spawn(move || {
            let mut count = 0;
            while !told.load(Ordering::Relaxed) {
                // Fails while Hull replaces one of them.
                count += u64::from(renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok());
            }
            count
        });
        Exchange { stop, thread: Some(thread) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(count.is_some_and(|count| count.is_ok_and(|count| count > 0)), "nothing was exchanged");
        }
    }
}
