//! A server whose handlers are behind a breaker and a lock, and callers that take what they get.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::{StreamExt, stream};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tower::ServiceBuilder;
use tower_bulwark::ResourceLock;
use tower_bulwark::http::problem_with_name;

use crate::hyper_client::breaker;
use crate::ledger::{End, Ledger, MS};
use crate::script::{Call, Fault, digest};

async fn handler(State(ledger): State<Arc<Ledger>>, request: Request) -> Response {
    let id = request.headers()["x-id"].to_str().unwrap().parse().unwrap();
    let nth = ledger.arrived(id);
    ledger.worked_on(id);
    let Ok(body) = request.into_body().collect().await else {
        return http::StatusCode::BAD_REQUEST.into_response();
    };
    let body = body.to_bytes();
    let half = body.slice(..body.len() / 2);
    let rest = body.slice(half.len()..);
    let end = match Fault::of(id, nth) {
        Fault::Status(status, ..) => {
            if status == 429 {
                ledger.overloads.fetch_add(1, SeqCst);
            }
            return http::StatusCode::from_u16(status).unwrap().into_response();
        }
        // As a panic, without a word on the screen.
        Fault::NoHead(_) | Fault::Kill => std::panic::resume_unwind(Box::new("meant")),
        Fault::HalfABody => Err(std::io::Error::other("as the script says")),
        Fault::Slow(delay) => {
            tokio::time::sleep(delay).await;
            Ok(rest)
        }
        Fault::None | Fault::Hang | Fault::GoAway => Ok(rest),
    };
    let frames = stream::iter([Ok(half), end]).then(async |frame| {
        if frame.is_err() {
            tokio::time::sleep(MS).await;
        }
        frame
    });
    Response::builder()
        .header("x-id", id)
        .header("x-digest", digest(&body))
        .body(Body::from_stream(frames))
        .unwrap()
}

fn is_problem(headers: &HeaderMap) -> bool {
    let json = headers.get(CONTENT_TYPE);
    json.is_some_and(|json| json == "application/problem+json")
}

/// Checks a refusal, and tells whose it is.
async fn refusal<B>(response: http::Response<B>) -> String
where
    B: http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug>,
{
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["status"], head.status.as_u16());
    let when = head
        .headers
        .get(RETRY_AFTER)
        .map(|when| when.to_str().unwrap().parse::<u64>());
    assert_eq!(
        problem["retry_after"].as_u64(),
        when.clone().map(Result::unwrap)
    );
    assert_ne!(when, Some(Ok(0)));
    let resource = problem["resource"].as_str().unwrap().to_owned();
    match (&*resource, head.status.as_u16()) {
        ("api", 503) | ("handlers", 429 | 503) => {}
        refused => panic!("{refused:?}"),
    }
    resource
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guarded_server_survives_the_script_and_its_callers() {
    let ledger = Ledger::new();
    let breaker = breaker(&ledger);
    let lock = ResourceLock::builder("handlers")
        .max_concurrent(4)
        .max_waiting(8)
        .timeout(5 * MS)
        .build()
        .unwrap();
    let guards = ServiceBuilder::new()
        .layer(
            breaker
                .http_layer()
                .reject_with(problem_with_name)
                .until_body_end(),
        )
        .layer(
            lock.layer()
                .holder(|request: &Request| {
                    request.headers()["x-tenant"].to_str().unwrap().to_owned()
                })
                .reject_with(problem_with_name)
                .until_body_end(),
        );
    let router = Router::new()
        .route("/", any(handler))
        .layer(guards)
        .with_state(Arc::clone(&ledger));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let server = tokio::spawn(server.into_future());

    let client: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new())
        .retry_canceled_requests(false)
        .build_http();
    let ends = ledger
        .run(CALLS, |call: Call| {
            let (client, ledger) = (client.clone(), Arc::clone(&ledger));
            async move {
                let request = http::Request::builder()
                    .method(call.method.clone())
                    .uri(format!("http://{address}/"))
                    .header("x-id", call.id)
                    .header("x-tenant", format!("tenant {}", call.id % 50))
                    .body(Full::new(call.body.clone()))
                    .unwrap();
                // No caller here tries anything again.
                let Ok(response) = client.request(request).await else {
                    return End::GaveUp;
                };
                if is_problem(response.headers()) {
                    let refused = refusal(response).await;
                    assert_eq!(ledger.times_worked_on(call.id), 0, "refused, and done");
                    return match &*refused {
                        "api" => End::CircuitOpen,
                        _ => End::Contended,
                    };
                }
                let (head, body) = response.into_parts();
                End::of_answer(&call, head.status, &head.headers, body).await
            }
        })
        .await;
    // The connections end, and with them what callers have left behind.
    drop(client);
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();

    let stats = lock.snapshot().stats;
    let at_the_lock = stats.timeouts + stats.rejected + stats.deadlocks;
    assert!(at_the_lock > 0, "{stats:?}");
    ledger.balance(&breaker, &lock);
    assert!(ends[&End::Answer(200)] > 300, "{ends:?}");
}

const CALLS: u64 = 2_500;
