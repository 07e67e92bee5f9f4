//! The shared state of one process: for tests, demos and one machine.

use std::time::Duration;

use super::{breaker, lock, rate_limit};
use crate::util::time::{self, Tick};

/// The pure cores, behind the interface that a server has.
#[derive(Default)]
pub(super) struct InProcess {
    since: Tick,
    pub(super) breakers: breaker::InProcess,
    pub(super) locks: lock::InProcess,
    pub(super) rate_limits: rate_limit::InProcess,
}

impl InProcess {
    pub(super) fn new() -> Self {
        Self {
            since: time::now(),
            ..Self::default()
        }
    }

    pub(super) fn age(&self) -> Duration {
        time::now().since(self.since)
    }
}
