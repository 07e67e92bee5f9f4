//! What the store decides: pure, by the leaky bucket as a meter, in whole numbers only. Time is an argument.
//!
//! The Lua scripts beside this do the same; a test compares them, step by step. Every number stays below 2^53, so that it
//! is exact in a double too. Time is counted in microseconds.
//!
//! A quota is a *level*: how much is missing from a full bucket. It falls by `amount` each microsecond, and a unit raises
//! it by `period`: of 3 in 1,000,000 us nothing is lost to rounding.

use std::collections::BTreeMap;

/// The highest that a level gets: what has been promised to those who wait, or is owed.
pub(crate) const HIGHEST: u64 = 1 << 52;
/// A clock that steps back by no more than this stands still instead.
pub(crate) const STEP_BACK: u64 = 1_000_000;

/// What a quota goes by: `amount` in each `period` microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) amount: u64,
    pub(crate) period: u64,
    pub(crate) burst: u64,
}

/// What is stored of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) missing: u64,
    /// As of when.
    pub(crate) at: u64,
    /// What a unit was worth.
    pub(crate) period: u64,
}

impl Level {
    /// Whether nothing is missing any more, whatever is earned: at least one unit in a period.
    #[allow(dead_code, reason = "the test that compares has no use for it")]
    pub(crate) fn is_full(self, now: u64) -> bool {
        now >= self.at.saturating_add(self.missing)
    }
}

/// What is asked of one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) pace: Pace,
    /// Less than this is of no use.
    pub(crate) need: u64,
    /// As much as this, if it is there at once.
    pub(crate) want: u64,
}

/// Nobody has a turn before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) until: u64,
    /// How long it was made for.
    pub(crate) length: u64,
}

/// What a call, or a service, has said after the fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) pace: Pace,
    /// So much was not used.
    pub(crate) back: u64,
    /// So much was used beyond what was taken.
    pub(crate) more: u64,
    /// No more than this is left.
    pub(crate) most: u64,
}

/// What came of it, and for how long nobody has a turn because of a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) taken: Taken,
    pub(crate) paused: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// So much of each, to be used after `wait` microseconds, and so much is left.
    Granted {
        wait: u64,
        got: Vec<u64>,
        left: Vec<u64>,
    },
    /// There will be enough of this one, and of all others, after `wait`. `None`: a pause will be over.
    Refused { quota: Option<usize>, wait: u64 },
    /// This one never holds as much.
    Never { quota: usize },
}

impl Pace {
    fn capacity(self) -> u64 {
        self.burst * self.period
    }

    /// Whether all that is counted with it stays exact.
    pub(crate) fn is_exact(self) -> bool {
        let capacity = self.burst.checked_mul(self.period);
        self.amount > 0 && capacity.is_some_and(|it| 0 < it && it <= HIGHEST / 2)
    }
}

impl Ask {
    /// How much is left if there is enough after `wait` microseconds, a pause not counted: no more than there is.
    pub(crate) fn left_by(self, wait: u64) -> u64 {
        let period = u128::from(self.pace.period);
        let earned = u128::from(wait) * u128::from(self.pace.amount);
        let left = (u128::from(self.need) * period).saturating_sub(earned) / period;
        u64::try_from(left).unwrap_or(u64::MAX)
    }
}

impl Change {
    pub(crate) fn nothing(pace: Pace) -> Self {
        Self {
            pace,
            back: 0,
            more: 0,
            most: pace.burst,
        }
    }
}

impl Pause {
    /// When the next turn may be. A clock that steps back makes no pause longer.
    fn end(stored: Option<Self>, now: u64) -> u64 {
        stored.map_or(now, |it| it.until.min(now + it.length).max(now))
    }

    /// How long it lasts.
    pub(crate) fn left(stored: Option<Self>, now: u64) -> u64 {
        Self::end(stored, now) - now
    }

    /// Begins one. One that is shorter than what is left of the last changes nothing.
    fn begin(stored: &mut Option<Self>, now: u64, length: u64) -> bool {
        let is_longer = length > Self::left(*stored, now);
        if is_longer {
            let until = now + length;
            *stored = Some(Self { until, length });
        }
        is_longer
    }
}

impl Level {
    /// What is missing at `now`, in units of the pace.
    fn read(stored: Option<Self>, pace: Pace, now: u64) -> Self {
        let Some(stored) = stored else {
            return Self {
                missing: 0,
                at: now,
                period: pace.period,
            };
        };
        let mut level = stored;
        if level.period != pace.period {
            // Another process goes by another config: whole units, rounded up, and as many as it has counted.
            let units = level.missing.div_ceil(level.period);
            let units = units.min(HIGHEST / pace.period);
            level.missing = units * pace.period;
            level.period = pace.period;
        }
        if now < level.at {
            if level.at - now > STEP_BACK {
                level.at = now;
            }
            return level;
        }
        let elapsed = now - level.at;
        level.missing = match elapsed >= level.missing.div_ceil(pace.amount) {
            true => 0,
            false => level.missing - elapsed * pace.amount,
        };
        level.at = now;
        level
    }

