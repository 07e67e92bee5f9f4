use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::backoff::{Backoff, Jitter};
use super::budget::RetryBudget;
use super::config::{Budget, RetryConfig};
use super::handle::{Callbacks, FailedAttempt, RetryPolicy};
use crate::error::ConfigError;
use crate::event::Observer;

/// Sets up a [`RetryPolicy`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct RetryPolicyBuilder {
    pub(super) name: Arc<str>,
    pub(super) config: RetryConfig,
    callbacks: Callbacks,
}

impl RetryPolicy {
    /// The default policy, under the name `retry`: 3 retries after 1, 2 and 4 seconds, give or take 10 %.
    #[must_use]
    pub fn new() -> Self {
        let RetryPolicyBuilder { name, config, .. } = RetryPolicyBuilder::new();
        Self::from_parts(name, config, Callbacks::default())
    }

    /// No retries, no timeouts, no budget: for code that wants a policy where nothing shall be tried again.
    #[must_use]
    pub fn none() -> Self {
        let RetryPolicyBuilder { name, config, .. } = RetryPolicyBuilder::new();
        let config = RetryConfig {
            max_retries: 0,
            budget: Budget::Unlimited,
            ..config
        };
        Self::from_parts(name, config, Callbacks::default())
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
            callbacks: Callbacks::default(),
        }
    }

    /// The name in events, errors and snapshots. Default: `retry`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Starts with a config: one that was read from a file, or that another policy has.
    pub fn config(mut self, config: RetryConfig) -> Self {
        self.config = config;
        self
    }

    /// How many attempts may follow the first. Default: 3. With 0 a call is made once, and the request is
    /// never copied.
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

    /// By how much more than a service asks for is waited at most, as a share of it in \[0, 1\]. Default: 0.1, so that a
    /// thousand clients that were given the same time do not come back in one instant. With [`Jitter::None`] there is none,
    /// and what gRPC calls pushback is waited for to the letter.
    pub fn retry_after_jitter(mut self, share: f64) -> Self {
        self.config.retry_after_jitter = share;
        self
    }

    /// What pays for the retries of all callers together. Default: a budget of the policy's own, of a fifth of the
    /// traffic, a floor of 10 retries a second, and a burst of 100 or of all retries of one call, whichever is more;
    /// see [`RetryBudget`].
    ///
    /// Without one, an outage multiplies the load by the number of attempts just when the service can bear it least.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.config.budget = Budget::Shared(budget);
        self
    }

    /// Bounds retries by the other rules only: for a job that alone decides how often it calls.
    pub fn no_budget(mut self) -> Self {
        self.config.budget = Budget::Unlimited;
        self
    }

    /// How long the whole call may take, waits included. Default: as long as it takes. An attempt that
    /// still runs then is dropped; a wait that would not fit is not begun.
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.config.total_timeout = Some(timeout);
        self
    }

    /// How long one attempt may be at the service, up to the response (not the end of its body). Default: as long as it
    /// takes. An attempt that takes longer is dropped, counts as a failure in a breaker below, and is tried again.
    ///
    /// Time that the attempt waits for something of this crate, such as a permit of a lock below, does not count: such
    /// waits have bounds of their own. So does the time that the service below takes to be ready, up to as much again.
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

    /// Whether a refusal of a layer below is tried again: after its own `retry_after` if that is shorter than
    /// `max_retry_after` and fits the deadline, else after the backoff. Default: no, because the refusal was made to
    /// keep calls away. The budget is not touched. A deadlock is none of these: see
    /// [`retry_deadlocks`](Self::retry_deadlocks).
    pub fn retry_rejections(mut self, yes: bool) -> Self {
        self.config.retry_rejections = yes;
        self
    }

    /// Whether a call that was refused as part of a deadlock is tried once more, after the backoff.
    ///
    /// Default: in [`RetryPolicy::run`](super::RetryPolicy::run) and its blocking twin yes, in a layer no. A closure is
    /// most often a whole job, which gives back all it holds with the failed attempt. A layer is part of a job: what
    /// holds the other permit is most often outside of it, and a second try would only wait again.
    pub fn retry_deadlocks(mut self, yes: bool) -> Self {
        self.config.retry_deadlocks = Some(yes);
        self
    }

    /// Whether a call that a retry below has given up is tried again. Default: no, because the attempts of nested
    /// retries multiply.
    pub fn retry_exhausted(mut self, yes: bool) -> Self {
        self.config.retry_exhausted = yes;
        self
    }

    /// Is called before each wait. A panic in it changes nothing.
    ///
    /// ```
    /// use tower_bulwark::RetryPolicy;
    /// use tower_bulwark::retry::FailedAttempt;
    ///
    /// let policy = RetryPolicy::builder()
    ///     .on_retry(|failed: &FailedAttempt<'_>| {
    ///         println!("attempt {} failed ({:?}), next in {:?}", failed.attempt, failed.outcome, failed.delay);
    ///     })
    ///     .build()?;
    /// # Ok::<(), tower_bulwark::ConfigError>(())
    /// ```
    pub fn on_retry(
        mut self,
        callback: impl Fn(&FailedAttempt<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.callbacks.on_retry.push(Arc::new(callback));
        self
    }

    /// Says how long to wait from all that is known: the number of the attempt, what it ended with, and the wait that
    /// backoff, jitter and the service's own wish give, which it is free to return. At most `max_delay`, or the wait that
    /// was planned if that is longer; deadline and budget are asked about what it returns. Default: as planned. If it
    /// panics, the wait is as planned.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_bulwark::RetryPolicy;
    /// use tower_bulwark::retry::AttemptOutcome;
    ///
    /// let policy = RetryPolicy::builder()
    ///     .delay_with(|failed| match failed.outcome {
    ///         // Somebody else was quicker: come back soon, but not in step.
    ///         AttemptOutcome::Error(error) if error.to_string().contains("conflict") => failed.delay / 10,
    ///         _ => failed.delay,
    ///     })
    ///     .build()?;
    /// # Ok::<(), tower_bulwark::ConfigError>(())
    /// ```
    pub fn delay_with(
        mut self,
        rule: impl Fn(&FailedAttempt<'_>) -> Duration + Send + Sync + 'static,
    ) -> Self {
        self.callbacks.delay_with = Some(Arc::new(rule));
        self
    }

    /// Is awaited after the wait and before the next attempt, with the number of that: to fetch a new token, say. It is a
    /// part of that attempt: `attempt_timeout` and the deadline of the call bound it. A panic in it is the call's. Blocking
    /// retries do not call it.
    pub fn before_retry<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(u32) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.callbacks.before_retry = Some(Arc::new(move |attempt| Box::pin(hook(attempt))));
        self
    }

    /// Receives every event of this policy.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.callbacks.observers.push(Arc::new(observer));
        self
    }

    /// Makes the jitter repeatable. Default: random numbers of the system.
    pub fn seed(mut self, seed: u64) -> Self {
        self.callbacks.seed = Some(seed);
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
        self.callbacks.observers.extend(extra);
        Ok(RetryPolicy::from_parts(
            self.name,
            self.config,
            self.callbacks,
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
