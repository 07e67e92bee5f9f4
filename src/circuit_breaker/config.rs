use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{ConfigChange, ConfigError, config_change};

/// Over which calls a failure rate is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Window {
    /// The last so many calls, whenever they were. Memory: a quarter of a byte a call.
    #[cfg_attr(feature = "serde", serde(rename = "calls"))]
    LastCalls(usize),
    /// The calls of the last so long, in ten slices. Memory and cost do not depend on the traffic.
    #[cfg_attr(feature = "serde", serde(rename = "time"))]
    LastTime(
        #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
        #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
        Duration,
    ),
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
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SlowCalls {
    /// The share of slow calls, in (0, 1], that opens the circuit.
    pub rate: f64,
    /// A call is slow from this long on, whether it has ended or not.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub threshold: Duration,
}

/// What is known of the recent calls; see `trip_when` on the builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowCounts {
    /// Calls in the window that have ended.
    pub calls: u64,
    /// Of those, the ones that failed.
    pub failures: u64,
    /// Of those, the ones that were slow.
    pub slow: u64,
    /// Calls that still run past the slow threshold.
    pub overdue: u64,
    /// Failures one after the other, up to now.
    pub consecutive_failures: u32,
}

/// How long a circuit stays open before it is probed.
#[derive(Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(from = "written::Recovery", into = "written::Recovery")
)]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "config", schemars(with = "written::Recovery"))]
pub struct Recovery {
    first: Duration,
    multiplier: f64,
    max: Duration,
    jitter: f64,
    custom: Option<OpenTime>,
}

type OpenTime = Arc<dyn Fn(&Opening) -> Duration + Send + Sync>;

/// What is known when a circuit opens; see [`Recovery::custom`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opening {
    /// How often it has opened before without having stayed closed for as long as it had been open; 0 for the first
    /// time.
    pub reopened: u32,
    /// How many failures opened it: consecutive ones, those in the window, or probes.
    pub failures: u64,
    /// How many calls are in the window; 0 without a window.
    pub calls: u64,
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery")
            .field("first", &self.first)
            .field("multiplier", &self.multiplier)
            .field("max", &self.max)
            .field("jitter", &self.jitter)
            .field("custom", &self.custom.is_some())
            .finish()
    }
}

