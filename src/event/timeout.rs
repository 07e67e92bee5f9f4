use std::fmt;
use std::time::Duration;

use crate::error::TimeoutPhase;

/// What timeouts report to observers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TimeoutEvent {
    /// A call, or the body of its response, took too long. The event's kind is the phase. (`INFO`, at most one a second)
    #[non_exhaustive]
    TimedOut {
        /// Which part.
        phase: TimeoutPhase,
        /// How long that part may take; `None` for a deadline of the caller's.
        limit: Option<Duration>,
        /// How long it had taken.
        after: Duration,
    },
}

impl TimeoutEvent {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::TimedOut { phase, .. } => phase.word(),
        }
    }
}

impl fmt::Display for TimeoutEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut {
                phase,
                limit,
                after,
            } => {
                write!(f, "timed out: {phase}, after {after:.3?}")?;
                match limit {
                    Some(limit) => write!(f, " (limit {limit:.3?})"),
                    None => Ok(()),
                }
            }
        }
    }
}
