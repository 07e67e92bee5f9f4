//! Counters that every healthy call touches, one for each of a few groups of threads.
//!
//! A counter that all threads write is one cache line that travels between all cores. Here a thread
//! writes the stripe it was given once, and whoever wants the sum reads, or drains, them all.
//!
//! A stripe holds its count together with a *tag*, in one word: adding to a stripe under an outdated
//! tag fails, so whoever drains the stripes under a new tag knows that nothing is added to the old
//! one afterwards.

use std::sync::atomic::Ordering;

use crossbeam_utils::CachePadded;

use crate::util::sync::{AtomicU64, stripe_count, thread_number};

/// One count in as many parts as there are stripes, all under one tag.
#[derive(Debug)]
pub(crate) struct TaggedStripes {
    pub(crate) words: Box<[CachePadded<AtomicU64>]>,
}

pub(crate) const fn word(tag: u32, count: u32) -> u64 {
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
    #[inline]
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

    /// The sum of all stripes, for tests.
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

    #[inline]
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
