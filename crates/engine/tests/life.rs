//! Containers that are created, listed, prepared and removed on a store of their own, without being started.
//!
//! Starting needs the `hull` binary and is tested end to end; here is what the engine keeps on disk and in the
//! database, and that nothing of it stays. Needs root.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use hull_engine::request::{CreateContainer, MountRequest, MountSource, NamespaceChoice};
use hull_engine::{ContainerState, Engine, ErrorKind, ListQuery, NoProgress, RemoveOptions};
use hull_store::{Lease, Roots};
use tempfile::TempDir;

struct Hull {
    engine: Engine,
    folder: TempDir,
}

fn hull() -> Hull {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let roots = Roots::new(folder.path().join("root"), folder.path().join("state"));
    Hull { engine: Engine::open(roots).expect("root"), folder }
}

fn hello(name: &str) -> CreateContainer {
    CreateContainer { image: "hello".into(), name: Some(name.into()), ..CreateContainer::default() }
}

fn volume(name: Option<&str>, target: &str) -> MountRequest {
    MountRequest {
        source: MountSource::Volume { name: name.map(str::to_owned), copy_up: true },
        target: target.into(),
        read_only: false,
        propagation: None,
        ownership: hull_engine::request::Ownership::default(),
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

fn count(engine: &Engine, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    engine.store().read(|db| Ok::<i64, hull_store::StoreError>(db.query_row(&sql, [], |row| row.get(0))?)).unwrap()
}

fn all() -> ListQuery {
    ListQuery { all: true, ..ListQuery::default() }
}

#[test]
fn a_created_container_is_listed_and_removed_without_a_trace() {
    let Hull { engine, folder } = hull();
    let created = engine.create(hello("one"), &NoProgress).unwrap();
    assert_eq!(created.name, "one");
    let listed = engine.list(&all()).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].command, ["/hello"]);
    assert_eq!(listed[0].state, ContainerState::Created);
    assert!(engine.list(&ListQuery::default()).unwrap().is_empty(), "it does not run");
    engine.remove(&created.id.as_str()[..8], &RemoveOptions::default()).unwrap();
    assert!(engine.list(&all()).unwrap().is_empty());
    assert!(entries(&folder.path().join("root/containers")).is_empty());
    assert!(entries(&folder.path().join("root/snapshots/overlay")).is_empty());
    assert!(entries(&folder.path().join("state")).is_empty());
    assert_eq!((count(&engine, "containers"), count(&engine, "snapshots")), (0, 0));
}

