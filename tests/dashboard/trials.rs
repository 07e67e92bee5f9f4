//! Configs: those that are tried, those that files bring, and what they make of calls.

use crate::*;

#[tokio::test(start_paused = true)]
async fn a_config_that_is_tried_says_what_it_would_have_done_otherwise() {
    let registry = Registry::new();
    let router = router(&registry);
    let breaker = registry.circuit_breaker("openai");
    let lock = ResourceLock::builder("gpu")
        .max_concurrent(2)
        .build_in(&registry)
        .unwrap();
    let limit = RateLimit::builder("api")
        .quota("requests", Quota::per_hour(9))
        .build_in(&registry)
        .unwrap();
    let document = snapshot(&router).await;
    for (table, name) in [
        ("circuit_breaker", "openai"),
        ("resource_lock", "gpu"),
        ("rate_limit", "api"),
    ] {
        assert_eq!(row(&document, table, name)["trial"], Value::Null);
    }

    let mut stricter = (*breaker.config()).clone();
    stricter.consecutive_failures = Some(2);
    breaker.shadow(stricter).unwrap();
    fail(&breaker, 2).await;
    breaker.try_acquire().unwrap().success();
    let mut narrower = (*lock.config()).clone();
    narrower.max_concurrent = 1;
    lock.shadow(narrower).unwrap();
    let first = lock.acquire("a").await.unwrap();
    let second = lock.acquire("b").await.unwrap();
    tokio::time::advance(3 * SECOND).await;
    drop((first, second));
    let mut poorer = (*limit.config()).clone();
    poorer.quotas[0].1 = Quota::per_hour(1);
    limit.shadow(poorer).unwrap();
    assert!(limit.try_acquire(1).is_ok() && limit.try_acquire(1).is_ok());

    let document = snapshot(&router).await;
    let trial = |table, name| row(&document, table, name)["trial"].as_str().unwrap();
    assert_eq!(
        trial("circuit_breaker", "openai"),
        "a config that is tried (consecutive_failures 2 instead of 5) would be open now: of 3 calls it would have refused 1, of which 1 succeeded, and let 0 through that were refused"
    );
    let words = trial("resource_lock", "gpu");
    assert!(
        words.starts_with(
            "a config that is tried (max_concurrent 1 instead of 2): of 2 calls it would have refused 0 that got a permit, made 1 wait that did not, the longest for 3 s"
        ),
        "{words}"
    );
    let words = trial("rate_limit", "api");
    assert!(
        words.contains("of 2 calls it would have refused 1 that passed"),
        "{words}"
    );
    assert_eq!(
        document["state"]["problems"],
        json!([]),
        "a trial is no problem"
    );
}

