//! The books of a lock in every order that its shell can be run in (with a bounded number of preemptions): no
//! permit is lost, none is given twice, and nobody sleeps who was granted one. The very state of the crate is
//! compiled here; the shell around it does as `contention/handle.rs` and `contention/queue.rs` do, one lock at a
//! time, and wakes when it holds none. A wake that is lost is a deadlock, which loom reports.

#![allow(
    dead_code,
    reason = "the files are compiled for what is checked here, and have more in them"
)]
#![allow(unreachable_pub)]

use std::time::Duration;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread::{self, Thread};

#[path = "../src/contention/list.rs"]
mod list;
#[path = "../src/contention/state.rs"]
mod state;

/// Instead of the crate's own: names are no part of what is checked.
mod holder {
    #[derive(Clone, Debug)]
    pub(crate) struct Holder;
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
    }
}

mod time {
    use std::time::Duration;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Tick(pub(crate) u64);

    impl Tick {
        pub(crate) fn since(self, earlier: Self) -> Duration {
            Duration::from_nanos(self.0.saturating_sub(earlier.0))
        }
    }
}

use holder::Holder;
use list::Key;
use state::{EndedBy, GaveUp, Owner, State};
use time::Tick;

const NOW: Tick = Tick(0);
const THRESHOLD: Duration = Duration::ZERO;

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

struct Lock {
    state: Mutex<State<Thread>>,
    inside: AtomicUsize,
    /// How many may be inside, at most, in this model.
    most: usize,
}

impl Lock {
    fn new(capacity: usize, most: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(capacity)),
            inside: AtomicUsize::new(0),
            most,
        })
    }

    fn try_acquire(&self) -> Option<Key> {
        let mut state = self.state.lock().unwrap();
        state.try_acquire(&Holder, Owner::Anybody, NOW)
    }

    /// As `queue::ask`: one step under one lock.
    fn ask(&self) -> Result<Key, Key> {
        let mut state = self.state.lock().unwrap();
        match state.try_acquire(&Holder, Owner::Anybody, NOW) {
            Some(permit) => Ok(permit),
            None => Err(state.enqueue(Holder, Owner::Anybody, NOW)),
        }
    }

    fn claim(&self, waiter: Key) -> Option<Key> {
        let mut waker = Some(thread::current());
        let mut state = self.state.lock().unwrap();
        let claimed = state.claim(waiter, &mut waker, THRESHOLD, NOW);
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
        let gave_up = self
            .state
            .lock()
            .unwrap()
            .give_up(waiter, by, THRESHOLD, NOW);
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
        let released = self.state.lock().unwrap().release(permit, NOW);
        let released = released.expect("a permit is given back once");
        released.wake.iter().for_each(Thread::unpark);
    }

    fn set_capacity(&self, n: usize) {
        let wake = self.state.lock().unwrap().set_capacity(n, NOW);
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
        let state = self.state.lock().unwrap();
        assert_eq!((state.in_use(), state.waiting()), (0, 0));
        let stats = &state.stats;
        let ended = stats.acquisitions + stats.timeouts + stats.abandoned;
        assert_eq!(stats.attempts, ended, "every wait ended, and once");
    }
}

fn spawn(lock: &Arc<Lock>, f: impl FnOnce(&Lock) + 'static) -> thread::JoinHandle<()> {
    let lock = Arc::clone(lock);
    thread::spawn(move || f(&lock))
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
            assert_eq!(lock.state.lock().unwrap().in_use(), 1);
            lock.work(permit);
        });
        let leaves = spawn(&lock, move |lock| lock.work(first));
        lock.work(second);
        waits.join().unwrap();
        leaves.join().unwrap();
        lock.is_at_rest();
    });
}
