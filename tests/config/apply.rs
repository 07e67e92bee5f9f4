use std::time::Duration;

use tower_bulwark::config::EntryChangeKind;
use tower_bulwark::event::ConfigEvent;
use tower_bulwark::{CircuitBreaker, CircuitState, Event, Registry, RetryPolicy};

use crate::support::read;

#[tokio::test(start_paused = true)]
async fn state_is_kept_and_settings_are_others() {
    let registry = Registry::new();
    let first = read(
        r#"
        [circuit_breakers.api]
        consecutive_failures = 2
        recovery = "1m"
        [resource_locks.db]
        max_concurrent = 1
        [rate_limits.api]
        quotas = [{ name = "calls", amount = 10, period = "1h" }]
        [retries.api]
        max_retries = 0
        "#,
    );
    let applied = registry.apply(&first).unwrap();
    assert_eq!(applied.entries.len(), 4, "{applied}");
    let breaker = registry.circuit_breaker("api");
    let lock = registry.resource_lock("db");
    let limit = registry.get_rate_limit("api").unwrap();
    for _ in 0..2 {
        breaker.try_acquire().unwrap().failure();
    }
    let held = lock.acquire("first").await.unwrap();
    let waits = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("second").owned().await.map(drop) }
    });
    tokio::task::yield_now().await;
    limit.try_acquire(7).unwrap();

    let second = read(
        r#"
        [circuit_breakers.api]
        consecutive_failures = 9
        recovery = "1m"
        [resource_locks.db]
        max_concurrent = 2
        [rate_limits.api]
        quotas = [{ name = "calls", amount = 20, period = "1h", burst = 10 }]
        [retries.api]
        max_retries = 2
        backoff = { fixed = { delay = "0s" } }
        "#,
    );
    let applied = registry.apply(&second).unwrap();
    let lines = applied.to_string();
    assert!(
        lines.contains("circuit breaker `api`: consecutive_failures: Some(2) -> Some(9)"),
        "{lines}"
    );
    assert_eq!(
        breaker.state(),
        CircuitState::Open,
        "an open circuit stays open"
    );
    waits.await.unwrap().expect("there is a second permit now");
    assert_eq!(lock.snapshot().in_use, 1);
    drop(held);
    assert_eq!(
        limit.snapshot().quotas[0].available,
        3,
        "what was used stays used"
    );
    let mut calls = 0;
    let _: Result<(), _> = registry
        .retry("api")
        .run(|| {
            calls += 1;
            async { Err("down") }
        })
        .await;
    assert_eq!(calls, 3);
    assert!(registry.apply(&second).unwrap().is_empty());
}

#[test]
fn a_config_that_one_handle_cannot_go_by_changes_none() {
    let registry = Registry::new();
    let quotas = |name: &str, probes: u32| {
        read(&format!(
            "[circuit_breakers.a]\nmax_probes = {probes}\n[rate_limits.b]\nquotas = [{{ name = \"{name}\", amount = 1, period = \"1s\" }}]\n[circuit_breakers.c{probes}]\n"
        ))
    };
    registry.apply(&quotas("calls", 1)).unwrap();
    let refused = registry.apply(&quotas("tokens", 2)).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("line 3, column 14: rate_limits.b: "),
        "{refused}"
    );
    assert_eq!(registry.circuit_breaker("a").config().max_probes, 1);
    assert!(
        registry.get_circuit_breaker("c2").is_none(),
        "nothing is made"
    );
    let events = registry.feed().recent();
    let last = &events.last().unwrap().event;
    assert!(
        matches!(
            last,
            Event::Config(ConfigEvent::Refused { problems: 1, .. })
        ),
        "{last}"
    );
    assert!(registry.get_circuit_breaker("c1").is_some());
}

