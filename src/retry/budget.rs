//! Why a budget: a policy says how often *one* call is tried, and says nothing of a thousand callers
//! who all try four times at once. A budget does: retries may be so many percent of the traffic.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::ConfigError;
use crate::stripes::StripedCounter;
use crate::time::{self, Tick};

/// A bound on retries as a share of the traffic, shared by everything that has a clone.
///
/// A token bucket: each first attempt puts `percent / 100` of a token in, a retry takes a whole one out,
/// and `floor_per_second` tokens come in as time goes by, so that a quiet service can still retry. The
/// bucket holds `burst` tokens at most, and starts full. Tokens are counted in millionths, so 0.4 % is
/// 0.4 %.
///
/// A first attempt takes no lock and reads no clock. Rejections of layers below cost nothing.
///
/// ```
/// use tower_bulwark::{RetryBudget, RetryPolicy};
///
/// let budget = RetryBudget::new(20.0)?;
/// // Shared: together these two retry at most a fifth of their traffic.
/// let reads = RetryPolicy::builder().name("reads").budget(budget.clone()).build()?;
/// let writes = RetryPolicy::builder().name("writes").budget(budget).max_retries(1).build()?;
/// # Ok::<(), tower_bulwark::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct RetryBudget {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Bucket(Arc<Shared>),
    #[cfg(feature = "tower")]
    Tower(Arc<dyn tower::retry::budget::Budget + Send + Sync>),
}

struct Shared {
    rules: BudgetRules,
    first_attempts: StripedCounter,
    bucket: Mutex<Bucket>,
}

/// What a bucket goes by, in millionths of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BudgetRules {
    pub(super) deposit: u64,
    pub(super) floor_per_second: u64,
    pub(super) burst: u64,
}

pub(super) const TOKEN: u64 = 1_000_000;

/// The bucket itself: pure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    tokens: u64,
    /// How many first attempts have been paid in.
    seen: u64,
    /// Up to when the floor has been paid in.
    filled: Tick,
}

impl Bucket {
    pub(super) fn full(rules: BudgetRules, now: Tick) -> Self {
        Self {
            tokens: rules.burst,
            seen: 0,
            filled: now,
        }
    }

    /// Pays in what came since: `first_attempts` is the count of all so far.
    fn fill(&mut self, rules: BudgetRules, first_attempts: u64, now: Tick) {
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

    /// Takes a token for a retry, if there is one.
    pub(super) fn withdraw(&mut self, rules: BudgetRules, first_attempts: u64, now: Tick) -> bool {
        self.fill(rules, first_attempts, now);
        match self.tokens.checked_sub(TOKEN) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }

    fn tokens(mut self, rules: BudgetRules, first_attempts: u64, now: Tick) -> u64 {
        self.fill(rules, first_attempts, now);
        self.tokens
    }
}

impl RetryBudget {
    /// Retries may be `percent` of the traffic, plus the defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// [`ConfigError`] unless `percent` is a number from 0 to 1000.
    pub fn new(percent: f64) -> Result<Self, ConfigError> {
        Self::builder().percent(percent).build()
    }

    /// Starts with 20 % of the traffic, a floor of 10 retries a second, and a burst of 100: what Finagle
    /// and linkerd have found to suit, give or take the burst.
    pub fn builder() -> RetryBudgetBuilder {
        RetryBudgetBuilder {
            percent: 20.0,
            floor_per_second: 10.0,
            burst: 100,
        }
    }

    /// A budget of tower, as a budget of this crate. (feature `tower`)
    #[cfg(feature = "tower")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
    pub fn from_tower(budget: Arc<dyn tower::retry::budget::Budget + Send + Sync>) -> Self {
        Self {
            kind: Kind::Tower(budget),
        }
    }

    /// How many retries the budget would pay for right now; `None` if it is one of tower's, which do not
    /// say.
    #[must_use]
    pub fn available(&self) -> Option<u64> {
        match &self.kind {
            Kind::Bucket(shared) => {
                let (now, seen) = (time::now(), shared.first_attempts.sum());
                Some(shared.bucket().tokens(shared.rules, seen, now) / TOKEN)
            }
            #[cfg(feature = "tower")]
            Kind::Tower(_) => None,
        }
    }

