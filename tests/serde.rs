//! Snapshots and events as data, for dashboards and admin pages.
#![cfg(feature = "serde")]

use std::time::Duration;

use tower_bulwark::{CircuitBreaker, Registry, ResourceLock, RetryPolicy, Throttle};

#[tokio::test(start_paused = true)]
async fn a_registry_is_one_document() {
    let registry = Registry::new();
    let breaker = CircuitBreaker::builder("openai")
        .build_in(&registry)
        .unwrap();
    let lock = ResourceLock::builder("gpu")
        .max_concurrent(2)
        .build_in(&registry)
        .unwrap();
    let retry = RetryPolicy::builder()
        .name("calls")
        .build_in(&registry)
        .unwrap();
    breaker.open_for(Duration::from_secs(30));
    let _held = lock.acquire("job-7").await.unwrap();
    let _ = retry.run(|| async { Err::<(), _>("down") }).await;

    let document = serde_json::to_value(registry.snapshot()).unwrap();
    let breaker = &document["circuit_breakers"][0];
    assert_eq!(breaker["name"], "openai");
    assert_eq!(breaker["state"], "open");
    assert_eq!(breaker["totals"]["rejected"], 0);
    let lock = &document["resource_locks"][0];
    assert_eq!(lock["holders"][0]["holder"], "job-7");
    assert_eq!(lock["capacity"], 2);
    assert_eq!(lock["stats"]["wait"]["count"], 1);
    assert_eq!(document["retries"][0]["gave_up"], 1);
}

#[tokio::test(start_paused = true)]
async fn the_feed_is_a_list_of_documents() {
    let registry = Registry::new();
    registry
        .circuit_breaker("openai")
        .open_for(Duration::from_secs(30));
    let entries = serde_json::to_value(registry.feed().recent()).unwrap();
    let event = &entries[0]["event"]["circuit_breaker"]["state_changed"];
    assert_eq!(
        (&event["from"], &event["to"]),
        (&"closed".into(), &"open".into())
    );
    assert_eq!(event["cause"], "operator");
}

#[test]
fn an_explanation_is_a_document() {
    let (lock, retry) = (ResourceLock::new("gpu"), RetryPolicy::new());
    let explanation = tower_bulwark::explain::Layers::new()
        .layer(&lock)
        .layer(&retry)
        .explain();
    let document = serde_json::to_value(explanation).unwrap();
    assert_eq!(
        document["warnings"][0]["warning"],
        "lock_held_across_backoff"
    );
    assert_eq!(document["layers"][0]["layer"], "contention");
}

#[test]
fn a_config_comes_back_as_it_was_and_what_is_not_named_is_the_default() {
    use tower_bulwark::circuit_breaker::CircuitBreakerConfig;
    use tower_bulwark::contention::{Adaptive, ContentionConfig, Queue};

    let lock = ResourceLock::builder("gpu")
        .max_concurrent(4)
        .hold_threshold(Duration::from_secs(9))
        .queue(Queue::lifo_when_overloaded(Duration::from_millis(100)))
        .max_per_holder(2)
        .adaptive(Adaptive::Gradient2, 1..=9)
        .build()
        .unwrap();
    let text = serde_json::to_string(&*lock.config()).unwrap();
    let back: ContentionConfig = serde_json::from_str(&text).unwrap();
    assert_eq!(back, *lock.config());
    let some: ContentionConfig = serde_json::from_str(r#"{"max_concurrent": 3}"#).unwrap();
    let mut expected = ContentionConfig::default();
    expected.max_concurrent = 3;
    assert_eq!(some, expected);
    assert!(serde_json::from_str::<ContentionConfig>(r#"{"max_concurent": 3}"#).is_err());

    let breaker = CircuitBreaker::builder("openai").build().unwrap();
    let text = serde_json::to_string(&*breaker.config()).unwrap();
    let back: CircuitBreakerConfig = serde_json::from_str(&text).unwrap();
    assert_eq!(back, *breaker.config());
    assert!(serde_json::from_str::<CircuitBreakerConfig>(r#"{"failure_rat": 3}"#).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_throttle_is_a_document_and_its_config_comes_back() {
    use tower_bulwark::throttle::ThrottleConfig;

    let registry = Registry::new();
    let throttle = Throttle::builder("search")
        .k(1.5)
        .window(Duration::from_secs(120))
        .only_overload(true)
        .build_in(&registry)
        .unwrap();
    for _ in 0..10 {
        throttle.try_acquire().unwrap().overload();
    }
    let document = serde_json::to_value(registry.snapshot()).unwrap();
    let snapshot = &document["throttles"][0];
    assert_eq!(snapshot["name"], "search");
    assert_eq!(
        (&snapshot["requests"], &snapshot["accepts"]),
        (&10.into(), &0.into())
    );
    assert_eq!(snapshot["totals"]["not_accepted"], 10);
    let entries = serde_json::to_value(registry.feed().recent()).unwrap();
    assert_eq!(entries[0]["event"]["throttle"]["began"]["requests"], 10);

    let text = serde_json::to_string(&*throttle.config()).unwrap();
    let back: ThrottleConfig = serde_json::from_str(&text).unwrap();
    assert_eq!(back, *throttle.config());
    let some: ThrottleConfig = serde_json::from_str(r#"{"k": 3.0}"#).unwrap();
    let mut expected = ThrottleConfig::default();
    expected.k = 3.0;
    assert_eq!(some, expected);
    assert!(serde_json::from_str::<ThrottleConfig>(r#"{"kk": 3.0}"#).is_err());
}

#[test]
fn a_drill_is_a_document_and_its_config_comes_back() {
    use tower_bulwark::Chaos;
    use tower_bulwark::chaos::ChaosConfig;

    let registry = Registry::new();
    let range = Duration::from_millis(50)..=Duration::from_millis(500);
    let chaos = Chaos::builder("drill")
        .latency(0.1, range)
        .error(0.05)
        .cut_body(0.01)
        .build_in(&registry)
        .unwrap();
    chaos.arm();
    let document = serde_json::to_value(registry.snapshot()).unwrap();
    let snapshot = &document["chaos"][0];
    assert_eq!(
        (&snapshot["name"], &snapshot["armed"]),
        (&"drill".into(), &true.into())
    );
    assert_eq!(snapshot["injected"]["cut_body"], 0);
    let entries = serde_json::to_value(registry.feed().recent()).unwrap();
    assert!(
        entries[0]["event"]["chaos"]["armed"].is_object(),
        "{entries}"
    );

    let text = serde_json::to_string(&*chaos.config()).unwrap();
    let back: ChaosConfig = serde_json::from_str(&text).unwrap();
    assert_eq!(back, *chaos.config());
    let some: ChaosConfig = serde_json::from_str(r#"{"hang": 0.5}"#).unwrap();
    let mut expected = ChaosConfig::default();
    expected.hang = 0.5;
    assert_eq!(some, expected);
    assert!(serde_json::from_str::<ChaosConfig>(r#"{"hangs": 0.5}"#).is_err());
}
