//! Bad input: one `Error:` line, the right exit code, and nothing left behind.

use std::fs;
use std::process::Command;

use system_tests::archive::{Image, Layer, busybox_layer};
use system_tests::registry::{Registry, nobody};
use system_tests::{Hull, Run, image};

#[test]
fn bad_arguments_are_refused_by_name() {
    let hull = Hull::with_busybox();
    for (flags, named) in [
        (&["--nosuch"][..], "--nosuch"),
        (&["-m", "much"], "much"),
        (&["-m", "1k"], "memory"),
        (&["--cpus", "many"], "many"),
        (&["--cpus", "-1"], "-1"),
        (&["--pids-limit", "x"], "x"),
        (&["--cpuset-cpus", "7000"], "7000"),
        (&["-v", "not/absolute:/x"], "not/absolute"),
        (&["-v", "/a:relative"], "relative"),
        (&["--mount", "type=nosuch,dst=/x"], "nosuch"),
        (&["--mount", "type=bind,dst=/x"], "mount"),
        (&["--tmpfs", "relative"], "relative"),
        (&["--tmpfs", "/x:bogus"], "bogus"),
        (&["--network", "nosuch"], "nosuch"),
        (&["--pid", "nosuch"], "nosuch"),
        (&["--ipc", "nosuch"], "nosuch"),
        (&["--userns", "nosuch"], "nosuch"),
        (&["--sysctl", "novalue"], "novalue"),
        (&["--security-opt", "nosuch"], "nosuch"),
        (&["--security-opt", "seccomp=/no/such"], "/no/such"),
        (&["--stop-signal", "NOSUCH"], "NOSUCH"),
        (&["--platform", "a/b/c/d"], "a/b/c/d"),
        (&["--cap-drop", "NOSUCH"], "NOSUCH"),
        (&["--hostname", "no such"], "no such"),
        (&["--runtime", "/no/such"], "/no/such"),
        (&["--pull", "sometimes"], "sometimes"),
        (&["-e", "=x"], "=x"),
        (&["--dns", "1.2.3"], "1.2.3"),
        (&["--dns-search", "a..b"], "a..b"),
        (&["--dns-option", "a b"], "a b"),
        (&["--add-host", "db"], "db"),
        (&["--add-host", "db:10.0.0"], "10.0.0"),
        (&["--network", "none", "--add-host", "host:host-gateway"], "host-gateway"),
    ] {
        let said = hull.refused(125, &[&["run", "--rm"], flags, &["busybox", "true"]].concat());
        assert!(said.contains(named), "{flags:?}: {said}");
        assert_eq!(hull.leftovers(), Vec::<String>::new(), "{flags:?}");
    }
    assert_eq!(hull.containers(), Vec::<String>::new());
}

#[test]
fn flags_of_later_releases_are_refused_by_name() {
    let hull = Hull::with_busybox();
    for flags in [&["--restart", "always"][..], &["--health-cmd", "true"], &["--no-healthcheck"], &["--gpus", "all"]] {
        let said = hull.refused(125, &[&["run", "--rm"], flags, &["busybox", "true"]].concat());
        assert!(said.contains(flags[0]) && said.contains("not supported yet"), "{flags:?}: {said}");
    }
    assert_eq!(hull.containers(), Vec::<String>::new());
    hull.ok(&["run", "--rm", "--restart", "no", "busybox", "true"]);
}

#[test]
fn commands_that_are_none_are_told() {
    let hull = Hull::new();
    for words in [
        &["nosuch"][..],
        &["container", "nosuch"],
        &["rm"],
        &["logs"],
        &["logs", "a", "b"],
        &["exec", "x"],
        &["tag", "x"],
    ] {
        let run = hull.run(words);
        assert!(run.code != 0 && run.stderr.starts_with("Error:"), "{run:#?}");
    }
    hull.refused(125, &["ps", "--nosuch"]);
    hull.refused(125, &["run"]);
}

#[test]
fn an_image_that_is_not_there_is_told() {
    let hull = Hull::new();
    let address = nobody();
    let name = format!("{address}/no/image:1");
    let said = hull.refused(125, &["run", "--rm", &name, "true"]);
    assert!(said.contains(&address.to_string()), "{said}");
    let said = hull.refused(1, &["pull", &name]);
    assert!(said.contains(&address.to_string()), "{said}");
    hull.refused(125, &["run", "--rm", "--pull", "never", "nosuch", "true"]);
    for bad in ["UPPER/case", "a:b:c", "a@sha256:short", "", "-x", "http://x/y"] {
        let said = hull.run(&["pull", "--", bad]);
        assert!(said.code != 0 && said.stderr.starts_with("Error:"), "{bad}: {said:#?}");
    }
    assert_eq!(hull.leftovers(), Vec::<String>::new());
}

