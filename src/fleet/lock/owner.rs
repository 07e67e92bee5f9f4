//! What keeps a lock of this process alive: every handle, guard and wait has a share of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::shared::Shared;

pub(super) struct Owner(pub(super) Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        // The agent says what there is to say, and ends.
        self.0.is_closed.store(true, Ordering::Relaxed);
        self.0.wake.notify_one();
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owner").field(self.0.funnel.name()).finish()
    }
}
