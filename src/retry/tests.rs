//! The pure parts: backoff, jitter, budget, session. Time and dice are numbers here.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::backoff::{Backoff, Jitter};
use super::budget::{Bucket, BudgetRules, Quota, RetryBudget, RetryQuota, Spend, TOKEN, Throttle};
use super::config::RetryConfig;
use super::handle::RetryPolicy;
use super::state::{Ended, Next, Session};
use crate::call::outcome::{Idempotency, RetryDelay};
use crate::error::{AttemptEnd, StopReason};
use crate::util::time::Tick;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const ALMOST_ONE: f64 = 1.0 - f64::EPSILON / 2.0;

// ---- Backoff and jitter -------------------------------------------------------------------------------

#[test]
fn linear_is_one_two_three_four_times_the_base() {
    let linear = Backoff::linear(SECOND);
    let waits: Vec<u64> = (0..4).map(|n| linear.raw(n).as_secs()).collect();
    assert_eq!(waits, [1, 2, 3, 4]);
}

#[test]
fn exponential_starts_with_the_base_and_custom_with_zero() {
    let exponential = Backoff::exponential(SECOND, 2.0);
    let waits: Vec<u64> = (0..4).map(|n| exponential.raw(n).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8]);
    let custom = Backoff::custom(|n| Duration::from_secs(u64::from(n) * 7));
    assert_eq!(
        [custom.raw(0), custom.raw(2)],
        [Duration::ZERO, 14 * SECOND]
    );
}

fn backoff() -> impl Strategy<Value = Backoff> {
    let base = || (0u64..100_000).prop_map(Duration::from_millis);
    prop_oneof![
        (base(), 0.1f64..10.0).prop_map(|(base, m)| Backoff::exponential(base, m)),
        base().prop_map(Backoff::linear),
        base().prop_map(Backoff::fixed),
        Just(Backoff::custom(|n| Duration::from_secs(
            u64::MAX / 2 + u64::from(n)
        ))),
    ]
}

fn jitter() -> impl Strategy<Value = Jitter> {
    prop_oneof![
        Just(Jitter::None),
        (0.0f64..=1.0).prop_map(Jitter::Proportional),
        Just(Jitter::Full),
        Just(Jitter::Equal),
        Just(Jitter::Decorrelated),
    ]
}

fn any_retry() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..80, Just(1_100), Just(u32::MAX)]
}

proptest! {
    #[test]
    fn no_wait_is_ever_longer_than_the_cap_or_the_worst_case(
        backoff in backoff(),
        jitter in jitter(),
        n in any_retry(),
        max in 0u64..200_000,
        previous in prop::option::of(0u64..200_000),
        unit in prop_oneof![0.0f64..1.0, Just(ALMOST_ONE)],
    ) {
        let max = Duration::from_millis(max);
        let previous = previous.map(Duration::from_millis).map(|wait| wait.min(max));
        let wait = jitter.delay(&backoff, n, max, previous, unit);
        prop_assert!(wait <= max);
        if jitter != Jitter::Decorrelated {
            prop_assert!(wait <= jitter.longest(&backoff, n, max));
        }
    }

    #[test]
    fn without_jitter_waits_of_a_growing_backoff_never_shrink(
        base in 0u64..10_000,
        multiplier in 1.0f64..5.0,
        n in 0u32..2_000,
    ) {
        let max = 60 * SECOND;
        for backoff in [
            Backoff::exponential(Duration::from_millis(base), multiplier),
            Backoff::linear(Duration::from_millis(base)),
        ] {
            let wait = |n| Jitter::None.delay(&backoff, n, max, None, 0.0);
            prop_assert!(wait(n) <= wait(n + 1));
        }
    }

    #[test]
    fn at_the_cap_there_is_spread_and_never_more_than_the_cap(unit in 0.0f64..1.0) {
        let (backoff, max) = (Backoff::exponential(SECOND, 2.0), 60 * SECOND);
        let wait = |unit| Jitter::Proportional(0.1).delay(&backoff, 30, max, None, unit);
        prop_assert!((54 * SECOND..=max).contains(&wait(unit)));
        // Two callers with different luck do not meet at the cap.
        prop_assert!(wait(unit) < wait(unit + (1.0 - unit) / 2.0));
    }
}

