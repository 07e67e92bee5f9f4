use std::cell::Cell;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use super::rejection::Rejection;
use super::timed_out::TimedOut;

/// Why a retry stopped although the last attempt was worth another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum StopReason {
    /// All retries that the policy allows were made.
    MaxRetries,
    /// The next attempt could not have started before the deadline, so it was not waited for; or the
    /// deadline came during an attempt.
    Deadline,
    /// The retry budget was empty: too much of the recent traffic was retries already.
    BudgetExhausted,
    /// The service asked to come back later than `max_retry_after` allows to wait.
    RetryAfterTooLong,
    /// The request could not be copied, so it could be sent only once.
    NotCloneable,
    /// The service may have done the request, and doing it twice may do harm.
    NotIdempotent,
    /// A layer below refused the next attempt: an open circuit, a busy lock.
    Refused,
    /// An attempt ended in a way that is not worth another one.
    NotWorthRetrying,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MaxRetries => "all retries were made",
            Self::Deadline => "the next attempt would not fit the deadline",
            Self::BudgetExhausted => "the retry budget is empty",
            Self::RetryAfterTooLong => "the service asked to come back too late",
            Self::NotCloneable => "the request could not be copied",
            Self::NotIdempotent => "the request may have been done, and may not be done twice",
            Self::Refused => "the next attempt was refused",
            Self::NotWorthRetrying => "the result is not worth another attempt",
        })
    }
}

/// What the last attempt ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LastFailure<E> {
    /// The service's own error.
    Inner(E),
    /// The attempt was given up because it took too long.
    TimedOut(TimedOut),
    /// A response that was judged a failure, for this reason if one was given. The response itself is gone.
    Response(Option<String>),
}

impl<E> LastFailure<E> {
    /// The service's own error, unless the attempt timed out.
    pub fn as_inner(&self) -> Option<&E> {
        match self {
            Self::Inner(error) => Some(error),
            Self::TimedOut(_) | Self::Response(_) => None,
        }
    }

    pub(crate) fn map_inner<T>(self, f: impl FnOnce(E) -> T) -> LastFailure<T> {
        match self {
            Self::Inner(error) => LastFailure::Inner(f(error)),
            Self::TimedOut(timed_out) => LastFailure::TimedOut(timed_out),
            Self::Response(reason) => LastFailure::Response(reason),
        }
    }
}

impl<E: fmt::Display> fmt::Display for LastFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inner(error) => error.fmt(f),
            Self::TimedOut(timed_out) => timed_out.fmt(f),
            Self::Response(Some(reason)) => f.write_str(reason),
            Self::Response(None) => f.write_str("a response that is worth a retry"),
        }
    }
}

/// In which way one attempt was not good enough.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum AttemptEnd {
    /// The service failed with an error, with this message (at most 256 bytes).
    Error(String),
    /// The service answered, and the answer was judged a failure, for this reason if one was given.
    Response(Option<String>),
    /// The attempt took too long.
    TimedOut,
    /// A layer below refused it, with this message.
    Rejected(String),
}

impl fmt::Display for AttemptEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(message) | Self::Rejected(message) | Self::Response(Some(message)) => {
                f.write_str(message)
            }
            Self::Response(None) => f.write_str("a response that is worth a retry"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

/// One attempt of a call that was retried.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AttemptRecord {
    /// The number of the attempt; the first is 1.
    pub attempt: u32,
    /// What it ended with.
    pub end: AttemptEnd,
    /// How long was waited after it, if another attempt followed.
    pub delay: Option<Duration>,
}

thread_local! {
    /// An [`Exhausted`] of any type was asked for its source: whoever walks a chain of errors learns so that one is in
    /// it. It is generic over the service's error, so it cannot be recognised by its type.
    pub(super) static MET_EXHAUSTED: Cell<bool> = const { Cell::new(false) };
}

/// The service kept failing, and no further attempt was possible.
#[derive(Clone, Debug)]
pub struct Exhausted<E> {
    last: LastFailure<E>,
    report: Box<Report>,
}

#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) name: std::sync::Arc<str>,
    pub(crate) attempts: u32,
    pub(crate) elapsed: Duration,
    pub(crate) reason: StopReason,
    /// What refused the last attempt.
    pub(crate) refusal: Option<Rejection>,
    pub(crate) history: Vec<AttemptRecord>,
}

impl<E> Exhausted<E> {
    pub(crate) fn new(last: LastFailure<E>, report: Report) -> Self {
        Self {
            last,
            report: Box::new(report),
        }
    }

    /// The name of the retry policy.
    pub fn name(&self) -> &str {
        &self.report.name
    }

    /// How many attempts were made, the first included.
    pub fn attempts(&self) -> u32 {
        self.report.attempts
    }

    /// The time from the call to its end, backoff included.
    ///
    /// Without a timeout the clock starts when the first attempt first has to wait, or has failed: a call
    /// that is answered at once reads no clock.
    pub fn elapsed(&self) -> Duration {
        self.report.elapsed
    }

    /// Why there was no further attempt.
    pub fn reason(&self) -> StopReason {
        self.report.reason
    }

    /// What refused the attempt that would have come next, if that is why there was no other:
    /// [`StopReason::Refused`].
    pub fn refusal(&self) -> Option<&Rejection> {
        self.report.refusal.as_ref()
    }

    /// What the last attempt that reached the service ended with.
    pub fn last(&self) -> &LastFailure<E> {
        &self.last
    }

    /// What the last attempt ended with.
    pub fn into_last(self) -> LastFailure<E> {
        self.last
    }

    /// The service's own error.
    ///
    /// # Errors
    ///
    /// `self`, if the last attempt timed out, or ended with a response.
    pub fn into_inner(self) -> Result<E, Self> {
        match self.last {
            LastFailure::Inner(error) => Ok(error),
            LastFailure::TimedOut(timed_out) => Err(Self {
                last: LastFailure::TimedOut(timed_out),
                report: self.report,
            }),
            LastFailure::Response(reason) => Err(Self {
                last: LastFailure::Response(reason),
                report: self.report,
            }),
        }
    }

    /// What the attempts ended with, oldest first: at most the last 16.
    pub fn history(&self) -> &[AttemptRecord] {
        &self.report.history
    }

    pub(crate) fn map_inner<T>(self, f: impl FnOnce(E) -> T) -> Exhausted<T> {
        Exhausted {
            last: self.last.map_inner(f),
            report: self.report,
        }
    }
}

impl<E: fmt::Display> fmt::Display for Exhausted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            attempts, reason, ..
        } = &*self.report;
        let s = if *attempts == 1 { "" } else { "s" };
        write!(
            f,
            "gave up after {attempts} attempt{s}, because {reason}: {}",
            self.last
        )?;
        match &self.report.refusal {
            Some(refusal) => write!(f, " ({refusal})"),
            None => Ok(()),
        }
    }
}

impl<E: StdError + 'static> StdError for Exhausted<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        MET_EXHAUSTED.set(true);
        match &self.last {
            LastFailure::Inner(error) => Some(error),
            LastFailure::TimedOut(timed_out) => Some(timed_out),
            LastFailure::Response(_) => None,
        }
    }
}
