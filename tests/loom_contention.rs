//! The permits of a lock in every order that threads can ask for them (with a bounded number of preemptions): no
//! permit is lost, none is given twice, and nobody sleeps who was granted one. The very files of the crate are
//! compiled here, with simulated atomics and mutexes; the shell around them does as `contention/wait.rs` does. A wake
//! that is lost is a deadlock, which loom reports.

#![allow(
    dead_code,
    reason = "the files are compiled for what is checked here, and have more in them"
)]
#![allow(unreachable_pub)]

use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, Thread};

#[path = "../src/contention/codel.rs"]
mod codel;
#[path = "../src/util/sharded/collisions.rs"]
mod collisions;
#[path = "../src/contention/core/mod.rs"]
mod core;
#[path = "../src/contention/owner.rs"]
mod owner;
#[path = "../src/contention/records.rs"]
mod records;
#[path = "../src/contention/rules.rs"]
mod rules;
#[path = "../src/util/sharded/shards.rs"]
mod shards;
#[path = "../src/contention/word.rs"]
mod word;

#[allow(unused_imports, reason = "shared, and each of them needs its part")]
#[path = "support/loom_sync.rs"]
mod sync;

/// Instead of the crate's own: names and times are no part of what is checked.
mod call {
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub(crate) enum Holder {
        Anonymous(u64),
    }
}

#[cfg(feature = "serde")]
#[path = "../src/util/humane.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "of data the model needs nothing"
)]
mod humane;

mod util {
    #[cfg(feature = "serde")]
    pub(crate) use crate::humane;
    pub(crate) use crate::{recent, sync, time};
    pub(crate) mod sharded {
        pub(crate) use crate::shards::Sharded;
    }
}

mod error {
    use std::time::Duration;

    use super::call::Holder;

    pub(crate) struct HolderInfo {
        pub(crate) held_for: Duration,
    }

    impl HolderInfo {
        pub(crate) fn new(_: Holder, held_for: Duration, _: bool, _: u32) -> Self {
            Self { held_for }
        }
    }
}

mod recent {
    use std::time::Duration;

    use super::time::Tick;

    #[derive(Clone, Debug, Default)]
    pub(crate) struct RecentHistogram;

    impl RecentHistogram {
        pub(crate) fn record(&mut self, _: Duration, _: Tick) {}

        pub(crate) fn record_zero(&mut self, _: Tick) {}

        pub(crate) fn turn(&mut self, _: Tick) {}

        pub(crate) fn add(&mut self, _: &Self) {}

        pub(crate) fn totals(&self) -> [(u64, u128); 2] {
            [(0, 0); 2]
        }
    }
}

mod time {
    use std::time::Duration;

    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Tick(pub(crate) u64);

    impl Tick {
        pub(crate) fn after(self, duration: Duration) -> Self {
            Self(self.0.saturating_add(nanos(duration)))
        }

        pub(crate) fn since(self, earlier: Self) -> Duration {
            Duration::from_nanos(self.0.saturating_sub(earlier.0))
        }
    }

    pub(crate) fn now() -> Tick {
        Tick(0)
    }

    pub(crate) fn nanos(duration: Duration) -> u64 {
        duration.as_nanos() as u64
    }
}

use call::Holder;
use core::{Claimed, Core, Place, Why};
use owner::Owner;
use records::{Because, EndedBy, GaveUp, Who};
use rules::Priority;
use time::Tick;

const NOW: Tick = Tick(0);
const THRESHOLD: Duration = Duration::ZERO;

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

struct Lock {
    core: Core,
    inside: AtomicUsize,
    /// How many may be inside, at most, in this model.
    most: usize,
}

fn somebody() -> Who {
    Who {
        holder: Holder::Anonymous(1),
        owner: Owner::Anybody,
        priority: Priority::Normal,
    }
}

impl Lock {
    fn new(sharded: bool, capacity: u32, most: usize) -> Arc<Self> {
        let core = match sharded {
            true => Core::with_shards(capacity),
            false => Core::new(capacity),
        };
        Arc::new(Self {
            core,
            inside: AtomicUsize::new(0),
            most,
        })
    }

    fn try_acquire(&self, n: u32) -> Option<Place> {
        self.core.take(n, || NOW, &mut Some(somebody())).ok()
    }

