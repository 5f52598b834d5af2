//! Many containers: one after another, and at the same time. Afterwards nothing is left of any.

use std::thread;

use system_tests::leftovers::zombies;
use system_tests::{Hull, is_vm, wait_for};

#[test]
fn two_hundred_runs_in_a_row_leave_nothing() {
    let hull = Hull::with_busybox();
    let before = zombies("hull");
    for _ in 0..if is_vm() { 30 } else { 200 } {
        hull.ok(&["run", "--rm", "busybox", "true"]);
    }
    assert_eq!(hull.leftovers(), Vec::<String>::new());
    assert_eq!(hull.containers(), Vec::<String>::new());
    wait_for("all of Hull's processes reaped", || zombies("hull").is_subset(&before).then_some(()));
}

#[test]
fn fifty_runs_at_once_leave_nothing() {
    let hull = Hull::with_busybox();
    thread::scope(|scope| {
        for number in 0..if is_vm() { 12 } else { 50 } {
            let hull = &hull;
            scope.spawn(move || {
                let said =
                    hull.inside(&["-v", "/etc", "--init"], &format!("echo {number} > /made; cat /made; hostname"));
                let (own, host) = said.split_once('\n').expect("two lines");
                assert_eq!((own, host.len()), (number.to_string().as_str(), 12));
            });
        }
    });
    assert_eq!(hull.containers(), Vec::<String>::new());
    assert_eq!(hull.leftovers(), Vec::<String>::new());
}

#[test]
fn commands_at_once_on_one_container_agree() {
    let hull = Hull::with_busybox();
    let id = hull.background(&[], "exec sleep 1000");
    thread::scope(|scope| {
        for number in 0..10 {
            let (hull, id) = (&hull, &id);
            scope.spawn(move || assert_eq!(hull.ok(&["exec", id, "echo", &number.to_string()]), number.to_string()));
        }
    });
    let codes: Vec<i32> = thread::scope(|scope| {
        let removing: Vec<_> = (0..5).map(|_| scope.spawn(|| hull.run(&["rm", "-f", &id]).code)).collect();
        removing.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(codes.contains(&0), "{codes:?}");
    assert_eq!(hull.containers(), Vec::<String>::new());
}

#[test]
fn one_name_is_given_once() {
    let hull = Hull::with_busybox();
    let created = thread::scope(|scope| {
        let all: Vec<_> =
            (0..8).map(|_| scope.spawn(|| hull.run(&["create", "--name", "one", "busybox", "true"]).code)).collect();
        all.into_iter().filter_map(|thread| thread.join().ok()).filter(|code| *code == 0).count()
    });
    assert_eq!((created, hull.containers().len()), (1, 1));
}
