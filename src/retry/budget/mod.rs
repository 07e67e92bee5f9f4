//! Why a budget: a policy says how often *one* call is tried, and says nothing of a thousand callers
//! who all try four times at once. A budget does: retries may be so many percent of the traffic.

mod bucket;
mod quota;
mod throttle;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use bucket::{Bucket, BudgetRules, TOKEN};
pub use quota::RetryQuota;
pub(super) use quota::{Quota, Spend};
pub(super) use throttle::Throttle;

use crate::error::ConfigError;
use crate::util::sharded::ShardedCounter;
use crate::util::time::{self, Tick};

/// A bound on retries, shared by everything that has a clone.
///
/// There are three kinds: a share of the traffic ([`new`](Self::new), [`builder`](Self::builder)), which is
/// what to take if you have no other reason; gRPC's retry [`throttle`](Self::throttle); and the
/// [`quota`](Self::quota) of the AWS clients.
///
/// A share is a token bucket: each first attempt puts `ratio` of a token in, a retry takes a whole one out,
/// and `floor_per_second` tokens come in as time goes by, so that a quiet service can still retry. The
/// bucket holds `burst` tokens at most, and starts full. Tokens are counted in millionths, so 0.004 is
/// 0.004.
///
/// A first attempt takes no lock and reads no clock. Rejections of layers below cost nothing.
///
/// ```
/// use tower_bulwark::{RetryBudget, RetryPolicy};
///
/// let budget = RetryBudget::new(0.2)?;
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
    Throttle(Arc<Throttle>),
    Quota(Arc<Quota>),
    #[cfg(feature = "tower")]
    Tower(Arc<dyn tower::retry::budget::Budget + Send + Sync>),
}

struct Shared {
    first_attempts: ShardedCounter,
    bucket: Mutex<Bucket>,
}

impl RetryBudget {
    /// Retries may be this share of the traffic, in \[0, 1\], plus the floor and the burst of
    /// [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// [`ConfigError`] unless `ratio` is a number from 0 to 1.
    pub fn new(ratio: f64) -> Result<Self, ConfigError> {
        Self::builder().ratio(ratio).build()
    }

    /// Starts with 20 % of the traffic, a floor of 10 retries a second, and a burst of 100: what Finagle
    /// and linkerd have found to suit, give or take the burst.
    pub fn builder() -> RetryBudgetBuilder {
        RetryBudgetBuilder {
            ratio: 0.2,
            floor_per_second: 10.0,
            burst: 100,
        }
    }

    /// The retry throttle of gRPC ([gRFC A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md)):
    /// `max_tokens` at first; a failed attempt that could be retried takes one, a call that succeeds puts
    /// `token_ratio` back, and retries stop while no more than half of the tokens are there. Digits of the
    /// ratio behind the third are cut off, as the standard has it. One for each server, shared by all its
    /// methods.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] unless `max_tokens` is from 1 to 1000 and `token_ratio` from 0.001 to 1000.
    pub fn throttle(max_tokens: u32, token_ratio: f64) -> Result<Self, ConfigError> {
        Ok(Self {
            kind: Kind::Throttle(Arc::new(Throttle::new(max_tokens, token_ratio)?)),
        })
    }

    /// The retry quota of the AWS clients' standard mode: a store of tokens that every retry takes from, and
    /// successes put back to. It knows no time: an outage empties it once, and only recovery fills it.
    ///
    /// ```
    /// use tower_bulwark::retry::{RetryBudget, RetryQuota};
    ///
    /// let budget = RetryBudget::quota(RetryQuota::AWS)?;
    /// # Ok::<(), tower_bulwark::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a capacity of zero, or below what one retry costs.
    pub fn quota(rules: RetryQuota) -> Result<Self, ConfigError> {
        Ok(Self {
            kind: Kind::Quota(Arc::new(Quota::new(rules)?)),
        })
    }

