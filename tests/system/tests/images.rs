//! Images: loading, importing, naming, listing, removing.

use std::fs;

use serde_json::{Value, json};
use system_tests::archive::{Layer, busybox_layer};
use system_tests::{Hull, image};

#[test]
fn both_archive_forms_give_the_same_image() {
    let hull = Hull::new();
    let mut seen = Vec::new();
    for form in ["docker", "oci"] {
        let archive = image(&format!("five-layers.{form}.tar")).display().to_string();
        let said = hull.ok(&["load", "-i", &archive]);
        assert!(said.contains("five-layers:latest"), "{said}");
        let all = hull.inspect("five-layers");
        assert_eq!(all["RootFS"]["Layers"].as_array().map(Vec::len), Some(5));
        seen.push((all["Id"].clone(), all["RootFS"].clone(), all["Config"].clone()));
        hull.ok(&["rmi", "five-layers"]);
        assert_eq!(hull.leftovers(), Vec::<String>::new(), "an image that is removed is gone");
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn an_archive_is_loaded_from_stdin_too() {
    let mut hull = Hull::new();
    let bytes = fs::read(image("busybox.docker.tar")).expect("the image");
    let output = hull.fed(&bytes, &["load"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    hull.keep_stored();
    hull.sh(&[], "true").expect(0);
}

#[test]
fn images_have_names_and_lose_them() {
    let hull = Hull::with_busybox();
    let names = || hull.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    hull.ok(&["tag", "busybox", "other/name:2"]);
    hull.ok(&["tag", "busybox", "localhost:5000/third"]);
    let mut all: Vec<String> = names().lines().map(str::to_owned).collect();
    all.sort();
    assert_eq!(all, ["busybox:latest", "localhost:5000/third:latest", "other/name:2"]);
    assert_eq!(hull.ok(&["images", "-q"]).lines().collect::<std::collections::BTreeSet<_>>().len(), 1);
    hull.ok(&["run", "--rm", "other/name:2", "true"]);
    let said = hull.ok(&["rmi", "busybox", "other/name:2"]);
    assert_eq!(said.matches("Untagged:").count(), 2, "{said}");
    assert_eq!(names(), "localhost:5000/third:latest");
    hull.refused(1, &["rmi", "busybox"]);
    hull.refused(1, &["tag", "nosuch", "x"]);
    hull.refused(1, &["tag", "localhost:5000/third", "BAD NAME"]);
    let said = hull.ok(&["rmi", "localhost:5000/third"]);
    assert!(said.contains("Deleted:"), "{said}");
    assert_eq!(hull.ok(&["images", "-q"]), "");
}

#[test]
fn an_image_in_use_stays() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "exec sleep 1000");
    let said = hull.refused(1, &["rmi", "busybox"]);
    assert!(said.contains(&id[..12]), "{said}");
    hull.ok(&["exec", &id, "true"]);
    hull.ok(&["stop", "-t", "0", &id]);
    hull.refused(1, &["rmi", "busybox"]);
    hull.ok(&["rm", &id]);
    hull.ok(&["rmi", "busybox"]);
    assert_eq!(hull.ok(&["images", "-q"]), "");
}

#[test]
fn a_root_file_system_is_imported_in_any_compression() {
    let mut hull = Hull::with_busybox();
    let tar = hull.file("root.tar");
    fs::write(&tar, busybox_layer()).expect("a tar");
    let bind = format!("{}:/work", hull.files().display());
    hull.inside(&["-v", &bind, "-w", "/work"], "gzip -c root.tar > root.gz; bzip2 -c root.tar > root.bz2");
    let changes = ["-c", "CMD [\"cat\", \"/proc/1/comm\"]", "-c", "ENV ONE=1", "-c", "WORKDIR /etc", "-m", "a message"];
    let mut layers = Vec::new();
    for file in ["root.tar", "root.gz", "root.bz2"] {
        let name = format!("imported:{}", file.replace('.', "-"));
        let id = hull.ok(&[&["import"], &changes[..], &[&hull.file(file), &name]].concat());
        assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
        assert_eq!(hull.ok(&["run", "--rm", &name]), "cat");
        assert_eq!(hull.ok(&["run", "--rm", &name, "sh", "-c", "pwd; echo $ONE"]), "/etc\n1");
        layers.push(hull.inspect(&name)["RootFS"]["Layers"].clone());
    }
    assert!(layers.iter().all(|layer| *layer == layers[0]), "one layer, however it was compressed: {layers:?}");
    let output = hull.fed(&busybox_layer(), &["import", "-", "piped"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(hull.ok(&["run", "--rm", "piped", "echo", "x"]), "x");
    hull.refused(1, &["import", "-c", "NOSUCH x", &tar, "y"]);
    hull.keep_stored();
}

#[test]
fn images_are_listed_and_formatted() {
    let mut hull = Hull::with_busybox();
    hull.load(&image("five-layers.docker.tar"));
    let table = hull.ok(&["images"]);
    let head = table.lines().next().expect("a head");
    assert!(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].iter().all(|word| head.contains(word)), "{table}");
    assert_eq!(table.lines().count(), 3);
    let line = hull.ok(&["images", "--format", "json", "busybox"]);
    let value: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&value["Repository"], &value["Tag"]), (&json!("busybox"), &json!("latest")), "{value}");
    assert_eq!(
        hull.ok(&["images", "--no-trunc", "-q", "busybox"]),
        hull.inspect("busybox")["Id"].as_str().expect("an id")
    );
    assert_eq!(hull.ok(&["images", "--filter", "reference=five*", "--format", "{{.Repository}}"]), "five-layers");
    hull.run(&["images", "--filter", "nosuch=1"]).expect(1);
}

#[test]
fn long_names_and_sparse_files_and_owners_survive() {
    let mut hull = Hull::new();
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o640);
    header.set_uid(3_000_000);
    header.set_gid(77);
    header.set_mtime(1_700_000_000);
    tar.append_data(&mut header, &long, &b"long"[..]).expect("memory");
    let extra = tar.into_inner().expect("memory");
    let archive = hull.files().join("odd.tar");
    let mut odd = system_tests::archive::Image::new("odd", json!({"Cmd": ["true"], "Env": ["PATH=/bin"]}));
    odd.layers.push(extra);
    odd = odd.layer(Layer::new().file("first", b"same").hard_link("second", "first"));
    odd.write(&archive);
    hull.load(&archive);
    let run = |script: &str| hull.ok(&["run", "--rm", "odd", "sh", "-c", script]);
    assert_eq!(run(&format!("cat /{long}; stat -c ' %u:%g %a %Y' /{long}")), "long 3000000:77 640 1700000000");
    assert_eq!(run("test /first -ef /second && stat -c %h /first"), "2");
}
