//! How long to wait before a retry: pure, from a number of the retry and a number in [0, 1).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::ConfigError;

/// How the waits between attempts grow.
///
/// The argument of all of them is the number of the retry, 0 for the first. No number is too large: what
/// does not fit a `Duration` saturates, and `max_delay` bounds it.
#[derive(Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(rename_all = "snake_case", deny_unknown_fields)
)]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum Backoff {
    /// `base * multiplier^n`.
    #[non_exhaustive]
    Exponential {
        /// The first wait.
        #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
        #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
        base: Duration,
        /// How many times longer each wait is than the one before.
        multiplier: f64,
    },
    /// `base * (n + 1)`.
    #[non_exhaustive]
    Linear {
        /// The first wait, and by how much each is longer than the one before.
        #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
        #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
        base: Duration,
    },
    /// Always the same.
    #[non_exhaustive]
    Fixed {
        /// Each wait.
        #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
        #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
        delay: Duration,
    },
    /// A function of `n`. It is called where an attempt failed, and should not block.
    #[non_exhaustive]
    #[cfg_attr(feature = "serde", serde(skip_deserializing))]
    #[cfg_attr(feature = "config", schemars(skip))]
    Custom {
        /// The function.
        #[cfg_attr(feature = "serde", serde(skip_serializing))]
        delay: Arc<dyn Fn(u32) -> Duration + Send + Sync>,
    },
}

impl Backoff {
    /// `base`, then `multiplier` times longer each time.
    #[must_use]
    pub const fn exponential(base: Duration, multiplier: f64) -> Self {
        Self::Exponential { base, multiplier }
    }

    /// `base`, twice `base`, three times `base`, ...
    #[must_use]
    pub const fn linear(base: Duration) -> Self {
        Self::Linear { base }
    }

    /// Always `delay`.
    #[must_use]
    pub const fn fixed(delay: Duration) -> Self {
        Self::Fixed { delay }
    }

    /// What a function says: its argument is the number of the retry, 0 for the first.
    #[must_use]
    pub fn custom(delay: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        Self::Custom {
            delay: Arc::new(delay),
        }
    }

    /// The wait before retry `n`, without cap and jitter.
    pub(crate) fn raw(&self, n: u32) -> Duration {
        match self {
            Self::Exponential { base, multiplier } => scaled(*base, multiplier.powf(f64::from(n))),
            Self::Linear { base } => base.saturating_mul(n.saturating_add(1)),
            Self::Fixed { delay } => *delay,
            Self::Custom { delay } => delay(n),
        }
    }

    /// Whether each wait is at least as long as the one before.
    pub(crate) fn never_shrinks(&self) -> bool {
        match self {
            Self::Exponential { multiplier, .. } => *multiplier >= 1.0,
            Self::Linear { .. } | Self::Fixed { .. } => true,
            Self::Custom { .. } => false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::Exponential { multiplier, .. }
                if !(*multiplier > 0.0 && multiplier.is_finite()) =>
            {
                let advice = "the multiplier of an exponential backoff must be a number above 0, such as 2.0";
                Err(ConfigError::new("backoff", multiplier, advice))
            }
            Self::Exponential { .. }
            | Self::Linear { .. }
            | Self::Fixed { .. }
            | Self::Custom { .. } => Ok(()),
        }
    }
}

/// `duration * factor`, at most `Duration::MAX`. The factor is at least 0, or infinite.
fn scaled(duration: Duration, factor: f64) -> Duration {
    if duration.is_zero() {
        return Duration::ZERO; // Zero times infinity is nothing, not a NaN.
    }
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

impl PartialEq for Backoff {
    /// Two custom backoffs are equal if they are clones of the same one.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Exponential { base, multiplier },
                Self::Exponential {
                    base: b,
                    multiplier: m,
                },
            ) => base == b && multiplier == m,
            (Self::Linear { base }, Self::Linear { base: b }) => base == b,
            (Self::Fixed { delay }, Self::Fixed { delay: d }) => delay == d,
            (Self::Custom { delay }, Self::Custom { delay: d }) => Arc::ptr_eq(delay, d),
            _ => false,
        }
    }
}

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exponential { base, multiplier } => {
                write!(f, "exponential({base:?}, {multiplier})")
            }
            Self::Linear { base } => write!(f, "linear({base:?})"),
            Self::Fixed { delay } => write!(f, "fixed({delay:?})"),
            Self::Custom { .. } => f.write_str("custom"),
        }
    }
}

/// How the waits are spread, so that callers that failed together do not come back together.
///
/// The wait is cut to `max_delay` *first* and spread *within* it: at the cap, where all callers are in
/// step, there is as much spread as anywhere else. Names and formulas of full, equal and decorrelated
/// jitter are those of Marc Brooker's article "Exponential Backoff And Jitter" (AWS, 2015).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Jitter {
    /// No spread: for tests, and for a single caller.
    None,
    /// Up to this share of the wait, in \[0, 1\], up or down.
    Proportional(f64),
    /// Anything from nothing to the whole wait. Spreads best; the choice where many callers share a
    /// service.
    Full,
    /// Half of the wait, and anything up to the other half.
    Equal,
    /// Anything from the base to three times the wait before, cut to the cap as published: late waits are
    /// often the cap itself. Grows by itself; the backoff gives only its first wait.
    Decorrelated,
}

impl Jitter {
    /// The wait before retry `n`: `previous` was the one before, `unit` is a random number in [0, 1).
    pub(crate) fn delay(
        self,
        backoff: &Backoff,
        n: u32,
        max: Duration,
        previous: Option<Duration>,
        unit: f64,
    ) -> Duration {
        let within = |low: Duration, high: Duration| {
            // `high` is at most `max`, so the product fits; the minimum keeps rounding inside.
            (low + high.saturating_sub(low).mul_f64(unit)).min(max)
        };
        match self {
            Self::Decorrelated => {
                // As published: drawn first, then cut. What is above the cap is at the cap.
                let base = backoff.raw(0);
                let high = previous.unwrap_or(base).saturating_mul(3);
                let drawn = scaled(high.saturating_sub(base), unit);
                base.saturating_add(drawn).min(max)
            }
            Self::None => backoff.raw(n).min(max),
            Self::Proportional(share) => {
                let delay = backoff.raw(n).min(max);
                within(
                    scaled(delay, 1.0 - share),
                    scaled(delay, 1.0 + share).min(max),
                )
            }
            Self::Full => within(Duration::ZERO, backoff.raw(n).min(max)),
            Self::Equal => {
                let delay = backoff.raw(n).min(max);
                within(delay / 2, delay)
            }
        }
    }

    /// The longest wait before retry `n`.
    pub(crate) fn longest(self, backoff: &Backoff, n: u32, max: Duration) -> Duration {
        match self {
            Self::Decorrelated => {
                let grown = scaled(backoff.raw(0), 3.0_f64.powf(f64::from(n) + 1.0));
                grown.min(max)
            }
            Self::Proportional(share) => scaled(backoff.raw(n).min(max), 1.0 + share).min(max),
            Self::None | Self::Full | Self::Equal => backoff.raw(n).min(max),
        }
    }

    pub(crate) fn check(self) -> Result<(), ConfigError> {
        match self {
            Self::Proportional(share) if !(0.0..=1.0).contains(&share) => {
                let advice = "proportional jitter is a share of the wait: give a number from 0 to 1, such as 0.1";
                Err(ConfigError::new("jitter", share, advice))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn is_random(self) -> bool {
        self != Self::None
    }
}