#[test]
fn a_registrys_image_is_pulled_and_checked() {
    let mut hull = Hull::new();
    let image = Image::new("good", serde_json::json!({"Cmd": ["cat", "/word"], "Env": ["PATH=/bin"]}))
        .layer(Layer::new().file("word", b"from a registry"));
    let good = format!("{}/good:latest", Registry::with("good", &image).serve());
    assert_eq!(hull.ok(&["run", "--rm", "-q", &good]), "from a registry");
    hull.keep_stored();
    assert_eq!(hull.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]), good);
    let missing = good.replace("good:latest", "good:other");
    let said = hull.refused(1, &["pull", "-q", &missing]);
    assert!(said.contains("good:other"), "{said}");
}

#[test]
fn wrong_bytes_from_a_registry_are_refused() {
    let hull = Hull::new();
    let image = Image::new("bad", serde_json::json!({"Cmd": ["true"]})).layer(Layer::new().file("word", b"x"));
    let spoiled = |change: fn(&mut Vec<u8>), cut: bool| {
        let mut registry = Registry::with("bad", &image);
        for blob in [&image.layers[1], &image.document()] {
            registry.spoil(blob, |answer| {
                change(&mut answer.body);
                answer.sent = if cut { answer.body.len() / 2 } else { answer.body.len() };
            });
        }
        format!("{}/bad:latest", registry.serve())
    };
    for name in
        [spoiled(|body| body[3] ^= 1, false), spoiled(|_| (), true), spoiled(|body| body.extend(b"more"), false)]
    {
        let said = hull.refused(125, &["run", "--rm", "-q", &name, "true"]);
        assert!(said.contains("sha256:"), "names what is wrong: {said}");
        assert_eq!(hull.ok(&["images", "-q"]), "");
        assert_eq!(hull.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn archives_that_are_none_are_refused() {
    let hull = Hull::new();
    let whole = fs::read(image("busybox.docker.tar")).expect("the busybox image");
    let half = &whole[..whole.len() / 2];
    for bytes in [&b"not a tar"[..], b"", half, &[0; 1024]] {
        let file = hull.file("archive");
        fs::write(&file, bytes).expect("a file");
        let run = hull.run(&["load", "-i", &file]);
        assert!(run.code != 0 && run.stderr.starts_with("Error:"), "{} bytes: {run:#?}", bytes.len());
        assert_eq!(hull.leftovers(), Vec::<String>::new());
    }
    let mut image = Image::new("liar", serde_json::json!({}));
    image.layers.push(Layer::new().file("a", b"a").bytes());
    let archive = hull.files().join("liar.tar");
    image.write(&archive);
    let mut bytes = fs::read(&archive).expect("the archive");
    let place = bytes.windows(5).rposition(|window| window == b"a\0\0\0\0").expect("the name of the file");
    bytes[place] = b'b';
    fs::write(&archive, bytes).expect("the archive");
    hull.refused(1, &["load", "-i", &archive.display().to_string()]);
    hull.refused(1, &["load", "-i", "/no/such/file"]);
    hull.refused(1, &["import", "/no/such/file", "x"]);
    assert_eq!(hull.leftovers(), Vec::<String>::new());
}

/// A tmpfs as the store: an image that does not fit is refused whole, and fits when there is room.
#[test]
fn a_full_disk_is_told_and_nothing_half_stays() {
    let hull = Hull::new();
    let disk = hull.make_folder("disk");
    let program = system_tests::hull().expect("HULL_BIN");
    let script = format!(
        "mount -t tmpfs -o size=4m none {disk} && trap 'umount -l {disk}' EXIT
         hull() {{ {} --root {disk}/root \"$@\"; }}
         hull load -q -i {}; echo code $?
         find {disk}/root/content -type f | wc -l; find {disk}/root/snapshots -mindepth 2 | wc -l; hull images -q | wc -l
         mount -o remount,size=64m {disk} && hull load -q -i {1} && hull run --rm five-layers cat /srv/top
         hull rmi five-layers >/dev/null",
        program.display(),
        image("five-layers.docker.tar").display(),
    );
    let mut command = Command::new("unshare");
    let output = command.args(["-m", "sh", "-c", &script]).env("HULL_STATE", &hull.roots().state).output();
    let run = Run::new(&["load"], output.expect("unshare"));
    let lines: Vec<&str> = run.stdout.lines().map(str::trim).collect();
    assert_eq!(lines[..4], ["code 1", "0", "0", "0"], "{run:#?}");
    assert_eq!((lines.last(), run.code), (Some(&"layer 4"), 0), "{run:#?}");
    assert!(run.stderr.contains("No space left") || run.stderr.contains("full"), "{run:#?}");
    assert_eq!(run.stderr.matches("Error:").count(), 1, "{run:#?}");
    let belongs = |line: &str| ["Error: ", "  caused by: ", "Hint: "].iter().any(|head| line.starts_with(head));
    assert!(run.stderr.lines().all(belongs), "nothing but the error: {run:#?}");
}

#[test]
fn without_root_it_says_what_is_missing() {
    let hull = Hull::new();
    let program = hull.file("hull");
    fs::copy(system_tests::hull().expect("HULL_BIN"), &program).expect("a copy");
    let place = hull.files();
    let folders = place
        .ancestors()
        .take_while(|folder| folder.starts_with(system_tests::test_folder().canonicalize().expect("it")));
    for folder in folders {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("opening a folder");
    }
    // setpriv and busybox's setuidgid are not everywhere; a container of Hull's own can drop its rights.
    let user = hull_user(&program);
    assert!(user.code == 125 && user.stderr.contains("root"), "{user:#?}");
    assert!(user.stderr.contains("Error:"), "{user:#?}");
}

fn hull_user(program: &str) -> Run {
    use std::os::unix::process::CommandExt;
    let output = Command::new(program).args(["run", "--rm", "hello"]).uid(65534).gid(65534).output();
    Run::new(&["run as nobody"], output.expect("starting hull as nobody"))
}

#[test]
fn a_hostile_tar_stays_in_its_layer() {
    let mut hull = Hull::new();
    let outside = hull.make_folder("outside");
    let up = format!("../../../../../../../../../../../..{outside}");
    let cases: [(&str, Layer); 6] = [
        ("dots", Layer::new().file(&format!("{up}/made"), b"x")),
        ("parent link", Layer::new().symlink("link", &outside).file("link/made", b"x")),
        ("dots link", Layer::new().symlink("link", &up).file("link/made", b"x")),
        ("absolute", Layer::new().file(&format!("{outside}/made"), b"x")),
        ("hard link", Layer::new().hard_link("stolen", &format!("{up}/secret"))),
        ("whiteout", Layer::new().symlink("link", &outside).file("link/.wh.secret", b"")),
    ];
    hull.write("outside/secret", "secret");
    for (name, layer) in cases {
        let archive = hull.files().join("hostile.tar");
        Image {
            names: vec!["hostile:latest".into()],
            config: serde_json::json!({"Cmd": ["true"]}),
            layers: vec![busybox_layer()],
        }
        .layer(layer)
        .write(&archive);
        let run = hull.run(&["load", "-q", "-i", &archive.display().to_string()]);
        if run.code == 0 {
            let stolen = hull.run(&["run", "--rm", "hostile", "cat", "/stolen"]);
            assert!(!stolen.stdout.contains("secret"), "{name}: {stolen:#?}");
            hull.ok(&["rmi", "-f", "hostile"]);
        } else {
            assert!(run.stderr.starts_with("Error:"), "{name}: {run:#?}");
        }
        assert_eq!(fs::read_to_string(format!("{outside}/secret")).ok().as_deref(), Some("secret"), "{name}");
        assert_eq!(fs::read_dir(&outside).expect("the folder").count(), 1, "{name} made something outside");
        assert_eq!(hull.leftovers(), Vec::<String>::new(), "{name}");
    }
    hull.keep_stored();
}

#[test]
fn devices_and_whiteouts_in_layers_are_what_they_say() {
    let mut hull = Hull::new();
    let archive = hull.files().join("layers.tar");
    Image::new("layers", serde_json::json!({"Cmd": ["true"], "Env": ["PATH=/bin"]}))
        .layer(Layer::new().device("nod", 1, 5).file("one/keep", b"").file("one/gone", b"").file("two/lower", b""))
        .layer(Layer::new().file("one/.wh.gone", b"").file("two/.wh..wh..opq", b"").file("two/upper", b""))
        .write(&archive);
    hull.load(&archive);
    let run = |script: &str| hull.ok(&["run", "--rm", "layers", "sh", "-c", script]);
    assert_eq!(run("stat -c %t:%T /nod"), "1:5");
    assert_eq!(run("ls -A /one; ls -A /two"), "keep\nupper");
    assert_eq!(run("rm -r /two && mkdir /two && ls -A /two"), "");
}
