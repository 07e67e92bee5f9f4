//! Calls on their way.

use proptest::prelude::*;

use super::super::in_flight::{BUCKETS, InFlight, TO_THRESHOLD};
use crate::time::Tick;
use std::time::Duration;

const THRESHOLD: u64 = 800;

fn in_flight() -> InFlight {
    InFlight::new(Duration::from_nanos(THRESHOLD))
}

#[test]
fn a_call_that_ended_is_never_swept() {
    let calls = in_flight();
    let seat = calls.enter(Tick(10_000)).unwrap();
    assert!(calls.exit(seat));
    assert_eq!(calls.sweep(Tick(90_000)), 0);
}

#[test]
fn a_call_that_was_swept_knows_that_it_was_counted() {
    let calls = in_flight();
    let seat = calls.enter(Tick(10_000)).unwrap();
    assert_eq!(calls.sweep(Tick(10_000 + 2 * THRESHOLD)), 1);
    assert_eq!(calls.sweep(Tick(10_000 + 3 * THRESHOLD)), 0);
    assert!(!calls.exit(seat));
}

#[test]
fn a_bucket_with_calls_of_long_ago_asks_for_a_sweep_first() {
    let calls = in_flight();
    let start = 10_000;
    calls.enter(Tick(start)).unwrap();
    let lap = start + BUCKETS as u64 * THRESHOLD / TO_THRESHOLD;
    assert_eq!(calls.enter(Tick(lap)), None);
    assert_eq!(calls.sweep(Tick(lap)), 1);
    assert!(calls.enter(Tick(lap)).is_some());
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
            prop_assert!(calls.enter(Tick(now)).is_some());
            waiting.push(now);
        }
        for wait in looks {
            now += wait;
            let swept = calls.sweep(Tick(now)) as usize;
            let surely = waiting.iter().filter(|s| now - **s >= THRESHOLD + THRESHOLD / 8).count();
            let at_most = waiting.iter().filter(|s| now - **s >= THRESHOLD).count();
            prop_assert!((surely..=at_most).contains(&swept), "{surely} <= {swept} <= {at_most}");
            waiting.drain(..swept);
        }
    }
}
