use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::backoff::{Backoff, Jitter};
use super::budget::RetryBudget;
use super::builder::RetryPolicyBuilder;
use super::event::RetryEvent;
use super::runner::Retry;
use super::service::RetryLayer;
use crate::error::{ConfigError, IntoError, Rejection};
use crate::event::{Event, Funnel, Observer, guarded};
use crate::outcome::{
    ClassifyFn, DelayFrom, ErrorsAreFailures, FailureIf, ResponseFailureIf, Verdict,
};
use crate::random::Random;
use crate::spread::Spread;

/// What a retry policy goes by. Made by the builder, and immutable.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryRules {
    pub(super) max_retries: u32,
    pub(super) backoff: Backoff,
    pub(super) jitter: Jitter,
    pub(super) max_delay: Duration,
    pub(super) max_retry_after: Duration,
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) min_attempt: Duration,
    pub(super) total_timeout: Option<Duration>,
    pub(super) retry_rejections: bool,
    /// Whether a request that was certainly not done is sent again although no retries are wanted.
    pub(super) free_retry: bool,
    pub(super) budget: Option<RetryBudget>,
}

impl Default for RetryRules {
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
            retry_rejections: false,
            free_retry: false,
            budget: None,
        }
    }
}

impl RetryRules {
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

    /// Whether refusals of layers below are tried again.
    #[must_use]
    pub fn retries_rejections(&self) -> bool {
        self.retry_rejections
    }

    /// The budget, if there is one.
    #[must_use]
    pub fn budget(&self) -> Option<&RetryBudget> {
        self.budget.as_ref()
    }

    /// All waits of the backoff together, each as long as it can be. What a service may ask for instead is
    /// not in it.
    #[must_use]
    pub fn worst_case_delay(&self) -> Duration {
        // A backoff that is still growing after a thousand retries is at its cap for all that matters.
        const LOOKED_AT: u32 = 1_000;
        let each = |n| self.jitter.longest(&self.backoff, n, self.max_delay);
        let looked_at = (0..self.max_retries.min(LOOKED_AT))
            .map(each)
            .fold(Duration::ZERO, Duration::saturating_add);
        let rest = self.max_retries.saturating_sub(LOOKED_AT);
        looked_at.saturating_add(self.max_delay.saturating_mul(rest))
    }

