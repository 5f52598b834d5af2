//! Archives that somebody made to do harm: each is refused with one error that names what is wrong, and nothing of it
//! stays in the store. What a layer may try when it is unpacked is in `tests/unpack.rs`, what a registry may answer in
//! `registry.rs`.

use hull_image::archive::{ArchiveError, LoadOptions, load};
use hull_image::{LAYERS_MAX, NoProgress};
use hull_oci::image as media;
use serde_json::{Value, json};

use crate::archives::{Files, blob_file, failure, file, image, oci, old_docker, tar};
use crate::fixture::{Blob, Hull, TestImage, gzip, manifest_of, tar_of, told};

/// A manifest.json of one image.
fn listing(config: &str, layers: &[&str], tags: &[&str]) -> Files {
    let list = json!([{"Config": config, "RepoTags": tags, "Layers": layers}]);
    vec![file("manifest.json", list.to_string())]
}

/// An OCI layout whose index has this entry.
fn layout(entry: &Value, blobs: &[&Blob]) -> Files {
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let mut files =
        vec![file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), file("index.json", index.to_string())];
    files.extend(blobs.iter().map(|blob| blob_file(blob)));
    files
}

#[track_caller]
fn refused(what: &str, files: &Files, words: &str) {
    let error = told(&failure(&tar(files)));
    assert!(error.contains(words), "{what}: {error}");
    assert!(error.len() < 2000, "{what}: an error is for reading, not {} bytes", error.len());
}

/// Appends a raw entry that the tar crate would not write.
fn raw_entry(archive: &mut Vec<u8>, name: &[u8], kind: u8, link: &[u8], size: u64, body: &[u8]) {
    let mut header = tar::Header::new_gnu();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name);
    old.linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(size);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(body);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

#[test]
fn paths_lead_nowhere_else() {
    for path in ["../../x", "/etc/passwd", "blobs/sha256/../../../etc/passwd", "", ".", "a\u{0}b"] {
        refused(path, &listing(path, &[], &[]), "which is not there");
        let image = image();
        let mut files = old_docker(&image, &[]);
        let list = json!([{"Config": format!("{}.json", image.id().hex()), "RepoTags": [], "Layers": [path, path]}]);
        *files.last_mut().expect("the manifest") = file("manifest.json", list.to_string());
        refused(path, &files, "which is not there");
    }
    let names: [&[u8]; 6] = [b"../x", b"/x", b"a/../../x", b"..", b"blobs/sha256/\xff\xfe", b"\xc3("];
    for name in names {
        let mut archive = Vec::new();
        raw_entry(&mut archive, name, b'0', b"", 1, b"x");
        assert!(matches!(failure(&archive), ArchiveError::Name { .. }), "{name:?}");
    }
    for (kind, target) in [(b'1', &b"../../etc/passwd"[..]), (b'2', b"/etc/passwd"), (b'2', b"../../x"), (b'1', b"/x")]
    {
        let mut archive = Vec::new();
        raw_entry(&mut archive, b"blobs/link", kind, target, 0, b"");
        assert!(matches!(failure(&archive), ArchiveError::Name { .. }), "{target:?}");
    }
}

#[test]
fn links_that_lead_to_each_other_end() {
    let mut archive = Vec::new();
    raw_entry(&mut archive, b"manifest.json", b'2', b"other", 0, b"");
    raw_entry(&mut archive, b"other", b'2', b"manifest.json", 0, b"");
    assert!(matches!(failure(&archive), ArchiveError::NoImage));
}

#[test]
fn a_link_named_as_a_blob_is_not_that_blob() {
    let image = image();
    let blobs = [&image.manifest, &image.config, &image.layers[0], &image.layers[1]];
    // With a genuine configuration's digest and other layers, whoever pulls that image later would get those.
    let evil = String::from_utf8(image.config.bytes.clone()).expect("JSON").replace("test", "evil");
    for blob in blobs {
        let name = format!("blobs/sha256/{}", blob.digest().hex());
        let is_config = blob.digest() == image.config.digest();
        let other = if is_config { evil.clone().into_bytes() } else { blob.bytes.iter().rev().copied().collect() };
        for (kind, target) in [(b'1', "other"), (b'2', "../../other")] {
            let mut files = layout(&image.manifest.descriptor(), &blobs);
            files.retain(|(known, _)| *known != name);
            files.push(file("other", other.clone()));
            let mut archive = tar(&files);
            archive.truncate(archive.len() - 1024);
            raw_entry(&mut archive, name.as_bytes(), kind, target.as_bytes(), 0, b"");
            let error = told(&failure(&archive));
            assert!(error.contains(&name) && error.contains("has the wrong digest"), "{error}");
        }
    }
}

