//! When the next hedge of a call starts, and which answer ends it: no clock, no lock, no waiting.

use std::time::Duration;

use crate::util::time::Tick;

/// One call that may be hedged. An *attempt* is the call itself or a hedge of it.
#[derive(Debug)]
pub(super) struct Race {
    /// How many hedges may start yet.
    left: u32,
    /// How many attempts have begun.
    begun: u32,
    /// How many of them run.
    live: u32,
    due: Due,
    /// From here on nobody needs an answer.
    ends: Tick,
}

/// When the next hedge starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Never,
    /// When the newest attempt has been at the service for so long.
    AfterNewest {
        began: Tick,
        delay: Duration,
    },
    At(Tick),
    AtOnce,
}

/// What is to be done while nothing ends.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// No hedge will start.
    Never,
    /// The newest attempt waits in this crate: its clock stands still, and the end of the wait is looked for.
    AfterTheWait,
    At(Tick),
    AtOnce,
}

/// How an attempt has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With what ends the call: a success, or something that another attempt cannot better.
    Final,
    /// With something that another attempt may better.
    Failed(Next),
    /// A layer of this crate refused it.
    Refused,
}

/// What a failure says of the hedges that have not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    AsPlanned,
    AtOnce,
    After(Duration),
    /// The service wants no more of them.
    None,
}

/// Why a hedge whose turn it was has not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotBegun {
    /// For this call there will be none.
    ForGood,
    /// The service below was not ready, or would refuse.
    Refused,
    /// The attempt that runs has not sent all of the request: the turn stays, and comes again soon.
    Later,
}

impl Race {
    /// A call that begins, and that up to `extra` hedges may follow.
    pub(super) fn new(extra: u32) -> Self {
        Self {
            left: extra,
            begun: 1,
            live: 1,
            due: Due::Never,
            ends: Tick::NEVER,
        }
    }

    /// The first attempt has begun at `now`, and has not ended at once. No hedge starts at `ends` or later.
    pub(super) fn first_waits(&mut self, now: Tick, delay: Option<Duration>, ends: Tick) {
        self.ends = ends;
        self.due = after_newest(now, delay);
    }

    /// No hedge starts at `at` or later either.
    pub(super) fn ends_by(&mut self, at: Tick) {
        self.ends = self.ends.min(at);
    }

    /// How many attempts have begun.
    pub(super) fn begun(&self) -> u32 {
        self.begun
    }

    /// How many attempts run.
    pub(super) fn live(&self) -> u32 {
        self.live
    }

    /// Whether another hedge may follow the one whose turn it is.
    pub(super) fn has_more_than_one_left(&self) -> bool {
        self.left > 1
    }

    /// What follows, while the newest attempt waits in this crate or not, and has waited for so long in all.
    pub(super) fn turn(&self, newest_waits: bool, newest_waited: Duration) -> Turn {
        if self.left == 0 {
            return Turn::Never;
        }
        let at = match self.due {
            Due::Never => return Turn::Never,
            Due::AtOnce => return Turn::AtOnce,
            Due::AfterNewest { .. } if newest_waits => return Turn::AfterTheWait,
            Due::AfterNewest { began, delay } => began.after(delay).after(newest_waited),
            Due::At(at) => at,
        };
        match at >= self.ends {
            true => Turn::Never,
            false => Turn::At(at),
        }
    }

    /// Whether it is too late for another attempt.
    pub(super) fn is_late(&self, now: Tick) -> bool {
        now >= self.ends
    }

    /// There will be no more hedges.
    pub(super) fn stop(&mut self) {
        self.left = 0;
    }

    /// Whether nothing runs, and nothing will.
    pub(super) fn is_over(&self) -> bool {
        self.live == 0 && self.turn(false, Duration::ZERO) == Turn::Never
    }

    /// A hedge has begun.
    pub(super) fn hedged(&mut self, now: Tick, delay: Option<Duration>) {
        self.left = self.left.saturating_sub(1);
        self.begun += 1;
        self.live += 1;
        self.due = after_newest(now, delay);
    }

    /// A hedge whose turn it was has not begun. Unless it comes later its turn is over, and the next is a delay away.
    pub(super) fn not_hedged(&mut self, why: NotBegun, now: Tick, delay: Option<Duration>) {
        self.left = match why {
            NotBegun::Later => self.left,
            NotBegun::Refused if self.live > 0 => self.left.saturating_sub(1),
            // With nothing on its way there is nothing to wait for.
            NotBegun::Refused | NotBegun::ForGood => 0,
        };
        let delay = match why {
            NotBegun::Later => Some(SOON),
            NotBegun::Refused | NotBegun::ForGood => delay,
        };
        self.due = delay.map_or(Due::Never, |delay| Due::At(now.after(delay.max(SOON))));
    }

    /// An attempt has ended: whether that ends the call.
    #[must_use]
    pub(super) fn ended(&mut self, end: End, now: impl FnOnce() -> Tick) -> bool {
        self.live = self.live.saturating_sub(1);
        match end {
            End::Final => self.left = 0,
            End::Failed(Next::AtOnce) => self.due = Due::AtOnce,
            End::Failed(Next::After(delay)) => self.due = Due::At(now().after(delay)),
            End::Failed(Next::None) => self.left = 0,
            // A hedge starts beside what runs. What has ended badly is for a retry.
            End::Failed(Next::AsPlanned) | End::Refused => {
                if self.live == 0 {
                    self.left = 0;
                }
            }
        }
        end == End::Final
    }
}

/// A turn that comes again comes no sooner than this.
const SOON: Duration = Duration::from_millis(5);

fn after_newest(began: Tick, delay: Option<Duration>) -> Due {
    delay.map_or(Due::Never, |delay| Due::AfterNewest { began, delay })
}
