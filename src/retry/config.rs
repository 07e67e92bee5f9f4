use std::time::Duration;

use super::backoff::{Backoff, Jitter};
use super::budget::RetryBudget;
use crate::error::ConfigError;

/// What a retry policy goes by. Made by the builder, and immutable.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryConfig {
    pub(super) max_retries: u32,
    pub(super) backoff: Backoff,
    pub(super) jitter: Jitter,
    pub(super) max_delay: Duration,
    pub(super) max_retry_after: Duration,
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) min_attempt: Duration,
    pub(super) total_timeout: Option<Duration>,
    pub(super) retry_after_jitter: f64,
    pub(super) retry_rejections: bool,
    pub(super) retry_deadlocks: Option<bool>,
    pub(super) retry_exhausted: bool,
    /// Whether a request that was certainly not done is sent again although no retries are wanted.
    pub(super) free_retry: bool,
    pub(super) budget: Budget,
}

/// What pays for retries.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Budget {
    /// One of the policy's own: a fifth of the traffic, and the floor of [`RetryBudget::builder`].
    Own,
    Shared(RetryBudget),
    /// Nothing: as many as the other rules allow.
    Unlimited,
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
            budget: Budget::Own,
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

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.backoff.check()?;
        self.jitter.check()?;
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
