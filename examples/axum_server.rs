//! Server side: an axum router that is guarded in two ways. `/typed` turns refusals into responses with
//! `HandleErrorLayer`, `/plain` with `reject_with`, which needs none. axum applies a layer once for each
//! connection; the handles make it one breaker and one lock all the same.
//!
//! A refusal says in a header when to come back, and in its body why.
//!
//! `cargo run --example axum_server --features http`

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::ServiceBuilder;
use tower_bulwark::http::{ReceiveDeadlineLayer, deadline_exceeded, problem};
use tower_bulwark::{CircuitBreaker, Error as CallError, ResourceLock};

async fn handle_error(error: CallError<Infallible>) -> Response {
    match error.rejection() {
        Some(refused) => problem(refused),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_millis(200)).await;
    "done\n"
}

/// The handles are in the router's state too: to look at, and to command.
async fn health(State(breaker): State<CircuitBreaker>) -> String {
    format!("{}\n", breaker.state())
}

/// Who asks: a header, for the names in warnings and refusals.
fn tenant(request: &Request) -> String {
    let name = request
        .headers()
        .get("x-tenant")
        .and_then(|name| name.to_str().ok());
    name.unwrap_or("unknown").to_owned()
}

fn router(breaker: &CircuitBreaker, lock: &ResourceLock) -> Router {
    let typed = Router::new().route("/typed", get(slow)).layer(
        ServiceBuilder::new()
            .layer(HandleErrorLayer::new(handle_error))
            .layer(breaker.layer())
            .layer(lock.layer().holder(tenant)),
    );
    let plain = Router::new().route("/plain", get(slow)).layer(
        ServiceBuilder::new()
            // What the caller still waits for is the deadline of everything below.
            .layer(ReceiveDeadlineLayer::new().answer_with(deadline_exceeded))
            .layer(breaker.http_layer().reject_with(problem).until_body_end())
            .layer(
                lock.layer()
                    .holder(tenant)
                    .reject_with(problem)
                    .until_body_end(),
            ),
    );
    Router::new()
        .route("/health", get(health))
        .merge(typed)
        .merge(plain)
        .with_state(breaker.clone())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let breaker = CircuitBreaker::new("handlers");
    let lock = ResourceLock::builder("handlers")
        .max_concurrent(2)
        .timeout(Duration::ZERO)
        .build()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = router(&breaker, &lock);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let ask = |path: &'static str, tenant: usize| {
        let client = client.clone();
        async move {
            let request = http::Request::get(format!("http://{address}{path}"))
                .header("x-tenant", format!("tenant-{tenant}"))
                .body(Full::default())?;
            let response = client.request(request).await?;
            let retry_after = response.headers().get(header::RETRY_AFTER).cloned();
            Ok::<_, Box<dyn Error>>((response.status().as_u16(), retry_after))
        }
    };

    for path in ["/typed", "/plain"] {
        println!("{path}: six at once, two places");
        let answers = futures::future::try_join_all((0..6).map(|n| ask(path, n))).await?;
        let busy = answers.iter().filter(|(status, _)| *status == 429).count();
        println!("  {} were served, {busy} were refused with 429", 6 - busy);
        breaker.force_open();
        let (status, retry_after) = ask(path, 0).await?;
        println!("  with the breaker forced open: {status}, Retry-After {retry_after:?}");
        let (health, _) = ask("/health", 0).await?;
        breaker.reset();
        if (busy, status, health) != (4, 503, 200) || retry_after.is_none() {
            return Err(
                format!("not what was to be shown: {busy} busy, {status}, {health}").into(),
            );
        }
    }
    Ok(())
}
