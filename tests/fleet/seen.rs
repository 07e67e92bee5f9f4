//! What is to be seen of a fleet: its events, its snapshot, the processes it has.

use std::collections::BTreeSet;
use std::time::Duration;

use tower_bulwark::fleet::{Fleet, SharedBreaker};
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{CircuitBreaker, Event, Observer, Registry};

use super::support::server::Server;
use super::support::until;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::test]
async fn a_fleet_of_one_process_shows_what_it_shares() {
    let registry = Registry::new();
    let fleet = Fleet::in_process();
    registry.add_fleet(&fleet);
    registry.add_fleet(&fleet);
    let breaker = CircuitBreaker::new("openai");
    let share = fleet.share(&breaker, SharedBreaker::default()).unwrap();
    let lock = fleet.lock("gpu").max_concurrent(2).build().unwrap();
    let limit = fleet.rate_limit("api").quota("calls", Quota::per_second(5));
    let limit = limit.build().unwrap();
    let _guard = lock.acquire("job-1").await.unwrap();
    breaker.force_open();

    let snapshot = registry.snapshot().fleets;
    let [seen] = &snapshot[..] else {
        panic!("{snapshot:#?}")
    };
    assert!(seen.health.connected);
    let names: Vec<_> = seen.nodes.names.iter().map(|it| &**it).collect();
    assert_eq!(names, [fleet.node()]);
    assert_eq!(&*seen.circuit_breakers[0].name, "openai");
    assert_eq!(seen.circuit_breakers[0].state, breaker.state());
    let gpu = &seen.locks[0];
    assert_eq!((&*gpu.name, gpu.capacity, gpu.held_here), ("gpu", 2, 1));
    assert_eq!(&*seen.rate_limits[0].name, "api");

    // What ends is not shown any more.
    drop((share, limit));
    until("they are gone", || async {
        let seen = fleet.snapshot();
        seen.circuit_breakers.is_empty() && seen.rate_limits.is_empty()
    })
    .await;
    assert_eq!(fleet.snapshot().locks.len(), 1);
}

#[tokio::test]
async fn what_a_lock_of_a_fleet_reports_is_in_the_feed_once_whoever_registers_the_fleet_how_often()
{
    let registry = Registry::new();
    let fleet = Fleet::in_process();
    let lock = fleet.lock("gpu").build().unwrap();
    registry.add_fleet(&fleet);
    registry.add_fleet(&fleet);
    let _guard = lock.acquire("job-1").await.unwrap();
    let refused = lock.try_acquire("job-2").await;
    assert!(refused.is_err());
    let feed = registry.feed().recent();
    let busy = feed.iter().filter(|it| it.event.kind() == "busy");
    assert_eq!(busy.count(), 1, "{feed:#?}");
}

