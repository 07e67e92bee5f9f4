//! What it says of each situation.

use crate::*;

#[tokio::test(start_paused = true)]
async fn an_open_circuit_says_why_since_when_until_when_and_how_many_it_refused() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("openai");
    let router = router(&registry);
    let before = snapshot(&router).await;
    assert_eq!(before["state"]["level"], "ok");
    assert_eq!(
        before["state"]["headline"],
        "All is well: 1 handle, none of them in trouble."
    );

    fail(&breaker, 5).await;
    assert!(breaker.try_acquire().is_err());
    tokio::time::advance(Duration::from_secs(11)).await;
    let document = snapshot(&router).await;
    assert_eq!(document["state"]["level"], "bad");
    assert_eq!(document["state"]["headline"], "1 problem: openai (open).");
    let problem = &document["state"]["problems"][0];
    assert_eq!(
        (&problem["name"], &problem["state"]),
        (&"openai".into(), &"open".into())
    );
    let words = problem["sentence"].as_str().unwrap();
    for part in [
        "openai has been open for 12 s, the next probe in 48 s: 5 consecutive failures",
        "; last failure: status 503",
        "1 call refused so far",
    ] {
        assert!(words.contains(part), "{words}");
    }
    // The same as numbers, for who counts them down.
    assert_eq!(problem["since_seconds"], 12.0);
    assert_eq!(
        problem["next"],
        json!({"what": "the next probe", "in_seconds": 48.0})
    );
    let transitions = &document["events"]["entries"];
    assert!(texts(transitions)[0].contains("closed -> open: 5 consecutive failures"));
}

#[tokio::test(start_paused = true)]
async fn a_closed_circuit_shows_how_far_it_is_from_the_trip_and_a_half_open_one_its_probes() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("openai");
    let router = router(&registry);
    fail(&breaker, 3).await;
    let document = snapshot(&router).await;
    let bar = &cell(
        &document,
        "circuit_breaker",
        "openai",
        "Distance to the trip",
    )[0];
    assert_eq!((&bar["value"], &bar["of"]), (&json!(3.0), &json!(5.0)));
    assert_eq!(bar["label"], "3 of 5 failures in a row");
    assert_eq!(row(&document, "circuit_breaker", "openai")["level"], "note");

    fail(&breaker, 2).await;
    tokio::time::advance(61 * SECOND).await;
    let probe = breaker.try_acquire().unwrap();
    let document = snapshot(&router).await;
    let probes = cell(&document, "circuit_breaker", "openai", "Probes");
    assert_eq!(probes, "0 of 2 succeeded, 1 on the way");
    probe.success();
    let document = snapshot(&router).await;
    let probes = cell(&document, "circuit_breaker", "openai", "Probes");
    assert_eq!(probes, "1 of 2 succeeded, 0 on the way");
}

