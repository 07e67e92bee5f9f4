//! Calls that are refused because the service accepts too few of them.

use std::future::{pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{advance, timeout};
use tokio_test::assert_pending;
use tokio_test::task::spawn;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::explain::{Layers, Warning};
use tower_bulwark::keyed::Keyed;
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::throttle::{ThrottleConfig, ThrottleSnapshot};
use tower_bulwark::{
    CircuitBreaker, Error, Event, Hedge, Outcome, RateLimit, Registry, Rejection, ResourceLock,
    RetryBudget, RetryPolicy, StopReason, Throttle, Timeouts, Verdict,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn throttle() -> Throttle {
    Throttle::builder("search").seed(3).build().unwrap()
}

/// Makes `n` calls by hand, of which those that are let through end so. How many were refused.
fn calls(throttle: &Throttle, n: u32, outcome: Outcome) -> u32 {
    let refused = (0..n).filter(|_| match throttle.try_acquire() {
        Ok(permit) => {
            permit.settle(outcome);
            false
        }
        Err(_) => true,
    });
    refused.count() as u32
}

fn counts(throttle: &Throttle) -> (u64, u64) {
    let ThrottleSnapshot {
        requests, accepts, ..
    } = throttle.snapshot();
    (requests, accepts)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_refused_while_half_of_the_calls_are_accepted() {
    let throttle = throttle();
    for _ in 0..1_000 {
        assert_eq!(calls(&throttle, 1, Outcome::Success), 0);
        assert_eq!(calls(&throttle, 1, Outcome::Overload), 0);
    }
    assert_eq!(counts(&throttle), (2_000, 1_000));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_accepts_nothing_is_sent_one_call_in_ten_and_is_found_out_when_it_recovers()
{
    let throttle = throttle();
    calls(&throttle, 100, Outcome::Overload);
    let refused = calls(&throttle, 10_000, Outcome::Overload);
    assert!((8_900..9_100).contains(&refused), "{refused}");
    let totals = throttle.snapshot().totals;
    assert_eq!(
        totals.accepted + totals.not_accepted + totals.refused,
        10_100
    );
    // It has recovered. Ten calls a second.
    let mut last_refused = 0;
    for second in 1..=600_u32 {
        advance(SECOND).await;
        if calls(&throttle, 10, Outcome::Success) > 0 {
            last_refused = second;
        }
    }
    // Two windows: the calls that are refused meanwhile are requests too.
    assert!((30..=65).contains(&last_refused), "{last_refused}");
    assert_eq!(throttle.snapshot().probability, 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_is_twice_what_is_accepted() {
    let throttle = throttle();
    let (mut sent, mut accepted) = (0_u32, 0_u32);
    // The service accepts 10 a second, and 100 are wanted.
    for second in 0..600 {
        let mut room = 10;
        for _ in 0..100 {
            let Ok(permit) = throttle.try_acquire() else {
                continue;
            };
            if second >= 300 {
                sent += 1;
                accepted += u32::from(room > 0);
            }
            match room {
                0 => permit.overload(),
                _ => {
                    room -= 1;
                    permit.success();
                }
            }
        }
        advance(SECOND).await;
    }
    let ratio = f64::from(sent) / f64::from(accepted);
    assert!((1.8..2.3).contains(&ratio), "{ratio}");
    assert!((2_950..=3_000).contains(&accepted), "{accepted}");
}

/// Within one slice of the window, too.
#[tokio::test(start_paused = true)]
async fn each_call_that_is_accepted_lowers_the_probability() {
    let throttle = throttle();
    calls(&throttle, 100, Outcome::Overload);
    for accepted in [10, 20, 40] {
        while throttle.snapshot().totals.accepted < accepted {
            calls(&throttle, 1, Outcome::Success);
        }
    }
    let mut accepted = 0;
    for _ in 0..200 {
        match throttle.try_acquire() {
            Ok(permit) => {
                permit.success();
                accepted += 1;
            }
            Err(refused) => {
                let now = throttle.snapshot().probability;
                assert!(
                    (refused.probability() - now).abs() < 0.01,
                    "{refused} {now}"
                );
            }
        }
    }
    assert!(accepted > 0);
}

#[tokio::test(start_paused = true)]
async fn below_the_minimum_nothing_is_refused() {
    let throttle = throttle();
    assert_eq!(calls(&throttle, 10, Outcome::Overload), 0);
    assert!(throttle.snapshot().probability > 0.8);
}

#[tokio::test(start_paused = true)]
async fn a_long_time_without_calls_forgets_everything() {
    let throttle = throttle();
    calls(&throttle, 1_000, Outcome::Overload);
    assert!(throttle.snapshot().probability > 0.8);
    advance(5 * MINUTE).await;
    assert_eq!(calls(&throttle, 9, Outcome::Success), 0);
    advance(Duration::from_secs(400 * 86_400)).await;
    assert_eq!(counts(&throttle), (0, 0));
    assert_eq!(calls(&throttle, 100, Outcome::Success), 0);
}

/// What an hour of good calls leaves behind is half a minute of them.
#[tokio::test(start_paused = true)]
async fn healthy_hours_delay_no_refusal() {
    let throttle = throttle();
    for _ in 0..3_600 {
        calls(&throttle, 10, Outcome::Success);
        advance(SECOND).await;
    }
    let (requests, accepts) = counts(&throttle);
    assert!((270..=300).contains(&requests), "{requests}");
    assert_eq!(requests, accepts);
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_about_the_service_is_not_counted() {
    let throttle = throttle();
    calls(&throttle, 50, Outcome::Ignored);
    calls(&throttle, 50, Outcome::Cancelled);
    drop(throttle.try_acquire().unwrap());
    assert_eq!(counts(&throttle), (0, 0));

    // A lock and a breaker below, which refuse.
    let lock = ResourceLock::builder("slot").timeout(Duration::ZERO);
    let lock = lock.build().unwrap();
    let breaker = CircuitBreaker::new("search");
    let inner = service_fn(|n: u32| ready(Ok::<_, std::io::Error>(n)));
    let service = ServiceBuilder::new()
        .layer(throttle.layer())
        .layer(breaker.layer())
        .layer(lock.layer())
        .service(inner);
    let held = lock.try_acquire("somebody").unwrap();
    for n in 0..50 {
        let busy = service.clone().oneshot(n).await.unwrap_err();
        assert!(matches!(busy, Error::Contended(_)), "{busy}");
    }
    breaker.force_open();
    for n in 0..50 {
        let open = service.clone().oneshot(n).await.unwrap_err();
        assert!(matches!(open, Error::CircuitOpen(_)), "{open}");
    }
    assert_eq!(counts(&throttle), (0, 0));
    breaker.force_close();
    drop(held);
    service.oneshot(1).await.unwrap();
    assert_eq!(counts(&throttle), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_counts_only_if_it_had_its_time_at_the_service() {
    let throttle = throttle();
    let hangs = service_fn(|_: u32| pending::<Result<u32, std::io::Error>>());
    let service = ServiceBuilder::new().layer(throttle.layer()).service(hangs);
    timeout(SECOND, service.clone().oneshot(1))
        .await
        .unwrap_err();
    assert_eq!(counts(&throttle), (0, 0), "the caller went away");

    let limits = Timeouts::builder("search").head(SECOND).build().unwrap();
    let timed = ServiceBuilder::new().layer(limits.layer()).service(service);
    timed.oneshot(1).await.unwrap_err();
    assert_eq!(counts(&throttle), (1, 0), "the service hangs");

    // One that waits for a permit below has had none of it.
    let lock = ResourceLock::new("slot");
    let _held = lock.try_acquire("somebody").unwrap();
    let inner = service_fn(|n: u32| ready(Ok::<_, std::io::Error>(n)));
    let waits = ServiceBuilder::new()
        .layer(throttle.layer())
        .layer(lock.layer())
        .service(inner);
    let late = timeout(SECOND, waits.oneshot(1)).await;
    late.unwrap_err();
    assert_eq!(counts(&throttle), (1, 0), "nobody's fault");
}

/// An attempt timeout of a retry blames the service; the end of the caller's own time does not.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_took_too_long_is_not_accepted_and_a_caller_without_time_says_nothing() {
    let throttle = throttle();
    let hangs = || service_fn(|_: u32| pending::<Result<u32, std::io::Error>>());
    let attempts = RetryPolicy::builder()
        .max_retries(2)
        .attempt_timeout(SECOND);
    let retry = attempts.build().unwrap();
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(throttle.layer())
        .service(hangs());
    service.oneshot(1).await.unwrap_err();
    assert_eq!(counts(&throttle), (3, 0), "each attempt is a request");

    let limits = Timeouts::builder("all").total(SECOND).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(limits.layer())
        .layer(throttle.layer())
        .service(hangs());
    service.oneshot(1).await.unwrap_err();
    assert_eq!(counts(&throttle), (3, 0), "the caller had no more time");
}

/// Calls are dropped before they are polled, while they wait and while they are at the service, by a thousand each.
#[tokio::test(start_paused = true)]
async fn a_storm_of_drops_counts_nothing_and_holds_nothing() {
    let registry = Registry::new();
    let throttle = registry.throttle("search");
    let lock = ResourceLock::new("slot");
    let hangs = service_fn(|_: u32| pending::<Result<u32, std::io::Error>>());
    let mut service = ServiceBuilder::new()
        .layer(throttle.layer())
        .layer(lock.layer())
        .service(hangs);
    for n in 0..1_000 {
        drop(service.ready().await.unwrap().call(n));
        let at_service = service.ready().await.unwrap().call(n);
        let waits = service.ready().await.unwrap().call(n);
        let (mut at_service, mut waits) = (spawn(at_service), spawn(waits));
        assert_pending!(at_service.poll());
        assert_pending!(waits.poll());
        match n % 2 {
            0 => drop((waits, at_service)),
            _ => drop((at_service, waits)),
        }
    }
    let snapshot = throttle.snapshot();
    assert_eq!((snapshot.requests, snapshot.probability), (0, 0.0));
    assert_eq!(snapshot.totals, Default::default());
    assert!(!registry.remove_if_idle("search"), "somebody has a handle");
    let mut last = spawn(service.ready().await.unwrap().call(0));
    assert_pending!(last.poll());
    drop((service, throttle));
    assert!(!registry.remove_if_idle("search"), "a call is on its way");
    drop(last);
    assert!(registry.remove_if_idle("search"));
}

/// A call that was refused is a request, whether or not anybody asks for its answer.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_nobody_reads_has_been_wanted_too() {
    let throttle = throttle();
    calls(&throttle, 1_000, Outcome::Overload);
    let before = throttle.snapshot();
    let inner = service_fn(|n: u32| ready(Ok::<_, std::io::Error>(n)));
    let mut service = ServiceBuilder::new().layer(throttle.layer()).service(inner);
    for n in 0..1_000 {
        drop(service.ready().await.unwrap().call(n));
    }
    let after = throttle.snapshot();
    let refused = after.totals.refused - before.totals.refused;
    assert!((850..950).contains(&refused), "{refused}");
    assert_eq!(after.requests - before.requests, refused);
}

#[tokio::test(start_paused = true)]
async fn by_key_only_what_was_not_accepted_is_remembered() {
    let made = |host: &u32| Throttle::builder(host.to_string()).seed(3).build().unwrap();
    let hosts = Keyed::new("hosts", 100, made).unwrap();
    for host in 0..10 {
        let throttle: Throttle = hosts.get(&host).unwrap();
        let outcome = match host {
            7 => Outcome::Overload,
            _ => Outcome::Success,
        };
        calls(&throttle, 20, outcome);
    }
    // The one in trouble comes first.
    assert_eq!(hosts.snapshot(1)[0].0, 7);
    assert_eq!((hosts.forget_idle(), hosts.len()), (9, 1));
    advance(MINUTE).await;
    assert_eq!(hosts.forget_idle(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_panics_is_not_accepted() {
    let throttle = throttle();
    let panics = |_: u32| async { panic!("in the service") as Result<u32, std::io::Error> };
    let service = ServiceBuilder::new()
        .layer(throttle.layer())
        .service(service_fn(panics));
    let call = tokio::spawn(service.oneshot(1));
    assert!(call.await.unwrap_err().is_panic());
    assert_eq!(counts(&throttle), (1, 0));
}

#[test]
fn a_permit_that_is_dropped_by_a_panic_is_not_accepted() {
    let throttle = throttle();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _permit = throttle.try_acquire().unwrap();
        panic!("in code that settles by hand");
    }));
    assert!(panicked.is_err());
    assert_eq!(counts(&throttle), (1, 0));
}

/// Errors and responses that match are not accepted, an error of another kind is an answer.
#[tokio::test(start_paused = true)]
async fn rules_of_the_layer_say_what_is_not_accepted() {
    let throttle = throttle();
    let layer = throttle
        .layer()
        .failure_if(|error: &std::io::Error| error.kind() == std::io::ErrorKind::TimedOut)
        .response_failure_if(|n: &u32| *n == 2)
        .ignore_if(|error: &std::io::Error| error.kind() == std::io::ErrorKind::Interrupted);
    let inner = service_fn(|n: u32| {
        ready(match n {
            0 => Err(std::io::ErrorKind::TimedOut.into()),
            1 => Err(std::io::ErrorKind::NotFound.into()),
            4 => Err(std::io::ErrorKind::Interrupted.into()),
            n => Ok::<_, std::io::Error>(n),
        })
    });
    let service = ServiceBuilder::new().layer(layer).service(inner);
    for (n, expected) in [
        (0, (1, 0)),
        (1, (2, 1)),
        (2, (3, 1)),
        (3, (4, 2)),
        (4, (4, 2)),
    ] {
        let _ = service.clone().oneshot(n).await;
        assert_eq!(counts(&throttle), expected, "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_accepted_where_only_overload_is_not() {
    for (only_overload, expected) in [(false, (30, 10)), (true, (30, 20))] {
        let throttle = Throttle::builder("search")
            .only_overload(only_overload)
            .minimum_requests(1_000)
            .build()
            .unwrap();
        let classified = |result: Result<&u32, &std::io::Error>| match result {
            Ok(0) => Verdict::success(),
            Ok(1) => Verdict::failure(),
            _ => Verdict::overload(),
        };
        let inner = service_fn(|n: u32| ready(Ok::<_, std::io::Error>(n % 3)));
        let layer = throttle.layer().classify_with(classified);
        let service = ServiceBuilder::new().layer(layer).service(inner);
        for n in 0..30 {
            service.clone().oneshot(n).await.unwrap();
        }
        assert_eq!(counts(&throttle), expected);
    }
}

/// Each attempt of a retry is a request, and a refusal is none of its failures.
#[tokio::test(start_paused = true)]
async fn a_retry_around_it_takes_a_refusal_for_what_it_is() {
    let throttle = throttle();
    calls(&throttle, 100, Outcome::Overload);
    let asked = Arc::new(AtomicU64::new(0));
    let inner = {
        let asked = Arc::clone(&asked);
        service_fn(move |_: u32| {
            asked.fetch_add(1, Ordering::Relaxed);
            ready(Err::<u32, _>(std::io::Error::other("no room")))
        })
    };
    let service = ServiceBuilder::new()
        .layer(RetryPolicy::new().layer())
        .layer(throttle.layer())
        .service(inner);
    let (mut refused, mut stopped) = (0, 0);
    for n in 0..200 {
        match service.clone().oneshot(n).await.unwrap_err() {
            Error::Throttled(throttled) => {
                assert_eq!(throttled.name(), "search");
                refused += 1;
            }
            Error::Exhausted(gave_up) => {
                stopped += u64::from(gave_up.reason() == StopReason::Refused);
            }
            other => panic!("{other}"),
        }
    }
    assert!(refused > 150 && stopped > 0, "{refused} {stopped}");
    assert!(asked.load(Ordering::Relaxed) < 60, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_found_in_any_chain_and_answered_with_a_response() {
    let throttle = throttle();
    calls(&throttle, 500, Outcome::Overload);
    let inner = service_fn(|n: u32| ready(Ok::<_, std::io::Error>(n.to_string())));
    let service = ServiceBuilder::new().layer(throttle.layer()).service(inner);
    let refused = loop {
        if let Err(error) = service.clone().oneshot(7).await {
            break error;
        }
    };
    let boxed: tower::BoxError = std::io::Error::other(refused).into();
    let found = Rejection::find(&*boxed).unwrap();
    assert_eq!((found.name(), found.code()), ("search", "throttled"));
    assert_eq!(found.retry_after(), None);

    calls(&throttle, 500, Outcome::Overload);
    let inner = service_fn(|n: u32| ready(Ok::<_, std::io::Error>(n.to_string())));
    let answers = throttle.layer().reject_with(|it| it.code().to_owned());
    let mut service = ServiceBuilder::new().layer(answers).service(inner);
    let mut answers = Vec::new();
    for n in 0..50 {
        answers.push(service.ready().await.unwrap().call(n).await.unwrap());
    }
    assert!(answers.iter().any(|it| it == "throttled"), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn update_keeps_the_counts_and_another_window_begins_anew() {
    let throttle = throttle();
    calls(&throttle, 100, Outcome::Overload);
    let before = counts(&throttle);
    let mut config = ThrottleConfig::default();
    config.max_reject = 0.5;
    let change = throttle.update(config).unwrap();
    assert_eq!(change.to_string(), "max_reject: 0.9 -> 0.5");
    assert_eq!(counts(&throttle), before);
    assert_eq!(throttle.snapshot().probability, 0.5);
    config.window = 2 * MINUTE;
    throttle.update(config).unwrap();
    assert_eq!(counts(&throttle), (0, 0));
    calls(&throttle, 30, Outcome::Success);
    assert_eq!(counts(&throttle), (30, 30));
    config.k = 0.5;
    assert_eq!(throttle.update(config).unwrap_err().setting(), "k");
    assert_eq!(throttle.config().k, 2.0);
    throttle.reset();
    assert_eq!(counts(&throttle), (0, 0));
    assert_eq!(throttle.snapshot().totals.accepted, 30);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let setting =
        |build: tower_bulwark::throttle::ThrottleBuilder| build.build().unwrap_err().setting();
    let new = || Throttle::builder("search");
    for k in [0.0, 0.99, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(setting(new().k(k)), "k");
    }
    for max in [0.0, 1.0, 1.5, -0.1, f64::NAN] {
        assert_eq!(setting(new().max_reject(max)), "max_reject");
    }
    assert_eq!(setting(new().window(Duration::ZERO)), "window");
    assert!(new().window(Duration::MAX).k(1.0).build().is_ok());
}

#[tokio::test(start_paused = true)]
async fn it_says_when_it_begins_and_ends_to_refuse() {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let list = Arc::clone(&heard);
    let throttle = Throttle::builder("search")
        .seed(3)
        .observer(move |_: &str, event: &Event| {
            if event.kind() != "refused" {
                list.lock().unwrap().push(event.to_string());
            }
        })
        .build()
        .unwrap();
    calls(&throttle, 100, Outcome::Overload);
    advance(3 * MINUTE).await;
    calls(&throttle, 10, Outcome::Success);
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert_eq!(
        heard[0],
        "begins to refuse calls: the service has accepted 0 of 10"
    );
    assert!(heard[1].starts_with("refuses no more calls"), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn clones_and_layers_share_what_is_known() {
    let throttle = throttle();
    let inner = || service_fn(|n: u32| ready(Ok::<_, std::io::Error>(n)));
    let layer = throttle.layer();
    for service in [layer.clone(), layer] {
        let service = ServiceBuilder::new().layer(service).service(inner());
        service.oneshot(1).await.unwrap();
    }
    throttle
        .clone()
        .run(|| ready(Ok::<_, std::io::Error>(1)))
        .await
        .unwrap();
    assert_eq!(counts(&throttle), (3, 3));
    let registry = Registry::new();
    let registered = registry.throttle("search");
    calls(&registered, 20, Outcome::Overload);
    assert_eq!(
        counts(&registry.get_throttle("search").unwrap()),
        counts(&registered)
    );
    assert!(!registry.remove_if_idle("search"));
    advance(3 * MINUTE).await;
    drop(registered);
    assert!(registry.remove_if_idle("search"));
}

#[test]
fn its_place_is_inside_the_retry_and_outside_what_waits() {
    let (throttle, retry) = (throttle(), RetryPolicy::new());
    let (lock, breaker) = (ResourceLock::new("slot"), CircuitBreaker::new("search"));
    let client = |layers: Layers| layers.service("client", Some(10 * SECOND)).explain();
    let good = Layers::new().layer(&retry).layer(&throttle).layer(&breaker);
    let good = client(good.layer(&lock));
    assert!(good.warnings().is_empty(), "{good}");
    assert!(
        good.to_string()
            .contains("throttle `search`: about 2 times what is accepted, refuses up to 90 %"),
        "{good}"
    );
    let bad = client(Layers::new().layer(&throttle).layer(&retry));
    assert!(
        matches!(bad.warnings(), [Warning::ThrottleOutsideRetry { .. }]),
        "{bad}"
    );
    let quota = RateLimit::builder("quota").quota("requests", Quota::per_second(9));
    let quota = quota.build().unwrap();
    let waits = [
        Layers::new().layer(&lock).layer(&throttle),
        Layers::new().layer(&quota).layer(&throttle),
    ];
    for bad in waits.map(client) {
        assert!(
            matches!(bad.warnings(), [Warning::WaitsToBeThrottled { .. }]),
            "{bad}"
        );
    }
    let budget = RetryBudget::new(0.1).unwrap();
    let hedge = Hedge::builder("reads").budget(&budget).build().unwrap();
    let good = client(Layers::new().layer(&hedge).layer(&throttle));
    assert!(good.warnings().is_empty(), "{good}");
    let bad = client(Layers::new().layer(&throttle).layer(&hedge));
    assert!(
        matches!(bad.warnings(), [Warning::ThrottleOutsideHedge { .. }]),
        "{bad}"
    );
    assert!(bad.to_string().contains("refuses no hedge"), "{bad}");
}

/// From four threads: what is counted is what was done.
#[test]
fn no_call_is_counted_twice_or_lost() {
    let throttle = Throttle::builder("search").window(50 * MS).build().unwrap();
    let (accepted, failed, refused) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (throttle, accepted, failed, refused) = (&throttle, &accepted, &failed, &refused);
            scope.spawn(move || {
                for n in 0..50_000_u32 {
                    match throttle.try_acquire() {
                        Err(_) => refused.fetch_add(1, Ordering::Relaxed),
                        Ok(permit) if n / 1_000 % 4 == thread => {
                            permit.overload();
                            failed.fetch_add(1, Ordering::Relaxed)
                        }
                        Ok(permit) if n % 7 == 0 => {
                            drop(permit);
                            continue;
                        }
                        Ok(permit) => {
                            permit.success();
                            accepted.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            });
        }
    });
    let totals = throttle.snapshot().totals;
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    assert_eq!(totals.accepted, of(&accepted));
    assert_eq!(totals.not_accepted, of(&failed));
    assert_eq!(totals.refused, of(&refused));
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn over_http_a_429_is_not_accepted_and_a_404_is() {
    let throttle = Throttle::builder("search")
        .minimum_requests(100)
        .build()
        .unwrap();
    let inner = service_fn(|status: u16| {
        let mut response = http::Response::new(());
        *response.status_mut() = status.try_into().unwrap();
        ready(Ok::<_, std::io::Error>(response))
    });
    let service = ServiceBuilder::new()
        .layer(throttle.http_layer())
        .service(inner);
    for (status, expected) in [
        (200, (1, 1)),
        (404, (2, 2)),
        (429, (3, 2)),
        (503, (4, 2)),
        (500, (5, 2)),
    ] {
        service.clone().oneshot(status).await.unwrap();
        assert_eq!(counts(&throttle), expected, "{status}");
    }
}

/// Throttles until it refuses.
#[cfg(feature = "http")]
fn refusal() -> Rejection {
    let throttle = throttle();
    calls(&throttle, 100, Outcome::Overload);
    loop {
        if let Err(refused) = throttle.try_acquire() {
            return refused.into();
        }
    }
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn as_a_response_a_refusal_is_a_503_that_names_nothing_and_blames_nobody() {
    use tower_bulwark::http::{Refused, problem};

    let response = problem::<String>(refusal());
    assert_eq!(response.status(), 503);
    // Nobody can say when: a second.
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(response.extensions().get::<Refused>().is_some());
    let body = response.body();
    assert!(body.contains(r#""code":"throttled""#), "{body}");
    assert!(!body.contains("search"), "{body}");
}

#[cfg(feature = "grpc")]
#[tokio::test(start_paused = true)]
async fn as_a_status_a_refusal_is_unavailable() {
    let status = tonic::Status::from(refusal());
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(
        status.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "1000"
    );
    assert!(!status.message().contains("search"), "{status}");
    assert_eq!(Rejection::find(&status).unwrap().name(), "search");
}

#[cfg(feature = "grpc")]
#[tokio::test(start_paused = true)]
async fn over_grpc_a_resource_exhausted_is_not_accepted_and_a_not_found_is() {
    let throttle = Throttle::builder("search")
        .only_overload(true)
        .build()
        .unwrap();
    let inner = service_fn(|code: i32| {
        let response = http::Response::builder().header("grpc-status", code);
        let nothing = http_body_util::Empty::<bytes::Bytes>::new();
        ready(Ok::<_, std::io::Error>(response.body(nothing).unwrap()))
    });
    let service = ServiceBuilder::new()
        .layer(throttle.grpc_layer())
        .service(inner);
    for (code, expected) in [(0, (1, 1)), (5, (2, 2)), (8, (3, 2)), (13, (4, 3))] {
        service.clone().oneshot(code).await.unwrap();
        assert_eq!(counts(&throttle), expected, "{code}");
    }
}
