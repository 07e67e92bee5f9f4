//! The retry throttle of gRPC. Tokens are counted in thousandths, so that "more than half" is exact: 6
//! failures and 5 successes at a ratio of 0.2 leave exactly half, which a sum of `f64`s misses.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::ConfigError;

#[derive(Debug)]
pub(in crate::retry) struct Throttle {
    max: u64,
    ratio: u64,
    tokens: AtomicU64,
}

const TOKEN: u64 = 1_000;

impl Throttle {
    pub(in crate::retry) fn new(max_tokens: u32, token_ratio: f64) -> Result<Self, ConfigError> {
        if !(1..=1_000).contains(&max_tokens) {
            let advice = "give a number of tokens from 1 to 1000";
            return Err(ConfigError::new("max_tokens", max_tokens, advice));
        }
        if !(0.001..=1_000.0).contains(&token_ratio) {
            let advice = "give a share of a token from 0.001 to 1000, such as 0.1: else no success ever pays for a retry";
            return Err(ConfigError::new("token_ratio", token_ratio, advice));
        }
        let max = u64::from(max_tokens) * TOKEN;
        // Far less than a thousandth, and more than the error of a decimal in binary.
        const BINARY_ERROR: f64 = 1e-6;
        Ok(Self {
            max,
            ratio: (token_ratio * TOKEN as f64 + BINARY_ERROR).floor() as u64,
            tokens: AtomicU64::new(max),
        })
    }

    /// A full store is not written to: the healthy path only reads.
    pub(in crate::retry) fn succeeded(&self) {
        self.change(|tokens| (tokens < self.max).then(|| (tokens + self.ratio).min(self.max)));
    }

    pub(in crate::retry) fn failed(&self) {
        self.change(|tokens| (tokens > 0).then(|| tokens.saturating_sub(TOKEN)));
    }

    fn change(&self, change: impl FnMut(u64) -> Option<u64>) {
        // `Err` says that there was nothing to change.
        let _ = self
            .tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    pub(in crate::retry) fn allows_retry(&self) -> bool {
        self.tokens.load(Ordering::Relaxed) > self.max / 2
    }

    /// How many consecutive failures it would take to stop retries.
    pub(in crate::retry) fn available(&self) -> u64 {
        let above = self
            .tokens
            .load(Ordering::Relaxed)
            .saturating_sub(self.max / 2);
        above.div_ceil(TOKEN)
    }

    #[cfg(test)]
    pub(in crate::retry) fn thousandths(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }
}
