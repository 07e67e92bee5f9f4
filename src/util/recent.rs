//! How long things took since the beginning, and how long they took of late.

use std::time::Duration;

use super::histogram::{DurationSummary, Histogram};
use super::time::Tick;

/// A window of two halves slides over the times: each time is recorded once, in the newer half, and what leaves the
/// window is added to what was before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecentHistogram {
    turned: Tick,
    newer: Histogram,
    older: Option<Box<Histogram>>,
    before: Option<Box<Histogram>>,
}

fn join(into: &mut Option<Box<Histogram>>, from: Option<Box<Histogram>>) {
    match (into, from) {
        (Some(into), Some(from)) => into.add(&from),
        (into, from @ Some(_)) => *into = from,
        (_, None) => {}
    }
}

impl RecentHistogram {
    /// The window covers the last one to two of these.
    pub(crate) const HALF: Duration = Duration::from_secs(30);

    #[inline]
    pub(crate) fn record(&mut self, duration: Duration, now: Tick) {
        self.turn(now);
        self.newer.record(duration);
    }

    /// What took no time at all.
    #[inline]
    pub(crate) fn record_zero(&mut self, now: Tick) {
        self.turn(now);
        self.newer.record_zero();
    }

    /// Lets go of what is too old.
    #[inline]
    pub(crate) fn turn(&mut self, now: Tick) {
        let passed = now.since(self.turned);
        if passed >= Self::HALF {
            self.turn_by(passed, now);
        }
    }

    #[cold]
    fn turn_by(&mut self, passed: Duration, now: Tick) {
        join(&mut self.before, self.older.take());
        let newer = std::mem::take(&mut self.newer);
        let newer = (newer.len() > 0).then(|| Box::new(newer));
        if passed < Self::HALF * 2 {
            self.older = newer;
            self.turned = self.turned.after(Self::HALF);
        } else {
            join(&mut self.before, newer);
            self.turned = now;
        }
    }

    /// Adds what was recorded elsewhere. Both have been turned to the same moment.
    pub(crate) fn add(&mut self, other: &Self) {
        self.newer.add(&other.newer);
        join(&mut self.older, other.older.clone());
        join(&mut self.before, other.before.clone());
    }

    /// Those in the window.
    pub(crate) fn recent(&self) -> DurationSummary {
        let mut recent = self.newer.clone();
        self.older.iter().for_each(|it| recent.add(it));
        recent.summary()
    }

    /// How many are in the window, and how long the share `quantile` of them took at most.
    pub(crate) fn recent_quantile(&self, quantile: f64) -> (u64, Duration) {
        let mut recent = self.newer.clone();
        self.older.iter().for_each(|it| recent.add(it));
        (recent.len(), recent.quantile(quantile))
    }

    /// All of them.
    pub(crate) fn since_the_start(&self) -> DurationSummary {
        self.all().summary()
    }

    /// All of them, in buckets.
    pub(crate) fn all(&self) -> Histogram {
        let mut all = self.newer.clone();
        let rest = self.older.iter().chain(&self.before);
        rest.for_each(|it| all.add(it));
        all
    }

    /// How many there are and their sum: in the window, and before it.
    pub(crate) fn totals(&self) -> [(u64, u128); 2] {
        let of = |it: &Histogram| (it.len(), it.sum());
        let of_box = |it: &Option<Box<Histogram>>| it.as_deref().map_or((0, 0), of);
        let (newer, older) = (of(&self.newer), of_box(&self.older));
        let recent = (newer.0 + older.0, newer.1 + older.1);
        [recent, of_box(&self.before)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn summary(times: impl Iterator<Item = u64>) -> DurationSummary {
        let mut histogram = Histogram::default();
        times.for_each(|it| histogram.record(Duration::from_millis(it)));
        histogram.summary()
    }

    proptest! {
        /// Against a list of all times with their moments.
        #[test]
        fn a_time_is_in_the_window_for_at_least_half_of_it_and_never_longer_than_all_of_it(
            steps in prop::collection::vec((0..50_u64, 0..5_000_u64), 0..40),
            last in 0..100_u64,
        ) {
            let mut subject = RecentHistogram::default();
            let mut now = 1_000;
            let mut times = Vec::new();
            for (step, time) in steps {
                now += step;
                subject.record(Duration::from_millis(time), Tick(now * SECOND));
                times.push((now, time));
            }
            now += last;
            subject.turn(Tick(now * SECOND));
            let all = summary(times.iter().map(|it| it.1));
            prop_assert_eq!(subject.since_the_start(), all);
            let later_than = |age: u64| times.iter().filter(move |it| now - it.0 < age).count() as u64;
            let recent = subject.recent().count;
            prop_assert!(recent >= later_than(30), "{recent}");
            prop_assert!(recent <= later_than(60), "{recent}");
            let newest = times[times.len() - recent as usize..].iter().map(|it| it.1);
            prop_assert_eq!(subject.recent(), summary(newest));
            let [(inside, a), (outside, b)] = subject.totals();
            prop_assert_eq!((inside, inside + outside), (recent, all.count));
            let sum = times.iter().map(|it| u128::from(it.1) * 1_000_000).sum::<u128>();
            prop_assert_eq!(a + b, sum);
        }
    }
}
