//! What an agent of a fleet tells a breaker, and hears of it. No call passes through here.

use std::task::Waker;
use std::time::Duration;

use super::handle::CircuitBreaker;
use super::state::{Command, Phase};
use super::wakers::Pending;
use crate::util::time;

/// The place of one who waits for a breaker to change. It leaves when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Watch(Pending);

impl CircuitBreaker {
    /// Opens it for so long from now, or changes the end of an opening; zero lets the next call be a probe. An operator's
    /// command until further notice stays.
    pub(crate) fn open_by_fleet(&self, delay: Duration) {
        self.command(Command::FleetOpen(delay));
    }

    /// Closes it. An operator's command until further notice stays.
    pub(crate) fn close_by_fleet(&self) {
        self.command(Command::FleetClose);
    }

    /// If an operator opened it for a time that is not over: what is left of that. Nothing has changed its end since.
    pub(crate) fn left_of_operators_time(&self) -> Option<Duration> {
        let now = time::now();
        let state = self.shared.core();
        match state.phase {
            Phase::Open { until } if until == state.operators_until && now < until => {
                Some(until.since(now))
            }
            _ => None,
        }
    }

    /// Wakes once, at the next change of state.
    pub(crate) fn watch(&self, watch: &mut Watch, waker: &Waker) {
        watch.0.register(&self.shared.wakers, waker);
    }
}
