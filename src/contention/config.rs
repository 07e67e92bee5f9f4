use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::handle::ResourceLock;
use crate::error::ConfigError;
use crate::event::Observer;

/// What a resource lock goes by. Made by its builder, and immutable; only the number of permits can be
/// changed later, on the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ContentionConfig {
    max_concurrent: usize,
    timeout: Option<Duration>,
    contention_threshold: Duration,
    hold_threshold: Option<Duration>,
    max_waiting: Option<usize>,
    deadlock_timeout: Option<Duration>,
    on_deadlock: OnDeadlock,
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
    /// It is told of, once, and goes on waiting.
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
    /// How many permits the lock was made with.
    #[must_use]
    pub fn max_concurrent(&self) -> usize {
        self.max_concurrent
    }

    /// How long a caller may wait; `None` is without end.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// From when on a wait is contention.
    #[must_use]
    pub fn contention_threshold(&self) -> Duration {
        self.contention_threshold
    }

    /// From when on a hold is reported.
    #[must_use]
    pub fn hold_threshold(&self) -> Option<Duration> {
        self.hold_threshold
    }

    /// How many may wait at once; `None` is as many as come.
    #[must_use]
    pub fn max_waiting(&self) -> Option<usize> {
        self.max_waiting
    }

    /// After how long a wait looks for a deadlock, and again each time that this has passed; `None`: never.
    #[must_use]
    pub fn deadlock_timeout(&self) -> Option<Duration> {
        self.deadlock_timeout
    }

    /// What becomes of the wait that has to give way in a deadlock.
    #[must_use]
    pub fn on_deadlock(&self) -> OnDeadlock {
        self.on_deadlock
    }

    fn check(&self) -> Result<(), ConfigError> {
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
}

pub(super) fn check_permits(n: usize) -> Result<(), ConfigError> {
    if n == 0 {
        let advice = "nobody could ever get the resource: give at least 1";
        return Err(ConfigError::new("max_concurrent", n, advice));
    }
    Ok(())
}

/// Sets up a [`ResourceLock`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct ResourceLockBuilder {
    name: Arc<str>,
    policy: ContentionConfig,
    observers: Vec<Arc<dyn Observer>>,
}

impl ResourceLockBuilder {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            policy: ContentionConfig::default(),
            observers: Vec::new(),
        }
    }

    /// How many may have the resource at once. Default: 1, an exclusive lock. This is a number of places,
    /// not a rate: with 10, a thousand short calls a second may pass.
    pub fn max_concurrent(mut self, n: usize) -> Self {
        self.policy.max_concurrent = n;
        self
    }

    /// How long a caller may wait for a permit. Default: 30 s. Zero means not at all. It covers the wait
    /// only: how long the permit is then held is the holder's business.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.policy.timeout = Some(timeout);
        self
    }

    /// Lets callers wait without end. A permit that is lost to a future nobody polls then stops them all,
    /// for good; prefer a long [`timeout`](Self::timeout).
    pub fn no_timeout(mut self) -> Self {
        self.policy.timeout = None;
        self
    }

    /// From when on a wait is contention: it is counted, and told *while* it lasts, with the names of those
    /// it waits for. Default: 5 s.
    pub fn contention_threshold(mut self, threshold: Duration) -> Self {
        self.policy.contention_threshold = threshold;
        self
    }

    /// From when on somebody who holds a permit is reported. Default: never.
    ///
    /// A layer, and [`run`](ResourceLock::run), report their own calls on time. A guard is nobody's future: it
    /// is noticed by whoever waits, by a snapshot, or when it is released.
    pub fn hold_threshold(mut self, threshold: Duration) -> Self {
        self.policy.hold_threshold = Some(threshold);
        self
    }

    /// How many may wait at once; the next is refused. Default: as many as come, because each waits for a
    /// bounded time. 0 means that nobody waits.
    pub fn max_waiting(mut self, n: usize) -> Self {
        self.policy.max_waiting = Some(n);
        self
    }

    /// After how long a wait looks for a deadlock, and again each time that this has passed; `None`: never. Default: 1 s,
    /// as PostgreSQL has it: most waits are over by then, and pay nothing for the search.
    ///
    /// A call that waits for a resource of which it holds every permit itself is refused at once, whatever is set here.
    pub fn deadlock_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.policy.deadlock_timeout = timeout.into();
        self
    }

    /// What becomes of the wait that has to give way in a deadlock: of a cycle, the one that would give up first.
    /// Default: [`OnDeadlock::Refuse`].
    pub fn on_deadlock(mut self, what: OnDeadlock) -> Self {
        self.policy.on_deadlock = what;
        self
    }

    /// Is told of every event of this lock.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Makes the lock.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work: it names the setting and says what to change.
    pub fn build(self) -> Result<ResourceLock, ConfigError> {
        self.build_with(None)
    }

    pub(crate) fn build_with(
        self,
        extra: Option<Arc<dyn Observer>>,
    ) -> Result<ResourceLock, ConfigError> {
        self.policy.check()?;
        let mut observers = self.observers;
        observers.extend(extra);
        Ok(ResourceLock::from_parts(self.name, self.policy, observers))
    }

    pub(crate) fn name_ref(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn checked_config(&self) -> Result<ContentionConfig, ConfigError> {
        self.policy.check()?;
        Ok(self.policy.clone())
    }
}

impl fmt::Debug for ResourceLockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceLockBuilder")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
