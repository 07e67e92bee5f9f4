use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::RateLimitReason;

/// What a rate limit reports to observers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RateLimitEvent {
    /// A call was refused. (`INFO`, at most one a second)
    #[non_exhaustive]
    Refused {
        /// The quota of which there is not enough; `None` in a pause.
        quota: Option<Arc<str>>,
        /// Why.
        reason: RateLimitReason,
        /// When there will be enough.
        retry_after: Option<Duration>,
    },
    /// A call went on after a wait. (`DEBUG`)
    #[non_exhaustive]
    Waited {
        /// How long.
        waited: Duration,
    },
    /// A caller went away while it waited. (`DEBUG`)
    #[non_exhaustive]
    Abandoned {
        /// How long it had waited.
        waited: Duration,
    },
    /// The service asked for a pause: nobody passes before it is over. (`WARN`)
    #[non_exhaustive]
    Paused {
        /// How long.
        pause: Duration,
    },
}

impl RateLimitEvent {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Waited { .. } => "waited",
            Self::Abandoned { .. } => "abandoned",
            Self::Paused { .. } => "paused",
        }
    }
}

impl fmt::Display for RateLimitEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused {
                quota,
                reason,
                retry_after,
            } => {
                let quota = quota.as_deref().unwrap_or("a pause");
                write!(f, "refused: {quota} ({reason:?})")?;
                match retry_after {
                    Some(delay) => write!(f, ", retry after {delay:.3?}"),
                    None => Ok(()),
                }
            }
            Self::Waited { waited } => write!(f, "went on after {waited:.3?}"),
            Self::Abandoned { waited } => write!(f, "went away after {waited:.3?}"),
            Self::Paused { pause } => write!(f, "the service asked for a pause of {pause:.3?}"),
        }
    }
}
