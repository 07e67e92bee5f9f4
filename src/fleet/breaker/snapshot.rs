use std::sync::Arc;
use std::time::Duration;

use crate::circuit_breaker::CircuitState;

/// What a process knows of a shared breaker.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SharedBreakerSnapshot {
    /// The name of the breaker.
    pub name: Arc<str>,
    /// The state of the breaker of this process.
    pub state: CircuitState,
    /// The number of the last change that this process has heard of.
    pub epoch: u64,
    /// Whether the fleet is open, by the last answer.
    pub fleet_is_open: bool,
    /// How long the store has not answered, and this breaker has gone on alone.
    pub away_for: Option<Duration>,
    /// How long ago it has answered last.
    pub answered_before: Option<Duration>,
    /// How long that answer took.
    pub lag: Duration,
    /// How often this process has asked the store.
    pub commands: u64,
    /// How often it did not answer.
    pub failed: u64,
    /// How often this process was the one to probe.
    pub probes: u64,
}