impl PartialEq for Recovery {
    fn eq(&self, other: &Self) -> bool {
        let same_custom = match (&self.custom, &other.custom) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, Some(_)) | (Some(_), None) => false,
        };
        let plain = |it: &Self| (it.first, it.multiplier, it.max, it.jitter);
        same_custom && plain(self) == plain(other)
    }
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
            custom: None,
        }
    }

    /// `first`, then `multiplier` times longer each time the circuit opens again, at most `max`. It starts again with
    /// `first` once the circuit has stayed closed for as long as it last was open, so a service that fails whenever
    /// it is used again rests longer each time.
    #[must_use]
    pub const fn exponential(first: Duration, multiplier: f64, max: Duration) -> Self {
        Self {
            first,
            multiplier,
            max,
            jitter: 0.0,
            custom: None,
        }
    }

    /// As long as `open_time` says, at most `max`: from the number of failures, from their rate, from how often it
    /// has opened already.
    ///
    /// `open_time` is called under the lock of the breaker: it should compute a number and nothing else, and must
    /// not ask the breaker. If it panics, the circuit opens for `max`.
    #[must_use]
    pub fn custom(
        max: Duration,
        open_time: impl Fn(&Opening) -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self {
            custom: Some(Arc::new(open_time)),
            ..Self::fixed(max)
        }
    }

    /// Spreads the delay by up to this share of it, in \[0, 1\], up and down, within the cap: so that
    /// a fleet does not probe at the same moment.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// How long the circuit stays open, for `unit` in [0, 1).
    pub(crate) fn delay(&self, opening: &Opening, unit: f64) -> Duration {
        if let Some(custom) = &self.custom {
            let delay = catch_unwind(AssertUnwindSafe(|| custom(opening)));
            return self.spread(delay.unwrap_or(self.max).min(self.max), unit);
        }
        let reopened = opening.reopened;
        let factor = self.multiplier.powf(f64::from(reopened));
        if self.jitter == 0.0 && factor == 1.0 {
            return self.first; // As it was given, to the nanosecond.
        }
        self.spread(seconds(self.first.as_secs_f64() * factor), unit)
    }

    fn spread(&self, delay: Duration, unit: f64) -> Duration {
        if self.jitter == 0.0 {
            return delay.min(self.max);
        }
        let max = self.max.as_secs_f64();
        let delay = delay.as_secs_f64().min(max);
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
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct CircuitBreakerConfig {
    /// So many consecutive failures open the circuit.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<u32>")
    )]
    pub consecutive_failures: Option<u32>,
    /// This share of failures in the window opens it.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<f64>")
    )]
    pub failure_rate: Option<f64>,
    /// So many failures in the window open it, however few calls there were.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<u32>")
    )]
    pub failure_count: Option<u32>,
    /// Too many slow calls in the window open it.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<SlowCalls>")
    )]
    pub slow_calls: Option<SlowCalls>,
    /// The window of the rates and of the count.
    pub window: Window,
    /// Below so many calls in the window no rate is looked at.
    pub minimum_calls: u32,
    /// How long the circuit stays open.
    pub recovery: Recovery,
    /// How many probes may be on their way at once.
    pub max_probes: u32,
    /// How many probes must succeed to close the circuit.
    pub success_threshold: u32,
    /// Out of how many; `None` is out of as many, so that one failed probe opens it again.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<u32>")
    )]
    pub success_out_of: Option<u32>,
    /// A probe that has not ended after this long has failed.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub probe_timeout: Duration,
    /// How long after closing the traffic is let in gradually.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub ramp: Option<Duration>,
    /// A call that was dropped after it had run this long counts as a failure.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane::option"))]
    #[cfg_attr(
        feature = "config",
        schemars(with = "crate::util::humane::OrNone<crate::util::humane::Humane>")
    )]
    pub cancelled_is_failure_after: Option<Duration>,
    /// Whether an overload counts as a consecutive failure.
    pub overload_is_failure: bool,
    /// The longest time that the failure which opens the circuit may ask it to stay open.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
    pub max_retry_after: Duration,
    /// There is a rule of the user's own, which looks at the window.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) has_rule: bool,
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: Some(5),
            failure_rate: None,
            failure_count: None,
            slow_calls: None,
            window: Window::LastCalls(100),
            minimum_calls: 20,
            recovery: Recovery::fixed(Duration::from_secs(60)),
            max_probes: 1,
            success_threshold: 2,
            success_out_of: None,
            probe_timeout: Duration::from_secs(30),
            ramp: None,
            cancelled_is_failure_after: None,
            overload_is_failure: false,
            max_retry_after: Duration::from_secs(300),
            has_rule: false,
        }
    }
}

impl CircuitBreakerConfig {
    /// The share of traffic that is let in right after closing, when there is a ramp.
    pub(crate) const RAMP_START: f64 = 0.1;

    pub(crate) fn uses_rates(&self) -> bool {
        self.failure_rate.is_some() || self.slow_calls.is_some()
    }

    pub(crate) fn uses_window(&self) -> bool {
        self.uses_rates() || self.failure_count.is_some() || self.has_rule
    }

    /// How many probes may fail without opening the circuit again.
    pub(crate) fn probes_that_may_fail(&self) -> u32 {
        let out_of = self.success_out_of.unwrap_or(self.success_threshold);
        out_of.saturating_sub(self.success_threshold)
    }

    /// Whether it matters when a call started.
    pub(crate) fn times_calls(&self) -> bool {
        self.slow_calls.is_some() || self.cancelled_is_failure_after.is_some()
    }

    pub(crate) fn is_random(&self) -> bool {
        self.ramp.is_some() || self.recovery.is_random()
    }

