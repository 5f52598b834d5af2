//! Archives as docker, skopeo and an attacker write them.

use std::io::{Cursor, Read};

use hull_image::archive::{
    ArchiveError, ArchiveFormat, ImportOptions, LoadOptions, SaveError, SaveTarget, choose, import, load, load_folder,
    save,
};
use hull_image::registry::{PullOptions, pull};
use hull_image::{IgnoreLayers, Image, LayerDescriptor, NoProgress};
use hull_oci::image as media;
use hull_oci::{Digest, Platform, Reference};
use serde_json::json;

use crate::fixture::{Blob, Hull, Recorder, TestImage, append, gzip, manifest_of, tar_of, told};
use crate::server::Server;

/// Name and content of an archive's files, in order.
pub type Files = Vec<(String, Vec<u8>)>;

pub fn tar(files: &Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        append(&mut builder, name, content);
    }
    builder.into_inner().expect("memory")
}

pub fn file(name: impl ToString, content: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.to_string(), content.into())
}

pub fn image() -> TestImage {
    TestImage::new("amd64", &[tar_of(&["etc/one"], 100), tar_of(&["etc/two"], 10)])
}

/// What docker wrote before version 25; the manifest comes last.
pub fn old_docker(image: &TestImage, tags: &[&str]) -> Files {
    let mut files = Files::new();
    let mut layers = Vec::new();
    for (index, layer) in image.tars.iter().enumerate() {
        let id = format!("{index:064x}");
        files.push(file(format!("{id}/VERSION"), "1.0"));
        files.push(file(format!("{id}/json"), "{}"));
        files.push(file(format!("{id}/layer.tar"), layer.clone()));
        layers.push(format!("{id}/layer.tar"));
    }
    let config = format!("{}.json", image.id().hex());
    files.push(file(&config, image.config.bytes.clone()));
    files.push(file("repositories", "{}"));
    let manifest = json!([{"Config": config, "RepoTags": tags, "Layers": layers}]);
    files.push(file("manifest.json", manifest.to_string()));
    files
}

/// An archive as docker before version 25 wrote it: no manifest of the registry's form, layers uncompressed.
pub fn docker_archive(image: &TestImage, tags: &[&str]) -> Vec<u8> {
    tar(&old_docker(image, tags))
}

pub fn blob_file(blob: &Blob) -> (String, Vec<u8>) {
    file(format!("blobs/sha256/{}", blob.digest().hex()), blob.bytes.clone())
}

/// An OCI layout; the annotations go to its only entry.
pub fn oci(image: &TestImage, annotations: &serde_json::Value) -> Files {
    let mut entry = image.manifest.descriptor();
    entry["annotations"] = annotations.clone();
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let mut files =
        vec![file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), file("index.json", index.to_string())];
    files.extend(image.layers.iter().chain([&image.config, &image.manifest]).map(blob_file));
    files
}

/// What docker writes since version 25: both in one, layers uncompressed.
fn new_docker(image: &TestImage, tag: &str) -> Files {
    let layers: Vec<Blob> = image.tars.iter().map(|tar| Blob::new(media::OCI_LAYER, tar.clone())).collect();
    let manifest = manifest_of(&image.config, &layers);
    let both = TestImage { layers, manifest, ..image.clone() };
    let mut files = oci(&both, &json!({"io.containerd.image.name": "docker.io/library/other:1"}));
    let path = |blob: &Blob| format!("blobs/sha256/{}", blob.digest().hex());
    let layers: Vec<String> = both.layers.iter().map(path).collect();
    let manifest = json!([{"Config": path(&both.config), "RepoTags": [tag], "Layers": layers, "LayerSources": {}}]);
    files.push(file("manifest.json", manifest.to_string()));
    files
}

