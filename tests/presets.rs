//! Whole stacks in one call: what they do with a service that fails, hangs, is slow or is busy, and what cannot be built.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::circuit_breaker::Window;
use tower_bulwark::keyed::{Idle, PerKeyLayer};
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::stack::StackBuilder;
use tower_bulwark::{
    CircuitState, ConfigError, Error, Jitter, Part, Registry, RegistryError, Stack, Verdict,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Fails as often as is left, then answers; it is told when it is called.
fn failing(
    times: u32,
    calls: &Arc<AtomicU32>,
) -> impl Service<u32, Response = u32, Error = std::io::Error, Future: Send> + Clone + Send {
    let calls = Arc::clone(calls);
    service_fn(move |request: u32| {
        let n = calls.fetch_add(1, Ordering::Relaxed);
        std::future::ready(match n < times {
            true => Err(std::io::Error::other("down")),
            false => Ok(request),
        })
    })
}

fn hanging(
    calls: &Arc<AtomicU32>,
) -> impl Service<u32, Response = u32, Error = std::io::Error, Future: Send> + Clone + Send {
    let calls = Arc::clone(calls);
    service_fn(move |_: u32| {
        calls.fetch_add(1, Ordering::Relaxed);
        std::future::pending()
    })
}

fn presets() -> [(&'static str, StackBuilder); 4] {
    [
        ("http", Stack::http("api")),
        ("llm", Stack::llm("api")),
        ("grpc", Stack::grpc("api")),
        ("hedged", Stack::hedged("api")),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_a_little_is_called_again_and_one_that_is_down_is_left_alone() {
    for (name, retries) in [("http", 3), ("llm", 2), ("grpc", 3), ("hedged", 1)] {
        let (_, preset) = presets().into_iter().find(|it| it.0 == name).unwrap();
        let stack = preset.build().unwrap();
        let calls = Arc::default();
        let service = failing(retries, &calls);
        let service = ServiceBuilder::new().layer(stack.layer()).service(service);
        assert_eq!(service.oneshot(7).await.unwrap(), 7, "{name}");
        assert_eq!(calls.load(Ordering::Relaxed), retries + 1, "{name}");

        let calls = Arc::default();
        let service = failing(u32::MAX, &calls);
        let service = ServiceBuilder::new().layer(stack.layer()).service(service);
        for _ in 0..20 {
            service.clone().oneshot(7).await.unwrap_err();
        }
        assert!(calls.load(Ordering::Relaxed) <= 8, "{name}: {calls:?}");
        let refused = service.oneshot(7).await.unwrap_err();
        assert!(refused.rejection().is_some(), "{name}: {refused:?}");
        let breaker = stack.circuit_breaker().unwrap();
        assert_eq!(breaker.state(), CircuitState::Open, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_is_blamed_within_the_total() {
    for (name, total) in [("http", 30), ("llm", 300), ("grpc", 30), ("hedged", 30)] {
        let (_, preset) = presets().into_iter().find(|it| it.0 == name).unwrap();
        let stack = preset.build().unwrap();
        let calls = Arc::default();
        let service = ServiceBuilder::new()
            .layer(stack.layer())
            .service(hanging(&calls));
        let began = Instant::now();
        service.oneshot(1).await.unwrap_err();
        assert!(began.elapsed() <= (total + 1) * SECOND, "{name}");
        let failures = stack.circuit_breaker().unwrap().snapshot().totals.failures;
        assert!(failures >= 2, "{name}: {failures}");
        let late = stack.timeouts().unwrap().snapshot().timed_out;
        assert!(late.head >= 2, "{name}: {late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_left_out_does_nothing_and_one_that_is_adjusted_later_is_there_again() {
    let parts = [
        Part::TotalTimeout,
        Part::Retry,
        Part::CircuitBreaker,
        Part::Lock,
    ];
    let bare = parts
        .into_iter()
        .fold(Stack::http("api"), StackBuilder::without);
    let stack = bare.build().unwrap();
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(stack.layer())
        .service(failing(u32::MAX, &calls));
    for n in 1..=20 {
        let error = service.clone().oneshot(1).await.unwrap_err();
        assert!(matches!(error, Error::Inner(_)), "{error:?}");
        assert_eq!(calls.load(Ordering::Relaxed), n);
    }
    assert!(stack.retry().is_none() && stack.circuit_breaker().is_none());
    assert!(stack.lock().is_none() && stack.hedge().is_none());
    assert_eq!(stack.timeouts().unwrap().config().total, None);

    let again = Stack::http("api")
        .without(Part::Retry)
        .retry(|it| it.max_retries(1).jitter(Jitter::None));
    assert_eq!(
        again
            .build()
            .unwrap()
            .retry()
            .unwrap()
            .config()
            .max_retries(),
        1
    );
    let unlimited = Stack::http("api")
        .without(Part::TotalTimeout)
        .without(Part::AttemptTimeout);
    assert!(unlimited.build().unwrap().timeouts().is_none());
}

#[tokio::test(start_paused = true)]
async fn ten_a_second_is_ten_a_second_and_each_attempt_counts() {
    let stack = Stack::llm("model")
        .quota("requests", Quota::per_second(10).burst(1))
        .retry(|it| it.jitter(Jitter::None))
        .build()
        .unwrap();
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(stack.layer())
        .service(failing(1, &calls));
    let began = Instant::now();
    for request in 0..10 {
        service.clone().oneshot(request).await.unwrap();
    }
    // Eleven attempts: the first at once, the second after its backoff of half a second.
    assert_eq!(calls.load(Ordering::Relaxed), 11);
    let taken = began.elapsed();
    assert!((1_400 * MS..1_500 * MS).contains(&taken), "{taken:?}");
    let totals = stack.rate_limit().unwrap().snapshot().totals;
    assert_eq!(totals.passed + totals.waited, 11, "{totals:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_request_costs_is_reserved_and_its_answer_settles_it() {
    let stack = Stack::llm("model")
        .quota("requests", Quota::per_minute(100))
        .quota("tokens", Quota::per_minute(1_000));
    let stack = stack.build().unwrap();
    let layer = stack
        .layer()
        .cost(|tokens: &u32| [1, u64::from(2 * tokens)])
        .settle(|answer: &u32| Some([1, u64::from(*answer)]));
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(failing(0, &calls));
    service.oneshot(100).await.unwrap();
    let quotas = stack.rate_limit().unwrap().snapshot().quotas;
    let left: Vec<u64> = quotas.iter().map(|it| it.available).collect();
    assert_eq!(left, [99, 900]);
}

#[tokio::test(start_paused = true)]
async fn a_hedged_stack_asks_once_more_when_the_first_is_slow_and_at_once_when_it_fails() {
    let stack = Stack::hedged("reads")
        .hedge(|it| it.after(20 * MS))
        .build()
        .unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    let slow = {
        let calls = Arc::clone(&calls);
        service_fn(move |request: u32| {
            let n = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                match n {
                    0 => tokio::time::sleep(5 * SECOND).await,
                    _ => tokio::time::sleep(MS).await,
                }
                Ok::<_, std::io::Error>(request)
            }
        })
    };
    let service = ServiceBuilder::new().layer(stack.layer()).service(slow);
    let began = Instant::now();
    service.oneshot(1).await.unwrap();
    assert!(began.elapsed() < 30 * MS, "{:?}", began.elapsed());

    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(stack.layer())
        .service(failing(1, &calls));
    let began = Instant::now();
    service.oneshot(1).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(stack.hedge().unwrap().snapshot().won, 2);
}

#[tokio::test(start_paused = true)]
async fn results_are_judged_alike_by_retry_and_breaker() {
    let stack = Stack::http("api").build().unwrap();
    let judged = |result: Result<&u32, &std::io::Error>| match result {
        Ok(0) => Verdict::failure(),
        Ok(_) => Verdict::success(),
        Err(_) => Verdict::ignored(),
    };
    let zero = service_fn(|request: u32| async move { Ok::<_, std::io::Error>(request) });
    let layer = stack.layer().classify_with(judged);
    let service = ServiceBuilder::new().layer(layer).service(zero);
    assert_eq!(service.oneshot(0).await.unwrap(), 0);
    let totals = stack.circuit_breaker().unwrap().snapshot().totals;
    assert_eq!(totals.failures, 4);
}

/// What does not fit together.
#[test]
fn times_that_do_not_fit_are_no_stack() {
    let wrong = |builder: StackBuilder| builder.build().map(|_| ()).unwrap_err();
    let setting = |builder: StackBuilder| wrong(builder).setting();
    let http = || Stack::http("api");
    assert_eq!(
        setting(http().attempt_timeout(30 * SECOND)),
        "attempt_timeout"
    );
    assert_eq!(
        setting(http().total_timeout(10 * SECOND)),
        "attempt_timeout"
    );
    assert_eq!(setting(http().timeouts(|it| it.idle(31 * SECOND))), "idle");
    let first = http().timeouts(|it| it.first_frame(30 * SECOND));
    assert_eq!(setting(first), "first_frame");
    let own = http().retry(|it| it.attempt_timeout(11 * SECOND));
    assert_eq!(setting(own), "retry.attempt_timeout");
    let own = http().retry(|it| it.total_timeout(31 * SECOND));
    assert_eq!(setting(own), "retry.total_timeout");
    let short = |it: Duration| {
        http().circuit_breaker(|breaker| breaker.failure_rate(0.5, Window::time(it)))
    };
    assert_eq!(setting(short(20 * SECOND - MS)), "window");
    assert!(short(20 * SECOND).build().is_ok());
    let counted = |it| it;
    assert!(http().circuit_breaker(counted).build().is_ok());
    let hedged = |delay, n| Stack::hedged("api").hedge(|it| it.after(delay).max_extra(n));
    assert_eq!(setting(hedged(10 * SECOND, 1)), "after");
    assert_eq!(setting(hedged(6 * SECOND, 5)), "after");
    assert!(hedged(9 * SECOND, 3).build().is_ok());
    let nothing = [
        Part::TotalTimeout,
        Part::Retry,
        Part::CircuitBreaker,
        Part::Lock,
        Part::AttemptTimeout,
    ];
    let nothing = nothing.into_iter().fold(http(), StackBuilder::without);
    assert_eq!(setting(nothing), "without");
    let no_quota = wrong(http().rate_limit(|it| it));
    assert_eq!(no_quota.setting(), "quotas", "{no_quota}");
}

#[test]
fn presets_and_their_kin_explain_themselves_without_a_warning() {
    for (name, preset) in presets() {
        for part in [
            None,
            Some(Part::Retry),
            Some(Part::CircuitBreaker),
            Some(Part::Lock),
        ] {
            let preset = preset.clone();
            let preset = match part {
                None => preset,
                Some(part) => preset.without(part),
            };
            let explained = preset.build().unwrap().explain();
            assert!(
                explained.warnings().is_empty(),
                "{name} {part:?}: {explained}"
            );
            let longest = explained.worst_case_time().unwrap();
            assert!(longest <= 300 * SECOND, "{name}: {longest:?}");
        }
    }
    let limited = Stack::llm("m")
        .quota("requests", Quota::per_minute(5))
        .hedge(|it| it);
    let text = limited.build().unwrap().explain().to_string();
    let parts = [
        "timeouts",
        "retry",
        "hedge",
        "circuit breaker",
        "rate limit",
        "resource",
        "timeouts",
    ];
    let lines: Vec<&str> = text.lines().map(str::trim).take(parts.len()).collect();
    for (line, part) in lines.iter().zip(parts) {
        assert!(line.starts_with(part), "{line}: {part}");
    }
}

#[test]
fn a_stack_in_a_registry_is_found_there_by_its_name() {
    let registry = Registry::new();
    let build = |preset: StackBuilder| preset.build_in(&registry);
    let stack = build(Stack::http("api")).unwrap();
    stack.circuit_breaker().unwrap().force_open();
    let found = registry.circuit_breaker("api");
    assert_eq!(found.state(), CircuitState::ForcedOpen);
    let same = build(Stack::http("api")).unwrap();
    assert_eq!(
        same.circuit_breaker().unwrap().state(),
        CircuitState::ForcedOpen
    );
    let other = build(Stack::llm("api")).map(|_| ()).unwrap_err();
    assert!(matches!(other, RegistryError::Conflict { .. }), "{other}");
    let wrong = build(Stack::llm("other").attempt_timeout(Duration::ZERO));
    let wrong: ConfigError = match wrong.unwrap_err() {
        RegistryError::Config(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(wrong.setting(), "head");
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_permit_are_nobodys_failure() {
    let stack = Stack::http("api")
        .lock(|it| it.max_concurrent(1).timeout(19 * SECOND))
        .without(Part::Retry)
        .build()
        .unwrap();
    let slow = service_fn(|request: u32| async move {
        tokio::time::sleep(4 * SECOND).await;
        Ok::<_, std::io::Error>(request)
    });
    let service = ServiceBuilder::new().layer(stack.layer()).service(slow);
    let calls = (0..10).map(|n| service.clone().oneshot(n));
    let results = futures::future::join_all(calls).await;
    assert_eq!(results.iter().filter(|it| it.is_ok()).count(), 5);
    let breaker = stack.circuit_breaker().unwrap().snapshot();
    assert_eq!((breaker.totals.failures, breaker.totals.successes), (0, 5));
    let late = stack.timeouts().unwrap().snapshot().timed_out;
    assert_eq!(late.head, 0, "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_gives_everything_back() {
    let stack = Stack::llm("api")
        .quota("requests", Quota::per_minute(1_000))
        .hedge(|it| it.after(SECOND))
        .build()
        .unwrap();
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(stack.layer())
        .service(hanging(&calls));
    for after in [0, 500, 1_500, 59_000, 60_500] {
        let call = service.clone().oneshot(1);
        let ended = tokio::time::timeout(after * MS, call).await;
        assert!(ended.is_err(), "{after}: {ended:?}");
        assert_eq!(stack.lock().unwrap().snapshot().in_use, 0, "{after}");
    }
    let late = stack.timeouts().unwrap().snapshot().timed_out;
    assert_eq!(late.total, 0, "{late:?}");
}

/// Each key has handles of its own, and a key whose circuit is open is not forgotten.
#[tokio::test(start_paused = true)]
async fn a_stack_for_each_key() {
    let stacks: Arc<std::sync::Mutex<Vec<Stack>>> = Arc::default();
    let made = Arc::clone(&stacks);
    let make = move |host: &u32| {
        let stack = Stack::http(format!("host {host}")).build().unwrap();
        made.lock().unwrap().push(stack.clone());
        stack.layer()
    };
    let per_host = PerKeyLayer::new(2, |host: &u32| *host, make);
    let inner = service_fn(|host: u32| {
        std::future::ready(match host {
            1 => Err(std::io::Error::other("down")),
            _ => Ok(host),
        })
    });
    let service = ServiceBuilder::new().layer(per_host).service(inner);
    for _ in 0..5 {
        service.clone().oneshot(1).await.unwrap_err();
    }
    service.clone().oneshot(2).await.unwrap();
    let states = |n: usize| stacks.lock().unwrap()[n].circuit_breaker().unwrap().state();
    assert_eq!(
        (states(0), states(1)),
        (CircuitState::Open, CircuitState::Closed)
    );
    assert!(!stacks.lock().unwrap()[0].is_idle());
    assert!(stacks.lock().unwrap()[1].is_idle());
    let refused = service.clone().oneshot(1).await.unwrap_err();
    assert!(refused.is_rejection(), "{refused}");
}

/// What was left out is not told of.
#[tokio::test(start_paused = true)]
async fn a_breaker_that_was_left_out_lets_everything_through() {
    let stack = Stack::http("api")
        .without(Part::CircuitBreaker)
        .without(Part::Retry)
        .build()
        .unwrap();
    let calls = Arc::default();
    let service = failing(u32::MAX, &calls);
    let service = ServiceBuilder::new().layer(stack.layer()).service(service);
    for _ in 0..100 {
        service.clone().oneshot(1).await.unwrap_err();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 100);
}
