//! CVE-2019-5736: a container overwrites the runtime's binary on the host through `/proc/PID/exe`.
//!
//! The program to be executed in the container is a script for the interpreter `/proc/self/exe`. At that moment the
//! process is still the runtime, so the kernel executes the runtime's binary inside of the container, with the
//! container's rights. Another process of the container opens `/proc/PID/exe` for reading, keeps it until nobody
//! executes the file any more, and opens it again for writing through `/proc/self/fd/N`.
//!
//! Hull tells the kernel another way to its binary before a process enters a container: one through a detached mount
//! that is read-only (`own_program`), so that the second opening fails with EROFS. The binary attacked here is a copy,
//! which tests may lose.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde_json::json;
use system_tests::bundle::Bundle;
use system_tests::{Hull, wait_for};

use super::{executable, in_root, writable};

/// Waits for a process that executes something else than busybox, holds on to it, and writes into it when it has ended.
const ATTACKER: &str = r#"
while [ ! -e /caught ]; do
  for p in /proc/[0-9]*; do
    if [ -r $p/exe ] && [ ! $p/exe -ef /bin/busybox ] && command exec 9<$p/exe; then echo $p > /caught; break; fi
  done
done
n=0
while [ $n -lt 3000 ]; do
  said=$( { echo overwritten > /proc/self/fd/9; } 2>&1 ) && break
  case $said in *busy*) n=$((n+1)); sleep 0.01;; *) break;; esac
done
echo "$said." > /result.new; mv /result.new /result
exec sleep 1000
"#;

/// A pipe that is full: who writes to it waits.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let flags = fcntl_getfl(&writer).expect("flags");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("flags");
    while writer.write(&[b'.'; 4096]).is_ok() {}
    fcntl_setfl(&writer, flags).expect("flags");
    (reader, writer)
}

/// With a copy of the runtime that may be lost.
fn victim(script: &str, change: impl FnOnce(&mut serde_json::Value)) -> Bundle {
    let bundle = Bundle::script(script, change);
    fs::remove_file(&bundle.runc).expect("the link");
    fs::copy(system_tests::hull().expect("HULL_BIN"), &bundle.runc).expect("a copy of hull");
    bundle
}

/// Runs the victim with `words`, which execute the trap in the attacker's sight; says what became of the binary.
#[track_caller]
fn attack(attacker: &Bundle, victim: &Bundle, words: &[&str]) {
    let before = fs::read(&victim.runc).expect("the binary");
    // What the binary says when it finds itself inside blocks, so that the attacker has all the time.
    let (mut reader, writer) = full_pipe();
    let mut command = victim.command(words);
    command.stdout(writer.try_clone().expect("one more")).stderr(writer);
    let mut child = command.spawn().expect("the runtime");
    drop(command);
    wait_for("the attacker to hold the binary", || fs::exists(in_root(attacker, "caught")).ok().filter(|it| *it));
    let mut said = Vec::new();
    reader.read_to_end(&mut said).expect("what was said");
    child.wait().expect("the end of the runtime");
    let result = wait_for("the attacker's result", || fs::read_to_string(in_root(attacker, "result")).ok());
    assert!(before == fs::read(&victim.runc).expect("the binary"), "the binary was overwritten: {result}");
    assert!(result.contains("Read-only file system"), "{result}");
}

/// Seen to succeed with `ReadOnlyWay::open` giving none.
#[test]
fn an_exec_does_not_give_the_runtimes_binary_away() {
    let bundle = victim(ATTACKER, writable);
    executable(&bundle, "bin/trap", "#!/proc/self/exe\n");
    let id = bundle.id("exe");
    bundle.start_detached(&id);
    attack(&bundle, &bundle, &["exec", &id, "/bin/trap"]);
    bundle.delete(&id);
}

/// The same by a malicious image, with a neighbour in the same pid namespace, as containers of a pod are.
///
/// Seen to succeed with `ReadOnlyWay::open` giving none.
#[test]
fn an_image_does_not_get_the_runtimes_binary() {
    let attacker = Bundle::script(ATTACKER, writable);
    let id = attacker.id("exe");
    let pid = attacker.start_detached(&id);
    let image = victim("", |config| {
        config["process"]["args"] = json!(["/bin/trap"]);
        config["linux"]["namespaces"][0] = json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")});
    });
    executable(&image, "bin/trap", "#!/proc/self/exe\n");
    attack(&attacker, &image, &["run", "--bundle", &image.folder, &image.id("trap")]);
    attacker.delete(&id);
}

/// The same by `hull exec`. The supervisor executes the binary as long as the container runs, so what is tried is to
/// change its mode, which the mount refuses before anything else is looked at.
///
/// Seen to succeed with `ReadOnlyWay::open` giving none.
#[test]
fn hull_exec_does_not_give_its_binary_away() {
    const ROUNDS: usize = 200;
    let hull = Hull::with_busybox();
    let out = hull.make_folder("out");
    let script = r#"
        printf '#!/proc/self/exe\n' > /bin/trap; chmod 755 /bin/trap; echo ready
        while :; do
          for p in /proc/[0-9]*; do
            if [ -r $p/exe ] && [ ! $p/exe -ef /bin/busybox ] && command exec 9<$p/exe; then
              chmod 755 /proc/self/fd/9 2> /out/result.new; echo "changed: $?" >> /out/result.new
              mv /out/result.new /out/result; exec sleep 1000
            fi
          done
        done"#;
    let id = hull.background(&["-v", &format!("{out}:/out")], script);
    hull.logged(&id, "ready");
    let result = format!("{out}/result");
    for _ in 0..ROUNDS {
        if fs::exists(&result).expect("looking") {
            break;
        }
        hull.run(&["exec", &id, "/bin/trap"]);
    }
    let result = fs::read_to_string(&result).expect("the attacker to have held the binary");
    assert!(result.contains("Read-only file system") && result.contains("changed: 1"), "{result}");
}
