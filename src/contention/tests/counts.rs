//! What is counted, what is remembered, and for how long.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use crate::call::Holder;
use crate::contention::core::{Claimed, Core, Place};
use crate::contention::owner::Owner;
use crate::contention::records::{EndedBy, GaveUp, Records, Who};
use crate::contention::rules::Priority;
use crate::util::time::Tick;

const THRESHOLD: Duration = Duration::from_nanos(50);

fn somebody(n: u64) -> Who {
    Who {
        holder: Holder::Number(n),
        owner: Owner::Anybody,
        priority: Priority::Normal,
    }
}

fn take(core: &Core, name: u64, at: u64) -> Place {
    let mut who = Some(somebody(name));
    core.take(1, || Tick(at), &mut who).expect("free")
}

fn wait(core: &Core, name: u64, at: u64) -> Place {
    let waker = Waker::noop().clone();
    match core.enqueue(1, somebody(name), waker, None, Tick(at)) {
        Ok((place, Poll::Pending)) => place,
        other => panic!("{other:?}"),
    }
}

fn claim(core: &Core, waiter: Place) -> Claimed {
    core.claim(waiter, Waker::noop(), THRESHOLD, || Tick(0))
}

#[test]
fn each_end_of_a_wait_has_a_count_of_its_own() {
    let core = Core::new(1);
    take(&core, 0, 0);
    let ends = [
        (EndedBy::Timeout, 2),
        (EndedBy::Abandoned, 3),
        (EndedBy::Deadlock, 4),
    ];
    for (by, times) in ends {
        for _ in 0..times {
            let left = core.give_up(wait(&core, 1, 0), by, THRESHOLD, Tick(10));
            assert!(matches!(left, Some(GaveUp::Left(_))));
        }
    }
    let counts = core.counts(Tick(100));
    assert_eq!(
        (counts.timeouts, counts.abandoned, counts.deadlocks),
        (2, 3, 4)
    );
    assert_eq!(counts.contended, 9);
    assert_eq!(counts.wait.since_the_start().count, 1 + 9);
}

#[test]
fn waits_below_the_threshold_are_no_contention_and_waits_at_it_are() {
    for (waited, contended) in [(49, 0), (50, 1)] {
        let core = Core::new(1);
        let held = take(&core, 1, 0);
        let waiter = wait(&core, 2, 0);
        core.release(held, None, Tick(waited));
        // It is the wait for the permit that counts, not how long the waiter was not polled.
        let claimed = core.claim(waiter, Waker::noop(), THRESHOLD, || Tick(900));
        assert_eq!(claimed, Claimed::Permits(Duration::from_nanos(waited)));
        assert_eq!(core.counts(Tick(100)).contended, contended);
        assert_eq!(
            core.counts(Tick(100)).wait.since_the_start().max,
            Duration::from_nanos(waited)
        );
    }
}

#[test]
fn a_wait_ends_with_the_grant_although_it_was_abandoned_later() {
    let core = Core::new(1);
    let held = take(&core, 1, 0);
    let waiter = wait(&core, 2, 0);
    core.release(held, None, Tick(20));
    let gone = core.give_up(waiter, EndedBy::Abandoned, THRESHOLD, Tick(900));
    let Some(GaveUp::PassesOn(waited)) = gone else {
        panic!("{gone:?}");
    };
    assert_eq!(waited, Duration::from_nanos(20));
}

#[test]
fn the_longest_holder_comes_first_in_whatever_shard_it_is() {
    let core = Core::with_shards(4);
    let mut first = None;
    for n in 0..4 {
        crate::util::sync::set_thread_number(n as usize);
        let permit = take(&core, n, 10 * n);
        first.get_or_insert(permit);
    }
    let names = |at| {
        let holders = core.holders(3, Tick(at));
        holders.into_iter().map(|it| it.holder).collect::<Vec<_>>()
    };
    assert_eq!(names(100), [0, 1, 2].map(Holder::Number));
    core.release(first.unwrap(), None, Tick(100));
    // Takes the place that the first has left.
    take(&core, 9, 110);
    assert_eq!(names(120), [1, 2, 3].map(Holder::Number));
}

#[test]
fn a_long_hold_is_reported_once_and_so_is_a_grant_that_nobody_takes() {
    let core = Core::new(2);
    let first = take(&core, 1, 0);
    take(&core, 2, 30);
    let report = |claimed, now| {
        let long = core.report_long(THRESHOLD, claimed, Tick(now));
        long.into_iter().map(|info| info.holder).collect::<Vec<_>>()
    };
    assert_eq!(report(true, 49), []);
    assert_eq!(report(true, 50), [Holder::Number(1)]);
    assert_eq!(report(true, 60), []);
    let waiter = wait(&core, 3, 60);
    core.release(first, None, Tick(60));
    assert_eq!(report(true, 200), [Holder::Number(2)]);
    assert_eq!(report(false, 109), []);
    assert_eq!(report(false, 110), [Holder::Number(3)]);
    assert_eq!(report(false, 120), []);
    // It runs at last, and from then on is a holder as any other.
    assert!(matches!(claim(&core, waiter), Claimed::Permits(_)));
    assert_eq!(report(true, 300), [Holder::Number(3)]);
}

