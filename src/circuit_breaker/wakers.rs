use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// Those who are pending in `poll_ready`, to be woken when the circuit changes, and those who only want to know.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Place>>,
}

#[derive(Debug)]
struct Place {
    waker: Waker,
    /// No call waits there.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "only a fleet watches")
    )]
    only_watches: bool,
}

impl Wakers {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Place>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never call this with a lock in hand: a waker is somebody else's code.
    pub(super) fn wake_all(&self) {
        let woken = std::mem::take(&mut *self.waiting());
        woken.into_values().for_each(|it| it.waker.wake());
    }

    /// Whether a call waits.
    #[cfg(feature = "redis")]
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting().values().any(|it| !it.only_watches)
    }
}

/// The place of one service among the [`Wakers`]. It leaves when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Pending(Option<(Arc<Wakers>, u64)>);

impl Pending {
    /// Once for each time that it is woken.
    pub(super) fn register(&mut self, wakers: &Arc<Wakers>, waker: &Waker) {
        self.enter(wakers, waker, false);
    }

    /// The same, for one who is no call.
    #[cfg(feature = "redis")]
    pub(super) fn watch(&mut self, wakers: &Arc<Wakers>, waker: &Waker) {
        self.enter(wakers, waker, true);
    }

    fn enter(&mut self, wakers: &Arc<Wakers>, waker: &Waker, only_watches: bool) {
        let (wakers, id) = self.0.get_or_insert_with(|| {
            let id = wakers.next.fetch_add(1, Ordering::Relaxed);
            (Arc::clone(wakers), id)
        });
        // Cloned before and dropped after the lock.
        let place = Place {
            waker: waker.clone(),
            only_watches,
        };
        let old = wakers.waiting().insert(*id, place);
        drop(old);
    }

    #[inline(always)]
    pub(super) fn leave(&mut self) {
        if self.0.is_some() {
            self.leave_now();
        }
    }

    #[cold]
    fn leave_now(&mut self) {
        if let Some((wakers, id)) = self.0.take() {
            let old = wakers.waiting().remove(&id);
            drop(old);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.leave();
    }
}
