//! The search for cycles against the definition, on random programs that lock and release.

use std::collections::BTreeSet;
use std::task::Waker;
use std::time::Duration;

use proptest::prelude::*;

use crate::call::Holder;
use crate::contention::guard::Slot;
use crate::contention::handle::ResourceLock;
use crate::contention::queue::{Asked, Asker, Patience, Queued, ask};

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

/// Whether `late`, should it wait for `lock`, could never stop waiting: nobody who might release a permit it
/// waits for can ever run, and so on for those. Whoever has several permits of one lock is taken for several
/// who run.
fn would_wait_forever(
    processes: &[Process<'_>],
    capacities: &[usize],
    late: usize,
    lock: usize,
) -> bool {
    let waits_for = |p: usize| match &processes[p].waits {
        Some((lock, _)) => Some(*lock),
        None => (p == late).then_some(lock),
    };
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
            None => return stuck.contains(&late),
        };
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
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_wait_is_refused_exactly_when_it_could_never_end(
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
                    let forever = would_wait_forever(&processes, &capacities, p, lock);
                    let holder = Holder::Number(p as u64);
                    match ask(&locks[lock], holder, Asker::Guard, patience) {
                        Ok(Asked::Got(slot)) => {
                            prop_assert!(!forever);
                            processes[p].held.push((lock, slot));
                        }
                        Ok(Asked::Queued(queued)) => {
                            prop_assert!(!forever, "{p} waits for {lock} and for ever");
                            processes[p].waits = Some((lock, queued));
                        }
                        Err(refused) => {
                            prop_assert!(refused.is_deadlock());
                            prop_assert!(forever, "a false alarm: {refused}");
                        }
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
