//! A real axum server, which applies its layers once for each connection: state lives in the handles.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use futures::future::join_all;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::sync::{Barrier, Semaphore};
use tower::ServiceBuilder;
use tower_bulwark::{CircuitBreaker, CircuitState, Error, Rejection, ResourceLock};

async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Asks on a connection of its own.
async fn ask(address: SocketAddr) -> u16 {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let response = client
        .get(format!("http://{address}/").parse().unwrap())
        .await;
    response.unwrap().status().as_u16()
}

fn status(refused: &Rejection) -> StatusCode {
    match refused {
        Rejection::Contended(_) => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn handle_error(error: Error<Infallible>) -> StatusCode {
    error
        .rejection()
        .map_or(StatusCode::INTERNAL_SERVER_ERROR, |refused| {
            status(&refused)
        })
}

#[tokio::test]
async fn one_permit_is_one_permit_over_all_connections() {
    let lock = ResourceLock::builder("handlers")
        .timeout(Duration::ZERO)
        .build()
        .unwrap();
    let (inside, gate) = (Arc::new(Barrier::new(2)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (inside, gate) = (Arc::clone(&inside), Arc::clone(&gate));
        move || async move {
            inside.wait().await;
            gate.acquire().await.unwrap().forget();
            "done"
        }
    };
    let typed = Router::new().route("/", get(handler)).layer(
        ServiceBuilder::new()
            .layer(HandleErrorLayer::new(handle_error))
            .layer(lock.layer()),
    );
    let address = serve(typed).await;
    let first = tokio::spawn(ask(address));
    inside.wait().await;
    assert_eq!(join_all((0..4).map(|_| ask(address))).await, [429; 4]);
    gate.add_permits(1);
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(lock.snapshot().stats.peak_in_use, 1);
}

#[tokio::test]
async fn failures_on_different_connections_open_one_breaker_and_no_error_handler_is_needed() {
    let breaker = CircuitBreaker::builder("handlers")
        .consecutive_failures(3)
        .build()
        .unwrap();
    let guard = breaker
        .layer()
        .response_failure_if(|r: &axum::response::Response| r.status().is_server_error())
        .reject_with(|refused| axum::response::IntoResponse::into_response(status(&refused)));
    let fails = || async { StatusCode::INTERNAL_SERVER_ERROR };
    let address = serve(Router::new().route("/", get(fails)).layer(guard)).await;
    for _ in 0..3 {
        assert_eq!(ask(address).await, 500);
    }
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(ask(address).await, 503);
}

#[cfg(feature = "http")]
/// Two layers that answer refusals and hold on to the end of a body stand one upon the other as they are.
#[tokio::test]
async fn two_layers_that_hold_to_the_end_of_a_body_refuse_with_problems() {
    use axum::body::Body;
    use tower_bulwark::http::problem;

    let breaker = CircuitBreaker::new("handlers");
    let lock = ResourceLock::builder("handlers")
        .timeout(Duration::ZERO)
        .build()
        .unwrap();
    let handler = || async { Body::from("done") };
    let app = Router::new().route("/", get(handler)).layer(
        ServiceBuilder::new()
            .layer(breaker.http_layer().reject_with(problem).until_body_end())
            .layer(lock.layer().reject_with(problem).until_body_end()),
    );
    let address = serve(app).await;
    assert_eq!(ask(address).await, 200);
    let held = lock.acquire("other").await.unwrap();
    assert_eq!(ask(address).await, 429);
    drop(held);
    breaker.force_open();
    assert_eq!(ask(address).await, 503);
    breaker.reset();
    assert_eq!(ask(address).await, 200);
    // The refusal of the lock was no failure of the handler.
    assert_eq!(breaker.snapshot().totals.failures, 0);
}