#[cfg(feature = "config")]
#[tokio::test(start_paused = true)]
async fn a_config_that_is_applied_and_one_that_is_refused_are_transitions_and_say_why() {
    use tower_bulwark::config::Config;

    let registry = Registry::new();
    let router = router(&registry);
    let with = |failures: u32, quota: &str| {
        let mut lines = format!("[circuit_breakers.openai]\nconsecutive_failures = {failures}\n");
        for n in 0..12 {
            let quota = format!("{{ name = \"{quota}\", amount = 1, period = \"1s\" }}");
            lines += &format!("[rate_limits.limit-{n}]\nquotas = [{quota}]\n");
        }
        Config::from_toml(&lines).unwrap()
    };
    registry.apply(&with(7, "calls")).unwrap();
    registry.apply(&with(9, "calls")).unwrap();
    // Other quotas are another limit: nothing of it is taken.
    registry.apply(&with(8, "tokens")).unwrap_err();
    let document = snapshot(&router).await;
    assert_eq!(
        registry
            .circuit_breaker("openai")
            .config()
            .consecutive_failures,
        Some(9)
    );
    let entries = document["events"]["entries"].as_array().unwrap();
    let of = |kind: &str| {
        let mut of_kind = entries.iter().filter(|it| it["kind"] == kind);
        let found = of_kind.next_back();
        let found = found.unwrap_or_else(|| panic!("no `{kind}` in {entries:#?}"));
        assert_eq!(
            (&found["pattern"], &found["important"]),
            (&"config".into(), &true.into())
        );
        found["text"].as_str().unwrap().to_owned()
    };
    let applied = of("applied");
    assert!(applied.contains("consecutive_failures"), "{applied}");
    let refused = of("refused");
    assert!(refused.starts_with("refused, the config before goes on"));
    for n in 0..12 {
        let name = format!("limit-{n}");
        assert!(refused.contains(&name), "{name} is cut: {refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn timeouts_with_a_total_show_how_long_calls_take() {
    let registry = Registry::new();
    let timeouts = Timeouts::builder("o")
        .total(SECOND)
        .build_in(&registry)
        .unwrap();
    let router = router(&registry);
    let document = snapshot(&router).await;
    assert_eq!(cell(&document, "timeouts", "o", "Call p99"), &Value::Null);
    let mut service = tower::ServiceBuilder::new()
        .layer(timeouts.layer())
        .service_fn(|wait: Duration| async move {
            tokio::time::sleep(wait).await;
            Ok::<_, std::io::Error>(())
        });
    for wait in [100, 100, 100, 800] {
        let call = service.ready().await.unwrap();
        let call = tower::Service::call(call, Duration::from_millis(wait));
        call.await.unwrap();
    }
    let document = snapshot(&router).await;
    let seconds = |column| cell(&document, "timeouts", "o", column).as_f64().unwrap();
    let (half, most) = (seconds("Call p50"), seconds("Call p99"));
    assert!((0.1..0.12).contains(&half), "{half}");
    assert!((0.8..0.91).contains(&most), "{most}");
    let columns = table(&document, "timeouts")["columns"].as_array().unwrap();
    let drawn = columns.iter().filter(|it| it["title"] == "Call p99");
    assert!(drawn.map(|it| &it["spark"]).all(|it| it == true));
}

#[tokio::test(start_paused = true)]
async fn refusals_of_a_lock_are_told_by_reason() {
    let registry = Registry::new();
    let lock = ResourceLock::builder("gpu")
        .timeout(SECOND)
        .build_in(&registry)
        .unwrap();
    let router = router(&registry);
    snapshot(&router).await;
    let _held = lock.acquire("job").await.unwrap();
    assert!(lock.try_acquire("a").is_err() && lock.try_acquire("b").is_err());
    assert!(lock.acquire("c").await.is_err());
    let document = snapshot(&router).await;
    let words = row(&document, "resource_lock", "gpu")["text"]
        .as_str()
        .unwrap();
    assert!(
        words.contains("3 so far (1 waited too long, 2 did not want to wait)"),
        "{words}"
    );
}

#[tokio::test(start_paused = true)]
async fn each_rule_of_a_circuit_has_its_distance_and_the_nearest_is_first() {
    let registry = Registry::new();
    let breaker = CircuitBreaker::builder("openai")
        .consecutive_failures(10)
        .failure_rate(0.5, Window::calls(20))
        .minimum_calls(8)
        .build_in(&registry)
        .unwrap();
    let router = router(&registry);
    fail(&breaker, 2).await;
    let labels = |document: &Value| {
        let bars = cell(
            document,
            "circuit_breaker",
            "openai",
            "Distance to the trip",
        );
        let bars = bars.as_array().unwrap().iter();
        bars.map(|it| it["label"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        labels(&snapshot(&router).await),
        [
            "2 of 10 failures in a row",
            "2 of 2 calls failed, judged from 8 calls on"
        ]
    );
    for _ in 0..6 {
        breaker.try_acquire().unwrap().success();
    }
    assert_eq!(
        labels(&snapshot(&router).await),
        [
            "25 % of 8 calls failed, opens at 50 %",
            "0 of 10 failures in a row"
        ]
    );
}