#[test]
fn a_sequence_of_decorrelated_waits_stays_below_its_worst_case() {
    let (backoff, max) = (Backoff::fixed(100 * MS), 2 * SECOND);
    let mut previous = None;
    for n in 0..10 {
        let wait = Jitter::Decorrelated.delay(&backoff, n, max, previous, ALMOST_ONE);
        assert!(
            wait <= Jitter::Decorrelated.longest(&backoff, n, max),
            "retry {n}: {wait:?}"
        );
        previous = Some(wait);
    }
}

/// Conformance vectors for the published formulas. The other algorithms in the file (`plus_minus_20`,
/// `envoy_doc`, `openai`, `azure`, `google_truncated`) are those of clients and proxies that exceed
/// their own cap or count otherwise; this crate does not offer them.
#[test]
fn the_published_jitter_formulas_hold() {
    let file = include_str!("../../tests/vectors/jitter.json");
    let vectors: Value = serde_json::from_str(file).unwrap();
    let ms = |value: &Value| Duration::from_secs_f64(value.as_f64().unwrap() / 1e3);
    let close = |a: Duration, b: Duration| a.abs_diff(b) <= Duration::from_nanos(1_000);
    let by_name = |name: &str| match name {
        "exponential" => Some(Jitter::None),
        "full" => Some(Jitter::Full),
        "equal" => Some(Jitter::Equal),
        "decorrelated" => Some(Jitter::Decorrelated),
        _ => None,
    };
    let cases = |key: &str| vectors[key].as_array().unwrap().clone();
    let mut checked = 0;
    for case in cases("cases") {
        let Some(jitter) = by_name(case["algorithm"].as_str().unwrap()) else {
            continue;
        };
        let (base, max) = (
            ms(&case["params_ms"]["base"]),
            ms(&case["params_ms"]["cap"]),
        );
        let backoff = Backoff::exponential(base, 2.0);
        let n = case["n"].as_u64().unwrap() as u32 - 1;
        // The extremes: for decorrelated jitter over all histories.
        let draw = |unit| {
            let mut previous = None;
            for earlier in 0..n {
                previous = Some(jitter.delay(&backoff, earlier, max, previous, unit));
            }
            jitter.delay(&backoff, n, max, previous, unit)
        };
        assert!(close(draw(0.0), ms(&case["min_ms"])), "{case}");
        assert!(close(draw(ALMOST_ONE), ms(&case["max_ms"])), "{case}");
        checked += 1;
    }
    for case in cases("with_u_cases") {
        let Some(jitter) = by_name(case["algorithm"].as_str().unwrap()) else {
            continue;
        };
        let backoff = Backoff::fixed(ms(&case["e_ms"]));
        let unit = case["u"].as_f64().unwrap();
        let wait = jitter.delay(&backoff, 0, Duration::MAX, None, unit);
        assert!(close(wait, ms(&case["delay_ms"])), "{case}: {wait:?}");
        checked += 1;
    }
    for case in cases("decorrelated_sequence_cases") {
        let backoff = Backoff::fixed(ms(&case["base_ms"]));
        let (max, unit) = (ms(&case["cap_ms"]), case["u"].as_f64().unwrap());
        let mut previous = None;
        for (n, expected) in (0..).zip(case["delays_ms"].as_array().unwrap()) {
            let wait = Jitter::Decorrelated.delay(&backoff, n, max, previous, unit);
            assert!(close(wait, ms(expected)), "{case}: {wait:?}");
            previous = Some(wait);
        }
        checked += 1;
    }
    for case in cases("edge_cases") {
        let backoff =
            Backoff::exponential(ms(&case["base_ms"]), case["multiplier"].as_f64().unwrap());
        let n = case["n"].as_u64().unwrap() as u32 - 1;
        let wait = Jitter::None.delay(&backoff, n, ms(&case["cap_ms"]), None, 0.0);
        assert!(close(wait, ms(&case["e_ms"])), "{case}: {wait:?}");
        checked += 1;
    }
    assert_eq!(checked, 25 + 7 + 3 + 7, "cases went missing");
}

// ---- Budget -------------------------------------------------------------------------------------------

