//! What an agent of a fleet tells a breaker, and hears of it. No call passes through here.

use std::task::Waker;
use std::time::Duration;

use super::handle::CircuitBreaker;
use super::state::Command;
use super::wakers::Pending;
use crate::util::time::{self, Tick};

/// The place of one who waits for a breaker to change. It leaves when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Watch(Pending);

impl CircuitBreaker {
    /// Opens it for so long from now, or changes the end of an opening; zero lets the next call be a probe. What an operator has
    /// said stays.
    pub(crate) fn open_by_fleet(&self, delay: Duration) {
        self.command(Command::FleetOpen(delay));
    }

    /// Closes it. What an operator has said stays.
    pub(crate) fn close_by_fleet(&self) {
        self.command(Command::FleetClose);
    }

    /// Whether an operator has opened it for a time that is not over.
    pub(crate) fn is_open_by_operator(&self) -> bool {
        time::now() < self.shared.core().operators_until
    }

    /// When it last opened.
    pub(crate) fn opened(&self) -> Tick {
        self.shared.core().opened
    }

    /// Whether somebody waits for it in `poll_ready`: nobody counts as refused there.
    pub(crate) fn is_awaited(&self) -> bool {
        self.shared.wakers.is_awaited()
    }

    /// Wakes once, at the next change of state.
    pub(crate) fn watch(&self, watch: &mut Watch, waker: &Waker) {
        watch.0.watch(&self.shared.wakers, waker);
    }
}
