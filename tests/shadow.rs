//! Another config, tried on the calls that are made: what it would have done is what a handle of that config does, and
//! nothing comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::circuit_breaker::{CircuitBreakerConfig, Window};
use tower_bulwark::rate_limit::{Quota, RateLimitConfig};
use tower_bulwark::{CircuitBreaker, CircuitState, RateLimit, ResourceLock};

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

fn strict() -> CircuitBreakerConfig {
    let breaker = CircuitBreaker::builder("strict")
        .consecutive_failures(2)
        .failure_rate(0.5, Window::calls(10))
        .minimum_calls(4)
        .recovery_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    (*breaker.config()).clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A breaker that never opens, with a strict config beside it, against a strict breaker in metrics-only mode.
    #[test]
    fn a_config_that_is_tried_on_a_breaker_decides_as_a_breaker_of_that_config(
        calls in prop::collection::vec((0..3_u8, 0..4_u64), 1..80),
    ) {
        paused().block_on(async {
            let lenient = CircuitBreaker::builder("api").consecutive_failures(u32::MAX).build().unwrap();
            lenient.shadow(strict()).unwrap();
            let alone = CircuitBreaker::builder("alone").config(strict()).build().unwrap();
            alone.metrics_only();
            for (outcome, pause) in calls {
                tokio::time::advance(Duration::from_secs(pause)).await;
                let both = [lenient.try_acquire().unwrap(), alone.try_acquire().unwrap()];
                for permit in both {
                    match outcome {
                        0 => permit.success(),
                        1 => permit.failure(),
                        _ => drop(permit),
                    }
                }
                let (shadow, alone) = (lenient.snapshot().shadow.unwrap(), alone.snapshot());
                assert_eq!(Some(shadow.state), alone.would_be);
                assert_eq!(shadow.would_refuse, alone.totals.would_reject);
                assert_eq!(shadow.would_refuse_succeeded, alone.totals.would_reject_succeeded);
            }
            assert_eq!(lenient.state(), CircuitState::Closed);
        });
    }

    /// A limit that refuses nothing, with a strict config beside it, against a strict limit.
    #[test]
    fn a_config_that_is_tried_on_a_limit_decides_as_a_limit_of_that_config(
        calls in prop::collection::vec((1..4_u64, 0..400_u64), 1..60),
    ) {
        paused().block_on(async {
            let quota = |amount| [Quota::per_second(amount), Quota::per_minute(amount * 40)];
            let limit = |amount| {
                let [short, long] = quota(amount);
                RateLimit::builder("api").quota("short", short).quota("long", long).build().unwrap()
            };
            let (lax, strict) = (limit(1_000), limit(5));
            let config: RateLimitConfig = (*strict.config()).clone();
            lax.shadow(config).unwrap();
            let mut refused = 0;
            for (cost, pause) in calls {
                tokio::time::advance(Duration::from_millis(pause)).await;
                lax.try_acquire([cost, 1]).unwrap();
                refused += u64::from(strict.try_acquire([cost, 1]).is_err());
                assert_eq!(lax.snapshot().shadow.unwrap().would_refuse, refused);
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_breaker_refuses_and_the_tried_config_would_not_is_counted() {
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(2)
        .build()
        .unwrap();
    let mut lenient = (*breaker.config()).clone();
    lenient.consecutive_failures = Some(5);
    breaker.shadow(lenient).unwrap();
    for _ in 0..2 {
        breaker.try_acquire().unwrap().failure();
    }
    for _ in 0..3 {
        assert!(breaker.try_acquire().is_err());
    }
    let shadow = breaker.end_shadow().unwrap();
    assert_eq!(shadow.state, CircuitState::Closed);
    assert_eq!(
        (shadow.would_pass, shadow.would_refuse, shadow.calls),
        (3, 0, 2)
    );
    assert!(breaker.snapshot().shadow.is_none());
    assert!(breaker.end_shadow().is_none());
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_layer_are_seen_and_their_time_at_the_service_too() {
    let breaker = CircuitBreaker::new("api");
    let slow = CircuitBreaker::builder("slow")
        .slow_call_rate(0.5, Duration::from_millis(50))
        .minimum_calls(2)
        .build()
        .unwrap();
    breaker.shadow((*slow.config()).clone()).unwrap();
    let service = ServiceBuilder::new()
        .layer(breaker.layer())
        .service(service_fn(|ms: u64| async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok::<_, std::io::Error>(())
        }));
    for ms in [10, 100, 100, 10] {
        service.clone().oneshot(ms).await.unwrap();
    }
    let shadow = breaker.end_shadow().unwrap();
    assert_eq!(shadow.state, CircuitState::Open);
    assert_eq!((shadow.calls, shadow.would_refuse_succeeded), (4, 2));
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_config_that_cannot_work_is_an_error_and_the_one_before_goes_on() {
    let breaker = CircuitBreaker::new("api");
    breaker.shadow(strict()).unwrap();
    let mut wrong = strict();
    wrong.max_probes = 0;
    assert_eq!(breaker.shadow(wrong).unwrap_err().setting(), "max_probes");
    assert!(breaker.snapshot().shadow.is_some());
    let lock = ResourceLock::new("db");
    let mut wrong = (*lock.config()).clone();
    wrong.max_concurrent = 0;
    assert!(lock.shadow(wrong).is_err());
    assert!(lock.snapshot().shadow.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_tried_waits_and_passes_where_the_one_in_force_refuses() {
    let limit = RateLimit::builder("api")
        .quota("calls", Quota::per_second(2))
        .max_wait(Duration::ZERO)
        .build()
        .unwrap();
    let mut patient = (*limit.config()).clone();
    patient.max_wait = Duration::from_secs(1);
    patient.max_waiting = Some(1);
    limit.shadow(patient).unwrap();
    // Two pass; of the rest the first would wait for half a second, the next have no place in the queue.
    for n in 0..5 {
        assert_eq!(limit.acquire(1).await.is_ok(), n < 2);
    }
    let shadow = limit.snapshot().shadow.unwrap();
    assert_eq!(
        (shadow.calls, shadow.would_pass, shadow.would_refuse),
        (5, 1, 0)
    );
    tokio::time::advance(Duration::from_millis(500)).await;
    // What the other took in advance is not there: in force it passes, tried it waits.
    limit.acquire(1).await.unwrap();
    let shadow = limit.end_shadow().unwrap();
    assert_eq!((shadow.would_wait, shadow.would_pass), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn fewer_permits_would_have_waited_as_long_as_a_lock_that_has_fewer() {
    let lock = ResourceLock::builder("db")
        .max_concurrent(8)
        .build()
        .unwrap();
    let fewer = ResourceLock::builder("db")
        .max_concurrent(3)
        .build()
        .unwrap();
    lock.shadow((*fewer.config()).clone()).unwrap();
    let run = |lock: ResourceLock| async move {
        let tasks: Vec<_> = (0..8_u64)
            .map(|n| {
                let lock = lock.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(7 * n)).await;
                    let permit = lock.acquire(format!("job {n}")).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(40 + 13 * (n % 3))).await;
                    drop(permit);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    };
    run(lock.clone()).await;
    run(fewer.clone()).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    let (shadow, real) = (lock.end_shadow().unwrap(), fewer.snapshot());
    assert_eq!(shadow.longest_wait, real.stats.wait.max);
    assert_eq!(
        (shadow.calls, shadow.would_wait, shadow.would_refuse),
        (8, 5, 0)
    );
    assert_eq!((shadow.in_use, shadow.waiting), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn trials_that_begin_and_end_under_load_lose_nothing() {
    let breaker = CircuitBreaker::new("api");
    let lock = ResourceLock::builder("db")
        .max_concurrent(4)
        .build()
        .unwrap();
    let limit = RateLimit::new("api", Quota::per_second(1_000_000_000)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (breaker, lock, limit) = (breaker.clone(), lock.clone(), limit.clone());
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut calls = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    calls += 1;
                    let permit = lock.acquire("job").await.unwrap();
                    drop(limit.acquire(1).await.unwrap());
                    breaker.try_acquire().unwrap().success();
                    tokio::task::yield_now().await;
                    drop(permit);
                }
                calls
            })
        })
        .collect();
    let mut fewer = (*lock.config()).clone();
    fewer.max_concurrent = 3;
    for _ in 0..300 {
        breaker.shadow(strict()).unwrap();
        lock.shadow(fewer.clone()).unwrap();
        limit.shadow((*limit.config()).clone()).unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let _ = (breaker.snapshot(), lock.snapshot(), limit.snapshot());
        breaker.end_shadow().unwrap();
        lock.end_shadow().unwrap();
        limit.end_shadow().unwrap();
    }
    // The last goes on to the end, when all is given back.
    lock.shadow(fewer).unwrap();
    breaker.shadow(strict()).unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for task in tasks {
        calls += task.await.unwrap();
    }
    assert_eq!(breaker.snapshot().totals.successes, calls);
    assert_eq!(lock.snapshot().stats.acquisitions, calls);
    assert_eq!(limit.snapshot().totals.passed, calls);
    // With fewer permits the same calls take a little longer.
    let idle = async {
        while lock
            .snapshot()
            .shadow
            .is_some_and(|it| it.in_use > 0 || it.waiting > 0)
        {
            tokio::task::yield_now().await;
        }
    };
    let long = Duration::from_secs(20);
    tokio::time::timeout(long, idle)
        .await
        .expect("a permit of the trial is lost");
    assert_eq!(lock.end_shadow().unwrap().would_refuse, 0);
    let tried = breaker.end_shadow().unwrap();
    assert_eq!((tried.would_refuse, tried.state), (0, CircuitState::Closed));
}

/// The breaker in force counts slow calls as soon as their head is there; to the config that is tried they are not slow.
#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_call_that_is_slow_in_force_and_not_to_the_tried_config_is_counted_there_when_its_body_has_ended()
 {
    use http_body_util::{BodyExt, Full};

    let breaker = CircuitBreaker::builder("api")
        .slow_call_rate(1.0, Duration::from_millis(10))
        .build()
        .unwrap();
    breaker.shadow(strict()).unwrap();
    let service = ServiceBuilder::new()
        .layer(breaker.http_layer().until_body_end())
        .service(service_fn(
            |request: http::Request<http::StatusCode>| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let mut response = http::Response::new(Full::new(bytes::Bytes::from("whole")));
                *response.status_mut() = request.into_body();
                Ok::<_, std::io::Error>(response)
            },
        ));
    for status in [200, 503, 200] {
        let status = http::StatusCode::from_u16(status).unwrap();
        let request = http::Request::new(status);
        let response = service.clone().oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    assert_eq!(breaker.snapshot().totals.slow, 3);
    let shadow = breaker.end_shadow().unwrap();
    assert_eq!((shadow.calls, shadow.state), (3, CircuitState::Closed));
}
