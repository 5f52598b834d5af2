//! Which command a container accepts in which phase: pure, without a clock or a kernel.
//!
//! ```text
//!              start              pause
//!   Created ----------> Running --------> Paused
//!                       ^  |  ^-- unpause --'
//!                 start |  | exit, stop, kill (thaws first)
//!                       |  v
//!                      Exited ---- remove ----> Removing ----> (gone)
//! ```
//!
//! `Creating` and `Removing` belong to the command that holds the row's lease. A supervisor alone moves a container
//! from Running to Exited. A command that finds its goal reached already succeeds without doing anything, so that two
//! commands at once do not fail each other. A forced removal is accepted from every phase that is not somebody else's.

use std::fmt;

use jiff::Timestamp;

/// Where a container is in its life, with what is known about it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// A command is making it.
    Creating,
    /// Never started.
    Created,
    /// Its process runs.
    Running {
        /// Process id on the host.
        pid: i32,
        /// When it was started.
        started_at: Timestamp,
    },
    /// Its processes are frozen.
    Paused {
        /// Process id on the host.
        pid: i32,
        /// When it was started.
        started_at: Timestamp,
    },
    /// Its process has ended.
    Exited {
        /// How.
        status: ExitStatus,
        /// When it had been started, when that is known.
        started_at: Option<Timestamp>,
    },
    /// A command is removing it.
    Removing,
    /// Its files are incomplete; it can only be removed.
    Dead,
}

/// How a container's process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExitStatus {
    /// Exit code, 128+n for signal n; absent when nobody could see it.
    pub code: Option<i32>,
    /// The kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
    /// Why it could not run, when it could not.
    pub error: Option<String>,
    /// When.
    pub finished_at: Option<Timestamp>,
}

/// [`ContainerState`] without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the same words as in ContainerState")]
pub enum Phase {
    Creating,
    Created,
    Running,
    Paused,
    Exited,
    Removing,
    Dead,
}

impl ContainerState {
    /// The phase.
    pub fn phase(&self) -> Phase {
        match self {
            ContainerState::Creating => Phase::Creating,
            ContainerState::Created => Phase::Created,
            ContainerState::Running { .. } => Phase::Running,
            ContainerState::Paused { .. } => Phase::Paused,
            ContainerState::Exited { .. } => Phase::Exited,
            ContainerState::Removing => Phase::Removing,
            ContainerState::Dead => Phase::Dead,
        }
    }

    /// Docker's word for it.
    pub fn name(&self) -> &'static str {
        match self.phase() {
            // Docker shows what is still being made as created.
            Phase::Creating | Phase::Created => "created",
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Exited => "exited",
            Phase::Removing => "removing",
            Phase::Dead => "dead",
        }
    }

    /// Whether it has processes (running or paused).
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Its first process on the host.
    pub fn pid(&self) -> Option<i32> {
        match self {
            ContainerState::Running { pid, .. } | ContainerState::Paused { pid, .. } => Some(*pid),
            _ => None,
        }
    }
}

/// A command on an existing container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the commands' own words")]
pub enum Action {
    Start,
    Stop,
    Restart,
    Kill,
    Pause,
    Unpause,
    Remove { force: bool },
    Exec,
    Attach,
    Update,
}

/// What a command has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its work.
    Proceed,
    /// Nothing: the goal is reached, or somebody else is reaching it.
    AlreadyDone,
}

/// Why a command is refused. The message is docker's where docker has one; the command's door adds the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked.
    pub action: Action,
    /// Where the container is.
    pub phase: Phase,
}

/// Accepts or refuses `action` in `phase`.
///
/// # Errors
/// The refusal, which has a reason.
pub fn decide(phase: Phase, action: Action) -> Result<Verdict, Refusal> {
    use Phase::{Created, Dead, Exited, Paused, Removing, Running};
    let verdict = match (action, phase) {
        (Action::Start, Created | Exited) => Verdict::Proceed,
        (Action::Start, Running) => Verdict::AlreadyDone,
        (Action::Stop, Running | Paused) => Verdict::Proceed,
        (Action::Stop, Created | Exited | Removing | Dead) => Verdict::AlreadyDone,
        (Action::Restart, Created | Running | Paused | Exited) => Verdict::Proceed,
        (Action::Kill, Running | Paused) => Verdict::Proceed,
        (Action::Pause, Running) => Verdict::Proceed,
        (Action::Unpause, Paused) => Verdict::Proceed,
        (Action::Remove { .. }, Created | Exited | Dead) => Verdict::Proceed,
        (Action::Remove { force: true }, Running | Paused) => Verdict::Proceed,
        (Action::Remove { .. }, Removing) => Verdict::AlreadyDone,
        (Action::Exec | Action::Attach, Running) => Verdict::Proceed,
        (Action::Update, Created | Running | Paused | Exited) => Verdict::Proceed,
        _ => return Err(Refusal { action, phase }),
    };
    Ok(verdict)
}

