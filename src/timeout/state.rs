//! When a call ends: numbers in, numbers out.

use std::time::Duration;

use crate::error::TimeoutPhase;
use crate::util::time::Tick;

/// What bounds a call that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How long it may be at the service.
    pub(super) head: Option<Duration>,
    /// When all of it ends; [`Tick::NEVER`] if nothing bounds that.
    pub(super) total_ends: Tick,
    /// Whether the ambient deadline ends it.
    pub(super) at_deadline: bool,
}

/// How far the call is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) now: Tick,
    /// How long it has been at the service.
    pub(super) spent: Duration,
    /// Whether it waits for something of this crate now.
    pub(super) waits: bool,
    /// How long it has waited for that, so far.
    pub(super) waited: Duration,
    /// The ambient deadline; [`Tick::NEVER`] if there is none.
    pub(super) deadline: Tick,
}

impl Bounds {
    #[inline]
    pub(super) fn is_bounded(&self) -> bool {
        self.head.is_some() || self.total_ends != Tick::NEVER || self.at_deadline
    }

    /// When to look again, or what the call is ended by now.
    ///
    /// `head` bounds the time at the service: it stands still while the call waits for something of this crate. A call that
    /// has had that time is ended by it, even if the caller's own time is over too: the service has had its chance.
    pub(super) fn look(&self, seen: Seen) -> Result<Tick, TimeoutPhase> {
        let head = self.head.unwrap_or(Duration::MAX);
        if !seen.waits && seen.spent >= head {
            return Err(TimeoutPhase::Head);
        }
        if seen.now >= self.total_ends {
            return Err(TimeoutPhase::Total);
        }
        let deadline = match self.at_deadline {
            true => seen.deadline,
            false => Tick::NEVER,
        };
        if seen.now >= deadline {
            return Err(TimeoutPhase::Deadline);
        }
        // The end of a wait polls the call. One that was taken elsewhere is looked for ever more rarely.
        let left = match seen.waits {
            true => head.max(seen.waited),
            false => head - seen.spent,
        };
        Ok(seen.now.after(left).min(self.total_ends).min(deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bounds(head: u64, total_ends: u64) -> Bounds {
        Bounds {
            head: Some(Duration::from_secs(head)),
            total_ends: Tick(0).after(Duration::from_secs(total_ends)),
            at_deadline: true,
        }
    }

    /// At this second, after so long at the service.
    fn at(now: u64, spent: u64) -> Seen {
        Seen {
            now: Tick(0).after(Duration::from_secs(now)),
            spent: Duration::from_secs(spent),
            waits: false,
            waited: Duration::ZERO,
            deadline: Tick::NEVER,
        }
    }

    fn second(n: u64) -> Tick {
        Tick(0).after(n as u32 * SECOND)
    }

    #[test]
    fn what_ends_first_is_looked_for_first() {
        assert_eq!(bounds(5, 9).look(at(1, 1)), Ok(second(5)));
        assert_eq!(bounds(5, 3).look(at(1, 1)), Ok(second(3)));
        let hurried = Seen {
            deadline: second(2),
            ..at(1, 1)
        };
        assert_eq!(bounds(5, 3).look(hurried), Ok(second(2)));
        let mut deaf = bounds(5, 3);
        deaf.at_deadline = false;
        assert_eq!(deaf.look(hurried), Ok(second(3)));
    }

    #[test]
    fn who_has_had_its_time_at_the_service_is_ended_by_that_and_not_by_the_callers_hurry() {
        assert_eq!(bounds(5, 5).look(at(5, 5)), Err(TimeoutPhase::Head));
        assert_eq!(bounds(5, 5).look(at(5, 4)), Err(TimeoutPhase::Total));
        let late = Seen {
            deadline: second(4),
            ..at(4, 4)
        };
        assert_eq!(bounds(5, 5).look(late), Err(TimeoutPhase::Deadline));
    }

    #[test]
    fn a_call_that_waits_is_ended_by_the_callers_time_only() {
        let waiting = |now| Seen {
            waits: true,
            waited: Duration::from_secs(now),
            ..at(now, 5)
        };
        assert_eq!(bounds(5, 9).look(waiting(7)), Ok(second(9)));
        assert_eq!(bounds(5, 99).look(waiting(20)), Ok(second(40)));
        assert_eq!(bounds(5, 9).look(waiting(9)), Err(TimeoutPhase::Total));
    }

    #[test]
    fn limits_too_long_to_count_never_end() {
        let endless = Bounds {
            head: Some(Duration::MAX),
            total_ends: Tick(9).after(Duration::MAX),
            at_deadline: false,
        };
        assert_eq!(endless.look(at(1, 1)), Ok(Tick::NEVER));
    }
}
