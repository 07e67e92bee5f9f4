use std::time::Duration;

use super::backoff::{Backoff, Jitter};
use super::budget::{BudgetRules, RetryBudget};
use crate::error::{ConfigChange, ConfigError, config_change};

/// What a retry policy goes by: checked when a policy is built or [updated](super::RetryPolicy::update) with it. It comes
/// from a builder, from [`RetryPolicy::config`](super::RetryPolicy::config), or (feature `serde`) from data.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
pub struct RetryConfig {
    /// How many attempts may follow the first.
    pub(super) max_retries: u32,
    /// How the waits grow.
    pub(super) backoff: Backoff,
    /// How the waits are spread.
    pub(super) jitter: Jitter,
    /// The longest wait of the backoff.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub(super) max_delay: Duration,
    /// The longest wait that a service may ask for.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub(super) max_retry_after: Duration,
    /// How long one attempt may take.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub(super) attempt_timeout: Option<Duration>,
    /// An attempt that would have less time than this is not begun.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub(super) min_attempt: Duration,
    /// How long all of it may take.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub(super) total_timeout: Option<Duration>,
    /// By how much more than the service asked for is waited at most, as a share of it.
    pub(super) retry_after_jitter: f64,
    /// Whether refusals of layers below are tried again.
    pub(super) retry_rejections: bool,
    /// Whether a deadlock below is worth one more try.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<bool>")
    )]
    pub(super) retry_deadlocks: Option<bool>,
    /// Whether calls that a retry below has given up are tried again.
    pub(super) retry_exhausted: bool,
    /// Whether a request that was certainly not done is sent again although no retries are wanted.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) free_retry: bool,
    /// What pays for retries.
    #[cfg_attr(feature = "config", schemars(with = "written::Budget"))]
    pub(super) budget: Budget,
}

/// What pays for retries.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(try_from = "written::Budget", into = "written::Budget")
)]
pub(super) enum Budget {
    /// One of the policy's own.
    Own(OwnBudget),
    Shared(RetryBudget),
    /// Nothing: as many as the other rules allow.
    Unlimited,
}

/// What a budget of a policy's own goes by: see [`RetryBudget::builder`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
pub(super) struct OwnBudget {
    /// Retries may be this share of first attempts, from 0 to 1.
    ratio: f64,
    /// So many retries a second are paid for whatever the traffic.
    floor_per_second: f64,
    /// How many retries can be saved up. Default: 100, or all retries of one call if they are more, so that a lone caller
    /// is never kept from them.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<u32>")
    )]
    burst: Option<u32>,
}

impl Default for OwnBudget {
    fn default() -> Self {
        Self {
            ratio: 0.2,
            floor_per_second: 10.0,
            burst: None,
        }
    }
}

impl OwnBudget {
    /// What its bucket goes by, for a policy of so many retries.
    pub(super) fn rules(self, max_retries: u32) -> Result<BudgetRules, ConfigError> {
        RetryBudget::builder()
            .ratio(self.ratio)
            .floor_per_second(self.floor_per_second)
            .burst(self.burst.unwrap_or_else(|| max_retries.max(100)))
            .rules()
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_retries: 3,
            backoff: Backoff::exponential(Duration::from_secs(1), 2.0),
            jitter: Jitter::Proportional(0.1),
            max_delay: Duration::from_secs(60),
            max_retry_after: Duration::from_secs(60),
            attempt_timeout: None,
            min_attempt: Duration::ZERO,
            total_timeout: None,
            retry_after_jitter: 0.1,
            retry_rejections: false,
            retry_deadlocks: None,
            retry_exhausted: false,
            free_retry: false,
            budget: Budget::Own(OwnBudget::default()),
        }
    }
}

impl RetryConfig {
    /// How many attempts may follow the first.
    #[must_use]
    pub fn max_retries(&self) -> u32 {
        self.max_retries
    }

    /// How the waits grow.
    #[must_use]
    pub fn backoff(&self) -> &Backoff {
        &self.backoff
    }

    /// How the waits are spread.
    #[must_use]
    pub fn jitter(&self) -> Jitter {
        self.jitter
    }

    /// The longest wait of the backoff.
    #[must_use]
    pub fn max_delay(&self) -> Duration {
        self.max_delay
    }

    /// The longest wait that a service may ask for.
    #[must_use]
    pub fn max_retry_after(&self) -> Duration {
        self.max_retry_after
    }

    /// How long one attempt may take.
    #[must_use]
    pub fn attempt_timeout(&self) -> Option<Duration> {
        self.attempt_timeout
    }

    /// An attempt that would have less time than this is not begun.
    #[must_use]
    pub fn min_attempt(&self) -> Duration {
        self.min_attempt
    }

    /// How long all of it may take.
    #[must_use]
    pub fn total_timeout(&self) -> Option<Duration> {
        self.total_timeout
    }

    /// By how much more than the service asked for is waited at most, as a share of it.
    #[must_use]
    pub fn retry_after_jitter(&self) -> f64 {
        self.retry_after_jitter
    }

    /// Whether a deadlock below is worth one more try. `None`: to [`RetryPolicy::run`](super::RetryPolicy::run) and its
    /// blocking twin it is, to a layer it is not.
    #[must_use]
    pub fn retries_deadlocks(&self) -> Option<bool> {
        self.retry_deadlocks
    }

