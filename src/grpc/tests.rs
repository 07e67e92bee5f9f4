//! The waits of a service config, against the vectors, with dice as numbers.

use std::time::Duration;

use serde_json::{Value, json};

use super::{GrpcRetry, ServiceConfig};
use crate::retry::{Backoff, Jitter, RetryPolicy};

const VECTORS: &str = include_str!("../../tests/vectors/grpc_retry.json");

fn cases(list: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let cases = vectors[list].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn policy(case: &Value) -> RetryPolicy {
    let seconds = |field: &str| {
        let millis = case[field].as_u64().unwrap();
        format!("{}.{:03}s", millis / 1_000, millis % 1_000)
    };
    let config = json!({"methodConfig": [{"name": [{}], "retryPolicy": {
        "maxAttempts": 5,
        "initialBackoff": seconds("initial_ms"),
        "maxBackoff": seconds("max_ms"),
        "backoffMultiplier": case["multiplier"],
        "retryableStatusCodes": [14],
    }}]});
    let config = ServiceConfig::parse(&config.to_string()).unwrap();
    let retry = GrpcRetry::new("vectors", &config).unwrap();
    retry.policy("/any/Method").clone()
}

/// The wait before the retry of a case, in milliseconds.
fn delay(case: &Value, unit: f64) -> f64 {
    let policy = policy(case);
    let rules = policy.config();
    let n = case["retry_number"].as_u64().unwrap() as u32 - 1;
    let delay = rules
        .jitter()
        .delay(rules.backoff(), n, rules.max_delay(), None, unit);
    delay.as_secs_f64() * 1e3
}

fn assert_close(id: &Value, got: f64, wanted: &Value) {
    let wanted = wanted.as_f64().unwrap();
    assert!(
        (got - wanted).abs() <= wanted * 1e-9 + 1e-6,
        "{id}: {got} is not {wanted}"
    );
}

#[test]
fn a_wait_is_capped_before_its_jitter_and_may_exceed_the_cap_by_a_fifth() {
    for case in cases("backoff_cases") {
        assert_close(&case["id"], delay(&case, 0.0), &case["min_ms"]);
        assert_close(&case["id"], delay(&case, 0.5), &case["base_ms"]);
        assert_close(
            &case["id"],
            delay(&case, 1.0 - f64::EPSILON),
            &case["max_jittered_ms"],
        );
    }
}

#[test]
fn the_jitter_is_linear_in_the_dice() {
    for case in cases("backoff_with_u_cases") {
        let unit = case["u"].as_f64().unwrap();
        assert_close(&case["id"], delay(&case, unit), &case["delay_ms"]);
    }
}

#[test]
fn the_rule_of_before_2024_is_full_jitter_under_the_cap() {
    for case in cases("legacy_full_jitter_cases") {
        let millis = |field: &str| Duration::from_millis(case[field].as_u64().unwrap());
        let backoff =
            Backoff::exponential(millis("initial_ms"), case["multiplier"].as_f64().unwrap());
        let cap = Duration::from_millis(1_000);
        let n = case["retry_number"].as_u64().unwrap() as u32 - 1;
        let delay = |unit| Jitter::Full.delay(&backoff, n, cap, None, unit);
        assert_eq!(delay(0.0), millis("min_ms"), "{case}");
        let end = millis("max_ms_exclusive");
        assert!(
            delay(1.0 - 1e-6) < end && delay(1.0 - 1e-6) > end * 99 / 100,
            "{case}"
        );
    }
}
