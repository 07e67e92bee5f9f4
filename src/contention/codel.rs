//! When a queue is overloaded, and who has waited for too long then: pure, from delays and the time.
//!
//! CoDel (RFC 8289) as folly has it for requests (`folly/executors/Codel.cpp`), and the adaptive order of B. Maurer, "Fail
//! at Scale", ACM Queue 13(8), 2015.

use std::time::Duration;

use crate::util::time::Tick;

/// In which order those who wait are served, and when they are refused although their own time is not over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Queue {
    /// First come, first served: the default.
    #[default]
    Fifo,
    /// First come, first served; while the queue is overloaded, those who have waited for more than twice `target` are
    /// refused. It is overloaded if nobody in a whole `interval` waited for at most `target`.
    #[non_exhaustive]
    Codel {
        /// The wait that is fine.
        #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
        #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
        target: Duration,
        /// For how long it may be exceeded.
        #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
        #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
        interval: Duration,
    },
    /// First come, first served as long as the queue was empty within `interval`. After that the last comes first, who
    /// can still use what it gets, and with each permit that comes back those who have waited for more than `interval` are
    /// refused.
    #[non_exhaustive]
    LifoWhenOverloaded {
        /// For how long the queue may not be empty.
        #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
        #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
        interval: Duration,
    },
}

impl Queue {
    /// First come, first served.
    #[must_use]
    pub const fn fifo() -> Self {
        Self::Fifo
    }

    /// First come, first served, with CoDel: 5 ms and 100 ms are the values of the papers, for queues of requests that
    /// take milliseconds.
    #[must_use]
    pub const fn codel(target: Duration, interval: Duration) -> Self {
        Self::Codel { target, interval }
    }

    /// The last comes first once the queue has not been empty for `interval`.
    #[must_use]
    pub const fn lifo_when_overloaded(interval: Duration) -> Self {
        Self::LifoWhenOverloaded { interval }
    }
}

/// What CoDel remembers.
#[derive(Clone, Debug)]
pub(super) struct Codel {
    /// The shortest wait of the running interval.
    pub(super) min_delay: Duration,
    interval_ends: Tick,
    /// The next delay begins an interval.
    fresh: bool,
    pub(super) overloaded: bool,
}

impl Codel {
    pub(super) const fn new() -> Self {
        Self {
            min_delay: Duration::ZERO,
            interval_ends: Tick(0),
            fresh: true,
            overloaded: false,
        }
    }

    /// Whether somebody who has waited for `delay` is refused now.
    pub(super) fn sheds(
        &mut self,
        delay: Duration,
        now: Tick,
        (target, interval): (Duration, Duration),
    ) -> bool {
        if now > self.interval_ends && !self.fresh {
            self.fresh = true;
            self.interval_ends = now.after(interval);
            self.overloaded = self.min_delay > target;
        }
        if std::mem::take(&mut self.fresh) {
            // An interval needs more than one wait before anybody is refused.
            self.min_delay = delay;
            return false;
        }
        self.min_delay = self.min_delay.min(delay);
        self.overloaded && delay > target * 2
    }
}
