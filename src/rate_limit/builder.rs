use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::config::RateLimitConfig;
use super::handle::RateLimit;
use super::quota::Quota;
use crate::error::ConfigError;
use crate::event::Observer;

/// Sets up a [`RateLimit`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct RateLimitBuilder {
    name: Arc<str>,
    config: RateLimitConfig,
    observers: Vec<Arc<dyn Observer>>,
}

impl RateLimit {
    /// Starts without a quota; see [`RateLimitBuilder`].
    pub fn builder(name: impl Into<Arc<str>>) -> RateLimitBuilder {
        RateLimitBuilder {
            name: name.into(),
            config: RateLimitConfig::default(),
            observers: Vec::new(),
        }
    }
}

impl RateLimitBuilder {
    /// Adds a quota. A call takes from all quotas, or waits for all: a request is not sent because there are requests left
    /// if there are no tokens left.
    pub fn quota(mut self, name: impl Into<Arc<str>>, quota: Quota) -> Self {
        self.config.quotas.push((name.into(), quota));
        self
    }

    /// Starts from this config, instead of what was set so far.
    pub fn config(mut self, config: RateLimitConfig) -> Self {
        self.config = config;
        self
    }

    /// How long a call may wait for its turn. Default: 30 s, as long as a caller has patience. One that would have to wait
    /// longer is refused at once, with the time at which there will be enough. Zero: nobody waits.
    pub fn max_wait(mut self, longest: Duration) -> Self {
        self.config.max_wait = longest;
        self
    }

    /// How many may wait at once; the next is refused. Default: as many as come, because each waits for a bounded time.
    pub fn max_waiting(mut self, n: usize) -> Self {
        self.config.max_waiting = Some(n);
        self
    }

    /// The longest pause that a service can ask for. Default: 60 s: a service that is not well must not stop its callers
    /// for a day.
    pub fn max_pause(mut self, longest: Duration) -> Self {
        self.config.max_pause = longest;
        self
    }

    /// Receives every event of this limit.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Makes the limit.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work: it names the setting and says what to change.
    pub fn build(self) -> Result<RateLimit, ConfigError> {
        self.build_with(None)
    }

    pub(crate) fn build_with(
        self,
        extra: Option<Arc<dyn Observer>>,
    ) -> Result<RateLimit, ConfigError> {
        self.config.check()?;
        let mut observers = self.observers;
        observers.extend(extra);
        Ok(RateLimit::from_parts(self.name, self.config, observers))
    }

    pub(crate) fn name_ref(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn checked_config(&self) -> Result<RateLimitConfig, ConfigError> {
        self.config.check()?;
        Ok(self.config.clone())
    }
}

impl fmt::Debug for RateLimitBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitBuilder")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
