use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::{ConfigChange, ConfigError, config_change};

/// Which share of the calls meets what: plain data, checked when a drill is built or [updated](super::Chaos::update) with it.
/// Every rate is a share of the calls, from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ChaosConfig {
    /// How many are late.
    pub latency: f64,
    /// By how much, drawn evenly.
    #[cfg_attr(feature = "serde", serde(with = "written"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "[crate::util::humane::Humane; 2]")
    )]
    pub latency_range: RangeInclusive<Duration>,
    /// How many fail.
    pub error: f64,
    /// How many never end.
    pub hang: f64,
    /// How many panic.
    pub panic: f64,
    /// How many have a body that breaks off.
    pub cut_body: f64,
}

impl Default for ChaosConfig {
    fn default() -> Self {
        Self {
            latency: 0.0,
            latency_range: Duration::ZERO..=Duration::ZERO,
            error: 0.0,
            hang: 0.0,
            panic: 0.0,
            cut_body: 0.0,
        }
    }
}

impl ChaosConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (setting, rate) in [
            ("latency", self.latency),
            ("error", self.error),
            ("hang", self.hang),
            ("panic", self.panic),
            ("cut_body", self.cut_body),
        ] {
            if !(0.0..=1.0).contains(&rate) {
                let advice = "give a share of the calls, from 0 to 1, such as 0.05";
                return Err(ConfigError::new(setting, rate, advice));
            }
        }
        if self.latency_range.is_empty() {
            let advice = "it ends before it begins: give the shorter time first";
            return Err(ConfigError::new(
                "latency_range",
                &self.latency_range,
                advice,
            ));
        }
        if self.latency > 0.0 && self.latency_range.end().is_zero() {
            let advice = "no call is late by no time: give a range, such as 50 ms to 500 ms";
            return Err(ConfigError::new(
                "latency_range",
                &self.latency_range,
                advice,
            ));
        }
        Ok(())
    }

    /// What differs in `new`.
    pub(super) fn difference(&self, new: &Self) -> ConfigChange {
        config_change!(
            self,
            new,
            latency,
            latency_range,
            error,
            hang,
            panic,
            cut_body
        )
    }
}

/// A range in data: `["50ms", "500ms"]`.
#[cfg(feature = "serde")]
mod written {
    use std::ops::RangeInclusive;
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::util::humane::Humane;

    pub(super) fn serialize<S: Serializer>(
        it: &RangeInclusive<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        [Humane(*it.start()), Humane(*it.end())].serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<RangeInclusive<Duration>, D::Error> {
        let [start, end] = <[Humane; 2]>::deserialize(from)?;
        Ok(start.0..=end.0)
    }
}
