//! One quota: pure, by the generic cell rate algorithm.
//!
//! A quota is one number, the theoretical arrival time: when the bucket would be full again. What is used moves it ahead,
//! and a call conforms if it does not get further ahead of the time than a full bucket reaches. (ITU-T I.371, Annex A;
//! virtual scheduling.)

/// Eighths of a nanosecond since the limit was made.
pub(super) type Time = u64;

/// What a quota goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// How long a unit takes to be earned.
    pub(super) interval: u64,
    /// How long a full bucket takes.
    pub(super) capacity: u64,
}

impl Pace {
    fn span(self, units: u64) -> u64 {
        self.interval.saturating_mul(units)
    }

    /// Whether there can ever be as much.
    pub(super) fn can_hold(self, units: u64) -> bool {
        self.span(units) <= self.capacity
    }

    /// When `units` can be taken from a bucket that is full again at `full`.
    pub(super) fn free_at(self, full: Time, units: u64) -> Time {
        match units {
            0 => 0,
            _ => full
                .saturating_add(self.span(units))
                .saturating_sub(self.capacity),
        }
    }

    /// When it is full again after `units` have been taken at `now`.
    pub(super) fn taken(self, full: Time, units: u64, now: Time) -> Time {
        full.max(now).saturating_add(self.span(units)).min(MOST)
    }

    /// The same, after `units` have come back.
    pub(super) fn given_back(self, full: Time, units: u64, now: Time) -> Time {
        // What has been earned meanwhile is not given twice: no bucket is more than full.
        full.saturating_sub(self.span(units)).max(now)
    }

    /// How many units there are.
    pub(super) fn available(self, full: Time, now: Time) -> u64 {
        let missing = full.saturating_sub(now);
        self.capacity.saturating_sub(missing) / self.interval.max(1)
    }

    /// How many units have been used that were never there.
    pub(super) fn debt(self, full: Time, now: Time) -> u64 {
        let missing = full.saturating_sub(now);
        missing
            .saturating_sub(self.capacity)
            .div_ceil(self.interval.max(1))
    }

    /// When a bucket is full that has `units`, or fewer if it cannot hold as many.
    pub(super) fn with(self, units: u64, now: Time) -> Time {
        now.saturating_add(self.capacity.saturating_sub(self.span(units)))
    }
}

/// The furthest that a bucket gets ahead: the time and this fit into 63 bits.
const MOST: Time = (1 << 63) - 1;
