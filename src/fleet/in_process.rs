//! The shared state of one process: for tests, demos and one machine.

use super::{breaker, lock, rate_limit};

/// The pure cores, behind the interface that a server has.
#[derive(Default)]
pub(super) struct InProcess {
    pub(super) breakers: breaker::InProcess,
    #[allow(dead_code, reason = "the part is not made yet")]
    pub(super) locks: lock::InProcess,
    pub(super) rate_limits: rate_limit::InProcess,
}