#[tokio::test]
async fn every_kind_of_event_is_told_when_a_server_goes_for_longer_than_a_lease_and_comes_back() {
    let Some(mut server) = Server::start(&[]).await else {
        return;
    };
    let registry = Registry::new();
    let observed = registry.clone();
    let fleet = Fleet::builder(server.url())
        .observer(move |name: &str, event: &Event| observed.feed().observe(name, event))
        .call_timeout(ms(500));
    let fleet = fleet.connect().await.unwrap();
    let breaker = CircuitBreaker::new("openai");
    let _share = fleet.share(&breaker, SharedBreaker::default()).unwrap();
    let lock = fleet.lock("gpu").lease(ms(400)).build().unwrap();
    let limit = fleet.rate_limit("api").quota("calls", Quota::per_second(5));
    let limit = limit.build().unwrap();
    let guard = lock.acquire("job-1").await.unwrap();
    let told = || {
        let feed = registry.feed().recent();
        let fleet_events = feed.iter().filter_map(|it| match &it.event {
            Event::Fleet(event) => Some(event.to_string()),
            _ => None,
        });
        fleet_events.collect::<Vec<_>>()
    };
    let kinds = || {
        let feed = registry.feed().recent();
        let kinds = feed.iter().filter(|it| it.event.pattern() == "fleet");
        kinds.map(|it| it.event.kind()).collect::<BTreeSet<_>>()
    };
    assert_eq!(kinds(), BTreeSet::from(["connected"]));

    server.kill();
    until("the lease is lost", || async {
        kinds().contains("lease_lost")
    })
    .await;
    assert!(guard.valid_for().is_some_and(|it| it.is_zero()));
    let text = told().join("\n");
    assert!(
        text.contains("`job-1` has lost a permit of `gpu`"),
        "{text}"
    );
    until("each part has found out", || async {
        let _ = limit.try_acquire(1).await;
        breaker.try_acquire().unwrap().success();
        let seen = fleet.snapshot();
        seen.locks[0].away_for.is_some()
            && seen.circuit_breakers[0].away_for.is_some()
            && seen.rate_limits[0].degraded_for.is_some()
    })
    .await;
    assert!(!fleet.snapshot().health.connected);
    let text = told().join("\n");
    for part in ["circuit breaker `openai`", "lock `gpu`", "rate limit `api`"] {
        let line = format!("the store of the {part} is away: ");
        assert!(text.contains(&line), "{text}");
    }

    server.restart().await;
    until("all are shared again", || async {
        breaker.try_acquire().unwrap().success();
        let _ = lock.try_acquire("job-2").await;
        let text = told().join("\n");
        ["circuit breaker `openai`", "lock `gpu`", "rate limit `api`"]
            .iter()
            .all(|part| text.contains(&format!("the store of the {part} is back")))
    })
    .await;
    until("the inbox stands again", || async {
        kinds().contains("messages_missed")
    })
    .await;
    assert_eq!(
        kinds(),
        BTreeSet::from([
            "connected",
            "disconnected",
            "lease_lost",
            "messages_missed",
            "store_away",
            "store_back"
        ])
    );
}

#[tokio::test]
async fn processes_know_of_one_another() {
    let Some(server) = Server::start(&[]).await else {
        return;
    };
    let connect = |node: &'static str| Fleet::builder(server.url()).node(node).connect();
    let a = connect("a").await.unwrap();
    until("it knows of itself", || async {
        a.snapshot().nodes.count == 1
    })
    .await;
    let b = connect("b").await.unwrap();
    until("it knows of both", || async {
        b.snapshot().nodes.count == 2
    })
    .await;
    let names = b.snapshot().nodes.names;
    let has = |node: &str| names.iter().any(|it| **it == *node);
    assert!(has(a.node()) && has(b.node()), "{names:?}");
}

/// What HTTP clients are told is not that it is busy.
#[cfg(feature = "http")]
#[tokio::test]
async fn a_refusal_for_want_of_the_store_is_a_503_that_says_so_and_opens_no_breaker_above() {
    use http_body_util::{BodyExt, Full};
    use tower::{Layer, ServiceExt, service_fn};

    let free = super::support::server::free_port();
    let fleet = Fleet::builder(format!("redis://127.0.0.1:{free}"));
    let fleet = fleet.connect_in_background().unwrap();
    let gpu = fleet.lock("gpu").timeout(ms(200)).build().unwrap();
    let breaker = CircuitBreaker::new("above");
    let inner = service_fn(|_: http::Request<Full<bytes::Bytes>>| async {
        Ok::<_, std::io::Error>(http::Response::new(Full::new(bytes::Bytes::new())))
    });
    let locked = gpu.layer().layer(inner);
    let service = breaker.http_layer().layer(locked);
    for _ in 0..20 {
        let request = http::Request::new(Full::default());
        let refused = service.clone().oneshot(request).await.unwrap_err();
        assert!(refused.is_rejection(), "{refused}");
    }
    assert_eq!(breaker.snapshot().totals.failures, 0);

    let inner = service_fn(|_: http::Request<Full<bytes::Bytes>>| async {
        Ok::<_, std::io::Error>(http::Response::new(Full::new(bytes::Bytes::new())))
    });
    let answering = gpu.layer().reject_with(tower_bulwark::http::problem);
    let response = answering
        .layer(inner)
        .oneshot(http::Request::new(Full::default()))
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    assert!(
        body.contains("what is needed for this request is not available"),
        "{body}"
    );
}