    /// Counts a first attempt.
    pub(super) fn deposit(&self) {
        match &self.kind {
            Kind::Bucket(shared) if shared.rules.deposit > 0 => shared.first_attempts.add_one(),
            Kind::Bucket(_) => {}
            #[cfg(feature = "tower")]
            Kind::Tower(budget) => budget.deposit(),
        }
    }

    /// Pays for a retry, if it can.
    pub(super) fn withdraw(&self, now: Tick) -> bool {
        match &self.kind {
            Kind::Bucket(shared) => {
                let seen = shared.first_attempts.sum();
                shared.bucket().withdraw(shared.rules, seen, now)
            }
            #[cfg(feature = "tower")]
            Kind::Tower(budget) => budget.withdraw(),
        }
    }
}

impl Shared {
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for RetryBudget {
    /// Two budgets are equal if they are clones of the same one: a budget is what it has left.
    fn eq(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Bucket(a), Kind::Bucket(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "tower")]
            (Kind::Tower(a), Kind::Tower(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "tower")]
            _ => false,
        }
    }
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Bucket(shared) => {
                let tokens = |millionths: u64| millionths as f64 / TOKEN as f64;
                f.debug_struct("RetryBudget")
                    .field("percent", &(tokens(shared.rules.deposit) * 100.0))
                    .field("floor_per_second", &tokens(shared.rules.floor_per_second))
                    .field("burst", &(shared.rules.burst / TOKEN))
                    .finish_non_exhaustive()
            }
            #[cfg(feature = "tower")]
            Kind::Tower(_) => f.write_str("RetryBudget(tower)"),
        }
    }
}

/// Sets up a [`RetryBudget`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is made before `build`"]
pub struct RetryBudgetBuilder {
    percent: f64,
    floor_per_second: f64,
    burst: u32,
}

impl RetryBudgetBuilder {
    /// Retries may be so many percent of first attempts. Default: 20.
    pub fn percent(mut self, percent: f64) -> Self {
        self.percent = percent;
        self
    }

    /// So many retries a second are paid for whatever the traffic. Default: 10.
    pub fn floor_per_second(mut self, retries: f64) -> Self {
        self.floor_per_second = retries;
        self
    }

    /// How many retries can be saved up. Default: 100: ten seconds of the floor. It bounds what long quiet
    /// times can add to the first moments of an outage.
    pub fn burst(mut self, retries: u32) -> Self {
        self.burst = retries;
        self
    }

    /// Makes the budget.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a percentage outside 0 to 1000, a floor outside 0 to a million, a burst of
    /// zero, or anything that is not a number.
    pub fn build(self) -> Result<RetryBudget, ConfigError> {
        if !(0.0..=1000.0).contains(&self.percent) {
            let advice =
                "give retries as a percentage of the traffic, from 0 to 1000, such as 20.0";
            return Err(ConfigError::new("percent", self.percent, advice));
        }
        if !(0.0..=1e6).contains(&self.floor_per_second) {
            let advice = "give a number of retries a second from 0 to 1000000";
            return Err(ConfigError::new(
                "floor_per_second",
                self.floor_per_second,
                advice,
            ));
        }
        if self.burst == 0 {
            let advice = "a bucket that holds nothing pays for nothing: give at least 1, or `max_retries(0)` for no retries";
            return Err(ConfigError::new("burst", self.burst, advice));
        }
        let rules = BudgetRules {
            deposit: (self.percent * (TOKEN / 100) as f64).round() as u64,
            floor_per_second: (self.floor_per_second * TOKEN as f64).round() as u64,
            burst: u64::from(self.burst) * TOKEN,
        };
        Ok(RetryBudget {
            kind: Kind::Bucket(Arc::new(Shared {
                rules,
                first_attempts: StripedCounter::new(),
                bucket: Mutex::new(Bucket::full(rules, time::now())),
            })),
        })
    }
}
