//! A network namespace for a test.

use std::thread;

use hull_sys::process::{CLONE_NEWNET, unshare};

/// Runs on a thread in a network namespace of its own, which ends with it.
pub(crate) fn apart(test: impl FnOnce() + Send + 'static) {
    let apart = thread::spawn(move || {
        unshare(CLONE_NEWNET).unwrap();
        test();
    });
    apart.join().unwrap();
}