    fn enqueue(&self, n: u32, waker: &Waker) -> Result<(Place, Poll<()>), Why> {
        match self.try_acquire(n) {
            Some(place) => Ok((place, Poll::Ready(()))),
            None => self.core.enqueue(n, somebody(), waker.clone(), None, NOW),
        }
    }

    fn acquire(&self, n: u32) -> Result<Place, Because> {
        let waker = Waker::from(std::sync::Arc::new(Unpark(thread::current())));
        let queued = self.enqueue(n, &waker).map_err(|why| match why {
            Why::Closed => Because::Closed,
            other => panic!("{other:?}"),
        });
        let (place, polled) = queued?;
        if polled.is_ready() {
            return Ok(place);
        }
        loop {
            match self.core.claim(place, &waker, THRESHOLD, || NOW) {
                Claimed::Permits(_) => return Ok(place),
                Claimed::Refused(because, _) => return Err(because),
                Claimed::Waits => thread::park(),
            }
        }
    }

    /// What a permit is for.
    fn work(&self, permit: Place) {
        let n = permit.permits() as usize;
        let before = self.inside.fetch_add(n, Ordering::SeqCst);
        assert!(before + n <= self.most, "too many inside");
        self.inside.fetch_sub(n, Ordering::SeqCst);
        self.core.release(permit, None, NOW);
    }

    fn is_at_rest(&self) {
        let seen = self.core.seen();
        assert_eq!((seen.in_use(), seen.is_queued()), (0, false));
        assert_eq!(self.core.waiting(), 0);
        let counts = self.core.counts(crate::time::now());
        let ended = counts.granted + counts.timeouts + counts.abandoned + counts.closed;
        assert_eq!(counts.queued, ended, "every wait ended, and once");
        assert!(self.core.holders(9, NOW).is_empty());
    }
}

fn spawn(
    group: usize,
    lock: &Arc<Lock>,
    f: impl FnOnce(&Lock) + 'static,
) -> thread::JoinHandle<()> {
    let lock = Arc::clone(lock);
    thread::spawn(move || {
        sync::set_thread_number(group);
        f(&lock);
    })
}

/// A release that comes just when a waiter marks the word is granted to it.
#[test]
fn a_permit_that_is_given_back_reaches_everybody_who_waits() {
    for sharded in [false, true] {
        check(move || {
            let lock = Lock::new(sharded, 1, 1);
            let held = lock.try_acquire(1).unwrap();
            let waits = |group| spawn(group, &lock, |lock| lock.work(lock.acquire(1).unwrap()));
            let waiters = [waits(0), waits(1)];
            lock.work(held);
            waiters.into_iter().for_each(|it| it.join().unwrap());
            lock.is_at_rest();
        });
    }
}

/// Dropped, or out of time: whenever that is, the permit reaches the next.
#[test]
fn a_waiter_that_gives_up_while_it_is_granted_a_permit_loses_none() {
    for by in [EndedBy::Abandoned, EndedBy::Timeout] {
        check(move || {
            let lock = Lock::new(true, 1, 1);
            let held = lock.try_acquire(1).unwrap();
            let leaves = spawn(0, &lock, move |lock| {
                let (place, polled) = lock.enqueue(1, Waker::noop()).unwrap();
                let kept = polled.is_ready()
                    || matches!(
                        lock.core.give_up(place, by, THRESHOLD, NOW),
                        Some(GaveUp::HadPermits)
                    );
                if kept {
                    lock.work(place);
                }
            });
            let stays = spawn(1, &lock, |lock| lock.work(lock.acquire(1).unwrap()));
            lock.work(held);
            leaves.join().unwrap();
            stays.join().unwrap();
            lock.is_at_rest();
        });
    }
}

#[test]
fn who_wants_two_gets_them_and_who_comes_later_does_not_starve_it() {
    check(|| {
        let lock = Lock::new(true, 2, 2);
        let held = lock.try_acquire(1).unwrap();
        let heavy = spawn(0, &lock, |lock| lock.work(lock.acquire(2).unwrap()));
        let light = spawn(1, &lock, |lock| lock.work(lock.acquire(1).unwrap()));
        lock.work(held);
        heavy.join().unwrap();
        light.join().unwrap();
        lock.is_at_rest();
    });
}

