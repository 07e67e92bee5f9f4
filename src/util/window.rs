//! The recent past, as counts: the last N calls, or the last slices of time.
//!
//! Both windows really slide. Their cost and their memory depend on their size alone, never on the
//! traffic, and a million healthy calls weigh no more in them than as many as fit.

use std::time::Duration;

use crate::util::time::{Tick, nanos};

/// What happened within a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    pub(crate) slow: u64,
}

/// What one call adds to a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) failed: bool,
    pub(crate) slow: bool,
}

impl Call {
    #[cfg(test)]
    pub(crate) const FAST_SUCCESS: Self = Self {
        failed: false,
        slow: false,
    };
}

/// A set of bits that counts itself.
#[derive(Clone, Debug)]
struct Bits {
    words: Box<[u64]>,
    ones: u64,
}

impl Bits {
    fn new(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(64)].into(),
            ones: 0,
        }
    }

    fn get(&self, i: usize) -> bool {
        self.words[i / 64] >> (i % 64) & 1 == 1
    }

    fn set(&mut self, i: usize, on: bool) {
        if self.get(i) != on {
            self.words[i / 64] ^= 1 << (i % 64);
            self.ones = if on { self.ones + 1 } else { self.ones - 1 };
        }
    }

    /// Clears the bits of a range, a word at a time.
    fn clear(&mut self, range: std::ops::Range<usize>) {
        if self.ones == 0 || range.is_empty() {
            return;
        }
        for word in range.start / 64..=(range.end - 1) / 64 {
            let low = range.start.saturating_sub(word * 64).min(63);
            let high = (range.end - word * 64).min(64);
            let mask = (u64::MAX << low) & (u64::MAX >> (64 - high));
            self.ones -= u64::from((self.words[word] & mask).count_ones());
            self.words[word] &= !mask;
        }
    }
}

/// The last N calls.
#[derive(Clone, Debug)]
pub(crate) struct LastCalls {
    size: usize,
    /// Where the next call goes; the oldest call, once the ring is full.
    next: usize,
    filled: usize,
    failed: Bits,
    slow: Bits,
}

impl LastCalls {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            next: 0,
            filled: 0,
            failed: Bits::new(size),
            slow: Bits::new(size),
        }
    }

    pub(crate) fn record(&mut self, call: Call) {
        self.failed.set(self.next, call.failed);
        self.slow.set(self.next, call.slow);
        self.advance(1);
    }

    /// Records `n` fast successes at once.
    pub(crate) fn record_successes(&mut self, n: u64) {
        let n = usize::try_from(n).unwrap_or(usize::MAX).min(self.size);
        let to_end = n.min(self.size - self.next);
        for range in [self.next..self.next + to_end, 0..n - to_end] {
            self.failed.clear(range.clone());
            self.slow.clear(range);
        }
        self.advance(n);
    }

    fn advance(&mut self, n: usize) {
        self.next = (self.next + n) % self.size;
        self.filled = (self.filled + n).min(self.size);
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            calls: self.filled as u64,
            failures: self.failed.ones,
            slow: self.slow.ones,
        }
    }
}

/// How many slices a time window has: its oldest tenth falls out at once, so the window covers between
/// nine tenths of its length and all of it.
pub(crate) const SLICES: u64 = 10;

/// The last slices of time.
#[derive(Clone, Debug)]
pub(crate) struct LastSlices {
    slice: u64,
    /// The number of the slice that was used last. It and the nine before it are in memory.
    newest: u64,
    slices: [Slice; SLICES as usize],
}

/// Counts of one slice. After four thousand million calls it is full: further calls change neither count, so the rates
/// stay what they were.
#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    calls: u32,
    failures: u32,
    slow: u32,
}

impl LastSlices {
    pub(crate) fn new(length: Duration) -> Self {
        Self {
            slice: (nanos(length) / SLICES).max(1),
            newest: 0,
            slices: [Slice::default(); SLICES as usize],
        }
    }

    /// The number of the slice that `now` lies in.
    pub(crate) fn number(&self, now: Tick) -> u64 {
        now.0 / self.slice
    }

    /// The slice of this number; `None` if it has left the window already.
    fn at(&mut self, number: u64) -> Option<&mut Slice> {
        let gone = number.saturating_sub(self.newest).min(SLICES);
        for newer in 1..=gone {
            self.slices[((self.newest + newer) % SLICES) as usize] = Slice::default();
        }
        self.newest = self.newest.max(number);
        let is_there = self.newest - number < SLICES;
        is_there.then(|| &mut self.slices[(number % SLICES) as usize])
    }

