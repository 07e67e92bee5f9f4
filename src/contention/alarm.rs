//! Tells of a call that keeps its permit for too long, while it still does.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;

use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};

use super::guard::Slot;
use super::handle::ResourceLock;
use crate::time;

/// Set when a call does not end at once, so that one that does pays for no timer.
#[pin_project]
#[derive(Default)]
pub(super) struct HoldAlarm {
    #[pin]
    timer: Option<Sleep>,
    told: bool,
}

impl HoldAlarm {
    /// Wakes the task when it is time, and tells of it then.
    pub(super) fn watch(self: Pin<&mut Self>, slot: &Slot<ResourceLock>, cx: &mut Context<'_>) {
        let lock = slot.lock();
        let Some(threshold) = lock.policy().hold_threshold() else {
            return;
        };
        let mut this = self.project();
        if *this.told {
            return;
        }
        if this.timer.is_none() {
            let held_since = lock.shared.state().get_held(slot.permit()).map(|h| h.since);
            let Some(since) = held_since else { return };
            let rings = since.after(threshold).to_instant();
            this.timer.set(Some(sleep_until(rings)));
        }
        let rings = this.timer.as_pin_mut();
        *this.told = rings.is_some_and(|timer| timer.poll(cx).is_ready());
        if *this.told {
            lock.shared.report_long_holds(time::now());
        }
    }
}