    /// Whether calls that a retry below has given up are tried again.
    #[must_use]
    pub fn retries_exhausted(&self) -> bool {
        self.retry_exhausted
    }

    /// Whether refusals of layers below are tried again.
    #[must_use]
    pub fn retries_rejections(&self) -> bool {
        self.retry_rejections
    }

    /// Whether a budget bounds the retries.
    #[must_use]
    pub fn has_budget(&self) -> bool {
        self.budget != Budget::Unlimited
    }

    /// All waits of the backoff together, each as long as it can be. What a service may ask for instead, and what
    /// `delay_with` says, is not in it.
    ///
    /// Exact for up to 10,000 retries, and for any number of them where the waits reach `max_delay` before and do not
    /// shrink. Beyond that, each further wait is taken for `max_delay`.
    #[must_use]
    pub fn worst_case_delay(&self) -> Duration {
        const LOOKED_AT: u32 = 10_000;
        let mut sum = Duration::ZERO;
        for n in 0..self.max_retries {
            let longest = self.jitter.longest(&self.backoff, n, self.max_delay);
            let rest = self.max_retries - n;
            if longest == self.max_delay && self.backoff.never_shrinks() {
                return sum.saturating_add(longest.saturating_mul(rest));
            }
            if n == LOOKED_AT {
                return sum.saturating_add(self.max_delay.saturating_mul(rest));
            }
            sum = sum.saturating_add(longest);
        }
        sum
    }

    /// Whether a call needs to know when it began.
    #[inline]
    pub(super) fn is_timed(&self) -> bool {
        self.attempt_timeout.is_some() || self.total_timeout.is_some()
    }

    /// What differs in `new`.
    pub(super) fn difference(&self, new: &Self) -> ConfigChange {
        config_change!(
            self,
            new,
            max_retries,
            backoff,
            jitter,
            max_delay,
            max_retry_after,
            attempt_timeout,
            min_attempt,
            total_timeout,
            retry_after_jitter,
            retry_rejections,
            retry_deadlocks,
            retry_exhausted,
            budget,
        )
    }

    /// What a policy that goes by this goes by after an update: what only code can give stays.
    pub(super) fn updated(&self, mut new: Self) -> Result<Self, ConfigError> {
        new.check()?;
        new.free_retry = self.free_retry;
        let advice = "what kind of budget pays is said when the policy is made: keep that, or make a new policy";
        match (&self.budget, &new.budget) {
            (Budget::Own(_), Budget::Own(_)) | (Budget::Unlimited, Budget::Unlimited) => {}
            (Budget::Shared(_), Budget::Own(own)) if *own == OwnBudget::default() => {
                new.budget = self.budget.clone();
            }
            (Budget::Shared(a), Budget::Shared(b)) if a == b => {}
            (Budget::Own(_) | Budget::Shared(_) | Budget::Unlimited, asked) => {
                return Err(ConfigError::new("budget", asked, advice));
            }
        }
        Ok(new)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.backoff.check()?;
        self.jitter.check()?;
        if let Budget::Own(own) = self.budget {
            own.rules(self.max_retries)?;
        }
        if !(0.0..=1.0).contains(&self.retry_after_jitter) {
            let advice = "it is a share of the delay: give a number from 0 to 1, such as 0.1";
            return Err(ConfigError::new(
                "retry_after_jitter",
                self.retry_after_jitter,
                advice,
            ));
        }
        for (setting, timeout) in [
            ("attempt_timeout", self.attempt_timeout),
            ("total_timeout", self.total_timeout),
        ] {
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                let advice = "no call could ever end in no time: give a duration above zero, or leave it out";
                return Err(ConfigError::new(setting, Duration::ZERO, advice));
            }
        }
        Ok(())
    }
}

/// How a budget is written in data: `"none"`, or a table.
#[cfg(feature = "serde")]
mod written {
    use serde::{Deserialize, Deserializer, Serialize};

    use super::OwnBudget;
    use crate::util::humane;

    #[derive(Clone, Serialize)]
    #[serde(untagged)]
    #[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
    pub(super) enum Budget {
        Named(Name),
        Own(OwnBudget),
    }

    #[derive(Clone, Copy, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
    pub(super) enum Name {
        /// As many retries as the other rules allow.
        None,
        /// One that code has given.
        #[cfg_attr(feature = "config", schemars(skip))]
        Shared,
    }

    impl<'de> Deserialize<'de> for Budget {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            humane::text_or_table(from, Self::Named, Self::Own)
        }
    }

    impl From<super::Budget> for Budget {
        fn from(it: super::Budget) -> Self {
            match it {
                super::Budget::Own(own) => Self::Own(own),
                super::Budget::Shared(_) => Self::Named(Name::Shared),
                super::Budget::Unlimited => Self::Named(Name::None),
            }
        }
    }

    impl TryFrom<Budget> for super::Budget {
        type Error = &'static str;

        fn try_from(it: Budget) -> Result<Self, &'static str> {
            match it {
                Budget::Own(own) => Ok(Self::Own(own)),
                Budget::Named(Name::None) => Ok(Self::Unlimited),
                Budget::Named(Name::Shared) => {
                    Err("a shared budget is given by code: leave `budget` out to keep it")
                }
            }
        }
    }
}
