//! What the timeouts of a call leave for the body of its response.

use std::time::Duration;

use super::shared::Shared;
use crate::call::deadline::Deadline;
use crate::error::{TimedOut, TimeoutPhase};
use crate::util::sharded::ArcShard;
use crate::util::time::{self, Tick};

/// How long the body of a response may take.
#[doc(hidden)]
#[derive(Debug)]
#[expect(
    unnameable_types,
    reason = "only passes between the layers of this crate"
)]
pub struct BodyTimeouts {
    pub(super) shared: ArcShard<Shared>,
    pub(super) first_frame: Option<Duration>,
    pub(super) idle: Option<Duration>,
    /// When the call began; if nobody looked then, when its head came.
    pub(super) started: Tick,
    pub(super) total_ends: Tick,
    /// The ambient deadline, if it ends the body.
    pub(super) deadline: Tick,
}

impl BodyTimeouts {
    pub(crate) fn first_frame(&self) -> Option<Duration> {
        self.first_frame
    }

    pub(crate) fn idle(&self) -> Option<Duration> {
        self.idle
    }

    /// When the body ends, also if it is not silent.
    pub(crate) fn ends(&self) -> Option<Deadline> {
        let ends = self.total_ends.min(self.deadline);
        (ends != Tick::NEVER).then_some(Deadline(ends))
    }

    /// A frame was waited for until its limit.
    pub(crate) fn silent(&self, phase: TimeoutPhase, limit: Duration) -> TimedOut {
        self.shared.timed_out(phase, Some(limit), limit)
    }

    /// The time for all of it was over.
    pub(crate) fn over(&self) -> TimedOut {
        let after = time::now().since(self.started);
        if self.deadline < self.total_ends {
            return self.shared.timed_out(TimeoutPhase::Deadline, None, after);
        }
        let limit = self.total_ends.since(self.started);
        self.shared
            .timed_out(TimeoutPhase::Total, Some(limit), after)
    }
}
