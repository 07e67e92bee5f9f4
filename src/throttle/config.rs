use std::time::Duration;

use crate::error::{ConfigChange, ConfigError, config_change};

/// What a throttle goes by: plain data, checked when one is built or [updated](super::Throttle::update) with it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ThrottleConfig {
    /// How many times what is accepted may be sent: 1 or more.
    pub k: f64,
    /// Over how long requests and accepts are counted.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub window: Duration,
    /// The highest probability of a refusal: above 0 and below 1.
    pub max_reject: f64,
    /// From how many requests in the window on anything is refused.
    pub minimum_requests: u64,
    /// Whether a failure is accepted, and only an overload is not.
    pub only_overload: bool,
}

impl Default for ThrottleConfig {
    fn default() -> Self {
        Self {
            k: 2.0,
            window: Duration::from_secs(30),
            max_reject: 0.9,
            minimum_requests: 10,
            only_overload: false,
        }
    }
}

impl ThrottleConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(self.k >= 1.0 && self.k.is_finite()) {
            let advice = "below 1 a service that accepts everything is throttled: give 1 or more, such as 2.0";
            return Err(ConfigError::new("k", self.k, advice));
        }
        if self.window < Duration::from_millis(10) {
            let advice = "there is no share of calls in no time: give at least 10 ms, such as 30 s";
            return Err(ConfigError::new("window", self.window, advice));
        }
        if !(self.max_reject > 0.0 && self.max_reject < 1.0) {
            let advice = "give a probability above 0, and below 1 so that some calls find out when the service has recovered, such as 0.9";
            return Err(ConfigError::new("max_reject", self.max_reject, advice));
        }
        Ok(())
    }

    /// What differs in `new`.
    pub(super) fn difference(&self, new: &Self) -> ConfigChange {
        config_change!(
            self,
            new,
            k,
            window,
            max_reject,
            minimum_requests,
            only_overload
        )
    }
}
