//! Signals by name or number, as `--stop-signal`, `kill --signal` and an image's StopSignal write them (signal(7)).
//!
//! Names are taken with or without `SIG`, in any case; real-time signals as `RTMIN+n` and `RTMAX-n` with glibc's
//! numbering (34 to 64), which is what every container runtime uses. Numbers are those of x86_64 and aarch64.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signal number from 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Signal(i32);

const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl Signal {
    /// SIGKILL.
    pub const KILL: Signal = Signal(9);
    /// SIGTERM, the default that asks a container to stop.
    pub const TERM: Signal = Signal(15);
    /// SIGCONT.
    pub const CONT: Signal = Signal(18);

    /// The kernel's number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// `SIGTERM`, `SIGRTMIN+3`.
    pub fn name(self) -> String {
        if let Some((name, _)) = NAMES.iter().find(|(_, number)| *number == self.0) {
            return format!("SIG{name}");
        }
        match self.0 {
            RTMIN => "SIGRTMIN".to_owned(),
            RTMAX => "SIGRTMAX".to_owned(),
            n if n < RTMIN => format!("{n}"),
            n if n <= RTMIN + 15 => format!("SIGRTMIN+{}", n - RTMIN),
            n => format!("SIGRTMAX-{}", RTMAX - n),
        }
    }
}

/// A signal that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid signal: {0}")]
pub struct SignalError(pub String);

impl TryFrom<i32> for Signal {
    type Error = SignalError;

    fn try_from(number: i32) -> Result<Signal, SignalError> {
        if (1..=RTMAX).contains(&number) { Ok(Signal(number)) } else { Err(SignalError(number.to_string())) }
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> i32 {
        signal.0
    }
}

impl FromStr for Signal {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Signal, SignalError> {
        let invalid = || SignalError(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return Signal::try_from(number).map_err(|_| invalid());
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Signal(*number));
        }
        real_time(name).ok_or_else(invalid)
    }
}

fn real_time(name: &str) -> Option<Signal> {
    let number = match name {
        "RTMIN" => RTMIN,
        "RTMAX" => RTMAX,
        _ => {
            let (base, offset) =
                name.strip_prefix("RTMIN+").map(|n| (RTMIN, n)).or(name.strip_prefix("RTMAX-").map(|n| (RTMAX, n)))?;
            let offset: i32 = offset.parse().ok().filter(|n| (0..=RTMAX - RTMIN).contains(n))?;
            if base == RTMIN { base + offset } else { base - offset }
        }
    };
    Some(Signal(number))
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("TERM", 15), ("sigterm", 15), ("SIGKILL", 9), ("9", 9), ("RTMIN", 34), ("SIGRTMIN+3", 37)]
        {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        assert_eq!("RTMAX-1".parse::<Signal>().unwrap().number(), 63);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in ["", "0", "65", "-1", "SIGFOO", "RTMIN+31", "RTMAX--1", "SIGSIGTERM"] {
            assert_eq!(text.parse::<Signal>().unwrap_err().to_string(), format!("invalid signal: {text}"));
        }
    }

    #[test]
    fn every_name_comes_back() {
        for number in (1..=31).chain(34..=64) {
            let signal = Signal::try_from(number).unwrap();
            assert_eq!(signal.name().parse::<Signal>(), Ok(signal));
        }
    }
}
