use std::fmt;
use std::time::Duration;

use crate::error::{AttemptEnd, StopReason};

/// What a retry policy reports to observers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RetryEvent {
    /// An attempt failed, and another follows after the delay. (`INFO`)
    #[non_exhaustive]
    Scheduled {
        /// The attempt that failed; the first is 1.
        attempt: u32,
        /// How long is waited before the next one.
        delay: Duration,
        /// What the attempt ended with.
        end: AttemptEnd,
    },
    /// A call succeeded after at least one retry. (`INFO`)
    #[non_exhaustive]
    Recovered {
        /// How many attempts it took, the first included.
        attempts: u32,
    },
    /// A call failed, and another attempt was wanted but not possible. (`WARN`)
    #[non_exhaustive]
    GaveUp {
        /// How many attempts were made, the first included.
        attempts: u32,
        /// The time from the call to its end.
        elapsed: Duration,
        /// Why there was no further attempt.
        reason: StopReason,
        /// What the last attempt ended with.
        end: AttemptEnd,
    },
}

impl RetryEvent {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Scheduled { .. } => "scheduled",
            Self::Recovered { .. } => "recovered",
            Self::GaveUp { .. } => "gave_up",
        }
    }
}

impl fmt::Display for RetryEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheduled {
                attempt,
                delay,
                end,
            } => write!(f, "attempt {attempt} failed ({end}), next in {delay:.3?}"),
            Self::Recovered { attempts } => write!(f, "succeeded at attempt {attempts}"),
            Self::GaveUp {
                attempts,
                elapsed,
                reason,
                end,
            } => write!(
                f,
                "gave up after attempt {attempts} and {elapsed:.3?}, because {reason} ({end})"
            ),
        }
    }
}