fn load_one(hull: &Hull, archive: &[u8]) -> Result<Image, ArchiveError> {
    let images = hull.images();
    let loaded = load(&images, archive, &LoadOptions::default(), &NoProgress)?;
    let mut added: Vec<Image> = loaded.iter().map(|image| images.add(image).expect("adds")).collect();
    assert_eq!(added.len(), 1);
    Ok(added.remove(0))
}

/// Loads, expects failure, and that nothing is left.
pub fn failure(archive: &[u8]) -> ArchiveError {
    let hull = Hull::new();
    let error = load(&hull.images(), archive, &LoadOptions::default(), &NoProgress).expect_err("must fail");
    hull.assert_empty();
    error
}

#[test]
fn ids_do_not_depend_on_the_way() {
    let image = image();
    let server = Server::new();
    server.put_image("a", "latest", &image);
    let pulled = {
        let hull = Hull::new();
        let images = hull.images();
        let options = PullOptions { docker_config: Some("/nowhere".into()), ..PullOptions::default() };
        let pulled = pull(&images, &server.reference("a"), &options, &IgnoreLayers, &NoProgress).expect("pulls");
        images.add(&pulled.image).expect("adds")
    };
    let full = json!({"io.containerd.image.name": "docker.io/library/x:1"});
    for files in [old_docker(&image, &["x:1"]), new_docker(&image, "x:1"), oci(&image, &full)] {
        let hull = Hull::new();
        let loaded = load_one(&hull, &tar(&files)).expect("loads");
        let ids = |image: &Image| {
            image.layers.iter().map(|layer| (layer.diff_id.clone(), layer.chain_id.clone())).collect::<Vec<_>>()
        };
        assert_eq!((&loaded.id, ids(&loaded)), (&pulled.id, ids(&pulled)));
        assert_eq!(loaded.tags(), ["x:1"]);
        assert_eq!(hull.rows("holds"), 0);
        let needed = loaded.layers.len() + 1 + usize::from(loaded.manifest_digest.is_some());
        assert_eq!(hull.files(), needed, "what no image needs is gone");
        assert!(loaded.layers.iter().all(|layer| !layer.media_type.is_empty()));
    }
}

#[test]
fn any_compression_and_a_pipe_will_do() {
    let image = image();
    let plain = tar(&old_docker(&image, &["x:1"]));
    let zstd = zstd::encode_all(&plain[..], 1).expect("memory");
    for archive in [plain.clone(), gzip(&plain), zstd] {
        // A reader that gives little at a time and cannot seek, as a pipe.
        let hull = Hull::new();
        let images = hull.images();
        let loaded =
            load(&images, OneByOne(Cursor::new(archive)), &LoadOptions::default(), &NoProgress).expect("loads");
        assert_eq!(loaded[0].id, image.id());
    }
}

struct OneByOne(Cursor<Vec<u8>>);

impl Read for OneByOne {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(333);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn linked_layers_and_several_images_load() {
    let image = image();
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, "b/layer.tar", &image.tars[1]);
    let mut link = |name: &str, kind: tar::EntryType, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, name, target).expect("memory");
    };
    link("c/layer.tar", tar::EntryType::Symlink, "../a/layer.tar");
    link("d/layer.tar", tar::EntryType::Link, "b/layer.tar");
    append(&mut builder, "a/layer.tar", &image.tars[0]);
    append(&mut builder, "config.json", &image.config.bytes);
    let single = TestImage::new("amd64", &[image.tars[0].clone()]);
    append(&mut builder, "single.json", &single.config.bytes);
    let manifest = json!([
        {"Config": "config.json", "RepoTags": ["one:1", "one:2"], "Layers": ["c/layer.tar", "d/layer.tar"]},
        {"Config": "single.json", "RepoTags": null, "Layers": ["a/layer.tar"]},
    ]);
    append(&mut builder, "manifest.json", manifest.to_string().as_bytes());
    let hull = Hull::new();
    let images = hull.images();
    let loaded =
        load(&images, &builder.into_inner().expect("memory")[..], &LoadOptions::default(), &NoProgress).expect("loads");
    let added: Vec<Image> = loaded.iter().map(|image| images.add(image).expect("adds")).collect();
    drop(loaded);
    assert_eq!((&added[0].id, added[0].tags()), (&image.id(), vec!["one:1".to_owned(), "one:2".to_owned()]));
    assert_eq!((&added[1].id, added[1].tags().len()), (&single.id(), 0));
    assert_eq!(hull.files(), 4, "two configurations, two layers");
}

