//! Several Hulls on one store: four hands pull, load, tag, remove, create, run, prune, collect and check the same few
//! images at once, each by chance from a seed that is printed, for a number of commands.
//!
//! No command may fail but for a reason that another hand gave it ([`reasons`]), nothing may be damaged at the end, and
//! after a last prune nothing may be left: no file, no row, no mount, no process. `HULL_CROWD_COMMANDS` says how many
//! commands each hand gives, `HULL_CROWD_SEED` where chance begins.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use hull_store::{Store, StoreError};
use serde_json::json;
use system_tests::archive::{Image, Layer};
use system_tests::registry::Registry;
use system_tests::{Hull, is_vm};

/// Hulls at work at the same time.
const HANDS: u64 = 4;
/// Images that they fight about.
const IMAGES: usize = 3;
/// Tables in which nothing may be left with the last image and container.
const TABLES: [&str; 9] = [
    "images",
    "image_names",
    "blobs",
    "image_blobs",
    "layers",
    "image_layers",
    "snapshots",
    "containers",
    "container_volumes",
];

/// The images: the first two share busybox's layer and one more, the third has other files at the same places.
fn images() -> Vec<Image> {
    let shared = || Layer::new().folder("data", 0o755, 0).file("data/shared", &[b's'; 9000]);
    let own = |number: u8| Layer::new().file("data/own", &vec![number; 3000 << number]);
    let named =
        |number: usize| Image::new(&format!("crowd/{number}:latest"), json!({"Labels": {"n": number.to_string()}}));
    vec![named(0).layer(shared()).layer(own(0)), named(1).layer(shared()).layer(own(1)), named(2).layer(own(2))]
}

struct Crowd<'a> {
    hull: &'a Hull,
    registry: SocketAddr,
}

impl Crowd<'_> {
    fn image(&self, number: usize) -> String {
        format!("{}/crowd/{number}:latest", self.registry)
    }

    /// A command by chance.
    fn command(&self, random: &mut fastrand::Rng) -> Vec<String> {
        let image = self.image(random.usize(0..IMAGES));
        let tag = format!("other:{}", random.u8(0..3));
        let either = if random.bool() { image.clone() } else { tag.clone() };
        let container = format!("c{}", random.u8(0..3));
        let archive = self.hull.file(&format!("{}.tar", random.usize(0..IMAGES)));
        let words: Vec<&str> = match random.u8(0..32) {
            0..5 => vec!["pull", "-q", &image],
            5..8 => vec!["load", "-q", "-i", &archive],
            8..10 => vec!["tag", &image, &tag],
            10..13 => vec!["rmi", &either],
            13 => vec!["rmi", "-f", &either],
            14..17 => vec!["create", "--name", &container, "-v", "/data", &image, "true"],
            17..19 => vec!["rm", "-v", &container],
            19 => vec!["start", &container],
            20..22 => vec!["run", "--rm", &image, "cat", "/data/own"],
            22 => vec!["commit", &container, &tag],
            23 => vec!["save", "-o", "/dev/null", &either],
            24..26 => vec!["system", "gc"],
            26 => vec!["system", "prune", "-f"],
            27 => vec!["system", "prune", "-f", "-a", "--volumes"],
            28 => vec!["image", "prune", "-f", "-a"],
            29 => vec!["system", "check"],
            30 => vec!["system", "df", "-v"],
            _ => vec!["images", "--digests"],
        };
        words.into_iter().map(str::to_owned).collect()
    }
}

/// What another hand may have done that makes such a command fail, in the words of the error.
fn reasons(words: &[String]) -> &'static [&'static str] {
    match words[0].as_str() {
        "tag" | "save" => &["No such image"],
        "rmi" => &["No such image", "conflict: unable to"],
        "create" => &["is already in use by container"],
        "rm" => &["No such container", "is already in progress", "is running", "is still being created"],
        "start" => &[
            "No such container",
            "is already running",
            "is already in progress",
            "is still being created",
            "is marked for removal",
        ],
        "commit" => &["No such container", "is already in progress"],
        _ => &[],
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn four_hulls_at_once_on_one_store_agree_and_leave_nothing() {
    let hull = Hull::new();
    let mut registry = Registry::default();
    for (number, image) in images().iter_mut().enumerate() {
        registry = registry.and(Registry::with(&format!("crowd/{number}"), image));
    }
    let crowd = Crowd { hull: &hull, registry: registry.serve() };
    for (number, mut image) in images().into_iter().enumerate() {
        image.names = vec![crowd.image(number)];
        image.write(&hull.files().join(format!("{number}.tar")));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let seed = number("HULL_CROWD_SEED").unwrap_or(now);
    let count = number("HULL_CROWD_COMMANDS").unwrap_or(if is_vm() { 25 } else { 150 });
    println!("HULL_CROWD_SEED={seed}");
    let (wrong, done) = (Mutex::new(Vec::new()), Mutex::new(BTreeSet::new()));
    thread::scope(|scope| {
        for hand in 0..HANDS {
            let (crowd, wrong, done) = (&crowd, &wrong, &done);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed ^ (hand << 40));
                for _ in 0..count {
                    let words = crowd.command(&mut random);
                    let run = crowd.hull.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
                    if run.code == 0 {
                        done.lock().expect("no panic").insert(words[0].clone());
                    } else if !reasons(&words).iter().any(|reason| run.stderr.contains(reason)) {
                        wrong.lock().expect("no panic").push(run);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic");
    assert!(wrong.is_empty(), "{} of {} commands failed: {wrong:#?}", wrong.len(), count * HANDS);
    // A word that always failed would hide behind its reasons.
    let done = done.into_inner().expect("no panic");
    assert!(count < 150 || done.len() == 13, "only these ever did anything: {done:?}");
    empties(&hull);
}

/// Everything is whole, and the last prune takes everything.
fn empties(hull: &Hull) {
    hull.run(&["system", "check"]).expect(0);
    let containers = hull.containers();
    for container in &containers {
        hull.ok(&["rm", "-f", "-v", container]);
    }
    hull.ok(&["system", "prune", "-f", "-a", "--volumes"]);
    hull.run(&["system", "check"]).expect(0);
    assert_eq!(hull.ok(&["images", "-aq"]), "");
    assert_eq!(hull.ok(&["volume", "ls", "-q"]), "");
    let store = Store::open(hull.roots()).expect("the store");
    let rows = TABLES.map(|table| {
        let count = store.read(|db| {
            let count = db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))?;
            Ok::<i64, StoreError>(count)
        });
        (table, count.expect("a count"))
    });
    assert_eq!(rows, TABLES.map(|table| (table, 0)));
    assert_eq!(hull.leftovers(), Vec::<String>::new());
}
