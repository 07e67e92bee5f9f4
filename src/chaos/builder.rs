use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::config::ChaosConfig;
use super::handle::Chaos;
use crate::error::ConfigError;
use crate::event::Observer;

/// Sets up a [`Chaos`]. Nothing is checked before [`build`](Self::build), and nothing happens before [`arm`](Chaos::arm).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct ChaosBuilder {
    name: Arc<str>,
    config: ChaosConfig,
    seed: u64,
    observers: Vec<Arc<dyn Observer>>,
}

impl Chaos {
    /// Starts without a fault; see [`ChaosBuilder`].
    pub fn builder(name: impl Into<Arc<str>>) -> ChaosBuilder {
        ChaosBuilder {
            name: name.into(),
            config: ChaosConfig::default(),
            seed: 0,
            observers: Vec::new(),
        }
    }
}

impl ChaosBuilder {
    /// Faults are drawn from it: the same seed gives the same faults in the same order. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// This share of the calls is late, by a time in this range, which must not be all zero.
    pub fn latency(mut self, rate: f64, range: RangeInclusive<Duration>) -> Self {
        self.config.latency = rate;
        self.config.latency_range = range;
        self
    }

    /// This share of the calls fails, with what the closure of the layer gives.
    pub fn error(mut self, rate: f64) -> Self {
        self.config.error = rate;
        self
    }

    /// This share of the calls never ends.
    pub fn hang(mut self, rate: f64) -> Self {
        self.config.hang = rate;
        self
    }

    /// This share of the calls panics when it is polled.
    pub fn panic(mut self, rate: f64) -> Self {
        self.config.panic = rate;
        self
    }

    /// This share of the bodies breaks off after its first frame; with `http_layer` (feature `http`).
    pub fn cut_body(mut self, rate: f64) -> Self {
        self.config.cut_body = rate;
        self
    }

    /// Starts from this config, instead of what was set so far.
    pub fn config(mut self, config: ChaosConfig) -> Self {
        self.config = config;
        self
    }

    /// Receives every event of this drill.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Makes the drill, disarmed.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a rate that is no share, and for a range that ends before it begins.
    pub fn build(self) -> Result<Chaos, ConfigError> {
        self.build_with(None)
    }

    pub(crate) fn build_with(self, extra: Option<Arc<dyn Observer>>) -> Result<Chaos, ConfigError> {
        self.config.check()?;
        let mut observers = self.observers;
        observers.extend(extra);
        let Self {
            name, config, seed, ..
        } = self;
        Ok(Chaos::from_parts(name, config, seed, observers))
    }

    pub(crate) fn name_ref(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn checked_config(&self) -> Result<ChaosConfig, ConfigError> {
        self.config.check()?;
        Ok(self.config.clone())
    }
}

impl fmt::Debug for ChaosBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosBuilder")
            .field("name", &self.name)
            .field("config", &self.config)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}