#[test]
fn statistics_can_be_reset_while_somebody_holds_and_somebody_waits() {
    let core = Core::new(1);
    let held = take(&core, 1, 0);
    let waiter = wait(&core, 2, 0);
    core.count_refusal();
    core.reset_counts();
    core.release(held, None, Tick(70));
    assert!(matches!(claim(&core, waiter), Claimed::Permits(_)));
    let counts = core.counts(Tick(100));
    assert_eq!(
        (
            counts.at_once,
            counts.queued,
            counts.granted,
            counts.contended
        ),
        (0, 0, 1, 1)
    );
    assert_eq!(
        (core.peak_in_use(), counts.peak_waiting, core.refused()),
        (1, 1, 0)
    );
}

#[test]
fn a_million_acquisitions_take_no_more_memory_than_one() {
    let mut records = Records::new();
    for now in 0..1_000_000 {
        let at = records.hold(somebody(now), 1, Tick(now));
        records.settle(at, None, Tick(now));
    }
    assert_eq!(records.places(), 1);
    assert_eq!(records.counts.at_once, 1_000_000);
}

#[test]
fn a_million_waiters_are_not_paid_for_after_they_have_left() {
    let mut records = Records::new();
    let waker = || Waker::noop().clone();
    let waiters: Vec<u32> = (0..1_000_000)
        .map(|n| records.enqueue(somebody(n), 1, waker(), Tick(0)))
        .collect();
    assert!(records.places() >= 1_000_000);
    for waiter in waiters {
        let gone = records.give_up(waiter, EndedBy::Abandoned, THRESHOLD, Tick(1));
        assert!(gone.is_some());
    }
    assert_eq!((records.waiting(), records.places()), (0, 0));
}

#[test]
fn the_recent_mean_forgets_what_is_older_than_a_minute() {
    let second = 1_000_000_000;
    let mut core = Core::new(1);
    let hold = |core: &mut Core, from: u64, to: u64| {
        let held = take(core, 1, from);
        core.release(held, None, Tick(to));
    };
    assert_eq!(core.mean_hold(Tick(0)), None);
    let start = 1_000 * second;
    hold(&mut core, start, start + 10 * second);
    hold(&mut core, start + 20 * second, start + 22 * second);
    assert_eq!(
        core.mean_hold(Tick(start + 22 * second)),
        Some(Duration::from_secs(6))
    );
    for n in 0..40 {
        let at = start + (30 + 2 * n) * second;
        hold(&mut core, at, at + second);
    }
    assert_eq!(
        core.mean_hold(Tick(start + 110 * second)),
        Some(Duration::from_secs(1))
    );
    // After an hour without a release it is the mean of all times.
    let mean = core.mean_hold(Tick(start + 3_600 * second)).unwrap();
    assert_eq!(mean, core.counts(Tick(100)).hold.since_the_start().mean);
}

/// More than are granted with the queue locked once.
#[test]
fn with_permits_for_all_of_a_hundred_waiters_all_are_granted_theirs() {
    let core = Core::new(1);
    let held = take(&core, 0, 0);
    let waiters: Vec<Place> = (1..=100).map(|n| wait(&core, n, 0)).collect();
    core.resize(101, Tick(1));
    assert!(!core.seen().is_queued());
    for waiter in waiters {
        assert!(matches!(claim(&core, waiter), Claimed::Permits(_)));
    }
    core.release(held, None, Tick(2));
    assert_eq!(core.seen().in_use(), 100);
}

/// Somebody else's waker panics; whoever is behind it is woken and granted its permit all the same.
#[test]
fn a_waker_that_panics_keeps_nobody_from_being_granted_and_woken() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("waker");
        }
    }
    struct Counts(AtomicUsize);
    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let core = Core::new(1);
    let held = take(&core, 0, 0);
    let counts = Arc::new(Counts(AtomicUsize::new(0)));
    let mut waiters = Vec::new();
    for n in 0..100 {
        let waker = match n % 10 {
            0 => Waker::from(Arc::new(Panics)),
            _ => Waker::from(Arc::clone(&counts)),
        };
        let queued = core.enqueue(1, somebody(n), waker, None, Tick(0));
        waiters.push(queued.unwrap().0);
    }
    let more = catch_unwind(AssertUnwindSafe(|| core.resize(101, Tick(1))));
    assert!(more.is_err(), "the panic is not lost");
    assert_eq!(counts.0.load(Ordering::Relaxed), 90);
    for waiter in waiters {
        assert!(matches!(claim(&core, waiter), Claimed::Permits(_)));
        core.release(waiter, None, Tick(2));
    }
    core.release(held, None, Tick(2));
    assert_eq!(core.seen().in_use(), 0);
}
