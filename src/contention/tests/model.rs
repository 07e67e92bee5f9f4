//! The core against a naive model: a list of holders and a list of waiters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;

use crate::call::Holder;
use crate::contention::core::{Claimed, Core, Place, Why};
use crate::contention::owner::Owner;
use crate::contention::records::{Because, EndedBy, GaveUp, Who};
use crate::contention::rules::Priority;
use crate::util::sync::set_thread_number;
use crate::util::time::Tick;

const THRESHOLD: Duration = Duration::from_nanos(50);

#[derive(Clone, Debug)]
enum Step {
    Try(usize),
    Ask(usize),
    Release(prop::sample::Index),
    Claim(prop::sample::Index),
    GiveUp(prop::sample::Index, bool),
    Capacity(u32),
    Close,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        20 => (0..3_usize).prop_map(Step::Try),
        40 => (0..3_usize).prop_map(Step::Ask),
        40 => index().prop_map(Step::Release),
        40 => index().prop_map(Step::Claim),
        20 => (index(), any::<bool>()).prop_map(|(i, timeout)| Step::GiveUp(i, timeout)),
        10 => (1_u32..5).prop_map(Step::Capacity),
        1 => Just(Step::Close),
        20 => (0_u64..40).prop_map(Step::Wait),
    ]
}

/// Who is in the building, by name, with the permits it has or wants.
#[derive(Default)]
struct Model {
    capacity: u32,
    closed: bool,
    holding: Vec<(u64, u32)>,
    /// The queue; the first is the next.
    queue: Vec<(u64, u32)>,
    /// Waiters that were granted their permits and have not run since.
    granted: Vec<(u64, u32)>,
    /// Waiters that were refused and have not run since.
    refused: Vec<u64>,
    woken: Vec<u64>,
    peak: u32,
}

impl Model {
    fn in_use(&self) -> u32 {
        let all = self.holding.iter().chain(&self.granted);
        all.map(|(_, n)| n).sum()
    }

    fn is_free(&self, n: u32) -> bool {
        !self.closed && self.queue.is_empty() && self.in_use() + n <= self.capacity
    }

    fn hold(&mut self, name: u64, n: u32) {
        self.holding.push((name, n));
        self.peak = self.peak.max(self.in_use());
    }

    /// Whoever is first gets what is free.
    fn settle(&mut self) {
        while let Some((name, n)) = self.queue.first().copied()
            && self.in_use() + n <= self.capacity
        {
            self.queue.remove(0);
            self.granted.push((name, n));
            self.woken.push(name);
            self.peak = self.peak.max(self.in_use());
        }
    }

    fn refuse(&mut self, is_hopeless: impl Fn(u32) -> bool) {
        let hopeless = |(_, n): &(u64, u32)| is_hopeless(*n);
        let refused: Vec<u64> = self
            .queue
            .iter()
            .filter(|it| hopeless(it))
            .map(|it| it.0)
            .collect();
        self.queue.retain(|it| !hopeless(it));
        self.refused.extend(&refused);
        self.woken.extend(refused);
    }

    fn forget(&mut self, name: u64) {
        self.holding.retain(|it| it.0 != name);
        self.granted.retain(|it| it.0 != name);
        self.queue.retain(|it| it.0 != name);
        self.refused.retain(|it| *it != name);
    }
}

/// Notes who was woken.
struct Note(u64, Arc<Mutex<Vec<u64>>>);

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

fn somebody(n: u64) -> Who {
    Who {
        holder: Holder::Number(n),
        owner: Owner::Anybody,
        priority: Priority::Normal,
    }
}

fn sorted(mut names: Vec<u64>) -> Vec<u64> {
    names.sort_unstable();
    names
}

