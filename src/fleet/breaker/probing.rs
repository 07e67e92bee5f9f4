//! The right to probe for all, as its process knows it.

use std::time::Duration;

use crate::util::time::Tick;

/// The right to probe.
#[derive(Clone, Copy)]
pub(super) struct Probing {
    pub(super) has_begun: bool,
    /// There is nothing to probe: calls of a breaker that was closed here have succeeded.
    pub(super) has_succeeded: bool,
    /// Somebody calls.
    pub(super) is_called: bool,
    /// When a probe last ended well or badly, or the first began.
    pub(super) last_result: Tick,
    /// When it is made longer, if somebody calls.
    pub(super) renew: Tick,
    pub(super) ends: Tick,
}

impl Probing {
    pub(super) fn new(now: Tick, length: Duration) -> Self {
        Self {
            has_begun: false,
            has_succeeded: false,
            is_called: false,
            last_result: now,
            renew: now.after(length / 2),
            ends: now.after(length),
        }
    }
}
