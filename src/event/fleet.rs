use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What happens to a fleet, as one of its processes sees it. The name it is reported under is the fleet's namespace.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum FleetEvent {
    /// There is a connection to the store. (`INFO`)
    #[non_exhaustive]
    Connected {
        /// What the server is, such as `Redis 7.0.15`.
        server: String,
        /// How long there was none.
        after: Duration,
    },
    /// There is no connection to the store any more. (`WARN`)
    #[non_exhaustive]
    Disconnected {
        /// Why.
        reason: String,
    },
    /// Messages of other processes may have been missed. What they said is asked for. (`WARN`)
    MessagesMissed,
    /// The store does not answer what is asked for something that is shared: a breaker decides by itself, a rate limit by its
    /// share, and a lock admits nobody, or as many as it was told to. (`WARN`)
    #[non_exhaustive]
    StoreAway {
        /// What it is.
        part: FleetPart,
        /// Its name.
        name: Arc<str>,
        /// What the store failed with.
        reason: String,
    },
    /// The store answers again, and it is shared again. (`INFO`)
    #[non_exhaustive]
    StoreBack {
        /// What it is.
        part: FleetPart,
        /// Its name.
        name: Arc<str>,
        /// How long the store was away.
        after: Duration,
    },
    /// Somebody holds a permit of a lock whose lease is lost. (`WARN`)
    #[non_exhaustive]
    LeaseLost {
        /// The name of the lock.
        lock: Arc<str>,
        /// Who.
        holder: String,
        /// Why.
        reason: String,
    },
}

/// What a fleet shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum FleetPart {
    /// A circuit breaker.
    CircuitBreaker,
    /// A lock.
    Lock,
    /// A rate limit.
    RateLimit,
}

impl FleetPart {
    /// One word: `circuit_breaker`, `lock`, `rate_limit`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::CircuitBreaker => "circuit_breaker",
            Self::Lock => "lock",
            Self::RateLimit => "rate_limit",
        }
    }
}

impl fmt::Display for FleetPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CircuitBreaker => "circuit breaker",
            Self::Lock => "lock",
            Self::RateLimit => "rate limit",
        })
    }
}

impl FleetEvent {
    /// A short name of what happened.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
            Self::Disconnected { .. } => "disconnected",
            Self::MessagesMissed => "messages_missed",
            Self::StoreAway { .. } => "store_away",
            Self::StoreBack { .. } => "store_back",
            Self::LeaseLost { .. } => "lease_lost",
        }
    }
}

impl fmt::Display for FleetEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { server, after } => {
                write!(f, "connected to {server}, after {after:.3?} without")
            }
            Self::Disconnected { reason } => write!(f, "disconnected: {reason}"),
            Self::MessagesMissed => f.write_str("messages of other processes may have been missed"),
            Self::StoreAway { part, name, reason } => {
                write!(f, "the store of the {part} `{name}` is away: {reason}")
            }
            Self::StoreBack { part, name, after } => {
                write!(
                    f,
                    "the store of the {part} `{name}` is back, after {after:.3?}"
                )
            }
            Self::LeaseLost {
                lock,
                holder,
                reason,
            } => write!(f, "`{holder}` has lost a permit of `{lock}`: {reason}"),
        }
    }
}
