use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::budget::RetryBudget;
use super::config::{Budget, RetryConfig};
use crate::error::{ConfigChange, ConfigError, Rejection};
use crate::event::RetryEvent;
use crate::event::{Event, Funnel, Observer, guarded};
use crate::util::random::Random;
use crate::util::sharded::{ShardedArc, ShardedCounter};

/// What an attempt ended with, as `on_retry` sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum AttemptOutcome<'a> {
    /// The service's own error: `error.downcast_ref::<MyError>()` gives it back typed.
    Error(&'a (dyn std::error::Error + 'static)),
    /// A response that was judged a failure.
    #[non_exhaustive]
    Response {
        /// Why, if the classifier said so: `HTTP 503`, say.
        reason: Option<&'a str>,
    },
    /// The attempt took too long.
    TimedOut,
    /// A layer below refused the call.
    Rejected(&'a Rejection),
}

/// An attempt that has failed, and that another follows: what `on_retry` is called with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FailedAttempt<'a> {
    /// The number of the attempt that failed; the first is 1.
    pub attempt: u32,
    /// How long is waited before the next one.
    pub delay: Duration,
    /// What it ended with.
    pub outcome: AttemptOutcome<'a>,
}

pub(super) type OnRetry = Arc<dyn Fn(&FailedAttempt<'_>) + Send + Sync>;
pub(super) type DelayWith = Arc<dyn Fn(&FailedAttempt<'_>) -> Duration + Send + Sync>;
pub(super) type Hook = Pin<Box<dyn Future<Output = ()> + Send>>;
pub(super) type BeforeRetry = Arc<dyn Fn(u32) -> Hook + Send + Sync>;

/// What a policy is made with, beside its config.
#[derive(Clone, Default)]
pub(super) struct Callbacks {
    pub(super) on_retry: Vec<OnRetry>,
    pub(super) delay_with: Option<DelayWith>,
    pub(super) before_retry: Option<BeforeRetry>,
    pub(super) observers: Vec<Arc<dyn Observer>>,
    pub(super) seed: Option<u64>,
}

/// When, how often, and after which waits a call is tried again: a cheap clone of shared, named rules.
///
/// Clones share the budget, the source of random numbers and the counters.
#[derive(Clone)]
pub struct RetryPolicy {
    pub(super) shared: ShardedArc<Shared>,
}

pub(super) struct Shared {
    pub(super) config: ArcSwap<RetryConfig>,
    /// Held while the config is replaced, and never else.
    updating: Mutex<()>,
    pub(super) budget: Option<RetryBudget>,
    pub(super) random: Random,
    delay_with: Option<DelayWith>,
    pub(super) before_retry: Option<BeforeRetry>,
    funnel: Funnel,
    on_retry: Vec<OnRetry>,
    counts: Counts,
}

/// What has happened so far.
struct Counts {
    /// Calls whose first attempt succeeded: most, so they are counted in shards. Of a policy with a budget of its own the
    /// budget has counted all first attempts already, and this stays 0.
    plain: ShardedCounter,
    /// First attempts that the policy's own budget has counted, and that did not just succeed.
    not_plain: AtomicU64,
    by_own_budget: bool,
    calls: AtomicU64,
    attempts: AtomicU64,
    successes: AtomicU64,
    retries: AtomicU64,
    recovered: AtomicU64,
    gave_up: AtomicU64,
    /// Of `calls`, those of so many attempts, from one on; the last are those of more, too.
    by_attempts: [AtomicU64; MOST_ATTEMPTS],
}

/// So many attempts of a call are told apart.
const MOST_ATTEMPTS: usize = 12;

impl RetryPolicy {
    pub(super) fn from_parts(name: Arc<str>, config: RetryConfig, callbacks: Callbacks) -> Self {
        let by_own_budget = matches!(config.budget, Budget::Own(_));
        let budget = match &config.budget {
            // It has been checked.
            Budget::Own(own) => own.rules(config.max_retries).ok().map(RetryBudget::own),
            Budget::Shared(budget) => Some(budget.clone()),
            Budget::Unlimited => None,
        };
        Self {
            shared: ShardedArc::new(Shared {
                config: ArcSwap::from_pointee(config),
                updating: Mutex::new(()),
                budget,
                random: Random::new(callbacks.seed),
                delay_with: callbacks.delay_with,
                before_retry: callbacks.before_retry,
                funnel: Funnel::new(name, callbacks.observers),
                on_retry: callbacks.on_retry,
                counts: Counts {
                    plain: ShardedCounter::new(),
                    not_plain: AtomicU64::new(0),
                    by_own_budget,
                    calls: AtomicU64::new(0),
                    attempts: AtomicU64::new(0),
                    successes: AtomicU64::new(0),
                    retries: AtomicU64::new(0),
                    recovered: AtomicU64::new(0),
                    gave_up: AtomicU64::new(0),
                    by_attempts: Default::default(),
                },
            }),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.funnel.name()
    }

    /// What it goes by now.
    #[must_use]
    pub fn config(&self) -> Arc<RetryConfig> {
        self.shared.config.load_full()
    }

    /// Whether [`update`](Self::update) would do.
    #[cfg(feature = "config")]
    pub(crate) fn can_update(&self, config: &RetryConfig) -> Result<(), ConfigError> {
        self.config().updated(config.clone()).map(drop)
    }

    /// Goes by another config from now on, and says what has changed. Counts, callbacks and what the budget has left stay. A
    /// call that runs keeps the number of retries and the timeouts that it began with; its next wait is by the new rules.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work, or for another kind of budget: then nothing has changed. A budget that
    /// code has given, and that the new config says nothing of, stays.
    pub fn update(&self, config: RetryConfig) -> Result<ConfigChange, ConfigError> {
        let shared = &self.shared;
        let one_at_a_time = shared.updating.lock();
        let old = shared.config.load_full();
        let new = old.updated(config)?;
        if let (Budget::Own(own), Some(budget)) = (&new.budget, &shared.budget) {
            budget.go_by(own.rules(new.max_retries)?);
        }
        let change = old.difference(&new);
        shared.config.store(Arc::new(new));
        drop(one_at_a_time);
        Ok(change)
    }

    /// What has happened so far.
    #[must_use]
    pub fn snapshot(&self) -> RetrySnapshot {
        let shared = &self.shared;
        let counts = &shared.counts;
        let of = |count: &AtomicU64| count.load(Ordering::Acquire);
        let plain = counts.plain(shared.budget.as_ref());
        RetrySnapshot {
            name: Arc::clone(shared.funnel.name()),
            calls: plain + of(&counts.calls),
            attempts: plain + of(&counts.attempts),
            successes: plain + of(&counts.successes),
            retries: of(&counts.retries),
            recovered: of(&counts.recovered),
            gave_up: of(&counts.gave_up),
            budget_available: shared.budget.as_ref().and_then(RetryBudget::available),
        }
    }

    /// How many of the calls that have ended took so many attempts, from one on.
    #[cfg(feature = "metrics")]
    pub(crate) fn calls_by_attempts(&self) -> [u64; MOST_ATTEMPTS] {
        let shared = &self.shared;
        let by_attempts = shared.counts.by_attempts.each_ref();
        let mut calls = by_attempts.map(|it| it.load(Ordering::Relaxed));
        calls[0] += shared.counts.plain(shared.budget.as_ref());
        calls
    }

    /// Whether nobody else has a handle, and no call is on its way.
    pub(crate) fn is_disused(&self) -> bool {
        self.has_one_handle()
    }

    /// Whether nobody else has a handle, and no call is on its way.
    pub(crate) fn has_one_handle(&self) -> bool {
        self.shared.is_sole()
    }

    /// Whether one that is made anew would do the same: its own budget is full.
    pub(crate) fn remembers_nothing(&self) -> bool {
        let shared = &self.shared;
        match (&shared.config.load().budget, &shared.budget) {
            (Budget::Own(_), Some(budget)) => budget.is_full(),
            _ => true,
        }
    }

    /// What pays for the retries, if anything does.
    #[must_use]
    pub fn budget(&self) -> Option<&RetryBudget> {
        self.shared.budget.as_ref()
    }
}

impl Counts {
    /// Calls whose first attempt succeeded.
    fn plain(&self, budget: Option<&RetryBudget>) -> u64 {
        match (budget, self.by_own_budget) {
            (Some(budget), true) => {
                let first_attempts = budget.first_attempts();
                fence(Ordering::Acquire);
                first_attempts.saturating_sub(self.not_plain.load(Ordering::Relaxed))
            }
            _ => self.plain.sum(),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.funnel.name().fmt(f)
    }
}

impl Shared {
    pub(super) fn name(&self) -> &Arc<str> {
        self.funnel.name()
    }

    /// How long the wait is: as planned, unless the user has a rule for it.
    pub(super) fn delay(
        &self,
        attempt: u32,
        planned: Duration,
        outcome: &AttemptOutcome<'_>,
    ) -> Duration {
        let Some(rule) = &self.delay_with else {
            return planned;
        };
        let mut delay = planned;
        guarded(self.name(), || {
            delay = rule(&FailedAttempt {
                attempt,
                delay: planned,
                outcome: *outcome,
            });
        });
        delay.min(self.config.load().max_delay.max(planned))
    }

    /// A call has succeeded at its first attempt.
    #[inline]
    pub(super) fn count_plain(&self) {
        if !self.counts.by_own_budget {
            self.counts.plain.add_one();
        }
        if let Some(budget) = &self.budget {
            budget.deposit();
            budget.succeeded(0);
        }
    }

    /// A first attempt has ended otherwise.
    pub(super) fn first_attempt(&self, budget: &RetryBudget) {
        // In this order, and read in the other: what is computed from the two is never too much.
        self.counts.not_plain.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        budget.deposit();
    }

    /// Any other call has ended.
    pub(super) fn count_ended(&self, attempts: u32, good: bool) {
        let counts = &self.counts;
        // In this order, and read in the other: no more calls have failed than really did, nor succeeded at once.
        let recovered = good && attempts > 1;
        counts
            .recovered
            .fetch_add(recovered.into(), Ordering::Release);
        counts.successes.fetch_add(good.into(), Ordering::Release);
        counts.calls.fetch_add(1, Ordering::Release);
        counts
            .attempts
            .fetch_add(attempts.into(), Ordering::Relaxed);
        let nth = (attempts.max(1) as usize).min(MOST_ATTEMPTS) - 1;
        counts.by_attempts[nth].fetch_add(1, Ordering::Relaxed);
    }

    /// A call was given up, and nobody listens.
    pub(super) fn count_gave_up(&self) {
        self.counts.gave_up.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether anybody listens to what happens call by call.
    pub(super) fn hears_details(&self) -> bool {
        self.funnel.hears_details()
    }

    /// Counts an event, unless the call's end did, reports it, and, if a retry follows, calls back.
    pub(super) fn tell(&self, event: RetryEvent, outcome: Option<&AttemptOutcome<'_>>) {
        match &event {
            RetryEvent::Scheduled { .. } => self.counts.retries.fetch_add(1, Ordering::Relaxed),
            RetryEvent::GaveUp { .. } => self.counts.gave_up.fetch_add(1, Ordering::Relaxed),
            // Counted with its call.
            RetryEvent::Recovered { .. } => 0,
        };
        if let (RetryEvent::Scheduled { attempt, delay, .. }, Some(outcome)) = (&event, outcome) {
            let failed = FailedAttempt {
                attempt: *attempt,
                delay: *delay,
                outcome: *outcome,
            };
            for callback in &self.on_retry {
                guarded(self.funnel.name(), || callback(&failed));
            }
        }
        self.funnel.publish(&Event::Retry(event));
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("name", &self.name())
            .field("config", &self.config())
            .finish_non_exhaustive()
    }
}

/// A retry policy at one moment. The counts start when the policy is made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RetrySnapshot {
    /// The name.
    pub name: Arc<str>,
    /// Calls that have ended. A call that was dropped is not among them.
    pub calls: u64,
    /// Their attempts, the first ones included.
    pub attempts: u64,
    /// Those of the calls that ended well.
    pub successes: u64,
    /// Retries that were scheduled.
    pub retries: u64,
    /// Calls that succeeded after at least one retry.
    pub recovered: u64,
    /// Calls that failed although another attempt was wanted, and calls that a layer below refused.
    pub gave_up: u64,
    /// How many retries the budget would pay for, if there is one that says.
    pub budget_available: Option<u64>,
}