fn rules(percent: f64, burst: u64) -> BudgetRules {
    BudgetRules {
        deposit: (percent * (TOKEN / 100) as f64).round() as u64,
        floor_per_second: 0,
        burst: burst * TOKEN,
    }
}

#[test]
fn every_percentage_is_exact() {
    for percent in [0.4, 20.0, 37.0, 40.0, 51.0, 90.0, 99.0, 100.0] {
        let rules = rules(percent, 1_000_000);
        let mut bucket = Bucket::full(rules, Tick(0));
        while bucket.withdraw(0, Tick(0)) {}
        let calls = 100_000_u64;
        let mut retries = 0;
        while bucket.withdraw(calls, Tick(0)) {
            retries += 1;
        }
        let exact = (percent * 10.0).round() as u64 * calls / 1_000;
        assert_eq!(retries, exact, "{percent} %");
    }
}

#[test]
fn a_full_bucket_holds_the_burst_and_no_more() {
    let rules = rules(100.0, 5);
    let mut bucket = Bucket::full(rules, Tick(0));
    let retries = (0..100)
        .filter(|_| bucket.withdraw(1_000_000, Tick(0)))
        .count();
    assert_eq!(retries, 5);
}

#[test]
fn the_floor_comes_in_with_time_to_the_last_millionth() {
    let rules = BudgetRules {
        floor_per_second: 3 * TOKEN,
        ..rules(0.0, 1_000)
    };
    let mut bucket = Bucket::full(rules, Tick(0));
    while bucket.withdraw(0, Tick(0)) {}
    // Asked every 7 nanoseconds, for a second: no fraction of a token is lost by asking.
    let second = 1_000_000_000_u64;
    let retries = (1..=second / 700)
        .filter(|i| bucket.withdraw(0, Tick(i * 700)))
        .count();
    assert!((2..=3).contains(&retries), "{retries}");
    assert!(bucket.withdraw(0, Tick(second)) || retries == 3);
}

proptest! {
    #[test]
    fn the_bucket_pays_what_a_sum_of_fractions_pays(
        deposit in 0u64..2_000_000,
        burst in 1u64..20,
        steps in prop::collection::vec(prop_oneof![
            (1u64..50).prop_map(Some),
            Just(None),
        ], 1..200),
    ) {
        let rules = BudgetRules { deposit, floor_per_second: 0, burst: burst * TOKEN };
        let mut bucket = Bucket::full(rules, Tick(0));
        let (mut tokens, mut calls) = (u128::from(burst * TOKEN), 0);
        for step in steps {
            match step {
                Some(more) => {
                    calls += more;
                    // A bucket that was never asked in between fills up in one go: the same, as it is cut.
                    tokens = (tokens + u128::from(more * deposit)).min(u128::from(burst * TOKEN));
                }
                None => {
                    let pays = tokens >= u128::from(TOKEN);
                    tokens -= if pays { u128::from(TOKEN) } else { 0 };
                    prop_assert_eq!(bucket.withdraw(calls, Tick(0)), pays);
                }
            }
        }
    }
}