    /// A budget of tower, as a budget of this crate. (feature `tower`) It takes nothing back for what was paid for and did not
    /// take place.
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
                Some(shared.bucket().tokens(seen, now) / TOKEN)
            }
            Kind::Throttle(throttle) => Some(throttle.available()),
            Kind::Quota(quota) => Some(quota.available()),
            #[cfg(feature = "tower")]
            Kind::Tower(_) => None,
        }
    }

    /// Whether no retry has been paid for that was not earned again.
    pub(crate) fn is_full(&self) -> bool {
        match &self.kind {
            Kind::Bucket(shared) => {
                let (now, seen) = (time::now(), shared.first_attempts.sum());
                shared.bucket().is_full(seen, now)
            }
            Kind::Throttle(_) | Kind::Quota(_) => false,
            #[cfg(feature = "tower")]
            Kind::Tower(_) => false,
        }
    }

    /// How many first attempts it has counted.
    pub(super) fn first_attempts(&self) -> u64 {
        match &self.kind {
            Kind::Bucket(shared) => shared.first_attempts.sum(),
            Kind::Throttle(_) | Kind::Quota(_) => 0,
            #[cfg(feature = "tower")]
            Kind::Tower(_) => 0,
        }
    }

    /// Counts a first attempt.
    #[inline]
    pub(crate) fn deposit(&self) {
        match &self.kind {
            Kind::Bucket(shared) => {
                shared.first_attempts.add_one();
            }
            Kind::Throttle(_) | Kind::Quota(_) => {}
            #[cfg(feature = "tower")]
            Kind::Tower(budget) => budget.deposit(),
        }
    }

    /// A call has succeeded. `paid` is what its last retry cost, 0 if it needed none.
    pub(crate) fn succeeded(&self, paid: u32) {
        match &self.kind {
            Kind::Throttle(throttle) => throttle.succeeded(),
            Kind::Quota(quota) => quota.succeeded(paid),
            Kind::Bucket(_) => {}
            #[cfg(feature = "tower")]
            Kind::Tower(_) => {}
        }
    }

    /// An attempt has failed in a way that is worth a retry, or the service asked for none.
    pub(crate) fn failed(&self) {
        match &self.kind {
            Kind::Throttle(throttle) => throttle.failed(),
            Kind::Bucket(_) | Kind::Quota(_) => {}
            #[cfg(feature = "tower")]
            Kind::Tower(_) => {}
        }
    }

    /// Pays for a retry, if it can, and says what it cost.
    pub(super) fn withdraw(&self, now: Tick, spend: Spend) -> Option<u32> {
        let (pays, cost) = match &self.kind {
            Kind::Bucket(shared) => {
                let seen = shared.first_attempts.sum();
                (shared.bucket().withdraw(seen, now), 1)
            }
            Kind::Throttle(throttle) => (throttle.allows_retry(), 1),
            Kind::Quota(quota) => return quota.withdraw(spend),
            #[cfg(feature = "tower")]
            Kind::Tower(budget) => (budget.withdraw(), 1),
        };
        pays.then_some(cost)
    }
}

impl RetryBudget {
    /// One of a policy's own.
    pub(super) fn own(rules: BudgetRules) -> Self {
        Self::of_traffic(rules)
    }

    /// One of a policy's own goes by other rules from now on. What is saved stays, up to the new burst.
    pub(super) fn go_by(&self, rules: BudgetRules) {
        if let Kind::Bucket(shared) = &self.kind {
            let (now, seen) = (time::now(), shared.first_attempts.sum());
            shared.bucket().go_by(rules, seen, now);
        }
    }

    /// What a hedge has that asks for none: a tenth of its traffic, one a second, and up to ten saved.
    pub(crate) fn of_hedges() -> Self {
        Self::of_traffic(BudgetRules::new(0.1, 1.0, 10))
    }

    /// Pays for a hedge, if it can, and says what it cost: as much as a retry after a failure.
    pub(crate) fn withdraw_for_hedge(&self, now: Tick) -> Option<u32> {
        self.withdraw(now, Spend::Failure)
    }

    fn of_traffic(rules: BudgetRules) -> Self {
        Self {
            kind: Kind::Bucket(Arc::new(Shared {
                first_attempts: ShardedCounter::new(),
                bucket: Mutex::new(Bucket::full(rules, time::now())),
            })),
        }
    }

    /// A retry that was paid for does not take place.
    pub(crate) fn give_back(&self, cost: u32) {
        match &self.kind {
            Kind::Bucket(shared) => shared.bucket().give_back(),
            Kind::Quota(quota) => quota.succeeded(cost),
            Kind::Throttle(_) => {}
            #[cfg(feature = "tower")]
            Kind::Tower(_) => {}
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
            (Kind::Throttle(a), Kind::Throttle(b)) => Arc::ptr_eq(a, b),
            (Kind::Quota(a), Kind::Quota(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "tower")]
            (Kind::Tower(a), Kind::Tower(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Bucket(shared) => {
                let rules = shared.bucket().rules();
                let tokens = |millionths: u64| millionths as f64 / TOKEN as f64;
                f.debug_struct("RetryBudget")
                    .field("ratio", &tokens(rules.deposit))
                    .field("floor_per_second", &tokens(rules.floor_per_second))
                    .field("burst", &(rules.burst / TOKEN))
                    .finish_non_exhaustive()
            }
            Kind::Throttle(throttle) => throttle.fmt(f),
            Kind::Quota(quota) => quota.fmt(f),
            #[cfg(feature = "tower")]
            Kind::Tower(_) => f.write_str("RetryBudget(tower)"),
        }
    }
}

/// Sets up a [`RetryBudget`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is made before `build`"]
pub struct RetryBudgetBuilder {
    ratio: f64,
    floor_per_second: f64,
    burst: u32,
}

impl RetryBudgetBuilder {
    /// Retries may be this share of first attempts, in \[0, 1\]. Default: 0.2.
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
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

    /// What it comes to, in what a bucket counts.
    pub(super) fn rules(&self) -> Result<BudgetRules, ConfigError> {
        if !(0.0..=1.0).contains(&self.ratio) {
            let advice = "give retries as a share of the traffic, from 0 to 1, such as 0.2";
            return Err(ConfigError::new("ratio", self.ratio, advice));
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
        Ok(BudgetRules::new(
            self.ratio,
            self.floor_per_second,
            self.burst,
        ))
    }

    /// Makes the budget.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a ratio outside 0 to 1, a floor outside 0 to a million, a burst of
    /// zero, or anything that is not a number.
    pub fn build(self) -> Result<RetryBudget, ConfigError> {
        self.rules().map(RetryBudget::of_traffic)
    }
}
