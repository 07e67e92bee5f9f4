//! Snapshot, metrics, dashboard and `explain` say the same of one stack.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;
use tokio::time::timeout;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::dashboard::Dashboard;
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::explain::Layers;
use tower_bulwark::fleet::{Fleet, SharedBreaker};
use tower_bulwark::observe::Metrics;
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{CircuitBreaker, Registry, RetryPolicy};

use super::{HOUR, MS, SECOND};

async fn document(registry: &Registry) -> Value {
    let router = Dashboard::builder(registry).build().unwrap().router();
    let request = Request::get("/api/snapshot").header("host", "localhost");
    let answer = router.oneshot(request.body(Body::empty()).unwrap()).await;
    let bytes = answer.unwrap().into_body().collect().await.unwrap();
    serde_json::from_slice(&bytes.to_bytes()).unwrap()
}

fn cell(document: &Value, id: &str, column: &str) -> Value {
    let tables = document["state"]["tables"].as_array().unwrap();
    let table = tables.iter().find(|it| it["id"] == id).unwrap();
    let columns = table["columns"].as_array().unwrap();
    let at = columns.iter().position(|it| it["title"] == column);
    table["rows"][0]["cells"][at.unwrap_or_else(|| panic!("{columns:?}"))].clone()
}

/// The value of a series of a fleet, by its metric and the end of its labels.
fn value(page: &str, metric: &str, outcome: &str) -> f64 {
    let label = format!("outcome=\"{outcome}\"");
    let mut lines = page.lines();
    let line = lines.find(|it| it.starts_with(metric) && it.contains(&label));
    let line = line.unwrap_or_else(|| panic!("{metric} {outcome}: {page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_a_fleet_has_the_same_numbers_wherever_one_looks() {
    let registry = Registry::new();
    let fleet = Fleet::in_process();
    registry.add_fleet(&fleet);
    let metrics = Metrics::of(&registry);
    let retry = RetryPolicy::builder().name("api").build_in(&registry);
    let retry = retry.unwrap();
    let breaker = CircuitBreaker::builder("api").build_in(&registry).unwrap();
    let _share = fleet.share(&breaker, SharedBreaker::default()).unwrap();
    let limit = fleet.rate_limit("api");
    let limit = limit.quota("calls", Quota::per(1, HOUR).burst(5));
    let limit = limit.max_wait(2 * SECOND).build().unwrap();
    let lock = fleet.lock("api").timeout(3 * SECOND).build().unwrap();
    let stack = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(breaker.layer())
        .layer(limit.layer())
        .layer(lock.layer())
        .service(service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }));
    let call = || stack.clone().oneshot(1);
    // What is given back is told in the background.
    let told = || tokio::time::sleep(150 * MS);

    for _ in 0..3 {
        call().await.unwrap();
        told().await;
    }
    let held = lock.acquire("a holder").await.unwrap();
    let late = deadline::scope(Deadline::after(SECOND), call()).await;
    assert!(late.is_err());
    assert!(timeout(SECOND, call()).await.is_err());
    drop(held);
    for _ in 0..2 {
        told().await;
        call().await.unwrap();
    }
    for _ in 0..2 {
        assert!(call().await.is_err());
    }
    told().await;

    let totals = breaker.snapshot().totals;
    assert_eq!(totals.successes, 5);
    assert_eq!(
        (totals.ignored, totals.cancelled, totals.failures),
        (3, 1, 0)
    );
    let [seen] = &registry.snapshot().fleets[..] else {
        panic!("one fleet")
    };
    let (by_limit, by_lock) = (&seen.rate_limits[0].totals, &seen.locks[0].stats);
    assert_eq!((by_limit.passed, by_limit.waited), (7, 0));
    assert_eq!((by_limit.refused, by_limit.abandoned), (2, 0));
    assert_eq!(seen.rate_limits[0].left, [0]);
    assert_eq!((by_lock.attempts, by_lock.acquisitions), (8, 6));
    assert_eq!((by_lock.timeouts, by_lock.abandoned), (1, 1));

    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || metrics.record());
    let page = recorder.handle().render();
    let limits = |outcome| value(&page, "bulwark_fleet_limit_calls_total", outcome);
    assert_eq!(
        ["passed", "waited", "refused", "abandoned"].map(limits),
        [7.0, 0.0, 2.0, 0.0]
    );
    let locks = |outcome| value(&page, "bulwark_fleet_lock_calls_total", outcome);
    assert_eq!(
        ["passed", "local", "refused", "abandoned"].map(locks),
        [6.0, 0.0, 1.0, 1.0]
    );

    let document = document(&registry).await;
    assert_eq!(cell(&document, "fleet_rate_limit", "Left"), "0");
    assert_eq!(cell(&document, "fleet_lock", "Held here"), 0.0);
    assert_eq!(cell(&document, "fleet_lock", "Waiting here"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_explained_of_a_stack_of_a_fleet_is_what_it_does_in_the_worst_case() {
    let fleet = Fleet::in_process();
    let retry = RetryPolicy::none();
    let breaker = CircuitBreaker::new("api");
    let limit = fleet.rate_limit("api");
    let limit = limit.quota("calls", Quota::per(1, HOUR).burst(5));
    let limit = limit.max_wait(2 * SECOND).build().unwrap();
    let lock = fleet.lock("gpu").max_concurrent(4).timeout(3 * SECOND);
    let lock = lock.build().unwrap();
    let (by_limit, by_lock) = (
        limit.layer::<Infallible>(),
        lock.layer::<Infallible>().until_body_end(),
    );
    let said = |layers: Layers| layers.service("client", Some(SECOND)).explain();
    let layers = Layers::new().layer(&retry).layer(&breaker);
    let good = said(layers.clone().layer(&by_limit).layer(&by_lock));
    assert_eq!(good.worst_case_calls(), 1);
    assert_eq!(good.worst_case_time(), Some(Duration::from_secs(6)));
    assert!(good.warnings().is_empty(), "{good}");
    let bad = said(layers.layer(&by_lock).layer(&by_limit));
    assert!(!bad.warnings().is_empty(), "{bad}");
}
