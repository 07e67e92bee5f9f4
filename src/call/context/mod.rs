//! Where a call is: at the service, or in a wait of this crate.
//!
//! A layer may blame the service only for time that the call spent *at* the service. So each call has a [`Frame`],
//! and each wait of this crate (for a permit, for a backoff, for an inner service to be ready) is a [`Wait`]. A wait
//! that is left pending is a small record; a frame that leaves a poll takes over the records that were announced in
//! it. A call is where its last poll left it:
//!
//! - it waits if a wait is open inside and no call inside is at the service;
//! - otherwise it is at the service.
//!
//! So of two branches, one at the service is enough, and a wait excuses the frames around it and no sibling. A drop
//! needs no bookkeeping: the frame still knows where the call was left.
//!
//! Not seen: a branch in no frame of ours beside a wait, which [`at_service`] makes visible; and more than 4,096
//! waits in one poll.

mod ambient;
mod at_service;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

pub(crate) use ambient::{Reason, ambient_deadline, drop_because, reason, with_deadline};
pub use at_service::{AtService, at_service};

use crate::util::time::{self, Tick};

/// What this thread is in the middle of.
struct Here {
    /// How many frames it is inside.
    depth: Cell<u32>,
    /// How many records are in [`FRESH`].
    fresh: Cell<u32>,
    /// How many calls went to the service on this thread, less those that came back. Only differences mean
    /// something.
    busy: Cell<u32>,
}

thread_local! {
    static HERE: Here = const {
        Here { depth: Cell::new(0), fresh: Cell::new(0), busy: Cell::new(0) }
    };
    /// The waits that were polled since the outermost frame was entered, in order.
    static FRESH: RefCell<Vec<Arc<Record>>> = const { RefCell::new(Vec::new()) };
}

/// More waits than this in one poll are not announced.
const MOST: u32 = 1 << 12;

/// The account of one call. Owned by its permit, or by an attempt of a retry.
#[derive(Default)]
pub(crate) struct Frame {
    now: Now,
    /// Made by the first wait.
    waits: Option<Box<Waits>>,
}

/// Where a call is, in one word that is written and read whole: it moves with every call, and what is written in parts
/// cannot be read as a whole before it has arrived in memory. (Three fields cost a breaker 5 ns a call.)
///
/// The lower half: how many calls inside are at the service.
#[derive(Clone, Copy, Default)]
struct Now(u64);

impl Now {
    /// This call is counted as busy by the frames around.
    const TOLD: u64 = 1 << 32;
    const WAITING: u64 = 1 << 33;

