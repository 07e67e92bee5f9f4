use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::CircuitState;
use super::config::{CircuitBreakerConfig, Recovery, SlowCalls, Window, WindowCounts};
use super::handle::CircuitBreaker;
use super::shared::Callbacks;
use crate::error::{CircuitOpen, ConfigError};
use crate::event::CircuitBreakerEvent;
use crate::event::{Event, Observer};

/// Sets up a [`CircuitBreaker`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct CircuitBreakerBuilder {
    name: Arc<str>,
    policy: CircuitBreakerConfig,
    /// Whether `window` was asked for.
    window: bool,
    /// `minimum_calls`, if it was asked for.
    minimum_calls: Option<u32>,
    /// It was asked for by itself, and not with a whole config, of which no one setting says what the others are for.
    only_minimum_calls: bool,
    callbacks: Callbacks,
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
            window: false,
            minimum_calls: None,
            only_minimum_calls: false,
            callbacks: Callbacks::default(),
        }
    }

    /// Starts with a config: one that was read from a file, or that another breaker has.
    pub fn config(mut self, config: CircuitBreakerConfig) -> Self {
        self.minimum_calls = Some(config.minimum_calls);
        self.policy = config;
        self
    }

    /// Opens after `n` consecutive failures; with `None` their number opens nothing. Default: 5, also beside a rate.
    ///
    /// It is the surest sign of an outage and the cheapest to watch. It does not see a service that fails four times
    /// in five: take [`failure_rate`](Self::failure_rate) for that.
    pub fn consecutive_failures(mut self, n: impl Into<Option<u32>>) -> Self {
        self.policy.consecutive_failures = n.into();
        self
    }

    /// Opens when this share of the calls in `window`, in (0, 1], failed. Not looked at below
    /// [`minimum_calls`](Self::minimum_calls). Default: off.
    ///
    /// A breaker has one window: the rates and [`failure_count`](Self::failure_count) share it.
    pub fn failure_rate(mut self, rate: f64, window: Window) -> Self {
        self.policy.failure_rate = Some(rate);
        self.policy.window = window;
        self
    }

    /// Opens when `n` of the calls in `window` failed, however few calls there were: `failure_count(5,
    /// Window::calls(10))` is five failures of the last ten calls, `failure_count(5, Window::time(minute))` five within
    /// a minute. [`minimum_calls`](Self::minimum_calls) does not matter to it. Default: off.
    pub fn failure_count(mut self, n: u32, window: Window) -> Self {
        self.policy.failure_count = Some(n);
        self.policy.window = window;
        self
    }

    /// Opens when `rule` says so. It is asked after each failure, overload and slow call of a closed circuit, on the
    /// task that made the call, with no lock held; if it panics, the answer is no. Default: none.
    pub fn trip_when(
        mut self,
        window: Window,
        rule: impl Fn(&WindowCounts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.policy.window = window;
        self.policy.has_rule = true;
        self.callbacks.trip_when = Some(Arc::new(rule));
        self
    }

    /// Opens when this share of the calls in the window, in (0, 1], took `threshold` or longer. A call
    /// that still runs counts from that moment on (at most an eighth of the threshold later) for as long as it hangs,
    /// so a service that hangs opens the circuit before a single call returns. Time in waits of this crate, such as the
    /// queue of a lock below, does not count. Default: off.
    ///
    /// The window is that of [`failure_rate`](Self::failure_rate), or else the last 100 calls; see
    /// [`window`](Self::window).
    pub fn slow_call_rate(mut self, rate: f64, threshold: Duration) -> Self {
        self.policy.slow_calls = Some(SlowCalls { rate, threshold });
        self
    }

    /// The window of the rates. Default: the last 100 calls.
    pub fn window(mut self, window: Window) -> Self {
        self.policy.window = window;
        self.window = true;
        self
    }

    /// Below so many calls in the window no rate is looked at. Default: 20, or the size of a smaller
    /// window: one failure in two calls is no reason to cut a service off.
    pub fn minimum_calls(mut self, n: u32) -> Self {
        self.minimum_calls = Some(n);
        self.only_minimum_calls = true;
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

    /// How many probes must succeed to close the circuit. Default: 2, because one good answer may be luck.
    ///
    /// One that fails opens the circuit again, unless [`out_of`](Self::out_of) says otherwise. With slow calls
    /// watched, a success that took longer than the threshold is a probe that failed.
    pub fn success_threshold(mut self, n: u32) -> Self {
        self.policy.success_threshold = n;
        self
    }

    /// Of so many probes [`success_threshold`](Self::success_threshold) must succeed: `success_threshold(2).out_of(3)`
    /// closes the circuit after two good probes and opens it again after two bad ones. Default: of as many, so one
    /// bad probe opens it.
    pub fn out_of(mut self, n: u32) -> Self {
        self.policy.success_out_of = Some(n);
        self
    }

    /// A probe that has not ended after this long has failed, so a probe that hangs never wedges the breaker. Default:
    /// 30 s. Time in waits of this crate does not count, up to as much again.
    pub fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.policy.probe_timeout = timeout;
        self
    }

    /// The longest time that the failure which opens the circuit may ask it to stay open, by a `Retry-After`, say; the
    /// longer of that and the time of the config counts. Default: 5 minutes. Zero: what services ask for is not
    /// looked at.
    pub fn max_retry_after(mut self, longest: Duration) -> Self {
        self.policy.max_retry_after = longest;
        self
    }

    /// Lets traffic back in gradually after the circuit has closed: a tenth of the calls at first, all
    /// of them after `length`. Default: all at once.
    pub fn ramp(mut self, length: Duration) -> Self {
        self.policy.ramp = Some(length);
        self
    }

    /// A call that is dropped after it was at the service for this long counts as a failure. Default: dropped calls say
    /// nothing. Set it to the timeout of your callers, where they put one *around* the breaker: else a
    /// service that hangs is never seen to fail.
    pub fn cancelled_is_failure_after(mut self, limit: Duration) -> Self {
        self.policy.cancelled_is_failure_after = Some(limit);
        self
    }

    /// Whether an [overload](crate::Outcome::Overload) (a `429`, say) counts as a consecutive failure, and fails
    /// a probe. Default: `false`: a service that says "slow down" answers, and cutting it off is no way to
    /// slow down. To a [`failure_rate`](Self::failure_rate) it is a failure either way.
    pub fn overload_is_failure(mut self, counts: bool) -> Self {
        self.policy.overload_is_failure = counts;
        self
    }

    /// Receives every event of this breaker.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.callbacks.observers.push(Arc::new(observer));
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
        self.callbacks.on_rejected.push(Arc::new(callback));
        self
    }

    /// Makes jitter and ramp repeatable. Default: random numbers of the system.
    pub fn seed(mut self, seed: u64) -> Self {
        self.callbacks.seed = Some(seed);
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
        let mut callbacks = self.callbacks;
        callbacks.observers.extend(extra);
        Ok(CircuitBreaker::from_parts(self.name, policy, callbacks))
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
        let advice = "no rate is watched, so it has no effect: set `failure_rate`, `failure_count` or `slow_call_rate`, or leave it out";
        if self.window && !policy.uses_window() {
            return Err(ConfigError::new("window", policy.window, advice));
        }
        let asked_for = self.minimum_calls.filter(|_| self.only_minimum_calls);
        if asked_for.is_some_and(|n| n != CircuitBreakerConfig::default().minimum_calls)
            && !policy.uses_rates()
        {
            return Err(ConfigError::new(
                "minimum_calls",
                policy.minimum_calls,
                advice,
            ));
        }
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
