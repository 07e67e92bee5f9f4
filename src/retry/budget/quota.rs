//! The retry quota of the AWS clients: retries take, successes give back, time does nothing.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::ConfigError;

/// What a [`quota`](super::RetryBudget::quota) goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryQuota {
    /// How many tokens there are at first, and at most.
    pub capacity: u32,
    /// What a retry costs after a failure.
    pub retry_cost: u32,
    /// What a retry costs after an attempt that timed out.
    pub timeout_cost: u32,
    /// What a retry costs after an overload: the service said when to come back, so this is the cheap kind.
    pub overload_cost: u32,
}

impl RetryQuota {
    /// The newest numbers of the AWS clients' standard mode (2.1 of the Smithy guide): 500 tokens, 14 for a
    /// retry, 5 after an overload. An outage pays for 35 retries in all.
    pub const AWS: Self = Self {
        capacity: 500,
        retry_cost: 14,
        timeout_cost: 14,
        overload_cost: 5,
    };

    /// The numbers that the AWS clients had before: 500 tokens, 5 for a retry, 10 after a timeout.
    pub const AWS_2_0: Self = Self {
        capacity: 500,
        retry_cost: 5,
        timeout_cost: 10,
        overload_cost: 5,
    };

    fn cost(&self, spend: Spend) -> u32 {
        match spend {
            Spend::Failure => self.retry_cost,
            Spend::TimedOut => self.timeout_cost,
            Spend::Overload => self.overload_cost,
        }
    }
}

/// What a retry is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::retry) enum Spend {
    Failure,
    TimedOut,
    Overload,
}

#[derive(Debug)]
pub(in crate::retry) struct Quota {
    rules: RetryQuota,
    tokens: AtomicU32,
}

impl Quota {
    pub(in crate::retry) fn new(rules: RetryQuota) -> Result<Self, ConfigError> {
        let dearest = rules
            .retry_cost
            .max(rules.timeout_cost)
            .max(rules.overload_cost);
        if rules.capacity == 0 || rules.capacity < dearest {
            let advice = "it would never pay for a retry: give at least what the dearest retry costs, or `max_retries(0)` for none";
            return Err(ConfigError::new("capacity", rules.capacity, advice));
        }
        Ok(Self {
            tokens: AtomicU32::new(rules.capacity),
            rules,
        })
    }

    /// Gives back what the last retry of the call cost, or one token if there was none. A full store is not
    /// written to.
    pub(in crate::retry) fn succeeded(&self, paid: u32) {
        let max = self.rules.capacity;
        // `Err` says that it is full.
        let _ = self
            .tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| {
                (tokens < max).then(|| tokens.saturating_add(paid.max(1)).min(max))
            });
    }

    pub(in crate::retry) fn withdraw(&self, spend: Spend) -> Option<u32> {
        let cost = self.rules.cost(spend);
        self.tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| {
                tokens.checked_sub(cost)
            })
            .ok()
            .map(|_| cost)
    }

    /// How many retries after failures it would pay for.
    pub(in crate::retry) fn available(&self) -> u64 {
        let tokens = self.tokens.load(Ordering::Relaxed);
        u64::from(tokens.checked_div(self.rules.retry_cost).unwrap_or(tokens))
    }

    #[cfg(test)]
    pub(in crate::retry) fn tokens(&self) -> u32 {
        self.tokens.load(Ordering::Relaxed)
    }
}
