//! `Retry(Breaker(Contention(hyper-util's client)))`, whose request bodies are streams and whose calls end with
//! their bodies.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use futures::stream;
use http::Request;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::client::legacy::Client;
use tower::{ServiceBuilder, ServiceExt};
use tower_bulwark::circuit_breaker::{Recovery, Window};
use tower_bulwark::http::ReplayBody;
use tower_bulwark::{Backoff, CircuitBreaker, Jitter, ResourceLock, RetryPolicy};

use crate::ledger::{End, Ledger, MS};
use crate::network::{LossyConnector, MortalTasks};
use crate::script::{Call, Scripted};
use crate::server::{Server, Speaks};

pub(crate) type RequestBody = UnsyncBoxBody<Bytes, Scripted>;

pub(crate) fn breaker(ledger: &Arc<Ledger>) -> CircuitBreaker {
    let ledger = Arc::clone(ledger);
    CircuitBreaker::builder("api")
        .on_rejected(move |_| {
            ledger.refused.fetch_add(1, SeqCst);
        })
        .failure_rate(0.5, Window::calls(40))
        .minimum_calls(20)
        .recovery(Recovery::fixed(MS))
        .max_probes(10)
        .success_threshold(2)
        .build()
        .unwrap()
}

pub(crate) fn lock() -> ResourceLock {
    ResourceLock::builder("connections")
        .max_concurrent(12)
        .build()
        .unwrap()
}

pub(crate) fn retry(rejections: bool) -> RetryPolicy {
    RetryPolicy::builder()
        .backoff(Backoff::fixed(MS))
        .jitter(Jitter::None)
        .max_retries(4)
        .attempt_timeout(100 * MS)
        .retry_rejections(rejections)
        .build()
        .unwrap()
}

fn request(call: &Call) -> Request<RequestBody> {
    let pieces = call.stream().map(|piece| piece.map(Frame::data));
    let body = StreamBody::new(stream::iter(pieces)).boxed_unsync();
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri("http://127.0.0.1/")
        .header("x-id", call.id);
    if call.keyed {
        request = request.header("idempotency-key", format!("\"{}\"", call.id));
    }
    request.body(body).unwrap()
}

fn id(request: &Request<ReplayBody<RequestBody>>) -> u64 {
    request.headers()["x-id"].to_str().unwrap().parse().unwrap()
}

async fn survives(speaks: Speaks) {
    let ledger = Ledger::new();
    let server = Server::start(speaks, &ledger).await;
    let (breaker, lock) = (breaker(&ledger), lock());
    let retry = retry(matches!(speaks, Speaks::Http2));
    let connector = LossyConnector::default();
    let lost = Arc::clone(&connector.lost);
    let client: Client<_, ReplayBody<RequestBody>> = Client::builder(MortalTasks::default())
        .retry_canceled_requests(false)
        .http2_only(matches!(speaks, Speaks::Http2))
        .build(connector);
    let addresses = server.addresses();
    let [sent, came_back] = [&ledger; 2].map(Arc::clone);
    let service = ServiceBuilder::new()
        .layer(retry.http_layer().replaying())
        .layer(breaker.http_layer().until_body_end())
        .layer(lock.layer().until_body_end())
        .map_request(move |mut request: Request<ReplayBody<RequestBody>>| {
            let to = addresses.to(sent.send(id(&request)));
            *request.uri_mut() = format!("http://{to}/").parse().unwrap();
            request
        })
        .map_response(move |response: http::Response<_>| {
            let is_overload = response.status() == 429;
            came_back.overloads.fetch_add(is_overload.into(), SeqCst);
            response
        })
        .service(client);

    let ends = ledger
        .run(CALLS, |call| {
            let service = service.clone();
            async move {
                match service.oneshot(request(&call)).await {
                    Ok(response) => {
                        let (head, body) = response.into_parts();
                        End::of_answer(&call, head.status, &head.headers, body).await
                    }
                    Err(error) => End::of_error(&error),
                }
            }
        })
        .await;
    ledger.balance(&breaker, &lock);
    assert!(lost.load(SeqCst) > 0, "no route was lost");
    assert!(retry.snapshot().recovered > 20, "{:?}", retry.snapshot());
    // How many meet an open circuit depends on the machine; that many of the rest get through does not.
    assert!(ends[&End::Answer(200)] > 300, "{ends:?}");
    assert!(ends[&End::BrokenBody] > 0, "{ends:?}");
}

const CALLS: u64 = 2_500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hyper_over_http1_survives_the_script() {
    survives(Speaks::Http1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hyper_over_http2_survives_the_script() {
    survives(Speaks::Http2).await;
}
