//! The store as several processes use it: made once, opened by many, refused when it is not ours.
//!
//! Other processes are this test binary again, running one test chosen by name with an environment variable that
//! tells it what to do; without the variable that test does nothing.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use hull_store::{HoldKind, Holder, Roots, Store, StoreError, is_held, release_dead, schema};

const CHILD_ROOT: &str = "HULL_STORE_TEST_CHILD_ROOT";
const ROWS_PER_CHILD: i64 = 20;

fn roots(folder: &tempfile::TempDir) -> Roots {
    Roots::new(folder.path().join("root"), folder.path().join("state"))
}

fn add_volume(store: &Store, name: &str) -> Result<(), StoreError> {
    store.write(|transaction| {
        transaction.execute("INSERT INTO volumes VALUES (?1, 0, 0, '{}', '{}', NULL, NULL, NULL)", [name])?;
        Ok(())
    })
}

fn count(store: &Store, table: &str) -> i64 {
    let query = format!("SELECT count(*) FROM {table}");
    store
        .read(|connection| Ok::<i64, StoreError>(connection.query_row(&query, [], |row| row.get(0))?))
        .expect("table exists")
}

fn spawn_child(root: &Path) -> Child {
    Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child_entry", "--nocapture"])
        .env(CHILD_ROOT, root)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("test binary runs")
}

#[test]
fn child_entry() {
    let Some(root) = std::env::var_os(CHILD_ROOT).map(PathBuf::from) else { return };
    let roots = Roots::new(&root, root.join("state"));
    for number in 0..ROWS_PER_CHILD {
        let store = Store::open(&roots).expect("opens");
        add_volume(&store, &format!("{}-{number}", std::process::id())).expect("writes");
    }
}

#[test]
fn processes_race_to_make_it_and_all_write() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let roots = roots(&folder);
    let children: Vec<Child> = (0..6).map(|_| spawn_child(&roots.root)).collect();
    for mut child in children {
        assert!(child.wait().expect("own child").success());
    }
    let store = Store::open(&roots).expect("opens");
    assert_eq!(count(&store, "volumes"), 6 * ROWS_PER_CHILD);
    let names: Vec<_> =
        std::fs::read_dir(&roots.root).expect("root").map(|entry| entry.expect("entry").file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains(".new")), "{names:?}");
}

#[test]
fn threads_race_to_make_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let roots = roots(&folder);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let roots = &roots;
            scope
                .spawn(move || add_volume(&Store::open(roots).expect("opens"), &format!("t{number}")).expect("writes"));
        }
    });
    assert_eq!(count(&Store::open(&roots).expect("opens"), "volumes"), 8);
}

#[test]
fn a_leftover_of_a_killed_maker_is_replaced() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let roots = roots(&folder);
    std::fs::create_dir_all(&roots.root).expect("makes");
    std::fs::write(roots.root.join("hull.db.new"), b"half a database").expect("writes");
    std::fs::write(roots.root.join("hull.db.new-wal"), b"half a log").expect("writes");
    let store = Store::open(&roots).expect("opens");
    assert_eq!(count(&store, "images"), 0);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(roots.database()).expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_error_rolls_back_and_foreign_keys_hold() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Store::open(&roots(&folder)).expect("opens");
    let failed: Result<(), StoreError> = store.write_durable(|transaction| {
        transaction.execute("INSERT INTO volumes VALUES ('x', 0, 0, '{}', '{}', NULL, NULL, NULL)", [])?;
        transaction.execute("INSERT INTO nowhere VALUES (1)", [])?;
        Ok(())
    });
    assert!(matches!(failed, Err(StoreError::Query(_))));
    assert_eq!(count(&store, "volumes"), 0);

    let no_image: Result<(), StoreError> = store.write(|transaction| {
        transaction.execute("INSERT INTO image_names VALUES ('a', 'sha256:00', NULL)", [])?;
        Ok(())
    });
    assert!(no_image.is_err());
    assert_eq!(count(&store, "image_names"), 0);

    let later_image: Result<(), StoreError> = store.write_durable(|transaction| {
        transaction.execute("INSERT INTO image_names VALUES ('a', 'sha256:00', NULL)", [])?;
        transaction.execute("INSERT INTO images VALUES ('sha256:00', NULL, 1, 2)", [])?;
        Ok(())
    });
    assert!(later_image.is_ok(), "keys are checked at commit: {later_image:?}");
    store.checkpoint().expect("nobody is in the way");
}

