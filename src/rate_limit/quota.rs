//! So much in so long.

use std::time::Duration;

use super::bucket::Pace;
use crate::error::ConfigError;

/// How much may be used in which time: `Quota::per_minute(500)`.
///
/// A whole burst may be used at once; then it is earned again evenly: of 500 a minute one every 120 ms, and never 500 at
/// the turn of each minute. In any stretch of time no more passes than the burst and what that time earns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Quota {
    /// How much is earned in a period.
    pub amount: u64,
    /// The period.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub period: Duration,
    /// How much may be used at once.
    pub burst: u64,
}

impl Quota {
    /// So much in each period. The burst is as much, as the limits of the known APIs have it: who has used nothing for a
    /// period may use all of it at once.
    #[must_use]
    pub const fn per(amount: u64, period: Duration) -> Self {
        Self {
            amount,
            period,
            burst: amount,
        }
    }

    /// So much a second.
    #[must_use]
    pub const fn per_second(amount: u64) -> Self {
        Self::per(amount, Duration::from_secs(1))
    }

    /// So much a minute.
    #[must_use]
    pub const fn per_minute(amount: u64) -> Self {
        Self::per(amount, Duration::from_secs(60))
    }

    /// So much an hour.
    #[must_use]
    pub const fn per_hour(amount: u64) -> Self {
        Self::per(amount, Duration::from_secs(3_600))
    }

    /// How much may be used at once, at least 1. A burst of 1 spreads calls evenly. Default: the amount.
    #[must_use]
    pub const fn burst(mut self, burst: u64) -> Self {
        self.burst = burst;
        self
    }

    pub(super) fn check(self) -> Result<(), ConfigError> {
        let cannot = |given: u64, setting, advice| Err(ConfigError::new(setting, given, advice));
        if self.amount == 0 {
            let advice = "nothing would ever pass: give at least 1, or a longer period";
            return cannot(0, "amount", advice);
        }
        if self.burst == 0 {
            return cannot(0, "burst", "nothing would ever pass: give at least 1");
        }
        if self.period.is_zero() {
            let advice = "in no time nothing can be earned: give a period such as a second";
            return Err(ConfigError::new("period", self.period, advice));
        }
        let Some(interval) = self.interval() else {
            let advice =
                "one unit would take longer than years: give a shorter period, or a larger amount";
            return Err(ConfigError::new("period", self.period, advice));
        };
        match interval.checked_mul(self.burst) {
            Some(whole) if whole <= LONGEST => Ok(()),
            _ => {
                let advice = "to earn it would take longer than years: give a smaller burst";
                cannot(self.burst, "burst", advice)
            }
        }
    }

    /// What its bucket goes by. It has been checked.
    pub(super) fn pace(self) -> Pace {
        let interval = self.interval().unwrap_or(LONGEST);
        Pace {
            interval,
            capacity: interval.saturating_mul(self.burst),
        }
    }

    /// How long one unit takes to be earned, in eighths of a nanosecond, rounded up: what passes is never more than the
    /// quota.
    pub(super) fn interval(self) -> Option<u64> {
        let eighths = self.period.as_nanos().checked_mul(8)?;
        let interval = eighths.div_ceil(u128::from(self.amount.max(1)));
        u64::try_from(interval).ok().filter(|it| *it <= LONGEST)
    }
}

/// Some nine years, in eighths of a nanosecond: four of them fit into the word of a limit.
pub(super) const LONGEST: u64 = 1 << 61;
