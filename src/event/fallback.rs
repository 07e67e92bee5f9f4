use std::fmt;
use std::sync::Arc;

/// What a fallback reports to observers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum FallbackEvent {
    /// A target failed, and the next is asked. (`INFO`)
    #[non_exhaustive]
    FellBack {
        /// The target that failed.
        from: Arc<str>,
        /// The target that is asked next.
        to: Arc<str>,
        /// What it failed with.
        reason: String,
    },
    /// No target answered. (`WARN`)
    #[non_exhaustive]
    AllFailed {
        /// How many were asked.
        targets: usize,
    },
}

impl FallbackEvent {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::FellBack { .. } => "fell_back",
            Self::AllFailed { .. } => "all_failed",
        }
    }
}

impl fmt::Display for FallbackEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FellBack { from, to, reason } => write!(f, "from `{from}` to `{to}`: {reason}"),
            Self::AllFailed { targets } => write!(f, "none of {targets} targets answered"),
        }
    }
}
