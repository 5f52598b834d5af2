//! An OCI bundle with the busybox root file system, and Hull under the name `runc` to run it.
//!
//! The bundle, the runtime's state folder (`--root`) and whatever else a test writes lie in the files folder of a
//! [`Hull`] of its own, which proves at its end that no process, mount, cgroup or file of it is left. Container ids are
//! unique among the tests that run at the same time, because their cgroups share one parent.
//!
//! ```text
//! <files>/runc                 a link to hull
//! <files>/runc-state           --root
//! <files>/bundle/config.json   what `runc spec` writes, without a terminal, changed by the test
//! <files>/bundle/rootfs        busybox
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::archive::busybox_layer;
use crate::{Hull, Run};

/// A bundle, and Hull under the name `runc`.
pub struct Bundle {
    /// The Hull in whose files folder everything lies.
    pub hull: Hull,
    /// Path of the link to hull.
    pub runc: String,
    /// Path of the bundle's folder.
    pub folder: String,
}

impl Bundle {
    /// With the configuration of `runc spec`, changed.
    #[track_caller]
    pub fn new(change: impl FnOnce(&mut Value)) -> Bundle {
        let hull = Hull::new();
        let folder = hull.make_folder("bundle");
        hull.make_folder("bundle/rootfs");
        tar::Archive::new(&busybox_layer()[..]).unpack(format!("{folder}/rootfs")).expect("the layer");
        let runc = hull.file("runc");
        symlink(crate::hull().expect("HULL_BIN"), &runc).expect("a link");
        let bundle = Bundle { hull, runc, folder };
        bundle.configure(change);
        bundle
    }

    /// Whose program is a shell script, with more changes.
    #[track_caller]
    pub fn script(script: &str, change: impl FnOnce(&mut Value)) -> Bundle {
        Bundle::new(|config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            change(config);
        })
    }

    /// Changes config.json.
    #[track_caller]
    pub fn configure(&self, change: impl FnOnce(&mut Value)) {
        let path = format!("{}/config.json", self.folder);
        if !fs::exists(&path).expect("looking") {
            self.run(&["spec", "--bundle", &self.folder]).expect(0);
        }
        let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("config.json")).expect("JSON");
        config["process"]["terminal"] = json!(false);
        change(&mut config);
        fs::write(&path, config.to_string()).expect("config.json");
    }

    /// An id that no other test uses.
    pub fn id(&self, name: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        format!("hull-test-{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// The runtime with these words, its stdin closed.
    pub fn command(&self, words: &[&str]) -> Command {
        let state = self.hull.files().join("runc-state");
        let mut command = Command::new(&self.runc);
        command.arg("--root").arg(state).args(words).current_dir(self.hull.files()).stdin(Stdio::null());
        command
    }

    /// Runs the runtime to its end.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Run {
        Run::new(words, self.command(words).output().expect("runc"))
    }

    /// Runs the bundle as a container in the foreground to its end.
    #[track_caller]
    pub fn run_container(&self, name: &str) -> Run {
        self.run(&["run", "--bundle", &self.folder, &self.id(name)])
    }

    /// Creates a container as a shim does, with streams that nobody reads, and returns its process id.
    #[track_caller]
    pub fn create(&self, id: &str) -> i32 {
        self.detached(&["create"], id)
    }

    /// Creates and starts a container in the background and returns its process id.
    #[track_caller]
    pub fn start_detached(&self, id: &str) -> i32 {
        self.detached(&["run", "--detach"], id)
    }

    #[track_caller]
    fn detached(&self, words: &[&str], id: &str) -> i32 {
        let pid_file = self.hull.file(&format!("{id}.pid"));
        let mut command = self.command(words);
        command.args(["--bundle", &self.folder, "--pid-file", &pid_file, id]);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("runc");
        assert!(status.success(), "{words:?} of {id}: {status}");
        fs::read_to_string(&pid_file).expect("the pid file").trim().parse().expect("a number")
    }

    /// `created`, `running`, `paused` or `stopped`.
    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        let run = self.run(&["state", id]).expect(0);
        let state: Value = serde_json::from_str(&run.stdout).expect("JSON");
        state["status"].as_str().expect("a status").to_owned()
    }

    /// Removes a container by force.
    #[track_caller]
    pub fn delete(&self, id: &str) {
        self.run(&["delete", "--force", id]).expect(0);
    }
}
