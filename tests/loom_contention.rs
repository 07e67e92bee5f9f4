//! The permits of a lock in every order that threads can ask for them (with a bounded number of preemptions): no
//! permit is lost, none is given twice, and nobody sleeps who was granted one. The very files of the crate are
//! compiled here, with simulated mutexes; the shell around them does as `contention/handle.rs` and
//! `contention/queue.rs` do, and wakes when it holds none. A wake that is lost is a deadlock, which loom reports.

#![allow(
    dead_code,
    reason = "the files are compiled for what is checked here, and have more in them"
)]
#![allow(unreachable_pub)]

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, Thread};

#[path = "../src/util/sharded/collisions.rs"]
mod collisions;
#[path = "../src/contention/list.rs"]
mod list;
#[path = "../src/contention/permits.rs"]
mod permits;
#[path = "../src/contention/state.rs"]
mod state;

#[allow(unused_imports, reason = "shared, and each of them needs its part")]
#[path = "support/loom_sync.rs"]
mod sync;

/// Instead of the crate's own: names are no part of what is checked.
mod holder {
    #[derive(Clone, Debug)]
    pub(crate) struct Holder;
}

mod call {
    pub(crate) use crate::holder::Holder;
}

mod util {
    pub(crate) use crate::{histogram, sync, time};
    pub(crate) mod sharded {
        pub(crate) use crate::collisions::Collisions;
    }
}

mod graph {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Line;
}

mod error {
    use std::time::Duration;

    use super::holder::Holder;

    pub(crate) struct HolderInfo;

    impl HolderInfo {
        pub(crate) const MOST_NAMED: usize = 16;

        pub(crate) fn new(_: Holder, _: Duration, _: bool) -> Self {
            Self
        }
    }
}

mod histogram {
    use std::time::Duration;

    #[derive(Clone, Debug)]
    pub(crate) struct Histogram;

    impl Histogram {
        pub(crate) fn new() -> Self {
            Self
        }

        pub(crate) fn record(&mut self, _: Duration) {}

        pub(crate) fn record_zero(&mut self) {}

        pub(crate) fn add(&mut self, _: &Self) {}

        pub(crate) fn total(&self) -> (u64, u128) {
            (0, 0)
        }
    }
}

mod time {
    use std::time::Duration;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Tick(pub(crate) u64);

    impl Tick {
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

use holder::Holder;
use list::Key;
use permits::Permits;
use state::{EndedBy, GaveUp, Owner};
use time::Tick;

const NOW: Tick = Tick(0);
const THRESHOLD: Duration = Duration::ZERO;

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

struct Lock {
    permits: Permits<Thread>,
    inside: AtomicUsize,
    /// How many may be inside, at most, in this model.
    most: usize,
}

impl Lock {
    fn new(capacity: usize, most: usize) -> Arc<Self> {
        Self::with_shelves(0, capacity, most)
    }

    fn with_shelves(shelves: usize, capacity: usize, most: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Permits::with_shelves(capacity, shelves),
            inside: AtomicUsize::new(0),
            most,
        })
    }

    fn try_acquire(&self) -> Option<Key> {
        self.permits.take(&Holder, Owner::Anybody, NOW).ok()
    }

    /// As `queue::ask`: one step under one lock.
    fn ask(&self) -> Result<Key, Key> {
        let taken = self.permits.take(&Holder, Owner::Anybody, NOW);
        taken.map_err(|mut desk| desk.state.enqueue(Holder, Owner::Anybody, NOW))
    }

    fn claim(&self, waiter: Key) -> Option<Key> {
        let mut waker = Some(thread::current());
        let mut desk = self.permits.desk();
        let claimed = desk.state.claim(waiter, &mut waker, THRESHOLD);
        drop(desk);
        claimed.map(|(permit, _)| permit)
    }

    /// As `acquire::wait_blocking`.
    fn acquire(&self) -> Key {
        let waiter = match self.ask() {
            Ok(permit) => return permit,
            Err(waiter) => waiter,
        };
        loop {
            if let Some(permit) = self.claim(waiter) {
                return permit;
            }
            thread::park();
        }
    }

    fn give_up(&self, waiter: Key, by: EndedBy) -> Option<Key> {
        let mut desk = self.permits.desk();
        let gave_up = desk.state.give_up(waiter, by, THRESHOLD, NOW);
        drop(desk);
        match gave_up.unwrap() {
            GaveUp::HadPermit(permit) => Some(permit),
            GaveUp::PassedOn { wake, .. } => {
                wake.iter().for_each(Thread::unpark);
                None
            }
            GaveUp::Left { .. } => None,
        }
    }

    fn release(&self, permit: Key) {
        let released = self.permits.release(permit, None, NOW);
        let released = released.expect("a permit is given back once");
        released.wake.iter().for_each(Thread::unpark);
    }

    fn set_capacity(&self, n: usize) {
        let (_, wake) = self.permits.set_capacity(n, NOW);
        wake.iter().for_each(Thread::unpark);
    }

    /// What a permit is for.
    fn work(&self, permit: Key) {
        assert!(
            self.inside.fetch_add(1, Ordering::SeqCst) < self.most,
            "too many inside"
        );
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.release(permit);
    }

    fn is_at_rest(&self) {
        let all = self.permits.all();
        assert_eq!((all.in_use(), all.queue().waiting()), (0, 0));
        let stats = all.stats();
        let ended = stats.acquisitions + stats.timeouts + stats.abandoned;
        assert_eq!(stats.attempts, ended, "every wait ended, and once");
    }
}

