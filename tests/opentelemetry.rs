//! What OpenTelemetry is given: a span for each call, a child of it for each attempt, the names of its conventions.

#[path = "../examples/support/spans.rs"]
mod spans;

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use opentelemetry::trace::{SpanId, SpanKind, Status, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use spans::{Attempt, AttemptSpans, call_span, record_call};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::http::ResilientClient;
use tower_bulwark::{Backoff, CircuitBreaker, Jitter, ResourceLock, RetryPolicy};
use tracing::Instrument;
use tracing_subscriber::prelude::*;

/// What is looked at of a span that has ended.
#[derive(Debug)]
struct Seen {
    name: String,
    id: SpanId,
    parent: SpanId,
    kind: SpanKind,
    is_error: bool,
    attributes: BTreeMap<String, String>,
}

impl Seen {
    fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }
}

/// The spans that end while this runs. One at a time: what a subscriber of one thread is not asked for, others cache.
fn spans_of(traffic: impl Future<Output = ()>) -> Vec<Seen> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let targets = tracing_subscriber::filter::Targets::new()
        .with_target("tower_bulwark", tracing::Level::TRACE)
        .with_target("opentelemetry", tracing::Level::TRACE);
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(targets));
    let default = tracing::subscriber::set_default(subscriber);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(traffic);
    drop(default);
    let ended = exporter.get_finished_spans().unwrap();
    let seen = ended.into_iter().map(|span| Seen {
        name: span.name.to_string(),
        id: span.span_context.span_id(),
        parent: span.parent_span_id,
        kind: span.span_kind,
        is_error: matches!(span.status, Status::Error { .. }),
        attributes: span
            .attributes
            .iter()
            .map(|it| (it.key.to_string(), it.value.to_string()))
            .collect(),
    });
    seen.collect()
}

fn policy() -> RetryPolicy {
    let policy = RetryPolicy::builder().backoff(Backoff::fixed(Duration::from_millis(1)));
    policy.jitter(Jitter::None).build().unwrap()
}

/// The span of the call, and those of its attempts in their order.
fn call_and_attempts(spans: &[Seen]) -> (&Seen, Vec<&Seen>) {
    let call = spans.iter().find(|it| it.parent == SpanId::INVALID);
    let call = call.expect("a span of the call");
    let attempts = spans.iter().filter(|it| it.parent == call.id).collect();
    (call, attempts)
}

const RESENDS: &str = "http.request.resend_count";

fn of_each<'a>(attempts: &[&'a Seen], key: &str) -> Vec<Option<&'a str>> {
    attempts.iter().map(|it| it.attribute(key)).collect()
}

#[test]
fn an_attempt_of_a_stack_is_a_client_span_below_its_call_with_its_number_from_the_second_on() {
    let spans = spans_of(async {
        let requests = Arc::new(AtomicU32::new(0));
        let server = service_fn(move |_: Request<&'static str>| {
            let mut response = Response::new(());
            if requests.fetch_add(1, Ordering::Relaxed) < 2 {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            ready(Ok::<_, std::io::Error>(response))
        });
        let service = ServiceBuilder::new()
            .layer(policy().http_layer().before_attempt(Attempt::set))
            .layer(CircuitBreaker::new("api").http_layer())
            .layer(ResourceLock::new("api").layer())
            .layer_fn(AttemptSpans)
            .service(server);
        let span = call_span("list orders");
        let request = Request::get("http://orders.test/").body("").unwrap();
        let result = service.oneshot(request).instrument(span.clone()).await;
        record_call(&span, &result);
    });
    let (call, attempts) = call_and_attempts(&spans);
    assert_eq!((&*call.name, call.is_error), ("list orders", false));
    assert_eq!(call.attribute("error.type"), None);
    assert_eq!(of_each(&attempts, RESENDS), [None, Some("1"), Some("2")]);
    let failed = Some("503");
    assert_eq!(of_each(&attempts, "error.type"), [failed, failed, None]);
    let addresses = of_each(&attempts, "server.address");
    assert_eq!(addresses, [Some("orders.test"); 3]);
    let errors: Vec<_> = attempts.iter().map(|it| it.is_error).collect();
    assert_eq!(errors, [true, true, false]);
    assert!(
        attempts
            .iter()
            .all(|it| it.kind == SpanKind::Client && it.name == "GET")
    );
}

#[test]
fn a_refused_call_has_the_code_of_its_refusal_as_error_type_and_no_attempt() {
    let spans = spans_of(async {
        let breaker = CircuitBreaker::new("api");
        breaker.force_open();
        let server = service_fn(|_: Request<()>| ready(Ok::<_, std::io::Error>(Response::new(()))));
        let service = ServiceBuilder::new()
            .layer(breaker.http_layer())
            .layer_fn(AttemptSpans)
            .service(server);
        let span = call_span("list orders");
        let result = service
            .oneshot(Request::new(()))
            .instrument(span.clone())
            .await;
        record_call(&span, &result);
    });
    let (call, attempts) = call_and_attempts(&spans);
    assert_eq!(call.attribute("error.type"), Some("circuit_open"));
    assert!(call.is_error && attempts.is_empty());
}

/// Fails twice, then is well.
async fn server(tasks: &mut JoinSet<()>) -> String {
    let requests = Arc::new(AtomicU32::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answer = move || {
        ready(match requests.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => StatusCode::BAD_GATEWAY,
            _ => StatusCode::OK,
        })
    };
    let router = axum::Router::new().route("/", axum::routing::any(answer));
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[test]
fn the_attempts_of_a_resilient_client_are_such_spans_by_themselves() {
    // An error says that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let spans = spans_of(async {
        let mut tasks = JoinSet::new();
        let url = server(&mut tasks).await;
        let client = ResilientClient::builder("api", reqwest::Client::new())
            .retry(policy())
            .build()
            .unwrap();
        let span = call_span("list orders");
        let request = client.get(&url).send();
        request.instrument(span.clone()).await.unwrap();
        let nowhere = client.get("http://127.0.0.1:1/").send();
        nowhere.instrument(span).await.unwrap_err();
    });
    let (_, attempts) = call_and_attempts(&spans);
    let (answered, nowhere) = attempts.split_at(3);
    assert_eq!(of_each(answered, RESENDS), [None, Some("1"), Some("2")]);
    let failed = Some("502");
    assert_eq!(of_each(answered, "error.type"), [failed, failed, None]);
    assert_eq!(nowhere.len(), 4);
    assert_eq!(nowhere[0].attribute(RESENDS), None);
    assert!(
        nowhere
            .iter()
            .all(|it| it.attribute("error.type") == Some("Connect"))
    );
    assert!(
        attempts
            .iter()
            .all(|it| it.kind == SpanKind::Client && it.name == "GET")
    );
    assert_eq!(attempts.iter().filter(|it| it.is_error).count(), 6);
}
