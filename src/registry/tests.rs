use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::circuit_breaker::CircuitState;

#[test]
fn a_name_gives_the_same_handle_to_whoever_asks() {
    let registry = Registry::new();
    registry.circuit_breaker("api").force_open();
    assert_eq!(
        registry.circuit_breaker("api").state(),
        CircuitState::ForcedOpen
    );
    assert_eq!(
        Registry::new().circuit_breaker("api").state(),
        CircuitState::Closed
    );
}

#[test]
fn other_rules_under_a_taken_name_are_an_error_that_shows_both() {
    let registry = Registry::new();
    let ask = |n| {
        CircuitBreaker::builder("api")
            .consecutive_failures(n)
            .build_in(&registry)
    };
    ask(50).unwrap();
    ask(50).unwrap();
    let conflict = ask(3).unwrap_err().to_string();
    assert!(
        conflict.contains("consecutive_failures: Some(50)"),
        "{conflict}"
    );
    assert!(
        conflict.contains("consecutive_failures: Some(3)"),
        "{conflict}"
    );

    let ask = |n| {
        ResourceLock::builder("db")
            .max_concurrent(n)
            .build_in(&registry)
    };
    ask(1).unwrap();
    assert!(matches!(
        ask(10),
        Err(RegistryError::Conflict {
            kind: "resource lock",
            ..
        })
    ));

    let ask = |n| {
        RetryPolicy::builder()
            .name("r")
            .max_retries(n)
            .build_in(&registry)
    };
    ask(1).unwrap();
    assert!(matches!(
        ask(2),
        Err(RegistryError::Conflict {
            kind: "retry policy",
            ..
        })
    ));
}

#[test]
fn a_setting_that_cannot_work_registers_nothing() {
    let registry = Registry::new();
    let wrong = CircuitBreaker::builder("api")
        .consecutive_failures(0)
        .build_in(&registry);
    assert!(matches!(wrong, Err(RegistryError::Config(_))));
    assert!(registry.circuit_breakers().is_empty());
}

#[test]
fn everything_registered_is_listed_and_in_the_snapshot() {
    let registry = Registry::new();
    let _ = (registry.circuit_breaker("b"), registry.circuit_breaker("a"));
    let _ = (registry.resource_lock("db"), registry.retry("calls"));
    let snapshot = registry.snapshot();
    let names: Vec<_> = snapshot.circuit_breakers.iter().map(|b| &*b.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(&*snapshot.resource_locks[0].name, "db");
    assert_eq!(&*snapshot.retries[0].name, "calls");
}

#[test]
fn the_feed_hears_everything_registered() {
    let registry = Registry::new();
    registry
        .circuit_breaker("api")
        .open_for(Duration::from_secs(1));
    let heard = registry.feed().recent();
    assert_eq!(heard.len(), 1);
    assert_eq!(
        heard[0].event.to_string(),
        "closed -> open: opened by an operator; open for 1.000s"
    );
}

#[test]
fn a_removed_handle_lives_on_for_those_who_have_it() {
    let registry = Registry::new();
    let old = registry.circuit_breaker("api");
    old.force_open();
    assert!(registry.remove_circuit_breaker("api").is_some());
    assert_eq!(
        registry.circuit_breaker("api").state(),
        CircuitState::Closed
    );
    assert_eq!(old.state(), CircuitState::ForcedOpen);
}

#[test]
fn an_observer_of_the_registry_hears_of_what_was_made_before_and_after_it() {
    let registry = Registry::new();
    let before = registry.circuit_breaker("before");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&heard);
    registry.observe(move |name: &str, _: &Event| list.lock().unwrap().push(name.to_owned()));
    before.force_open();
    registry.circuit_breaker("after").force_open();
    assert_eq!(*heard.lock().unwrap(), ["before", "after"]);
}

#[test]
fn a_name_that_stands_for_nothing_is_none_and_makes_nothing() {
    let registry = Registry::new();
    assert!(registry.get_circuit_breaker("api").is_none());
    assert!(registry.get_resource_lock("api").is_none());
    assert!(registry.get_retry("api").is_none());
    assert!(registry.circuit_breakers().is_empty());
    let _ = registry.circuit_breaker("api");
    assert!(registry.get_circuit_breaker("api").is_some());
}

#[test]
fn only_what_nobody_holds_and_what_has_nothing_to_remember_is_forgotten_as_idle() {
    let registry = Registry::new();
    let lock = registry.resource_lock("db");
    assert!(!registry.remove_if_idle("db"), "a handle is out");
    let permit = lock.acquire("job").owned().now().unwrap();
    drop(lock);
    assert!(!registry.remove_if_idle("db"), "a permit is out");
    drop(permit);
    assert!(registry.remove_if_idle("db"));
    assert!(!registry.remove_if_idle("db"), "it is gone");

    registry.circuit_breaker("api").force_open();
    assert!(!registry.remove_if_idle("api"), "it is forced open");
    registry.circuit_breaker("api").reset();
    let permit = registry.circuit_breaker("api").try_acquire().unwrap();
    assert!(!registry.remove_if_idle("api"), "a call is in flight");
    permit.failure();
    assert!(!registry.remove_if_idle("api"), "it remembers a failure");
    registry.circuit_breaker("api").reset();
    assert!(registry.remove_if_idle("api"));
    let _ = registry.retry("calls");
    assert!(registry.remove_if_idle("calls"));
}
