//! Tells of a call that keeps its permit for too long, while it still does.

use std::pin::Pin;
use std::task::Context;

use tokio::time::{Sleep, sleep_until};

use super::guard::{Lends, Slot};
use crate::util::time;

/// Set when a call does not end at once, and only if somebody wants to know: the others pay for no timer.
#[derive(Default)]
pub(super) struct HoldAlarm {
    timer: Option<Pin<Box<Sleep>>>,
    reported: bool,
}

impl HoldAlarm {
    /// Wakes the task when it is time, and reports it then.
    pub(super) fn watch<B: Lends>(&mut self, slot: &Slot<B>, cx: &mut Context<'_>) {
        if self.reported {
            return;
        }
        let shared = slot.shared();
        let Some(threshold) = shared.hold_threshold() else {
            return;
        };
        let timer = self.timer.get_or_insert_with(|| {
            let left = threshold.saturating_sub(slot.held_for());
            Box::pin(sleep_until(time::now().after(left).to_instant()))
        });
        self.reported = time::poll_timer(timer.as_mut(), cx).is_ready();
        if self.reported {
            self.timer = None;
            shared.report_long_holds(time::now());
        }
    }
}
