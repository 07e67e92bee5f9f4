use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::CircuitState;
use super::config::{CircuitBreakerConfig, Recovery, SlowCalls, Window};
use super::handle::CircuitBreaker;
use super::shared::OnRejected;
use crate::error::{CircuitOpen, ConfigError};
use crate::event::CircuitBreakerEvent;
use crate::event::{Event, Observer};

/// Sets up a [`CircuitBreaker`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct CircuitBreakerBuilder {
    name: Arc<str>,
    policy: CircuitBreakerConfig,
    /// Whether `consecutive_failures` was asked for, or is only there by default.
    counts_a_row: bool,
    /// `minimum_calls`, if it was asked for.
    minimum_calls: Option<u32>,
    observers: Vec<Arc<dyn Observer>>,
    on_rejected: Vec<OnRejected>,
    seed: Option<u64>,
}

impl CircuitBreaker {
    /// Starts with the default policy; see [`CircuitBreakerBuilder`].
    pub fn builder(name: impl Into<Arc<str>>) -> CircuitBreakerBuilder {
        CircuitBreakerBuilder::new(name.into())
    }
}

impl CircuitBreakerBuilder {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            policy: CircuitBreakerConfig::default(),
            counts_a_row: false,
            minimum_calls: None,
            observers: Vec::new(),
            on_rejected: Vec::new(),
            seed: None,
        }
    }

    /// Opens after `n` failures in a row. Default: 5, unless a rate is set; with both, whichever comes
    /// first.
    ///
    /// A row is the surest sign of an outage and the cheapest to watch. It does not see a service that
    /// fails four times in five: take [`failure_rate`](Self::failure_rate) for that.
    pub fn consecutive_failures(mut self, n: u32) -> Self {
        self.policy.consecutive_failures = Some(n);
        self.counts_a_row = true;
        self
    }

    /// Opens when this share of the calls in `window`, in (0, 1], failed. Not looked at below
    /// [`minimum_calls`](Self::minimum_calls).
    ///
    /// Replaces the default of 5 failures in a row; call
    /// [`consecutive_failures`](Self::consecutive_failures) too to have both.
    pub fn failure_rate(mut self, rate: f64, window: Window) -> Self {
        self.policy.failure_rate = Some(rate);
        self.policy.window = window;
        self.only_what_was_asked_for()
    }

    /// Opens when this share of the calls in the window, in (0, 1], took `threshold` or longer. A call
    /// that still runs counts from that moment on (at most an eighth of the threshold later), so a
    /// service that hangs opens the circuit before a single call returns.
    ///
    /// The window is that of [`failure_rate`](Self::failure_rate), or else the last 100 calls; see
    /// [`window`](Self::window).
    pub fn slow_call_rate(mut self, rate: f64, threshold: Duration) -> Self {
        self.policy.slow_calls = Some(SlowCalls { rate, threshold });
        self.only_what_was_asked_for()
    }

    fn only_what_was_asked_for(mut self) -> Self {
        if !self.counts_a_row {
            self.policy.consecutive_failures = None;
        }
        self
    }

    /// The window of the rates. Default: the last 100 calls.
    pub fn window(mut self, window: Window) -> Self {
        self.policy.window = window;
        self
    }

    /// Below so many calls in the window no rate is looked at. Default: 20, or the size of a smaller
    /// window: one failure in two calls is no reason to cut a service off.
    pub fn minimum_calls(mut self, n: u32) -> Self {
        self.minimum_calls = Some(n);
        self
    }

    /// How long the circuit stays open before it is probed. Default: 60 s, always.
    pub fn recovery_timeout(mut self, delay: Duration) -> Self {
        self.policy.recovery = Recovery::fixed(delay);
        self
    }

    /// How long the circuit stays open, when that grows from opening to opening or is spread by jitter.
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.policy.recovery = recovery;
        self
    }

    /// How many probes may be on their way at once while the circuit is half-open. Default: 1, so that
    /// a service that is just getting up is not run down again.
    pub fn max_probes(mut self, n: u32) -> Self {
        self.policy.max_probes = n;
        self
    }

    /// How many probes must succeed to close the circuit; one that fails opens it again. Default: 2,
    /// because one good answer may be luck.
    pub fn success_threshold(mut self, n: u32) -> Self {
        self.policy.success_threshold = n;
        self
    }

    /// After how long the place of a probe may be given to another call. Default: 30 s. A probe that
    /// hangs therefore never wedges the breaker; what it finds out in the end still counts.
    pub fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.policy.probe_timeout = timeout;
        self
    }

    /// Lets traffic back in gradually after the circuit has closed: a tenth of the calls at first, all
    /// of them after `length`. Default: all at once.
    pub fn ramp(mut self, length: Duration) -> Self {
        self.policy.ramp = Some(length);
        self
    }

    /// A call that is dropped after it has run this long counts as a failure. Default: dropped calls say
    /// nothing. Set it to the timeout of your callers, where they put one *around* the breaker: else a
    /// service that hangs is never seen to fail.
    pub fn cancelled_is_failure_after(mut self, limit: Duration) -> Self {
        self.policy.cancelled_is_failure_after = Some(limit);
        self
    }

    /// Whether an [overload](crate::Outcome::Overload) (a `429`, say) counts as a failure in a row, and fails
    /// a probe. Default: `false`: a service that says "slow down" answers, and cutting it off is no way to
    /// slow down. To a [`failure_rate`](Self::failure_rate) it is a failure either way.
    pub fn overload_is_failure(mut self, counts: bool) -> Self {
        self.policy.overload_is_failure = counts;
        self
    }

    /// Is told of every event of this breaker.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Is called with the states before and after each change.
    pub fn on_state_change(
        self,
        callback: impl Fn(CircuitState, CircuitState) + Send + Sync + 'static,
    ) -> Self {
        self.observer(move |_: &str, event: &Event| {
            if let Event::CircuitBreaker(CircuitBreakerEvent::StateChanged { from, to, .. }) = event
            {
                callback(*from, *to);
            }
        })
    }

    /// Is called with each rejection.
    pub fn on_rejected(mut self, callback: impl Fn(&CircuitOpen) + Send + Sync + 'static) -> Self {
        self.on_rejected.push(Arc::new(callback));
        self
    }

    /// Makes jitter and ramp repeatable. Default: random numbers of the system.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the breaker.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a setting that cannot work: it names the setting and says what to change.
    pub fn build(self) -> Result<CircuitBreaker, ConfigError> {
        self.build_with(None)
    }

    pub(crate) fn build_with(
        self,
        extra: Option<Arc<dyn Observer>>,
    ) -> Result<CircuitBreaker, ConfigError> {
        let policy = self.checked_config()?;
        let mut observers = self.observers;
        observers.extend(extra);
        Ok(CircuitBreaker::from_parts(
            self.name,
            policy,
            observers,
            self.on_rejected,
            self.seed,
        ))
    }

    pub(crate) fn name_ref(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn checked_config(&self) -> Result<CircuitBreakerConfig, ConfigError> {
        let mut policy = self.policy.clone();
        policy.minimum_calls = match (self.minimum_calls, policy.window) {
            (Some(asked_for), _) => asked_for,
            (None, Window::LastCalls(size)) => {
                let size = u32::try_from(size).unwrap_or(u32::MAX);
                policy.minimum_calls.min(size).max(1)
            }
            (None, Window::LastTime(_)) => policy.minimum_calls,
        };
        policy.check()?;
        Ok(policy)
    }
}

impl fmt::Debug for CircuitBreakerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerBuilder")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
