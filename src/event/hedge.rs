use std::fmt;
use std::time::Duration;

/// What a hedge reports to observers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum HedgeEvent {
    /// A call takes long, or has failed, and is made once more beside what runs. (`DEBUG`)
    #[non_exhaustive]
    Started {
        /// The number of the attempt that starts; the call itself is 1.
        attempt: u32,
        /// How long after the call began.
        after: Duration,
    },
    /// The answer of a hedge was the caller's. (`DEBUG`)
    #[non_exhaustive]
    Won {
        /// The number of the attempt that answered.
        attempt: u32,
    },
    /// A hedge was due, and has not started. (`INFO`, at most one a second)
    #[non_exhaustive]
    NotStarted {
        /// Why.
        reason: NotHedged,
    },
}

/// Why a hedge that was due has not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum NotHedged {
    /// The budget is empty.
    NoBudget,
    /// The service below is not ready, a layer below refuses, or the hedge would have to wait in one.
    Refused,
    /// The request cannot be sent a second time any more, or not beside the first.
    NotRepeatable,
}

impl HedgeEvent {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Won { .. } => "won",
            Self::NotStarted { .. } => "not_started",
        }
    }
}

impl fmt::Display for HedgeEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { attempt, after } => {
                write!(f, "attempt {attempt} started after {after:.3?}")
            }
            Self::Won { attempt } => write!(f, "attempt {attempt} answered first"),
            Self::NotStarted { reason } => write!(f, "not hedged: {reason}"),
        }
    }
}

impl fmt::Display for NotHedged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBudget => "the budget is empty",
            Self::Refused => "the service below is not ready, or would refuse",
            Self::NotRepeatable => "the request cannot be sent again",
        })
    }
}