#[test]
fn nobody_is_called_by_a_digest_that_is_not_its_own() {
    let image = image();
    let other = image.config.digest();
    let lying = format!("debian@{other}");
    refused("docker-archive", &old_docker(&image, &[&lying]), "with a digest reference");
    let named =
        |digest| oci(&image, &json!({"io.containerd.image.name": format!("docker.io/library/debian@{digest}")}));
    refused("oci-archive", &named(other), "with a digest reference");
    let hull = Hull::new();
    let archive = tar(&named(image.manifest.digest()));
    load(&hull.images(), &archive[..], &LoadOptions::default(), &NoProgress).expect("its own digest is a name");
}

#[test]
fn entries_and_their_names_are_bounded() {
    let mut archive = Vec::new();
    for _ in 0..100_001 {
        raw_entry(&mut archive, b"a/json", b'0', b"", 0, b"");
    }
    assert!(matches!(failure(&archive), ArchiveError::TooManyEntries { .. }));
    let mut archive = Vec::new();
    for number in 0..5000 {
        raw_entry(&mut archive, b"x", b'L', b"", 4000, &[b'n'; 4000]);
        raw_entry(&mut archive, b"x", b'2', format!("{number}").as_bytes(), 0, b"");
    }
    assert!(matches!(failure(&archive), ArchiveError::TooManyEntries { .. }));
    let mut archive = Vec::new();
    raw_entry(&mut archive, b"x", b'L', b"", 5000, &[b'n'; 5000]);
    raw_entry(&mut archive, b"x", b'0', b"", 0, b"");
    assert!(matches!(failure(&archive), ArchiveError::Name { .. }));
}

#[test]
fn devices_and_the_like_are_passed_over() {
    let mut archive = Vec::new();
    for (name, kind) in [("manifest.json", b'3'), ("index.json", b'4'), ("oci-layout", b'6'), ("x", b'Z')] {
        raw_entry(&mut archive, name.as_bytes(), kind, b"", 0, b"");
    }
    assert!(matches!(failure(&archive), ArchiveError::NoImage));
}

#[test]
fn too_many_layers_are_refused_before_anything_is_unpacked() {
    let layer = tar_of(&["a"], 1);
    let many = TestImage::new("amd64", &vec![layer.clone(); 10_000]);
    let config = format!("{}.json", many.id().hex());
    let layers = vec!["layer.tar"; 10_000];
    let mut files = vec![file(&config, many.config.bytes.clone()), file("layer.tar", layer)];
    files.extend(listing(&config, &layers, &[]));
    refused("docker-archive", &files, "10000 layers");
    let files = layout(&many.manifest.descriptor(), &[&many.manifest, &many.config, &many.layers[0]]);
    refused("oci-archive", &files, "10000 layers");
    let just = TestImage::new("amd64", &vec![tar_of(&["a"], 1); LAYERS_MAX]);
    let files = layout(&just.manifest.descriptor(), &[&just.manifest, &just.config, &just.layers[0]]);
    let hull = Hull::new();
    load(&hull.images(), &tar(&files)[..], &LoadOptions::default(), &NoProgress).expect("as many as allowed");
}

#[test]
fn indexes_in_indexes_end() {
    let image = image();
    let mut inner = image.manifest.clone();
    let mut blobs = vec![image.manifest.clone(), image.config.clone()];
    blobs.extend(image.layers.iter().cloned());
    for _ in 0..20 {
        let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [inner.descriptor()]});
        inner = Blob::new(media::OCI_INDEX, index.to_string());
        blobs.push(inner.clone());
    }
    refused("nested", &layout(&inner.descriptor(), &blobs.iter().collect::<Vec<_>>()), "nested more than");
    // A circle can only be made of a blob whose name is a lie.
    let name = image.config.digest();
    let circle = json!({"schemaVersion": 2, "manifests": [{"mediaType": media::OCI_INDEX, "digest": name, "size": 9}]});
    let entry = json!({"mediaType": media::OCI_INDEX, "digest": name, "size": circle.to_string().len()});
    let mut files = layout(&entry, &[]);
    files.push(file(format!("blobs/sha256/{}", name.hex()), circle.to_string()));
    refused("a circle", &files, "has the wrong digest");
}

#[test]
fn media_types_must_agree_with_what_is_there() {
    let image = image();
    let blobs = || vec![&image.manifest, &image.config, &image.layers[0], &image.layers[1]];
    let announced = |media_type: &str| {
        let mut entry = image.manifest.descriptor();
        entry["mediaType"] = json!(media_type);
        layout(&entry, &blobs())
    };
    refused("manifest as index", &announced(media::OCI_INDEX), "is announced as");
    refused("manifest of schema 1", &announced(media::DOCKER_MANIFEST_V1), "schema 1");
    let mut both: Value = serde_json::from_slice(&image.manifest.bytes).expect("JSON");
    both["manifests"] = json!([]);
    let both = Blob::new(media::OCI_MANIFEST, both.to_string());
    refused("manifest and index in one", &layout(&both.descriptor(), &[&both]), "both layers and manifests");
    let chart = Blob::new("application/vnd.cncf.helm.config.v1+json", "{}");
    let manifest = manifest_of(&chart, &[]);
    refused("a chart", &layout(&manifest.descriptor(), &[&manifest, &chart]), "not a container image");
    let sealed = Blob::new("application/vnd.oci.image.layer.v1.tar+encrypted", "x");
    let manifest = manifest_of(&image.config, &[sealed]);
    refused(
        "an encrypted layer",
        &layout(&manifest.descriptor(), &[&manifest, &image.config]),
        "unsupported media type",
    );
}

