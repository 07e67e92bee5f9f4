use std::fmt;
use std::task::Poll;
use std::thread;

use super::shared::Shared;
use crate::call::context::{Frame, Reason, reason};
use crate::call::outcome::Outcome;
use crate::util::sharded::ArcShard;

/// Proof that a call may be made. Settle it with how the call ended.
///
/// One that is dropped counts as neither request nor accept, unless the call was at the service and was dropped because an
/// attempt timeout of this crate had passed, or panicked: then it was not accepted.
#[must_use = "settle it with how the call ended: a dropped permit is not counted"]
pub struct ThrottlePermit {
    shared: ArcShard<Shared>,
    stage: Stage,
    frame: Frame,
}

/// Where the call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// In code that settles by hand.
    ByHand,
    Started,
    /// It waits for something of this crate.
    Waiting,
    /// Its code runs.
    Running,
    Settled,
}

impl ThrottlePermit {
    #[inline]
    pub(super) fn new(shared: ArcShard<Shared>, is_by_hand: bool) -> Self {
        Self {
            shared,
            stage: match is_by_hand {
                true => Stage::ByHand,
                false => Stage::Started,
            },
            frame: Frame::default(),
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

    /// The service had no room for the call.
    pub fn overload(self) {
        self.settle(Outcome::Overload);
    }

    /// The call says nothing about the service.
    pub fn ignore(self) {
        self.settle(Outcome::Ignored);
    }

    /// The call ended with `outcome`.
    pub fn settle(mut self, outcome: Outcome) {
        self.settle_in_place(outcome);
    }

    #[inline]
    pub(super) fn settle_in_place(&mut self, outcome: Outcome) {
        if self.stage != Stage::Settled {
            self.stage = Stage::Settled;
            self.shared.settle(outcome);
        }
    }

    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        self.stage == Stage::Settled
    }

    /// Runs a part of the call. If it panics, the permit that is dropped on the way out knows.
    #[inline]
    pub(super) fn running<T>(&mut self, part: impl FnOnce() -> T) -> T {
        self.stage = Stage::Running;
        let value = self.frame.enter(0, part);
        self.stage = Stage::Started;
        value
    }

    /// Polls the call. If it panics, the permit that is dropped on the way out knows.
    #[inline]
    pub(super) fn poll<T>(&mut self, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        self.stage = Stage::Running;
        let value = self.frame.poll(0, poll);
        self.stage = match self.frame.is_waiting() {
            true => Stage::Waiting,
            false => Stage::Started,
        };
        value
    }

    /// Dropped before it was settled.
    #[cold]
    fn lost(&mut self) {
        let is_failure = match self.stage {
            Stage::Settled | Stage::Waiting => false,
            Stage::Running => true,
            Stage::ByHand => thread::panicking(),
            Stage::Started => reason() == Reason::TimedOut,
        };
        self.settle_in_place(match is_failure {
            true => Outcome::Failure,
            false => Outcome::Cancelled,
        });
    }
}

impl Drop for ThrottlePermit {
    #[inline]
    fn drop(&mut self) {
        if !self.is_settled() {
            self.lost();
        }
    }
}

impl fmt::Debug for ThrottlePermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottlePermit")
            .field("throttle", &self.shared.name())
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}
