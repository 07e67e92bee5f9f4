use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::backoff::{Backoff, Jitter};
use super::budget::RetryBudget;
use super::config::RetryConfig;
use super::handle::{AttemptOutcome, OnRetry, RetryPolicy};
use crate::error::ConfigError;
use crate::event::Observer;

/// Sets up a [`RetryPolicy`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct RetryPolicyBuilder {
    pub(super) name: Arc<str>,
    pub(super) config: RetryConfig,
    pub(super) on_retry: Vec<OnRetry>,
    observers: Vec<Arc<dyn Observer>>,
    pub(super) seed: Option<u64>,
}

impl RetryPolicy {
    /// The default policy, under the name `retry`: 3 retries after 1, 2 and 4 seconds, give or take 10 %.
    #[must_use]
    pub fn new() -> Self {
        let RetryPolicyBuilder {
            name, config, seed, ..
        } = RetryPolicyBuilder::new();
        Self::from_parts(name, config, Vec::new(), Vec::new(), seed)
    }

    /// Starts with the default policy; see [`RetryPolicyBuilder`].
    pub fn builder() -> RetryPolicyBuilder {
        RetryPolicyBuilder::new()
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl RetryPolicyBuilder {
    pub(super) fn new() -> Self {
        Self {
            name: "retry".into(),
            config: RetryConfig::default(),
            on_retry: Vec::new(),
            observers: Vec::new(),
            seed: None,
        }
    }

    /// The name in events, errors and snapshots. Default: `retry`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// How many attempts may follow the first. Default: 3. With 0 a call is made once, and the request is
    /// never cloned.
    pub fn max_retries(mut self, n: u32) -> Self {
        self.config.max_retries = n;
        self
    }

    /// How the waits grow. Default: 1 s, doubled each time.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.config.backoff = backoff;
        self
    }

    /// How the waits are spread. Default: 10 % up or down; take [`Jitter::Full`] where many callers share a
    /// service.
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.config.jitter = jitter;
        self
    }

    /// The longest wait of the backoff, jitter included. Default: 60 s.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.config.max_delay = delay;
        self
    }

    /// The longest wait that a service may ask for. Default: 60 s. A service that asks for more is not
    /// waited for: the call ends at once, with
    /// [`StopReason::RetryAfterTooLong`](crate::StopReason::RetryAfterTooLong).
    pub fn max_retry_after(mut self, delay: Duration) -> Self {
        self.config.max_retry_after = delay;
        self
    }

    /// Bounds the retries of all callers together. Default: none.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.config.budget = Some(budget);
        self
    }

    /// How long the whole call may take, waits included. Default: as long as it takes. An attempt that
    /// still runs then is dropped; a wait that would not fit is not begun.
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.config.total_timeout = Some(timeout);
        self
    }

    /// How long one attempt may take, up to the response (not the end of its body). Default: as long as it
    /// takes. An attempt that takes longer is dropped, counts as a failure in a breaker below, and is
    /// tried again.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = Some(timeout);
        self
    }

    /// A retry that would have less time than this before the deadline (the total timeout, or the ambient one)
    /// is not begun: an attempt that cannot finish is load for nothing. Default: none, so that any time is
    /// enough.
    pub fn min_attempt(mut self, least: Duration) -> Self {
        self.config.min_attempt = least;
        self
    }

    /// What was certainly not done is sent again at once also where no retries are wanted, as gRPC has it.
    #[cfg(feature = "grpc")]
    pub(crate) fn free_retry(mut self) -> Self {
        self.config.free_retry = true;
        self
    }

    /// Whether a refusal of a layer below is tried again: after its own `retry_after` if it names one that
    /// is within `max_retry_after` and the deadline, else after the backoff. Default: no, because the
    /// refusal was made to keep calls away. A deadlock is never tried again; the budget is not touched.
    pub fn retry_rejections(mut self, yes: bool) -> Self {
        self.config.retry_rejections = yes;
        self
    }

    /// Is called before each wait: with the number of the attempt that failed (the first is 1), the wait,
    /// and what the attempt ended with. A panic in it changes nothing.
    pub fn on_retry(
        mut self,
        callback: impl Fn(u32, Duration, &AttemptOutcome<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.on_retry.push(Arc::new(callback));
        self
    }

    /// Is told of every event of this policy.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Makes the jitter repeatable. Default: random numbers of the system.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the policy.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work: it names the setting and says what to change.
    pub fn build(self) -> Result<RetryPolicy, ConfigError> {
        self.build_with(None)
    }

    pub(crate) fn build_with(
        mut self,
        extra: Option<Arc<dyn Observer>>,
    ) -> Result<RetryPolicy, ConfigError> {
        self.config.check()?;
        let mut observers = std::mem::take(&mut self.observers);
        observers.extend(extra);
        Ok(RetryPolicy::from_parts(
            self.name,
            self.config,
            self.on_retry,
            observers,
            self.seed,
        ))
    }

    pub(crate) fn name_ref(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn checked_config(&self) -> Result<RetryConfig, ConfigError> {
        self.config.check()?;
        Ok(self.config.clone())
    }
}

impl fmt::Debug for RetryPolicyBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicyBuilder")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
