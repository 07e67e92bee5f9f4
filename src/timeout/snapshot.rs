use std::sync::Arc;

use crate::util::histogram::DurationSummary;

/// What there is to know of timeouts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TimeoutsSnapshot {
    /// The name.
    pub name: Arc<str>,
    /// How many calls have begun; two layers of the same timeouts in one stack each count theirs.
    pub calls: u64,
    /// How many of them took too long, by phase.
    pub timed_out: TimeoutTotals,
    /// How long the calls took that ended in the last 30 to 60 seconds, with a response (or its head), an error or a timeout.
    /// Of calls with a [`total`](super::TimeoutsBuilder::total) only: nothing else reads the clock when a call begins.
    pub recent_calls: DurationSummary,
}

/// Calls that took too long, each counted once, at the phase that ended it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TimeoutTotals {
    /// The service was not ready.
    pub ready: u64,
    /// It did not answer.
    pub head: u64,
    /// The first frame of the body did not come.
    pub first_frame: u64,
    /// A later frame did not come.
    pub idle: u64,
    /// The time for all of it was over.
    pub total: u64,
    /// The ambient deadline had passed.
    pub deadline: u64,
}

impl TimeoutTotals {
    /// All phases together.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let Self {
            ready,
            head,
            first_frame,
            idle,
            total,
            deadline,
        } = self;
        ready + head + first_frame + idle + total + deadline
    }
}
