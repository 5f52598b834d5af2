//! Killing Hull's own processes: containers go on, and whatever was interrupted is there or gone, never half.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use system_tests::archive::{Image, Layer};
use system_tests::registry::Registry;
use system_tests::{Hull, is_vm, wait_for};

fn kill(pid: i64) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::KILL).expect("killing");
}

/// Process id of the container's supervisor, as it wrote it down.
fn supervisor(hull: &Hull, id: &str) -> i64 {
    let state = fs::read_to_string(hull.roots().runtime_state(id).join("state.json")).expect("its state");
    let state: Value = serde_json::from_str(&state).expect("JSON");
    state["supervisor_pid"].as_i64().expect("a supervisor")
}

/// The id of a container and that of its supervisor, which has just been killed.
fn orphan(hull: &Hull, flags: &[&str], script: &str) -> (String, i64) {
    let id = hull.background(flags, script);
    hull.logged(&id, "ready");
    let pid = supervisor(hull, &id);
    kill(pid);
    wait_for("the end of the supervisor", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
    (id, pid)
}

#[test]
fn a_container_outlives_its_supervisor_and_is_adopted_fallback() {
    let hull = Hull::with_busybox();
    let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do echo tick; sleep 0.02; done";
    let (id, killed) = orphan(&hull, &[], script);
    let pid = hull.pid(&id);
    assert!(fs::exists(format!("/proc/{pid}")).expect("looking"));
    assert!(hull.ok(&["ps"]).contains("Up "));
    wait_for("an adopter", || (supervisor(&hull, &id) != killed).then_some(()));
    let before = hull.ok(&["logs", &id]).lines().count();
    wait_for("more output", || (hull.ok(&["logs", &id]).lines().count() > before).then_some(()));
    assert_eq!(hull.ok(&["exec", &id, "echo", "inside"]), "inside");
    hull.ok(&["stop", &id]);
    assert!(hull.logged(&id, "bye").contains("tick"));
    let state = hull.inspect(&id)["State"].clone();
    assert_eq!(state["Status"], "exited", "{state}");
    assert!(state["ExitCode"] == 3 || state["ExitCode"] == -1, "known or said to be unknown: {state}");
}

#[test]
fn a_container_that_ends_without_a_supervisor_is_seen_as_ended() {
    let hull = Hull::with_busybox();
    let folder = hull.make_folder("bell");
    let bind = format!("{folder}:/bell");
    let script = "echo ready; while [ ! -e /bell/end ]; do sleep 0.02; done; exit 3";
    let (id, _) = orphan(&hull, &["-v", &bind], script);
    hull.write("bell/end", "");
    wait_for("its end", || (hull.status(&id) == "exited").then_some(()));
    let state = hull.inspect(&id)["State"].clone();
    assert!(state["ExitCode"] == 3 || state["ExitCode"] == -1, "{state}");
    hull.ok(&["start", &id]);
    hull.ok(&["rm", "-f", &id]);
}

#[test]
fn an_orphan_is_removed_by_force() {
    let hull = Hull::with_busybox();
    let (id, _) = orphan(&hull, &["--rm"], "echo ready; exec sleep 1000");
    hull.ok(&["rm", "-f", &id]);
    assert_eq!(hull.containers(), Vec::<String>::new());
    wait_for("nothing left", || hull.leftovers().is_empty().then_some(()));
}

/// Kills a command after ever longer times, from before it has done anything to when it is done.
pub(crate) fn kill_at_many_moments(hull: &Hull, words: &[&str], moments: u64, mut look: impl FnMut(&Hull, u64)) {
    // Copying a root file system takes longer than making an empty folder.
    let is_slow = is_vm() || system_tests::hull::storage_driver().as_deref() == Some("copy");
    let whole = Duration::from_millis(if is_slow { 600 } else { 60 });
    for moment in 0..moments {
        let mut child = hull.spawn(words);
        thread::sleep(whole.mul_f64(moment as f64 / moments as f64));
        child.kill().expect("killing");
        child.wait().expect("its end");
        look(hull, moment);
    }
}

#[test]
fn a_killed_run_leaves_a_whole_container_or_none() {
    let hull = Hull::with_busybox();
    let words = ["run", "-v", "/data", "--init", "busybox", "sleep", "1000"];
    let mut seen = 0;
    kill_at_many_moments(&hull, &words, if is_vm() { 8 } else { 30 }, |hull, moment| {
        for id in hull.containers() {
            seen += 1;
            let status = hull.status(&id);
            assert!(["created", "running", "exited"].contains(&status.as_str()), "{status} at {moment}");
            if status == "running" {
                assert_eq!(hull.ok(&["exec", &id, "echo", "alive"]), "alive", "at {moment}");
            } else {
                hull.ok(&["start", &id]);
            }
            hull.ok(&["rm", "-f", "-v", &id]);
        }
        wait_for(&format!("nothing left at {moment}"), || hull.leftovers().is_empty().then_some(()));
    });
    assert!(seen > 0, "some moments were late enough for a container");
}

#[test]
fn a_killed_run_with_rm_is_cleaned_up_by_others() {
    let hull = Hull::with_busybox();
    let words = ["run", "--rm", "busybox", "sh", "-c", "exit 0"];
    kill_at_many_moments(&hull, &words, if is_vm() { 5 } else { 15 }, |hull, moment| {
        wait_for(&format!("nothing left at {moment}"), || {
            // Killed between the two acts, it leaves a container that was created and never started.
            for id in hull
                .containers()
                .iter()
                .filter(|id| hull.run(&["inspect", "-f", "{{.State.Status}}", id]).text() == "created")
            {
                hull.run(&["rm", id]);
            }
            (hull.containers().is_empty() && hull.leftovers().is_empty()).then_some(())
        });
    });
}

#[test]
fn a_killed_create_leaves_a_whole_container_or_none() {
    let hull = Hull::with_busybox();
    let words = ["create", "-v", "/etc", "busybox", "cat", "/etc/group"];
    kill_at_many_moments(&hull, &words, if is_vm() { 6 } else { 20 }, |hull, moment| {
        for id in hull.containers() {
            assert_eq!(hull.ok(&["start", "-a", &id]).lines().count(), 3, "at {moment}");
            hull.ok(&["rm", "-v", &id]);
        }
        assert_eq!(hull.leftovers(), Vec::<String>::new(), "at {moment}");
    });
}

#[test]
fn a_killed_load_leaves_a_store_that_works() {
    let mut hull = Hull::new();
    let archive = system_tests::image("five-layers.docker.tar").display().to_string();
    kill_at_many_moments(&hull, &["load", "-i", &archive], if is_vm() { 4 } else { 10 }, |_, _| {});
    hull.ok(&["load", "-q", "-i", &archive]);
    assert_eq!(hull.ok(&["run", "--rm", "five-layers", "cat", "/srv/top"]), "layer 4");
    hull.ok(&["rmi", "five-layers"]);
    assert_eq!(hull.ok(&["images", "-q"]), "");
    hull.keep_stored();
}

#[test]
fn a_killed_stop_stops_all_the_same_later() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "trap '' TERM; echo ready; while :; do sleep 0.02; done");
    hull.logged(&id, "ready");
    let mut child = hull.spawn(&["stop", "-t", "1000", &id]);
    let mut nothing = String::new();
    thread::sleep(Duration::from_millis(50));
    child.kill().expect("killing");
    child.stdout.take().expect("a pipe").read_to_string(&mut nothing).expect("its output");
    child.wait().expect("its end");
    assert_eq!((nothing.as_str(), hull.status(&id).as_str()), ("", "running"));
    hull.ok(&["stop", "-t", "0", &id]);
    assert_eq!(hull.status(&id), "exited");
}

