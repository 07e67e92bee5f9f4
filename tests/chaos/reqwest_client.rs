//! `Retry(Breaker(Contention(reqwest)))`. A body that is a stream cannot be copied and is sent once.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use futures::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use reqwest::{Client, Request, Response};
use tower::{ServiceBuilder, ServiceExt};
use tower_bulwark::http::{HttpClassify, idempotency};

use crate::hyper_client::{breaker, lock, retry};
use crate::ledger::{End, Ledger};
use crate::script::Call;
use crate::server::{Server, Speaks};

fn request(call: &Call) -> Request {
    let mut request = Request::new(call.method.clone(), "http://127.0.0.1/".parse().unwrap());
    let headers = request.headers_mut();
    headers.insert("x-id", call.id.into());
    if call.keyed {
        headers.insert("idempotency-key", call.id.into());
    }
    *request.body_mut() = match call.is_too_large() {
        false => Some(call.body.clone().into()),
        true => {
            let pieces = call.pieces().into_iter();
            let frames = stream::iter(pieces.map(|it| Ok::<_, std::io::Error>(Frame::data(it))));
            Some(reqwest::Body::wrap(StreamBody::new(frames)))
        }
    };
    request
}

fn id(request: &Request) -> u64 {
    request.headers()["x-id"].to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reqwest_survives_the_script() {
    let ledger = Ledger::new();
    let server = Server::start(Speaks::Http1, &ledger).await;
    let (breaker, lock, retry) = (breaker(), lock(), retry(false));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .retry(reqwest::retry::never())
        .build()
        .unwrap();
    let addresses = server.addresses();
    let [came_back, admitted, sent] = [&ledger; 3].map(Arc::clone);
    let service = ServiceBuilder::new()
        .layer(
            retry
                .layer()
                .classify(HttpClassify::new())
                .copy_request(Request::try_clone)
                .idempotency_from(|r: &Request| idempotency(r.method(), r.headers()))
                .before_attempt(move |request: &mut Request, attempt| {
                    let to = addresses.of(id(request), attempt);
                    request.url_mut().set_port(Some(to.port())).unwrap();
                }),
        )
        .map_result(move |result| {
            came_back.came_back(&result, |response: &Response| response.status() == 429);
            result
        })
        .layer(breaker.http_layer().until_body_end())
        .map_request(move |request: Request| {
            admitted.admitted.fetch_add(1, SeqCst);
            request
        })
        .layer(lock.layer().until_body_end())
        .map_request(move |request: Request| {
            sent.sent(id(&request), addresses.route(request.url().port().unwrap()));
            request
        })
        .service(client);

    let ends = ledger
        .run(2_500, |call| {
            let service = service.clone();
            async move {
                match service.oneshot(request(&call)).await {
                    Ok(response) => {
                        let (status, headers) = (response.status(), response.headers().clone());
                        let body = reqwest::Body::from(response);
                        End::of_answer(&call, status, &headers, body).await
                    }
                    Err(error) => End::of_error(&error),
                }
            }
        })
        .await;
    ledger.balance(&breaker, &lock);
    assert!(retry.snapshot().recovered > 20, "{:?}", retry.snapshot());
    // How many meet an open circuit depends on the machine; that many of the rest get through does not.
    assert!(ends[&End::Answer(200)] > 300, "{ends:?}");
    assert!(ends[&End::BrokenBody] > 0, "{ends:?}");
}
