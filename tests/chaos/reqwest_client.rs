//! A `ResilientClient`. A body that is a stream cannot be copied and is sent once.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use futures::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use reqwest::{Client, Request, Response};
use tower::util::{MapRequestLayer, MapResponseLayer};
use tower_bulwark::http::ResilientClient;

use crate::hyper_client::{breaker, lock, retry};
use crate::ledger::{End, Ledger};
use crate::script::{Call, Caller};
use crate::server::{Server, Speaks};

fn request(call: &Call) -> Request {
    let mut request = Request::new(call.method.clone(), "http://127.0.0.1/".parse().unwrap());
    let headers = request.headers_mut();
    headers.insert("x-id", call.id.into());
    if call.keyed {
        headers.insert("idempotency-key", call.id.into());
    }
    let in_pieces = call.is_too_large() || call.caller == Caller::BreaksOff;
    *request.body_mut() = match in_pieces {
        false => Some(call.body.clone().into()),
        true => {
            let frames = stream::iter(call.stream().map(|piece| piece.map(Frame::data)));
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
    let (breaker, lock, retry) = (breaker(&ledger), lock(), retry(false));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .retry(reqwest::retry::never())
        .build()
        .unwrap();
    let addresses = server.addresses();
    let [sent, came_back] = [&ledger; 2].map(Arc::clone);
    let client = ResilientClient::builder("api", client)
        .retry(retry.clone())
        .circuit_breaker(breaker.clone())
        .lock(lock.clone())
        .layer(MapRequestLayer::new(move |mut request: Request| {
            let to = addresses.to(sent.send(id(&request)));
            request.url_mut().set_port(Some(to.port())).unwrap();
            request
        }))
        .layer(MapResponseLayer::new(move |response: Response| {
            let is_overload = response.status() == 429;
            came_back.overloads.fetch_add(is_overload.into(), SeqCst);
            response
        }))
        .build()
        .unwrap();

    let ends = ledger
        .run(2_500, |call| {
            let client = client.clone();
            async move {
                match client.execute(request(&call)).await {
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
