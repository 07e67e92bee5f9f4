use std::time::Duration;

use super::adaptive::AdaptiveCapacity;
use super::codel::Queue;
use super::word::MOST;
use crate::error::{ConfigChange, ConfigError, config_change};

/// What a resource lock goes by: plain data, checked when a lock is built or [updated](super::ResourceLock::update)
/// with it.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ContentionConfig {
    /// How many permits there are.
    pub max_concurrent: usize,
    /// How long a caller may wait; `None` is without end.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub timeout: Option<Duration>,
    /// From when on a wait is contention.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub contention_threshold: Duration,
    /// From when on a hold is reported; `None`: never.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub hold_threshold: Option<Duration>,
    /// How many may wait at once; `None` is as many as come.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<usize>")
    )]
    pub max_waiting: Option<usize>,
    /// After how long a wait looks for a deadlock, and again each time that this has passed; `None`: never.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub deadlock_timeout: Option<Duration>,
    /// What becomes of the wait that has to give way in a deadlock.
    pub on_deadlock: OnDeadlock,
    /// In which order those who wait are served.
    pub queue: Queue,
    /// How many permits one holder may have; `None` is as many as there are.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<usize>")
    )]
    pub max_per_holder: Option<usize>,
    /// How the number of permits follows the times of the calls; `None`: not at all.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<AdaptiveCapacity>")
    )]
    pub adaptive: Option<AdaptiveCapacity>,
}

/// What becomes of the wait that has to give way in a deadlock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
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
            queue: Queue::Fifo,
            max_per_holder: None,
            adaptive: None,
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
        if self.max_per_holder == Some(0) {
            let advice = "nobody could ever get the resource: give at least 1, or leave it out";
            return Err(ConfigError::new("max_per_holder", 0, advice));
        }
        let (Queue::Codel { interval, .. } | Queue::LifoWhenOverloaded { interval }) = self.queue
        else {
            return self.check_adaptive();
        };
        if interval.is_zero() {
            let advice =
                "the queue would always be overloaded: give a duration above zero, such as 100 ms";
            return Err(ConfigError::new("queue", interval, advice));
        }
        self.check_adaptive()
    }

    fn check_adaptive(&self) -> Result<(), ConfigError> {
        if let Some(adaptive) = &self.adaptive {
            adaptive.check(self.max_concurrent)?;
        }
        Ok(())
    }

    pub(super) fn most_per_holder(&self) -> Option<u32> {
        let most = self.max_per_holder?;
        Some(u32::try_from(most).unwrap_or(MOST).min(MOST))
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
            queue,
            max_per_holder,
            adaptive,
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