    /// How long it takes until `units` can be taken.
    fn wait(self, pace: Pace, units: u64) -> u64 {
        let over = (self.missing + units * pace.period).saturating_sub(pace.capacity());
        match units {
            0 => 0,
            _ => over.div_ceil(pace.amount),
        }
    }

    fn left(self, pace: Pace) -> u64 {
        pace.capacity().saturating_sub(self.missing) / pace.period
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Whether it begins a pause.
    pub(crate) begins: bool,
    /// What is left of each quota.
    pub(crate) left: Vec<u64>,
}

/// Takes from all, or from none. Whoever has to wait for no longer than `max_wait` microseconds is given its turn: those
/// that come after it wait behind it.
///
/// In a pause the first turn is at its end: the levels are as they are then.
pub(crate) fn take(
    pause: Option<Pause>,
    levels: &mut [&mut Option<Level>],
    now: u64,
    max_wait: u64,
    asks: &[Ask],
) -> Answered {
    let first = Pause::end(pause, now);
    let paused = first - now;
    let answered = |taken| Answered { taken, paused };
    let mut read = Vec::with_capacity(asks.len());
    let (mut wait, mut slowest) = (paused, None);
    for (i, ask) in asks.iter().enumerate() {
        let level = Level::read(*levels[i], ask.pace, first);
        if ask.need > ask.pace.burst {
            return answered(Taken::Never { quota: i });
        }
        let this = paused + level.wait(ask.pace, ask.need);
        if this > wait {
            (wait, slowest) = (this, Some(i));
        }
        read.push(level);
    }
    let over = |(level, ask): (&Level, &Ask)| level.missing + ask.need * ask.pace.period > HIGHEST;
    let unbounded = read.iter().zip(asks).position(over);
    if wait > max_wait || unbounded.is_some() {
        let quota = slowest.or(unbounded);
        return answered(Taken::Refused { quota, wait });
    }
    let (mut got, mut left) = (Vec::new(), Vec::new());
    for (i, (ask, level)) in asks.iter().zip(&mut read).enumerate() {
        // Who waits gets what it needs; the rest is for those behind.
        let units = match wait {
            0 => ask.want.min(level.left(ask.pace)).max(ask.need),
            _ => ask.need,
        };
        if units > 0 {
            level.missing += units * ask.pace.period;
            *levels[i] = Some(*level);
        }
        got.push(units);
        left.push(level.left(ask.pace));
    }
    answered(Taken::Granted { wait, got, left })
}

/// Gives back units, takes more, or believes a service that less is left; and begins a pause, if `length` is longer than what
/// is left of another. In a pause nothing is earned: whoever has been given a turn has it later by as much.
pub(crate) fn settle(
    pause: &mut Option<Pause>,
    levels: &mut [&mut Option<Level>],
    now: u64,
    length: u64,
    changes: &[Change],
) -> Settled {
    let before = Pause::end(*pause, now);
    let begins = Pause::begin(pause, now, length);
    let first = Pause::end(*pause, now);
    let mut left = Vec::new();
    for (stored, change) in levels.iter_mut().zip(changes) {
        let pace = change.pace;
        let mut level = Level::read(**stored, pace, before);
        let units = |it: u64| it.min(pace.burst) * pace.period;
        level.missing = level.missing.saturating_sub(units(change.back)) + units(change.more);
        let most = pace.capacity() - units(change.most);
        level.missing = level.missing.max(most).min(HIGHEST);
        level.at = level.at.max(first);
        **stored = Some(level);
        left.push(level.left(pace));
    }
    Settled { begins, left }
}

/// Who uses a limit: when each was last heard of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nodes(BTreeMap<String, u64>);

impl Nodes {
    /// Whether any was heard of within `ttl` microseconds.
    #[allow(dead_code, reason = "the test that compares has no use for it")]
    pub(crate) fn is_any(&self, now: u64, ttl: u64) -> bool {
        self.0.values().any(|at| *at + ttl > now)
    }

    /// `node` is there. How many are: those that were heard of within `ttl` microseconds.
    pub(crate) fn beat(&mut self, now: u64, node: &str, ttl: u64) -> u64 {
        // One from the future is from before the clock stepped back: who is there says so again.
        self.0
            .retain(|_, at| *at + ttl > now && *at <= now + STEP_BACK);
        self.0.insert(node.to_owned(), now);
        self.0.len() as u64
    }
}
