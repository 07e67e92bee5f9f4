use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::config::{Budget, HedgeConfig, HedgeRules};
use super::handle::Hedge;
use crate::error::ConfigError;
use crate::event::Observer;
use crate::retry::RetryBudget;

/// Sets up a [`Hedge`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct HedgeBuilder {
    name: Arc<str>,
    config: HedgeConfig,
    /// Whether the percentile is one that was asked for.
    is_percentile_asked: bool,
    budget: Budget,
    observers: Vec<Arc<dyn Observer>>,
}

impl Hedge {
    /// A hedge with the defaults: one more attempt once a call takes longer than 95 % of the recent ones.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let HedgeBuilder {
            name,
            config,
            budget,
            ..
        } = Self::builder(name);
        Self::from_parts(name, config, budget, Vec::new())
    }

    /// Starts with the defaults; see [`HedgeBuilder`].
    pub fn builder(name: impl Into<Arc<str>>) -> HedgeBuilder {
        HedgeBuilder {
            name: name.into(),
            config: HedgeConfig::default(),
            is_percentile_asked: false,
            budget: Budget::Own,
            observers: Vec::new(),
        }
    }
}

impl HedgeBuilder {
    /// A hedge starts when a call has been at the service for longer than this share of the recent calls took: of those
    /// of the last 30 to 60 seconds. Default: 0.95, so that one call in twenty is hedged.
    ///
    /// Until there are [`min_samples`](Self::min_samples) of them no hedge starts, unless [`after`](Self::after) says
    /// how long to wait meanwhile.
    pub fn after_percentile(mut self, share: f64) -> Self {
        self.config.percentile = Some(share);
        self.is_percentile_asked = true;
        self
    }

    /// A hedge starts when a call has been at the service for so long. With
    /// [`after_percentile`](Self::after_percentile) too: until the percentile is known. Zero: all attempts start at once.
    pub fn after(mut self, delay: Duration) -> Self {
        self.config.after = Some(delay);
        if !self.is_percentile_asked {
            self.config.percentile = None;
        }
        self
    }

    /// From how many recent calls on the percentile is known. Default: 100; a percentile of 0.99 needs several hundred
    /// to mean much.
    pub fn min_samples(mut self, n: u64) -> Self {
        self.config.min_samples = n;
        self
    }

    /// The shortest delay that a percentile gives. Default: 10 ms: where calls take less, there is little to gain.
    pub fn at_least(mut self, delay: Duration) -> Self {
        self.config.at_least = delay;
        self
    }

    /// How many hedges one call may have. Default: 1. Each starts a delay after the one before it. With 0 calls are made
    /// once, and requests are never copied.
    pub fn max_extra(mut self, n: u32) -> Self {
        self.config.max_extra = n;
        self
    }

    /// Whether a failure that another attempt may better starts the next hedge at once, as gRPC has it. Default: no: a
    /// call that fails before there is a hedge fails, and what calls again after failures is a retry.
    pub fn hedge_failures(mut self, yes: bool) -> Self {
        self.config.hedge_failures = yes;
        self
    }

    /// Starts from this config, instead of what was set so far.
    pub fn config(mut self, config: HedgeConfig) -> Self {
        self.config = config;
        self.is_percentile_asked = true;
        self
    }

    /// What pays for the hedges of all callers together, and perhaps for retries too. Default: a budget of the hedge's
    /// own, of a tenth of its traffic, one hedge a second, and ten saved at most: when the service gets slow for everybody,
    /// every call is slower than the recent ones, and hedges would double the load.
    ///
    /// Each call that may be hedged counts as a first attempt in it. Where a retry around this hedge has the same budget
    /// each call counts in it twice: give it half the ratio.
    pub fn budget(mut self, budget: &RetryBudget) -> Self {
        self.budget = Budget::Shared(budget.clone());
        self
    }

    /// Bounds hedges by the other rules only.
    pub fn no_budget(mut self) -> Self {
        self.budget = Budget::Unlimited;
        self
    }

    /// Receives every event of this hedge.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Makes the hedge.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work: it names the setting and says what to change.
    pub fn build(self) -> Result<Hedge, ConfigError> {
        self.build_with(None)
    }

    pub(crate) fn build_with(self, extra: Option<Arc<dyn Observer>>) -> Result<Hedge, ConfigError> {
        self.config.check()?;
        let mut observers = self.observers;
        observers.extend(extra);
        Ok(Hedge::from_parts(
            self.name,
            self.config,
            self.budget,
            observers,
        ))
    }

    pub(crate) fn name_ref(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn checked_config(&self) -> Result<HedgeRules, ConfigError> {
        self.config.check()?;
        Ok(HedgeRules {
            config: self.config.clone(),
            budget: self.budget.clone(),
        })
    }
}

impl fmt::Debug for HedgeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeBuilder")
            .field("name", &self.name)
            .field("config", &self.config)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