    #[inline(always)]
    fn is(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    #[inline(always)]
    fn with(self, flag: u64, on: bool) -> Self {
        Self(match on {
            true => self.0 | flag,
            false => self.0 & !flag,
        })
    }

    fn busy(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    fn add_busy(self, n: u32) -> Self {
        let busy = (self.0 as u32).wrapping_add(n);
        Self(self.0 >> 32 << 32 | u64::from(busy))
    }
}

#[derive(Default)]
struct Waits {
    open: Vec<Arc<Record>>,
    /// Since when the call waits, if it does.
    since: Tick,
    /// How long it has waited before that.
    waited: Duration,
}

impl Frame {
    /// Runs a part of the call: its creation, a poll, a blocking call. `permit` is the number of the lock permit
    /// that is held until the call ends, for the search for deadlocks; 0 if there is none.
    #[inline(always)]
    pub(crate) fn enter<T>(&mut self, permit: u64, part: impl FnOnce() -> T) -> T {
        let (fresh, busy) = HERE.with(|here| {
            here.depth.set(here.depth.get() + 1);
            (here.fresh.get(), here.busy.get())
        });
        let panicked = Panicked;
        let value = part();
        std::mem::forget(panicked);
        let (now_fresh, now_busy) = HERE.with(|here| {
            here.depth.set(here.depth.get() - 1);
            (here.fresh.get(), here.busy.get())
        });
        if now_busy != busy {
            self.now = self.now.add_busy(now_busy.wrapping_sub(busy));
        }
        if now_fresh != fresh || self.waits.is_some() {
            self.look(fresh, permit);
        }
        value
    }

    /// One poll. Afterwards the frames around know whether the call is at the service.
    #[inline(always)]
    pub(crate) fn poll<T>(&mut self, permit: u64, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        let value = self.enter(permit, poll);
        let at_service = value.is_pending() && !self.now.is(Now::WAITING);
        let told = self.now.is(Now::TOLD);
        // The outermost frame has no frame around it.
        if told != at_service && (told || HERE.with(|here| here.depth.get() > 0)) {
            self.tell(at_service);
        }
        value
    }

    #[inline(always)]
    fn tell(&mut self, at_service: bool) {
        self.now = self.now.with(Now::TOLD, at_service);
        HERE.with(|here| {
            here.busy.set(match at_service {
                true => here.busy.get().wrapping_add(1),
                false => here.busy.get().wrapping_sub(1),
            });
        });
    }

    /// Takes over the waits that were polled in this task since `from`, and turns the clock off or on.
    #[cold]
    fn look(&mut self, from: u32, permit: u64) {
        let waits = self.waits.get_or_insert_default();
        let known = waits.open.len();
        waits.adopt(from as usize, permit);
        let ended = waits.forget_ended(known);
        let was_waiting = self.now.is(Now::WAITING);
        let busy = (self.now.busy() as i32) > 0;
        let waiting = !waits.open.is_empty() && !busy;
        // Nothing changes while an earlier wait is still open.
        if !(was_waiting && waiting && ended.still_open > 0) {
            if was_waiting {
                waits.waited += ended.known.unwrap_or_else(time::now).since(waits.since);
            }
            if !busy {
                waits.waited += ended.parked;
            }
            if waiting {
                let newest = waits.open[ended.still_open..].iter();
                let began = newest.map(|wait| wait.began).min();
                waits.since = began.unwrap_or_else(time::now).max(ended.last);
            }
        }
        self.now = self.now.with(Now::WAITING, waiting);
        if HERE.with(|here| here.depth.get() == 0) {
            forget_fresh();
        }
    }

    /// Whether the last poll left the call in a wait.
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        self.now.is(Now::WAITING)
    }

    /// The time at the service, until `now`, of a call that started at `started`.
    pub(crate) fn spent(&self, started: Tick, now: Tick) -> Duration {
        now.since(started).saturating_sub(self.waited(now))
    }

    /// How long it has waited, until `now`.
    pub(crate) fn waited(&self, now: Tick) -> Duration {
        self.waits.as_ref().map_or(Duration::ZERO, |waits| {
            let current = match self.is_waiting() {
                true => now.since(waits.since),
                false => Duration::ZERO,
            };
            waits.waited + current
        })
    }

    /// Refuses the waits inside of which `is_hopeless` says so, by their resource and the permits around them.
    pub(crate) fn refuse_if(&self, mut is_hopeless: impl FnMut(u64, &[u64]) -> bool) {
        for wait in self.waits.iter().flat_map(|waits| &waits.open) {
            let mut place = wait.place();
            if !place.refused && is_hopeless(wait.resource, &place.inside) {
                place.refused = true;
                let waker = place.waker.take();
                drop(place);
                waker.into_iter().for_each(Waker::wake);
            }
        }
    }
}

/// The waits of a frame that have ended since its last poll.
struct EndedWaits {
    /// How many of those known before are open yet.
    still_open: usize,
    /// When the last of those known before ended.
    known: Option<Tick>,
    /// When the last of all ended.
    last: Tick,
    /// The time in waits that began and ended within the poll: of a thread that parked.
    parked: Duration,
}

impl Waits {
    fn adopt(&mut self, from: usize, permit: u64) {
        let task = tokio::task::try_id();
        let _ = FRESH.try_with(|fresh| {
            for record in fresh.borrow().iter().skip(from) {
                let mut place = record.place();
                if place.task != task {
                    continue; // A `LocalSet` in here polls other tasks too.
                }
                if permit > 0 && !place.inside.contains(&permit) {
                    place.inside.push(permit);
                }
                if !self.open.iter().any(|open| Arc::ptr_eq(open, record)) {
                    self.open.push(Arc::clone(record));
                }
            }
        });
    }

