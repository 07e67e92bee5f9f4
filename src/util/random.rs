//! Where random numbers come from: the system's, or a seed's.

use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Random numbers in [0, 1).
#[derive(Debug)]
pub(crate) enum Random {
    System,
    /// In a box: hardly any handle has a seed, and it is larger than the rest of one.
    Seeded(Box<Mutex<StdRng>>),
}

impl Random {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        match seed {
            Some(seed) => Self::Seeded(Box::new(Mutex::new(StdRng::seed_from_u64(seed)))),
            None => Self::System,
        }
    }

    pub(crate) fn unit(&self) -> f64 {
        match self {
            Self::System => rand::random(),
            Self::Seeded(rng) => rng.lock().unwrap_or_else(PoisonError::into_inner).random(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (a, b) = (Random::new(Some(7)), Random::new(Some(7)));
        for _ in 0..100 {
            let unit = a.unit();
            assert_eq!(unit, b.unit());
            assert!((0.0..1.0).contains(&unit));
        }
    }
}