#[test]
fn wrong_types_are_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Store::open(&roots(&folder)).expect("opens");
    let result: Result<(), StoreError> = store.write(|transaction| {
        transaction.execute("INSERT INTO images VALUES ('sha256:00', NULL, 'much', 2)", [])?;
        Ok(())
    });
    assert!(result.is_err());
}

#[test]
fn a_newer_one_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let roots = roots(&folder);
    let store = Store::open(&roots).expect("opens");
    let newer = schema::VERSION + 1;
    store
        .write(|transaction| Ok::<_, StoreError>(transaction.pragma_update(None, "user_version", newer)?))
        .expect("writes");
    drop(store);
    let error = Store::open(&roots).expect_err("newer").to_string();
    assert!(error.contains("hull.db was written by a newer Hull") && error.contains(&newer.to_string()), "{error}");
}

#[test]
fn a_damaged_or_foreign_one_is_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let damaged = roots(&folder);
    std::fs::create_dir_all(&damaged.root).expect("makes");
    std::fs::write(damaged.database(), vec![b'x'; 8192]).expect("writes");
    let error = Store::open(&damaged).expect_err("not a database");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("root/hull.db is damaged"), "{error}");

    std::fs::write(damaged.database(), b"").expect("writes");
    assert!(matches!(Store::open(&damaged), Err(StoreError::Foreign { application_id: 0, .. })));
}

#[test]
fn a_root_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("file");
    std::fs::write(&file, b"").expect("writes");
    let error = Store::open(&Roots::new(file.join("root"), "/run/x")).expect_err("a file is in the way").to_string();
    assert!(error.contains("file/root"), "{error}");
    let error = Store::open(&Roots::new("/proc/hull", "/run/x")).expect_err("/proc takes no folders").to_string();
    assert!(error.contains("/proc/hull"), "{error}");
}

#[test]
fn a_hold_counts_while_its_owner_lives() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Store::open(&roots(&folder)).expect("opens");
    let (one, two) = (Holder::new().expect("/proc"), Holder::new().expect("/proc"));
    let held = |kind, key: &str| {
        store.write(|transaction| Ok::<_, StoreError>(is_held(transaction, kind, key)?)).expect("asks")
    };
    store
        .write(|transaction| {
            one.hold(transaction, HoldKind::Blob, "a")?;
            one.hold(transaction, HoldKind::Blob, "a")?;
            two.hold(transaction, HoldKind::Blob, "a")?;
            let (pid, start, boot) = one.lease().columns();
            transaction.execute("INSERT INTO holds VALUES ('blob', 'b', 0, ?1, ?2, ?3)", (pid, start + 1, boot))?;
            Ok::<_, StoreError>(())
        })
        .expect("holds");
    assert!(held(HoldKind::Blob, "a"));
    assert!(!held(HoldKind::Layer, "a"));
    assert!(!held(HoldKind::Blob, "b"), "its owner is dead");
    assert_eq!(count(&store, "holds"), 3);
    store.write(|transaction| Ok::<_, StoreError>(release_dead(transaction)?)).expect("releases");
    assert_eq!(count(&store, "holds"), 2);
    store.write(|transaction| Ok::<_, StoreError>(one.let_go(transaction)?)).expect("lets go");
    assert!(held(HoldKind::Blob, "a"), "the other one still holds it");
    store.write(|transaction| Ok::<_, StoreError>(two.let_go(transaction)?)).expect("lets go");
    assert!(!held(HoldKind::Blob, "a"));
}
