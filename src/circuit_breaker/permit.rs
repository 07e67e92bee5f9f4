use std::fmt;
use std::mem;

use super::handle::CircuitBreaker;
use super::shared::{Admitted, Kind};
use crate::answer::Judgement;
use crate::deadline;
use crate::outcome::{Outcome, words};
use crate::time;

/// Proof that a call was admitted.
///
/// Settle it with how the call ended; each permit counts once. A permit that is dropped counts as
/// cancelled: it gives back its place and is neither success nor failure, with two exceptions. It is
/// a failure when the call was dropped because an attempt timeout of [`RetryLayer`](crate::RetryLayer)
/// or the policy's `cancelled_is_failure_after` had passed, and when the call panicked.
#[must_use = "settle it with how the call ended: a dropped permit counts as cancelled"]
pub struct Permit {
    breaker: CircuitBreaker,
    admitted: Admitted,
    /// Whether it is still to be settled.
    live: bool,
    running: bool,
}

impl Permit {
    pub(super) fn new(breaker: CircuitBreaker, admitted: Admitted) -> Self {
        Self {
            breaker,
            admitted,
            live: true,
            running: false,
        }
    }

    /// The call succeeded.
    pub fn success(self) {
        self.settle(Outcome::Success);
    }

    /// The call failed.
    pub fn failure(self) {
        self.settle(Outcome::Failure);
    }

    /// The call failed, in these words (at most 256 bytes are kept): they appear in rejections, events
    /// and snapshots.
    pub fn failure_because(self, error: &dyn fmt::Display) {
        let words = words(error);
        self.settle_with(Outcome::Failure, Some(words));
    }

    /// The call says nothing about the service: the permit is given back, nothing else changes.
    pub fn ignore(self) {
        self.settle(Outcome::Ignored);
    }

    /// The call ended with `outcome`.
    pub fn settle(self, outcome: Outcome) {
        self.settle_with(outcome, None);
    }

    fn settle_with(mut self, outcome: Outcome, words: Option<String>) {
        self.settle_in_place(outcome, words);
    }

    fn settle_in_place(&mut self, outcome: Outcome, words: Option<String>) {
        if mem::replace(&mut self.live, false) {
            self.breaker.shared.settle(&self.admitted, outcome, words);
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Settles with what a classifier said.
    pub(super) fn settle_judged(&mut self, judged: Judgement) {
        self.settle_in_place(judged.outcome, judged.words);
    }

    /// Runs a part of the call. If it panics, the permit that is dropped on the way out knows.
    pub(super) fn running<T>(&mut self, part: impl FnOnce() -> T) -> T {
        self.running = true;
        let value = part();
        self.running = false;
        value
    }

    /// The call starts now, although the permit was taken earlier. `false` if it is no good any more.
    pub(super) fn restart(&mut self) -> bool {
        let admitted = &mut self.admitted;
        let shared = &self.breaker.shared;
        // What metrics-only mode let through anyway is nobody's place.
        if admitted.kind == Kind::Counted && !shared.renew(admitted.ticket) {
            return false;
        }
        if admitted.started.is_some() {
            let now = time::now();
            admitted.started = Some(now);
            admitted.seat = shared.move_seat(admitted.seat, now);
        }
        true
    }

    /// No call will be made.
    pub(super) fn forgo(mut self) {
        if mem::replace(&mut self.live, false) {
            self.breaker.shared.forgo(&self.admitted);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.live {
            return;
        }
        let (outcome, words) = if self.running {
            (Outcome::Failure, Some("the call panicked".to_owned()))
        } else if deadline::is_dropping_timed_out() {
            (Outcome::Failure, Some("timed out".to_owned()))
        } else {
            (Outcome::Cancelled, None)
        };
        self.settle_in_place(outcome, words);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("breaker", &self.breaker.name())
            .field("admitted", &self.admitted)
            .finish_non_exhaustive()
    }
}
