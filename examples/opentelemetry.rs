//! Traces for OpenTelemetry: a span for each call, a child of it for each attempt, and the crate's own events in them.
//!
//! The spans are kept in memory and printed. To send them to a collector, give the provider the exporter of
//! `opentelemetry-otlp` instead.
//!
//! `cargo run --example opentelemetry --features http`

#[path = "support/spans.rs"]
mod spans;

use std::convert::Infallible;
use std::error::Error;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use spans::{Attempt, AttemptSpans, call_span, record_call};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::{Backoff, CircuitBreaker, RetryPolicy};
use tracing::Instrument;
use tracing_subscriber::prelude::*;

/// Answers with these, one after the other.
fn upstream(
    statuses: &'static [u16],
) -> impl tower::Service<
    Request<&'static str>,
    Response = Response<()>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send {
    let requests = Arc::new(AtomicU32::new(0));
    service_fn(move |_: Request<&'static str>| {
        let nth = requests.fetch_add(1, Ordering::Relaxed) as usize;
        let mut response = Response::new(());
        let status = statuses.get(nth).copied().unwrap_or(200);
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
        ready(Ok::<_, Infallible>(response))
    })
}

fn print(spans: &[SpanData], parent: SpanId, depth: usize) {
    for span in spans.iter().filter(|it| it.parent_span_id == parent) {
        let shown = |key: &str| key.starts_with("http.") || key == "error.type";
        let attributes = span.attributes.iter();
        let attributes: Vec<_> = attributes
            .filter(|it| shown(it.key.as_str()))
            .map(|it| format!("{}={}", it.key, it.value))
            .collect();
        println!("{:depth$}{} {}", "", span.name, attributes.join(" "));
        for event in &span.events.events {
            println!("{:depth$}  - {}", "", event.name);
        }
        print(spans, span.span_context.span_id(), depth + 4);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let tracer = provider.tracer("example");
    tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(tracer))
        .init();

    let retry = RetryPolicy::builder()
        .name("orders")
        .backoff(Backoff::fixed(Duration::from_millis(20)))
        .build()?;
    let breaker = CircuitBreaker::builder("orders").build()?;
    for (name, statuses) in [
        ("list orders", &[503, 503][..]),
        ("count orders", &[503, 503, 503, 503][..]),
        ("find order", &[][..]),
    ] {
        let service = ServiceBuilder::new()
            .layer(retry.http_layer().before_attempt(Attempt::set))
            .layer(breaker.http_layer())
            .layer_fn(AttemptSpans)
            .service(upstream(statuses));
        let span = call_span(name);
        let request = Request::get("http://orders.test/").body("")?;
        let result = service.oneshot(request).instrument(span.clone()).await;
        record_call(&span, &result);
    }

    provider.force_flush()?;
    let spans = exporter.get_finished_spans()?;
    print(&spans, SpanId::INVALID, 0);
    let of_calls = spans
        .iter()
        .filter(|it| it.parent_span_id == SpanId::INVALID);
    assert_eq!(of_calls.count(), 3);
    Ok(())
}