#[test]
fn threads_together_never_get_more_than_the_budget_allows() {
    let budget = RetryBudget::builder()
        .ratio(0.25)
        .floor_per_second(0.0)
        .burst(7)
        .build()
        .unwrap();
    let granted = std::thread::scope(|scope| {
        let work = || {
            (0..10_000)
                .filter(|_| {
                    budget.deposit();
                    budget
                        .withdraw(Tick(u64::MAX / 2), Spend::Failure)
                        .is_some()
                })
                .count()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum::<usize>()
    });
    assert!(granted <= 10_000 + 7, "{granted}");
    assert!(granted >= 10_000 - 7, "{granted}");
}

#[test]
fn what_a_budget_has_left_is_what_it_would_pay_for() {
    let budget = RetryBudget::builder()
        .ratio(0.5)
        .floor_per_second(0.0)
        .burst(7)
        .build()
        .unwrap();
    for left in (0..7).rev() {
        assert!(budget.withdraw(Tick(1), Spend::Failure).is_some());
        assert_eq!(budget.available(), Some(left));
    }
    assert!(budget.withdraw(Tick(1), Spend::Failure).is_none());
    for _ in 0..5 {
        budget.deposit();
    }
    assert_eq!(budget.available(), Some(2), "and a half");
}

#[test]
fn a_budget_that_cannot_work_names_its_setting() {
    let wrong = |ratio| RetryBudget::new(ratio).unwrap_err().setting();
    for ratio in [f64::NAN, -0.1, 1.1, 20.0, f64::INFINITY] {
        assert_eq!(wrong(ratio), "ratio");
    }
    for floor in [f64::NAN, -1.0, f64::INFINITY] {
        let wrong = RetryBudget::builder()
            .floor_per_second(floor)
            .build()
            .unwrap_err();
        assert_eq!(wrong.setting(), "floor_per_second");
    }
    assert_eq!(
        RetryBudget::builder()
            .burst(0)
            .build()
            .unwrap_err()
            .setting(),
        "burst"
    );
}

#[test]
fn a_throttle_at_exactly_half_allows_no_retry() {
    let throttle = Throttle::new(10, 0.2).unwrap();
    for _ in 0..6 {
        throttle.failed();
    }
    for _ in 0..5 {
        assert!(!throttle.allows_retry());
        throttle.succeeded();
    }
    assert_eq!(throttle.thousandths(), 5_000);
    assert!(!throttle.allows_retry(), "half is not more than half");
    throttle.succeeded();
    assert!(throttle.allows_retry());
    for _ in 0..100 {
        throttle.succeeded();
    }
    assert_eq!(throttle.thousandths(), 10_000);
}

#[test]
fn a_quota_gives_back_what_the_last_retry_cost_and_one_for_a_call_without() {
    let quota = Quota::new(RetryQuota {
        capacity: 20,
        ..RetryQuota::AWS
    })
    .unwrap();
    assert_eq!(quota.withdraw(Spend::Failure), Some(14));
    assert_eq!(quota.withdraw(Spend::Failure), None, "6 are left");
    assert_eq!(quota.withdraw(Spend::Overload), Some(5));
    assert_eq!(quota.tokens(), 1);
    quota.succeeded(5);
    quota.succeeded(0);
    assert_eq!(quota.tokens(), 7);
    quota.succeeded(14);
    assert_eq!(quota.tokens(), 20);
    let wrong = Quota::new(RetryQuota {
        capacity: 13,
        ..RetryQuota::AWS
    });
    assert_eq!(wrong.unwrap_err().setting(), "capacity");
    for (tokens, ratio) in [(0, 0.1), (1_001, 0.1), (10, 0.0), (10, f64::NAN)] {
        assert!(Throttle::new(tokens, ratio).is_err(), "{tokens} {ratio}");
    }
}

/// What the AWS clients' quota holds after each step. Their backoff (another base after a throttling error, a
/// clamp of the server's delay) and their error codes are theirs, and not built here.
#[test]
fn the_quota_pays_and_is_paid_back_as_the_aws_clients_have_it() {
    let file = include_str!("../../tests/vectors/aws_standard.json");
    let vectors: Value = serde_json::from_str(file).unwrap();
    let rules = |case: &Value, capacity| {
        let rules = match case["version"].as_str().unwrap() {
            "2.0" => RetryQuota::AWS_2_0,
            _ => RetryQuota::AWS,
        };
        RetryQuota { capacity, ..rules }
    };
    let (mut checked, mut refused) = (0, 0);
    for case in vectors["cases"].as_array().unwrap() {
        let capacity = case["capacity"].as_u64().unwrap() as u32;
        let Ok(quota) = Quota::new(rules(case, capacity)) else {
            assert_eq!(capacity, 0, "{case}");
            refused += 1; // `max_retries(0)` says it better.
            continue;
        };
        if let Some(start) = case["start_quota"].as_u64() {
            while quota.tokens() > start as u32 {
                quota.withdraw(Spend::Overload).unwrap();
            }
        }
        let mut paid = 0;
        for step in case["steps"].as_array().unwrap() {
            let spend = match step["response"].as_str().unwrap() {
                "timeout" => Spend::TimedOut,
                "throttle" => Spend::Overload,
                _ => Spend::Failure,
            };
            match step["outcome"].as_str().unwrap() {
                "retry" => paid = quota.withdraw(spend).expect("pays"),
                "quota_exceeded" => assert_eq!(quota.withdraw(spend), None, "{case}"),
                "success" => {
                    // In this one every success is a call of its own.
                    let first_try = case["id"] == "v20-refill-first-try";
                    quota.succeeded(if first_try { 0 } else { paid });
                    paid = 0;
                }
                "max_attempts" | "not_retryable" => paid = 0,
                other => panic!("what is {other}?"),
            }
            let expected = step["quota"].as_u64().unwrap();
            assert_eq!(u64::from(quota.tokens()), expected, "{case}: {step}");
            checked += 1;
        }
    }
    for case in vectors["cost_cases"].as_array().unwrap() {
        let quota = Quota::new(rules(case, 500)).unwrap();
        let spend = match case["error"].as_str().unwrap() {
            "timeout" => Spend::TimedOut,
            "throttling" => Spend::Overload,
            _ => Spend::Failure,
        };
        let cost = case["cost"].as_u64().map(|cost| cost as u32);
        assert_eq!(quota.withdraw(spend), cost, "{case}");
        checked += 1;
    }
    assert!(checked > 60 && refused == 1, "{checked} {refused}");
}

// ---- Session ------------------------------------------------------------------------------------------

fn ended() -> Ended {
    Ended {
        hint: None,
        at_once: false,
        repeatable: true,
        cloneable: true,
        deadline: None,
        now: Tick(0),
        unit: 0.0,
    }
}

#[test]
fn a_session_remembers_what_its_request_is() {
    for request in [
        Idempotency::Forbidden,
        Idempotency::NotIdempotent,
        Idempotency::Idempotent,
        Idempotency::Keyed,
    ] {
        let session = Session::begun(u32::MAX, request);
        assert_eq!(session.idempotency(), request);
    }
}

fn after_attempts(attempts: u32, limit: u32) -> Session {
    let mut session = Session::begun(limit, Idempotency::Idempotent);
    for _ in 1..attempts {
        session.begin_attempt();
    }
    session
}

fn plain() -> RetryConfig {
    RetryConfig {
        jitter: Jitter::None,
        ..RetryConfig::default()
    }
}

#[test]
fn a_delay_the_service_names_replaces_the_backoff_and_has_a_cap_of_its_own() {
    let rules = plain();
    let next = |hint| {
        after_attempts(1, 3).next(
            &rules,
            Ended {
                hint: Some(RetryDelay::After(hint)),
                ..ended()
            },
        )
    };
    assert_eq!(next(7 * SECOND), Next::After(7 * SECOND));
    assert_eq!(next(60 * SECOND), Next::After(60 * SECOND));
    assert_eq!(
        next(60 * SECOND + MS),
        Next::Stop(StopReason::RetryAfterTooLong)
    );
    assert_eq!(
        next(Duration::MAX),
        Next::Stop(StopReason::RetryAfterTooLong)
    );
    assert_eq!(
        next(Duration::ZERO),
        Next::After(SECOND),
        "not called at once"
    );
}

#[test]
fn an_attempt_that_costs_nothing_follows_at_once_if_there_is_time_and_any_retry_is_wanted() {
    let at_once = |limit: u32, deadline: Option<u64>| {
        let mut session = after_attempts(1, limit);
        let ended = Ended {
            at_once: true,
            deadline: deadline.map(Tick),
            now: Tick(50),
            ..ended()
        };
        session.next(&plain(), ended)
    };
    assert_eq!(at_once(1, None), Next::AtOnce);
    assert_eq!(at_once(1, Some(51)), Next::AtOnce);
    assert_eq!(at_once(1, Some(50)), Next::Stop(StopReason::Deadline));
    assert_eq!(at_once(0, None), Next::Stop(StopReason::MaxRetries));
}

#[test]
fn the_service_is_told_the_number_of_the_attempt_without_those_that_cost_nothing() {
    let mut session = after_attempts(1, 3);
    assert_eq!(session.shown_attempt(), 1);
    let at_once = Ended {
        at_once: true,
        ..ended()
    };
    assert_eq!(session.next(&plain(), at_once), Next::AtOnce);
    session.begin_attempt();
    assert_eq!((session.attempts(), session.shown_attempt()), (2, 1));
    session.begin_attempt();
    assert_eq!((session.attempts(), session.shown_attempt()), (3, 2));
}

#[test]
fn a_request_that_never_started_later_is_a_retry_like_any_other() {
    let at_once = Ended {
        at_once: true,
        ..ended()
    };
    let next = after_attempts(2, 3).next(&plain(), at_once);
    assert_eq!(next, Next::After(2 * SECOND));
}

#[test]
fn where_no_retries_are_wanted_one_that_costs_nothing_may_be() {
    let rules = RetryConfig {
        free_retry: true,
        ..plain()
    };
    let ended = |at_once| Ended { at_once, ..ended() };
    let mut session = after_attempts(1, 0);
    assert_eq!(session.next(&rules, ended(true)), Next::AtOnce);
    session.begin_attempt();
    for at_once in [true, false] {
        let next = session.next(&rules, ended(at_once));
        assert_eq!(next, Next::Stop(StopReason::MaxRetries));
    }
}

#[test]
fn pushback_is_waited_to_the_letter_and_the_backoff_starts_anew_behind_it() {
    let rules = plain();
    let mut session = after_attempts(3, 9);
    let mut next = |hint| {
        let next = session.next(&rules, Ended { hint, ..ended() });
        session.begin_attempt();
        next
    };
    assert_eq!(next(None), Next::After(4 * SECOND));
    let exactly = |delay| Some(RetryDelay::ExactlyAfter(delay));
    assert_eq!(
        next(exactly(Duration::ZERO)),
        Next::After(Duration::ZERO),
        "zero is zero"
    );
    assert_eq!(next(None), Next::After(SECOND));
    assert_eq!(next(None), Next::After(2 * SECOND));
    assert_eq!(
        next(exactly(61 * SECOND)),
        Next::Stop(StopReason::RetryAfterTooLong)
    );
}

#[test]
fn a_request_that_never_started_is_sent_again_at_once_the_first_time_and_that_is_no_attempt() {
    let rules = plain();
    let mut session = after_attempts(1, 1);
    let never_started = Ended {
        at_once: true,
        ..ended()
    };
    assert_eq!(session.next(&rules, never_started), Next::AtOnce);
    session.begin_attempt();
    assert_eq!(session.shown_attempt(), 1);
    assert_eq!(session.next(&rules, never_started), Next::After(SECOND));
    session.begin_attempt();
    assert_eq!(
        session.next(&rules, never_started),
        Next::Stop(StopReason::MaxRetries)
    );
    let over = Ended {
        deadline: Some(Tick(0)),
        ..never_started
    };
    assert_eq!(
        after_attempts(1, 3).next(&rules, over),
        Next::Stop(StopReason::Deadline)
    );
}

#[test]
fn a_wait_that_would_end_at_the_deadline_is_not_begun() {
    let rules = plain();
    let next = |deadline| {
        let deadline = Some(Tick(deadline));
        after_attempts(1, 3).next(
            &rules,
            Ended {
                deadline,
                ..ended()
            },
        )
    };
    assert_eq!(next(1_000_000_000), Next::Stop(StopReason::Deadline));
    assert_eq!(next(1_000_000_001), Next::After(SECOND));
}

#[test]
fn a_request_that_cannot_be_copied_is_sent_once() {
    let next = after_attempts(1, 3).next(
        &plain(),
        Ended {
            cloneable: false,
            ..ended()
        },
    );
    assert_eq!(next, Next::Stop(StopReason::NotCloneable));
    let last = after_attempts(4, 3).next(
        &plain(),
        Ended {
            cloneable: false,
            ..ended()
        },
    );
    assert_eq!(
        last,
        Next::Stop(StopReason::MaxRetries),
        "it was the last anyway"
    );
}

#[test]
fn the_history_keeps_the_last_sixteen() {
    let mut session = after_attempts(1, 100);
    for _ in 1..40 {
        session.remember(AttemptEnd::TimedOut, None);
        session.begin_attempt();
    }
    session.remember(AttemptEnd::TimedOut, None);
    let history = session.take_history();
    assert_eq!(history.len(), Session::HISTORY);
    assert_eq!((history[0].attempt, history[15].attempt), (25, 40));
}

proptest! {
    #[test]
    fn a_session_stops_for_the_first_reason_there_is(
        attempts in 1u32..8,
        limit in 0u32..8,
        cloneable in any::<bool>(),
        repeatable in any::<bool>(),
        hint in prop::option::of(0u64..100_000),
        left in prop::option::of(0u64..100_000),
    ) {
        let rules = plain();
        let (hint, left) = (hint.map(Duration::from_millis), left.map(Duration::from_millis));
        let now = Tick(1_000);
        let next = after_attempts(attempts, limit).next(&rules, Ended {
            hint: hint.map(RetryDelay::After),
            at_once: false,
            repeatable,
            cloneable,
            deadline: left.map(|left| now.after(left)),
            now,
            unit: 0.0,
        });
        let own = (SECOND * 2u32.pow(attempts - 1)).min(60 * SECOND);
        let wait = hint.filter(|hint| !hint.is_zero()).unwrap_or(own);
        let expected = if !repeatable {
            Next::Stop(StopReason::NotIdempotent)
        } else if attempts > limit {
            Next::Stop(StopReason::MaxRetries)
        } else if !cloneable {
            Next::Stop(StopReason::NotCloneable)
        } else if hint.is_some_and(|hint| hint > 60 * SECOND) {
            Next::Stop(StopReason::RetryAfterTooLong)
        } else if left.is_some_and(|left| wait >= left) {
            Next::Stop(StopReason::Deadline)
        } else {
            Next::After(wait)
        };
        prop_assert_eq!(next, expected);
    }
}

// ---- Policy -------------------------------------------------------------------------------------------

#[test]
fn what_cannot_work_is_refused_with_the_name_of_the_setting() {
    for multiplier in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let backoff = Backoff::exponential(SECOND, multiplier);
        let wrong = RetryPolicy::builder().backoff(backoff).build().unwrap_err();
        assert_eq!(wrong.setting(), "backoff");
    }
    for share in [-0.1, 1.1, f64::NAN] {
        let jitter = Jitter::Proportional(share);
        let wrong = RetryPolicy::builder().jitter(jitter).build().unwrap_err();
        assert_eq!(wrong.setting(), "jitter");
    }
    let zero = Duration::ZERO;
    let wrong = RetryPolicy::builder()
        .total_timeout(zero)
        .build()
        .unwrap_err();
    assert_eq!(wrong.setting(), "total_timeout");
    let wrong = RetryPolicy::builder()
        .attempt_timeout(zero)
        .build()
        .unwrap_err();
    assert_eq!(wrong.setting(), "attempt_timeout");
    // The largest values are merely large.
    let large = RetryPolicy::builder()
        .max_retries(u32::MAX)
        .max_delay(Duration::MAX)
        .max_retry_after(Duration::MAX)
        .total_timeout(Duration::MAX)
        .attempt_timeout(Duration::MAX)
        .build()
        .unwrap();
    assert_eq!(large.config().worst_case_delay(), Duration::MAX);
}

