//! Stops calling a service that fails, and finds out by itself when it is well again.
mod builder;
mod event;
mod handle;
mod in_flight;
mod permit;
mod policy;
mod service;
mod shared;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use builder::CircuitBreakerBuilder;
pub use event::{Cause, CircuitBreakerEvent};
pub use handle::CircuitBreaker;
pub use permit::Permit;
pub use policy::{CircuitBreakerPolicy, Recovery, SlowCalls, Window};
pub use service::{CircuitBreakerFuture, CircuitBreakerLayer, CircuitBreakerService};
pub use snapshot::{CircuitBreakerSnapshot, CircuitBreakerTotals};

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum CircuitState {
    /// Calls go through; failures are counted.
    Closed,
    /// Calls are refused until the open time is over.
    Open,
    /// A few calls go through to probe the service; the others are refused.
    HalfOpen,
    /// An operator opened it: calls are refused until further notice.
    ForcedOpen,
    /// An operator switched it off: calls go through, nothing is counted.
    Disabled,
    /// Calls go through; what the breaker would have done is counted and reported.
    MetricsOnly,
}

impl std::fmt::Display for CircuitState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::ForcedOpen => "forced open",
            Self::Disabled => "disabled",
            Self::MetricsOnly => "metrics only",
        })
    }
}
