//! Looking after the store: checking and repairing it, what it takes, pruning, and volumes by themselves.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use system_tests::archive::{Image, Layer, busybox_layer};
use system_tests::registry::Registry;
use system_tests::{Hull, is_vm};

/// The one file of more than 100 kB among the blobs: the layer.
fn layer_blob(hull: &Hull) -> PathBuf {
    let folders = fs::read_dir(hull.roots().content().join("sha256")).expect("blobs").flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).expect("blobs").flatten());
    let large = files.map(|file| file.path()).filter(|path| fs::metadata(path).expect("a blob").len() > 100_000);
    large.last().expect("the layer's blob")
}

fn findings(hull: &Hull, code: i32, words: &[&str]) -> Vec<Value> {
    let run = hull.run(&[&["system", "check", "--format", "json"], words].concat()).expect(code);
    let report: Value = serde_json::from_str(run.text()).expect("JSON");
    report["Findings"].as_array().expect("a list").clone()
}

#[test]
fn a_damaged_blob_is_found_and_fetched_again() {
    let hull = Hull::with_busybox();
    assert_eq!(findings(&hull, 0, &[]), Vec::<Value>::new());
    let blob = layer_blob(&hull);
    let mut bytes = fs::read(&blob).expect("the blob");
    bytes[70_000] ^= 1;
    fs::write(&blob, &bytes).expect("damage");
    let found = findings(&hull, 1, &[]);
    assert_eq!((found.len(), found[0]["Kind"].as_str()), (1, Some("blob")), "{found:?}");
    assert!(found[0]["Healed"].is_null());
    findings(&hull, 1, &["--repair"]);
    assert!(!blob.exists(), "what is damaged is not taken for the blob again");
    hull.sh(&[], "true").expect(0);
    hull.ok(&["load", "-i", &system_tests::image("busybox.docker.tar").display().to_string()]);
    assert_eq!(findings(&hull, 0, &[]), Vec::<Value>::new());
}

