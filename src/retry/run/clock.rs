//! The times of a call. The clock is read only for those who have use for it.

use std::time::Duration;

use super::super::config::RetryConfig;
use crate::call::deadline::Deadline;
use crate::util::time::{self, Tick};

/// What is known of a call's times. [`UNREAD`] where nobody has looked, [`Tick::NEVER`] where nothing ends.
#[derive(Debug)]
pub(super) struct Clock {
    pub(super) started: Tick,
    pub(super) attempt_began: Tick,
    /// When the policy's own total timeout is over.
    pub(super) total_ends: Tick,
    /// When the caller can use no answer any more: the request's own deadline.
    pub(super) caller_ends: Tick,
}

pub(super) const UNREAD: Tick = Tick(0);

impl Clock {
    #[inline]
    pub(super) fn unread(caller_ends: Tick) -> Self {
        Self {
            started: UNREAD,
            attempt_began: UNREAD,
            total_ends: Tick::NEVER,
            caller_ends,
        }
    }

    /// The clock of a call that has a timeout, and whose first attempt begins.
    #[inline(never)]
    pub(super) fn begun(rules: &RetryConfig, caller_ends: Tick) -> Self {
        let now = time::now();
        let total = rules.total_timeout;
        Self {
            started: now,
            attempt_began: now,
            total_ends: total.map_or(Tick::NEVER, |it| now.after(it)),
            caller_ends,
        }
    }

    pub(super) fn starts(&mut self, now: impl FnOnce() -> Tick) {
        if self.started == UNREAD {
            self.started = now();
        }
    }

    /// When all of it ends.
    #[inline]
    pub(super) fn ends(&self) -> Tick {
        self.total_ends.min(self.caller_ends)
    }

    pub(super) fn total_timeout(&self) -> Option<Duration> {
        let is_limited = self.total_ends != Tick::NEVER;
        is_limited.then(|| self.total_ends.since(self.started))
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let ends = self.ends();
        (ends != Tick::NEVER).then_some(Deadline(ends))
    }
}
