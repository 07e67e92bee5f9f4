//! The recent calls, as far as a rule looks at them.

use super::super::config::{CircuitBreakerConfig, Window};
use crate::util::time::Tick;
use crate::util::window::{Call, Counts, LastCalls, LastSlices};

#[derive(Clone, Debug)]
pub(super) enum Recent {
    Nothing,
    Calls(LastCalls),
    Slices(Box<LastSlices>),
}

impl Recent {
    pub(super) fn new(policy: &CircuitBreakerConfig) -> Self {
        match policy.window {
            _ if !policy.uses_window() => Self::Nothing,
            Window::LastCalls(size) => Self::Calls(LastCalls::new(size)),
            Window::LastTime(length) => Self::Slices(Box::new(LastSlices::new(length))),
        }
    }

    pub(super) fn record(&mut self, call: Call, now: Tick) {
        match self {
            Self::Nothing => {}
            Self::Calls(calls) => calls.record(call),
            Self::Slices(slices) => slices.record(call, now),
        }
    }

    pub(super) fn counts(&self, now: Tick) -> Counts {
        match self {
            Self::Nothing => Counts::default(),
            Self::Calls(calls) => calls.counts(),
            Self::Slices(slices) => slices.counts(now),
        }
    }
}
