//! The image store: finding, tagging and removing.

use hull_image::registry::{PullOptions, pull};
use hull_image::{Conflict, IgnoreLayers, ImageError, ImageStore, NoProgress, Removal, Removed};
use hull_oci::Reference;
use hull_store::StoreError;

use crate::fixture::{Hull, TestImage, tar_of};
use crate::server::Server;

const NOBODY_RUNS: Removal<'static> = Removal { force: false, is_running: &|_| false };
const FORCE: Removal<'static> = Removal { force: true, is_running: &|_| false };

/// Pulls an image under a name.
fn add(images: &ImageStore<'_>, server: &Server, name: &str, image: &TestImage) -> String {
    let (repository, tag) = name.split_once(':').expect("name:tag");
    server.put_image(repository, tag, image);
    let reference = server.reference(name);
    let options = PullOptions { docker_config: Some("/nowhere".into()), ..PullOptions::default() };
    let pulled = pull(images, &reference, &options, &IgnoreLayers, &NoProgress).expect("pulls");
    images.add(&pulled.image).expect("adds");
    reference.familiar()
}

fn image(name: &str) -> TestImage {
    TestImage::new("amd64", &[tar_of(&["base"], 1), tar_of(&[name], 1)])
}

fn add_container(hull: &Hull, id: &str, image: &TestImage) {
    let insert = |transaction: &rusqlite::Transaction<'_>| {
        transaction.execute(
            "INSERT INTO containers VALUES (?1, ?1, ?2, NULL, 0, 0, NULL, NULL, NULL)",
            [id, image.id().as_str()],
        )?;
        Ok::<_, StoreError>(())
    };
    hull.store.write(insert).expect("inserts");
}

#[test]
fn an_image_is_found_by_name_id_and_prefix() {
    let (hull, server, one) = (Hull::new(), Server::new(), image("one"));
    let images = hull.images();
    let name = add(&images, &server, "a:1", &one);
    let id = one.id();
    let texts =
        [name, id.to_string(), id.hex().to_owned(), id.short().to_owned(), format!("sha256:{}", &id.hex()[..4])];
    for text in &texts {
        assert_eq!(images.resolve(text).expect(text).expect(text).id, id, "{text}");
    }
    for text in ["nothing", &id.hex()[..3], "sha256:0000", "a:1"] {
        assert!(images.resolve(text).expect(text).is_none(), "{text}");
    }
    assert!(matches!(images.resolve("UPPER"), Err(ImageError::Reference(_))));
}

#[test]
fn a_name_comes_before_an_id_and_a_prefix_must_be_one() {
    let (hull, server) = (Hull::new(), Server::new());
    let images = hull.images();
    // Enough images that two ids begin with the same digit; the store is asked with four, so make the rows directly.
    let (low, high) = (format!("sha256:abcd{}", "0".repeat(60)), format!("sha256:abcd{}", "f".repeat(60)));
    let insert = |transaction: &rusqlite::Transaction<'_>| {
        for id in [&low, &high] {
            transaction.execute("INSERT INTO images VALUES (?1, NULL, 0, 0)", [id])?;
        }
        transaction.execute("INSERT INTO image_names VALUES ('docker.io/library/x:1', ?1, NULL)", [&low])?;
        Ok::<_, StoreError>(())
    };
    hull.store.write(insert).expect("inserts");
    let error = images.resolve("abcd").expect_err("ambiguous").to_string();
    assert!(error.contains(&low) && error.contains(&high) && error.contains("(x:1)"), "{error}");
    let one = image("one");
    add(&images, &server, "b:1", &one);
    images.tag(one.id().as_str(), &Reference::parse("abcd").expect("reference")).expect("tags");
    assert_eq!(images.resolve("abcd").expect("named").expect("present").id, one.id());
}

#[test]
fn tags_move_and_refuse_digests() {
    let (hull, server) = (Hull::new(), Server::new());
    let images = hull.images();
    let (one, two) = (image("one"), image("two"));
    let (name_one, name_two) = (add(&images, &server, "a:1", &one), add(&images, &server, "a:2", &two));
    let target = Reference::parse("mine").expect("reference");
    for (source, image) in [(name_one, &one), (name_two, &two)] {
        images.tag(&source, &target).expect("tags");
        assert_eq!(images.resolve("mine").expect("reads").expect("present").id, image.id());
    }
    assert!(matches!(images.tag("nothing", &target), Err(ImageError::NotFound { .. })));
    let by_digest = target.with_digest(one.id());
    assert!(matches!(images.tag("mine", &by_digest), Err(ImageError::TagWithDigest { .. })));
}

#[test]
fn the_last_name_takes_the_image_and_its_own_blobs() {
    let (hull, server) = (Hull::new(), Server::new());
    let images = hull.images();
    let (one, two) = (image("one"), image("two"));
    let (name_one, name_two) = (add(&images, &server, "a:1", &one), add(&images, &server, "b:1", &two));
    assert_eq!(hull.files(), 7, "the base layer is shared");
    let chain = images.get(&one.id()).expect("reads").expect("present").layers[1].chain_id.clone();
    let removed = images.remove(&name_one, &NOBODY_RUNS).expect("removes");
    assert_eq!(removed.deleted, Some(one.id()));
    assert_eq!(removed.unused_layers, [chain]);
    assert_eq!(removed.untagged.len(), 2, "tag and digest: {:?}", removed.untagged);
    assert_eq!(hull.files(), 4);
    assert!(images.intact(&two.id()).expect("looks").is_some());
    images.remove(&name_two, &NOBODY_RUNS).expect("removes");
    hull.assert_empty();
    assert!(matches!(images.remove(&name_two, &NOBODY_RUNS), Err(ImageError::NotFound { .. })));
}

