//! Where the permits of a lock lie, so that callers who find a free one need not all meet at one mutex.
//!
//! There is a *desk*, where one queues. A lock with many permits has *shelves* as well, one for each group of
//! threads: a caller takes what lies on its own, and puts it back there. Who finds nothing there goes to the
//! desk, and who finds nothing at the desk either *fetches* what lies on all shelves. So nobody waits while there
//! is a free permit anywhere. While a shelf is closed, what was taken from it goes back to the desk; shelves are
//! opened again when nobody waits and half of the permits are free.
//!
//! The desk is locked before a shelf, and shelves in their order; nobody who holds a shelf asks for the desk.

use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::list::{Key, MOST_LISTS};
use super::state::{Held, Owner, Released, State, Stats};
use crate::call::Holder;
use crate::error::HolderInfo;
use crate::util::sharded::Collisions;
use crate::util::sync::{Mutex, MutexGuard, OnceLock, PoisonError, shard_count, thread_number};
use crate::util::time::Tick;
use std::sync::TryLockError;

/// With fewer permits for each shelf than this, they would be carried to and fro all the time.
const WORTH_A_SHELF: usize = 8;

pub(super) struct Permits<W> {
    desk: Mutex<Desk<W>>,
    /// A power of two of them, once threads have been seen to wait for each other at the desk.
    shelves: OnceLock<Shelves<W>>,
    /// How many there are to be then; 0 if there are too few permits.
    most_shelves: usize,
    collisions: Collisions,
}

type Shelves<W> = Box<[CachePadded<Mutex<Shelf<W>>>]>;

pub(super) struct Desk<W> {
    /// The permits that belong here, and everybody who waits.
    pub(super) state: State<W>,
    /// How many permits there are to be, wherever they lie.
    total: usize,
    /// The most there have been since statistics began.
    most: usize,
    /// So many of those that come back from the shelves are too many: the number was cut.
    owed: usize,
    /// Whether shelves are open. Nobody waits while they are.
    lent: bool,
}

struct Shelf<W> {
    /// The permits that belong here. Nobody ever waits here.
    state: State<W>,
    /// Whether what comes back stays here.
    open: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<W> Permits<W> {
    pub(super) fn new(capacity: usize) -> Self {
        let threads = shard_count().min(MOST_LISTS / 2);
        let shelves = match threads > 1 && capacity >= threads * WORTH_A_SHELF {
            true => threads,
            false => 0,
        };
        Self::not_yet(capacity, shelves)
    }

    #[cfg(test)]
    pub(super) fn with_shelves(capacity: usize, shelves: usize) -> Self {
        let permits = Self::not_yet(capacity, shelves);
        if shelves > 0 {
            permits.grow();
        }
        permits
    }

    fn grow(&self) {
        let shelf = |index| {
            CachePadded::new(Mutex::new(Shelf {
                state: State::numbered(index + 1, 0),
                open: false,
            }))
        };
        self.shelves
            .get_or_init(|| (0..self.most_shelves).map(shelf).collect());
    }

    #[inline]
    fn shelves(&self) -> &[CachePadded<Mutex<Shelf<W>>>] {
        self.shelves.get().map_or(&[], |shelves| shelves)
    }

    fn not_yet(capacity: usize, most_shelves: usize) -> Self {
        Self {
            desk: Mutex::new(Desk {
                state: State::new(capacity),
                total: capacity,
                most: capacity,
                owed: 0,
                lent: false,
            }),
            shelves: OnceLock::new(),
            most_shelves,
            collisions: Collisions::default(),
        }
    }

    /// For those who wait: they all do so here.
    pub(super) fn desk(&self) -> MutexGuard<'_, Desk<W>> {
        match self.desk.try_lock() {
            Ok(desk) => desk,
            Err(TryLockError::Poisoned(desk)) => desk.into_inner(),
            Err(TryLockError::WouldBlock) => self.desk_in_turn(),
        }
    }

