//! A token bucket that is filled by traffic and by time. Pure: time is a number here.

use crate::util::time::Tick;

/// What a bucket goes by, in millionths of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::retry) struct BudgetRules {
    pub(in crate::retry) deposit: u64,
    pub(in crate::retry) floor_per_second: u64,
    pub(in crate::retry) burst: u64,
}

impl BudgetRules {
    /// From what has been checked: a share, retries a second, retries.
    pub(in crate::retry) fn new(ratio: f64, floor_per_second: f64, burst: u32) -> Self {
        Self {
            deposit: (ratio * TOKEN as f64).round() as u64,
            floor_per_second: (floor_per_second * TOKEN as f64).round() as u64,
            burst: u64::from(burst) * TOKEN,
        }
    }
}

pub(in crate::retry) const TOKEN: u64 = 1_000_000;

/// The bucket itself: pure.
#[derive(Clone, Copy, Debug)]
pub(in crate::retry) struct Bucket {
    rules: BudgetRules,
    tokens: u64,
    /// How many first attempts have been paid in.
    seen: u64,
    /// Up to when the floor has been paid in.
    filled: Tick,
}

impl Bucket {
    pub(in crate::retry) fn full(rules: BudgetRules, now: Tick) -> Self {
        Self {
            rules,
            tokens: rules.burst,
            seen: 0,
            filled: now,
        }
    }

    /// Pays in what came since: `first_attempts` is the count of all so far.
    fn fill(&mut self, first_attempts: u64, now: Tick) {
        let rules = self.rules;
        const SECOND: u128 = 1_000_000_000;
        let calls = first_attempts.saturating_sub(self.seen);
        self.seen = self.seen.max(first_attempts);
        let earned = calls.saturating_mul(rules.deposit);

        let rate = u128::from(rules.floor_per_second);
        let passed = u128::from(now.0.saturating_sub(self.filled.0));
        let accrued = u64::try_from(passed * rate / SECOND).unwrap_or(u64::MAX);
        // What did not make a millionth yet is not lost: its time is not used up.
        if let Some(used) = (u128::from(accrued) * SECOND).checked_div(rate) {
            let used = u64::try_from(used)
                .unwrap_or(u64::MAX)
                .min(now.0.saturating_sub(self.filled.0));
            self.filled = Tick(self.filled.0.saturating_add(used));
        }
        let paid_in = earned.saturating_add(accrued);
        self.tokens = self.tokens.saturating_add(paid_in).min(rules.burst);
    }

    /// A token that was taken is not needed.
    pub(in crate::retry) fn give_back(&mut self) {
        self.tokens = self.tokens.saturating_add(TOKEN).min(self.rules.burst);
    }

    /// Takes a token for a retry, if there is one.
    pub(in crate::retry) fn withdraw(&mut self, first_attempts: u64, now: Tick) -> bool {
        self.fill(first_attempts, now);
        match self.tokens.checked_sub(TOKEN) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }

    pub(in crate::retry) fn tokens(mut self, first_attempts: u64, now: Tick) -> u64 {
        self.fill(first_attempts, now);
        self.tokens
    }

    /// Whether nothing has been taken that was not earned again.
    pub(in crate::retry) fn is_full(self, first_attempts: u64, now: Tick) -> bool {
        self.tokens(first_attempts, now) >= self.rules.burst
    }

    pub(in crate::retry) fn rules(&self) -> BudgetRules {
        self.rules
    }

    /// Goes by other rules from now on. What is saved stays, up to the new burst.
    pub(in crate::retry) fn go_by(&mut self, rules: BudgetRules, first_attempts: u64, now: Tick) {
        self.fill(first_attempts, now);
        self.rules = rules;
        self.tokens = self.tokens.min(rules.burst);
    }
}
