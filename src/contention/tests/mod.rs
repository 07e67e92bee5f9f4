//! The pure core against a naive model: a list of holders and a list of waiters.

mod books;
mod deadlock;
mod shelves;

use std::time::Duration;

use proptest::prelude::*;

use crate::call::Holder;
use crate::contention::handle::ResourceLock;
use crate::contention::list::Key;
use crate::contention::queue::{Asked, Asker, Patience, Queued, ask};
use crate::contention::state::{EndedBy, GaveUp, Owner, State};
use crate::util::time::Tick;

const THRESHOLD: Duration = Duration::from_nanos(50);

#[derive(Clone, Debug)]
enum Step {
    Try,
    Ask,
    Release(prop::sample::Index),
    Claim(prop::sample::Index),
    GiveUp(prop::sample::Index, bool),
    Capacity(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        2 => Just(Step::Try),
        4 => Just(Step::Ask),
        4 => index().prop_map(Step::Release),
        4 => index().prop_map(Step::Claim),
        2 => (index(), any::<bool>()).prop_map(|(i, timeout)| Step::GiveUp(i, timeout)),
        1 => (1usize..5).prop_map(Step::Capacity),
        2 => (0u64..40).prop_map(Step::Wait),
    ]
}

/// Who is in the building, by name.
#[derive(Default)]
struct Model {
    capacity: usize,
    /// Permits in use.
    holding: Vec<u64>,
    /// The queue; the first is the next.
    queue: Vec<u64>,
    /// Waiters that were handed a permit and have not run since.
    granted: Vec<u64>,
    woken: Vec<u64>,
}

impl Model {
    fn in_use(&self) -> usize {
        self.holding.len() + self.granted.len()
    }