    /// What differs in `new`.
    pub(crate) fn difference(&self, new: &Self) -> ConfigChange {
        config_change!(
            self,
            new,
            consecutive_failures,
            failure_rate,
            failure_count,
            slow_calls,
            window,
            minimum_calls,
            recovery,
            max_probes,
            success_threshold,
            success_out_of,
            probe_timeout,
            ramp,
            cancelled_is_failure_after,
            overload_is_failure,
            max_retry_after,
        )
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
        if let Some(out_of) = self.success_out_of
            && out_of < self.success_threshold
        {
            let advice = "so many probes could never succeed: give at least `success_threshold`";
            return Err(ConfigError::new("success_out_of", out_of, advice));
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
        if self.consecutive_failures.is_none() && !self.uses_window() {
            let advice = "nothing could ever open the circuit: give a number, or a rate";
            return Err(ConfigError::new("consecutive_failures", "None", advice));
        }
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
        if self.failure_count == Some(0) {
            let advice = "the circuit would open without a failure: give at least 1";
            return Err(ConfigError::new("failure_count", 0, advice));
        }
        if self.uses_window() {
            self.check_window()?;
        }
        Ok(())
    }

    fn check_window(&self) -> Result<(), ConfigError> {
        if self.uses_rates() && self.minimum_calls == 0 {
            let advice = "one failure would be a rate of 100 %: give at least 1, better 10";
            return Err(ConfigError::new("minimum_calls", 0, advice));
        }
        match self.window {
            Window::LastCalls(size) if size == 0 || size > 1_000_000 => {
                let advice = "give a number of calls from 1 to 1000000";
                Err(ConfigError::new("window", self.window, advice))
            }
            Window::LastCalls(size) if self.failure_count.is_some_and(|n| n as usize > size) => {
                let advice = "the window never holds so many calls, so the circuit could never open: give at most the size of the window";
                Err(ConfigError::new(
                    "failure_count",
                    self.failure_count,
                    advice,
                ))
            }
            Window::LastCalls(size) if self.uses_rates() && self.minimum_calls as usize > size => {
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

/// How a recovery is written in data.
#[cfg(feature = "serde")]
mod written {
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use crate::util::humane::{self, Humane};

    /// Either the time that the circuit stays open each time, or how that grows.
    #[derive(Clone, Debug, Serialize)]
    #[serde(untagged)]
    #[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
    pub(super) enum Recovery {
        Fixed(Humane),
        Growing(Growing),
    }

    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
    pub(super) struct Growing {
        /// How long the circuit stays open the first time.
        #[serde(with = "humane")]
        #[cfg_attr(feature = "config", schemars(with = "Humane"))]
        first: Duration,
        /// How many times longer it stays open each time it opens again. Default: 1.
        #[serde(default = "one")]
        multiplier: f64,
        /// The longest it stays open. Default: `first`.
        #[serde(default, with = "humane::option")]
        #[cfg_attr(feature = "config", schemars(with = "Option<Humane>"))]
        max: Option<Duration>,
        /// By how much that is spread, as a share of it, from 0 to 1. Default: 0.
        #[serde(default)]
        jitter: f64,
    }

    fn one() -> f64 {
        1.0
    }

    impl<'de> Deserialize<'de> for Recovery {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            humane::text_or_table(from, Self::Fixed, Self::Growing)
        }
    }

    impl From<super::Recovery> for Recovery {
        fn from(it: super::Recovery) -> Self {
            match (it.multiplier == 1.0, it.jitter == 0.0, it.first == it.max) {
                (true, true, true) => Self::Fixed(Humane(it.first)),
                _ => Self::Growing(Growing {
                    first: it.first,
                    multiplier: it.multiplier,
                    max: Some(it.max),
                    jitter: it.jitter,
                }),
            }
        }
    }

    impl From<Recovery> for super::Recovery {
        fn from(it: Recovery) -> Self {
            match it {
                Recovery::Fixed(Humane(delay)) => Self::fixed(delay),
                Recovery::Growing(it) => {
                    let max = it.max.unwrap_or(it.first);
                    Self::exponential(it.first, it.multiplier, max).jitter(it.jitter)
                }
            }
        }
    }

    humane::written_as_it_is!(super::SlowCalls);
}
