//! Counters that every healthy call touches, one for each of a few groups of threads.
//!
//! A counter that all threads write is one cache line that travels between all cores. Here a thread
//! writes the stripe it was given once, and whoever wants the sum reads, or drains, them all.
//!
//! A stripe holds its count together with a *tag*, in one word: adding to a stripe under an outdated
//! tag fails, so whoever drains the stripes under a new tag knows that nothing is added to the old
//! one afterwards.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::available_parallelism;

use crossbeam_utils::CachePadded;

/// How many stripes there are: as many as cores, rounded up to a power of two, at most 64.
pub(crate) fn stripe_count() -> usize {
    let cores = available_parallelism().map_or(1, usize::from);
    cores.next_power_of_two().min(64)
}

/// The number of this thread; threads are numbered as they come.
pub(crate) fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    // While a thread ends, its number may be gone: any stripe will do.
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

/// One count in as many parts as there are stripes, all under one tag.
#[derive(Debug)]
pub(crate) struct TaggedStripes {
    words: Box<[CachePadded<AtomicU64>]>,
}

const fn word(tag: u32, count: u32) -> u64 {
    (tag as u64) << 32 | count as u64
}

const fn tag_of(word: u64) -> u32 {
    (word >> 32) as u32
}

const fn count_of(word: u64) -> u32 {
    word as u32
}

impl TaggedStripes {
    pub(crate) fn new() -> Self {
        let stripe = || CachePadded::new(AtomicU64::new(word(0, 0)));
        Self {
            words: std::iter::repeat_with(stripe)
                .take(stripe_count())
                .collect(),
        }
    }

    /// Adds one under `tag`. `false` if this thread's stripe has another tag, or is full: then it must
    /// be drained first.
    pub(crate) fn add(&self, tag: u32) -> bool {
        let stripe = &self.words[thread_number() & (self.words.len() - 1)];
        let mut seen = stripe.load(Ordering::Relaxed);
        while tag_of(seen) == tag && count_of(seen) < u32::MAX {
            // Release, so that a drain that takes this one also sees what came before it.
            let new = seen + 1;
            match stripe.compare_exchange_weak(seen, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => seen = other,
            }
        }
        false
    }

    /// Empties all stripes, gives them `new_tag`, and hands what was in them to `take`.
    pub(crate) fn drain(&self, new_tag: u32, mut take: impl FnMut(u32, u32)) {
        for stripe in &self.words {
            let old = stripe.swap(word(new_tag, 0), Ordering::AcqRel);
            if count_of(old) > 0 {
                take(tag_of(old), count_of(old));
            }
        }
    }

    /// The sum of all stripes.
    #[cfg(test)]
    pub(crate) fn sum(&self) -> u64 {
        let count =
            |stripe: &CachePadded<AtomicU64>| u64::from(count_of(stripe.load(Ordering::Acquire)));
        self.words.iter().map(count).sum()
    }
}

/// A plain counter in stripes.
#[derive(Debug)]
pub(crate) struct StripedCounter {
    counts: Box<[CachePadded<AtomicU64>]>,
}

impl StripedCounter {
    pub(crate) fn new() -> Self {
        Self {
            counts: (0..stripe_count())
                .map(|_| CachePadded::new(AtomicU64::new(0)))
                .collect(),
        }
    }

    pub(crate) fn add_one(&self) {
        let stripe = &self.counts[thread_number() & (self.counts.len() - 1)];
        stripe.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| {
            sum.wrapping_add(count.load(Ordering::Relaxed))
        })
    }

    /// Starts again at zero; what is added meanwhile is in the old count or in the new one.
    pub(crate) fn reset(&self) {
        for count in &self.counts {
            count.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn nothing_is_added_under_an_old_tag() {
        let stripes = TaggedStripes::new();
        stripes.drain(1, |_, _| {});
        assert!(stripes.add(1));
        stripes.drain(2, |_, _| {});
        assert!(!stripes.add(1));
        assert_eq!(stripes.sum(), 0);
    }

    #[test]
    fn every_count_is_drained_exactly_once() {
        const THREADS: usize = 4;
        const EACH: u64 = 20_000;
        let stripes = TaggedStripes::new();
        stripes.drain(1, |_, _| {});
        let start = Barrier::new(THREADS + 1);
        let drained = thread::scope(|scope| {
            let adders: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        (0..EACH).for_each(|_| assert!(stripes.add(1)));
                    })
                })
                .collect();
            start.wait();
            let mut drained = 0;
            while adders.iter().any(|adder| !adder.is_finished()) {
                stripes.drain(1, |_, n| drained += u64::from(n));
            }
            drained
        });
        assert_eq!(drained + stripes.sum(), THREADS as u64 * EACH);
    }

    #[test]
    fn a_full_stripe_asks_to_be_drained_instead_of_touching_its_tag() {
        let stripes = TaggedStripes::new();
        for stripe in &stripes.words {
            stripe.store(word(7, u32::MAX), Ordering::Relaxed);
        }
        assert!(!stripes.add(7));
        let mut seen = Vec::new();
        stripes.drain(7, |tag, n| seen.push((tag, n)));
        assert!(seen.iter().all(|it| *it == (7, u32::MAX)));
        assert!(stripes.add(7));
    }
}
