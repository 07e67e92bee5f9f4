use std::fmt;

/// What a throttle reports to observers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ThrottleEvent {
    /// A call was refused. (`INFO`, at most one a second)
    #[non_exhaustive]
    Refused {
        /// With this probability.
        probability: f64,
    },
    /// From here on calls are refused. (`WARN`)
    #[non_exhaustive]
    Began {
        /// Calls in the window.
        requests: u64,
        /// Those of them that the service accepted.
        accepts: u64,
    },
    /// No call is refused any more. (`INFO`)
    #[non_exhaustive]
    Ended {
        /// Calls in the window.
        requests: u64,
        /// Those of them that the service accepted.
        accepts: u64,
    },
}

impl ThrottleEvent {
    /// A short name of what happened.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Began { .. } => "began",
            Self::Ended { .. } => "ended",
        }
    }
}

impl fmt::Display for ThrottleEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { probability } => {
                write!(
                    f,
                    "refused, as {:.0} % of the calls are",
                    100.0 * probability
                )
            }
            Self::Began { requests, accepts } => write!(
                f,
                "begins to refuse calls: the service has accepted {accepts} of {requests}"
            ),
            Self::Ended { requests, accepts } => write!(
                f,
                "refuses no more calls: the service has accepted {accepts} of {requests}"
            ),
        }
    }
}
