//! The search for cycles against the definition, on random programs that lock and release.

use std::collections::BTreeSet;
use std::task::Waker;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::call::Holder;
use crate::contention::guard::Slot;
use crate::contention::handle::ResourceLock;
use crate::contention::queue::{Asked, Asker, Patience, Queued, ask};
use crate::util::time;

const LOCKS: usize = 4;
const PROCESSES: usize = 5;

/// One line of work: it waits for one thing at a time.
#[derive(Default)]
struct Process<'a> {
    held: Vec<(usize, Slot<&'a ResourceLock>)>,
    waits: Option<(usize, Queued<&'a ResourceLock>)>,
}

impl Process<'_> {
    fn permits_of(&self, lock: usize) -> usize {
        self.held.iter().filter(|(held, _)| *held == lock).count()
    }
}

/// Those that can never stop waiting: nobody who might release a permit they wait for can ever run, and so on for
/// those. Whoever has several permits of one lock is taken for several who run.
fn wait_forever(processes: &[Process<'_>], capacities: &[usize]) -> BTreeSet<usize> {
    let waits_for = |p: usize| processes[p].waits.as_ref().map(|(lock, _)| *lock);
    let mut stuck: BTreeSet<usize> = (0..processes.len())
        .filter(|p| waits_for(*p).is_some())
        .collect();
    loop {
        let freed = stuck.iter().copied().find(|p| {
            let Some(lock) = waits_for(*p) else {
                return true;
            };
            let permits = |q: usize| processes[q].permits_of(lock);
            let in_use: usize = (0..processes.len()).map(permits).sum();
            let can_release = |q: usize| permits(q) > 1 || (permits(q) == 1 && !stuck.contains(&q));
            in_use < capacities[lock] || (0..processes.len()).any(can_release)
        });
        match freed {
            Some(p) => stuck.remove(&p),
            None => return stuck,
        };
    }
}

/// Everybody who waits looks, until nobody finds anything; says how many gave way.
fn look_all(processes: &mut [Process<'_>], capacities: &[usize]) -> Result<usize, TestCaseError> {
    let mut gave_way = 0;
    // Once to be known, once to see those who were not known yet, and once for each who gives way.
    for _ in 0..2 + PROCESSES {
        for p in 0..processes.len() {
            let forever = wait_forever(processes, capacities);
            let Some((_, queued)) = &mut processes[p].waits else {
                continue;
            };
            if let Some(end) = queued.look(None, time::now()) {
                let refused = end.map(drop).unwrap_err();
                prop_assert!(refused.is_deadlock());
                prop_assert!(forever.contains(&p), "a false alarm: {refused}");
                processes[p].waits = None;
                gave_way += 1;
            }
        }
    }
    Ok(gave_way)
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
        steps in prop::collection::vec((0..PROCESSES, step()), 1..80),
    ) {
        let locks: Vec<ResourceLock> = capacities
            .iter()
            .map(|n| ResourceLock::builder("lock").max_concurrent(*n).build().unwrap())
            .collect();
        let mut processes: Vec<Process<'_>> = (0..PROCESSES).map(|_| Process::default()).collect();
        let patience = Patience { timeout: Some(Duration::from_secs(3_600)), deadline: None };
        for (p, step) in steps {
            match step {
                Step::Lock(lock) if processes[p].waits.is_none() => {
                    let holder = Holder::Number(p as u64);
                    match ask(&locks[lock], holder, Asker::Guard, patience) {
                        Ok(Asked::Got(slot)) => {
                            processes[p].held.push((lock, slot));
                        }
                        Ok(Asked::Queued(queued)) => {
                            processes[p].waits = Some((lock, queued));
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
                Step::GiveUp => processes[p].waits = None,
                Step::Lock(_) | Step::Release(_) => {}
            }
            for process in &mut processes {
                if let Some((lock, mut queued)) = process.waits.take() {
                    match queued.claim(Waker::noop()) {
                        Some(slot) => process.held.push((lock, slot)),
                        None => process.waits = Some((lock, queued)),
                    }
                }
            }
            let before = wait_forever(&processes, &capacities);
            let gave_way = look_all(&mut processes, &capacities)?;
            prop_assert_eq!(gave_way > 0, !before.is_empty());
            prop_assert!(wait_forever(&processes, &capacities).is_empty());
        }
        // Nobody waits for ever: let whoever can run end, and all do.
        while processes.iter().any(|p| p.waits.is_some() || !p.held.is_empty()) {
            let runs = processes.iter().position(|p| p.waits.is_none() && !p.held.is_empty());
            // Several permits under one name pass for somebody who runs; a patience would end these.
            let Some(runs) = runs else { break };
            processes[runs].held.clear();
            for process in &mut processes {
                if let Some((lock, mut queued)) = process.waits.take() {
                    match queued.claim(Waker::noop()) {
                        Some(slot) => process.held.push((lock, slot)),
                        None => process.waits = Some((lock, queued)),
                    }
                }
            }
        }
        let several = |p: &Process<'_>| (0..LOCKS).any(|lock| p.permits_of(lock) > 1);
        let left = processes.iter().any(|p| p.waits.is_some());
        prop_assert!(!left || processes.iter().any(several));
    }
}
