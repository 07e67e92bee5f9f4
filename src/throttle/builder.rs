use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::config::ThrottleConfig;
use super::handle::Throttle;
use crate::error::ConfigError;
use crate::event::Observer;

/// Sets up a [`Throttle`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct ThrottleBuilder {
    name: Arc<str>,
    config: ThrottleConfig,
    seed: Option<u64>,
    observers: Vec<Arc<dyn Observer>>,
}

impl Throttle {
    /// A throttle with the [defaults](super#defaults).
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let config = ThrottleConfig::default();
        Self::from_parts(name.into(), config, None, Vec::new())
    }

    /// Starts with the [defaults](super#defaults); see [`ThrottleBuilder`].
    pub fn builder(name: impl Into<Arc<str>>) -> ThrottleBuilder {
        ThrottleBuilder {
            name: name.into(),
            config: ThrottleConfig::default(),
            seed: None,
            observers: Vec::new(),
        }
    }
}

impl ThrottleBuilder {
    /// How many times what is accepted may be sent, 1 or more. Default: 2. Lower spares the service more, and finds out later
    /// that it has more room.
    pub fn k(mut self, k: f64) -> Self {
        self.config.k = k;
        self
    }

    /// Over how long requests and accepts are counted. Default: 30 s. Its oldest tenth falls out at once.
    ///
    /// After an outage it takes about two windows until no call is refused any more.
    pub fn window(mut self, length: Duration) -> Self {
        self.config.window = length;
        self
    }

    /// The highest probability of a refusal, above 0 and below 1. Default: 0.9.
    pub fn max_reject(mut self, probability: f64) -> Self {
        self.config.max_reject = probability;
        self
    }

    /// From how many requests in the window on anything is refused. Default: 10.
    pub fn minimum_requests(mut self, n: u64) -> Self {
        self.config.minimum_requests = n;
        self
    }

    /// Whether a failure is accepted too, and only what the service refuses because it has too much to do
    /// ([`Overload`](crate::Outcome::Overload)) is not. Default: no. Needs a classifier that tells them apart: those of HTTP and
    /// gRPC do.
    pub fn only_overload(mut self, yes: bool) -> Self {
        self.config.only_overload = yes;
        self
    }

    /// Starts from this config, instead of what was set so far.
    pub fn config(mut self, config: ThrottleConfig) -> Self {
        self.config = config;
        self
    }

    /// Draws the same numbers each time: for tests.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Receives every event of this throttle.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Makes the throttle.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work: it names the setting and says what to change.
    pub fn build(self) -> Result<Throttle, ConfigError> {
        self.build_with(None)
    }

    pub(crate) fn build_with(
        self,
        extra: Option<Arc<dyn Observer>>,
    ) -> Result<Throttle, ConfigError> {
        self.config.check()?;
        let mut observers = self.observers;
        observers.extend(extra);
        Ok(Throttle::from_parts(
            self.name,
            self.config,
            self.seed,
            observers,
        ))
    }

    pub(crate) fn name_ref(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn checked_config(&self) -> Result<ThrottleConfig, ConfigError> {
        self.config.check()?;
        Ok(self.config)
    }
}

impl fmt::Debug for ThrottleBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleBuilder")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
