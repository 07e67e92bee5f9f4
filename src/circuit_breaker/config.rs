use std::time::Duration;

use crate::error::ConfigError;

/// Over which calls a failure rate is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Window {
    /// The last so many calls, whenever they were. Memory: a quarter of a byte a call.
    LastCalls(usize),
    /// The calls of the last so long, in ten slices. Memory and cost do not depend on the traffic.
    LastTime(Duration),
}

impl Window {
    /// The last `n` calls.
    #[must_use]
    pub const fn calls(n: usize) -> Self {
        Self::LastCalls(n)
    }

    /// The calls of the last `length`.
    #[must_use]
    pub const fn time(length: Duration) -> Self {
        Self::LastTime(length)
    }
}

/// When calls count as slow, and how many slow ones are too many.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SlowCalls {
    /// The share of slow calls, in (0, 1], that opens the circuit.
    pub rate: f64,
    /// A call is slow from this long on, whether it has ended or not.
    pub threshold: Duration,
}

/// How long a circuit stays open before it is probed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Recovery {
    first: Duration,
    multiplier: f64,
    max: Duration,
    jitter: f64,
}

impl Recovery {
    /// Always `delay`.
    #[must_use]
    pub const fn fixed(delay: Duration) -> Self {
        Self {
            first: delay,
            multiplier: 1.0,
            max: delay,
            jitter: 0.0,
        }
    }

    /// `first`, then `multiplier` times longer each time the circuit opens again without having been
    /// closed in between, at most `max`.
    #[must_use]
    pub const fn exponential(first: Duration, multiplier: f64, max: Duration) -> Self {
        Self {
            first,
            multiplier,
            max,
            jitter: 0.0,
        }
    }

    /// Spreads the delay by up to this share of it, in \[0, 1\], up and down, within the cap: so that
    /// a fleet does not probe at the same moment.
    #[must_use]
    pub const fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// The delay of the opening number `reopened` (0 for the first), for `unit` in [0, 1).
    pub(crate) fn delay(&self, reopened: u32, unit: f64) -> Duration {
        let factor = self.multiplier.powf(f64::from(reopened));
        if self.jitter == 0.0 && factor == 1.0 {
            return self.first; // As it was given, to the nanosecond.
        }
        let max = self.max.as_secs_f64();
        let delay = (self.first.as_secs_f64() * factor).min(max);
        let low = delay * (1.0 - self.jitter);
        let high = (delay * (1.0 + self.jitter)).min(max);
        seconds(low + (high - low) * unit).min(self.max)
    }

    /// The longest the circuit can stay open.
    #[must_use]
    pub const fn longest(&self) -> Duration {
        self.max
    }

    pub(crate) fn is_random(&self) -> bool {
        self.jitter > 0.0
    }

    fn check(&self) -> Result<(), ConfigError> {
        let setting = "recovery";
        if self.first.is_zero() {
            let advice = "an open circuit must stay open for a while: give a duration above zero";
            return Err(ConfigError::new("recovery_timeout", self.first, advice));
        }
        if !(self.multiplier >= 1.0 && self.multiplier.is_finite()) {
            let advice = "the multiplier must be a number of at least 1";
            return Err(ConfigError::new(setting, self.multiplier, advice));
        }
        if self.max < self.first {
            let advice = "the longest delay must not be below the first";
            return Err(ConfigError::new(setting, self.max, advice));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            let advice = "jitter is a share of the delay: give a number from 0 to 1";
            return Err(ConfigError::new(setting, self.jitter, advice));
        }
        Ok(())
    }
}

/// A duration of `secs`, saturating: `secs` is never negative here.
fn seconds(secs: f64) -> Duration {
    Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX)
}

/// What a circuit breaker goes by. Made by its builder, and immutable.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CircuitBreakerConfig {
    /// So many failures in a row open the circuit.
    pub consecutive_failures: Option<u32>,
    /// This share of failures in the window opens it.
    pub failure_rate: Option<f64>,
    /// Too many slow calls in the window open it.
    pub slow_calls: Option<SlowCalls>,
    /// The window of both rates.
    pub window: Window,
    /// Below so many calls in the window no rate is looked at.
    pub minimum_calls: u32,
    /// How long the circuit stays open.
    pub recovery: Recovery,
    /// How many probes may be on their way at once.
    pub max_probes: u32,
    /// How many probes must succeed to close the circuit.
    pub success_threshold: u32,
    /// After this long the place of a probe may be given to another call.
    pub probe_timeout: Duration,
    /// How long after closing the traffic is let in gradually.
    pub ramp: Option<Duration>,
    /// A call that was dropped after it had run this long counts as a failure.
    pub cancelled_is_failure_after: Option<Duration>,
    /// Whether an overload counts as a failure in a row.
    pub overload_is_failure: bool,
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: Some(5),
            failure_rate: None,
            slow_calls: None,
            window: Window::LastCalls(100),
            minimum_calls: 20,
            recovery: Recovery::fixed(Duration::from_secs(60)),
            max_probes: 1,
            success_threshold: 2,
            probe_timeout: Duration::from_secs(30),
            ramp: None,
            cancelled_is_failure_after: None,
            overload_is_failure: false,
        }
    }
}

