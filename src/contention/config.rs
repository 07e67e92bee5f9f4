use std::time::Duration;

use super::word::MOST;
use crate::error::{ConfigChange, ConfigError, config_change};

/// What a resource lock goes by: plain data, checked when a lock is built or [updated](super::ResourceLock::update)
/// with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ContentionConfig {
    /// How many permits there are.
    pub max_concurrent: usize,
    /// How long a caller may wait; `None` is without end.
    pub timeout: Option<Duration>,
    /// From when on a wait is contention.
    pub contention_threshold: Duration,
    /// From when on a hold is reported; `None`: never.
    pub hold_threshold: Option<Duration>,
    /// How many may wait at once; `None` is as many as come.
    pub max_waiting: Option<usize>,
    /// After how long a wait looks for a deadlock, and again each time that this has passed; `None`: never.
    pub deadlock_timeout: Option<Duration>,
    /// What becomes of the wait that has to give way in a deadlock.
    pub on_deadlock: OnDeadlock,
}

/// What becomes of the wait that has to give way in a deadlock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum OnDeadlock {
    /// It is refused, with the cycle: the default.
    #[default]
    Refuse,
    /// It is reported, once, and goes on waiting.
    Report,
}

impl Default for ContentionConfig {
    fn default() -> Self {
        Self {
            max_concurrent: 1,
            timeout: Some(Duration::from_secs(30)),
            contention_threshold: Duration::from_secs(5),
            hold_threshold: None,
            max_waiting: None,
            deadlock_timeout: Some(Duration::from_secs(1)),
            on_deadlock: OnDeadlock::Refuse,
        }
    }
}

impl ContentionConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_permits(self.max_concurrent)?;
        if self.deadlock_timeout.is_some_and(|it| it.is_zero()) {
            let advice = "every wait would look for ever: give a duration above zero, or `None`";
            return Err(ConfigError::new("deadlock_timeout", Duration::ZERO, advice));
        }
        if self.hold_threshold.is_some_and(|it| it.is_zero()) {
            let advice =
                "every hold would be reported: give a duration above zero, or leave it out";
            return Err(ConfigError::new("hold_threshold", Duration::ZERO, advice));
        }
        Ok(())
    }

    /// What differs in `new`.
    pub(super) fn difference(&self, new: &Self) -> ConfigChange {
        config_change!(
            self,
            new,
            max_concurrent,
            timeout,
            contention_threshold,
            hold_threshold,
            max_waiting,
            deadlock_timeout,
            on_deadlock,
        )
    }
}

/// The number as the lock counts it: more than two thousand million permits are as many as nobody can take.
pub(super) fn check_permits(n: usize) -> Result<u32, ConfigError> {
    match u32::try_from(n) {
        Ok(0) => {
            let advice = "nobody could ever get the resource: give at least 1";
            Err(ConfigError::new("max_concurrent", n, advice))
        }
        Ok(n) => Ok(n.min(MOST)),
        Err(_) => Ok(MOST),
    }
}