    /// Whoever is first gets what is free.
    fn settle(&mut self, has_waker: &[u64]) {
        while self.in_use() < self.capacity && !self.queue.is_empty() {
            let next = self.queue.remove(0);
            self.granted.push(next);
            if has_waker.contains(&next) {
                self.woken.push(next);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn permits_are_never_lost_never_exceeded_and_handed_out_in_order(
        capacity in 1usize..4,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut state: State<u64> = State::new(capacity);
        let mut model = Model { capacity, ..Model::default() };
        let mut permits: Vec<(u64, Key)> = Vec::new();
        let mut waiters: Vec<(u64, Key)> = Vec::new();
        let mut has_waker: Vec<u64> = Vec::new();
        let mut woken: Vec<u64> = Vec::new();
        let mut now = 1_000;
        let mut attempts = 0;
        for (name, step) in (0u64..).zip(steps) {
            let holder = Holder::Number(name);
            let at = Tick(now);
            match step {
                Step::Try => {
                    let free = model.in_use() < model.capacity && model.queue.is_empty();
                    let permit = state.try_acquire(&holder, Owner::Anybody, at);
                    prop_assert_eq!(permit.is_some(), free);
                    if let Some(permit) = permit {
                        attempts += 1;
                        permits.push((name, permit));
                        model.holding.push(name);
                    }
                }
                // As the handle does it: a free permit is taken, else the queue is joined.
                Step::Ask => {
                    attempts += 1;
                    match state.try_acquire(&holder, Owner::Anybody, at) {
                        Some(permit) => {
                            permits.push((name, permit));
                            model.holding.push(name);
                        }
                        None => {
                            waiters.push((name, state.enqueue(holder, Owner::Anybody, at)));
                            model.queue.push(name);
                        }
                    }
                }
                Step::Release(index) if !permits.is_empty() => {
                    let (name, permit) = permits.swap_remove(index.index(permits.len()));
                    let long = Some(Duration::ZERO);
                    let released = state.release(permit, long, at);
                    let released = released.expect("a permit can be given back");
                    prop_assert_eq!(released.long, Some(Holder::Number(name)));
                    woken.extend(released.wake);
                    prop_assert!(state.release(permit, None, at).is_none(), "given back twice");
                    model.holding.retain(|holder| *holder != name);
                    model.settle(&has_waker);
                }
                Step::Claim(index) if !waiters.is_empty() => {
                    let at_index = index.index(waiters.len());
                    let (name, waiter) = waiters[at_index];
                    match state.claim(waiter, &mut Some(name), THRESHOLD) {
                        Some((permit, _)) => {
                            prop_assert!(model.granted.contains(&name), "overtook somebody");
                            waiters.swap_remove(at_index);
                            permits.push((name, permit));
                            model.granted.retain(|waiter| *waiter != name);
                            model.holding.push(name);
                        }
                        None => {
                            prop_assert!(model.queue.contains(&name), "was not given its permit");
                            has_waker.push(name);
                        }
                    }
                }
                Step::GiveUp(index, timeout) if !waiters.is_empty() => {
                    let (name, waiter) = waiters.swap_remove(index.index(waiters.len()));
                    let by = if timeout { EndedBy::Timeout } else { EndedBy::Abandoned };
                    let was_granted = model.granted.contains(&name);
                    match state.give_up(waiter, by, THRESHOLD, at).expect("it waits") {
                        GaveUp::HadPermit(permit) => {
                            prop_assert!(was_granted && timeout);
                            permits.push((name, permit));
                            model.granted.retain(|waiter| *waiter != name);
                            model.holding.push(name);
                        }
                        GaveUp::PassedOn { wake, .. } => {
                            prop_assert!(was_granted && !timeout);
                            woken.extend(wake);
                            model.granted.retain(|waiter| *waiter != name);
                            model.settle(&has_waker);
                        }
                        GaveUp::Left { .. } => {
                            prop_assert!(!was_granted);
                            model.queue.retain(|waiter| *waiter != name);
                        }
                    }
                    prop_assert!(state.give_up(waiter, by, THRESHOLD, at).is_none());
                }
                Step::Capacity(n) => {
                    woken.extend(state.set_capacity(n, at));
                    model.capacity = n;
                    model.settle(&has_waker);
                }
                Step::Wait(n) => now += n,
                Step::Release(_) | Step::Claim(_) | Step::GiveUp(..) => {}
            }
            prop_assert_eq!(state.in_use(), model.in_use());
            prop_assert_eq!(state.waiting(), model.queue.len());
            let queue: Vec<Holder> = state.queue().map(|(holder, _)| holder.clone()).collect();
            let expected: Vec<Holder> = model.queue.iter().copied().map(Holder::Number).collect();
            prop_assert_eq!(queue, expected);
            prop_assert_eq!(&woken, &model.woken, "who is woken, and in which order");
            let unclaimed = state.held().filter(|(_, held)| !held.claimed).count();
            prop_assert_eq!(unclaimed, model.granted.len());
            // Nobody waits while a permit is free.
            prop_assert!(model.queue.is_empty() || state.in_use() >= state.capacity);
        }
        let stats = &state.stats;
        let ended = stats.timeouts + stats.abandoned;
        let open = waiters.len() as u64;
        prop_assert_eq!(stats.attempts, attempts);
        prop_assert_eq!(stats.attempts, stats.acquisitions + ended + open);
        prop_assert_eq!(stats.wait.summary().count, stats.acquisitions + ended);
        prop_assert!(stats.contentions >= ended);
    }
}

fn number(n: u64) -> Holder {
    Holder::Number(n)
}

#[test]
fn holders_are_a_multiset_of_permits() {
    let mut state: State<()> = State::new(3);
    let permits: Vec<Key> = (0..3)
        .map(|_| {
            state
                .try_acquire(&number(7), Owner::Anybody, Tick(1))
                .unwrap()
        })
        .collect();
    assert_eq!(state.held().count(), 3);
    assert!(state.release(permits[1], None, Tick(3)).is_some());
    let holders: Vec<_> = state.held().map(|(_, held)| &held.holder).collect();
    assert_eq!(holders, [&number(7); 2]);
}

#[test]
fn the_longest_holder_comes_first() {
    let mut state: State<()> = State::new(2);
    let first = state
        .try_acquire(&number(1), Owner::Anybody, Tick(10))
        .unwrap();
    let _ = state
        .try_acquire(&number(2), Owner::Anybody, Tick(20))
        .unwrap();
    assert!(state.release(first, None, Tick(30)).is_some());
    // Takes the place in the list that the first has left.
    let _ = state
        .try_acquire(&number(3), Owner::Anybody, Tick(40))
        .unwrap();
    let names: Vec<_> = state.held().map(|(_, held)| &held.holder).collect();
    assert_eq!(names, [&number(2), &number(3)]);
}

#[test]
fn waits_below_the_threshold_are_no_contention_and_waits_at_it_are() {
    for (waited, contentions) in [(49, 0), (50, 1)] {
        let mut state: State<()> = State::new(1);
        let held = state
            .try_acquire(&number(1), Owner::Anybody, Tick(0))
            .unwrap();
        let waiter = state.enqueue(number(2), Owner::Anybody, Tick(0));
        assert!(state.release(held, None, Tick(waited)).is_some());
        // It is the wait for the permit that counts, not how long the waiter was not polled.
        assert!(state.claim(waiter, &mut None, THRESHOLD).is_some());
        assert_eq!(state.stats.contentions, contentions);
        assert_eq!(state.stats.wait.summary().max, Duration::from_nanos(waited));
    }
}

#[test]
fn a_million_acquisitions_take_no_more_memory_than_one() {
    let mut state: State<()> = State::new(1);
    for now in 0..1_000_000 {
        let permit = state
            .try_acquire(&number(now), Owner::Anybody, Tick(now))
            .unwrap();
        assert!(state.release(permit, None, Tick(now)).is_some());
    }
    assert_eq!(state.places(), (1, 0));
    assert_eq!(state.stats.acquisitions, 1_000_000);
}

#[test]
fn a_long_hold_is_reported_once() {
    let mut state: State<()> = State::new(2);
    let _ = state
        .try_acquire(&number(1), Owner::Anybody, Tick(0))
        .unwrap();
    let _ = state
        .try_acquire(&number(2), Owner::Anybody, Tick(30))
        .unwrap();
    let report = |state: &mut State<()>, now| {
        let long = state.report_long_holds(THRESHOLD, Tick(now));
        long.into_iter().map(|info| info.holder).collect::<Vec<_>>()
    };
    assert_eq!(report(&mut state, 49), []);
    assert_eq!(report(&mut state, 50), [number(1)]);
    assert_eq!(report(&mut state, 60), []);
    assert_eq!(report(&mut state, 80), [number(2)]);
}

#[test]
fn statistics_can_be_reset_while_somebody_holds_and_somebody_waits() {
    let mut state: State<()> = State::new(1);
    let held = state
        .try_acquire(&number(1), Owner::Anybody, Tick(0))
        .unwrap();
    let waiter = state.enqueue(number(2), Owner::Anybody, Tick(0));
    state.reset_stats();
    assert!(state.release(held, None, Tick(70)).is_some());
    assert!(state.claim(waiter, &mut None, THRESHOLD).is_some());
    let stats = &state.stats;
    assert_eq!(
        (stats.attempts, stats.acquisitions, stats.contentions),
        (0, 1, 1)
    );
    assert_eq!((stats.peak_in_use, stats.peak_waiting), (1, 1));
}

#[test]
fn a_million_waiters_are_not_paid_for_after_they_have_left() {
    let mut state: State<()> = State::new(1);
    let held = state
        .try_acquire(&number(0), Owner::Anybody, Tick(0))
        .unwrap();
    let waiters: Vec<Key> = (1..=1_000_000)
        .map(|n| state.enqueue(number(n), Owner::Anybody, Tick(0)))
        .collect();
    assert_eq!(state.places().1, 1_000_000);
    for waiter in &waiters {
        let gone = state.give_up(*waiter, EndedBy::Abandoned, THRESHOLD, Tick(1));
        assert!(gone.is_some());
    }
    assert_eq!((state.waiting(), state.places().1), (0, 0));
    // Keys of the places that are gone find nobody, whoever has come since.
    let fresh = state.enqueue(number(7), Owner::Anybody, Tick(2));
    let old = state.give_up(waiters[0], EndedBy::Abandoned, THRESHOLD, Tick(2));
    assert!(old.is_none());
    assert!(state.is_queued(fresh));
    assert!(state.release(held, None, Tick(3)).is_some());
    assert!(state.claim(fresh, &mut None, THRESHOLD).is_some());
}

fn queued<'a>(lock: &'a ResourceLock, holder: &str) -> Queued<&'a ResourceLock> {
    let patience = Patience {
        timeout: Some(Duration::from_secs(30)),
        deadline: None,
    };
    match ask(lock, holder.into(), Asker::Guard, patience) {
        Ok(Asked::Queued(queued)) => queued,
        Ok(Asked::Got(_)) => panic!("it was free"),
        Err(refused) => panic!("{refused}"),
    }
}

/// Between the look at the queue and the report, another thread may release the permit.
#[test]
fn who_is_granted_a_permit_at_the_threshold_is_not_told_to_wait_for_itself() {
    let feed = crate::observe::Feed::default();
    let lock = ResourceLock::builder("db")
        .observer(feed.clone())
        .build()
        .unwrap();
    let held = lock.try_acquire("a").unwrap();
    let mut wait = queued(&lock, "b");
    let threshold = wait.wakes_at();
    drop(held);
    assert!(wait.on_time(|| None, threshold).is_none());
    assert_eq!(feed.recent().len(), 0);
    assert!(wait.claim(std::task::Waker::noop()).is_some());
}

#[test]
fn a_wait_that_is_taken_to_another_line_of_work_proves_nothing_of_either() {
    let (lock, other) = (ResourceLock::new("db"), ResourceLock::new("other"));
    let _busy = other.try_acquire("x").unwrap();
    let _held = lock.try_acquire("job").unwrap();
    let mut wait = queued(&other, "job");
    std::thread::scope(|scope| {
        // Begun here, polled on another thread: `job` on this thread is no longer what waits.
        let there = scope.spawn(|| {
            assert!(wait.claim(std::task::Waker::noop()).is_none());
            assert!(wait.look(None, Tick(1)).is_none());
            wait
        });
        let _wait = there.join().unwrap();
        // So `x` may wait for what `job` holds here.
        let mut x_waits = queued(&lock, "x");
        assert!(x_waits.look(None, Tick(1)).is_none());
    });
}

#[test]
fn a_wait_that_has_been_granted_is_no_deadlock_when_it_looks() {
    let lock = ResourceLock::new("db");
    let held = lock.try_acquire("a").unwrap();
    let mut wait = queued(&lock, "b");
    drop(held);
    // All permits are its own by now, which it is not to be blamed for.
    assert!(wait.look(None, Tick(1)).is_none());
    assert!(wait.claim(std::task::Waker::noop()).is_some());
}

#[test]
fn a_refusal_names_the_longest_holders_and_not_thousands() {
    let lock = ResourceLock::builder("pool")
        .max_concurrent(1_000)
        .build()
        .unwrap();
    let held: Vec<_> = (0..1_000_u64)
        .map(|id| lock.try_acquire(id).unwrap())
        .collect();
    let refused = lock.try_acquire("late").unwrap_err();
    let named: Vec<_> = refused.holders().iter().map(|h| &h.holder).collect();
    let expected: Vec<_> = (0..16).map(number).collect();
    assert_eq!(named, expected.iter().collect::<Vec<_>>());
    assert!(
        refused.to_string().ends_with("and at least 13 more"),
        "{refused}"
    );
    assert_eq!(lock.snapshot().holders.len(), held.len());
}

#[test]
fn a_wait_ends_with_the_grant_although_it_was_abandoned_later() {
    let mut state: State<()> = State::new(1);
    let held = state
        .try_acquire(&number(1), Owner::Anybody, Tick(0))
        .unwrap();
    let waiter = state.enqueue(number(2), Owner::Anybody, Tick(0));
    assert!(state.release(held, None, Tick(20)).is_some());
    let gone = state.give_up(waiter, EndedBy::Abandoned, THRESHOLD, Tick(900));
    let Some(GaveUp::PassedOn { waited, .. }) = gone else {
        panic!("{gone:?}");
    };
    assert_eq!(waited, Duration::from_nanos(20));
}