fn spawn(lock: &Arc<Lock>, f: impl FnOnce(&Lock) + 'static) -> thread::JoinHandle<()> {
    spawn_in_group(0, lock, f)
}

fn spawn_in_group(
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

/// A lock with two shelves, which are open, and its permits: one on each, and one at the desk.
fn with_open_shelves() -> Arc<Lock> {
    let lock = Lock::with_shelves(2, 3, 3);
    // The first opens them, and takes what is left at the desk.
    let first = lock.try_acquire().unwrap();
    lock.release(first);
    lock
}

#[test]
fn a_permit_that_is_given_back_reaches_everybody_who_waits() {
    check(|| {
        let lock = Lock::new(1, 1);
        let held = lock.try_acquire().unwrap();
        let waits = || spawn(&lock, |lock| lock.work(lock.acquire()));
        let waiters = [waits(), waits()];
        lock.work(held);
        waiters.into_iter().for_each(|it| it.join().unwrap());
        lock.is_at_rest();
    });
}

/// Dropped, or out of time: whenever that is, the permit reaches the next.
#[test]
fn a_waiter_that_gives_up_while_it_is_granted_a_permit_loses_none() {
    for by in [EndedBy::Abandoned, EndedBy::Timeout] {
        check(move || {
            let lock = Lock::new(1, 1);
            let held = lock.try_acquire().unwrap();
            let leaves = spawn(&lock, move |lock| {
                let kept = match lock.ask() {
                    Ok(permit) => Some(permit),
                    // Polled once, as a future is that is dropped later.
                    Err(waiter) => lock.claim(waiter).or_else(|| lock.give_up(waiter, by)),
                };
                if let Some(permit) = kept {
                    lock.work(permit);
                }
            });
            let stays = spawn(&lock, |lock| lock.work(lock.acquire()));
            lock.work(held);
            leaves.join().unwrap();
            stays.join().unwrap();
            lock.is_at_rest();
        });
    }
}

#[test]
fn a_permit_more_reaches_who_waits_and_is_one_more() {
    check(|| {
        let lock = Lock::new(1, 2);
        let held = lock.try_acquire().unwrap();
        let waits = || spawn(&lock, |lock| lock.work(lock.acquire()));
        let waiters = [waits(), waits()];
        lock.set_capacity(2);
        waiters.into_iter().for_each(|it| it.join().unwrap());
        lock.work(held);
        lock.is_at_rest();
    });
}

#[test]
fn with_a_permit_less_nobody_gets_the_one_that_is_too_many() {
    check(|| {
        let lock = Lock::new(2, 2);
        let (first, second) = (lock.try_acquire().unwrap(), lock.try_acquire().unwrap());
        lock.set_capacity(1);
        let waits = spawn(&lock, |lock| {
            let permit = lock.acquire();
            // Whoever comes now is alone: the two before have both gone.
            assert_eq!(lock.permits.all().in_use(), 1);
            lock.work(permit);
        });
        let leaves = spawn(&lock, move |lock| lock.work(first));
        lock.work(second);
        waits.join().unwrap();
        leaves.join().unwrap();
        lock.is_at_rest();
    });
}

/// Whoever finds nothing fetches what lies elsewhere, while others take it there or put it back.
#[test]
fn nobody_sleeps_while_there_is_a_permit_on_a_shelf() {
    check(|| {
        let lock = with_open_shelves();
        let (first, second) = (lock.try_acquire().unwrap(), lock.try_acquire().unwrap());
        let near = spawn_in_group(0, &lock, |lock| lock.work(lock.acquire()));
        let far = spawn_in_group(1, &lock, |lock| lock.work(lock.acquire()));
        lock.work(first);
        near.join().unwrap();
        far.join().unwrap();
        lock.work(second);
        lock.is_at_rest();
    });
}

/// What comes back to a shelf that is being closed reaches who closed it and waits.
#[test]
fn a_permit_that_comes_back_to_a_closed_shelf_reaches_who_waits() {
    check(|| {
        let lock = with_open_shelves();
        let held = [(); 3].map(|()| lock.try_acquire().unwrap());
        let waits = || spawn_in_group(1, &lock, |lock| lock.work(lock.acquire()));
        let waiters = [waits(), waits()];
        held.into_iter().for_each(|permit| lock.work(permit));
        waiters.into_iter().for_each(|it| it.join().unwrap());
        lock.is_at_rest();
        // All of them are there again.
        let all = [(); 3].map(|()| lock.try_acquire().unwrap());
        assert!(lock.try_acquire().is_none());
        all.into_iter().for_each(|permit| lock.release(permit));
    });
}

#[test]
fn fewer_permits_are_fewer_wherever_they_are_just_then() {
    check(|| {
        let lock = with_open_shelves();
        let held = lock.try_acquire().unwrap();
        let takes = spawn_in_group(1, &lock, |lock| {
            if let Some(permit) = lock.try_acquire() {
                lock.work(permit);
            }
        });
        lock.set_capacity(1);
        lock.work(held);
        takes.join().unwrap();
        let last = lock.try_acquire().unwrap();
        assert!(lock.try_acquire().is_none(), "one too many");
        lock.release(last);
        lock.is_at_rest();
    });
}
