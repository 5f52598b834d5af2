//! Looking at containers and images: inspect and its templates.

use serde_json::{Value, json};
use system_tests::Hull;

#[test]
fn inspect_echoes_what_was_asked() {
    let hull = Hull::with_busybox();
    let folder = hull.make_folder("shared");
    let bind = format!("{folder}:/shared:ro");
    let id = hull.ok(&[
        "create",
        "--name",
        "aa",
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "32",
        "-v",
        &bind,
        "--cap-add",
        "SYS_TIME",
        "--read-only",
        "--init",
        "-e",
        "ONE=1",
        "-w",
        "/etc",
        "--hostname",
        "box",
        "--label",
        "k=v",
        "-u",
        "user",
        "-t",
        "busybox",
        "sh",
        "-c",
        "exit 3",
    ]);
    let all = hull.inspect("aa");
    for (pointer, expected) in [
        ("/Id", json!(id)),
        ("/Name", json!("/aa")),
        ("/Path", json!("sh")),
        ("/Args", json!(["-c", "exit 3"])),
        ("/State/Status", json!("created")),
        ("/State/Pid", json!(0)),
        ("/Config/Hostname", json!("box")),
        ("/Config/User", json!("user")),
        ("/Config/Tty", json!(true)),
        ("/Config/WorkingDir", json!("/etc")),
        ("/Config/Image", json!("busybox")),
        ("/Config/Labels/k", json!("v")),
        ("/HostConfig/Memory", json!(64 << 20)),
        ("/HostConfig/NanoCpus", json!(500_000_000)),
        ("/HostConfig/PidsLimit", json!(32)),
        ("/HostConfig/ReadonlyRootfs", json!(true)),
        ("/HostConfig/Init", json!(true)),
        ("/HostConfig/Binds", json!([bind])),
        ("/Mounts/0/Source", json!(folder)),
        ("/Mounts/0/RW", json!(false)),
        ("/RestartCount", json!(0)),
    ] {
        assert_eq!(all.pointer(pointer), Some(&expected), "{pointer}");
    }
    let environment = all["Config"]["Env"].as_array().expect("an array");
    assert!(environment.contains(&json!("ONE=1")), "{environment:?}");
    assert!(all["Image"].as_str().expect("an id").starts_with("sha256:"));
}

#[test]
fn inspect_tells_how_a_container_lives_and_ended() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "exec sleep 1000");
    let running = hull.inspect(&id)["State"].clone();
    assert_eq!(
        (&running["Running"], &running["Paused"], &running["ExitCode"]),
        (&json!(true), &json!(false), &json!(0))
    );
    hull.ok(&["stop", "-t", "0", &id]);
    let ended = hull.inspect(&id)["State"].clone();
    assert_eq!((&ended["Running"], &ended["Pid"], &ended["ExitCode"]), (&json!(false), &json!(0), &json!(137)));
    assert_eq!(running["StartedAt"], ended["StartedAt"]);
    assert!(ended["FinishedAt"].as_str() > ended["StartedAt"].as_str(), "{ended}");
}

#[test]
fn templates_are_gos() {
    let hull = Hull::with_busybox();
    hull.ok(&["create", "--name", "aa", "-e", "ONE=1", "-e", "TWO=2", "--label", "x=y", "busybox", "true", "arg"]);
    for (template, expected) in [
        ("{{.State.Status}}", "created"),
        ("{{.Name}} {{len .Args}}", "/aa 1"),
        ("{{json .Config.Cmd}}", r#"["true","arg"]"#),
        ("{{range .Config.Cmd}}<{{.}}>{{end}}", "<true><arg>"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "down"),
        ("{{index .Config.Labels \"x\"}}", "y"),
        ("{{join .Config.Cmd \",\"}}", "true,arg"),
        ("{{range $i, $e := .Config.Cmd}}{{$i}}={{$e | upper}};{{end}}", "0=TRUE;1=ARG;"),
        ("{{printf \"%s-%d\" .Path .RestartCount}}", "true-0"),
    ] {
        assert_eq!(hull.ok(&["inspect", "--format", template, "aa"]), expected, "{template}");
    }
    for broken in ["{{", "{{.State.NoSuch}}", "{{nosuch .}}"] {
        let run = hull.run(&["inspect", "--format", broken, "aa"]);
        assert!(run.code != 0 && run.stderr.starts_with("Error:"), "{broken}: {run:#?}");
    }
}

#[test]
fn inspect_finds_images_and_says_what_it_does_not_find() {
    let hull = Hull::with_busybox();
    let image: Value = hull.inspect("busybox");
    assert_eq!(image["RepoTags"], json!(["busybox:latest"]));
    assert_eq!(image["Config"]["Cmd"], json!(["/bin/sh"]));
    assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(1));
    let id = image["Id"].as_str().expect("an id");
    assert_eq!(hull.ok(&["inspect", "--format", "{{.Id}}", &id[7..19]]), id);
    hull.ok(&["create", "--name", "busybox", "busybox", "true"]);
    assert!(hull.inspect("busybox")["State"].is_object(), "a container comes first");
    let image = hull.ok(&["inspect", "--type", "image", "--format", "{{.Os}}", "busybox"]);
    assert_eq!(image, "linux");
    let run = hull.run(&["inspect", "nosuch", "busybox"]).expect(1);
    assert!(run.stderr.contains("nosuch") && run.stdout.contains("busybox"), "{run:#?}");
}
