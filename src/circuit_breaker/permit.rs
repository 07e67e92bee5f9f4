use std::fmt;
use std::mem;

use super::handle::CircuitBreaker;
use super::shared::Admitted;
use crate::answer::Judgement;
use crate::deadline;
use crate::outcome::{Outcome, words};

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
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Taken for a call that has not been made yet.
    Reserved,
    /// The call is on its way.
    Started,
    /// User code is running right now: a permit that is dropped in this stage is dropped by a panic.
    Running,
    Settled,
}

impl Permit {
    pub(super) fn new(breaker: CircuitBreaker, admitted: Admitted) -> Self {
        Self {
            breaker,
            admitted,
            stage: Stage::Started,
        }
    }

    /// A permit for a call that may follow. Dropped before [`restart`](Self::restart), it was never there.
    pub(super) fn reserved(breaker: CircuitBreaker, admitted: Admitted) -> Self {
        let mut permit = Self::new(breaker, admitted);
        permit.stage = Stage::Reserved;
        permit
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

    /// The service had no room for the call.
    pub fn overload(self) {
        self.settle(Outcome::Overload);
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
        if mem::replace(&mut self.stage, Stage::Settled) != Stage::Settled {
            self.breaker
                .shared
                .settle(&mut self.admitted, outcome, words);
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.stage == Stage::Settled
    }

    /// The call has been answered, and the permit is held on for the body of the answer: how long that takes
    /// makes the call no slow one.
    #[cfg(feature = "http")]
    pub(crate) fn answered(&mut self) {
        self.breaker.shared.stop_timing(&mut self.admitted);
    }

    /// Settles with what a classifier said.
    pub(crate) fn settle_judged(&mut self, judged: Judgement) {
        self.settle_in_place(judged.outcome, judged.words);
    }

    /// Runs a part of the call. If it panics, the permit that is dropped on the way out knows.
    pub(crate) fn running<T>(&mut self, part: impl FnOnce() -> T) -> T {
        self.stage = Stage::Running;
        let value = part();
        self.stage = Stage::Started;
        value
    }

    /// The call starts now, although the permit was taken earlier. `false` if it is no good any more.
    pub(super) fn restart(&mut self) -> bool {
        let good = self.breaker.shared.restart(&mut self.admitted);
        if good {
            self.stage = Stage::Started;
        }
        good
    }

    /// Whether nothing has changed since the permit was taken.
    pub(super) fn is_current(&self) -> bool {
        self.breaker.shared.is_current(self.admitted.ticket)
    }

    /// Whether it keeps a probe's place from others.
    pub(super) fn has_place(&self) -> bool {
        self.admitted.ticket.lease != 0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (outcome, words) = match self.stage {
            Stage::Settled => return,
            Stage::Reserved => return self.breaker.shared.forgo(&mut self.admitted),
            Stage::Running => (Outcome::Failure, Some("the call panicked".to_owned())),
            Stage::Started if deadline::is_dropping_timed_out() => {
                (Outcome::Failure, Some("timed out".to_owned()))
            }
            Stage::Started => (Outcome::Cancelled, None),
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
