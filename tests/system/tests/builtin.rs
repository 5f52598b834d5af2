//! The images that Hull carries inside itself: `hello` and `host`.

use std::fs;

use system_tests::Hull;

#[test]
fn hello_tells_how_its_process_sees_the_world_fallback() {
    let hull = Hull::new();
    let flags = ["run", "--rm", "--hostname", "greeter", "-m", "64m", "--cpus", "0.5", "--pids-limit", "32"];
    let text = hull.ok(&[&flags[..], &["hello"]].concat());
    let line = |head: &str| {
        let found = text.lines().find(|line| line.starts_with(head));
        found.unwrap_or_else(|| panic!("no {head} in\n{text}")).to_owned()
    };
    assert!(line("process").contains("PID 1, parent 0, user 0, group 0"), "{text}");
    assert!(line("hostname").ends_with(" greeter"), "{text}");
    assert!(line("interfaces").ends_with(" lo (up)"), "{text}");
    assert!(line("mounts").contains("/=overlay"), "{text}");
    assert!(line("capabilities").contains("14 of "), "{text}");
    assert!(line("seccomp").ends_with(" 1 filter"), "{text}");
    let limits = line("limits");
    assert!(limits.contains("64") && limits.contains("0.5") && limits.contains("32"), "{limits}");
    assert!(text.contains("uid map"), "{text}");
    let own = fs::read_link("/proc/self/ns/pid").expect("a namespace").display().to_string();
    let own = own.trim_start_matches("pid:[").trim_end_matches(']');
    assert!(text.contains("pid:") && !text.contains(own), "the pid namespace {own} is this test's own:\n{text}");
}

#[test]
fn hello_leaves_nothing_but_what_it_can_use_again() {
    let hull = Hull::new();
    hull.ok(&["run", "--rm", "hello"]);
    let first = fs::read_dir(hull.roots().root.join("builtin")).expect("its files").count();
    hull.ok(&["run", "--rm", "hello"]);
    assert_eq!(first, fs::read_dir(hull.roots().root.join("builtin")).expect("its files").count());
    assert_eq!(hull.leftovers(), Vec::<String>::new());
}

#[test]
fn host_has_the_machines_programs_and_hides_what_is_not_its_business() {
    let hull = Hull::new();
    let inside = |script: &str| hull.ok(&["run", "--rm", "host", "sh", "-c", script]);
    hull.write("secret", "of the machine");
    assert_eq!(inside("ls -A /run /tmp | grep -v -e ^/ -e '^$' | wc -l"), "0", "/run and /tmp are empty");
    assert_eq!(inside("echo $$"), "1");
    assert_eq!(inside("ls / | grep -c -e ^bin$ -e ^etc$ -e ^usr$"), "3");
    let root = &hull.roots().root;
    assert!(root.join("hull.db").exists());
    assert_eq!(inside(&format!("ls -A {} 2>/dev/null | wc -l", root.display())), "0", "the store is hidden");
    assert_eq!(inside(&format!("ls -A {} 2>/dev/null | wc -l", hull.roots().state.display())), "0");
    let programs = fs::read_dir("/bin").expect("programs").count().to_string();
    assert_eq!(inside("ls -A /bin | wc -l"), programs, "the machine's programs are all there");
}

#[test]
fn nothing_that_host_writes_reaches_the_machine() {
    let hull = Hull::new();
    let before = fs::read("/etc/passwd").expect("the machine's users");
    let script = "echo intruder >> /etc/passwd && mkdir /made && echo x > /usr/made && rm -r /bin/* /etc/group \
                  && read word < /usr/made && echo $word && tail -n 1 /etc/passwd";
    let said = hull.ok(&["run", "--rm", "host", "sh", "-c", "PATH=/usr/bin:/bin; cp /bin/tail /t; :"]);
    assert_eq!(said, "");
    let script = script
        .replace("&& tail -n 1 /etc/passwd", "&& while read line; do last=$line; done < /etc/passwd && echo $last");
    assert_eq!(hull.ok(&["run", "--rm", "host", "sh", "-c", &script]), "x\nintruder");
    assert_eq!(fs::read("/etc/passwd").expect("the machine's users"), before);
    for made in ["/made", "/usr/made", "/t"] {
        assert!(!fs::exists(made).expect("looking"), "{made} has reached the machine");
    }
    assert!(fs::exists("/etc/group").expect("looking") && fs::exists("/bin/sh").expect("looking"));
}
