//! Calls on their way.

use proptest::prelude::*;

use super::super::in_flight::{BUCKETS, InFlight, TO_THRESHOLD};
use crate::util::time::Tick;
use std::time::Duration;

const THRESHOLD: u64 = 800;

fn in_flight() -> InFlight {
    InFlight::new(Duration::from_nanos(THRESHOLD))
}

#[test]
fn a_call_that_ended_is_never_swept() {
    let calls = in_flight();
    let entry = calls.enter(1, Tick(10_000)).unwrap();
    assert!(calls.exit(entry));
    assert_eq!(calls.sweep(1, Tick(90_000)), 0);
}

#[test]
fn a_call_that_was_swept_knows_that_it_was_counted() {
    let calls = in_flight();
    let entry = calls.enter(1, Tick(10_000)).unwrap();
    assert_eq!(calls.sweep(1, Tick(10_000 + 2 * THRESHOLD)), 1);
    assert_eq!(calls.sweep(1, Tick(10_000 + 3 * THRESHOLD)), 0);
    assert!(!calls.exit(entry));
}

#[test]
fn a_bucket_with_calls_of_long_ago_asks_for_a_sweep_first() {
    let calls = in_flight();
    let start = 10_000;
    calls.enter(1, Tick(start)).unwrap();
    let lap = start + BUCKETS as u64 * THRESHOLD / TO_THRESHOLD;
    assert_eq!(calls.enter(1, Tick(lap)), None);
    assert_eq!(calls.sweep(1, Tick(lap)), 1);
    assert!(calls.enter(1, Tick(lap)).is_some());
}

#[test]
fn a_call_of_an_old_epoch_does_not_leave_in_place_of_a_new_one() {
    let calls = in_flight();
    let now = Tick(10_000);
    let old = calls.enter(1, now).unwrap();
    assert_eq!(calls.enter(2, now), None, "the old one must be swept first");
    assert_eq!(calls.sweep(2, now), 0, "it is of another epoch, not slow");
    let new = calls.enter(2, now).unwrap();
    assert!(!calls.exit(old));
    assert!(calls.exit(new));
}

#[test]
fn a_call_that_starts_after_the_sweeper_read_the_clock_is_not_slow() {
    let calls = in_flight();
    let width = THRESHOLD / TO_THRESHOLD;
    // Who finds a sweep due does that first.
    assert!(calls.is_due(Tick(10_000 + width)));
    assert_eq!(calls.sweep(1, Tick(10_000 + width)), 0);
    let entry = calls.enter(1, Tick(10_000 + width)).unwrap();
    assert_eq!(calls.sweep(1, Tick(10_000)), 0);
    assert!(calls.exit(entry));
}

#[test]
fn after_any_pause_a_call_that_hangs_is_overdue() {
    for pause in [1u64 << 10, 1 << 20, 1 << 30, 1 << 40, 1 << 50, 1 << 60] {
        let calls = in_flight();
        calls.sweep(1, Tick(10_000));
        let entry = calls.enter(1, Tick(10_000)).unwrap();
        assert_eq!(calls.sweep(1, Tick(10_000 + pause)), 1, "{pause}");
        assert!(!calls.exit(entry));
    }
}

proptest! {
    #[test]
    fn no_call_is_swept_early_and_none_more_than_an_eighth_late(
        starts in prop::collection::vec(0u64..600, 1..30),
        looks in prop::collection::vec(1u64..300, 1..40),
    ) {
        let calls = in_flight();
        let mut now = 1_000_000;
        let mut waiting = Vec::new();
        for wait in starts {
            now += wait / 8;
            if calls.is_due(Tick(now)) {
                let swept = calls.sweep(1, Tick(now)) as usize;
                prop_assert!(waiting[..swept].iter().all(|s| now - *s >= THRESHOLD));
                waiting.drain(..swept);
            }
            prop_assert!(calls.enter(1, Tick(now)).is_some());
            waiting.push(now);
        }
        for wait in looks {
            now += wait;
            let swept = calls.sweep(1, Tick(now)) as usize;
            let surely = waiting.iter().filter(|s| now - **s >= THRESHOLD + THRESHOLD / 8).count();
            let at_most = waiting.iter().filter(|s| now - **s >= THRESHOLD).count();
            prop_assert!((surely..=at_most).contains(&swept), "{surely} <= {swept} <= {at_most}");
            waiting.drain(..swept);
        }
    }
}
