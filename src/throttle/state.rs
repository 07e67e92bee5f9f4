//! The window and the probability: pure.

use super::config::ThrottleConfig;
use crate::util::time::Tick;
use crate::util::window::{Call, LastSlices};

/// The formula of the book.
pub(super) fn formula(k: f64, requests: u64, accepts: u64) -> f64 {
    let (requests, accepts) = (requests as f64, accepts as f64);
    ((requests - k * accepts) / (requests + 1.0)).max(0.0)
}

/// What is known, but for what the threads have counted since.
#[derive(Debug)]
pub(super) struct State {
    window: LastSlices,
    pub(super) accepted: u64,
    pub(super) not_accepted: u64,
}

impl State {
    pub(super) fn new(config: &ThrottleConfig) -> Self {
        Self {
            window: LastSlices::new(config.window),
            accepted: 0,
            not_accepted: 0,
        }
    }

    /// Begins another window.
    pub(super) fn forget(&mut self, config: &ThrottleConfig) {
        self.window = LastSlices::new(config.window);
    }

    /// So many calls were accepted in slice `number`, and so many were refused.
    pub(super) fn add(&mut self, accepted: u64, refused: u64, number: u64) {
        self.accepted += accepted;
        self.window.record_successes(accepted, number);
        self.window.record_failures(refused, number);
    }

    /// A call was not accepted.
    pub(super) fn fail(&mut self, now: Tick) {
        self.not_accepted += 1;
        let failed = Call {
            failed: true,
            slow: false,
        };
        self.window.record(failed, now);
    }

    /// Requests and accepts in the window.
    pub(super) fn counts(&self, now: Tick) -> (u64, u64) {
        let counts = self.window.counts(now);
        (counts.calls, counts.calls - counts.failures)
    }

    /// With which probability a call is refused now.
    pub(super) fn reject(&self, config: &ThrottleConfig, now: Tick) -> f64 {
        let (requests, accepts) = self.counts(now);
        if requests < config.minimum_requests {
            return 0.0;
        }
        formula(config.k, requests, accepts).min(config.max_reject)
    }
}
