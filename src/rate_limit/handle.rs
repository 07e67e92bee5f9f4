use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::config::RateLimitConfig;
use super::cost::Cost;
use super::quota::Quota;
use super::reservation::Reservation;
use super::shadow::{InForce, RateLimitShadow};
use super::shared::Shared;
use super::snapshot::RateLimitSnapshot;
use crate::error::{ConfigChange, ConfigError, RateLimitReason, RateLimited};
use crate::event::Observer;
use crate::util::sharded::ShardedArc;
use crate::util::time;

/// How much may be used in which time: a cheap clone of shared, named quotas.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tower_bulwark::rate_limit::{Quota, RateLimit};
///
/// let limit = RateLimit::builder("openai")
///     .quota("requests", Quota::per_minute(500))
///     .quota("tokens", Quota::per_minute(90_000))
///     .max_wait(Duration::from_secs(20))
///     .build()?;
///
/// // One request, and as many tokens as it may take; then what it took.
/// let reserved = limit.acquire([1, 2_000]).await?;
/// reserved.settle([1, 350]);
/// assert_eq!(limit.snapshot().quotas[1].available, 89_650);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RateLimit {
    pub(super) shared: ShardedArc<Shared>,
}

impl RateLimit {
    pub(super) fn from_parts(
        name: Arc<str>,
        config: RateLimitConfig,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            shared: ShardedArc::new(Shared::new(name, config, observers)),
        }
    }

    /// A limit with one quota, called `requests`, and the defaults of the [builder](Self::builder).
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a quota that lets nothing pass.
    pub fn new(name: impl Into<Arc<str>>, quota: Quota) -> Result<Self, ConfigError> {
        Self::builder(name).quota("requests", quota).build()
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// What it goes by.
    #[must_use]
    pub fn config(&self) -> Arc<RateLimitConfig> {
        self.shared.config.load_full()
    }

    /// Goes by this config from now on, and says what changes. What is left of each quota stays, as far as the new one
    /// holds it; who waits keeps its place. What was taken before is not given back after.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for what cannot work, and for other quotas than before: nothing changes then.
    pub fn update(&self, config: RateLimitConfig) -> Result<ConfigChange, ConfigError> {
        self.shared.update(config)
    }

    /// Whether [`update`](Self::update) would do.
    #[cfg(feature = "config")]
    pub(crate) fn can_update(&self, config: &RateLimitConfig) -> Result<(), ConfigError> {
        config.check()?;
        self.config().check_names(config)
    }

    /// Everything there is to know, at one moment.
    #[must_use]
    pub fn snapshot(&self) -> RateLimitSnapshot {
        self.shared.snapshot()
    }

    /// Takes `cost` if it is there and nobody waits. Never waits.
    ///
    /// # Errors
    ///
    /// [`RateLimited`], with the time at which there will be enough.
    #[inline]
    pub fn try_acquire(&self, cost: impl Into<Cost>) -> Result<Reservation, RateLimited> {
        let (cost, now) = (cost.into(), time::now());
        // Before: what is taken by old rules is not given back to new ones.
        let version = self.shared.version();
        match self.shared.try_take(cost, now) {
            Ok(()) => {
                let mark = self.shared.asked(cost, now, false, InForce::Passed);
                Ok(Reservation {
                    shared: self.shared.mine(),
                    cost,
                    version: version | mark,
                })
            }
            Err(not) => {
                self.shared.asked(cost, now, false, InForce::Refused);
                let reason = RateLimitReason::Exhausted;
                let limit = self.shared.mine().into_arc();
                Err(self
                    .shared
                    .refused(limit, not, reason, (Duration::ZERO, now)))
            }
        }
    }

    /// Tries another config on the same calls: it decides as if it were in force, and nothing comes of it. What it would have
    /// done otherwise stands in the [snapshot](Self::snapshot), as `shadow`. It begins with full quotas, and replaces one that
    /// is tried already. It may have other quotas than the limit: the costs of calls are given to them by their order.
    /// A [`reset`](Self::reset) of the limit begins it anew.
    ///
    /// Whoever would wait is taken to go on when its turn would have come. While a config is tried each call takes a lock.
    ///
    /// ```
    /// use tower_bulwark::RateLimit;
    /// use tower_bulwark::rate_limit::Quota;
    ///
    /// let limit = RateLimit::new("api", Quota::per_hour(10))?;
    /// let stricter = RateLimit::builder("api").quota("calls", Quota::per_hour(4)).build()?;
    /// limit.shadow((*stricter.config()).clone())?;
    /// for _ in 0..11 {
    ///     let _ = limit.try_acquire(1);
    /// }
    /// let shadow = limit.end_shadow().unwrap();
    /// assert_eq!((shadow.calls, shadow.would_refuse), (11, 6)); // and one that both refuse
    /// # Ok::<(), tower_bulwark::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work; what was tried before goes on then.
    pub fn shadow(&self, config: RateLimitConfig) -> Result<(), ConfigError> {
        config.check()?;
        let _ = self.shared.try_out(Some(config));
        Ok(())
    }

    /// Tries no other config any more; what the one that was tried would have done otherwise.
    #[expect(clippy::must_use_candidate, reason = "to end it is the point")]
    pub fn end_shadow(&self) -> Option<RateLimitShadow> {
        self.shared.try_out(None)
    }

    /// Nobody passes for so long, as the service has asked: up to `max_pause`. A pause that is shorter than one that is
    /// running changes nothing.
    pub fn pause(&self, pause: Duration) {
        self.shared.pause(pause);
    }

    /// The service says how much is left of the quota of that name: no more is believed to be there than that. Other
    /// clients may have used it. A name that no quota has changes nothing.
    pub fn left(&self, quota: &str, units: u64) {
        self.shared.left_of(quota, units);
    }

    /// So much has been used, whether it is there or not, and whoever waits: the next calls wait for it.
    #[cfg(feature = "redis")]
    pub(crate) fn owe(&self, used: Cost) {
        self.shared.settle(self.shared.version(), 0.into(), used);
    }

    /// So much has not been used.
    #[cfg(feature = "redis")]
    pub(crate) fn forgive(&self, unused: Cost) {
        self.shared.settle(self.shared.version(), unused, 0.into());
    }

    /// Fills all quotas, forgives what is owed, and ends a pause. Who waits goes on in order.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Whether nobody else has a handle, and there is nothing to remember.
    pub(crate) fn is_disused(&self) -> bool {
        self.has_one_handle() && self.remembers_nothing() && !self.shared.is_tried()
    }

    /// Whether one that is made anew would do the same.
    pub(crate) fn remembers_nothing(&self) -> bool {
        self.shared.remembers_nothing()
    }

    /// Whether nobody else has a handle, and nobody waits.
    pub(crate) fn has_one_handle(&self) -> bool {
        self.shared.is_sole()
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}
