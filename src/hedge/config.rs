use std::time::Duration;

use crate::error::{ConfigChange, ConfigError, config_change};
use crate::retry::RetryBudget;

/// What a hedge goes by: plain data, checked when a hedge is built or [updated](super::Hedge::update) with it. What pays
/// for it is no part of it: see [`budget`](super::HedgeBuilder::budget).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct HedgeConfig {
    /// How long an attempt may be at the service before a hedge starts; with a percentile too, only until that is known.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub after: Option<Duration>,
    /// Which share of the recent calls took no longer than the delay: above 0 and below 1.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<f64>")
    )]
    pub percentile: Option<f64>,
    /// From how many recent calls on the percentile is known.
    pub min_samples: u64,
    /// The shortest delay that the percentile gives.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub at_least: Duration,
    /// How many hedges one call may have: up to 10. With 0 calls are made once.
    pub max_extra: u32,
    /// Whether a failure that another attempt may better starts the next hedge at once.
    pub hedge_failures: bool,
}

/// More hedges than this are an attack on the service.
const MOST_EXTRA: u32 = 10;

impl Default for HedgeConfig {
    fn default() -> Self {
        Self {
            after: None,
            percentile: Some(0.95),
            min_samples: 100,
            at_least: Duration::from_millis(10),
            max_extra: 1,
            hedge_failures: false,
        }
    }
}

impl HedgeConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.after.is_none() && self.percentile.is_none() {
            let advice =
                "nothing says when a hedge starts: give `percentile`, such as 0.95, or `after`";
            return Err(ConfigError::new("percentile", self.percentile, advice));
        }
        if self.percentile.is_some_and(|it| !(it > 0.0 && it < 1.0)) {
            let advice = "give a share of the calls above 0 and below 1, such as 0.95";
            return Err(ConfigError::new("percentile", self.percentile, advice));
        }
        if self.percentile.is_some() && self.min_samples == 0 {
            let advice = "there is no percentile of no calls: give at least 1, such as 100";
            return Err(ConfigError::new("min_samples", self.min_samples, advice));
        }
        if self.max_extra > MOST_EXTRA {
            let advice = "give at most 10: one or two hedges take nearly all that there is to gain";
            return Err(ConfigError::new("max_extra", self.max_extra, advice));
        }
        Ok(())
    }

    /// What differs in `new`.
    pub(super) fn difference(&self, new: &Self) -> ConfigChange {
        config_change!(
            self,
            new,
            after,
            percentile,
            min_samples,
            at_least,
            max_extra,
            hedge_failures
        )
    }
}

/// What pays for hedges.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Budget {
    /// One of the hedge's own: a tenth of its traffic, one a second, up to ten saved.
    Own,
    Shared(RetryBudget),
    /// Nothing: as many as the other rules allow.
    Unlimited,
}

/// All that a name in a registry stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HedgeRules {
    pub(crate) config: HedgeConfig,
    pub(super) budget: Budget,
}
