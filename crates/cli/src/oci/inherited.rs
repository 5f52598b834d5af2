//! Descriptors that the caller of the runtime hands to the container's program: those of `LISTEN_FDS`, which a service
//! manager opened for it (sd_listen_fds(3)), and after them the number that `--preserve-fds` says.
//!
//! They are the caller's descriptors from 3 on and have the same numbers in the program. `LISTEN_FDS` counts only when
//! `LISTEN_PID` names this process; the program then gets both, with itself as process 1.

use hull_sys::process::is_open;

use crate::error::Failure;

/// The first number behind the standard streams.
const FIRST: i32 = 3;
/// Far more than any process has open.
const MOST: u32 = 1 << 20;

/// How many descriptors are handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    listen: i32,
    preserve: i32,
}

impl Inherited {
    /// For the first process of a container. To be called before anything is opened here.
    ///
    /// # Errors
    /// When one of them is not open.
    pub fn of_container(preserve: u32) -> Result<Inherited, Failure> {
        Inherited { listen: listened(), preserve: 0 }.preserving(preserve)
    }

    /// For one more process, which gets none of `LISTEN_FDS`. To be called before anything is opened here.
    ///
    /// # Errors
    /// When one of them is not open.
    pub fn of_exec(preserve: u32) -> Result<Inherited, Failure> {
        Inherited { listen: 0, preserve: 0 }.preserving(preserve)
    }

    fn preserving(self, count: u32) -> Result<Inherited, Failure> {
        let first = FIRST + self.listen;
        let open = (0..count.min(MOST)).take_while(|index| is_open(first + *index as i32)).count() as u32;
        if open < count {
            let reason = format!("unable to stat preserved-fd {open} (of {count}): no such file or directory");
            return Err(Failure::Arguments(reason));
        }
        Ok(Inherited { preserve: open as i32, ..self })
    }

    /// Descriptors from 3 on that stay open.
    pub fn count(self) -> i32 {
        self.listen + self.preserve
    }

    /// The variables that tell the program.
    pub fn variables(self) -> Vec<String> {
        match self.listen {
            0 => Vec::new(),
            count => vec![format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()],
        }
    }
}

/// What a service manager opened for this process.
fn listened() -> i32 {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return 0;
    }
    let count = number("LISTEN_FDS").unwrap_or(0).min(MOST) as i32;
    (FIRST..FIRST + count).take_while(|fd| is_open(*fd)).count() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_open_cannot_be_preserved() {
        let error = Inherited::of_exec(5000).unwrap_err().to_string();
        assert!(error.starts_with("unable to stat preserved-fd ") && error.contains("(of 5000)"), "{error}");
        assert_eq!(Inherited::of_exec(0).unwrap().count(), 0);
    }

    #[test]
    fn the_program_is_told_of_listen_fds_alone() {
        let both = Inherited { listen: 2, preserve: 3 };
        assert_eq!((both.count(), both.variables()), (5, vec!["LISTEN_FDS=2".to_owned(), "LISTEN_PID=1".to_owned()]));
        assert!(Inherited { listen: 0, preserve: 3 }.variables().is_empty());
    }
}