#[test]
fn a_taken_name_is_dockers_conflict() {
    let Hull { engine, folder: _folder } = hull();
    let first = engine.create(hello("one"), &NoProgress).unwrap();
    let error = engine.create(hello("one"), &NoProgress).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(
        error.to_string(),
        format!(
            "Conflict. The container name \"/one\" is already in use by container \"{}\". You have to remove (or \
             rename) that container to be able to reuse that name.",
            first.id
        )
    );
    assert_eq!(engine.create(hello("o"), &NoProgress).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_refused_creation_leaves_nothing() {
    let Hull { engine, folder } = hull();
    let mut broken = hello("one");
    broken.resources.memory_bytes = Some(1);
    assert_eq!(engine.create(broken, &NoProgress).unwrap_err().to_string(), "Minimum memory limit allowed is 6MB");
    let mut missing = hello("two");
    missing.mounts = vec![MountRequest {
        source: MountSource::Bind { path: "/no/such/source".into(), create: false, recursive: true },
        target: "/x".into(),
        read_only: false,
        propagation: None,
        ownership: hull_engine::request::Ownership::default(),
    }];
    assert_eq!(engine.create(missing, &NoProgress).unwrap_err().kind(), ErrorKind::Invalid);
    let mut alone = hello("three");
    alone.network = NamespaceChoice::Container("nobody".into());
    assert_eq!(engine.create(alone, &NoProgress).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(count(&engine, "containers"), 0);
    assert!(entries(&folder.path().join("root/containers")).is_empty());
}

#[test]
fn volumes_are_filled_from_the_image_and_anonymous_ones_go_with_v() {
    let Hull { engine, folder } = hull();
    let volumes = folder.path().join("root/volumes");
    let mut request = hello("one");
    request.mounts = vec![volume(Some("named"), "/etc"), volume(None, "/data")];
    engine.create(request.clone(), &NoProgress).unwrap();
    assert_eq!(entries(&volumes).len(), 2);
    assert!(entries(&volumes.join("named/_data")).contains(&"passwd".to_owned()), "filled from the image");
    fs::write(volumes.join("named/_data/mine"), "kept").unwrap();

    request.name = Some("two".into());
    engine.create(request, &NoProgress).unwrap();
    assert_eq!(entries(&volumes).len(), 3, "the named one is shared");
    engine.remove("one", &RemoveOptions { volumes: true, ..RemoveOptions::default() }).unwrap();
    assert_eq!(entries(&volumes).len(), 2);
    engine.remove("two", &RemoveOptions::default()).unwrap();
    assert_eq!(entries(&volumes).len(), 2, "without -v its anonymous volume stays");
    assert_eq!(fs::read_to_string(volumes.join("named/_data/mine")).unwrap(), "kept");
}

#[test]
fn what_a_killed_command_left_is_swept() {
    let Hull { engine, folder } = hull();
    let mut request = hello("one");
    request.mounts = vec![volume(None, "/data")];
    let created = engine.create(request, &NoProgress).unwrap();
    // As if the creating process had died before its end.
    fs::remove_file(folder.path().join("root/containers").join(created.id.as_str()).join("request.json")).unwrap();
    let dead = Lease { start_time: 1, ..Lease::current().unwrap() };
    engine
        .store()
        .write(|tx| {
            let (pid, start, boot) = dead.columns();
            tx.execute("UPDATE containers SET lease_pid = ?1, lease_start = ?2, lease_boot = ?3", (pid, start, boot))?;
            Ok::<_, hull_store::StoreError>(())
        })
        .unwrap();
    fs::create_dir(folder.path().join("root/containers").join("a".repeat(64))).unwrap();
    fs::create_dir(folder.path().join("root/volumes").join("b".repeat(64))).unwrap();
    fs::create_dir(folder.path().join("root/volumes/named")).unwrap();

    let again = engine.create(hello("one"), &NoProgress).expect("the name is free again");
    let recovered = engine.recover().unwrap();
    assert_eq!(recovered.leftovers, 0, "create has swept already");
    assert_eq!(entries(&folder.path().join("root/containers")), [again.id.as_str()]);
    assert_eq!(entries(&folder.path().join("root/volumes")), ["named"], "a named folder is never swept");
    assert_eq!(count(&engine, "snapshots"), 1);
}

#[test]
fn a_start_is_prepared_from_what_is_there() {
    let Hull { engine, folder } = hull();
    let mut request = hello("one");
    request.hostname = Some("box".into());
    request.workdir = Some("/made/by/hull".into());
    request.user = Some("root:root".into());
    request.network = NamespaceChoice::None;
    let id = engine.create(request, &NoProgress).unwrap().id;
    let plan = engine.prepare_start(&id).unwrap();
    let process = plan.spec.process.as_ref().unwrap();
    assert_eq!(process.args, ["/hello"]);
    assert!(process.env.contains(&"HOSTNAME=box".to_owned()) && process.env.contains(&"HOME=/".to_owned()));
    assert!(plan.cgroup_path.starts_with("/hull-") && plan.cgroup_path.ends_with(id.as_str()));
    let own = folder.path().join("root/containers").join(id.as_str());
    assert_eq!(fs::read_to_string(own.join("hostname")).unwrap(), "box\n");
    let mounted = plan.rootfs.mount_detached().unwrap();
    assert!(hull_kernel::mounts::inside::exists(std::os::fd::AsFd::as_fd(&mounted), Path::new("/made/by/hull")));
    drop(mounted);

    let mut nobody = hello("two");
    nobody.user = Some("nobody-here".into());
    let id = engine.create(nobody, &NoProgress).unwrap().id;
    let error = engine.prepare_start(&id).unwrap_err();
    assert_eq!(error.to_string(), "unable to find user nobody-here: no matching entries in passwd file");
}

#[test]
fn the_machines_root_hides_hulls_own_folders() {
    let folder = tempfile::tempdir_in("/var/lib").expect("a folder on the root file system");
    let roots = Roots::new(folder.path().join("root"), folder.path().join("state"));
    let engine = Engine::open(roots).unwrap();
    let network = NamespaceChoice::None;
    let command = vec!["true".into()];
    let request = CreateContainer { image: "host".into(), command, network, ..CreateContainer::default() };
    let id = engine.create(request, &NoProgress).unwrap().id;
    let plan = engine.prepare_start(&id).unwrap();
    let targets: Vec<&Path> = plan.spec.mounts.iter().map(|mount| mount.destination.as_path()).collect();
    for hidden in [Path::new("/run"), Path::new("/tmp"), &folder.path().join("root"), &folder.path().join("state")] {
        assert!(targets.contains(&hidden), "{hidden:?} in {targets:?}");
    }
    engine.remove(id.as_str(), &RemoveOptions::default()).unwrap();
}

#[test]
fn commands_on_what_does_not_run_are_refused_in_dockers_words() {
    let Hull { engine, folder: _folder } = hull();
    engine.create(hello("one"), &NoProgress).unwrap();
    let text = |error: hull_engine::EngineError| error.to_string();
    assert_eq!(text(engine.pause("one").unwrap_err()), "cannot pause container \"one\": container is not running");
    assert_eq!(text(engine.unpause("one").unwrap_err()), "cannot unpause container \"one\": container is not paused");
    let kill = engine.kill("one", hull_engine::Signal::KILL).unwrap_err();
    assert_eq!(kill.kind(), ErrorKind::Conflict);
    engine.stop("one", &hull_engine::StopOptions::default()).expect("stopped already");
    assert_eq!(engine.wait("one").unwrap().code, Some(0));
    assert_eq!(text(engine.remove("two", &RemoveOptions::default()).unwrap_err()), "No such container: two");
}

#[test]
fn files_are_copied_into_and_out_of_a_container_that_does_not_run() {
    use hull_engine::{CopyEnd, CopyRequest};
    let Hull { engine, folder } = hull();
    let mut request = hello("one");
    let mut read_only = volume(Some("ro"), "/ro");
    read_only.read_only = true;
    request.mounts = vec![volume(Some("data"), "/data"), read_only];
    engine.create(request, &NoProgress).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "text").unwrap();
    let copy = |from: &str, to: &str| {
        let request =
            CopyRequest { from: CopyEnd::parse(from), to: CopyEnd::parse(to), archive: false, follow_link: false };
        let mut stdout = Vec::new();
        engine.copy(&request, &mut std::io::empty(), &mut stdout).map(|report| (report.bytes, stdout))
    };
    let host = file.display().to_string();
    copy(&host, "one:/etc/new").unwrap();
    copy(&host, "one:data").unwrap();
    let in_volume = folder.path().join("root/volumes/data/_data/file");
    assert_eq!(fs::read_to_string(in_volume).unwrap(), "text");
    let back = folder.path().join("back").display().to_string();
    assert_eq!(copy("one:/etc/new", &back).unwrap().0, 4);
    assert_eq!(fs::read_to_string(&back).unwrap(), "text");
    assert!(!copy("one:/etc", "-").unwrap().1.is_empty());
    let refused = copy(&host, "one:/ro/file").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Permission);
    assert_eq!(copy("one:/x", "one:/y").unwrap_err().to_string(), "copying between containers is not supported");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&folder.path().display().to_string()), "the machine's mount table is as it was");
}
