//! Waiting for a fact: asked again and again until it holds, with a deadline that only a failure ever reaches.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{self, Receiver};
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

/// Lines that a program prints, each waited for with that patience.
pub struct Lines(Receiver<String>);

impl Lines {
    /// Of one of its streams.
    pub fn of(stream: impl Read + Send + 'static) -> Lines {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Lines(lines)
    }

    /// The next one.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn next_line(&mut self) -> String {
        self.0.recv_timeout(patience()).expect("one more line")
    }
}
