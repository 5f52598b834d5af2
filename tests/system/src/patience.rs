//! Waiting for a fact: asked again and again until it holds, with a deadline that only a failure ever reaches.

use std::thread;
use std::time::{Duration, Instant};

use crate::is_vm;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// The longest a test waits for a fact before it says that it does not hold.
pub fn patience() -> Duration {
    Duration::from_secs(if is_vm() { 120 } else { 30 })
}

/// Waits until `look` has an answer; `what` names it in the failure.
///
/// # Panics
/// When the deadline has passed.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience();
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(PAUSE);
    }
}
