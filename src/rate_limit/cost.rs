//! What a call takes from each quota.

use std::fmt;

/// A limit has at most so many quotas.
pub(super) const MOST_QUOTAS: usize = 4;

/// What a call takes, quota by quota, in the order in which they were given to the builder.
///
/// Made from a number for a limit with one quota, and from an array for one with more: `[1, 900]` is one request and 900
/// tokens. A number alone is taken from every quota.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cost([u64; MOST_QUOTAS]);

impl Cost {
    /// One of each quota: a call.
    pub const ONE: Self = Self([1; MOST_QUOTAS]);

    pub(super) const fn of(self, quota: usize) -> u64 {
        self.0[quota]
    }

    pub(crate) fn each(self) -> [u64; MOST_QUOTAS] {
        self.0
    }
}

impl From<u64> for Cost {
    fn from(each: u64) -> Self {
        Self([each; MOST_QUOTAS])
    }
}

macro_rules! from_arrays {
    ($($n:literal)+) => {$(
        impl From<[u64; $n]> for Cost {
            fn from(given: [u64; $n]) -> Self {
                let mut costs = [0; MOST_QUOTAS];
                costs[..$n].copy_from_slice(&given);
                Self(costs)
            }
        }
    )+};
}

from_arrays!(1 2 3 4);

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
