use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::config::TimeoutConfig;
use super::handle::Timeouts;
use crate::error::ConfigError;
use crate::event::Observer;

/// Sets up [`Timeouts`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct TimeoutsBuilder {
    name: Arc<str>,
    config: TimeoutConfig,
    observers: Vec<Arc<dyn Observer>>,
}

impl Timeouts {
    /// Starts without a limit; see [`TimeoutsBuilder`].
    pub fn builder(name: impl Into<Arc<str>>) -> TimeoutsBuilder {
        TimeoutsBuilder {
            name: name.into(),
            config: TimeoutConfig::default(),
            observers: Vec::new(),
        }
    }
}

impl TimeoutsBuilder {
    /// How long the service may take to be ready, from the first `poll_ready` that is pending. Default: as long as it likes.
    ///
    /// Then the call is refused, and was never sent. A service that is found not ready again by the next caller has as long
    /// anew; one that is asked again later, without a call in between, is refused at once.
    pub fn ready(mut self, limit: Duration) -> Self {
        self.config.ready = Some(limit);
        self
    }

    /// How long the service may take to answer: with the head of the response, if its body streams. Default: as long as it
    /// likes.
    ///
    /// It is the time *at the service*, from the first poll that is pending: waits of this crate in the layers below (for a
    /// permit, for a turn, for the backoff of a retry) do not count.
    pub fn head(mut self, limit: Duration) -> Self {
        self.config.head = Some(limit);
        self
    }

    /// How long the first frame of a body may be waited for (feature `http`). Default: as long as it likes, whatever
    /// [`idle`](Self::idle) is: a model thinks before its first token, and is not silent for as long after it.
    pub fn first_frame(mut self, limit: Duration) -> Self {
        self.config.first_frame = Some(limit);
        self
    }

    /// How long each later frame of a body may be waited for (feature `http`). Default: as long as it likes.
    ///
    /// Longer than the heartbeat of the streams that are expected: servers commonly send one every 15 to 30 seconds.
    pub fn idle(mut self, limit: Duration) -> Self {
        self.config.idle = Some(limit);
        self
    }

    /// How long all of it may take, from the call to its response, and with the feature `http` to the end of its body.
    /// Default: as long as it likes.
    ///
    /// It opens the ambient [deadline](crate::deadline) for the layers below: no backoff and no wait goes past it.
    pub fn total(mut self, limit: Duration) -> Self {
        self.config.total = Some(limit);
        self
    }

    /// Ends calls and bodies at the ambient [deadline](crate::deadline) too, which something around them has opened.
    /// Default: it bounds the waits of this crate, and ends nothing.
    pub fn end_at_deadline(mut self, on: bool) -> Self {
        self.config.end_at_deadline = on;
        self
    }

    /// Starts from this config, instead of what was set so far.
    pub fn config(mut self, config: TimeoutConfig) -> Self {
        self.config = config;
        self
    }

    /// Receives every event of these timeouts.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Makes the timeouts.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a limit of zero, and if there is none: it names the setting and says what to change.
    pub fn build(self) -> Result<Timeouts, ConfigError> {
        self.build_with(None)
    }

    pub(crate) fn build_with(
        self,
        extra: Option<Arc<dyn Observer>>,
    ) -> Result<Timeouts, ConfigError> {
        self.config.check()?;
        let mut observers = self.observers;
        observers.extend(extra);
        Ok(Timeouts::from_parts(self.name, self.config, observers))
    }

    pub(crate) fn config_ref(&self) -> &TimeoutConfig {
        &self.config
    }

    pub(crate) fn config_mut(&mut self) -> &mut TimeoutConfig {
        &mut self.config
    }

    pub(crate) fn name_ref(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn checked_config(&self) -> Result<TimeoutConfig, ConfigError> {
        self.config.check()?;
        Ok(self.config)
    }
}

impl fmt::Debug for TimeoutsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutsBuilder")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