#[test]
fn a_lost_layer_is_unpacked_again_for_its_containers() {
    let hull = Hull::with_busybox();
    hull.ok(&["create", "--name", "one", "busybox", "true"]);
    let snapshots = hull.roots().snapshots();
    let drivers = fs::read_dir(&snapshots).expect("drivers").flatten();
    let all = drivers.flat_map(|driver| fs::read_dir(driver.path()).expect("snapshots").flatten());
    let layers: Vec<PathBuf> = all.map(|entry| entry.path()).filter(|path| !path.join("parents").exists()).collect();
    assert_eq!(layers.len(), 1, "{layers:?}");
    fs::rename(&layers[0], hull.files().join("aside")).expect("the layer goes");
    let kinds: Vec<String> =
        findings(&hull, 1, &[]).iter().map(|found| found["Kind"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(kinds, ["layer", "container"]);
    let healed = findings(&hull, 0, &["--repair"]);
    assert_eq!(healed[0]["Healed"].as_str(), Some("unpacked again"), "{healed:?}");
    assert!(layers[0].exists(), "under the name that the container knows");
    assert_eq!(findings(&hull, 0, &[]), Vec::<Value>::new());
    hull.ok(&["start", "-a", "one"]);
    hull.ok(&["rm", "one"]);
    fs::remove_dir_all(hull.files().join("aside")).expect("the old layer");
}

/// ext4 with project quotas over the volumes, taken off with the test.
struct Quotas(PathBuf);

impl Quotas {
    fn over(hull: &Hull) -> Quotas {
        let (disk, place) = (hull.file("quota.ext4"), hull.roots().volumes());
        fs::copy(system_tests::image("quota.ext4"), &disk).expect("the disk is copied");
        let place = Quotas(place);
        let mount = ["-t", "ext4", "-o", "loop,prjquota", &disk, &place.0.display().to_string()];
        assert!(Command::new("mount").args(mount).status().expect("mount starts").success());
        fs::remove_dir(place.0.join("lost+found")).expect("nothing was lost");
        place
    }
}

impl Drop for Quotas {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg(&self.0).status();
        assert!(std::thread::panicking() || ended.is_ok_and(|status| status.success()), "umount");
    }
}

#[test]
fn a_volume_with_a_size_holds_no_more() {
    let hull = Hull::with_busybox();
    let refused = |words: &[&str], reason: &str| {
        let run = hull.run(&[&["volume", "create"], words].concat()).expect(1);
        assert!(run.stderr.contains(reason), "{}", run.stderr);
    };
    refused(&["-o", "size=1m", "small"], "does not (mount it with prjquota)");
    assert_eq!(hull.ok(&["volume", "ls", "-q"]), "", "nothing is left of what was refused");
    if !is_vm() {
        // This machine's kernel may have no quotas.
        return;
    }
    let quotas = Quotas::over(&hull);
    hull.ok(&["volume", "create", "-o", "size=1m", "small"]);
    hull.ok(&["volume", "create", "large"]);
    assert_eq!(hull.ok(&["volume", "inspect", "--format", "{{json .Options}}", "small"]), r#"{"size":"1m"}"#);
    let write = |volume: &str, code: i32| {
        let mount = format!("{volume}:/v");
        let fill = "mkdir -p /v/deep && dd if=/dev/zero of=/v/deep/file bs=64k count=40";
        hull.run(&["run", "--rm", "-v", &mount, "busybox", "sh", "-c", fill]).expect(code);
        let file = quotas.0.join(volume).join("_data/deep/file");
        fs::metadata(file).expect("what was written").len()
    };
    assert_eq!(write("large", 0), 40 << 16);
    let held = write("small", 1);
    assert!(held > 512 << 10 && held <= 1 << 20, "{held} bytes");
    // With the volume its limit goes, so that a later one of another size is held to that.
    hull.ok(&["volume", "rm", "small"]);
    hull.ok(&["volume", "create", "--opt", "size=3m", "small"]);
    assert_eq!(write("small", 0), 40 << 16);
    hull.ok(&["volume", "rm", "small", "large"]);
    drop(quotas);
}

#[test]
fn what_a_volume_cannot_have_is_refused_by_name() {
    let hull = Hull::new();
    for (option, reason) in [
        ("size=lots", "invalid size: 'lots'"),
        ("size", "invalid size: ''"),
        ("type=nfs", "the volume option \"type\" is not supported"),
        ("device=/x", "the volume option \"device\" is not supported"),
    ] {
        let run = hull.run(&["volume", "create", "-o", option, "x"]).expect(1);
        assert!(run.stderr.contains(reason), "{}", run.stderr);
    }
    assert_eq!(hull.ok(&["volume", "ls", "-q"]), "");
}

#[test]
fn volumes_live_by_themselves() {
    let hull = Hull::with_busybox();
    assert_eq!(hull.ok(&["volume", "create", "data", "--label", "a=b"]), "data");
    hull.ok(&["volume", "create", "data"]);
    let anonymous = hull.ok(&["volume", "create"]);
    assert_eq!(anonymous.len(), 64);
    let id = hull.ok(&["create", "-v", "data:/mnt", "busybox", "true"]);
    let said = hull.refused(1, &["volume", "rm", "data"]);
    assert!(said.contains(&format!("remove data: volume is in use - [{id}]")), "{said}");
    assert_eq!(hull.ok(&["volume", "ls", "-q", "--filter", "dangling=true"]), anonymous);
    assert_eq!(hull.ok(&["volume", "inspect", "-f", "{{.Name}} {{.Labels.a}}", "data"]), "data b");
    let said = hull.ok(&["volume", "prune", "-f"]);
    assert!(said.starts_with(&format!("Deleted Volumes:\n{anonymous}\n\nTotal reclaimed space:")), "{said}");
    hull.ok(&["rm", &id]);
    hull.ok(&["volume", "prune", "-f"]);
    assert_eq!(hull.ok(&["volume", "ls", "-q"]), "data", "a named one stays");
    assert_eq!(hull.ok(&["volume", "rm", "data"]), "data");
    hull.refused(1, &["volume", "rm", "data"]);
    hull.ok(&["volume", "rm", "-f", "data"]);
    hull.refused(1, &["volume", "create", "-o", "type=nfs", "x"]);
    hull.refused(1, &["volume", "create", "../x"]);
    assert_eq!(hull.ok(&["volume", "ls", "-q"]), "");
}

#[test]
fn pruning_takes_what_nothing_uses() {
    let hull = Hull::with_busybox();
    let running = hull.background(&[], "exec sleep 1000");
    let stopped = hull.ok(&["create", "--label", "keep", "busybox", "true"]);
    let said = hull.fed(b"n\n", &["container", "prune"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("Are you sure you want to continue? [y/N]"));
    assert_eq!(hull.ok(&["container", "prune", "-f", "--filter", "label!=keep"]), "Total reclaimed space: 0B");
    let said = hull.ok(&["container", "prune", "-f"]);
    assert!(said.starts_with(&format!("Deleted Containers:\n{stopped}\n\nTotal reclaimed space:")), "{said}");
    assert_eq!(hull.ok(&["image", "prune", "-a", "-f"]), "Total reclaimed space: 0B", "it runs");
    let used = hull.ok(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]);
    assert!(used.contains("Images 1 1") && used.contains("Containers 1 1"), "{used}");
    hull.ok(&["rm", "-f", &running]);
    let said = hull.ok(&["system", "prune", "-a", "-f"]);
    assert!(said.contains("untagged: busybox:latest") && said.contains("deleted: sha256:"), "{said}");
    assert_eq!(hull.ok(&["images", "-q"]), "");
    assert_eq!(hull.leftovers(), Vec::<String>::new());
}

/// Serves busybox with a word in it, and returns the image's name.
fn served(name: &str) -> String {
    let base = Image { names: Vec::new(), config: serde_json::json!({"Cmd": ["true"]}), layers: vec![busybox_layer()] };
    let image = base.layer(Layer::new().file("word", name.as_bytes()));
    format!("{}/{name}:latest", Registry::with(name, &image).serve())
}

/// Words with a configuration in which every disk is too full, and nothing is kept for its age.
fn full_disk(hull: &Hull, more: &str) -> String {
    let driver = system_tests::storage_driver().map(|driver| format!("[storage]\ndriver = \"{driver}\"\n"));
    let text = format!("{}[gc]\nhigh-water = 0\nkeep = \"0s\"\n{more}", driver.unwrap_or_default());
    hull.write("full.toml", &text)
}

#[test]
fn a_full_disk_costs_what_nobody_asked_for() {
    let hull = Hull::with_busybox();
    let full = full_disk(&hull, "");
    let names = || hull.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    let [implicit, pulled, tagged, used, other] = ["implicit", "pulled", "tagged", "used", "other"].map(served);
    for name in [&implicit, &pulled, &tagged] {
        hull.ok(&["run", "--rm", "-q", name, "true"]);
    }
    hull.ok(&["pull", "-q", &pulled]);
    hull.ok(&["tag", &tagged, "mine"]);
    let container = hull.ok(&["create", "-q", &used, "true"]);
    let of_implicit = hull.ok(&["images", "-q", "--no-trunc", &implicit]);
    assert!(hull.ok(&["system", "gc"]).contains("Removed 0 images"), "there is room, or all were used just now");
    // The image that comes for a container stays, and is what makes room.
    hull.ok(&["--config", &full, "run", "--rm", "-q", "--pull", "always", &other, "true"]);
    let left = names();
    assert!(!left.contains(&implicit), "{left}");
    for name in [&pulled, &tagged, &used, &other, &"busybox:latest".to_owned(), &"mine:latest".to_owned()] {
        assert!(left.contains(name.as_str()), "{name} in {left}");
    }
    assert!(!hull.ok(&["images", "-aq", "--no-trunc"]).contains(&of_implicit));
    let said = hull.ok(&["--config", &full, "system", "gc"]);
    assert!(said.contains(&format!("Untagged: {other}\n")) && said.contains("Removed 1 images, 1 layers"), "{said}");
    hull.ok(&["start", "-a", &container]);
    hull.ok(&["rm", &container]);
    let said = hull.ok(&["--config", &full, "system", "gc"]);
    assert!(said.contains(&format!("Untagged: {used}\n")), "{said}");
    for name in [&pulled, &tagged, &"busybox".to_owned()] {
        hull.ok(&["run", "--rm", "--pull", "never", name, "true"]);
    }
    hull.ok(&["rmi", "-f", &pulled, &tagged, "mine"]);
}

#[test]
fn a_full_disk_may_stay_full() {
    let hull = Hull::with_busybox();
    let off = full_disk(&hull, "enabled = false\n");
    let [first, second] = ["first", "second"].map(served);
    hull.ok(&["run", "--rm", "-q", &first, "true"]);
    hull.ok(&["--config", &off, "pull", "-q", &second]);
    assert!(hull.ok(&["images"]).contains(first.trim_end_matches(":latest")));
    // An image whose last tag has moved away is nobody's wish any more, one without a name from the start is.
    let nameless = hull.ok(&["import", &hull.write("empty.tar", &"\0".repeat(1024))]);
    hull.ok(&["tag", "busybox", &second]);
    let said = hull.ok(&["--config", &off, "system", "gc"]);
    assert!(said.contains(&format!("Untagged: {first}\n")) && said.contains("Removed 2 images"), "{said}");
    assert!(hull.ok(&["images", "-q", "--no-trunc"]).contains(&nameless));
    hull.ok(&["rmi", &second, &nameless]);
}
