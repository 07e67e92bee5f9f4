use std::fmt;
use std::sync::Arc;
use std::task::Poll;
use std::thread;

use super::admitted::{Admitted, Stage};
use super::shared::{Shadowed, Shared, Trial};
use crate::call::context::{Frame, Reason, reason};
use crate::call::outcome::{Outcome, message};
use crate::error::Judgement;
use crate::util::sharded::ArcShard;

/// Proof that a call was admitted.
///
/// Settle it with how the call ended; each permit counts once. A permit that is dropped counts as cancelled: it gives
/// back its place and is neither success nor failure. It is a failure when the call was at the service and
///
/// - was dropped because an attempt timeout of [`RetryLayer`](crate::RetryLayer) had passed, or after
///   `cancelled_is_failure_after`, or
/// - panicked.
///
/// A call that is dropped while it waits for something of this crate (a permit of a lock, the backoff of an inner
/// retry) is cancelled, whoever dropped it and why.
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

    /// The same call, at a config that is tried beside.
    pub(super) fn beside(mut self, trial: Option<Arc<Trial>>) -> Self {
        if let Some(shadow) = trial.and_then(|it| it.admit()) {
            self.admitted.set_shadow(shadow);
        }
        self
    }

    /// The same permit, for code that settles it by hand.
    pub(super) fn by_hand(mut self) -> Self {
        self.admitted.hold_by_hand();
        self
    }

    /// The call succeeded.
    pub fn success(self) {
        self.settle(Outcome::Success);
    }

    /// The call failed.
    pub fn failure(self) {
        self.settle(Outcome::Failure);
    }

    /// The call failed, with this message (at most 256 bytes are kept): it appears in rejections, events and
    /// snapshots.
    pub fn failure_because(mut self, error: &dyn fmt::Display) {
        self.settle_in_place(Judgement::failure(message(error)));
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
    pub fn settle(mut self, outcome: Outcome) {
        self.settle_in_place(Judgement::plain(outcome));
    }

    #[inline(never)]
    fn settle_in_place(&mut self, judged: Judgement) {
        if !self.is_settled() {
            self.admitted.set_stage(Stage::Settled);
            if self.admitted.has_shadow() {
                self.settle_shadow(|_| judged.clone());
            }
            self.shared.settle(&mut self.admitted, &self.frame, judged);
        }
    }

    /// The same call at the config that is tried, if it still is; it is not known there any more.
    #[cold]
    fn take_shadow(&mut self) -> Option<(Arc<Trial>, Shadowed)> {
        let shadow = self.admitted.take_shadow();
        let trial = self.shared.trial_of(shadow)?;
        let call = trial.take(shadow)?;
        Some((trial, call))
    }

    /// The same call has ended at the config that is tried.
    #[cold]
    fn settle_shadow(&mut self, judged: impl FnOnce(&mut Shadowed) -> Judgement) {
        if let Some((trial, mut call)) = self.take_shadow() {
            let judged = judged(&mut call);
            let is_bad = matches!(judged.outcome, Outcome::Failure | Outcome::Overload);
            if call.is_counted && !is_bad {
                return;
            }
            let breaker = &trial.breaker;
            breaker.settle(&mut call.admitted, &self.frame, judged);
        }
    }

    /// The same call goes on at the config that is tried, unless `part` says that it is done with.
    #[cold]
    fn shadow_goes_on(&mut self, part: impl FnOnce(&Shared, &mut Shadowed, &Frame) -> bool) {
        if let Some((trial, mut call)) = self.take_shadow()
            && part(&trial.breaker, &mut call, &self.frame)
            && let Some(shadow) = trial.keep(call)
        {
            self.admitted.set_shadow(shadow);
        }
    }

    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        self.admitted.stage() == Stage::Settled
    }

    /// The call has been answered, and the permit is held on for the body of the answer: how long that takes makes
    /// the call no slow one. `true` if the call was slow by now and has been counted: what is left to count is a
    /// failure of the body.
    #[cfg(feature = "http")]
    pub(crate) fn answered(&mut self, head: &Judgement) -> bool {
        if self.admitted.has_shadow() {
            self.shadow_goes_on(|breaker, call, frame| {
                call.is_counted = breaker.answered(&mut call.admitted, frame, head);
                call.head = (!call.is_counted).then(|| head.clone());
                true
            });
        }
        self.shared.answered(&mut self.admitted, &self.frame, head)
    }

    /// The call has been counted, and there is nothing to add.
    #[cfg(feature = "http")]
    pub(crate) fn dismiss(&mut self) {
        // To a config that is tried the call may not have been slow: then it has not been counted there.
        if self.admitted.has_shadow() {
            let success = || Judgement::plain(Outcome::Success);
            self.settle_shadow(|call| call.head.take().unwrap_or_else(success));
        }
        self.admitted.set_stage(Stage::Settled);
    }

    /// Settles with what a classifier said.
    #[inline(always)]
    pub(crate) fn settle_judged(&mut self, judged: Judgement) {
        if judged.outcome == Outcome::Success
            && !self.is_settled()
            && !self.admitted.has_shadow()
            && self.shared.settle_plain(&self.admitted)
        {
            self.admitted.set_stage(Stage::Settled);
            return;
        }
        self.settle_in_place(judged);
    }

    /// Whether it waits to be settled, with no code of the call running.
    #[cfg(feature = "http")]
    pub(crate) fn is_at_rest(&self) -> bool {
        matches!(self.admitted.stage(), Stage::Started | Stage::Waiting)
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
        let before = self.admitted.stage();
        self.admitted.set_stage(Stage::Running);
        let value = self.frame.poll(0, poll);
        let after = match self.frame.is_waiting() {
            true => Stage::Waiting,
            false => Stage::Started,
        };
        self.admitted.set_stage(after);
        if (before == Stage::Waiting) != (after == Stage::Waiting) {
            self.shared.waits(&mut self.admitted, &self.frame);
            if self.admitted.has_shadow() {
                self.shadow_goes_on(|breaker, call, frame| {
                    breaker.waits(&mut call.admitted, frame);
                    true
                });
            }
        }
        value
    }

    /// Dropped before it was settled.
    #[cold]
    fn lost(&mut self) {
        let by_hand = self.admitted.is_held_by_hand();
        let judged = match self.admitted.stage() {
            Stage::Settled => return,
            Stage::Running => Judgement::failure("the call panicked".to_owned()),
            Stage::Started if by_hand && thread::panicking() => {
                Judgement::failure("the call panicked".to_owned())
            }
            Stage::Started if reason() == Reason::TimedOut => {
                Judgement::failure("timed out".to_owned())
            }
            // A call that waits is not at the service: whatever cut it says nothing about that.
            Stage::Waiting | Stage::Started => Judgement::plain(Outcome::Cancelled),
        };
        self.settle_in_place(judged);
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
