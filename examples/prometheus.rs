//! `/metrics` for Prometheus: every handle of a registry, with the buckets that the crate's own list proposes.
//!
//! Makes some traffic, asks itself for the page, prints a part of it and ends. With `--serve` it goes on until Ctrl-C, with
//! new traffic every second: `examples/grafana` has a dashboard and alert rules for it.
//!
//! `cargo run --example prometheus --features metrics -- --serve`

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::future::ready;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tower_bulwark::observe::{MetricKind, Metrics, RegistryMetrics};
use tower_bulwark::rate_limit::{Quota, RateLimit};
use tower_bulwark::{Backoff, CircuitBreaker, Registry, ResourceLock, RetryPolicy, Timeouts};

#[derive(Debug)]
struct Down;

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the orders are down")
    }
}

impl Error for Down {}

/// Without buckets an exporter makes summaries of histograms, which cannot be added up over instances. What has not been
/// recorded for ten minutes is left out: handles that were removed.
fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new().idle_timeout(
        metrics_util::MetricKindMask::ALL,
        Some(Duration::from_secs(600)),
    );
    for metric in Metrics::list() {
        if metric.kind == MetricKind::Histogram {
            let matcher = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(matcher, metric.buckets)?;
        }
    }
    builder.install_recorder()
}

/// The counts of the handles are recorded when somebody asks for them.
fn page(metrics: RegistryMetrics, prometheus: PrometheusHandle) -> Router {
    let render = move || {
        metrics.record();
        ready(prometheus.render())
    };
    Router::new().route("/metrics", get(render))
}

struct Orders {
    retry: RetryPolicy,
    breaker: CircuitBreaker,
    lock: ResourceLock,
    limit: RateLimit,
    timeouts: Timeouts,
}

impl Orders {
    fn new(registry: &Registry) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            retry: RetryPolicy::builder()
                .name("orders")
                .backoff(Backoff::fixed(Duration::from_millis(5)))
                .build_in(registry)?,
            breaker: CircuitBreaker::builder("orders")
                .recovery_timeout(Duration::from_millis(500))
                .build_in(registry)?,
            lock: ResourceLock::builder("orders")
                .max_concurrent(2)
                .build_in(registry)?,
            limit: RateLimit::builder("orders")
                .quota("requests", Quota::per_second(50))
                .build_in(registry)?,
            timeouts: Timeouts::builder("orders")
                .total(Duration::from_secs(2))
                .build_in(registry)?,
        })
    }

    /// The first attempt of every fourth call fails, and in every fourth of the rounds all of them do.
    async fn ask(&self, round: u32, nth: u32) {
        let attempts = Cell::new(0);
        let service = || async {
            attempts.set(attempts.get() + 1);
            tokio::time::sleep(Duration::from_millis(2)).await;
            let is_first = nth.is_multiple_of(4) && attempts.get() == 1;
            match is_first || round.is_multiple_of(4) {
                true => Err(Down),
                false => Ok(nth),
            }
        };
        let limited = || self.limit.run(service);
        let locked = || self.lock.run(u64::from(nth), limited);
        let guarded = || self.breaker.call(locked);
        let retried = || self.retry.run(guarded);
        let _ = self.timeouts.run(retried).await;
    }

    async fn round(&self, round: u32) {
        let calls = (1..=20).map(|nth| self.ask(round, nth));
        futures::future::join_all(calls).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let serve = std::env::args().any(|it| it == "--serve");
    let prometheus = install()?;
    let registry = Registry::global();
    // Once, and before the traffic: what comes from events is counted from here on.
    let metrics = Metrics::of(registry);
    let orders = Orders::new(registry)?;

    let address = if serve {
        "127.0.0.1:9464"
    } else {
        "127.0.0.1:0"
    };
    let listener = TcpListener::bind(address).await?;
    let url = format!("http://{}/metrics", listener.local_addr()?);
    let server = axum::serve(listener, page(metrics, prometheus));
    tokio::spawn(async move { server.await });

    for round in 1..=4 {
        orders.round(round).await;
    }
    if serve {
        println!("{url}, until Ctrl-C");
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        for round in 5.. {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                _ = every_second.tick() => orders.round(round).await,
            }
        }
    }
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let scraped = client.get(url.parse()?).await?.into_body().collect();
    let text = String::from_utf8(scraped.await?.to_bytes().into())?;
    let shown = |line: &&str| {
        let parts = ["calls_total{", "circuit_state{", "call_seconds_bucket{"];
        parts.iter().any(|it| line.contains(it))
    };
    text.lines().filter(shown).for_each(|it| println!("{it}"));
    assert!(text.contains("# TYPE bulwark_resource_hold_seconds histogram"));
    assert!(text.contains(r#"bulwark_circuit_state{name="orders",state="half_open"}"#));
    Ok(())
}
