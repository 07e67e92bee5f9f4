use std::sync::Arc;

/// What there is to know of a drill.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ChaosSnapshot {
    /// The name.
    pub name: Arc<str>,
    /// Whether it is armed.
    pub armed: bool,
    /// How many calls have begun while it was.
    pub calls: u64,
    /// What they have met.
    pub injected: ChaosTotals,
}

/// Faults since the beginning. A call that was late and failed is among both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ChaosTotals {
    /// Calls that were late.
    pub latency: u64,
    /// Calls that failed.
    pub error: u64,
    /// Calls that never ended.
    pub hang: u64,
    /// Calls that panicked.
    pub panic: u64,
    /// Bodies that broke off.
    pub cut_body: u64,
}

impl ChaosTotals {
    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.latency + self.error + self.hang + self.panic + self.cut_body
    }
}
