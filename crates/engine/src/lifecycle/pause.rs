//! Freezing and thawing a container's cgroup, and stopping and starting it in one command.
//!
//! The freezer itself is the state: nothing is recorded, so a pause survives every process of Hull.

use crate::engine::Engine;
use crate::error::EngineError;
use crate::lifecycle::state::Action;
use crate::lifecycle::stop::StopOptions;

impl Engine {
    /// Freezes every process of a container.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when it does not run or is paused already; what the freezer says.
    pub fn pause(&self, name: &str) -> Result<(), EngineError> {
        let row = self.row(name)?;
        self.accept(name, &self.state_of(&row)?, Action::Pause)?;
        Ok(self.cgroup(&row.id)?.freeze()?)
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when it is not paused; what the freezer says.
    pub fn unpause(&self, name: &str) -> Result<(), EngineError> {
        let row = self.row(name)?;
        self.accept(name, &self.state_of(&row)?, Action::Unpause)?;
        Ok(self.cgroup(&row.id)?.thaw()?)
    }

    /// Stops a container, when it runs, and starts it.
    ///
    /// # Errors
    /// Those of [`Engine::stop`] and [`Engine::start`].
    pub fn restart(&self, name: &str, options: &StopOptions) -> Result<(), EngineError> {
        let row = self.row(name)?;
        let state = self.state_of(&row)?;
        self.accept(name, &state, Action::Restart)?;
        if state.is_running() {
            self.stop_running(&row, options)?;
        }
        self.start(row.id.as_str())
    }
}
