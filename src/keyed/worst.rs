//! The worst of many, in memory for so many as are wanted.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The worst that have been offered; of equals the first.
pub(crate) struct Worst<T> {
    most: usize,
    offered: u64,
    /// The least bad of them on top.
    kept: BinaryHeap<Kept<T>>,
}

struct Kept<T> {
    trouble: f64,
    number: u64,
    what: T,
}

impl<T> Worst<T> {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            offered: 0,
            kept: BinaryHeap::new(),
        }
    }

    /// Keeps it if it is among the worst so far.
    pub(crate) fn offer(&mut self, trouble: f64, what: impl FnOnce() -> T) {
        let number = self.offered;
        self.offered += 1;
        if self.kept.len() >= self.most {
            let least = self.kept.peek();
            if least.is_none_or(|least| trouble.total_cmp(&least.trouble).is_le()) {
                return;
            }
            self.kept.pop();
        }
        let what = what();
        self.kept.push(Kept {
            trouble,
            number,
            what,
        });
    }

    /// The worst first.
    pub(crate) fn into_sorted(self) -> Vec<T> {
        let sorted = self.kept.into_sorted_vec().into_iter();
        sorted.map(|it| it.what).collect()
    }
}

impl<T> Kept<T> {
    /// Greater is less bad, or later.
    fn order(&self, other: &Self) -> Ordering {
        let worse = other.trouble.total_cmp(&self.trouble);
        worse.then(self.number.cmp(&other.number))
    }
}

impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.order(other).is_eq()
    }
}

impl<T> Eq for Kept<T> {}

impl<T> PartialOrd for Kept<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Kept<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order(other)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against sorting all of them.
        #[test]
        fn it_keeps_what_sorting_all_of_them_would_put_first(
            troubles in prop::collection::vec(0..20_u8, 0..60),
            most in 0..12_usize,
        ) {
            let mut worst = Worst::new(most);
            for (at, trouble) in troubles.iter().enumerate() {
                worst.offer(f64::from(*trouble), || at);
            }
            let mut all: Vec<_> = (0..troubles.len()).collect();
            all.sort_by_key(|at| std::cmp::Reverse(troubles[*at]));
            all.truncate(most);
            prop_assert_eq!(worst.into_sorted(), all);
        }
    }
}
