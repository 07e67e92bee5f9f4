//! How long things took, in bounded memory.
//!
//! Eight buckets for each power of two, from a microsecond to some nineteen hours. Only the powers of two between the
//! shortest and the longest time are in memory: 64 bytes each, at most 35 of them. A quantile is exact to the bucket: at
//! most an eighth above the true value, and never below it. A general histogram crate was looked at and is too large to
//! have two of them in each of thousands of named locks.

use std::time::Duration;

use crate::util::time::nanos;

const PER_OCTAVE: usize = 8;
const HIGHEST_BIT: usize = 36;
const BUCKETS: usize = (HIGHEST_BIT - 1) * PER_OCTAVE;

#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    /// The buckets of the octaves that are in memory.
    octaves: Vec<[u64; PER_OCTAVE]>,
    /// The number of the first of them.
    first: u32,
    /// How often the sum began again.
    carried: u32,
    zeros: u64,
    /// How many were longer than zero.
    others: u64,
    sum_nanos: u64,
    max_nanos: u64,
}

/// Times, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DurationSummary {
    /// How many there were.
    pub count: u64,
    /// Their mean.
    pub mean: Duration,
    /// The longest.
    pub max: Duration,
    /// Half of them took no longer; like the other quantiles at most 12.5 % above the true value.
    pub p50: Duration,
    /// Nine in ten took no longer.
    pub p90: Duration,
    /// Ninety-five in a hundred took no longer.
    pub p95: Duration,
    /// Ninety-nine in a hundred took no longer.
    pub p99: Duration,
}

fn bucket_of(micros: u64) -> usize {
    let bit = 63 - (micros | 1).leading_zeros() as usize;
    if bit < 3 {
        return micros as usize;
    }
    if bit > HIGHEST_BIT {
        return BUCKETS - 1;
    }
    let within = (micros >> (bit - 3)) as usize & (PER_OCTAVE - 1);
    (bit - 2) * PER_OCTAVE + within
}

/// The largest number of microseconds that falls into a bucket.
fn upper_edge(bucket: usize) -> u64 {
    if bucket < PER_OCTAVE {
        return bucket as u64;
    }
    let bit = bucket / PER_OCTAVE + 2;
    let width = 1u64 << (bit - 3);
    let within = (bucket % PER_OCTAVE) as u64;
    (1u64 << bit) + (within + 1) * width - 1
}

impl Histogram {
    pub(crate) fn record(&mut self, duration: Duration) {
        let nanos = nanos(duration);
        self.count(bucket_of(nanos / 1_000), 1);
        self.others += 1;
        self.add_up(nanos, 0);
        self.max_nanos = self.max_nanos.max(nanos);
    }

    fn add_up(&mut self, nanos: u64, carried: u32) {
        let (sum, over) = self.sum_nanos.overflowing_add(nanos);
        self.sum_nanos = sum;
        self.carried += carried + u32::from(over);
    }

    pub(crate) fn len(&self) -> u64 {
        self.zeros + self.others
    }

    pub(crate) fn sum(&self) -> u128 {
        u128::from(self.carried) << 64 | u128::from(self.sum_nanos)
    }

    /// What took no time at all.
    #[inline]
    pub(crate) fn record_zero(&mut self) {
        self.zeros += 1;
    }

    #[inline]
    fn count(&mut self, bucket: usize, times: u64) {
        let (octave, within) = (bucket / PER_OCTAVE, bucket % PER_OCTAVE);
        let known = octave.checked_sub(self.first as usize);
        match known.and_then(|at| self.octaves.get_mut(at)) {
            Some(buckets) => buckets[within] += times,
            None => self.widen(octave)[within] += times,
        }
    }

    /// Makes room for an octave, and for those between it and the ones that are there.
    #[cold]
    fn widen(&mut self, octave: usize) -> &mut [u64; PER_OCTAVE] {
        const EMPTY: [u64; PER_OCTAVE] = [0; PER_OCTAVE];
        if self.octaves.is_empty() {
            self.first = octave as u32;
        }
        if let Some(below) = (self.first as usize).checked_sub(octave) {
            self.octaves.reserve_exact(below.max(1));
            self.octaves.splice(0..0, std::iter::repeat_n(EMPTY, below));
            self.first = octave as u32;
        }
        let at = octave - self.first as usize;
        if at >= self.octaves.len() {
            self.octaves.reserve_exact(at + 1 - self.octaves.len());
            self.octaves.resize(at + 1, EMPTY);
        }
        &mut self.octaves[at]
    }

    /// Each bucket that is in memory, by its number.
    fn buckets(&self) -> impl Iterator<Item = (usize, u64)> {
        let all = self.octaves.iter().flatten().copied();
        (self.first as usize * PER_OCTAVE..).zip(all)
    }

    /// The middle of each bucket that is in memory, and how many times are in it.
    #[cfg(feature = "metrics")]
    pub(crate) fn cells(&self) -> impl Iterator<Item = (Duration, u64)> {
        let middle = |bucket: usize| {
            let above = bucket.checked_sub(1).map_or(0, |it| upper_edge(it) + 1);
            // A bucket ends where the next one begins.
            let twice = above + upper_edge(bucket) + 1;
            Duration::from_nanos(twice.saturating_mul(500))
        };
        let others = self.buckets().map(move |(at, count)| (middle(at), count));
        std::iter::once((Duration::ZERO, self.zeros)).chain(others)
    }

