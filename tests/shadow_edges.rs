//! A config that is tried where it meets bodies, corrections, resets and refusals: it never differs where nothing does.
#![cfg(feature = "http")]

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, ServiceExt, service_fn};
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{CircuitBreaker, RateLimit, Registry, ResourceLock};

fn body(fails: bool) -> impl http_body::Body<Data = Bytes, Error = io::Error> + Unpin {
    let mut v = vec![Ok(Frame::data(Bytes::from_static(b"x")))];
    if fails {
        v.push(Err(io::Error::other("reset")));
    }
    StreamBody::new(futures::stream::iter(v))
}
async fn call(b: &CircuitBreaker, fails: bool) {
    let s = b
        .layer()
        .until_body_end()
        .layer(service_fn(move |()| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok::<_, Infallible>(Response::new(body(fails)))
        }));
    let r = s.oneshot(()).await.unwrap();
    let _ = r.into_body().collect().await;
}
fn slow(b: tower_bulwark::circuit_breaker::CircuitBreakerBuilder) -> CircuitBreaker {
    b.slow_call_rate(0.5, Duration::from_millis(50))
        .minimum_calls(100)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_slow_in_force_only_is_a_call_of_the_tried_config_too() {
    let b = slow(CircuitBreaker::builder("live"));
    let plain = CircuitBreaker::new("plain");
    b.shadow((*plain.config()).clone()).unwrap();
    for _ in 0..10 {
        call(&b, false).await;
    }
    let s = b.snapshot();
    assert_eq!(s.totals.successes, 10);
    assert_eq!(s.shadow.unwrap().calls, 10);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_ended_is_overdue_nowhere() {
    let b = slow(CircuitBreaker::builder("live"));
    let s = CircuitBreaker::builder("s")
        .slow_call_rate(0.5, Duration::from_secs(10))
        .minimum_calls(5)
        .build()
        .unwrap();
    b.shadow((*s.config()).clone()).unwrap();
    for _ in 0..10 {
        call(&b, false).await;
    }
    tokio::time::advance(Duration::from_secs(11)).await;
    for _ in 0..2 {
        call(&b, false).await;
    }
    let s = b.snapshot().shadow.unwrap();
    assert_eq!(
        s.state,
        tower_bulwark::CircuitState::Closed,
        "no call took 10 s"
    );
    assert_eq!(s.calls, 12);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_behind_a_slow_head_is_a_failure_to_the_tried_config() {
    let b = CircuitBreaker::builder("live")
        .consecutive_failures(1000)
        .build()
        .unwrap();
    let s = slow(CircuitBreaker::builder("s").consecutive_failures(3));
    let alone = slow(CircuitBreaker::builder("s").consecutive_failures(3));
    alone.metrics_only();
    b.shadow((*s.config()).clone()).unwrap();
    for _ in 0..10 {
        call(&b, true).await;
        call(&alone, true).await;
    }
    let (s, a) = (b.snapshot().shadow.unwrap(), alone.snapshot());
    assert_eq!(Some(s.state), a.would_be);
    assert_eq!(s.would_refuse, a.totals.would_reject);
}

#[tokio::test(start_paused = true)]
async fn what_a_tried_limit_has_not_taken_it_does_not_get_back() {
    let q = |n| {
        RateLimit::builder("a")
            .quota("r", Quota::per_hour(n))
            .max_wait(Duration::ZERO)
            .build()
            .unwrap()
    };
    let (live, strict) = (q(1000), q(10));
    live.shadow((*strict.config()).clone()).unwrap();
    let mut refused = 0;
    drop(live.try_acquire(10).unwrap());
    drop(strict.try_acquire(10).unwrap());
    for _ in 0..10 {
        let r = live.try_acquire(5).unwrap();
        match strict.try_acquire(5) {
            Ok(s) => s.cancel(),
            Err(_) => refused += 1,
        }
        r.cancel();
    }
    assert_eq!(live.snapshot().shadow.unwrap().would_refuse, refused);
}

#[tokio::test(start_paused = true)]
async fn what_a_tried_limit_would_have_refused_costs_it_nothing() {
    let q = |n| {
        RateLimit::builder("a")
            .quota("r", Quota::per_hour(n))
            .max_wait(Duration::ZERO)
            .build()
            .unwrap()
    };
    let (live, strict) = (q(1_000_000), q(10));
    live.shadow((*strict.config()).clone()).unwrap();
    drop(live.try_acquire(10).unwrap());
    drop(strict.try_acquire(10).unwrap());
    // one unit is estimated, a thousand used; the strict one refuses it, so it costs it nothing.
    let r = live.try_acquire(1).unwrap();
    assert!(strict.try_acquire(1).is_err());
    r.settle(1000);
    tokio::time::advance(Duration::from_secs(3600)).await;
    drop(live.try_acquire(10).unwrap());
    drop(strict.try_acquire(10).unwrap());
    assert_eq!(live.snapshot().shadow.unwrap().would_refuse, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reset_of_a_limit_ends_the_pause_of_the_tried_config_too() {
    let live = RateLimit::builder("a")
        .quota("r", Quota::per_hour(1000))
        .max_wait(Duration::ZERO)
        .build()
        .unwrap();
    live.shadow((*live.config()).clone()).unwrap();
    live.pause(Duration::from_secs(50));
    live.reset();
    for _ in 0..10 {
        drop(live.try_acquire(1).unwrap());
    }
    assert_eq!(
        live.snapshot().shadow.unwrap().would_refuse,
        0,
        "the same config would not have refused what it let pass"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_cut_by_each_config_for_itself() {
    let live = RateLimit::builder("a")
        .quota("r", Quota::per_hour(1000))
        .max_wait(Duration::ZERO)
        .max_pause(Duration::from_secs(1))
        .build()
        .unwrap();
    let s = RateLimit::builder("a")
        .quota("r", Quota::per_hour(1000))
        .max_wait(Duration::ZERO)
        .max_pause(Duration::from_secs(50))
        .build()
        .unwrap();
    live.shadow((*s.config()).clone()).unwrap();
    live.pause(Duration::from_secs(50));
    s.pause(Duration::from_secs(50));
    tokio::time::advance(Duration::from_secs(2)).await;
    drop(live.try_acquire(1).unwrap());
    assert!(s.try_acquire(1).is_err());
    assert_eq!(
        live.snapshot().shadow.unwrap().would_refuse,
        1,
        "max_pause of the tried config is silently ignored"
    );
}

#[tokio::test(start_paused = true)]
async fn who_asked_for_two_permits_would_not_have_passed_with_one() {
    let live = ResourceLock::builder("l")
        .max_concurrent(4)
        .max_waiting(0)
        .build()
        .unwrap();
    live.shadow((*live.config()).clone()).unwrap();
    let _g = live.acquire("a").permits(3).await.unwrap();
    assert!(live.acquire("b").permits(2).await.is_err());
    assert_eq!(
        live.snapshot().shadow.unwrap().would_pass,
        0,
        "the same config"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_timed_out_holds_nothing_in_the_trial() {
    let live = ResourceLock::builder("l")
        .max_concurrent(1)
        .timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    live.shadow((*live.config()).clone()).unwrap();
    let g = live.acquire("a").await.unwrap();
    assert!(live.acquire("b").await.is_err());
    drop(g);
    let s = live.snapshot().shadow.unwrap();
    assert_eq!(
        (s.would_pass, s.would_refuse, s.would_wait, s.in_use),
        (0, 0, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_config_of_a_lock_never_differs() {
    let live = ResourceLock::builder("l")
        .max_concurrent(3)
        .max_waiting(5)
        .timeout(Duration::from_millis(40))
        .build()
        .unwrap();
    live.shadow((*live.config()).clone()).unwrap();
    let mut js = tokio::task::JoinSet::new();
    for i in 0..200u64 {
        let l = live.clone();
        js.spawn(async move {
            tokio::time::sleep(Duration::from_millis(i * 7 % 300)).await;
            if let Ok(_g) = l.acquire("x").permits(1).await {
                tokio::time::sleep(Duration::from_millis(3 + i % 20)).await;
            }
        });
    }
    while js.join_next().await.is_some() {}
    let s = live.snapshot().shadow.unwrap();
    assert_eq!(
        (
            s.would_pass,
            s.would_refuse,
            s.would_wait,
            s.in_use,
            s.waiting
        ),
        (0, 0, 0, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn of_refusals_after_a_shorter_recovery_no_more_would_have_passed_than_probes() {
    let live = CircuitBreaker::builder("a")
        .consecutive_failures(1)
        .recovery_timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    let short = CircuitBreaker::builder("b")
        .consecutive_failures(1)
        .recovery_timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    live.shadow((*short.config()).clone()).unwrap();
    live.try_acquire().unwrap().failure();
    short.try_acquire().unwrap().failure();
    tokio::time::advance(Duration::from_secs(2)).await;
    let mut passes = 0;
    let mut held = vec![];
    for _ in 0..100 {
        assert!(live.try_acquire().is_err());
        if let Ok(p) = short.try_acquire() {
            passes += 1;
            held.push(p);
        }
    }
    assert_eq!(live.snapshot().shadow.unwrap().would_pass, passes);
}

#[tokio::test(start_paused = true)]
async fn a_reset_of_a_breaker_begins_the_trial_anew() {
    let live = CircuitBreaker::builder("a")
        .consecutive_failures(2)
        .recovery_timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    live.shadow((*live.config()).clone()).unwrap();
    for _ in 0..2 {
        live.try_acquire().unwrap().failure();
    }
    live.reset();
    for _ in 0..10 {
        live.try_acquire().unwrap().success();
    }
    let s = live.snapshot().shadow.unwrap();
    assert_eq!(s.would_refuse, 0, "the same config");
}

#[tokio::test(start_paused = true)]
async fn a_trial_goes_on_over_an_update_and_a_disabled_breaker_and_begins_anew_with_a_reset() {
    let live = CircuitBreaker::builder("a")
        .consecutive_failures(5)
        .build()
        .unwrap();
    live.shadow((*live.config()).clone()).unwrap();
    let mut c = (*live.config()).clone();
    c.consecutive_failures = Some(7);
    live.update(c).unwrap();
    live.try_acquire().unwrap().failure();
    live.reset();
    live.try_acquire().unwrap().failure();
    live.disable();
    live.try_acquire().unwrap().failure();
    assert_eq!(live.snapshot().shadow.unwrap().calls, 2);
}

#[test]
fn what_a_config_is_tried_on_is_not_forgotten_as_idle() {
    let registry = Registry::new();
    let lock = ResourceLock::builder("db").build_in(&registry).unwrap();
    lock.shadow((*lock.config()).clone()).unwrap();
    let limit = RateLimit::builder("db").quota("r", Quota::per_hour(9));
    let limit = limit.build_in(&registry).unwrap();
    limit.shadow((*limit.config()).clone()).unwrap();
    drop((lock, limit));
    assert!(!registry.remove_if_idle("db"));
    registry.resource_lock("db").end_shadow();
    registry.get_rate_limit("db").unwrap().end_shadow();
    assert!(registry.remove_if_idle("db"));
}
