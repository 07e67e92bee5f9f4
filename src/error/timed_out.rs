use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A call, or the body of its response, took longer than it may.
///
/// What that says of the service depends on the [phase](Self::phase):
///
/// | phase | the service | sent again by a retry around it |
/// |---|---|---|
/// | `Ready` | was not called: a refusal | only with `retry_rejections(true)`, whatever the request is |
/// | `Head`, `FirstFrame`, `Idle`, `Attempt` | did not answer: a failure | if the request may be done twice |
/// | `Total`, `Deadline` | the caller's time was over: says nothing | never |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedOut {
    pub(crate) name: Arc<str>,
    pub(crate) phase: TimeoutPhase,
    pub(crate) limit: Option<Duration>,
    pub(crate) after: Duration,
}

/// The part of a call that took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TimeoutPhase {
    /// The service was not ready to be called.
    Ready,
    /// The response, or the head of one whose body streams.
    Head,
    /// The first frame of the body.
    FirstFrame,
    /// The next frame of the body.
    Idle,
    /// All of it.
    Total,
    /// The ambient [deadline](crate::deadline), which something around the timeouts had opened.
    Deadline,
    /// An attempt of a [`RetryPolicy`](crate::RetryPolicy), by that policy's own timeouts.
    Attempt,
}

impl TimeoutPhase {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Head => "head",
            Self::FirstFrame => "first_frame",
            Self::Idle => "idle",
            Self::Total => "total",
            Self::Deadline => "deadline",
            Self::Attempt => "attempt",
        }
    }
}

impl fmt::Display for TimeoutPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl TimedOut {
    /// The name of the timeouts, or of the retry policy, that ended it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which part took too long.
    #[must_use]
    pub fn phase(&self) -> TimeoutPhase {
        self.phase
    }

    /// How long that part may take. `None` if it was ended by a deadline of the caller's.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// How long that part had taken when it was given up: for a `Head` the time at the service, for a frame the time that
    /// somebody had waited for it.
    #[must_use]
    pub fn after(&self) -> Duration {
        self.after
    }

    /// Whether the service was called: always, except in the phase [`Ready`](TimeoutPhase::Ready).
    #[must_use]
    pub fn was_called(&self) -> bool {
        self.phase != TimeoutPhase::Ready
    }

    /// The caller's own time was over: that says nothing of the service.
    pub(crate) fn is_callers_own(&self) -> bool {
        matches!(self.phase, TimeoutPhase::Total | TimeoutPhase::Deadline)
    }
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, limit) = (&self.name, self.limit.unwrap_or(self.after));
        match self.phase {
            TimeoutPhase::Ready => write!(f, "`{name}` was not ready within {limit:.3?}"),
            TimeoutPhase::Head => write!(f, "`{name}` did not answer within {limit:.3?}"),
            TimeoutPhase::FirstFrame => {
                write!(f, "`{name}`: no frame of the body came within {limit:.3?}")
            }
            TimeoutPhase::Idle => write!(f, "`{name}`: no frame of the body came for {limit:.3?}"),
            TimeoutPhase::Total => write!(f, "`{name}`: the call did not end within {limit:.3?}"),
            TimeoutPhase::Deadline => write!(f, "`{name}`: the deadline of the call has passed"),
            TimeoutPhase::Attempt => {
                write!(f, "the attempt did not end within {:.3?}", self.after)
            }
        }
    }
}

impl StdError for TimedOut {}