#[test]
fn permits_more_reach_those_who_wait() {
    check(|| {
        let lock = Lock::new(true, 1, 3);
        let held = lock.try_acquire(1).unwrap();
        let waits = |group| spawn(group, &lock, |lock| lock.work(lock.acquire(1).unwrap()));
        let waiters = [waits(0), waits(1)];
        lock.core.resize(3, NOW);
        waiters.into_iter().for_each(|it| it.join().unwrap());
        lock.work(held);
        lock.is_at_rest();
    });
}

#[test]
fn with_a_permit_less_nobody_gets_the_one_that_is_too_many() {
    for sharded in [false, true] {
        check(move || {
            let lock = Lock::new(sharded, 2, 2);
            let (first, second) = (lock.try_acquire(1).unwrap(), lock.try_acquire(1).unwrap());
            lock.core.resize(1, NOW);
            let waits = spawn(0, &lock, |lock| {
                let permit = lock.acquire(1).unwrap();
                // Whoever comes now is alone: the two before have both gone.
                assert_eq!(lock.core.seen().in_use(), 1);
                lock.work(permit);
            });
            let leaves = spawn(1, &lock, move |lock| lock.work(first));
            lock.work(second);
            waits.join().unwrap();
            leaves.join().unwrap();
            lock.is_at_rest();
            let last = lock.try_acquire(1).unwrap();
            assert!(lock.try_acquire(1).is_none(), "one too many");
            lock.core.release(last, None, NOW);
        });
    }
}

/// After a cut to one, who is granted the permit is alone: what all before did under theirs comes before, also what
/// one did who gave back without granting.
#[test]
fn who_is_granted_a_permit_after_a_cut_follows_all_who_gave_back() {
    check(|| {
        let lock = Lock::new(true, 2, 2);
        let (first, other) = (lock.try_acquire(1).unwrap(), lock.try_acquire(1).unwrap());
        let (second, polled) = lock.enqueue(1, Waker::noop()).unwrap();
        assert!(polled.is_pending());
        lock.core.release(other, None, NOW);
        let claimed = lock.core.claim(second, Waker::noop(), THRESHOLD, || NOW);
        assert!(matches!(claimed, Claimed::Permits(_)));
        lock.core.resize(1, NOW);
        let cells = Arc::new([UnsafeCell::new(0), UnsafeCell::new(0)]);
        let waits = {
            let cells = Arc::clone(&cells);
            spawn(1, &lock, move |lock| {
                let permit = lock.acquire(1).unwrap();
                cells
                    .iter()
                    .for_each(|cell| cell.with_mut(|_: *mut i32| ()));
                lock.core.release(permit, None, NOW);
            })
        };
        let gives = {
            let cells = Arc::clone(&cells);
            spawn(1, &lock, move |lock| {
                cells[0].with_mut(|_| ());
                lock.core.release(first, None, NOW);
            })
        };
        cells[1].with_mut(|_| ());
        lock.core.release(second, None, NOW);
        waits.join().unwrap();
        gives.join().unwrap();
        lock.is_at_rest();
    });
}

#[test]
fn who_waits_while_it_is_closed_is_told() {
    for sharded in [false, true] {
        check(move || {
            let lock = Lock::new(sharded, 1, 1);
            let held = lock.try_acquire(1).unwrap();
            let waits = spawn(1, &lock, |lock| match lock.acquire(1) {
                Ok(permit) => lock.work(permit),
                Err(because) => assert_eq!(because, Because::Closed),
            });
            let closes = spawn(0, &lock, |lock| lock.core.close());
            lock.work(held);
            waits.join().unwrap();
            closes.join().unwrap();
            assert!(lock.try_acquire(1).is_none());
            lock.is_at_rest();
        });
    }
}

/// If two were inside at once the peak says so, and never more than were.
#[test]
fn the_peak_is_exact() {
    check(|| {
        let lock = Lock::new(true, 3, 3);
        let seen = Arc::new(AtomicUsize::new(0));
        let enters = |group| {
            let seen = Arc::clone(&seen);
            spawn(group, &lock, move |lock| {
                let permit = lock.try_acquire(1).expect("enough for all");
                let now = lock.core.seen().in_use() as usize;
                seen.fetch_max(now, Ordering::SeqCst);
                lock.core.release(permit, None, NOW);
            })
        };
        let threads = [enters(0), enters(1)];
        threads.into_iter().for_each(|it| it.join().unwrap());
        let peak = lock.core.peak_in_use() as usize;
        assert!(peak >= seen.load(Ordering::SeqCst) && (1..=2).contains(&peak));
        lock.is_at_rest();
    });
}