#[test]
fn what_is_no_longer_named_is_forgotten_once_nobody_uses_it() {
    let registry = Registry::new();
    let by_code = CircuitBreaker::builder("by code")
        .build_in(&registry)
        .unwrap();
    registry
        .apply(&read("[circuit_breakers.a]\n[circuit_breakers.b]\n"))
        .unwrap();
    let used = registry.circuit_breaker("b");
    let applied = registry.apply(&read("")).unwrap();
    let changes: Vec<_> = applied
        .entries
        .iter()
        .map(|it| (&*it.name, &it.change))
        .collect();
    assert_eq!(
        changes,
        [
            ("a", &EntryChangeKind::Removed),
            ("b", &EntryChangeKind::KeptInUse)
        ]
    );
    assert!(
        registry.apply(&read("")).unwrap().is_empty(),
        "it has been said"
    );
    drop(used);
    let applied = registry.apply(&read("")).unwrap();
    assert_eq!(applied.to_string(), "circuit breaker `b`: removed");
    let names: Vec<_> = registry
        .circuit_breakers()
        .iter()
        .map(|it| it.name().to_owned())
        .collect();
    assert_eq!(
        names,
        ["by code"],
        "what no config has named is not touched"
    );
    drop(by_code);
}

#[test]
fn an_open_circuit_is_not_forgotten_although_nobody_has_a_handle() {
    let registry = Registry::new();
    registry.apply(&read("[circuit_breakers.a]\n")).unwrap();
    registry.circuit_breaker("a").force_open();
    let applied = registry.apply(&read("")).unwrap();
    assert_eq!(applied.entries[0].change, EntryChangeKind::KeptInUse);
    assert_eq!(
        registry.circuit_breaker("a").state(),
        CircuitState::ForcedOpen
    );
}

#[test]
fn what_only_code_can_give_stays() {
    let registry = Registry::new();
    let budget = tower_bulwark::RetryBudget::new(0.5).unwrap();
    let retry = RetryPolicy::builder()
        .name("calls")
        .budget(budget.clone())
        .build_in(&registry)
        .unwrap();
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(None)
        .trip_when(
            tower_bulwark::circuit_breaker::Window::calls(10),
            |counts| counts.failures >= 2,
        )
        .build_in(&registry)
        .unwrap();
    let config = read(
        "[retries.calls]\nmax_retries = 7\n[circuit_breakers.api]\nconsecutive_failures = \"none\"\nfailure_count = 100\n",
    );
    registry.apply(&config).unwrap();
    assert_eq!(retry.config().max_retries(), 7);
    assert_eq!(retry.budget(), Some(&budget));
    for _ in 0..2 {
        breaker.try_acquire().unwrap().failure();
    }
    assert_eq!(breaker.state(), CircuitState::Open);
    let none = read("[retries.calls]\nbudget = \"none\"\n");
    let refused = registry.apply(&none).unwrap_err().to_string();
    assert!(refused.contains("budget"), "{refused}");
}

#[test]
fn a_budget_of_the_policys_own_keeps_what_it_has_left() {
    let registry = Registry::new();
    registry
        .apply(&read(
            "[retries.calls]\nbudget = { floor_per_second = 0.0, burst = 50 }\n",
        ))
        .unwrap();
    let retry = registry.retry("calls");
    assert_eq!(retry.snapshot().budget_available, Some(50));
    registry
        .apply(&read(
            "[retries.calls]\nbudget = { floor_per_second = 0.0, burst = 20 }\n",
        ))
        .unwrap();
    assert_eq!(retry.snapshot().budget_available, Some(20));
    registry
        .apply(&read(
            "[retries.calls]\nbudget = { floor_per_second = 0.0, burst = 50 }\n",
        ))
        .unwrap();
    assert_eq!(
        retry.snapshot().budget_available,
        Some(20),
        "nothing is given for it"
    );
}

#[tokio::test(start_paused = true)]
async fn the_parts_of_a_stack_are_handles_of_its_name() {
    let registry = Registry::new();
    let config = read("[stacks.openai]\nkind = \"llm\"\n");
    registry.apply(&config).unwrap();
    let stack = config.stack("openai").unwrap().build_in(&registry).unwrap();
    registry.apply(&read("[stacks.openai]\nkind = \"llm\"\nlock.max_concurrent = 3\nretry.max_retries = 0\ntimeouts.total = \"90s\"\n")).unwrap();
    let now = stack.config();
    assert_eq!(now.lock.unwrap().max_concurrent, 3);
    assert_eq!(now.retry.unwrap().max_retries(), 0);
    assert_eq!(now.timeouts.total, Some(Duration::from_secs(90)));
}