fn run(core: &Core, capacity: u32, steps: Vec<(Step, u32)>) -> Result<(), TestCaseError> {
    let mut model = Model {
        capacity,
        ..Model::default()
    };
    let mut permits: Vec<(u64, Place)> = Vec::new();
    let mut waiters: Vec<(u64, Place)> = Vec::new();
    let woken = Arc::new(Mutex::new(Vec::new()));
    let (mut now, mut attempts, mut refused) = (1_000, 0, 0);
    for (name, (step, n)) in (0_u64..).zip(steps) {
        let who = somebody(name);
        let at = Tick(now);
        match step {
            Step::Try(thread) => {
                set_thread_number(thread);
                let taken = core.take(n, || at, &mut Some(who));
                prop_assert_eq!(taken.is_ok(), model.is_free(n));
                if let Ok(permit) = taken {
                    attempts += 1;
                    permits.push((name, permit));
                    model.hold(name, n);
                }
            }
            Step::Ask(thread) => {
                set_thread_number(thread);
                let waker = Waker::from(Arc::new(Note(name, Arc::clone(&woken))));
                match core.enqueue(n, who, waker, Some(4), at) {
                    Ok((permit, Poll::Ready(()))) => {
                        prop_assert!(model.is_free(n));
                        permits.push((name, permit));
                        model.hold(name, n);
                        attempts += 1;
                    }
                    Ok((waiter, Poll::Pending)) => {
                        prop_assert!(!model.closed && !model.is_free(n) && model.queue.len() < 4);
                        waiters.push((name, waiter));
                        model.queue.push((name, n));
                        attempts += 1;
                    }
                    Err(Why::TooMany) => prop_assert!(n > model.capacity),
                    Err(Why::Closed) => prop_assert!(model.closed),
                    Err(Why::QueueFull { waiting, earlier }) => {
                        prop_assert_eq!((waiting, model.queue.len(), earlier), (4, 4, refused));
                        refused += 1;
                    }
                }
            }
            Step::Release(index) if !permits.is_empty() => {
                let (name, permit) = permits.swap_remove(index.index(permits.len()));
                let released = core.release(permit, Some(Duration::ZERO), at);
                prop_assert_eq!(released.long, Some(Holder::Number(name)));
                model.forget(name);
                model.settle();
            }
            Step::Claim(index) if !waiters.is_empty() => {
                let which = index.index(waiters.len());
                let (name, waiter) = waiters[which];
                let waker = Waker::from(Arc::new(Note(name, Arc::clone(&woken))));
                match core.claim(waiter, &waker, THRESHOLD, || at) {
                    Claimed::Permits(_) => {
                        let granted = model.granted.iter().find(|it| it.0 == name).copied();
                        let Some((_, n)) = granted else {
                            return Err(TestCaseError::fail("overtook somebody"));
                        };
                        waiters.swap_remove(which);
                        permits.push((name, waiter));
                        model.forget(name);
                        model.holding.push((name, n));
                    }
                    Claimed::Waits => {
                        let waits = model.queue.iter().any(|it| it.0 == name);
                        prop_assert!(waits, "was not given its permits");
                    }
                    Claimed::Refused(why, _) => {
                        prop_assert!(model.refused.contains(&name));
                        prop_assert!(why == Because::TooMany || model.closed);
                        waiters.swap_remove(which);
                        model.forget(name);
                    }
                }
            }
            Step::GiveUp(index, timeout) if !waiters.is_empty() => {
                let (name, waiter) = waiters.swap_remove(index.index(waiters.len()));
                let by = if timeout {
                    EndedBy::Timeout
                } else {
                    EndedBy::Abandoned
                };
                let granted = model.granted.iter().find(|it| it.0 == name).copied();
                match core.give_up(waiter, by, THRESHOLD, at) {
                    Some(GaveUp::HadPermits) => {
                        prop_assert!(timeout);
                        permits.push((name, waiter));
                        model.forget(name);
                        model.holding.push(granted.expect("granted"));
                    }
                    Some(GaveUp::PassesOn(_)) => {
                        prop_assert!(granted.is_some() && !timeout);
                        model.forget(name);
                        model.settle();
                    }
                    Some(GaveUp::Left(_)) => {
                        prop_assert!(granted.is_none());
                        model.forget(name);
                        model.settle();
                    }
                    None => prop_assert!(false, "it waited"),
                }
            }
            Step::Capacity(n) => {
                prop_assert_eq!(core.resize(n, at), model.capacity);
                if n < model.capacity {
                    model.refuse(|wants| wants > n);
                }
                model.capacity = n;
                model.settle();
            }
            Step::Close => {
                core.close();
                model.closed = true;
                model.refuse(|_| true);
            }
            Step::Wait(n) => now += n,
            Step::Release(_) | Step::Claim(_) | Step::GiveUp(..) => {}
        }
        let seen = core.seen();
        prop_assert_eq!(
            (seen.in_use(), seen.capacity()),
            (model.in_use(), model.capacity)
        );
        prop_assert_eq!(
            seen.is_queued(),
            !model.queue.is_empty(),
            "marked while somebody waits"
        );
        prop_assert_eq!(core.peak_in_use(), model.peak);
        let queue: Vec<Holder> = core.waiters(99, at).into_iter().map(|it| it.0).collect();
        let expected: Vec<Holder> = model.queue.iter().map(|it| Holder::Number(it.0)).collect();
        prop_assert_eq!(queue, expected);
        let news = std::mem::take(&mut *woken.lock().unwrap());
        prop_assert_eq!(
            sorted(news),
            sorted(std::mem::take(&mut model.woken)),
            "who is woken"
        );
        let holders = core.holders(99, at);
        prop_assert!(holders.is_sorted_by_key(|it| std::cmp::Reverse(it.held_for)));
        let unclaimed = holders.iter().filter(|it| !it.claimed).count();
        prop_assert_eq!(unclaimed, model.granted.len());
        prop_assert_eq!(holders.len(), model.granted.len() + model.holding.len());
    }
    let counts = core.counts(Tick(100));
    let ended = counts.timeouts + counts.abandoned + counts.closed;
    prop_assert_eq!(counts.at_once + counts.queued, attempts);
    prop_assert_eq!(counts.queue_full, refused);
    prop_assert_eq!(
        attempts,
        counts.at_once + counts.granted + ended + waiters.len() as u64
    );
    prop_assert_eq!(
        counts.wait.since_the_start().count,
        counts.at_once + counts.granted + ended
    );
    prop_assert!(counts.contended >= ended);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn permits_are_never_lost_never_exceeded_and_granted_in_order(
        capacity in 1_u32..5,
        sharded in any::<bool>(),
        steps in prop::collection::vec((step(), 1_u32..4), 1..150),
    ) {
        let core = if sharded { Core::with_shards(capacity) } else { Core::new(capacity) };
        run(&core, capacity, steps)?;
    }
}

