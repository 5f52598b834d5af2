//! Symbolic links put in the way of mounts, also while the mounts are made.
//!
//! Two containers share a volume, and one exchanges a folder in it with a link without a pause while the other is made
//! with a mount below that folder. Hull resolves every place of a mount with openat2(2) `RESOLVE_IN_ROOT`, makes what is
//! missing one component at a time below the last one's descriptor, and attaches to what it has opened: a link leads to
//! the container's own files whenever it is put there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use system_tests::bundle::Bundle;
use system_tests::{Hull, Run};

use super::{Exchange, SECRET, host_folder, names};

const ROUNDS: usize = 60;

/// The bundle's volume: `way` is a folder, `link` leads to the host's folder.
fn volume(bundle: &Bundle, host: &str) -> String {
    let volume = bundle.hull.make_folder("volume");
    bundle.hull.make_folder("volume/way");
    symlink(host, format!("{volume}/link")).expect("a link");
    volume
}

/// Mounts the volume on /vol, and `source` below what is exchanged in it.
fn mounts(config: &mut Value, volume: &str, source: &str, destination: &str) {
    let mounts = config["mounts"].as_array_mut().expect("mounts");
    mounts.push(json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind", "rw"]}));
    mounts.push(json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rw"]}));
}

#[track_caller]
fn assert_untouched(host: &str, run: &Run) {
    assert_eq!(names(host), ["secret"], "{run:#?}");
    assert_eq!(fs::read_to_string(format!("{host}/secret")).expect("the secret"), SECRET);
    assert!(!run.stdout.contains(SECRET), "{run:#?}");
}

/// CVE-2021-30465: the link leads to `/` of the host, so that the mount is made over the host's tree, and what is
/// mounted next is seen through it.
///
/// Seen to succeed with `inside::open` resolving without `RESOLVE_IN_ROOT`.
#[test]
fn a_mount_below_an_exchanged_folder_stays_inside() {
    let bundle = Bundle::script("cat /vol/*/secret /vol/*/deep/secret; find / -xdev -name mine; echo ran", |_| {});
    let host = host_folder(&bundle);
    let volume = volume(&bundle, &host);
    let mine = bundle.hull.make_folder("source");
    fs::write(format!("{mine}/mine"), "").expect("a file");
    bundle.configure(|config| mounts(config, &volume, &mine, "/vol/way/deep/deeper"));
    let exchange = Exchange::start(Path::new(&format!("{volume}/way")), Path::new(&format!("{volume}/link")));
    let mut started = 0;
    for _ in 0..ROUNDS {
        let run = bundle.run_container("race");
        started += usize::from(run.stdout.contains("ran"));
        assert_untouched(&host, &run);
    }
    drop(exchange);
    assert!(started > 0, "no round came as far as the container");
}

/// CVE-2024-45310: what is missing of a mount's place is made on the host, a file or a folder, where the link leads.
///
/// Seen to succeed with `inside::open` resolving without `RESOLVE_IN_ROOT`.
#[test]
fn a_place_below_an_exchanged_folder_is_made_inside() {
    let bundle = Bundle::script("echo ran", |_| {});
    let host = host_folder(&bundle);
    let volume = volume(&bundle, &host);
    let file = bundle.hull.write("source", "");
    let saved = fs::read(format!("{}/config.json", bundle.folder)).expect("config.json");
    for (source, destination) in [(&file, "/vol/way/file"), (&volume, "/vol/way/folder"), (&file, "/vol/way/a/b/file")]
    {
        fs::write(format!("{}/config.json", bundle.folder), &saved).expect("config.json");
        bundle.configure(|config| mounts(config, &volume, source, destination));
        let exchange = Exchange::start(Path::new(&format!("{volume}/way")), Path::new(&format!("{volume}/link")));
        for _ in 0..ROUNDS / 3 {
            assert_untouched(&host, &bundle.run_container("race"));
        }
        drop(exchange);
    }
}

/// The same without a race, by `hull run`: an image and a volume whose folders are links to the host.
///
/// Seen to succeed with `inside::open` resolving without `RESOLVE_IN_ROOT`.
#[test]
fn a_volume_below_a_link_stays_inside() {
    let bundle = Bundle::script("true", |_| {});
    let host = host_folder(&bundle);
    let hull = Hull::with_busybox();
    let volume = hull.make_folder("volume");
    symlink(&host, format!("{volume}/link")).expect("a link");
    symlink(format!("../../../../../../../../../../..{host}"), format!("{volume}/up")).expect("a link");
    let file = hull.write("file", "");
    for place in ["/vol/link/made", "/vol/up/made", "/vol/link/a/b"] {
        for (source, what) in [(&volume, "folder"), (&file, "file")] {
            let flags = ["-v", &format!("{volume}:/vol"), "-v", &format!("{source}:{place}")];
            let run = hull.sh(&flags, &format!("test -e {place} && cat {host}/secret"));
            assert_untouched(&host, &run);
            assert!(run.stderr.contains("secret"), "{what} at {place}: {run:#?}");
        }
    }
}
