//! The rate limit's handle and layer.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::rate_limit::{Quota, RateLimit, RateLimitConfig, RateLimitReason};
use tower_bulwark::{Backoff, CircuitBreaker, Error, Event, Registry, ResourceLock, RetryPolicy};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Ten a second.
fn ten() -> RateLimit {
    RateLimit::new("api", Quota::per_second(10)).unwrap()
}

fn available(limit: &RateLimit) -> Vec<u64> {
    let quotas = limit.snapshot().quotas;
    quotas.iter().map(|quota| quota.available).collect()
}

#[tokio::test(start_paused = true)]
async fn ten_a_second_is_ten_a_second_and_first_come_first_served() {
    let limit = ten();
    let began = Instant::now();
    let came = Arc::new(Mutex::new(Vec::new()));
    let calls = (0..30).map(|n| {
        let (limit, came) = (limit.clone(), Arc::clone(&came));
        async move {
            limit.acquire(1).await.unwrap();
            came.lock()
                .unwrap()
                .push((n, (Instant::now() - began).as_millis()));
        }
    });
    join_all(calls).await;
    let came = came.lock().unwrap();
    for (i, (n, at)) in came.iter().enumerate() {
        assert_eq!(*n, i, "out of order");
        let due = (i as u128).saturating_sub(9) * 100;
        assert!((due..=due + 2).contains(at), "{n} at {at} ms, due at {due}");
    }
    let totals = limit.snapshot().totals;
    assert_eq!((totals.passed, totals.waited), (10, 20));
}

#[tokio::test(start_paused = true)]
async fn in_no_stretch_of_time_passes_more_than_the_burst_and_what_the_time_earns() {
    let limit = RateLimit::new("api", Quota::per_second(50).burst(7)).unwrap();
    let began = Instant::now();
    let came = Arc::new(Mutex::new(Vec::new()));
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..300_u64 {
        let (limit, came) = (limit.clone(), Arc::clone(&came));
        calls.spawn(async move {
            sleep(MS * (n * 13 % 700) as u32).await;
            // Some go away while they wait.
            let turn = timeout(MS * (n * 7 % 900) as u32, limit.acquire(1)).await;
            if let Ok(Ok(_)) = turn {
                came.lock()
                    .unwrap()
                    .push((Instant::now() - began).as_millis() as f64);
            }
        });
    }
    while calls.join_next().await.is_some() {}
    let mut came = came.lock().unwrap().clone();
    came.sort_by(f64::total_cmp);
    assert!(came.len() > 40, "{}", came.len());
    for (i, from) in came.iter().enumerate() {
        for (j, to) in came.iter().enumerate().skip(i) {
            // Timers are late by up to 2 ms, and lateness is forgiven.
            let most = 7.0 + (to - from + 2.0) / 20.0;
            assert!(
                (j - i + 1) as f64 <= most + 1e-9,
                "{} from {from} to {to}",
                j - i + 1
            );
        }
    }
    let snapshot = limit.snapshot();
    assert_eq!(snapshot.waiting, 0);
    let totals = snapshot.totals;
    let ended = totals.passed + totals.waited + totals.refused + totals.abandoned;
    assert_eq!(ended, 300);
}

