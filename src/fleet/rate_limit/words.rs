//! Leased tokens of each quota, in a word: how many, and until when.
//!
//! Of one quota, whoever finds enough takes them without a lock. Several quotas are taken from together or not at all, and
//! that no single word can say: then they are changed by those alone who have the lock of the pool.

use crate::util::sync::{AtomicU64, Ordering};
use crate::util::time::Tick;

/// A limit has at most so many quotas.
pub(super) const MOST_QUOTAS: usize = 4;

/// For the number of tokens.
const BITS: u32 = 24;
/// A word holds no more tokens.
pub(super) const MOST_TOKENS: u64 = (1 << BITS) - 1;
/// Times are counted in so many bits of nanoseconds, a quarter of a millisecond, and rounded so that tokens never live longer.
const GRAIN: u32 = 18;
const LAST: u64 = (1 << (64 - BITS)) - 1;

#[derive(Debug)]
pub(super) struct Words {
    /// Times are counted from here: for nine years.
    base: Tick,
    words: [AtomicU64; MOST_QUOTAS],
    quotas: usize,
}

impl Words {
    pub(super) fn new(quotas: usize, base: Tick) -> Self {
        Self {
            base,
            words: [(); MOST_QUOTAS].map(|()| AtomicU64::new(0)),
            quotas,
        }
    }

    fn grains(&self, time: Tick) -> u64 {
        (time.0.saturating_sub(self.base.0) >> GRAIN).min(LAST)
    }

    fn live(word: u64, now: u64) -> u64 {
        match word >> BITS > now {
            true => word & MOST_TOKENS,
            false => 0,
        }
    }

    /// Takes from the only quota, if there is enough. Without the lock: `false` also if there are several.
    pub(super) fn take_from_one(&self, units: u64, now: Tick) -> bool {
        if self.quotas != 1 {
            return false;
        }
        let (word, now) = (&self.words[0], self.grains(now));
        let mut seen = word.load(Ordering::Acquire);
        while Self::live(seen, now) >= units {
            // Nothing is taken from nothing: the time in the word stays as it is.
            let left = seen - units;
            let swapped =
                word.compare_exchange_weak(seen, left, Ordering::AcqRel, Ordering::Acquire);
            match swapped {
                Ok(_) => return true,
                Err(other) => seen = other,
            }
        }
        false
    }

    /// Takes from all quotas or from none. Only with the lock in hand.
    pub(super) fn take(&self, cost: &[u64], now: Tick) -> bool {
        if self.quotas == 1 {
            return self.take_from_one(cost[0], now);
        }
        let at = self.grains(now);
        let pairs = || self.words[..self.quotas].iter().zip(cost);
        if !pairs().all(|(word, cost)| Self::live(word.load(Ordering::Relaxed), at) >= *cost) {
            return false;
        }
        for (word, cost) in pairs() {
            word.fetch_sub(*cost, Ordering::Relaxed);
        }
        true
    }

    /// How many there are of a quota.
    pub(super) fn tokens(&self, quota: usize, now: Tick) -> u64 {
        Self::live(self.words[quota].load(Ordering::Acquire), self.grains(now))
    }

    /// How many there are, or were when their time was over; and whether it is.
    pub(super) fn left(&self, quota: usize, now: Tick) -> (u64, bool) {
        let word = self.words[quota].load(Ordering::Acquire);
        (word & MOST_TOKENS, word >> BITS > self.grains(now))
    }

    /// So many from here on, whatever there was. Only with the lock in hand.
    pub(super) fn set(&self, quota: usize, tokens: u64, until: Tick) {
        let word = self.grains(until) << BITS | tokens.min(MOST_TOKENS);
        self.words[quota].store(word, Ordering::Release);
    }

    pub(super) fn clear(&self) {
        for word in &self.words {
            word.store(0, Ordering::Release);
        }
    }
}