/// Threads that take, give back, wait and go away, while the capacity changes: in the end everything is there.
#[test]
fn after_a_storm_of_threads_all_permits_are_there() {
    let core = Core::with_shards(8);
    let inside = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (core, inside) = (&core, &inside);
            scope.spawn(move || {
                for round in 0..20_000_u64 {
                    let n = 1 + (round % 3) as u32;
                    let who = || somebody(thread);
                    if round % 97 == 0 {
                        core.resize(5 + (round % 7) as u32, Tick(round));
                    }
                    let queued = match core.take(n, || Tick(round), &mut Some(who())) {
                        Ok(permit) => Ok((permit, Poll::Ready(()))),
                        Err(_) => core.enqueue(n, who(), Waker::noop().clone(), None, Tick(round)),
                    };
                    let Ok((place, polled)) = queued else {
                        continue;
                    };
                    if polled.is_pending() {
                        let by = [EndedBy::Timeout, EndedBy::Abandoned][(round % 2) as usize];
                        let kept = core.give_up(place, by, THRESHOLD, Tick(round));
                        if !matches!(kept, Some(GaveUp::HadPermits)) {
                            continue;
                        }
                    }
                    let now = inside.fetch_add(u64::from(n), Ordering::SeqCst) + u64::from(n);
                    assert!(now <= 11, "{now} at once");
                    inside.fetch_sub(u64::from(n), Ordering::SeqCst);
                    core.release(place, None, Tick(round));
                }
            });
        }
    });
    core.resize(8, Tick(0));
    let seen = core.seen();
    assert_eq!((seen.in_use(), seen.is_queued()), (0, false));
    assert!(core.peak_in_use() <= 11);
    assert!(core.take(8, || Tick(0), &mut Some(somebody(0))).is_ok());
}
