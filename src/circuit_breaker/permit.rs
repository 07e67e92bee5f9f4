use std::fmt;
use std::task::Poll;

use super::admitted::{Admitted, Stage};
use super::shared::Shared;
use crate::call::context::{Frame, Reason, reason};
use crate::call::outcome::{Outcome, message};
use crate::error::Judgement;
use crate::util::sharded::ArcShard;

/// Proof that a call was admitted.
///
/// Settle it with how the call ended; each permit counts once. A permit that is dropped counts as
/// cancelled: it gives back its place and is neither success nor failure, with two exceptions. It is
/// a failure when the call was dropped because an attempt timeout of [`RetryLayer`](crate::RetryLayer)
/// or the policy's `cancelled_is_failure_after` had passed, and when the call panicked.
#[must_use = "settle it with how the call ended: a dropped permit counts as cancelled"]
pub struct Permit {
    shared: ArcShard<Shared>,
    admitted: Admitted,
    frame: Frame,
}

impl Permit {
    #[inline]
    pub(super) fn new(shared: ArcShard<Shared>, admitted: Admitted) -> Self {
        Self {
            shared,
            admitted,
            frame: Frame::default(),
        }
    }

    /// A permit for a call that may follow. Dropped before [`restart`](Self::restart), it was never there.
    pub(super) fn reserved(shared: ArcShard<Shared>, admitted: Admitted) -> Self {
        let mut permit = Self::new(shared, admitted);
        permit.admitted.set_stage(Stage::Reserved);
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

    /// The call failed, with this message (at most 256 bytes are kept): they appear in rejections, events
    /// and snapshots.
    pub fn failure_because(self, error: &dyn fmt::Display) {
        let message = message(error);
        self.settle_with(Outcome::Failure, Some(message));
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

    fn settle_with(mut self, outcome: Outcome, message: Option<String>) {
        self.settle_in_place(outcome, message);
    }

    #[inline(never)]
    fn settle_in_place(&mut self, outcome: Outcome, message: Option<String>) {
        if !self.is_settled() {
            self.admitted.set_stage(Stage::Settled);
            self.shared
                .settle(&mut self.admitted, &self.frame, outcome, message);
        }
    }

    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        self.admitted.stage() == Stage::Settled
    }

    /// The call has been answered, and the permit is held on for the body of the answer: how long that takes
    /// makes the call no slow one.
    #[cfg(feature = "http")]
    pub(crate) fn answered(&mut self) {
        self.shared.stop_timing(&mut self.admitted);
    }

    /// Settles with what a classifier said.
    #[inline]
    pub(crate) fn settle_judged(&mut self, judged: Judgement) {
        if judged.outcome == Outcome::Success
            && !self.is_settled()
            && self.shared.settle_plain(&self.admitted)
        {
            self.admitted.set_stage(Stage::Settled);
            return;
        }
        self.settle_in_place(judged.outcome, judged.message);
    }

    /// Runs a part of the call. If it panics, the permit that is dropped on the way out knows.
    #[inline]
    pub(crate) fn running<T>(&mut self, part: impl FnOnce() -> T) -> T {
        self.admitted.set_stage(Stage::Running);
        let value = self.frame.enter(0, part);
        self.admitted.set_stage(Stage::Started);
        value
    }

    /// Polls the call. If it panics, the permit that is dropped on the way out knows.
    #[inline]
    pub(crate) fn poll<T>(&mut self, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        self.admitted.set_stage(Stage::Running);
        let value = self.frame.poll(0, poll);
        self.admitted.set_stage(Stage::Started);
        value
    }

    /// The call starts now, although the permit was taken earlier. `false` if it is no good any more.
    pub(super) fn restart(&mut self) -> bool {
        let good = self.shared.restart(&mut self.admitted);
        if good {
            self.admitted.set_stage(Stage::Started);
        }
        good
    }

    /// Whether nothing has changed since the permit was taken.
    pub(super) fn is_current(&self) -> bool {
        self.shared.is_current(&self.admitted)
    }

    /// Whether it keeps a probe's place from others.
    pub(super) fn has_place(&self) -> bool {
        self.admitted.is_probe()
    }
}

impl Permit {
    /// Dropped before it was settled.
    #[cold]
    fn lost(&mut self) {
        let (outcome, message) = match self.admitted.stage() {
            Stage::Settled => return,
            Stage::Reserved => return self.shared.forgo(&mut self.admitted),
            Stage::Running => (Outcome::Failure, Some("the call panicked".to_owned())),
            // A call that waits is not at the service: whatever cut it says nothing about that.
            Stage::Started if !self.frame.is_waiting() && reason() == Reason::TimedOut => {
                (Outcome::Failure, Some("timed out".to_owned()))
            }
            Stage::Started => (Outcome::Cancelled, None),
        };
        self.settle_in_place(outcome, message);
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if !self.is_settled() {
            self.lost();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("breaker", &self.shared.name())
            .field("admitted", &self.admitted)
            .finish_non_exhaustive()
    }
}