#[test]
fn loading_what_was_pulled_adds_a_name_only() {
    let image = image();
    let server = Server::new();
    server.put_image("a", "latest", &image);
    let hull = Hull::new();
    let images = hull.images();
    let options = PullOptions { docker_config: Some("/nowhere".into()), ..PullOptions::default() };
    let pulled = pull(&images, &server.reference("a"), &options, &IgnoreLayers, &NoProgress).expect("pulls");
    images.add(&pulled.image).expect("adds");
    drop(pulled);
    let files = hull.files();
    let loaded = load_one(&hull, &tar(&old_docker(&image, &["x:1"]))).expect("loads");
    assert_eq!(loaded.tags().len(), 2);
    assert_eq!(loaded.layers[0].digest, image.layers[0].digest(), "the compressed blobs stay");
    assert!(loaded.manifest_digest.is_some());
    assert_eq!(hull.files(), files);
}

#[test]
fn names_come_from_annotations() {
    let image = image();
    for (annotations, expected) in [
        (json!({"org.opencontainers.image.ref.name": "r.example/a/b:2"}), vec!["r.example/a/b:2"]),
        (json!({"org.opencontainers.image.ref.name": "debian:2"}), vec!["debian:2"]),
        (json!({"org.opencontainers.image.ref.name": "latest"}), vec![]),
        (json!({}), vec![]),
        (json!(null), vec![]),
    ] {
        let loaded = load_one(&Hull::new(), &tar(&oci(&image, &annotations))).expect("loads");
        assert_eq!(loaded.tags(), expected, "{annotations}");
        assert_eq!(loaded.manifest_digest, Some(image.manifest.digest()));
    }
}