#[tokio::test(start_paused = true)]
async fn a_contended_lock_says_who_holds_and_who_waits_and_the_graph_draws_it() {
    let registry = Registry::new();
    let lock = registry.resource_lock("gpu");
    let _held = lock.acquire("job-1").await.unwrap();
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job-2").owned().await.map(drop) }
    });
    tokio::task::yield_now().await;
    let router = router(&registry);
    tokio::time::advance(9 * SECOND).await;
    let document = snapshot(&router).await;
    let words = row(&document, "resource_lock", "gpu")["text"]
        .as_str()
        .unwrap();
    assert_eq!(
        words,
        "is contended: job-2 has waited for 10 s; the only permit is held, by job-1 for 10 s; the timeout of the lock is 30 s"
    );
    assert_eq!(document["state"]["level"], "bad");
    let graph = &document["state"]["graph"];
    assert_eq!(graph["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(graph["edges"].as_array().unwrap().len(), 2);
    assert_eq!(graph["deadlocks"], json!([]));
    assert_eq!(
        graph["sentences"][0],
        "gpu: job-2 (10 s) wait for it; held by job-1 (10 s)"
    );
    assert_eq!(
        cell(&document, "resource_lock", "gpu", "Waiting"),
        &json!(1.0)
    );
    waiting.abort();
}

/// `a` has `left` and wants `right`, `b` has `right` and wants `left`.
async fn deadlock(registry: &Registry, permits: usize) -> Vec<tokio::task::JoinHandle<()>> {
    for name in ["left", "right"] {
        ResourceLock::builder(name)
            .max_concurrent(permits)
            .on_deadlock(tower_bulwark::contention::OnDeadlock::Report)
            .timeout(60 * SECOND)
            .build_in(registry)
            .unwrap();
    }
    let both = [("a", "left", "right"), ("b", "right", "left")];
    let tasks = both.map(|(who, first, second)| {
        let (first, second) = (
            registry.resource_lock(first),
            registry.resource_lock(second),
        );
        tokio::spawn(async move {
            let _first = first.acquire(who).await.unwrap();
            tokio::task::yield_now().await;
            let mut rest = Vec::new();
            for n in 1..permits {
                rest.push(first.acquire(format!("{who}{n}")).await.unwrap());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            let _ = second.acquire(who).await;
        })
    });
    tokio::time::sleep(Duration::from_millis(2)).await;
    tasks.into()
}

#[tokio::test(start_paused = true)]
async fn a_deadlock_is_marked_told_once_and_counts_as_one_problem() {
    let registry = Registry::new();
    let tasks = deadlock(&registry, 1).await;
    let document = snapshot(&router(&registry)).await;
    let graph = &document["state"]["graph"];
    let cycle = "a waits for right, held by b; b waits for left, held by a";
    assert_eq!(texts(&graph["deadlocks"]), [cycle]);
    let stuck = |list: &Value| {
        list.as_array()
            .unwrap()
            .iter()
            .all(|it| it["stuck"] == true)
    };
    assert!(
        stuck(&graph["nodes"]) && stuck(&graph["edges"]),
        "{graph:#}"
    );
    assert_eq!(graph["nodes"].as_array().unwrap().len(), 4);
    assert_eq!(document["state"]["headline"], "1 problem: a deadlock.");
    assert_eq!(document["state"]["problems"].as_array().unwrap().len(), 1);
    assert_eq!(row(&document, "resource_lock", "left")["state"], "deadlock");
    let problem = &document["state"]["problems"][0];
    assert_eq!(problem["since_seconds"].as_f64().unwrap().floor(), 1.0);
    assert_eq!(
        problem["next"]["what"],
        "one of them gives up or is cancelled"
    );
    let words = problem["sentence"].as_str().unwrap();
    assert!(words.starts_with(cycle), "{words}");
    assert!(words.contains("; for 1 s, and until"), "{words}");
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_somebody_else_can_end_is_no_deadlock() {
    let registry = Registry::new();
    // Of two permits each, one belongs to somebody who waits for nothing.
    let tasks = deadlock(&registry, 2).await;
    let document = snapshot(&router(&registry)).await;
    let graph = &document["state"]["graph"];
    assert_eq!(graph["deadlocks"], json!([]), "{graph:#}");
    let stuck = graph["nodes"].as_array().unwrap().iter();
    assert_eq!(stuck.filter(|it| it["stuck"] == true).count(), 0);
    assert!(!graph["edges"].as_array().unwrap().is_empty());
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_lock_whose_holders_are_not_all_named_is_in_no_deadlock() {
    let registry = Registry::new();
    let left = ResourceLock::builder("left")
        .max_concurrent(101)
        .timeout(60 * SECOND)
        .build_in(&registry)
        .unwrap();
    let right = registry.resource_lock("right");
    // The hundred that are named wait; the one that is not can go on.
    let mut held = Vec::new();
    for n in 0..100 {
        held.push(left.acquire(format!("job-{n}")).owned().await.unwrap());
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    held.push(left.acquire("unnamed").owned().await.unwrap());
    held.push(right.acquire("other").owned().await.unwrap());
    let mut waits: Vec<_> = (0..100)
        .map(|n| {
            let right = right.clone();
            tokio::spawn(async move { right.acquire(format!("job-{n}")).owned().await.map(drop) })
        })
        .collect();
    let wants = left.clone();
    waits.push(tokio::spawn(async move {
        wants.acquire("other").owned().await.map(drop)
    }));
    while right.snapshot().waiting < 100 || left.snapshot().waiting < 1 {
        tokio::task::yield_now().await;
    }
    let document = snapshot(&router(&registry)).await;
    assert_eq!(document["state"]["graph"]["deadlocks"], json!([]));
    waits.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_is_drawn_by_its_longest_waits_and_the_rest_is_counted() {
    let registry = Registry::new();
    let lock = registry.resource_lock("gpu");
    let _held = lock.acquire("holder").await.unwrap();
    let waiting: Vec<_> = (0..500)
        .map(|n| {
            let lock = lock.clone();
            tokio::spawn(async move { lock.acquire(format!("job-{n}")).owned().await.map(drop) })
        })
        .collect();
    while lock.snapshot().waiting < 500 {
        tokio::task::yield_now().await;
    }
    let document = snapshot(&router(&registry)).await;
    let graph = &document["state"]["graph"];
    assert!(graph["nodes"].as_array().unwrap().len() < 12, "{graph:#}");
    assert!(
        graph["sentences"][0]
            .as_str()
            .unwrap()
            .contains("494 more wait for it")
    );
    assert_eq!(
        cell(&document, "resource_lock", "gpu", "Waiting"),
        &json!(500.0)
    );
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn refusals_of_late_are_a_problem_until_there_have_been_none_for_a_while() {
    let registry = Registry::new();
    let limit = RateLimit::builder("api")
        .quota("requests", Quota::per_hour(1))
        .build_in(&registry)
        .unwrap();
    let router = router(&registry);
    assert!(limit.try_acquire(1).is_ok());
    snapshot(&router).await;
    for _ in 0..3 {
        assert!(limit.try_acquire(1).is_err());
    }
    let document = snapshot(&router).await;
    let seen = row(&document, "rate_limit", "api");
    assert_eq!(
        (&seen["level"], &seen["state"]),
        (&"warn".into(), &"refused".into())
    );
    let words = seen["text"].as_str().unwrap();
    assert!(words.contains("has nothing left of requests"), "{words}");
    assert!(
        words.contains("calls have been refused for 0 s: 3 in the last 1 s, 3 so far"),
        "{words}"
    );
    assert_eq!(
        cell(&document, "rate_limit", "api", "Refused/s"),
        &json!(3.0)
    );
    let bar = &cell(&document, "rate_limit", "api", "Quotas")[0];
    assert_eq!(bar["label"], "requests 0 of 1");

    for _ in 0..11 {
        snapshot(&router).await;
    }
    let document = snapshot(&router).await;
    assert_eq!(row(&document, "rate_limit", "api")["level"], "note");
    limit.pause(30 * SECOND);
    let document = snapshot(&router).await;
    let words = row(&document, "rate_limit", "api")["text"]
        .as_str()
        .unwrap();
    assert!(
        words.starts_with("is paused because the service asked for it, and goes on in 29 s"),
        "{words}"
    );
    let problem = &document["state"]["problems"][0];
    assert_eq!(
        problem["next"],
        json!({"what": "it goes on", "in_seconds": 29.0})
    );
}

#[tokio::test(start_paused = true)]
async fn retries_show_their_share_of_the_traffic_and_what_the_budget_pays_for() {
    let registry = Registry::new();
    let budget = RetryBudget::builder()
        .ratio(0.0)
        .floor_per_second(0.0)
        .burst(2);
    let retry = RetryPolicy::builder()
        .name("calls")
        .max_retries(1)
        .budget(budget.build().unwrap())
        .build_in(&registry)
        .unwrap();
    let router = router(&registry);
    snapshot(&router).await;
    for _ in 0..2 {
        let _ = retry.run(|| async { Err::<(), _>("down") }).await;
    }
    let document = snapshot(&router).await;
    assert_eq!(cell(&document, "retry", "calls", "Retries"), &json!(1.0));
    assert_eq!(cell(&document, "retry", "calls", "Budget"), &json!(0.0));
    let seen = row(&document, "retry", "calls");
    assert_eq!(
        (&seen["level"], &seen["state"]),
        (&"bad".into(), &"no budget".into())
    );
}

#[tokio::test(start_paused = true)]
async fn every_pattern_has_a_table_and_its_waits_and_holds_have_quantiles_and_curves() {
    let registry = Registry::new();
    let lock = registry.resource_lock("gpu");
    let _ = (
        registry.circuit_breaker("b"),
        registry.retry("r"),
        registry.fallback("f"),
    );
    Hedge::builder("h").build_in(&registry).unwrap();
    Throttle::builder("t").build_in(&registry).unwrap();
    Timeouts::builder("o")
        .total(SECOND)
        .build_in(&registry)
        .unwrap();
    Chaos::builder("c").error(0.5).build_in(&registry).unwrap();
    RateLimit::builder("l")
        .quota("q", Quota::per_second(9))
        .build_in(&registry)
        .unwrap();
    let router = router(&registry);
    for _ in 0..3 {
        let permit = lock.acquire("job").await.unwrap();
        tokio::time::advance(Duration::from_millis(100)).await;
        drop(permit);
        snapshot(&router).await;
    }
    let document = snapshot(&router).await;
    let tables = document["state"]["tables"].as_array().unwrap();
    assert_eq!(tables.len(), 9);
    for table in tables {
        let columns = table["columns"].as_array().unwrap().len();
        assert_eq!(
            table["rows"][0]["cells"].as_array().unwrap().len(),
            columns,
            "{table}"
        );
    }
    let hold = cell(&document, "resource_lock", "gpu", "Hold p99")
        .as_f64()
        .unwrap();
    assert!((0.1..0.12).contains(&hold), "{hold}");
    let histories = document["history"].as_array().unwrap();
    let gpu = histories.iter().find(|it| it["row"] == "gpu").unwrap();
    let columns = table(&document, "resource_lock")["columns"]
        .as_array()
        .unwrap();
    let at = columns
        .iter()
        .position(|it| it["title"] == "Hold p50")
        .unwrap();
    assert_eq!(gpu["points"][at].as_array().unwrap().len(), 4);
    assert_eq!(
        gpu["points"][0],
        Value::Null,
        "what is not drawn has no points"
    );
}

#[tokio::test(start_paused = true)]
async fn curves_are_bounded_and_begin_anew_when_nobody_has_read_for_a_while() {
    let registry = Registry::new();
    let _ = registry.circuit_breaker("b");
    let router = router(&registry);
    let points = |document: &Value| {
        document["history"][0]["points"][1]
            .as_array()
            .unwrap()
            .len()
    };
    for _ in 0..130 {
        snapshot(&router).await;
    }
    assert_eq!(points(&snapshot(&router).await), 120);
    tokio::time::advance(11 * SECOND).await;
    assert_eq!(points(&snapshot(&router).await), 1);
}

#[tokio::test(start_paused = true)]
async fn the_settings_are_those_in_force_and_what_differs_from_the_default_is_marked() {
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("openai");
    let router = router(&registry);
    let setting = |document: &Value| {
        let settings = document["settings"][0]["settings"]
            .as_array()
            .unwrap()
            .clone();
        let found = settings
            .into_iter()
            .find(|it| it["setting"] == "consecutive_failures");
        found.unwrap()
    };
    let document = snapshot(&router).await;
    assert_eq!(setting(&document)["value"], "5");
    assert_eq!(setting(&document)["default"], Value::Null);
    let settings = document["settings"][0]["settings"].as_array().unwrap();
    let recovery = settings.iter().find(|it| it["setting"] == "recovery");
    assert_eq!(
        (&recovery.unwrap()["value"], &recovery.unwrap()["json"]),
        (&"1m".into(), &"\"1m\"".into()),
        "as a file would have it"
    );
    let mut config = (*breaker.config()).clone();
    config.consecutive_failures = Some(9);
    breaker.update(config).unwrap();
    let changed = snapshot(&router).await;
    assert_eq!(setting(&changed)["value"], "9");
    assert_eq!(setting(&changed)["default"], "5");
    assert_ne!(
        changed["state"]["settings_version"],
        document["state"]["settings_version"]
    );
}

#[tokio::test]
async fn events_of_the_lock_that_is_contended_are_among_the_transitions() {
    let registry = Registry::new();
    let heard = Arc::new(tokio::sync::Notify::new());
    let lock = ResourceLock::builder("gpu")
        .contention_threshold(Duration::from_millis(1))
        .build_in(&registry)
        .unwrap();
    let tell = Arc::clone(&heard);
    registry.observe(move |_: &str, event: &Event| {
        if let Event::Contention(ContentionEvent::Contended { .. }) = event {
            tell.notify_one();
        }
    });
    let _held = lock.acquire("job-1").await.unwrap();
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job-2").owned().await.map(drop) }
    });
    heard.notified().await;
    let document = json_of(get(&router(&registry), "/api/snapshot").await).await;
    let entry = &document["events"]["entries"][0];
    assert_eq!(
        (&entry["kind"], &entry["important"]),
        (&"contended".into(), &true.into())
    );
    assert!(entry["text"].as_str().unwrap().contains("held by job-1"));
    waiting.abort();
}