    /// Others are at the desk.
    #[cold]
    fn desk_in_turn(&self) -> MutexGuard<'_, Desk<W>> {
        let desk = locked(&self.desk);
        if self.most_shelves > 0 && self.shelves.get().is_none() && self.collisions.collided() {
            self.grow();
        }
        desk
    }

    /// A permit, if one is free and nobody waits. If not, the desk, for whoever wants to queue: until it lets
    /// go of it no permit becomes free.
    #[inline(always)]
    pub(super) fn take(
        &self,
        holder: &Holder,
        owner: Owner,
        now: Tick,
    ) -> Result<Key, MutexGuard<'_, Desk<W>>> {
        if let Some(shelves) = self.shelves.get() {
            let own = &shelves[thread_number() & (shelves.len() - 1)];
            if let Some(permit) = locked(own).state.try_acquire(holder, owner, now) {
                return Ok(permit);
            }
        }
        self.take_at_desk(holder, owner, now)
    }

    #[inline]
    fn take_at_desk(
        &self,
        holder: &Holder,
        owner: Owner,
        now: Tick,
    ) -> Result<Key, MutexGuard<'_, Desk<W>>> {
        let mut desk = self.desk();
        if self.shelves.get().is_some() {
            self.carry(&mut desk);
        }
        let taken = desk.state.try_acquire(holder, owner, now);
        taken.ok_or(desk)
    }

    /// Brings permits to where they are needed.
    #[inline(never)]
    fn carry(&self, desk: &mut Desk<W>) {
        if desk.state.free() == 0 {
            self.fetch(desk);
        }
        // Then nobody waits either: what is free is given to who waits.
        if !desk.lent && desk.state.free() >= desk.total / 2 {
            self.lend(desk);
        }
    }

    /// Closes the shelves, and brings what lies there to the desk.
    fn fetch(&self, desk: &mut Desk<W>) {
        if !desk.lent {
            return;
        }
        desk.lent = false;
        for shelf in self.shelves() {
            let mut shelf = locked(shelf);
            shelf.open = false;
            desk.state.capacity += shelf.state.take_out(usize::MAX);
        }
    }

    /// Shares out what is free; a share stays at the desk.
    fn lend(&self, desk: &mut Desk<W>) {
        let share = desk.state.free() / (self.shelves().len() + 1);
        if share == 0 {
            return;
        }
        desk.lent = true;
        for shelf in self.shelves() {
            let mut shelf = locked(shelf);
            shelf.open = true;
            shelf.state.capacity += desk.state.take_out(share);
        }
    }

    /// Gives a permit back.
    #[must_use = "somebody may have to be woken"]
    #[inline(always)]
    pub(super) fn release(
        &self,
        permit: Key,
        long: Option<Duration>,
        now: Tick,
    ) -> Option<Released<W>> {
        let Some(shelf) = self.shelf_of(permit) else {
            return self.desk().state.release(permit, long, now);
        };
        let mut shelf = locked(shelf);
        let mut released = shelf.state.release(permit, long, now)?;
        if !shelf.open {
            shelf.state.take_out(1);
            drop(shelf);
            released.wake = self.desk().take_back(now);
        }
        Some(released)
    }

    fn shelf_of(&self, permit: Key) -> Option<&Mutex<Shelf<W>>> {
        let index = permit.list().checked_sub(1)?;
        self.shelves().get(index).map(|shelf| &**shelf)
    }

    /// What is known of a permit in use.
    pub(super) fn look_at<T>(&self, permit: Key, f: impl FnOnce(&Held) -> T) -> Option<T> {
        match self.shelf_of(permit) {
            Some(shelf) => locked(shelf).state.get_held(permit).map(f),
            None => self.desk().state.get_held(permit).map(f),
        }
    }

    /// Changes the number of permits; says what it was, and whom to wake. Holders beyond it keep theirs.
    #[must_use = "these have to be woken"]
    pub(super) fn set_capacity(&self, total: usize, now: Tick) -> (usize, Vec<W>) {
        let mut desk = self.desk();
        self.fetch(&mut desk);
        let from = std::mem::replace(&mut desk.total, total);
        desk.most = desk.most.max(total);
        let here = desk.state.capacity;
        let here = match total.checked_sub(from) {
            Some(more) => {
                let paid = more.min(desk.owed);
                desk.owed -= paid;
                here + (more - paid)
            }
            None => {
                let fewer = from - total;
                desk.owed += fewer.saturating_sub(here);
                here.saturating_sub(fewer)
            }
        };
        (from, desk.state.set_capacity(here, now))
    }

    /// Everything, at one moment: nobody takes a permit or gives one back meanwhile.
    pub(super) fn all(&self) -> All<'_, W> {
        All {
            desk: self.desk(),
            shelves: self.shelves().iter().map(|shelf| locked(shelf)).collect(),
        }
    }
}

