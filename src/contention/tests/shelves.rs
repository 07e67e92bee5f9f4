//! The permits of a lock with shelves, against a lock that counts: whatever lies where, nobody may notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;
use crate::contention::permits::Permits;
use crate::util::sync::{set_thread_number, thread_number};

const SHELVES: usize = 4;

/// Who takes part in the model: one thread is all of them in turn.
#[derive(Clone, Copy, Debug)]
enum Act {
    Take { thread: usize },
    Release(usize),
    Claim(usize),
    GiveUp(usize, bool),
    Capacity(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..SHELVES).prop_map(|thread| Act::Take { thread }),
        7 => any::<usize>().prop_map(Act::Release),
        4 => any::<usize>().prop_map(Act::Claim),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, timeout)| Act::GiveUp(which, timeout)),
        1 => (1usize..60).prop_map(Act::Capacity),
    ]
}

/// As a thread of this number; there are no others meanwhile.
fn as_thread<T>(number: usize, f: impl FnOnce() -> T) -> T {
    let own = thread_number();
    set_thread_number(number);
    let result = f();
    set_thread_number(own);
    result
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn wherever_permits_lie_all_of_them_can_be_had_and_no_more_and_in_order(
        capacity in 1usize..60,
        acts in prop::collection::vec(act(), 1..300),
    ) {
        let permits: Permits<u64> = Permits::with_shelves(capacity, SHELVES);
        let mut model = Model { capacity, ..Model::default() };
        let mut held: Vec<(u64, Key)> = Vec::new();
        let mut waiters: Vec<(u64, Key)> = Vec::new();
        let (mut ended, mut asked) = (0, 0);
        for (name, act) in (0u64..).zip(acts) {
            let at = Tick(name + 1);
            let holder = Holder::Number(name);
            match act {
                Act::Take { thread } => {
                    asked += 1;
                    let free = model.in_use() < model.capacity && model.queue.is_empty();
                    let taken = as_thread(thread, || {
                        let taken = permits.take(&holder, Owner::Anybody, at);
                        taken.map_err(|mut desk| {
                            desk.state.enqueue(holder.clone(), Owner::Anybody, at)
                        })
                    });
                    prop_assert_eq!(taken.is_ok(), free);
                    match taken {
                        Ok(permit) => {
                            held.push((name, permit));
                            model.holding.push(name);
                        }
                        Err(waiter) => {
                            waiters.push((name, waiter));
                            model.queue.push(name);
                        }
                    }
                }
                Act::Release(which) if !held.is_empty() => {
                    let (name, permit) = held.swap_remove(which % held.len());
                    let holder = permits.look_at(permit, |held| held.holder.clone());
                    prop_assert_eq!(holder, Some(Holder::Number(name)));
                    prop_assert!(permits.release(permit, None, at).is_some());
                    prop_assert!(permits.release(permit, None, at).is_none(), "given back twice");
                    ended += 1;
                    model.holding.retain(|holder| *holder != name);
                    model.settle(&[]);
                }
                Act::Claim(which) if !waiters.is_empty() => {
                    let which = which % waiters.len();
                    let (name, waiter) = waiters[which];
                    let claimed = permits.desk().state.claim(waiter, &mut None, THRESHOLD);
                    prop_assert_eq!(claimed.is_some(), model.granted.contains(&name));
                    if let Some((permit, _)) = claimed {
                        waiters.remove(which);
                        held.push((name, permit));
                        model.granted.retain(|granted| *granted != name);
                        model.holding.push(name);
                    }
                }
                Act::GiveUp(which, timeout) if !waiters.is_empty() => {
                    let (name, waiter) = waiters.remove(which % waiters.len());
                    let by = if timeout { EndedBy::Timeout } else { EndedBy::Abandoned };
                    let gave_up = permits.desk().state.give_up(waiter, by, THRESHOLD, at);
                    let had_one = model.granted.contains(&name);
                    model.granted.retain(|granted| *granted != name);
                    model.queue.retain(|queued| *queued != name);
                    match gave_up.expect("it was there") {
                        GaveUp::HadPermit(permit) => {
                            prop_assert!(had_one && timeout);
                            held.push((name, permit));
                            model.holding.push(name);
                        }
                        _ => prop_assert!(!had_one || !timeout),
                    }
                    model.settle(&[]);
                }
                Act::Capacity(capacity) => {
                    let (from, _) = permits.set_capacity(capacity, at);
                    prop_assert_eq!(from, model.capacity);
                    model.capacity = capacity;
                    model.settle(&[]);
                }
                Act::Release(_) | Act::Claim(_) | Act::GiveUp(..) => {}
            }
            let all = permits.all();
            prop_assert_eq!(all.capacity(), model.capacity);
            prop_assert_eq!(all.in_use(), model.in_use());
            prop_assert_eq!(all.queue().waiting(), model.queue.len());
            let stats = all.stats();
            prop_assert_eq!(stats.attempts, asked);
            prop_assert_eq!(stats.hold.summary().count, ended);
            prop_assert!(stats.peak_in_use >= model.in_use());
            let holders = all.holders(usize::MAX, Tick(1_000));
            prop_assert_eq!(holders.len(), model.in_use());
            prop_assert!(holders.is_sorted_by_key(|it| std::cmp::Reverse(it.held_for)));
        }
    }
}

