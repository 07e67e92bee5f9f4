//! What each command does.

use crate::*;

#[tokio::test]
async fn commands_are_off_by_default() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("openai");
    let router = router(&registry);
    let (status, answer) = send(&router, force_open()).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    assert_eq!(breaker.state(), CircuitState::Closed);
    let document = json_of(get(&router, "/api/snapshot").await).await;
    assert_eq!(document["state"]["commands"], false);
}

#[tokio::test]
async fn a_command_is_done_answered_and_stands_on_the_page_with_who_gave_it() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("openai");
    let dashboard = with_commands(Dashboard::builder(&registry))
        .build()
        .unwrap();
    let router = dashboard.router();
    let before = json_of(get(&router, "/api/snapshot").await).await;
    assert_eq!(before["state"]["commands"], true);
    let (status, answer) = send(&router, force_open()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        answer["done"],
        json!({"who": "alice", "from": "closed", "to": "forced open"})
    );
    assert_eq!(breaker.state(), CircuitState::ForcedOpen);
    // Not the state from before, however fresh it was.
    let document = json_of(get(&router, "/api/snapshot").await).await;
    let said = &document["state"]["said"][0];
    assert_eq!(
        (&said["who"], &said["name"]),
        (&"alice".into(), &"openai".into())
    );
    assert_eq!(
        (&said["from"], &said["to"]),
        (&"closed".into(), &"forced open".into())
    );
    assert_eq!(
        row(&document, "circuit_breaker", "openai")["state"],
        "forced open"
    );
}

#[tokio::test]
async fn each_command_does_what_its_name_says() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("openai");
    let lock = registry.resource_lock("gpu");
    let limit = RateLimit::builder("api")
        .quota("requests", Quota::per_hour(1))
        .build_in(&registry)
        .unwrap();
    let throttle = registry.throttle("t");
    let chaos = Chaos::builder("drill")
        .error(1.0)
        .build_in(&registry)
        .unwrap();
    let timeouts = Timeouts::builder("o")
        .total(SECOND)
        .build_in(&registry)
        .unwrap();
    let dashboard = with_commands(Dashboard::builder(&registry))
        .build()
        .unwrap();
    let router = dashboard.router();
    let give = async |pattern: &str, name: &str, mut rest: Value| {
        rest["pattern"] = pattern.into();
        rest["name"] = name.into();
        let (status, answer) = send(&router, rest).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    for (name, state) in [
        ("disable", CircuitState::Disabled),
        ("metrics_only", CircuitState::MetricsOnly),
        ("force_open", CircuitState::ForcedOpen),
        ("force_close", CircuitState::Closed),
        ("force_open", CircuitState::ForcedOpen),
        ("reset", CircuitState::Closed),
    ] {
        give("circuit_breaker", "openai", json!({"command": name})).await;
        assert_eq!(breaker.state(), state, "{name}");
    }
    let answer = give(
        "resource_lock",
        "gpu",
        json!({"command": "capacity", "permits": 7}),
    )
    .await;
    assert_eq!(lock.config().max_concurrent, 7);
    assert_eq!(answer["done"]["from"], "1 permit");
    assert_eq!(answer["done"]["to"], "7 permits");
    let config = json!({"command": "config", "config": {"timeout": "2s", "max_waiting": 9}});
    give("resource_lock", "gpu", config).await;
    let now = lock.config();
    assert_eq!((now.timeout, now.max_waiting), (Some(2 * SECOND), Some(9)));
    assert_eq!(now.max_concurrent, 7, "what was not named stays");
    let config = json!({"command": "config", "config": {"total": "250ms"}});
    give("timeouts", "o", config).await;
    assert_eq!(timeouts.config().total, Some(Duration::from_millis(250)));

    assert!(limit.try_acquire(1).is_ok() && limit.try_acquire(1).is_err());
    give("rate_limit", "api", json!({"command": "reset"})).await;
    assert!(limit.try_acquire(1).is_ok());
    give(
        "throttle",
        "t",
        json!({"command": "config", "config": {"k": 3.0}}),
    )
    .await;
    assert!((throttle.config().k - 3.0).abs() < f64::EPSILON);
    give("chaos", "drill", json!({"command": "arm", "seconds": 60})).await;
    assert!(chaos.is_armed());
    give("chaos", "drill", json!({"command": "disarm"})).await;
    assert!(!chaos.is_armed());
    give("resource_lock", "gpu", json!({"command": "reset"})).await;

    let retry = registry.retry("calls");
    let config =
        json!({"command": "config", "config": {"max_retries": 9, "total_timeout": "1m30s"}});
    let answer = give("retry", "calls", config.clone()).await;
    assert_eq!(retry.config().max_retries(), 9);
    assert_eq!(retry.config().total_timeout(), Some(90 * SECOND));
    assert_eq!(
        answer["done"],
        json!({
            "who": "alice",
            "from": "max_retries 3, total_timeout none",
            "to": "max_retries 9, total_timeout 1m30s",
        })
    );
    let answer = give("retry", "calls", config).await;
    assert_eq!(answer["done"]["to"], "as it was");
}