impl<W> Desk<W> {
    /// A permit comes back from a shelf.
    fn take_back(&mut self, now: Tick) -> Option<W> {
        match self.owed.checked_sub(1) {
            Some(owed) => {
                self.owed = owed;
                None
            }
            None => self.state.put_in(now),
        }
    }
}

/// All permits of a lock and all who wait for one, held still.
pub(super) struct All<'a, W> {
    desk: MutexGuard<'a, Desk<W>>,
    shelves: Vec<MutexGuard<'a, Shelf<W>>>,
}

impl<W> All<'_, W> {
    pub(super) fn capacity(&self) -> usize {
        self.desk.total
    }

    pub(super) fn queue(&self) -> &State<W> {
        &self.desk.state
    }

    fn states(&self) -> impl Iterator<Item = &State<W>> {
        let shelves = self.shelves.iter().map(|shelf| &shelf.state);
        std::iter::once(&self.desk.state).chain(shelves)
    }

    fn states_mut(&mut self) -> impl Iterator<Item = &mut State<W>> {
        let shelves = self.shelves.iter_mut().map(|shelf| &mut shelf.state);
        std::iter::once(&mut self.desk.state).chain(shelves)
    }

    pub(super) fn in_use(&self) -> usize {
        self.states().map(State::in_use).sum()
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (Key, &Held)> {
        self.states().flat_map(State::held)
    }

    /// The first so many holders, the longest first.
    pub(super) fn holders(&self, most: usize, now: Tick) -> Vec<HolderInfo> {
        // Each of the lists is in order, and as a rule there is one.
        let mut longest: Vec<_> = self
            .states()
            .flat_map(|state| state.held().take(most))
            .map(|(_, held)| held)
            .collect();
        longest.sort_by_key(|held| held.since);
        longest.truncate(most);
        let info = |held: &Held| held.info(now);
        longest.into_iter().map(info).collect()
    }

    /// Counts and times. The most permits that were in use at once are, of a lock with shelves, at most so many:
    /// each shelf had its own most at a moment of its own.
    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.desk.state.stats.clone();
        for shelf in &self.shelves {
            stats.add(&shelf.state.stats);
        }
        stats.peak_in_use = stats.peak_in_use.min(self.desk.most);
        stats
    }

    /// For how long permits were held that have come back, on average.
    pub(super) fn mean_hold(&self) -> Option<Duration> {
        let totals = self.states().map(|state| state.stats.hold.total());
        let (count, nanos) = totals.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let mean = nanos.checked_div(u128::from(count))?;
        Some(Duration::from_nanos(
            u64::try_from(mean).unwrap_or(u64::MAX),
        ))
    }

    pub(super) fn reset_stats(&mut self) {
        self.desk.most = self.desk.total.max(self.in_use());
        self.states_mut().for_each(State::reset_stats);
    }

    /// Holders that have held for at least `threshold` and have not been reported; now they have.
    pub(super) fn report_long_holds(&mut self, threshold: Duration, now: Tick) -> Vec<HolderInfo> {
        let report = |state: &mut State<W>| state.report_long_holds(threshold, now);
        self.states_mut().flat_map(report).collect()
    }
}