impl Refusal {
    /// What to do instead.
    pub fn hint(&self) -> Option<&'static str> {
        match (self.action, self.phase) {
            (Action::Remove { .. }, Phase::Running | Phase::Paused) => Some("`hull rm -f` kills and removes it"),
            (Action::Kill | Action::Exec, Phase::Created | Phase::Exited) => Some("`hull start` starts it"),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Phase::{Creating, Dead, Paused, Removing, Running};
        let reason = match (self.action, self.phase) {
            (_, Creating) => "container is still being created",
            (Action::Start | Action::Restart, Paused) => "cannot start a paused container, try unpause instead",
            (Action::Start | Action::Restart, Removing) => "container is marked for removal and cannot be started",
            (Action::Start | Action::Restart, Dead) => "container files are incomplete, it can only be removed",
            (Action::Remove { .. }, Running) => {
                "container is running: stop the container before removing or force remove"
            }
            (Action::Remove { .. }, Paused) => "container is paused and must be unpaused first, or use force remove",
            (Action::Exec, Paused) => "container is paused, unpause the container before exec",
            (Action::Attach, Paused) => "cannot attach to a paused container, unpause it first",
            (Action::Attach, _) => "cannot attach to a stopped container, start it first",
            (Action::Update, _) => "container is marked for removal and cannot be \"update\"",
            (Action::Pause, Paused) => "container is already paused",
            (Action::Unpause, _) => "container is not paused",
            _ => "container is not running",
        };
        f.write_str(reason)
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Restart => "restart",
            Action::Kill => "kill",
            Action::Pause => "pause",
            Action::Unpause => "unpause",
            Action::Remove { .. } => "remove",
            Action::Exec => "exec in",
            Action::Attach => "attach to",
            Action::Update => "update",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PHASES: [Phase; 7] =
        [Phase::Creating, Phase::Created, Phase::Running, Phase::Paused, Phase::Exited, Phase::Removing, Phase::Dead];

    const ACTIONS: [Action; 11] = [
        Action::Start,
        Action::Stop,
        Action::Restart,
        Action::Kill,
        Action::Pause,
        Action::Unpause,
        Action::Remove { force: false },
        Action::Remove { force: true },
        Action::Exec,
        Action::Attach,
        Action::Update,
    ];

    /// What an accepted command makes of a phase; `None` is a container that is gone.
    fn after(phase: Phase, action: Action) -> Option<Phase> {
        match action {
            Action::Start | Action::Restart | Action::Unpause => Some(Phase::Running),
            Action::Stop | Action::Kill => Some(Phase::Exited),
            Action::Pause => Some(Phase::Paused),
            Action::Remove { .. } => None,
            Action::Exec | Action::Attach | Action::Update => Some(phase),
        }
    }

    #[test]
    fn every_refusal_has_a_reason_that_fits() {
        for phase in PHASES {
            for action in ACTIONS {
                if let Err(refusal) = decide(phase, action) {
                    assert!(!refusal.to_string().is_empty());
                    let running = matches!(phase, Phase::Running | Phase::Paused);
                    assert!(!(running && refusal.to_string().contains("not running")), "{phase:?} {action:?}");
                }
            }
        }
    }

    #[test]
    fn nobody_touches_a_container_in_the_making() {
        assert!(ACTIONS.iter().all(|action| decide(Phase::Creating, *action).is_err()));
    }

    #[test]
    fn running_containers_are_removed_by_force_only() {
        let remove = |phase, force| decide(phase, Action::Remove { force });
        assert!(remove(Phase::Running, false).unwrap_err().to_string().starts_with("container is running"));
        assert_eq!(remove(Phase::Running, true), Ok(Verdict::Proceed));
        assert_eq!(remove(Phase::Removing, false), Ok(Verdict::AlreadyDone));
    }

    proptest! {
        /// Whatever was done in whatever order, a container that still exists can be removed by force, and only one
        /// that has run can be running.
        #[test]
        fn any_order_of_commands_ends_in_a_removable_container(
            orders in prop::collection::vec((0..ACTIONS.len(), any::<bool>()), 0..60)
        ) {
            let mut phase = Phase::Created;
            let mut starts = 0_u32;
            for (action, exits_by_itself) in orders {
                if exits_by_itself && phase == Phase::Running {
                    phase = Phase::Exited;
                }
                let action = ACTIONS[action];
                match decide(phase, action) {
                    Ok(Verdict::Proceed) => match after(phase, action) {
                        Some(next) => {
                            starts += u32::from(matches!(action, Action::Start | Action::Restart));
                            phase = next;
                        }
                        None => return Ok(()),
                    },
                    Ok(Verdict::AlreadyDone) => {}
                    Err(refusal) => prop_assert_eq!(refusal, Refusal { action, phase }),
                }
                prop_assert!(phase == Phase::Created || starts > 0);
                prop_assert_eq!(decide(phase, Action::Remove { force: true }), Ok(Verdict::Proceed));
            }
        }

        /// Stopping twice, or removing what is being removed, does nothing the second time.
        #[test]
        fn reached_goals_are_not_errors(first in 0..ACTIONS.len()) {
            let action = ACTIONS[first];
            for phase in PHASES {
                if decide(phase, action) == Ok(Verdict::Proceed) && action == Action::Stop {
                    let next = after(phase, action).unwrap();
                    prop_assert_eq!(decide(next, action), Ok(Verdict::AlreadyDone));
                }
            }
        }
    }
}
