//! What a shared lock goes by.

use std::sync::Arc;
use std::time::Duration;

use super::op::Micros;
use crate::error::ConfigError;
use crate::event::Observer;

/// A slot is a number of at most seven digits.
const MOST: usize = 1_000_000;

/// Keys go after a day without use: a lease must be over by then.
const LONGEST: Duration = Duration::from_secs(3_600);

/// So many milliseconds a lease has at least: three renewals have to fit in, each with an answer that takes its time.
const SHORTEST: Duration = Duration::from_millis(300);

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) max_concurrent: usize,
    pub(super) version: u32,
    pub(super) lease: Duration,
    pub(super) timeout: Option<Duration>,
    pub(super) contention_threshold: Duration,
    pub(super) hold_threshold: Option<Duration>,
    pub(super) max_waiting: Option<usize>,
    pub(super) local: Option<usize>,
    pub(super) grace: bool,
    pub(super) observers: Vec<Arc<dyn Observer>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrent: 1,
            version: 0,
            lease: Duration::from_secs(10),
            timeout: Some(Duration::from_secs(30)),
            contention_threshold: Duration::from_secs(5),
            hold_threshold: None,
            max_waiting: None,
            local: None,
            grace: false,
            observers: Vec::new(),
        }
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(1..=MOST).contains(&self.max_concurrent) {
            let advice = "give 1 to 1,000,000";
            return Err(ConfigError::new(
                "max_concurrent",
                self.max_concurrent,
                advice,
            ));
        }
        if !(SHORTEST..=LONGEST).contains(&self.lease) {
            let advice = "a lease is renewed three times before it ends, and keys are kept for a day: give 300 ms to 1 h";
            return Err(ConfigError::new("lease", self.lease, advice));
        }
        if self.local == Some(0) {
            let advice = "nobody could be admitted while the store is away: leave it out, so that all are refused";
            return Err(ConfigError::new("local", 0, advice));
        }
        if self.hold_threshold.is_some_and(|it| it.is_zero()) {
            let advice =
                "every hold would be reported: give a duration above zero, or leave it out";
            return Err(ConfigError::new("hold_threshold", Duration::ZERO, advice));
        }
        Ok(())
    }

    pub(super) fn lease_micros(&self) -> Micros {
        Micros::try_from(self.lease.as_micros()).unwrap_or(Micros::MAX)
    }

    pub(super) fn max(&self) -> i64 {
        i64::try_from(self.max_concurrent).unwrap_or(i64::MAX)
    }

    pub(super) fn may_wait(&self) -> i64 {
        const ALL: i64 = 1 << 40;
        self.max_waiting
            .map_or(ALL, |n| i64::try_from(n).unwrap_or(ALL))
    }
}
