use std::sync::Arc;
use std::time::Duration;

use super::cost::MOST_QUOTAS;
use super::quota::Quota;
use crate::error::{ConfigChange, ConfigError, config_change};

/// What a rate limit goes by: plain data, checked when a limit is built or [updated](super::RateLimit::update) with it.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct RateLimitConfig {
    /// The quotas, by name: up to four. A call takes from all of them, or from none.
    #[cfg_attr(feature = "serde", serde(with = "written"))]
    #[cfg_attr(feature = "config", schemars(with = "Vec<written::NamedQuota>"))]
    pub quotas: Vec<(Arc<str>, Quota)>,
    /// How long a call may wait for its turn; zero: it is refused at once.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub max_wait: Duration,
    /// How many may wait at once; `None` is as many as come.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<usize>")
    )]
    pub max_waiting: Option<usize>,
    /// The longest pause that a service can ask for.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub max_pause: Duration,
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self {
            quotas: Vec::new(),
            max_wait: Duration::from_secs(30),
            max_waiting: None,
            max_pause: Duration::from_secs(60),
        }
    }
}

impl RateLimitConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.quotas.is_empty() {
            let advice = "nothing would be limited: give one, such as `Quota::per_second(10)`";
            return Err(ConfigError::new("quotas", "empty", advice));
        }
        if self.quotas.len() > MOST_QUOTAS {
            let advice = "a limit has four at most: give those that are left a limit of their own";
            return Err(ConfigError::new("quotas", self.quotas.len(), advice));
        }
        for (i, (name, quota)) in self.quotas.iter().enumerate() {
            quota.check()?;
            if self.quotas[..i].iter().any(|(other, _)| other == name) {
                let advice = "there are two of that name: give each a name of its own";
                return Err(ConfigError::new("quotas", name, advice));
            }
        }
        Ok(())
    }

    /// Of an update: the quotas stay the same ones.
    pub(super) fn check_names(&self, new: &Self) -> Result<(), ConfigError> {
        let names = |it: &Self| -> Vec<Arc<str>> {
            it.quotas.iter().map(|(name, _)| Arc::clone(name)).collect()
        };
        if names(self) == names(new) {
            return Ok(());
        }
        let advice = "an update keeps the quotas and their order: make a new limit for others";
        Err(ConfigError::new("quotas", names(new), advice))
    }

    /// What differs in `new`.
    pub(super) fn difference(&self, new: &Self) -> ConfigChange {
        config_change!(self, new, quotas, max_wait, max_waiting, max_pause)
    }
}

/// Quotas in data: `[{ name = "requests", amount = 500, period = "1m" }]`.
#[cfg(feature = "serde")]
mod written {
    use std::sync::Arc;
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Quota;
    use crate::util::humane;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
    pub(super) struct NamedQuota {
        /// The name.
        name: Arc<str>,
        /// How much is earned in a period.
        amount: u64,
        /// The period.
        #[serde(with = "humane")]
        #[cfg_attr(feature = "config", schemars(with = "humane::Humane"))]
        period: Duration,
        /// How much may be used at once. Default: the amount.
        #[serde(default)]
        burst: Option<u64>,
    }

    pub(super) fn serialize<S: Serializer>(
        quotas: &[(Arc<str>, Quota)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(quotas.iter().map(|(name, quota)| NamedQuota {
            name: Arc::clone(name),
            amount: quota.amount,
            period: quota.period,
            burst: Some(quota.burst),
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(Arc<str>, Quota)>, D::Error> {
        let quotas = Vec::<NamedQuota>::deserialize(from)?;
        let quota =
            |it: &NamedQuota| Quota::per(it.amount, it.period).burst(it.burst.unwrap_or(it.amount));
        Ok(quotas
            .iter()
            .map(|it| (Arc::clone(&it.name), quota(it)))
            .collect())
    }
}
