//! What is counted, and where.

use super::*;

fn lock_of_one() -> (State<u64>, Key) {
    let mut state = State::new(1);
    let permit = state.try_acquire(&Holder::Number(0), Owner::Anybody, Tick(0));
    (state, permit.unwrap())
}

#[test]
fn who_is_refused_without_a_wait_has_asked_was_contended_and_did_not_wait() {
    let (mut state, _) = lock_of_one();
    for _ in 0..3 {
        state.refuse();
    }
    let stats = &state.stats;
    assert_eq!((stats.attempts, stats.acquisitions), (4, 1));
    assert_eq!((stats.rejected, stats.contentions), (3, 3));
    assert_eq!(stats.wait.summary().count, 1);
}

#[test]
fn each_end_of_a_wait_has_a_count_of_its_own() {
    let (mut state, _) = lock_of_one();
    for (by, times) in [
        (EndedBy::Timeout, 2),
        (EndedBy::Abandoned, 3),
        (EndedBy::Deadlock, 4),
    ] {
        for _ in 0..times {
            let waiter = state.enqueue(Holder::Number(1), Owner::Anybody, Tick(0));
            let left = state.give_up(waiter, by, THRESHOLD, Tick(10));
            assert!(matches!(left, Some(GaveUp::Left { .. })));
        }
    }
    let stats = &state.stats;
    assert_eq!(
        (stats.timeouts, stats.abandoned, stats.deadlocks),
        (2, 3, 4)
    );
    assert_eq!(stats.contentions, 9);
    assert_eq!(stats.wait.summary().count, 1 + 9);
}

#[test]
fn a_permit_in_use_is_found_with_its_holder_until_it_is_given_back() {
    let (mut state, permit) = lock_of_one();
    let held = state.get_held(permit).unwrap();
    assert_eq!((&held.holder, held.since), (&Holder::Number(0), Tick(0)));
    assert!(state.release(permit, None, Tick(5)).is_some());
    assert!(state.get_held(permit).is_none());
    assert!(
        state.release(permit, None, Tick(6)).is_none(),
        "and given back once"
    );
}