    /// The first `known` were there before this poll.
    fn forget_ended(&mut self, mut known: usize) -> EndedWaits {
        let mut ended = EndedWaits {
            still_open: 0,
            known: None,
            last: Tick(0),
            parked: Duration::ZERO,
        };
        self.open.retain(|wait| {
            let is_known = known > 0;
            known -= usize::from(is_known);
            let Some(end) = wait.ended() else {
                ended.still_open += usize::from(is_known);
                return true;
            };
            if !is_known {
                // Each moment counts once.
                ended.parked += end.since(wait.began.max(ended.last));
            }
            ended.last = ended.last.max(end);
            if is_known {
                ended.known = Some(ended.last);
            }
            false
        });
        ended
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("waiting", &self.is_waiting())
            .finish_non_exhaustive()
    }
}

impl Drop for Frame {
    #[inline(always)]
    fn drop(&mut self) {
        // Apart, so that the drop of a call that never waited is a comparison.
        #[cold]
        #[inline(never)]
        fn forget(_: Box<Waits>) {}
        if self.now.is(Now::TOLD) {
            self.tell(false);
        }
        if let Some(waits) = self.waits.take() {
            forget(waits);
        }
    }
}

/// Dropped only when a part of a call panics.
struct Panicked;

impl Drop for Panicked {
    fn drop(&mut self) {
        let is_outermost = HERE.with(|here| {
            here.depth.set(here.depth.get() - 1);
            here.depth.get() == 0
        });
        if is_outermost {
            forget_fresh();
        }
    }
}

fn forget_fresh() {
    HERE.with(|here| here.fresh.set(0));
    // Taken out first: what is dropped may run code that borrows.
    let _fresh = FRESH.try_with(RefCell::take);
}

/// A wait as the frames around it know it.
struct Record {
    resource: u64,
    began: Tick,
    /// The tick at which it ended; 0 while it is open.
    ended: AtomicU64,
    place: Mutex<Place>,
}

/// Where a wait was polled last.
#[derive(Default)]
struct Place {
    task: Option<tokio::task::Id>,
    /// The permits that cannot be released before it ends, the innermost first.
    inside: Vec<u64>,
    waker: Option<Waker>,
    refused: bool,
}

impl Record {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> Option<Tick> {
        match self.ended.load(Ordering::Relaxed) {
            0 => None,
            end => Some(Tick(end)),
        }
    }
}

/// A wait of this crate. It begins when a poll leaves it pending, and ends when one does not, or by drop.
pub(crate) struct Wait {
    resource: u64,
    record: Option<Arc<Record>>,
}

impl Wait {
    /// A wait for the resource of this number; 0 if it is for something else.
    pub(crate) const fn new(resource: u64) -> Self {
        Self {
            resource,
            record: None,
        }
    }

    pub(crate) fn poll<T>(&mut self, waker: &Waker, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        let value = poll();
        match value {
            Poll::Pending => self.announce(Some(waker)),
            Poll::Ready(_) => self.end(),
        }
        value
    }

    /// The same for a thread that parks.
    pub(crate) fn block<T>(&mut self, park: impl FnOnce() -> T) -> T {
        self.announce(None);
        let value = park();
        self.end();
        value
    }

    /// Tells the frames that are left now. Each time anew: the wait may have been moved since.
    fn announce(&mut self, waker: Option<&Waker>) {
        let (depth, fresh) = HERE.with(|here| (here.depth.get(), here.fresh.get()));
        if depth == 0 || fresh >= MOST {
            return; // No frame is there.
        }
        let record = self.record.get_or_insert_with(|| {
            Arc::new(Record {
                resource: self.resource,
                began: time::now(),
                ended: AtomicU64::new(0),
                place: Mutex::default(),
            })
        });
        let mut place = record.place();
        (place.task, place.waker) = (tokio::task::try_id(), waker.cloned());
        place.inside.clear();
        drop(place);
        let told = FRESH.try_with(|fresh| fresh.borrow_mut().push(Arc::clone(record)));
        if told.is_ok() {
            HERE.with(|here| here.fresh.set(fresh + 1));
        }
    }

    /// The wait is over; it can begin again.
    pub(crate) fn end(&mut self) {
        if let Some(record) = self.record.take() {
            record.ended.store(time::now().0, Ordering::Relaxed);
        }
    }

    /// Leads to where the wait is, for as long as anybody wants to know.
    pub(crate) fn place(&self) -> Option<WaitPlace> {
        self.record.clone().map(WaitPlace)
    }

    /// Whether a frame around it [refused](Frame::refuse_if) it.
    pub(crate) fn is_refused(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.place().refused)
    }
}

/// Where a wait is.
#[derive(Clone)]
pub(crate) struct WaitPlace(Arc<Record>);

impl WaitPlace {
    /// The lock permits around the wait that cannot be released before it ends, as of its last poll, the innermost
    /// first. None, once it has ended.
    pub(crate) fn inside(&self) -> Vec<u64> {
        match self.0.ended() {
            None => self.0.place().inside.clone(),
            Some(_) => Vec::new(),
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether this thread is inside no frame, and remembers no wait.
#[cfg(test)]
fn is_at_rest() -> bool {
    let at_rest = HERE.with(|here| here.depth.get() == 0 && here.fresh.get() == 0);
    at_rest && FRESH.with_borrow(Vec::is_empty)
}