#[tokio::test]
async fn rules_that_are_code_outlive_a_command_that_names_other_settings() {
    let registry = Registry::new();
    let breaker = CircuitBreaker::builder("openai")
        .consecutive_failures(100)
        .trip_when(Window::calls(10), |counts| counts.failures >= 2)
        .build_in(&registry)
        .unwrap();
    let dashboard = with_commands(Dashboard::builder(&registry))
        .build()
        .unwrap();
    let config = json!({"pattern": "circuit_breaker", "name": "openai", "command": "config",
        "config": {"max_probes": 3}});
    let (status, answer) = send(&dashboard.router(), config).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(breaker.config().max_probes, 3);
    fail(&breaker, 2).await;
    assert_eq!(breaker.state(), CircuitState::Open);

    let budget = RetryBudget::builder().burst(2).build().unwrap();
    let retry = RetryPolicy::builder()
        .name("calls")
        .budget(budget.clone())
        .build_in(&registry)
        .unwrap();
    let config = json!({"pattern": "retry", "name": "calls", "command": "config",
        "config": {"max_retries": 1}});
    let (status, answer) = send(&dashboard.router(), config).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(retry.config().max_retries(), 1);
    assert_eq!(retry.snapshot().budget_available, Some(2));
}

#[tokio::test]
async fn a_command_that_cannot_work_is_a_typed_error_and_changes_nothing() {
    let registry = Registry::new();
    let (breaker, lock) = (
        registry.circuit_breaker("openai"),
        registry.resource_lock("gpu"),
    );
    let _ = (registry.retry("calls"), registry.fallback("f"));
    let chaos = Chaos::builder("drill")
        .error(1.0)
        .build_in(&registry)
        .unwrap();
    let dashboard = with_commands(Dashboard::builder(&registry))
        .build()
        .unwrap();
    let router = dashboard.router();
    let lock_command = |rest: Value| {
        let mut all = json!({"pattern": "resource_lock", "name": "gpu"});
        all.as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        all
    };
    for (json, status, code, words) in [
        (
            json!({"pattern": "circuit_breaker", "name": "opena", "command": "reset"}),
            404,
            "unknown_name",
            "there is no circuit breaker `opena`",
        ),
        (
            json!({"pattern": "circuit_breaker", "group": "hosts", "name": "a", "command": "reset"}),
            404,
            "unknown_name",
            "no group `hosts`",
        ),
        (
            lock_command(json!({"command": "force_open"})),
            422,
            "not_applicable",
            "it has: capacity, reset, config",
        ),
        (
            json!({"pattern": "retry", "name": "calls", "command": "reset"}),
            422,
            "not_applicable",
            "it has: config",
        ),
        (
            json!({"pattern": "fallback", "name": "f", "command": "reset"}),
            422,
            "not_applicable",
            "it has: none",
        ),
        (
            json!({"pattern": "retry", "name": "calls", "command": "config", "config": {"jitter": 7}}),
            422,
            "nonsense",
            "jitter",
        ),
        (
            json!({"pattern": "chaos", "name": "drill", "command": "arm"}),
            400,
            "unreadable",
            "seconds",
        ),
        (
            json!({"pattern": "chaos", "name": "drill", "command": "arm", "seconds": 3601}),
            422,
            "nonsense",
            "from 1 to 3600 seconds",
        ),
        (
            json!({"pattern": "chaos", "name": "drill", "command": "arm", "seconds": 0}),
            422,
            "nonsense",
            "from 1 to 3600 seconds",
        ),
        (
            lock_command(json!({"command": "capacity", "permits": 0})),
            422,
            "nonsense",
            "max_concurrent",
        ),
        (
            lock_command(json!({"command": "capacity", "permits": -1})),
            400,
            "unreadable",
            "this is not a command",
        ),
        (
            lock_command(json!({"command": "capacity"})),
            400,
            "unreadable",
            "permits",
        ),
        (
            lock_command(json!({"command": "config", "config": {"max_concurent": 2}})),
            422,
            "nonsense",
            "max_concurent",
        ),
        (
            lock_command(json!({"command": "config", "config": {"timeout": "soon"}})),
            422,
            "nonsense",
            "soon",
        ),
        (
            lock_command(json!({"command": "explode"})),
            400,
            "unreadable",
            "explode",
        ),
        (
            lock_command(json!({"command": "reset", "permits": 4})),
            400,
            "unreadable",
            "`reset` has no `permits`",
        ),
        (json!([1, 2]), 400, "unreadable", "this is not a command"),
    ] {
        let (answered, answer) = send(&router, json.clone()).await;
        assert_eq!(answered.as_u16(), status, "{json}: {answer}");
        assert_eq!(answer["error"]["code"], code, "{json}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{json}: {message}");
    }
    assert_eq!(lock.config().max_concurrent, 1);
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert!(!chaos.is_armed());
    assert!(
        registry.get_circuit_breaker("opena").is_none(),
        "asking made it"
    );
    let document = json_of(get(&router, "/api/snapshot").await).await;
    assert_eq!(document["state"]["said"], json!([]));
}