#[test]
fn one_of_several_names_only_untags() {
    let (hull, server, one) = (Hull::new(), Server::new(), image("one"));
    let images = hull.images();
    let name = add(&images, &server, "a:1", &one);
    images.tag(&name, &Reference::parse("mine:2").expect("reference")).expect("tags");
    let error = images.remove(one.id().hex(), &NOBODY_RUNS).expect_err("two repositories");
    assert!(error.to_string().ends_with("image is referenced in multiple repositories"), "{error}");
    let removed = images.remove("mine:2", &NOBODY_RUNS).expect("untags");
    assert_eq!(removed, Removed { untagged: vec!["mine:2".to_owned()], ..Removed::default() });
    images.tag(&name, &Reference::parse("mine:2").expect("reference")).expect("tags");
    let removed = images.remove(one.id().short(), &FORCE).expect("force");
    assert_eq!((removed.untagged.len(), removed.deleted), (3, Some(one.id())));
    hull.assert_empty();
}

#[test]
fn a_container_keeps_its_image() {
    let (hull, server, one) = (Hull::new(), Server::new(), image("one"));
    let images = hull.images();
    let name = add(&images, &server, "a:1", &one);
    let container = "c0ffee".repeat(10);
    add_container(&hull, &container, &one);
    let (short, image) = (&container[..12], one.id().short().to_owned());
    let error = images.remove(&name, &NOBODY_RUNS).expect_err("used").to_string();
    let expected = format!(
        "conflict: unable to remove repository reference \"{name}\" (must force) - container {short} is using its \
         referenced image {image}"
    );
    assert_eq!(error, expected);
    let error = images.remove(&image, &NOBODY_RUNS).expect_err("used").to_string();
    assert!(error.contains("(must be forced) - image is being used by stopped container"), "{error}");
    let running = Removal { force: true, is_running: &|id| id == container };
    let error = images.remove(&image, &running).expect_err("used");
    assert!(matches!(&error, ImageError::Conflict(Conflict::Running { .. })), "{error:?}");
    let removed = images.remove(&name, &FORCE).expect("untags");
    assert_eq!((removed.untagged.len(), removed.deleted), (2, None));
    assert!(images.intact(&one.id()).expect("looks").is_some(), "its container still needs it");
}

#[test]
fn sweep_takes_blobs_without_an_image() {
    let (hull, server, one) = (Hull::new(), Server::new(), image("one"));
    let images = hull.images();
    add(&images, &server, "a:1", &one);
    let stray = hull.roots.content().join("sha256/00").join(format!("00{}", "a".repeat(62)));
    std::fs::create_dir_all(stray.parent().expect("folder")).expect("makes");
    std::fs::write(&stray, b"stray").expect("writes");
    let insert = |transaction: &rusqlite::Transaction<'_>| {
        let digest = format!("sha256:{}", "b".repeat(64));
        transaction.execute("INSERT INTO blobs VALUES (?1, 1, '')", [digest])?;
        Ok::<_, StoreError>(())
    };
    hull.store.write(insert).expect("inserts");
    assert_eq!(images.sweep().expect("sweeps"), 1);
    assert_eq!((hull.files(), hull.rows("blobs")), (4, 4));
    assert_eq!(images.list().expect("lists").len(), 1);
}

#[test]
fn pulls_and_removals_at_the_same_time_leave_whole_images() {
    let (hull, server) = (Hull::new(), Server::new());
    let (one, two) = (image("one"), image("two"));
    server.put_image("a", "1", &one);
    server.put_image("b", "1", &two);
    let options = PullOptions { docker_config: Some("/nowhere".into()), ..PullOptions::default() };
    std::thread::scope(|scope| {
        for name in ["a:1", "b:1", "a:1", "b:1"] {
            let (hull, server, options) = (&hull, &server, &options);
            scope.spawn(move || {
                let store = hull_store::Store::open(&hull.roots).expect("opens");
                let images = ImageStore::new(&store, &hull.roots);
                let reference = server.reference(name);
                for _ in 0..8 {
                    let pulled = pull(&images, &reference, options, &IgnoreLayers, &NoProgress).expect("pulls");
                    images.add(&pulled.image).expect("adds");
                    drop(pulled);
                    match images.remove(&reference.familiar(), &NOBODY_RUNS) {
                        Ok(_) | Err(ImageError::NotFound { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    images.sweep().expect("sweeps");
                }
                let pulled = pull(&images, &reference, options, &IgnoreLayers, &NoProgress).expect("pulls");
                images.add(&pulled.image).expect("adds");
            });
        }
    });
    let images = hull.images();
    for image in [&one, &two] {
        // The other thread with this name may have removed it last.
        if images.get(&image.id()).expect("reads").is_some() {
            assert!(images.intact(&image.id()).expect("looks").is_some());
        }
    }
    assert_eq!(hull.rows("holds"), 0);
    images.sweep().expect("sweeps");
    assert_eq!(i64::try_from(hull.files()).expect("few"), hull.rows("blobs"));
}
