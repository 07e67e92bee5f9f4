//! Real servers on loopback.
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Router, extract::State};
use tokio::time::sleep;
use tower::ServiceBuilder;
use tower_bulwark::http::{ResilientClient, problem};
use tower_bulwark::{CircuitBreaker, CircuitState, ResourceLock};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    addr
}

fn client(breaker: &CircuitBreaker) -> ResilientClient {
    let http = crate::common::reqwest_builder()
        .no_proxy()
        .retry(reqwest::retry::never())
        .build()
        .unwrap();
    ResilientClient::builder("hook", http)
        .no_retry()
        .circuit_breaker(breaker.clone())
        .build()
        .unwrap()
}

async fn flaky(State(down): State<Arc<AtomicU32>>) -> (StatusCode, String) {
    match down.load(Ordering::SeqCst) {
        0 => (StatusCode::OK, "x".repeat(10_000)),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "down".into()),
    }
}

/// A notifier that looks at the status and nothing else. After an outage every answer is a 200.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_whose_bodies_nobody_reads_close_the_circuit_again() {
    let down = Arc::new(AtomicU32::new(1));
    let addr = serve(
        Router::new()
            .route("/hook", get(flaky))
            .with_state(Arc::clone(&down)),
    )
    .await;
    let breaker = CircuitBreaker::builder("hook")
        .recovery_timeout(50 * MS)
        .build()
        .unwrap();
    let client = client(&breaker);
    let notify = async || {
        let request = client.get(format!("http://{addr}/hook"));
        request.send().await.map(|response| response.status())
    };
    for _ in 0..5 {
        assert_eq!(notify().await.unwrap(), 503);
    }
    assert_eq!(breaker.state(), CircuitState::Open);
    down.store(0, Ordering::SeqCst);
    sleep(60 * MS).await;
    for _ in 0..100 {
        assert_eq!(notify().await.unwrap(), 200);
    }
    let snapshot = breaker.snapshot();
    assert_eq!(
        snapshot.state,
        CircuitState::Closed,
        "after a hundred answers of 200"
    );
}

/// Clients that hang up while they wait leave the queue; the one that stays is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_hang_up_in_the_queue_are_gone_from_it() {
    let gpu = ResourceLock::new("gpu");
    let served = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&served);
    let handler = move || {
        let count = Arc::clone(&count);
        async move {
            sleep(300 * MS).await;
            count.fetch_add(1, Ordering::SeqCst);
            "done"
        }
    };
    let router = Router::new()
        .route("/render", get(handler))
        .layer(ServiceBuilder::new().layer(gpu.layer::<Infallible>().reject_with(problem::<Body>)));
    let addr = serve(router).await;
    let http = crate::common::reqwest_builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()
        .unwrap();
    let url = format!("http://{addr}/render");
    let first = tokio::spawn(http.get(&url).send());
    sleep(50 * MS).await;
    let impatient: Vec<_> = (0..10)
        .map(|_| tokio::spawn(http.get(&url).timeout(100 * MS).send()))
        .collect();
    sleep(50 * MS).await;
    assert_eq!(gpu.snapshot().waiting, 10);
    let last = tokio::spawn(http.get(&url).send());
    for call in impatient {
        assert!(call.await.unwrap().is_err());
    }
    sleep(50 * MS).await;
    let snapshot = gpu.snapshot();
    assert_eq!(snapshot.waiting, 1);
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(last.await.unwrap().unwrap().status(), 200);
    assert_eq!(served.load(Ordering::SeqCst), 2);
    assert_eq!(gpu.snapshot().in_use, 0);
    assert!(gpu.snapshot().stats.wait.max < SEC);
}

/// A handler panics behind both layers: no permit is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_panic_lose_no_permits() {
    let gpu = ResourceLock::builder("gpu")
        .max_concurrent(2)
        .build()
        .unwrap();
    let breaker = CircuitBreaker::builder("render")
        .consecutive_failures(1_000)
        .build()
        .unwrap();
    async fn handler() -> &'static str {
        sleep(MS).await;
        if true {
            panic!("a bug in the shader");
        }
        "done"
    }
    let router = Router::new().route("/render", get(handler)).layer(
        ServiceBuilder::new()
            .layer(tower_http::catch_panic::CatchPanicLayer::new())
            .layer(
                breaker
                    .http_layer::<Infallible>()
                    .reject_with(problem::<Body>),
            )
            .layer(gpu.layer::<Infallible>().reject_with(problem::<Body>)),
    );
    let addr = serve(router).await;
    let http = crate::common::reqwest_builder().no_proxy().build().unwrap();
    for _ in 0..50 {
        let status = http
            .get(format!("http://{addr}/render"))
            .send()
            .await
            .unwrap()
            .status();
        assert_eq!(status, 500);
    }
    assert_eq!(gpu.snapshot().in_use, 0);
    assert_eq!(gpu.snapshot().stats.acquisitions, 50);
    assert_eq!(breaker.snapshot().totals.failures, 50);
}
