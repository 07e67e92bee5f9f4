//! What a breaker has counted since it was last told.

use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerTotals};

/// What has been told.
#[derive(Default)]
pub(super) struct Told(CircuitBreakerTotals);

impl Told {
    pub(super) fn all(&mut self, totals: &CircuitBreakerTotals) {
        self.0 = *totals;
    }

    /// What there is to tell of these totals.
    pub(super) fn count(
        &mut self,
        breaker: &CircuitBreaker,
        totals: &CircuitBreakerTotals,
    ) -> Counted {
        // Less than before: it was reset.
        let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        let mut failed = since(totals.failures, self.0.failures);
        if breaker.config().overload_is_failure {
            failed += since(totals.overloads, self.0.overloads);
        }
        let counted = Counted {
            ok: since(totals.successes, self.0.successes),
            failed,
            rejected: since(totals.rejected, self.0.rejected),
            opened: 0,
            is_awaited: breaker.is_awaited(),
        };
        self.0 = *totals;
        counted
    }
}

/// What has happened since the last step.
#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    pub(super) ok: u64,
    pub(super) failed: u64,
    pub(super) rejected: u64,
    /// It has opened by itself, for so many microseconds.
    pub(super) opened: u64,
    /// Somebody waits for the circuit, or for the service, and counts nowhere else.
    pub(super) is_awaited: bool,
}

impl Counted {
    pub(super) fn has_result(&self) -> bool {
        self.ok + self.failed > 0
    }

    pub(super) fn is_traffic(&self) -> bool {
        self.has_result() || self.rejected > 0
    }

    /// Somebody wants to know how the service is.
    pub(super) fn is_called(&self) -> bool {
        self.is_traffic() || self.is_awaited
    }
}
