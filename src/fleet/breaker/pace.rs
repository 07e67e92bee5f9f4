//! How often a process may ask.

use std::time::Duration;

use crate::util::time::Tick;

/// Ten commands in any second, and no more.
#[derive(Default)]
pub(super) struct Pace {
    sent: [Tick; 10],
    oldest: usize,
}

impl Pace {
    pub(super) fn sent(&mut self, now: Tick) {
        self.sent[self.oldest] = now;
        self.oldest = (self.oldest + 1) % self.sent.len();
    }

    /// When the next may be sent, if not at once.
    pub(super) fn next(&self, now: Tick) -> Option<Tick> {
        let next = self.sent[self.oldest].after(Duration::from_secs(1));
        (next > now).then_some(next)
    }
}
