use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a refusal keeps of its limit. The names of a limit never change.
pub(crate) trait LimitNames: Send + Sync {
    fn name(&self) -> &str;
    fn quota(&self, number: usize) -> Option<&str>;
}

/// A call that a rate limit refused: it used up nothing. Cheap to make, and to clone.
#[derive(Clone)]
pub struct RateLimited {
    pub(crate) limit: Arc<dyn LimitNames>,
    pub(crate) quota: Option<usize>,
    pub(crate) reason: RateLimitReason,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) waited: Duration,
}

/// Why a rate limit refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RateLimitReason {
    /// There is not enough, and the caller did not want to wait.
    Exhausted,
    /// It would have to wait longer than `max_wait`: refused at once, or when that had passed.
    TooLong,
    /// Its turn would come after its deadline.
    DeadlineExceeded,
    /// As many wait as may.
    QueueFull,
    /// It asks for more than the quota ever holds.
    ExceedsBurst,
}

impl RateLimited {
    /// The name of the limit.
    #[must_use]
    pub fn name(&self) -> &str {
        self.limit.name()
    }

    /// The name of the quota of which there is not enough; `None` if it is a pause that the service asked for.
    #[must_use]
    pub fn quota(&self) -> Option<&str> {
        self.limit.quota(self.quota?)
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> RateLimitReason {
        self.reason
    }

    /// When there will be enough, behind all that wait already: exact, unless somebody gives something back or the service
    /// asks for a pause. `None` if there never will be.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// How long it had waited.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl fmt::Debug for RateLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimited")
            .field("name", &self.name())
            .field("quota", &self.quota())
            .field("reason", &self.reason)
            .field("retry_after", &self.retry_after)
            .field("waited", &self.waited)
            .finish()
    }
}

impl fmt::Display for RateLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rate limit `{}`: ", self.name())?;
        match (self.quota(), self.reason) {
            (Some(quota), RateLimitReason::ExceedsBurst) => {
                return write!(
                    f,
                    "the call asks for more `{quota}` than there can ever be at once"
                );
            }
            (Some(quota), _) => write!(f, "`{quota}` are used up")?,
            (None, _) => f.write_str("the service asked for a pause")?,
        }
        if let Some(delay) = self.retry_after {
            write!(f, ", retry after {delay:.3?}")?;
        }
        match self.reason {
            RateLimitReason::Exhausted | RateLimitReason::ExceedsBurst => Ok(()),
            RateLimitReason::TooLong => f.write_str(" (longer than may be waited)"),
            RateLimitReason::DeadlineExceeded => f.write_str(" (after the deadline of the call)"),
            RateLimitReason::QueueFull => f.write_str(" (enough calls wait already)"),
        }
    }
}

impl StdError for RateLimited {}