#[tokio::test(start_paused = true)]
async fn a_call_takes_of_all_quotas_or_of_none() {
    let limit = RateLimit::builder("openai")
        .quota("requests", Quota::per_minute(10))
        .quota("tokens", Quota::per_minute(1_000))
        .max_wait(Duration::ZERO)
        .build()
        .unwrap();
    limit.try_acquire([1, 900]).unwrap();
    let refused = limit.try_acquire([1, 200]).unwrap_err();
    assert_eq!(refused.quota(), Some("tokens"));
    assert_eq!(refused.retry_after(), Some(6 * SECOND));
    assert_eq!(available(&limit), [9, 100]);
    advance(6 * SECOND).await;
    limit.try_acquire([1, 200]).unwrap();
    let never = limit.try_acquire([1, 1_001]).unwrap_err();
    assert_eq!(
        (never.reason(), never.retry_after()),
        (RateLimitReason::ExceedsBurst, None)
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_used_is_settled_afterwards() {
    let limit = RateLimit::builder("openai")
        .quota("requests", Quota::per_minute(10))
        .quota("tokens", Quota::per_minute(600))
        .build()
        .unwrap();
    let reserved = limit.acquire([1, 500]).await.unwrap();
    reserved.settle([1, 200]);
    assert_eq!(available(&limit), [9, 400]);
    // More than asked for: the next one waits for it.
    limit.acquire([1, 100]).await.unwrap().settle([1, 450]);
    assert_eq!(limit.snapshot().quotas[1].owed, 50);
    let began = Instant::now();
    limit.acquire([1, 10]).await.unwrap();
    let waited = (Instant::now() - began).as_millis();
    assert!((6_000..=6_002).contains(&waited), "{waited}");
    // It was not made: all of it comes back, and no bucket is more than full.
    let before = available(&limit);
    let reserved = limit.acquire([1, 0]).await.unwrap();
    reserved.cancel();
    assert_eq!(available(&limit), before);
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_gives_its_turn_to_those_behind() {
    let limit = RateLimit::new("api", Quota::per_second(1)).unwrap();
    limit.acquire(1).await.unwrap();
    let mut first = task::spawn(limit.acquire(1));
    let mut second = task::spawn(limit.acquire(1));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    drop(first);
    assert!(second.is_woken(), "it is the first now");
    assert_pending!(second.poll());
    advance(SECOND + 2 * MS).await;
    let _reserved = assert_ready_ok!(second.poll());
    // One that was served and did not notice gives back what it got.
    let mut served = task::spawn(limit.acquire(1));
    assert_pending!(served.poll());
    advance(SECOND).await;
    let _ = limit.snapshot();
    drop(served);
    assert_eq!(available(&limit), [1]);
    assert_eq!(limit.snapshot().totals.abandoned, 2);
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_too_long_is_refused_at_once_with_the_exact_time() {
    let limit = RateLimit::builder("api")
        .quota("requests", Quota::per_second(1))
        .max_wait(2 * SECOND)
        .max_waiting(5)
        .build()
        .unwrap();
    limit.acquire(1).await.unwrap();
    let mut waiting: Vec<_> = (0..2).map(|_| task::spawn(limit.acquire(1))).collect();
    waiting.iter_mut().for_each(|it| assert_pending!(it.poll()));
    let began = Instant::now();
    let refused = limit.acquire(1).await.unwrap_err();
    assert_eq!(refused.reason(), RateLimitReason::TooLong);
    assert_eq!(refused.retry_after(), Some(3 * SECOND));
    let late = deadline::scope(Deadline::after(SECOND / 2), limit.acquire(1));
    let refused = late.await.unwrap_err();
    assert_eq!(refused.reason(), RateLimitReason::DeadlineExceeded);
    assert_eq!(Instant::now(), began, "nobody waited");
    // Nobody passes those who wait, whatever there is.
    assert_eq!(
        limit.try_acquire(1).unwrap_err().reason(),
        RateLimitReason::Exhausted
    );
    let config = RateLimitConfig::clone(&limit.config());
    let mut fewer = config;
    fewer.max_waiting = Some(2);
    fewer.max_wait = 60 * SECOND;
    limit.update(fewer).unwrap();
    let refused = limit.acquire(1).await.unwrap_err();
    assert_eq!(refused.reason(), RateLimitReason::QueueFull);
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_everybody_and_ends() {
    let limit = ten();
    limit.pause(3 * SECOND);
    limit.pause(SECOND);
    let refused = limit.try_acquire(1).unwrap_err();
    assert_eq!(
        (refused.quota(), refused.retry_after()),
        (None, Some(3 * SECOND))
    );
    let began = Instant::now();
    limit.acquire(1).await.unwrap();
    assert!((3_000..=3_002).contains(&(Instant::now() - began).as_millis()));
    limit.try_acquire(1).unwrap();
    // A service must not stop its callers for a day.
    limit.pause(Duration::from_secs(86_400));
    assert_eq!(limit.snapshot().paused_for, Some(60 * SECOND));
    limit.reset();
    limit.try_acquire(10).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pause_in_the_middle_of_a_wait_makes_it_longer() {
    let limit = RateLimit::new("api", Quota::per_second(1)).unwrap();
    limit.acquire(1).await.unwrap();
    let began = Instant::now();
    let waits = limit.acquire(1);
    let (reserved, ()) = tokio::join!(waits, async {
        sleep(SECOND / 2).await;
        limit.pause(2 * SECOND);
    });
    reserved.unwrap();
    assert!((2_500..=2_502).contains(&(Instant::now() - began).as_millis()));
}

#[tokio::test(start_paused = true)]
async fn other_rules_keep_what_is_left_and_those_who_wait() {
    let limit = RateLimit::new("api", Quota::per_minute(60)).unwrap();
    limit.try_acquire(50).unwrap();
    let mut config = RateLimitConfig::clone(&limit.config());
    config.quotas[0].1 = Quota::per_minute(600);
    let change = limit.update(config.clone()).unwrap();
    assert!(change.to_string().contains("quotas"), "{change}");
    assert_eq!(available(&limit), [10]);
    let reserved = limit.try_acquire(10).unwrap();
    let mut waits = task::spawn(limit.acquire(5));
    assert_pending!(waits.poll());
    config.quotas[0].1 = Quota::per_minute(6_000);
    limit.update(config.clone()).unwrap();
    // What was taken by the old rules is not given back to the new ones.
    reserved.cancel();
    assert_eq!(available(&limit), [0]);
    advance(52 * MS).await;
    assert!(waits.is_woken());
    let _reserved = assert_ready_ok!(waits.poll());
    config.quotas[0].0 = "others".into();
    assert!(limit.update(config).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_wait_in_order() {
    let limit = RateLimit::builder("api")
        .quota("requests", Quota::per_second(1_000).burst(1))
        .max_wait(Duration::from_secs(600))
        .build()
        .unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let calls = (0..100_000).map(|n| {
        let (limit, order) = (limit.clone(), Arc::clone(&order));
        async move {
            limit.acquire(1).await.unwrap();
            order.lock().unwrap().push(n);
        }
    });
    let began = Instant::now();
    join_all(calls).await;
    assert!(order.lock().unwrap().iter().copied().eq(0..100_000));
    let took = Instant::now() - began;
    assert!(
        took >= Duration::from_millis(99_995) && took < Duration::from_millis(100_010),
        "{took:?}"
    );
}

fn ok(
    calls: &Arc<AtomicU32>,
) -> impl Service<u32, Response = u32, Error = Infallible, Future: Send> + Clone + Send + 'static {
    let calls = Arc::clone(calls);
    service_fn(move |n: u32| {
        calls.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(n))
    })
}

#[tokio::test(start_paused = true)]
async fn a_layer_takes_the_cost_of_each_request_and_settles_by_its_response() {
    let limit = RateLimit::new("tokens", Quota::per_second(100)).unwrap();
    let calls = Arc::default();
    let mut service = ServiceBuilder::new()
        .layer(
            limit
                .layer()
                .cost(|n: &u32| u64::from(*n))
                .settle(|n: &u32| Some(u64::from(*n) / 2)),
        )
        .service(ok(&calls));
    service.ready().await.unwrap().call(80).await.unwrap();
    assert_eq!(available(&limit), [60]);
    // Waits by a clone; a layer that is applied again shares the limit.
    let began = Instant::now();
    service.ready().await.unwrap().call(100).await.unwrap();
    assert!((400..=402).contains(&(Instant::now() - began).as_millis()));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_below_has_used_nothing() {
    let (limit, breaker) = (ten(), CircuitBreaker::new("api"));
    breaker.force_open();
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(limit.layer())
        .layer(breaker.layer())
        .service(ok(&calls));
    for _ in 0..50 {
        let error = service.clone().oneshot(1).await.unwrap_err();
        assert!(matches!(error, Error::CircuitOpen(_)), "{error}");
    }
    assert_eq!(available(&limit), [10]);
}

#[tokio::test(start_paused = true)]
async fn an_overload_that_says_when_pauses_all_calls_and_not_one() {
    let limit = ten();
    let busy = service_fn(|n: u32| {
        std::future::ready(match n {
            0 => Err(std::io::Error::other("slow down")),
            n => Ok(n),
        })
    });
    let asks = |result: Result<&u32, &std::io::Error>| result.is_err().then_some(5 * SECOND);
    let service = ServiceBuilder::new()
        .layer(limit.layer().pause_with(asks))
        .service(busy);
    let _ = service.clone().oneshot(0).await;
    let began = Instant::now();
    let calls = (1..4).map(|n| service.clone().oneshot(n));
    for ended in join_all(calls).await {
        ended.unwrap();
    }
    assert!((5_000..=5_002).contains(&(Instant::now() - began).as_millis()));
}

/// Ten a second, and attempts of at most 50 ms: the wait is no time at the service.
#[tokio::test(start_paused = true)]
async fn a_wait_for_ones_turn_is_nobodys_fault() {
    let limit = RateLimit::new("api", Quota::per_second(10).burst(1)).unwrap();
    let breaker = CircuitBreaker::builder("api")
        .consecutive_failures(1)
        .cancelled_is_failure_after(50 * MS)
        .build()
        .unwrap();
    let retry = RetryPolicy::builder()
        .max_retries(0)
        .attempt_timeout(50 * MS)
        .build()
        .unwrap();
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(breaker.layer())
        .layer(limit.layer())
        .service(ok(&calls));
    let ended = join_all((0..10).map(|n| service.clone().oneshot(n))).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    // Nor is it one's that somebody loses patience.
    let _ = timeout(60 * MS, service.clone().oneshot(1)).await;
    assert_eq!(breaker.snapshot().totals.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn every_attempt_of_a_retry_takes_its_turn() {
    let limit = RateLimit::new("api", Quota::per_second(1)).unwrap();
    let retry = RetryPolicy::builder()
        .max_retries(2)
        .backoff(Backoff::fixed(Duration::ZERO))
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(limit.layer())
        .service(service_fn(|()| async {
            Err::<(), _>(std::io::Error::other("down"))
        }));
    let began = Instant::now();
    service.oneshot(()).await.unwrap_err();
    assert!((2_000..=2_004).contains(&(Instant::now() - began).as_millis()));
}

#[tokio::test(start_paused = true)]
async fn a_readied_instance_keeps_no_place_while_it_waits() {
    let limit = RateLimit::new("api", Quota::per_second(1)).unwrap();
    let calls = Arc::default();
    let mut service = ServiceBuilder::new()
        .layer(limit.layer())
        .concurrency_limit(1)
        .service(ok(&calls));
    service.ready().await.unwrap().call(1).await.unwrap();
    // The instance lives on, and had the only place when it was called.
    let waits = service.ready().await.unwrap().call(2);
    let ended = timeout(9 * SECOND, waits).await;
    assert_eq!(ended.expect("it waits for its own place").unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_events_and_responses_and_found_in_chains() {
    let registry = Registry::new();
    let limit = RateLimit::builder("api")
        .quota("requests", Quota::per_second(1))
        .max_wait(Duration::ZERO)
        .build_in(&registry)
        .unwrap();
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(
            limit
                .layer()
                .reject_with(|refused| 400 + refused.code().len() as u32),
        )
        .service(ok(&calls));
    assert_eq!(service.clone().oneshot(7).await.unwrap(), 7);
    assert_eq!(service.clone().oneshot(7).await.unwrap(), 412);
    let heard = registry.feed().recent();
    assert!(matches!(heard[0].event, Event::RateLimit(_)), "{heard:?}");
    let boxed: tower::BoxError = limit.try_acquire(1).unwrap_err().into();
    let found = tower_bulwark::Rejection::find(&*boxed).unwrap();
    assert_eq!((found.name(), found.code()), ("api", "rate_limited"));
    assert_eq!(registry.snapshot().rate_limits[0].totals.refused, 2);
    assert!(
        RateLimit::builder("api")
            .quota("requests", Quota::per_second(2))
            .build_in(&registry)
            .is_err()
    );
}

#[test]
fn a_quota_that_lets_nothing_pass_is_an_error_that_says_what_to_change() {
    let build = |quota| RateLimit::new("api", quota).map_err(|error| error.setting());
    assert_eq!(build(Quota::per_second(0)).unwrap_err(), "amount");
    assert_eq!(build(Quota::per_second(1).burst(0)).unwrap_err(), "burst");
    assert_eq!(build(Quota::per(1, Duration::ZERO)).unwrap_err(), "period");
    assert_eq!(build(Quota::per(1, Duration::MAX)).unwrap_err(), "period");
    assert_eq!(
        build(Quota::per_hour(1).burst(u64::MAX)).unwrap_err(),
        "burst"
    );
    assert!(RateLimit::builder("api").build().is_err());
    let twice = RateLimit::builder("api")
        .quota("a", Quota::per_second(1))
        .quota("a", Quota::per_second(2));
    assert_eq!(twice.build().unwrap_err().setting(), "quotas");
    // Faster than can be counted.
    assert_eq!(build(Quota::per_second(u64::MAX / 2)).unwrap_err(), "burst");
}

#[tokio::test(start_paused = true)]
async fn alone_around_any_code() {
    let limit = ten();
    let answer: Result<u32, Error<std::io::Error>> =
        limit.run(async || Ok::<_, std::io::Error>(42)).await;
    assert_eq!(answer.unwrap(), 42);
    assert_eq!(available(&limit), [9]);
}

/// Four threads, and never one more than the quota.
#[test]
fn whatever_races_no_more_passes_than_the_quota() {
    let limit = RateLimit::new("api", Quota::per_hour(1_000)).unwrap();
    let passed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (limit, passed) = (&limit, &passed);
            scope.spawn(move || {
                for n in 0..2_000 {
                    if limit.try_acquire(1).is_ok() {
                        passed.fetch_add(1, Ordering::SeqCst);
                    }
                    if n % 100 == thread {
                        // Goes by the lock, and back.
                        let _ = limit.snapshot();
                    }
                }
            });
        }
    });
    assert_eq!(passed.load(Ordering::SeqCst), 1_000);
    assert_eq!(limit.snapshot().totals.passed, 1_000);
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn an_http_service_that_is_throttled_pauses_everybody_and_a_refusal_below_has_used_nothing() {
    use http::{Request, Response, StatusCode};
    use tower_bulwark::http::{problem, quotas_left};

    let limit = ten();
    let breaker = CircuitBreaker::new("api");
    let client = service_fn(|request: Request<()>| async move {
        let mut response = Response::new(String::new());
        if request.uri().path() == "/busy" {
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            let headers = response.headers_mut();
            headers.insert("retry-after", "7".parse().unwrap());
        }
        let left = "x-ratelimit-remaining-requests";
        response.headers_mut().insert(left, "3".parse().unwrap());
        Ok::<_, Infallible>(response)
    });
    let service = ServiceBuilder::new()
        .layer(
            limit
                .http_layer()
                .left_by(|response: &Response<_>| quotas_left(response.headers())),
        )
        .layer(breaker.http_layer().reject_with(problem))
        .service(client);
    let get = |path: &str| Request::get(format!("http://api{path}")).body(()).unwrap();

    let began = Instant::now();
    service.clone().oneshot(get("/busy")).await.unwrap();
    // What the service says is left is believed.
    assert_eq!(available(&limit), [3]);
    service.clone().oneshot(get("/")).await.unwrap();
    assert!((7_000..=7_002).contains(&(Instant::now() - began).as_millis()));

    limit.reset();
    breaker.force_open();
    let refused = service.clone().oneshot(get("/")).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(available(&limit), [10]);
}

/// What a model has used is in its body.
#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn what_only_the_body_says_is_settled_when_it_has_been_read() {
    use http::Response;
    use tower_bulwark::http::Unsettled;

    let limit = RateLimit::builder("model")
        .quota("requests", Quota::per_minute(100))
        .quota("tokens", Quota::per_minute(1_000))
        .build()
        .unwrap();
    let left = || -> Vec<u64> {
        let quotas = limit.snapshot().quotas;
        quotas.iter().map(|it| it.available).collect()
    };
    let layer = limit.http_layer().cost(|_: &()| [1, 500]).settle_later();
    let answer = |_: ()| std::future::ready(Ok::<_, std::io::Error>(Response::new(120_u64)));
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(tower::service_fn(answer));

    let response = service.clone().oneshot(()).await.unwrap();
    assert_eq!(left(), [99, 500]);
    let unsettled = Unsettled::of(response.extensions());
    let tokens = response.into_body();
    unsettled.settle([1, tokens]);
    assert_eq!(left(), [99, 880]);
    // Said twice, the first counts.
    unsettled.settle([1, 0]);
    unsettled.clone().settle([1, 900]);
    assert_eq!(left(), [99, 880]);
    // Dropped, it stays taken.
    drop(service.clone().oneshot(()).await.unwrap());
    assert_eq!(left(), [98, 380]);
    // What has been settled by the head is not settled again.
    let layer = limit.http_layer().cost(|_: &()| [1, 100]).settle_later();
    let layer = layer.settle(|_: &Response<u64>| Some([1, 10]));
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(tower::service_fn(answer));
    let response = service.oneshot(()).await.unwrap();
    assert_eq!(left(), [97, 370]);
    Unsettled::of(response.extensions()).settle([1, 100]);
    assert_eq!(left(), [97, 370]);
    // Of a response without a rate limit.
    Unsettled::of(Response::new(()).extensions()).settle(1);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_is_dropped_while_it_waits_for_something_inside_gives_back_its_tokens() {
    let limit = RateLimit::new("api", Quota::per_hour(2)).unwrap();
    let inner = RateLimit::new("inner", Quota::per(1, 20 * SECOND)).unwrap();
    let lock = ResourceLock::new("gpu");
    inner.try_acquire(1).unwrap();
    let _held = lock.acquire("somebody").await.unwrap();
    for _ in 0..3 {
        let waits = limit.run(|| lock.run("another", async || Ok::<_, Infallible>(())));
        assert!(timeout(50 * MS, waits).await.is_err());
        let waits = limit.run(|| inner.run(async || Ok::<_, Infallible>(())));
        assert!(timeout(50 * MS, waits).await.is_err());
        assert_eq!(available(&limit), [2]);
    }
    // What has been at the service stays counted, also if it waits after that.
    let calls = limit.run(async || {
        sleep(MS).await;
        lock.run("another", async || Ok::<_, Infallible>(())).await
    });
    assert!(timeout(50 * MS, calls).await.is_err());
    assert_eq!(available(&limit), [1]);
}
