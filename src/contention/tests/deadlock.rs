//! The search for cycles against the definition, on random programs that lock and release.

use std::collections::BTreeSet;
use std::task::Waker;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::call::Holder;
use crate::contention::guard::Slot;
use crate::contention::handle::ResourceLock;
use crate::contention::wait::{Ask, Asked, Asker, WaitInQueue, ask};
use crate::util::time;

const LOCKS: usize = 4;
const PROCESSES: usize = 5;

/// One line of work: it waits for one thing at a time.
#[derive(Default)]
struct Process<'a> {
    /// The lock, how many permits of it, and the permits.
    held: Vec<(usize, usize, Slot<&'a ResourceLock>)>,
    waits: Option<(usize, usize, WaitInQueue<&'a ResourceLock>)>,
}

impl Process<'_> {
    fn acquisitions_of(&self, lock: usize) -> usize {
        self.held.iter().filter(|(held, ..)| *held == lock).count()
    }

    fn permits_of(&self, lock: usize) -> usize {
        let own = self.held.iter().filter(|(held, ..)| *held == lock);
        own.map(|(_, n, _)| n).sum()
    }
}

/// Those that can never stop waiting: nobody who might release permits they wait for can ever run, and so on for
/// those. Whoever has acquired permits of one lock several times is taken for several who run. A waiter needs as many
/// permits as the first in its queue, at least.
fn wait_forever(
    processes: &[Process<'_>],
    capacities: &[usize],
    queues: &[Vec<usize>],
) -> BTreeSet<usize> {
    let wants = |p: usize| processes[p].waits.as_ref().map(|(lock, n, _)| (*lock, *n));
    let mut stuck: BTreeSet<usize> = (0..processes.len())
        .filter(|p| wants(*p).is_some())
        .collect();
    loop {
        let freed = stuck.iter().copied().find(|p| {
            let Some((lock, n)) = wants(*p) else {
                return true;
            };
            let head = queues[lock].first().and_then(|head| wants(*head));
            let needs = n.max(head.map_or(0, |(_, n)| n));
            let keeps = |q: &usize| processes[*q].acquisitions_of(lock) == 1 && stuck.contains(q);
            let kept = (0..processes.len()).filter(keeps);
            let kept: usize = kept.map(|q| processes[q].permits_of(lock)).sum();
            kept + needs <= capacities[lock]
        });
        match freed {
            Some(p) => stuck.remove(&p),
            None => return stuck,
        };
    }
}

/// Everybody who waits looks, until nobody finds anything; says how many gave way.
fn look_all(
    processes: &mut [Process<'_>],
    capacities: &[usize],
    queues: &mut [Vec<usize>],
) -> Result<usize, TestCaseError> {
    let mut gave_way = 0;
    // Once to be known, once to see those who were not known yet, and once for each who gives way.
    for _ in 0..2 + PROCESSES {
        for p in 0..processes.len() {
            let forever = wait_forever(processes, capacities, queues);
            let Some((lock, _, queued)) = &mut processes[p].waits else {
                continue;
            };
            let lock = *lock;
            if let Some(end) = queued.look(None, time::now()) {
                let refused = end.map(drop).unwrap_err();
                prop_assert!(refused.is_deadlock());
                prop_assert!(forever.contains(&p), "a false alarm: {refused}");
                processes[p].waits = None;
                queues[lock].retain(|waiter| *waiter != p);
                gave_way += 1;
                claim_all(processes, queues);
            }
        }
    }
    Ok(gave_way)
}

/// Whoever has been granted its permits takes them.
fn claim_all(processes: &mut [Process<'_>], queues: &mut [Vec<usize>]) {
    for (p, process) in processes.iter_mut().enumerate() {
        if let Some((lock, n, mut queued)) = process.waits.take() {
            match queued.claim(Waker::noop()) {
                Some(slot) => {
                    queues[lock].retain(|waiter| *waiter != p);
                    process.held.push((lock, n, slot.unwrap()));
                }
                None => process.waits = Some((lock, n, queued)),
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Lock(usize),
    Release(prop::sample::Index),
    GiveUp,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..LOCKS).prop_map(Step::Lock),
        1 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => Just(Step::GiveUp),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn of_those_that_could_never_end_enough_give_way_and_nobody_else(
        capacities in prop::collection::vec(1..3_usize, LOCKS),
        steps in prop::collection::vec((0..PROCESSES, step(), Just(1)), 1..80),
    ) {
        run(&capacities, steps, true)?;
    }

    /// Those who want several permits may be missed, and then give up after their timeout.
    #[test]
    fn who_wants_several_permits_is_refused_only_if_it_could_never_end(
        capacities in prop::collection::vec(1..4_usize, LOCKS),
        steps in prop::collection::vec((0..PROCESSES, step(), 1..4_usize), 1..80),
    ) {
        run(&capacities, steps, false)?;
    }
}

fn run(
    capacities: &[usize],
    steps: Vec<(usize, Step, usize)>,
    finds_all: bool,
) -> Result<(), TestCaseError> {
    let made = |n: &usize| ResourceLock::builder("lock").max_concurrent(*n).build();
    let locks: Vec<ResourceLock> = capacities.iter().map(|n| made(n).unwrap()).collect();
    let mut processes: Vec<Process<'_>> = (0..PROCESSES).map(|_| Process::default()).collect();
    let mut queues = vec![Vec::new(); LOCKS];
    for (p, step, n) in steps {
        match step {
            Step::Lock(lock) if processes[p].waits.is_none() => {
                let n = n.min(capacities[lock]);
                let wanted = Ask {
                    permits: n,
                    ..Ask::new(Holder::Number(p as u64), Asker::Guard)
                };
                match ask(&locks[lock], wanted, Waker::noop()) {
                    Ok(Asked::Got(slot)) => processes[p].held.push((lock, n, slot)),
                    Ok(Asked::Waits(queued)) => {
                        queues[lock].push(p);
                        processes[p].waits = Some((lock, n, queued));
                    }
                    Err(refused) => prop_assert!(false, "before it has waited: {refused}"),
                }
            }
            Step::Release(which) if processes[p].waits.is_none() => {
                let held = &mut processes[p].held;
                if !held.is_empty() {
                    held.swap_remove(which.index(held.len()));
                }
            }
            Step::GiveUp => {
                processes[p].waits = None;
                queues
                    .iter_mut()
                    .for_each(|queue| queue.retain(|it| *it != p));
            }
            Step::Lock(_) | Step::Release(_) => {}
        }
        claim_all(&mut processes, &mut queues);
        let before = wait_forever(&processes, capacities, &queues);
        let gave_way = look_all(&mut processes, capacities, &mut queues)?;
        if finds_all {
            prop_assert_eq!(gave_way > 0, !before.is_empty());
            prop_assert!(wait_forever(&processes, capacities, &queues).is_empty());
        }
    }
    Ok(())
}