    /// Whether a call needs to know when it began.
    #[inline]
    pub(super) fn is_timed(&self) -> bool {
        self.attempt_timeout.is_some() || self.total_timeout.is_some()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.backoff.check()?;
        self.jitter.check()?;
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

/// What an attempt ended with, as `on_retry` sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum AttemptOutcome<'a> {
    /// The service's own error: `error.downcast_ref::<MyError>()` gives it back typed.
    Error(&'a (dyn std::error::Error + 'static)),
    /// A response that was judged a failure.
    Response,
    /// The attempt took too long.
    TimedOut,
    /// A layer below refused the call.
    Rejected(&'a Rejection),
}

pub(super) type OnRetry = Arc<dyn Fn(u32, Duration, &AttemptOutcome<'_>) + Send + Sync>;

/// When, how often, and after which waits a call is tried again: a cheap clone of shared, named rules.
///
/// Clones share the budget, the source of random numbers and the counters.
#[derive(Clone)]
pub struct RetryPolicy {
    pub(super) shared: Spread<Shared>,
}

pub(super) struct Shared {
    pub(super) rules: RetryRules,
    pub(super) random: Random,
    funnel: Funnel,
    on_retry: Vec<OnRetry>,
    retries: AtomicU64,
    recovered: AtomicU64,
    gave_up: AtomicU64,
}

impl RetryPolicy {
    /// The default policy, under the name `retry`: 3 retries after 1, 2 and 4 seconds, give or take 10 %.
    #[must_use]
    pub fn new() -> Self {
        Self::from_builder(RetryPolicyBuilder::new(), Vec::new())
    }

    /// Starts with the default policy; see [`RetryPolicyBuilder`].
    pub fn builder() -> RetryPolicyBuilder {
        RetryPolicyBuilder::new()
    }

    pub(super) fn from_builder(
        builder: RetryPolicyBuilder,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            shared: Spread::new(Shared {
                rules: builder.rules,
                random: Random::new(builder.seed),
                funnel: Funnel::new(builder.name, observers),
                on_retry: builder.on_retry,
                retries: AtomicU64::new(0),
                recovered: AtomicU64::new(0),
                gave_up: AtomicU64::new(0),
            }),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.funnel.name()
    }

    /// What it goes by.
    #[must_use]
    pub fn rules(&self) -> &RetryRules {
        &self.shared.rules
    }

    /// A layer that retries by this policy. `L` is the service's own error, and inferred.
    #[must_use]
    pub fn layer<L>(&self) -> RetryLayer<L> {
        RetryLayer::new(self.clone())
    }

    /// What has happened so far.
    #[must_use]
    pub fn snapshot(&self) -> RetrySnapshot {
        let shared = &self.shared;
        RetrySnapshot {
            name: Arc::clone(shared.funnel.name()),
            retries: shared.retries.load(Ordering::Relaxed),
            recovered: shared.recovered.load(Ordering::Relaxed),
            gave_up: shared.gave_up.load(Ordering::Relaxed),
            budget_available: shared
                .rules
                .budget
                .as_ref()
                .and_then(RetryBudget::available),
        }
    }

    /// Runs `operation` until it succeeds or the policy says stop. Every error is worth a retry; say
    /// otherwise with [`retry_if`](Self::retry_if) before it.
    ///
    /// ```
    /// # use tower_bulwark::{Error, RetryPolicy};
    /// # async fn fetch() -> Result<String, std::io::Error> { Ok("42".into()) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error<std::io::Error>> {
    /// let answer = RetryPolicy::new().run(|| async { fetch().await }).await?;
    /// # assert_eq!(answer, "42");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Dropping the future drops the attempt that is running, or ends the wait.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error), as the layer gives it. An operation that already fails with it keeps it
    /// flat.
    pub fn run<F, Fut, T, E, L>(
        &self,
        operation: F,
    ) -> impl Future<Output = Result<T, crate::Error<L>>> + use<F, Fut, T, E, L>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
        L: std::error::Error + 'static,
    {
        Retry::new(self.clone(), ErrorsAreFailures).run(operation)
    }

    /// Like [`run`](Self::run), for code that blocks. The thread is parked between attempts.
    ///
    /// An `attempt_timeout` cannot end code that blocks, and is not looked at; a `total_timeout` ends the
    /// attempts.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_blocking<T, E, L>(
        &self,
        operation: impl FnMut() -> Result<T, E>,
    ) -> Result<T, crate::Error<L>>
    where
        E: IntoError<L>,
        L: std::error::Error + 'static,
    {
        Retry::new(self.clone(), ErrorsAreFailures).run_blocking(operation)
    }

    /// A runner that retries only errors that match.
    pub fn retry_if<L, F: Fn(&L) -> bool>(
        &self,
        matches: F,
    ) -> Retry<FailureIf<F, ErrorsAreFailures>> {
        Retry::new(self.clone(), ErrorsAreFailures).retry_if(matches)
    }

    /// A runner that also retries values that match.
    pub fn retry_response_if<T, F: Fn(&T) -> bool>(
        &self,
        matches: F,
    ) -> Retry<ResponseFailureIf<F, ErrorsAreFailures>> {
        Retry::new(self.clone(), ErrorsAreFailures).retry_response_if(matches)
    }

    /// A runner that takes the wait from the result.
    pub fn delay_from<T, L, F: Fn(Result<&T, &L>) -> Option<Duration>>(
        &self,
        delay: F,
    ) -> Retry<DelayFrom<F, ErrorsAreFailures>> {
        Retry::new(self.clone(), ErrorsAreFailures).delay_from(delay)
    }

    /// A runner that judges results with a function.
    pub fn classify_with<T, L, F: Fn(Result<&T, &L>) -> Verdict>(
        &self,
        judge: F,
    ) -> Retry<ClassifyFn<F>> {
        Retry::new(self.clone(), ErrorsAreFailures).classify_with(judge)
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

    /// Counts an event, tells of it, and, if a retry follows, calls back.
    pub(super) fn tell(&self, event: RetryEvent, outcome: Option<&AttemptOutcome<'_>>) {
        let count = match &event {
            RetryEvent::Scheduled { .. } => &self.retries,
            RetryEvent::Recovered { .. } => &self.recovered,
            RetryEvent::GaveUp { .. } => &self.gave_up,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let (RetryEvent::Scheduled { attempt, delay, .. }, Some(outcome)) = (&event, outcome) {
            for callback in &self.on_retry {
                guarded(self.funnel.name(), || callback(*attempt, *delay, outcome));
            }
        }
        self.funnel.publish(&Event::Retry(event));
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("name", &self.name())
            .field("rules", self.rules())
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
    /// Retries that were scheduled.
    pub retries: u64,
    /// Calls that succeeded after at least one retry.
    pub recovered: u64,
    /// Calls that failed although another attempt was wanted.
    pub gave_up: u64,
    /// How many retries the budget would pay for, if there is one that says.
    pub budget_available: Option<u64>,
}