#[test]
fn sizes_must_be_true() {
    let image = image();
    let mut entry = image.manifest.descriptor();
    for size in [json!(0), json!(1), json!(u64::MAX)] {
        entry["size"] = size;
        let files = layout(&entry, &[&image.manifest, &image.config, &image.layers[0], &image.layers[1]]);
        refused("a manifest's size", &files, "its descriptor says");
    }
    entry["size"] = json!(-1);
    refused("a negative size", &layout(&entry, &[&image.manifest]), "index.json");
    for size in [600, 1 << 40, (1 << 63) - 1] {
        let mut archive = Vec::new();
        raw_entry(&mut archive, b"blobs/x", b'0', b"", size, b"x");
        let error = failure(&archive);
        assert!(matches!(error, ArchiveError::Truncated { .. } | ArchiveError::NotTar { .. }), "{size}: {error:?}");
    }
}

#[test]
fn documents_are_bounded_in_length_and_depth() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    refused("a deep list", &vec![file("manifest.json", deep.clone())], "manifest.json in the archive cannot be used");
    let image = image();
    let mut files = oci(&image, &json!({}));
    files[1] = file("index.json", format!(r#"{{"schemaVersion":2,"manifests":{deep}}}"#));
    refused("a deep index", &files, "index.json in the archive cannot be used");
    let configuration = Blob::new(media::OCI_CONFIG, format!(r#"{{"os":"linux","architecture":"amd64","x":{deep}}}"#));
    let manifest = manifest_of(&configuration, &[]);
    refused("a deep configuration", &layout(&manifest.descriptor(), &[&manifest, &configuration]), "cannot be used");
    let long = Blob::new(media::OCI_MANIFEST, vec![b' '; 5 << 20]);
    refused("a long manifest", &layout(&long.descriptor(), &[&long]), "is longer than");
    let long = format!("{}.json", "a".repeat(64));
    let mut files = vec![file(&long, vec![b' '; 5 << 20])];
    files.extend(listing(&long, &[], &[]));
    refused("a long configuration", &files, "is longer than");
}

#[test]
fn the_same_name_twice_is_refused_unless_it_is_the_same() {
    let mut files = old_docker(&image(), &["x:1"]);
    let manifest = files.last().expect("the manifest").clone();
    files.push(manifest);
    let hull = Hull::new();
    load(&hull.images(), &tar(&files)[..], &LoadOptions::default(), &NoProgress).expect("equal ones are one");
    files.push(file("manifest.json", "[]"));
    refused("two lists", &files, "two different entries named manifest.json");
}

#[test]
fn names_and_diff_ids_are_checked() {
    for tag in ["../x", "a b", "x:y:z", "UPPER", "a@sha256:1", &"x".repeat(5000), "\u{202e}x"] {
        refused(tag, &old_docker(&image(), &[tag]), "wrong name for an image");
    }
    for diff_id in ["../../x", "sha256:../../x", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        let rootfs = json!({"type": "layers", "diff_ids": [diff_id]});
        let text = json!({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs}).to_string();
        let configuration = Blob::new(media::OCI_CONFIG, text);
        let manifest = manifest_of(&configuration, &[Blob::new(media::OCI_LAYER, "x")]);
        let files = layout(&manifest.descriptor(), &[&manifest, &configuration]);
        refused(diff_id, &files, "rootfs.diff_ids");
    }
}

#[test]
fn bombs_stop_at_the_limit() {
    let limit = |archive: &[u8], bytes| {
        let hull = Hull::new();
        let options = LoadOptions { archive_bytes_max: Some(bytes), ..LoadOptions::default() };
        let error = load(&hull.images(), archive, &options, &NoProgress).err();
        if error.is_some() {
            hull.assert_empty();
        }
        error
    };
    let good = tar(&old_docker(&image(), &["x:1"]));
    assert!(limit(&good, good.len() as u64).is_none());
    assert!(matches!(limit(&good, good.len() as u64 - 1025), Some(ArchiveError::TooLarge { .. })));
    // 64 MiB in 64 kB; and behind the end of an archive, where nothing should be.
    let bomb = gzip(&tar(&vec![file("blobs/x", vec![0; 64 << 20])]));
    assert!(bomb.len() < 1 << 20);
    assert!(matches!(limit(&bomb, 1 << 20), Some(ArchiveError::TooLarge { limit_bytes: 1_048_576 })));
    let behind = gzip(&vec![0; 64 << 20]);
    assert!(matches!(limit(&behind, 1 << 20), Some(ArchiveError::TooLarge { .. })));
}