#[test]
fn an_index_inside_is_followed_by_platform() {
    let host = Platform::host();
    let other = if host.architecture == "arm64" { "amd64" } else { "arm64" };
    let (mine, theirs) = (TestImage::new(&host.architecture, &image().tars), TestImage::new(other, &image().tars));
    let entry = |image: &TestImage, architecture: &str| {
        let mut entry = image.manifest.descriptor();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let entries = json!([entry(&theirs, other), entry(&mine, &host.architecture)]);
    let inner = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": entries});
    let inner = Blob::new(media::OCI_INDEX, inner.to_string());
    let nested = TestImage { manifest: inner, ..mine.clone() };
    let mut files = oci(&nested, &json!({"io.containerd.image.name": "docker.io/library/x:1"}));
    files.push(blob_file(&mine.manifest));
    let loaded = load_one(&Hull::new(), &tar(&files)).expect("the other platform need not be there");
    assert_eq!((&loaded.id, &loaded.manifest_digest), (&mine.id(), &Some(mine.manifest.digest())));

    // The same at the top: two entries of one name.
    let mut files = oci(&mine, &json!({}));
    let index = json!({"schemaVersion": 2, "manifests": entries});
    files[1] = file("index.json", index.to_string());
    assert_eq!(load_one(&Hull::new(), &tar(&files)).expect("loads").id, mine.id());

    let foreign = oci(&theirs, &json!({}));
    let (hull, progress) = (Hull::new(), Recorder::default());
    load(&hull.images(), &tar(&foreign)[..], &LoadOptions::default(), &progress).expect("loads with a warning");
    assert_eq!(progress.warnings.into_inner().expect("no panic").len(), 1);
}

#[test]
fn lies_and_gaps_are_named() {
    let image = image();
    let good = oci(&image, &json!({}));
    let layer = blob_file(&image.layers[0]).0;
    let without = |name: &str| good.iter().filter(|(known, _)| known != name).cloned().collect::<Files>();
    let with = |name: &str, content: Vec<u8>| {
        let mut files = without(name);
        files.push(file(name, content));
        files
    };
    let text = String::from_utf8(image.manifest.bytes.clone()).expect("JSON");
    let size = format!("\"size\":{}", image.layers[0].bytes.len());
    let lying =
        TestImage { manifest: Blob::new(media::OCI_MANIFEST, text.replacen(&size, "\"size\":7", 1)), ..image.clone() };
    let mut swapped = image.clone();
    swapped.tars.swap(0, 1);
    let mut twice = good.clone();
    twice.push(file("note", "a"));
    twice.push(file("note", "b"));
    let mut bad_tag = old_docker(&image, &["UPPER CASE"]);
    bad_tag.reverse();
    let cases = [
        (without(&layer), "names blobs/sha256/", "which is not there"),
        (without("oci-layout"), "index.json in the archive names oci-layout", ""),
        (with("oci-layout", b"{\"imageLayoutVersion\":\"9\"}".to_vec()), "version \"9\" is not supported", ""),
        (with(&layer, b"other".to_vec()), &layer, "has the wrong digest"),
        (oci(&lying, &json!({})), "its descriptor says 7", ""),
        (with("index.json", vec![b' '; 5 << 20]), "index.json in the archive is longer than", ""),
        (with("index.json", b"{}".to_vec()), "index.json in the archive", "schemaVersion"),
        (with("index.json", br#"{"schemaVersion":2,"manifests":[]}"#.to_vec()), "it lists no image", ""),
        (old_docker(&swapped, &[]), "layer.tar in the archive has the digest", "the configuration says"),
        (bad_tag, "manifest.json in the archive has a wrong name for an image: invalid reference", ""),
        (vec![file("manifest.json", "[]")], "it lists no image", ""),
        (vec![file("manifest.json", r#"[{"Config":"../x","Layers":[]}]"#)], "names ../x, which is not there", ""),
        (vec![file("repositories", "{}")], "before 1.10", ""),
        (vec![file("etc/passwd", "")], "taken in by import", ""),
        (twice, "two different entries named note", ""),
    ];
    for (files, first, second) in cases {
        let error = told(&failure(&tar(&files)));
        assert!(error.contains(first) && error.contains(second), "{first}: {error}");
    }
}

#[test]
fn truncated_and_broken_archives_are_refused() {
    let whole = tar(&old_docker(&image(), &["x:1"]));
    for length in [100, 700, 3000] {
        let error = failure(&whole[..length]);
        assert!(matches!(error, ArchiveError::Truncated { .. }), "{length}: {error:?}");
    }
    let packed = gzip(&whole);
    assert!(matches!(failure(&packed[..packed.len() - 4]), ArchiveError::Read(_)));
    assert!(matches!(failure(&[1; 2000]), ArchiveError::NotTar { .. }));
    assert!(matches!(failure(b""), ArchiveError::NoImage));
}

#[test]
fn an_import_has_one_layer_and_what_was_asked_for() {
    let rootfs = tar_of(&["bin/sh", "etc/passwd"], 50);
    let xz = {
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).expect("options");
        std::io::Write::write_all(&mut writer, &rootfs).expect("memory");
        writer.finish().expect("memory")
    };
    let zstd = zstd::encode_all(&rootfs[..], 1).expect("memory");
    let options = ImportOptions {
        reference: Some(Reference::parse("mine:1").expect("reference")),
        changes: vec!["CMD [\"/bin/sh\"]".to_owned(), "ENV A=b".to_owned()],
        message: Some("made by a test".to_owned()),
        platform: Some(Platform::parse("linux/arm/v7").expect("platform")),
    };
    for (input, media_type) in [
        (rootfs.clone(), media::OCI_LAYER),
        (gzip(&rootfs), media::OCI_LAYER_GZIP),
        (zstd, media::OCI_LAYER_ZSTD),
        (xz, media::OCI_LAYER),
    ] {
        let hull = Hull::new();
        let images = hull.images();
        let new = import(&images, &input[..], &options, &NoProgress).expect("imports");
        let image = images.add(&new).expect("adds");
        drop(new);
        assert_eq!(image.layers.len(), 1);
        assert_eq!(image.layers[0].diff_id, Digest::sha256_of(&rootfs));
        assert_eq!(image.layers[0].media_type, media_type);
        assert_eq!((image.tags(), image.execution().cmd), (vec!["mine:1".to_owned()], vec!["/bin/sh".to_owned()]));
        assert_eq!(image.execution().env, ["A=b"]);
        assert_eq!(image.platform().to_string(), "linux/arm/v7");
        let raw = String::from_utf8(images.configuration_bytes(&image.id).expect("reads")).expect("JSON");
        assert!(raw.contains("made by a test"), "{raw}");
        assert_eq!(hull.files(), 2);
        assert!(images.resolve(image.id.short()).expect("reads").is_some());
    }
}

#[test]
fn a_failed_import_leaves_nothing() {
    let hull = Hull::new();
    let images = hull.images();
    let bad = ImportOptions { changes: vec!["RUN x".to_owned()], ..ImportOptions::default() };
    let packed = gzip(&tar_of(&["a"], 1000));
    let options = ImportOptions::default();
    assert!(matches!(import(&images, &packed[..], &bad, &NoProgress), Err(ArchiveError::Change(_))));
    assert!(matches!(import(&images, &b""[..], &options, &NoProgress), Err(ArchiveError::Empty)));
    assert!(matches!(import(&images, &packed[..packed.len() - 3], &options, &NoProgress), Err(ArchiveError::Read(_))));
    hull.assert_empty();
}

/// Everything about an image that another store would have to have as well.
fn facts(image: &Image) -> (&Digest, Option<&Digest>, &[LayerDescriptor], Vec<String>) {
    (&image.id, image.manifest_digest.as_ref(), &image.layers, image.tags())
}

fn saved(hull: &Hull, names: &[&str], format: ArchiveFormat) -> Vec<u8> {
    let images = hull.images();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let chosen = choose(&images, &names, None).expect("images");
    let mut archive = Vec::new();
    save(&images, &chosen, format, SaveTarget::Stream(&mut archive), &NoProgress).expect("saves");
    assert_eq!(hull.rows("holds"), 0);
    archive
}

#[test]
fn what_is_saved_is_loaded_the_same() {
    let full = json!({"io.containerd.image.name": "docker.io/library/x:1"});
    for files in [old_docker(&image(), &["x:1"]), new_docker(&image(), "x:1"), oci(&image(), &full)] {
        let first = Hull::new();
        let loaded = load_one(&first, &tar(&files)).expect("loads");
        for format in [ArchiveFormat::DockerArchive, ArchiveFormat::OciArchive] {
            let archive = saved(&first, &["x:1"], format);
            let second = Hull::new();
            let again = load_one(&second, &archive).expect("loads what was saved");
            assert_eq!((&again.id, again.tags()), (&loaded.id, loaded.tags()));
            // The archive has a manifest, written where the image had none; from then on nothing changes any more.
            assert!(again.manifest_digest.is_some() || loaded.manifest_digest.is_none());
            let third = Hull::new();
            assert_eq!(saved(&second, &["x:1"], format), archive, "the same bytes from another store");
            assert_eq!(facts(&load_one(&third, &archive).expect("loads")), facts(&again));
        }
    }
}

#[test]
fn an_archive_is_an_oci_layout_and_docker_s() {
    let hull = Hull::new();
    load_one(&hull, &tar(&old_docker(&image(), &["x:1"]))).expect("loads");
    hull.images().tag("x:1", &Reference::parse("x:2").expect("a name")).expect("tags");
    let names = |archive: &[u8]| -> Vec<String> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().expect("a tar").map(|entry| entry.expect("an entry"));
        entries.map(|entry| String::from_utf8_lossy(&entry.path_bytes()).into_owned()).collect()
    };
    let both = names(&saved(&hull, &["x"], ArchiveFormat::DockerArchive));
    assert_eq!(both[..2], ["blobs/", "blobs/sha256/"]);
    assert_eq!(both[both.len() - 4..], ["index.json", "manifest.json", "oci-layout", "repositories"]);
    assert_eq!(both.len(), 2 + 4 + 4, "two layers, a configuration and a manifest");
    let layout = names(&saved(&hull, &["x"], ArchiveFormat::OciArchive));
    assert_eq!(layout[layout.len() - 2..], ["index.json", "oci-layout"]);
    for (asked, expected) in [(&["x"][..], 2), (&["x:1"], 1), (&["x:1", "x:2", "x:1"], 2)] {
        let second = Hull::new();
        let archive = saved(&hull, asked, ArchiveFormat::DockerArchive);
        assert_eq!(load_one(&second, &archive).expect("loads").tags().len(), expected, "{asked:?}");
    }
    let id = image().id();
    let by_id = saved(&hull, &[id.as_str()], ArchiveFormat::DockerArchive);
    assert!(load_one(&Hull::new(), &by_id).expect("loads").names.is_empty(), "an id keeps no name");
}

#[test]
fn folders_are_layouts_or_refused() {
    let hull = Hull::new();
    load_one(&hull, &tar(&old_docker(&image(), &["x:1"]))).expect("loads");
    let images = hull.images();
    let chosen = choose(&images, &["x:1".to_owned()], None).expect("an image");
    let place = tempfile::tempdir().expect("a folder");
    for (format, name) in [(ArchiveFormat::OciDirectory, "oci"), (ArchiveFormat::DockerDirectory, "dir")] {
        let folder = place.path().join(name);
        save(&images, &chosen, format, SaveTarget::Folder(&folder), &NoProgress).expect("saves");
        let second = Hull::new();
        let store = second.images();
        let loaded = load_folder(&store, &folder, &LoadOptions::default(), &NoProgress).expect("loads");
        assert_eq!((loaded.len(), &loaded[0].id), (1, &image().id()));
        assert_eq!(loaded[0].names.len(), usize::from(format == ArchiveFormat::OciDirectory));
        let again = save(&images, &chosen, format, SaveTarget::Folder(&folder), &NoProgress);
        assert!(matches!(again, Err(SaveError::Occupied(_))), "nothing is written over");
    }
    assert_eq!(std::fs::read_dir(place.path()).expect("a folder").count(), 2, "no temporary folder is left");
    let plain = place.path().join("plain");
    std::fs::create_dir(&plain).expect("a folder");
    std::fs::write(plain.join("index.json"), "{}").expect("a file");
    let refused = load_folder(&images, &plain, &LoadOptions::default(), &NoProgress);
    assert!(matches!(refused, Err(ArchiveError::NotALayout(_))));
}

#[test]
fn links_in_a_layout_stay_in_it() {
    let source = Hull::new();
    load_one(&source, &tar(&old_docker(&image(), &["x:1"]))).expect("loads");
    let images = source.images();
    let chosen = choose(&images, &["x:1".to_owned()], None).expect("an image");
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().join("oci");
    save(&images, &chosen, ArchiveFormat::OciDirectory, SaveTarget::Folder(&folder), &NoProgress).expect("saves");
    let blob = folder.join(format!("blobs/sha256/{}", chosen[0].image.layers[0].digest.hex()));
    for (outside, is_inside) in [(place.path().join("layer"), false), (folder.join("layer"), true)] {
        std::fs::rename(&blob, &outside).expect("a file");
        let target = if is_inside { "../../layer".into() } else { outside.clone() };
        std::os::unix::fs::symlink(target, &blob).expect("a link");
        let hull = Hull::new();
        let store = hull.images();
        let loaded = load_folder(&store, &folder, &LoadOptions::default(), &NoProgress);
        // Outside is refused by name; inside it leads to a file that is none of a layout's.
        assert!(matches!(loaded, Err(ArchiveError::Name { .. } | ArchiveError::Missing { .. })), "{loaded:?}");
        drop(loaded);
        hull.assert_empty();
        std::fs::remove_file(&blob).expect("a link");
        std::fs::rename(&outside, &blob).expect("a file");
    }
}

#[test]
fn a_damaged_blob_is_not_saved() {
    let hull = Hull::new();
    let loaded = load_one(&hull, &tar(&old_docker(&image(), &["x:1"]))).expect("loads");
    let images = hull.images();
    let path = images.content().path(&loaded.layers[0].digest);
    let mut bytes = std::fs::read(&path).expect("a blob");
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).expect("a blob");
    let chosen = choose(&images, &["x:1".to_owned()], None).expect("an image");
    let mut archive = Vec::new();
    let failed = save(&images, &chosen, ArchiveFormat::DockerArchive, SaveTarget::Stream(&mut archive), &NoProgress);
    assert!(matches!(failed, Err(SaveError::Damaged { .. })));
    assert!(load_one(&Hull::new(), &archive).is_err(), "an archive that broke off does not look whole");
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("out");
    let failed = save(&images, &chosen, ArchiveFormat::OciDirectory, SaveTarget::Folder(&target), &NoProgress);
    assert!(matches!(failed, Err(SaveError::Damaged { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

fn for_platform(platform: &str) -> LoadOptions {
    LoadOptions { platform: Some(Platform::parse(platform).expect("a platform")), ..LoadOptions::default() }
}

#[test]
fn platforms_are_asked_for() {
    let foreign = TestImage::new("arm64", &[tar_of(&["etc/arm"], 3)]);
    let own = image();
    let entry = |image: &TestImage, architecture: &str| {
        let mut entry = image.manifest.descriptor();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry["annotations"] = json!({"io.containerd.image.name": "docker.io/library/x:1"});
        entry
    };
    let index = json!({"schemaVersion": 2, "manifests": [entry(&own, "amd64"), entry(&foreign, "arm64")]});
    let mut files =
        vec![file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), file("index.json", index.to_string())];
    for image in [&own, &foreign] {
        files.extend(image.layers.iter().chain([&image.config, &image.manifest]).map(blob_file));
    }
    let archive = tar(&files);
    for (platform, expected) in
        [("linux/amd64", Some(own.id())), ("linux/arm64", Some(foreign.id())), ("linux/s390x", None)]
    {
        let hull = Hull::new();
        let images = hull.images();
        let options = for_platform(platform);
        let loaded = load(&images, &archive[..], &options, &NoProgress);
        assert_eq!(loaded.as_ref().ok().map(|images| images[0].id.clone()), expected);
        let Ok(loaded) = loaded else { continue };
        images.add(&loaded[0]).expect("adds");
        let choice = |wanted: &str| {
            let wanted = Platform::parse(wanted).expect("a platform");
            choose(&images, &["x:1".to_owned()], Some(&wanted)).map(|chosen| chosen.len())
        };
        assert_eq!(choice(platform).expect("it is for that"), 1);
        assert!(matches!(choice("linux/s390x"), Err(SaveError::Platform { .. })));
    }
    let single = tar(&old_docker(&own, &["x:1"]));
    let hull = Hull::new();
    let options = for_platform("linux/arm64");
    let refused = load(&hull.images(), &single[..], &options, &NoProgress).expect_err("another platform");
    assert!(matches!(refused, ArchiveError::Platform { .. }));
    hull.assert_empty();
}