    /// Adds what was recorded elsewhere.
    pub(crate) fn add(&mut self, other: &Self) {
        for (bucket, times) in other.buckets().filter(|(_, times)| *times > 0) {
            self.count(bucket, times);
        }
        self.zeros += other.zeros;
        self.others += other.others;
        self.add_up(other.sum_nanos, other.carried);
        self.max_nanos = self.max_nanos.max(other.max_nanos);
    }

    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let count = self.len();
        let rank = ((share * count as f64).ceil() as u64).clamp(1, count.max(1));
        let max = Duration::from_nanos(self.max_nanos);
        let mut seen = self.zeros;
        if seen >= rank {
            // What took no time is in the first bucket.
            return Duration::from_nanos(999).min(max);
        }
        for (bucket, times) in self.buckets() {
            seen += times;
            if seen >= rank {
                // The last bucket has no upper edge but the maximum.
                let edge = match bucket {
                    last if last == BUCKETS - 1 => max,
                    _ => Duration::from_micros(upper_edge(bucket)) + Duration::from_nanos(999),
                };
                return edge.min(max);
            }
        }
        max
    }

    pub(crate) fn summary(&self) -> DurationSummary {
        let count = self.len();
        if count == 0 {
            return DurationSummary::default();
        }
        let mean = self.sum() / u128::from(count);
        DurationSummary {
            count,
            mean: Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)),
            max: Duration::from_nanos(self.max_nanos),
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p95: self.quantile(0.95),
            p99: self.quantile(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_zero_is_recorded_as_any_other_time_is() {
        for others in [&[][..], &[3, 900, 1_000_000]] {
            let [mut zeros, mut times] = [Histogram::default(), Histogram::default()];
            for nanos in others {
                zeros.record(Duration::from_nanos(*nanos));
                times.record(Duration::from_nanos(*nanos));
            }
            for _ in 0..4 {
                zeros.record_zero();
                times.record(Duration::ZERO);
            }
            assert_eq!(zeros.summary(), times.summary());
        }
    }

    #[test]
    fn what_was_recorded_in_two_places_adds_up_to_what_one_would_have_recorded() {
        let [mut one, mut left, mut right] = [(); 3].map(|()| Histogram::default());
        for (nth, nanos) in [0, 7, 1_000, 55_000, 1 << 40, 3].into_iter().enumerate() {
            let time = Duration::from_nanos(nanos);
            one.record(time);
            if nth % 2 == 0 { &mut left } else { &mut right }.record(time);
        }
        left.record_zero();
        one.record_zero();
        let mut sum = Histogram::default();
        sum.add(&left);
        sum.add(&right);
        assert_eq!(sum.summary(), one.summary());
    }

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        for bucket in 0..BUCKETS - 1 {
            let edge = upper_edge(bucket);
            assert_eq!(bucket_of(edge), bucket);
            assert_eq!(bucket_of(edge + 1), bucket + 1);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn times_that_are_alike_take_a_cache_line_and_all_times_together_some_two_kibibytes() {
        let mut histogram = Histogram::default();
        for micros in 1_024..2_047 {
            histogram.record(Duration::from_micros(micros));
        }
        assert_eq!(histogram.octaves.capacity(), 1);
        for shift in 0..64 {
            histogram.record(Duration::from_nanos(1 << shift));
        }
        assert_eq!(histogram.octaves.capacity(), BUCKETS / PER_OCTAVE);
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        assert_eq!(Histogram::default().summary(), DurationSummary::default());
    }

    #[test]
    fn the_mean_is_that_of_the_values_and_not_of_the_buckets() {
        let mut histogram = Histogram::default();
        for micros in [1_001, 2_003, 9_002] {
            histogram.record(Duration::from_micros(micros));
        }
        assert_eq!(histogram.summary().mean, Duration::from_micros(4_002));
        assert_eq!(histogram.summary().count, 3);
    }

    #[test]
    fn a_quantile_is_not_below_times_that_are_no_whole_microseconds() {
        let mut histogram = Histogram::default();
        for nanos in [700, 5_999, 900_000] {
            histogram.record(Duration::from_nanos(nanos));
        }
        assert_eq!(histogram.quantile(0.1), Duration::from_nanos(999));
        assert_eq!(histogram.summary().p50, Duration::from_nanos(5_999));
    }

    #[test]
    fn a_time_too_long_for_the_buckets_is_the_maximum() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::MAX);
        let longest = Duration::from_nanos(u64::MAX);
        assert_eq!(histogram.summary().p50, longest);
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn a_cell_is_at_most_a_sixteenth_away_from_the_times_in_it() {
        for micros in [1, 7, 8, 100, 1_000, 123_456, 7_654_321] {
            let time = Duration::from_micros(micros);
            let mut histogram = Histogram::default();
            histogram.record(time);
            histogram.record_zero();
            let cells: Vec<_> = histogram.cells().filter(|(_, n)| *n > 0).collect();
            assert_eq!(cells.len(), 2);
            assert_eq!(cells[0], (Duration::ZERO, 1));
            let (cell, limit) = (cells[1].0, time / 16 + Duration::from_micros(1));
            assert!(cell.abs_diff(time) <= limit, "{cell:?} for {time:?}");
        }
    }

    proptest! {
        #[test]
        fn a_quantile_is_never_below_and_at_most_an_eighth_above_the_true_one(
            mut micros in prop::collection::vec(0u64..1 << 36, 1..400),
            share in 0.01f64..1.0,
        ) {
            let mut histogram = Histogram::default();
            for micros in &micros {
                histogram.record(Duration::from_micros(*micros));
            }
            micros.sort_unstable();
            let rank = (share * micros.len() as f64).ceil() as usize;
            let exact = Duration::from_micros(micros[rank.clamp(1, micros.len()) - 1]);
            let given = histogram.quantile(share);
            let limit = exact + exact / 8 + Duration::from_micros(1);
            prop_assert!((exact..=limit).contains(&given), "{given:?} for {exact:?}");
            prop_assert_eq!(histogram.summary().max, Duration::from_micros(micros[micros.len() - 1]));
        }
    }
}
