//! How often threads collide.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::util::time;

/// So many collisions within [`SPAN`] are worth a cell for each thread: below that, what the collisions cost is
/// less than a thousandth of a core.
const MANY: u64 = 64;
const SPAN: Duration = Duration::from_millis(10);

/// Only those who have collided write here. Lost updates do no harm.
///
/// One word, because every handle has several: the millisecond at which it began to count, and the count.
#[derive(Debug, Default)]
pub(crate) struct Collisions(AtomicU64);

impl Collisions {
    const COUNT: u64 = (1 << 16) - 1;

    /// Another collision: `true` if there have been many lately.
    pub(crate) fn collided(&self) -> bool {
        let now = time::now().0 / 1_000_000;
        let seen = self.0.load(Ordering::Relaxed);
        // The upper bits of a millisecond are lost; so far apart are no two collisions that matter.
        let passed = (now << 16).wrapping_sub(seen & !Self::COUNT) >> 16;
        let (since, count) = match passed <= SPAN.as_millis() as u64 {
            true => (seen & !Self::COUNT, (seen & Self::COUNT) + 1),
            false => (now << 16, 1),
        };
        self.0
            .store(since | count.min(Self::COUNT), Ordering::Relaxed);
        count >= MANY
    }
}