impl CircuitBreakerConfig {
    /// The share of traffic that is let in right after closing, when there is a ramp.
    pub(crate) const RAMP_START: f64 = 0.1;

    pub(crate) fn uses_rates(&self) -> bool {
        self.failure_rate.is_some() || self.slow_calls.is_some()
    }

    /// Whether it matters when a call started.
    pub(crate) fn times_calls(&self) -> bool {
        self.slow_calls.is_some() || self.cancelled_is_failure_after.is_some()
    }

    pub(crate) fn is_random(&self) -> bool {
        self.ramp.is_some() || self.recovery.is_random()
    }

    /// Finds what cannot work.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.check_tripping()?;
        self.recovery.check()?;
        for (setting, value) in [
            ("max_probes", self.max_probes),
            ("success_threshold", self.success_threshold),
        ] {
            if value == 0 {
                let advice = "the circuit could never close again: give at least 1";
                return Err(ConfigError::new(setting, value, advice));
            }
        }
        if self.max_probes > 10_000 {
            let advice = "probes are few by nature: give at most 10000";
            return Err(ConfigError::new("max_probes", self.max_probes, advice));
        }
        if self.probe_timeout.is_zero() {
            let advice =
                "every probe would be lost at once: give the longest time a healthy call takes";
            return Err(ConfigError::new(
                "probe_timeout",
                self.probe_timeout,
                advice,
            ));
        }
        if self.ramp.is_some_and(|ramp| ramp.is_zero()) {
            let advice = "leave it out to let all traffic in at once";
            return Err(ConfigError::new("ramp", self.ramp, advice));
        }
        if self.cancelled_is_failure_after.is_some_and(|d| d.is_zero()) {
            let advice =
                "every cancelled call would count as a failure: give a duration above zero";
            let given = self.cancelled_is_failure_after;
            return Err(ConfigError::new(
                "cancelled_is_failure_after",
                given,
                advice,
            ));
        }
        Ok(())
    }

    fn check_tripping(&self) -> Result<(), ConfigError> {
        if self.consecutive_failures == Some(0) {
            let advice = "the circuit would open without a failure: give at least 1";
            return Err(ConfigError::new("consecutive_failures", 0, advice));
        }
        let rates = [
            ("failure_rate", self.failure_rate),
            ("slow_call_rate", self.slow_calls.map(|slow| slow.rate)),
        ];
        for (setting, rate) in rates {
            if let Some(rate) = rate
                && !(rate > 0.0 && rate <= 1.0)
            {
                let advice = "a rate is a share of the calls: give a number above 0 and up to 1, such as 0.5 for half of them";
                return Err(ConfigError::new(setting, rate, advice));
            }
        }
        if self.slow_calls.is_some_and(|slow| slow.threshold.is_zero()) {
            let advice = "every call would be slow: give a duration above zero";
            return Err(ConfigError::new("slow_call_rate", Duration::ZERO, advice));
        }
        if self.uses_rates() {
            self.check_window()?;
        }
        Ok(())
    }

    fn check_window(&self) -> Result<(), ConfigError> {
        if self.minimum_calls == 0 {
            let advice = "one failure would be a rate of 100 %: give at least 1, better 10";
            return Err(ConfigError::new("minimum_calls", 0, advice));
        }
        match self.window {
            Window::LastCalls(size) if size == 0 || size > 1_000_000 => {
                let advice = "give a number of calls from 1 to 1000000";
                Err(ConfigError::new("window", self.window, advice))
            }
            Window::LastCalls(size) if self.minimum_calls as usize > size => {
                let advice = "the window never holds so many calls, so the circuit could never open: give at most the size of the window";
                Err(ConfigError::new(
                    "minimum_calls",
                    self.minimum_calls,
                    advice,
                ))
            }
            Window::LastTime(length)
                if length < Duration::from_millis(10) || length > Duration::from_secs(86_400) =>
            {
                let advice = "give a length from 10 milliseconds to a day";
                Err(ConfigError::new("window", self.window, advice))
            }
            Window::LastCalls(_) | Window::LastTime(_) => Ok(()),
        }
    }
}