#[test]
fn a_pull_that_is_interrupted_goes_on_where_it_was() {
    let hull = Hull::new();
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    let content: Vec<u8> = noise.take(3 << 20).collect();
    let image = Image::new("slow", serde_json::json!({"Cmd": ["true"]})).layer(Layer::new().file("data", &content));
    let mut registry = Registry::with("slow", &image);
    registry.spoil(&image.layers[1], |answer| (answer.sent, answer.stalls) = (2 << 20, true));
    let ranges = registry.ranges();
    let name = format!("{}/slow:latest", registry.serve());
    let mut pull = hull.spawn(&["pull", &name]);
    let unfinished = hull.roots().content().join("tmp");
    wait_for("the layer is half here", || {
        let files = fs::read_dir(&unfinished).ok()?.flatten();
        files.filter_map(|file| file.metadata().ok()).any(|file| file.blocks() * 512 >= 3 << 19).then_some(())
    });
    let pid = Pid::from_raw(pull.id().try_into().expect("a pid")).expect("a pid");
    kill_process(pid, Signal::INT).expect("interrupting it");
    let status = pull.wait().expect("it ends");
    assert!(status.signal() == Some(2) || status.code() == Some(130), "{status}");
    assert_eq!(hull.ok(&["images", "-q"]), "");
    hull.ok(&["pull", "-q", &name]);
    let ranges = ranges.lock().expect("no panic").clone();
    let first: u64 = ranges[0].strip_suffix('-').and_then(|first| first.parse().ok()).expect("an open range");
    assert!(first >= 1 << 20, "what had come was not asked for again: {ranges:?}");
    assert_eq!(hull.ok(&["run", "--rm", &name, "wc", "-c", "/data"]), format!("{} /data", 3 << 20));
    assert_eq!(fs::read_dir(&unfinished).expect("listed").count(), 0);
    hull.ok(&["system", "prune", "-a", "-f"]);
}
