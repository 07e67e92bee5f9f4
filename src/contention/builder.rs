use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::adaptive::{Adaptive, AdaptiveCapacity};
use super::codel::Queue;
use super::config::{ContentionConfig, OnDeadlock};
use super::handle::ResourceLock;
use crate::error::ConfigError;
use crate::event::Observer;

/// Sets up a [`ResourceLock`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct ResourceLockBuilder {
    name: Arc<str>,
    config: ContentionConfig,
    observers: Vec<Arc<dyn Observer>>,
}

impl ResourceLock {
    /// Starts with the default config; see [`ResourceLockBuilder`].
    pub fn builder(name: impl Into<Arc<str>>) -> ResourceLockBuilder {
        ResourceLockBuilder {
            name: name.into(),
            config: ContentionConfig::default(),
            observers: Vec::new(),
        }
    }
}

impl ResourceLockBuilder {
    /// Starts with a config: one that was read from a file, or that another lock has.
    pub fn config(mut self, config: ContentionConfig) -> Self {
        self.config = config;
        self
    }

    /// How many may have the resource at once. Default: 1, an exclusive lock. This is a number of permits,
    /// not a rate: with 10, a thousand short calls a second may pass. More than 2,147,483,647 is taken for that many.
    pub fn max_concurrent(mut self, n: usize) -> Self {
        self.config.max_concurrent = n;
        self
    }

    /// How long a caller may wait for a permit. Default: 30 s. Zero means not at all. It covers the wait
    /// only: how long the permit is then held is the holder's business.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = Some(timeout);
        self
    }

    /// Lets callers wait without end. A permit that is lost to a future nobody polls then stops them all,
    /// for good; prefer a long [`timeout`](Self::timeout).
    pub fn no_timeout(mut self) -> Self {
        self.config.timeout = None;
        self
    }

    /// From when on a wait is contention: it is counted, and reported *while* it lasts, with the names of those
    /// it waits for. Default: 5 s.
    pub fn contention_threshold(mut self, threshold: Duration) -> Self {
        self.config.contention_threshold = threshold;
        self
    }

    /// From when on somebody who holds a permit is reported. Default: never.
    ///
    /// A layer, and [`run`](ResourceLock::run), report their own calls on time. A guard is no future: it
    /// is noticed by whoever waits, by a snapshot, or when it is released.
    pub fn hold_threshold(mut self, threshold: Duration) -> Self {
        self.config.hold_threshold = Some(threshold);
        self
    }

    /// How many may wait at once; the next is refused. Default: as many as come, because each waits for a
    /// bounded time. 0 means that nobody waits.
    pub fn max_waiting(mut self, n: usize) -> Self {
        self.config.max_waiting = Some(n);
        self
    }

    /// After how long a wait looks for a deadlock, and again each time that this has passed; `None`: never. Default: 1 s,
    /// as PostgreSQL has it: most waits are over by then, and pay nothing for the search.
    ///
    /// A call that waits for a resource of which it holds every permit itself is refused at once, whatever is set here
    /// (with [`OnDeadlock::Report`](super::OnDeadlock::Report) only reported). Of a blocking wait that is not seen.
    pub fn deadlock_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.deadlock_timeout = timeout.into();
        self
    }

    /// What becomes of the wait that has to give way in a deadlock: of a cycle, the one that would give up first.
    /// Default: [`OnDeadlock::Refuse`].
    pub fn on_deadlock(mut self, what: OnDeadlock) -> Self {
        self.config.on_deadlock = what;
        self
    }

    /// In which order those who wait are served, and when they are refused although their own time is not over. Default:
    /// first come, first served. See [`Queue`].
    pub fn queue(mut self, queue: Queue) -> Self {
        self.config.queue = queue;
        self
    }

    /// How many permits one holder may have, so that one tenant cannot take all. Default: as many as there are. Whoever
    /// has as many waits, and others pass. Who asks for more at once is refused.
    ///
    /// With it, each permit is taken and given back under the mutex of the queue.
    pub fn max_per_holder(mut self, n: usize) -> Self {
        self.config.max_per_holder = Some(n);
        self
    }

    /// Lets the number of permits follow the times of the calls, within `range`; `max_concurrent` is the number to begin
    /// with. Default: off. See [`Adaptive`].
    ///
    /// ```
    /// # use tower_bulwark::ResourceLock;
    /// use tower_bulwark::contention::Adaptive;
    ///
    /// let lock = ResourceLock::builder("search")
    ///     .max_concurrent(20)
    ///     .adaptive(Adaptive::Gradient2, 4..=200)
    ///     .build()?;
    /// # Ok::<(), tower_bulwark::ConfigError>(())
    /// ```
    pub fn adaptive(mut self, algorithm: Adaptive, range: RangeInclusive<usize>) -> Self {
        self.config.adaptive = Some(AdaptiveCapacity::new(algorithm, range));
        self
    }

    /// Receives every event of this lock.
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
        self.config.check()?;
        let mut observers = self.observers;
        observers.extend(extra);
        Ok(ResourceLock::from_parts(self.name, self.config, observers))
    }

    pub(crate) fn name_ref(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn checked_config(&self) -> Result<ContentionConfig, ConfigError> {
        self.config.check()?;
        Ok(self.config.clone())
    }
}

impl fmt::Debug for ResourceLockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceLockBuilder")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
