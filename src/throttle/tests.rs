//! The pure parts: vectors, and a naive model.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::config::ThrottleConfig;
use super::shared::Shared;
use super::state::{State, formula};
use crate::util::time::Tick;
use crate::util::window::SLICES;

const SECOND: u64 = 1_000_000_000;

fn cases(list: &str) -> Vec<Value> {
    let file: Value =
        serde_json::from_str(include_str!("../../tests/vectors/sre_throttle.json")).unwrap();
    let cases = file[list].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn int(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn close(a: f64, b: &Value, case: &Value) {
    assert!((a - b.as_f64().unwrap()).abs() < 1e-8, "{a} {case}");
}

/// The formula and nothing around it.
fn plain(k: f64) -> ThrottleConfig {
    ThrottleConfig {
        k,
        max_reject: 1.0,
        minimum_requests: 0,
        ..ThrottleConfig::default()
    }
}

#[test]
fn the_formula_is_that_of_the_book() {
    for case in cases("formula_cases") {
        let k = case["k"].as_f64().unwrap();
        let p = formula(k, int(&case["requests"]), int(&case["accepts"]));
        close(p, &case["p_reject"], &case);
    }
}

/// Its success rate is this K, and its aggression an exponent; one below 1 is 1.
#[test]
fn envoys_admission_control_is_the_same_formula_with_an_exponent() {
    for case in cases("envoy_admission_cases") {
        let number = |key: &str| case[key].as_f64().unwrap();
        let k = 1.0 / number("sr_threshold");
        let p = formula(k, int(&case["total"]), int(&case["success"]));
        let p = p.powf(1.0 / number("aggression").max(1.0));
        close(p.min(number("max_rejection")), &case["p_reject"], &case);
    }
}

#[test]
fn what_is_sent_settles_where_the_vectors_say() {
    for case in cases("steady_state_cases") {
        let number = |key: &str| case[key].as_f64().unwrap();
        let (k, offered, cap) = (number("k"), number("offered"), number("backend_accepts"));
        // What is sent is what was not refused, and the service accepts no more than it can.
        let p = formula(k, offered as u64, cap as u64);
        close(p, &case["p_reject"], &case);
        assert!(
            (offered * (1.0 - p) - number("sent_to_backend")).abs() < 1e-5,
            "{case}"
        );
    }
}

#[test]
fn step_by_step_the_probability_is_that_of_the_vectors() {
    for case in cases("sequences") {
        let config = plain(case["k"].as_f64().unwrap());
        let (mut state, now) = (State::new(&config), Tick(1_000 * SECOND));
        for step in case["steps"].as_array().unwrap() {
            match step["event"].as_str().unwrap() {
                // The service has answered, if only overload is no acceptance.
                "ok" | "app_error" => state.add(1, 0, now.0 / (3 * SECOND)),
                "overload" => state.fail(now),
                "local_reject" => state.add(0, 1, now.0 / (3 * SECOND)),
                other => panic!("{other}"),
            }
            let counts = (int(&step["requests"]), int(&step["accepts"]));
            assert_eq!(state.counts(now), counts, "{case}");
            close(state.reject(&config, now), &step["p_reject"], step);
        }
    }
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    for case in cases("window_cases") {
        let length = int(&case["window_s"]);
        let config = ThrottleConfig {
            window: Duration::from_secs(length),
            ..plain(case["k"].as_f64().unwrap())
        };
        let slice = length * SECOND / SLICES;
        // At the beginning of a slice: the oldest falls out as a whole.
        let at = |t: &Value| Tick(100 * slice + int(t) * SECOND);
        let mut state = State::new(&config);
        let mut events = case["events"].as_array().unwrap().iter().peekable();
        for query in case["queries"].as_array().unwrap() {
            let now = at(&query["t"]);
            while let Some(event) = events.next_if(|event| at(&event["t"]) <= now) {
                let then = at(&event["t"]);
                for _ in 0..event["overload"].as_u64().unwrap_or(0) {
                    state.fail(then);
                }
                state.add(event["ok"].as_u64().unwrap_or(0), 0, then.0 / slice);
            }
            let counts = (int(&query["requests"]), int(&query["accepts"]));
            assert_eq!(state.counts(now), counts, "{query}");
            close(state.reject(&config, now), &query["p_reject"], query);
        }
    }
}

/// A thread reads the clock, and another has begun the next slice before it has the lock.
#[test]
fn a_clock_that_was_read_before_the_slice_began_hides_nothing_that_is_in_it() {
    let config = ThrottleConfig {
        minimum_requests: 1,
        ..ThrottleConfig::default()
    };
    let shared = Shared::new("search".into(), config, Some(1), Vec::new());
    let begin = Tick(100 * 3 * SECOND);
    for _ in 0..20 {
        shared.with_state(begin, |state, now| state.fail(now));
    }
    let before = shared.probability();
    assert!(before > 0.8, "{before}");
    let counts = shared.with_state(Tick(begin.0 - 1), |state, now| state.counts(now));
    assert_eq!(counts, (20, 0));
    assert_eq!(shared.probability(), before);
}

proptest! {
    /// Against a list of all calls with their slices.
    #[test]
    fn the_probability_is_that_of_a_list_of_calls(
        steps in prop::collection::vec((0..3_u8, 1..20_u64, 0..40_u64), 0..60),
        k in 1.0..4.0_f64,
        max_reject in 0.1..0.99_f64,
        minimum_requests in 0..30_u64,
    ) {
        let config = ThrottleConfig { k, max_reject, minimum_requests, ..ThrottleConfig::default() };
        let slice = 3 * SECOND;
        let (mut state, mut list, mut now) = (State::new(&config), Vec::new(), 5_000 * SECOND);
        for (kind, n, step) in steps {
            now += step * SECOND;
            match kind {
                0 => state.add(n, 0, now / slice),
                1 => state.add(0, n, now / slice),
                _ => (0..n).for_each(|_| state.fail(Tick(now))),
            }
            list.push((now / slice, kind == 0, n));
            let inside = list.iter().filter(|it| now / slice - it.0 < SLICES);
            let (mut requests, mut accepts) = (0_u64, 0_u64);
            for (_, accepted, n) in inside {
                requests += n;
                accepts += n * u64::from(*accepted);
            }
            prop_assert_eq!(state.counts(Tick(now)), (requests, accepts));
            let expected = match requests < minimum_requests {
                true => 0.0,
                false => ((requests as f64 - k * accepts as f64) / (requests as f64 + 1.0)).clamp(0.0, max_reject),
            };
            prop_assert!((state.reject(&config, Tick(now)) - expected).abs() < 1e-12);
        }
    }
}