#[test]
fn a_lock_with_few_permits_has_no_shelves_and_knows_the_most_in_use() {
    let permits: Permits<()> = Permits::new(1);
    let take = |n| permits.take(&number(n), Owner::Anybody, Tick(n)).ok();
    let first = take(1).unwrap();
    assert!(take(2).is_none());
    assert_eq!(first.list(), 0, "the desk's own");
}

#[test]
fn who_takes_and_gives_back_leaves_the_desk_alone() {
    let permits: Permits<()> = Permits::with_shelves(100, SHELVES);
    let take = |n| permits.take(&number(n), Owner::Anybody, Tick(n)).ok();
    // The first opens the shelves.
    let first = take(1).unwrap();
    assert!(permits.release(first, None, Tick(2)).is_some());
    let at_the_desk = || permits.desk().state.stats.clone();
    let before = at_the_desk();
    // More often than there are permits on the shelf.
    for n in 3..103 {
        let permit = take(n).expect("on the shelf");
        assert!(permits.release(permit, None, Tick(n)).is_some());
    }
    assert_eq!(at_the_desk().attempts, before.attempts);
    assert_eq!(permits.all().stats().attempts, before.attempts + 100);
}

#[test]
fn a_shelf_that_one_thread_emptied_is_filled_from_the_others() {
    let permits: Permits<()> = Permits::with_shelves(100, SHELVES);
    let take = |n| permits.take(&number(n), Owner::Anybody, Tick(n)).ok();
    let held: Vec<_> = (0..100).map(|n| take(n).expect("all of them")).collect();
    assert!(take(100).is_none());
    assert_eq!(permits.all().in_use(), 100);
    assert_eq!(permits.all().stats().peak_in_use, 100);
    for permit in held {
        assert!(permits.release(permit, None, Tick(200)).is_some());
    }
    assert_eq!(permits.all().in_use(), 0);
}

#[test]
fn the_most_in_use_is_never_more_than_there_were_permits() {
    let permits: Permits<()> = Permits::with_shelves(40, SHELVES);
    for round in 0..50 {
        for thread in 0..SHELVES {
            let held: Vec<_> = (0..40)
                .filter_map(|n| {
                    let taken = || permits.take(&number(n), Owner::Anybody, Tick(round)).ok();
                    as_thread(thread, taken)
                })
                .collect();
            assert_eq!(held.len(), 40);
            for permit in held {
                assert!(permits.release(permit, None, Tick(round)).is_some());
            }
        }
    }
    assert_eq!(permits.all().stats().peak_in_use, 40);
    permits.all().reset_stats();
    assert_eq!(permits.all().stats().peak_in_use, 0);
}

#[test]
fn the_most_there_have_been_is_forgotten_with_the_statistics() {
    let permits: Permits<()> = Permits::with_shelves(40, SHELVES);
    let use_all = |most: usize| {
        for thread in 0..SHELVES {
            let take = |n| permits.take(&number(n), Owner::Anybody, Tick(1)).ok();
            let held: Vec<_> = as_thread(thread, || (0..40).map_while(take).collect());
            assert_eq!(held.len(), most);
            for permit in held {
                assert!(permits.release(permit, None, Tick(2)).is_some());
            }
        }
        permits.all().stats().peak_in_use
    };
    assert_eq!(use_all(40), 40);
    assert_eq!(permits.set_capacity(20, Tick(3)).0, 40);
    assert_eq!(use_all(20), 40);
    permits.all().reset_stats();
    assert_eq!(use_all(20), 20);
}

/// Permits are few enough that shelves are opened and closed all the time, and are given back by other threads.
#[test]
fn threads_that_race_for_permits_never_have_too_many_and_lose_none() {
    const PERMITS: usize = 10;
    const THREADS: usize = 4;
    let permits: Arc<Permits<()>> = Arc::new(Permits::with_shelves(PERMITS, SHELVES));
    let inside = Arc::new(AtomicUsize::new(0));
    let (pass, passed) = std::sync::mpsc::channel::<Key>();
    let passed = Arc::new(std::sync::Mutex::new(passed));
    let threads: Vec<_> = (0..THREADS)
        .map(|n| {
            let (permits, inside) = (Arc::clone(&permits), Arc::clone(&inside));
            let (pass, passed) = (pass.clone(), Arc::clone(&passed));
            thread::spawn(move || {
                set_thread_number(n);
                let give_back = |permit| {
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert!(permits.release(permit, None, Tick(2)).is_some());
                };
                for round in 0..5_000 {
                    let holder = Holder::Number(round);
                    if let Ok(permit) = permits.take(&holder, Owner::Anybody, Tick(1)) {
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < PERMITS);
                        match round % 3 {
                            0 => pass.send(permit).unwrap(),
                            _ => give_back(permit),
                        }
                    }
                    let others = passed.lock().unwrap().try_recv();
                    if let Ok(permit) = others {
                        give_back(permit);
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    drop(pass);
    for permit in passed.lock().unwrap().iter() {
        assert!(permits.release(permit, None, Tick(3)).is_some());
    }
    assert_eq!(permits.all().in_use(), 0);
    let all: Vec<_> = (0..PERMITS as u64)
        .map_while(|n| permits.take(&number(n), Owner::Anybody, Tick(4)).ok())
        .collect();
    assert_eq!(all.len(), PERMITS, "a permit was lost");
    assert!(permits.take(&number(99), Owner::Anybody, Tick(5)).is_err());
}