    pub(crate) fn record(&mut self, call: Call, now: Tick) {
        if let Some(slice) = self.at(self.number(now))
            && slice.calls < u32::MAX
        {
            slice.calls += 1;
            slice.failures += u32::from(call.failed);
            slice.slow += u32::from(call.slow);
        }
    }

    /// Records `n` fast successes that happened in slice `number`.
    pub(crate) fn record_successes(&mut self, n: u64, number: u64) {
        if let Some(slice) = self.at(number) {
            let n = u32::try_from(n).unwrap_or(u32::MAX);
            slice.calls = slice.calls.saturating_add(n);
        }
    }

    /// Records `n` failures that happened in slice `number`.
    pub(crate) fn record_failures(&mut self, n: u64, number: u64) {
        if let Some(slice) = self.at(number) {
            let n = u32::try_from(n)
                .unwrap_or(u32::MAX)
                .min(u32::MAX - slice.calls);
            slice.calls += n;
            slice.failures += n;
        }
    }

    pub(crate) fn counts(&self, now: Tick) -> Counts {
        let now = self.number(now);
        let mut sum = Counts::default();
        for number in self.newest.saturating_sub(SLICES - 1)..=self.newest {
            if number <= now && now - number < SLICES {
                let slice = self.slices[(number % SLICES) as usize];
                sum.calls += u64::from(slice.calls);
                sum.failures += u64::from(slice.failures);
                sum.slow += u64::from(slice.slow);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        One(Call),
        Successes(u64),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (any::<bool>(), any::<bool>()).prop_map(|(failed, slow)| Step::One(Call { failed, slow })),
            2 => (0u64..200).prop_map(Step::Successes),
            2 => (0u64..40).prop_map(Step::Wait),
        ]
    }

    fn count<'a>(calls: impl Iterator<Item = &'a Call>) -> Counts {
        calls.fold(Counts::default(), |sum, call| Counts {
            calls: sum.calls + 1,
            failures: sum.failures + u64::from(call.failed),
            slow: sum.slow + u64::from(call.slow),
        })
    }

    proptest! {
        #[test]
        fn the_ring_counts_what_a_list_of_the_last_calls_counts(
            size in 1usize..200,
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let mut ring = LastCalls::new(size);
            let mut list: VecDeque<Call> = VecDeque::new();
            for step in steps {
                match step {
                    Step::One(call) => {
                        ring.record(call);
                        list.push_back(call);
                    }
                    Step::Successes(n) => {
                        ring.record_successes(n);
                        list.extend((0..n).map(|_| Call::FAST_SUCCESS));
                    }
                    Step::Wait(_) => {}
                }
                while list.len() > size {
                    list.pop_front();
                }
                prop_assert_eq!(ring.counts(), count(list.iter()));
            }
        }

        #[test]
        fn the_slices_count_what_a_list_of_dated_calls_counts(
            steps in prop::collection::vec(step(), 1..120),
        ) {
            const SLICE: u64 = 7;
            let mut slices = LastSlices::new(Duration::from_nanos(SLICE * SLICES));
            let mut list: Vec<(u64, Call)> = Vec::new();
            let mut now = 1_000_000;
            for step in steps {
                match step {
                    Step::One(call) => {
                        slices.record(call, Tick(now));
                        list.push((now / SLICE, call));
                    }
                    Step::Successes(n) => {
                        slices.record_successes(n, now / SLICE);
                        list.extend((0..n).map(|_| (now / SLICE, Call::FAST_SUCCESS)));
                    }
                    Step::Wait(n) => now += n,
                }
                let newest = now / SLICE;
                let inside = list.iter().filter(|(at, _)| newest - at < SLICES).map(|(_, c)| c);
                prop_assert_eq!(slices.counts(Tick(now)), count(inside));
            }
        }
    }

    #[test]
    fn a_million_healthy_calls_weigh_no_more_than_the_window_holds() {
        let mut ring = LastCalls::new(100);
        ring.record_successes(1_000_000);
        for _ in 0..50 {
            ring.record(Call {
                failed: true,
                slow: false,
            });
        }
        assert_eq!(
            ring.counts(),
            Counts {
                calls: 100,
                failures: 50,
                slow: 0
            }
        );
    }

    #[test]
    fn successes_of_a_slice_that_has_left_are_not_counted() {
        let mut slices = LastSlices::new(Duration::from_nanos(SLICES));
        slices.record(Call::FAST_SUCCESS, Tick(100));
        slices.record_successes(5, 90);
        assert_eq!(slices.counts(Tick(100)).calls, 1);
    }
}
