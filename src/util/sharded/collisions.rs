//! How often threads collide.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::util::time::{self, nanos};

/// So many collisions within [`SPAN`] are worth a cell for each thread: below that, what the collisions cost is
/// less than a thousandth of a core.
const MANY: u64 = 64;
const SPAN: Duration = Duration::from_millis(10);

/// Only those who have collided write here. Lost updates do no harm.
#[derive(Debug, Default)]
pub(crate) struct Collisions {
    since: AtomicU64,
    collisions: AtomicU64,
}

impl Collisions {
    /// Another collision: `true` if there have been many lately.
    pub(crate) fn collided(&self) -> bool {
        let now = time::now().0;
        if now.saturating_sub(self.since.load(Ordering::Relaxed)) > nanos(SPAN) {
            self.since.store(now, Ordering::Relaxed);
            self.collisions.store(0, Ordering::Relaxed);
        }
        self.collisions.fetch_add(1, Ordering::Relaxed) + 1 >= MANY
    }
}