#[test]
fn the_worst_case_of_the_defaults_is_one_two_and_four_seconds_and_ten_percent() {
    assert_eq!(
        RetryPolicy::new().config().worst_case_delay(),
        7 * SECOND + 700 * MS
    );
}

#[test]
fn the_worst_case_of_many_retries_is_the_sum_of_them() {
    let with = |backoff: Backoff, retries: u32| {
        let policy = RetryPolicy::builder()
            .backoff(backoff)
            .jitter(Jitter::None)
            .max_retries(retries)
            .max_delay(Duration::from_secs(60))
            .build();
        policy.unwrap().config().worst_case_delay()
    };
    let millisecond = Duration::from_millis(1);
    // 1 + 2 + .. + 5000 ms, none of them at the cap.
    let sum = millisecond * (5_000 * 5_001 / 2);
    assert_eq!(with(Backoff::linear(millisecond), 5_000), sum);
    // A quarter of them shrinks below a nanosecond, and is nothing.
    let halved = with(Backoff::exponential(Duration::from_secs(1), 0.5), 5_000);
    assert!(halved <= Duration::from_secs(2), "{halved:?}");
    let fixed = with(Backoff::fixed(millisecond), 1_000_000);
    assert_eq!(
        fixed,
        millisecond * 10_000 + Duration::from_secs(60) * 990_000
    );
    let capped = with(Backoff::fixed(Duration::from_secs(90)), u32::MAX);
    assert_eq!(capped, Duration::from_secs(60) * u32::MAX);
}
