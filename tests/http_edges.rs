//! HTTP where it meets the layers: refusals in other forms, uploads that fail here, deadlines that are known twice.

#![cfg(feature = "reqwest")]

use ::http::{Request, Response};
use ::http_body::Frame;
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use std::sync::Arc;
use std::time::Duration;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::deadline::Deadline;
use tower_bulwark::http::*;
use tower_bulwark::{CircuitBreaker, Rejection, ResourceLock};
type Io = std::io::Error;
const S: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_refusal_as_a_reqwest_response_is_ignored() {
    let breaker = CircuitBreaker::new("b");
    let lock = ResourceLock::new("l");
    lock.close();
    let svc = ServiceBuilder::new()
        .layer(breaker.layer().classify(HttpClassify::new()))
        .layer(
            lock.layer::<Io>()
                .reject_with(|r| reqwest::Response::from(problem::<String>(r))),
        )
        .service(service_fn(|_: ()| async {
            Ok::<reqwest::Response, Io>(Response::new("").into())
        }));
    let res = svc.oneshot(()).await.unwrap();
    assert!(res.extensions().get::<Refused>().is_some());
    let t = breaker.snapshot().totals;
    assert_eq!(t.failures, 0, "{t:?}");
}
#[test]
fn the_request_body_is_not_the_server() {
    for e in [
        Io::other(ReplayError::TakenOver),
        Io::other(ReplayError::Source(Arc::new(Io::from(
            std::io::ErrorKind::BrokenPipe,
        )))),
        Io::other(ReplayError::TooLarge { max_bytes: 1 }),
    ] {
        println!(
            "{:?} {:?} grpc {:?}",
            e,
            ErrorKind::of(&e),
            tower_bulwark::grpc::GrpcClassify::new().classify_error(&e)
        );
    }
    assert_eq!(
        ErrorKind::of(&Io::other(ReplayError::TakenOver)),
        ErrorKind::Request
    );
}
#[test]
fn a_body_that_fell_silent_took_too_long() {
    assert_eq!(
        ErrorKind::of(&BodyError::DeadlineExceeded),
        ErrorKind::Local
    );
    assert_eq!(ErrorKind::of(&BodyError::Idle(S)), ErrorKind::TimedOut);
}
#[tokio::test(start_paused = true)]
async fn what_was_closed_for_good_is_not_to_be_asked_again() {
    let lock = ResourceLock::new("l");
    lock.close();
    let r = problem::<String>(Rejection::from(
        lock.acquire("x").await.map(drop).unwrap_err(),
    ));
    assert!(r.headers().get("retry-after").is_none(), "{r:?}");
}
#[tokio::test(start_paused = true)]
async fn what_can_never_be_served_is_not_to_be_asked_again() {
    let lock = ResourceLock::new("l");
    let r = problem::<String>(Rejection::from(
        lock.acquire("x").permits(2).await.map(drop).unwrap_err(),
    ));
    assert!(r.headers().get("retry-after").is_none(), "{r:?}");
}
#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_extensions_is_not_lengthened() {
    let svc = ServiceBuilder::new()
        .layer(ReceiveDeadlineLayer::new())
        .service(service_fn(|r: Request<()>| async move {
            Ok::<_, Io>(r.extensions().get::<Deadline>().unwrap().remaining())
        }));
    let req = Request::get("/")
        .header("x-envoy-expected-rq-timeout-ms", "10000")
        .extension(Deadline::after(S))
        .body(())
        .unwrap();
    assert_eq!(svc.oneshot(req).await.unwrap(), S);
}
#[tokio::test(start_paused = true)]
async fn an_upload_that_fails_here_is_no_failure_of_the_service() {
    let breaker = CircuitBreaker::new("b");
    let svc = ServiceBuilder::new()
        .layer(ReplayLayer::new())
        .layer(breaker.http_layer())
        .service(service_fn(|r: Request<ReplayBody<_>>| async move {
            let body = r.into_body().collect().await.map_err(Io::other)?;
            Ok::<_, Io>(Response::new(body.to_bytes().len().to_string()))
        }));
    let upload = StreamBody::new(futures::stream::iter([Err::<Frame<Bytes>, _>(Io::other(
        "the disk of the caller",
    ))]));
    let _ = svc
        .oneshot(Request::post("/").body(upload).unwrap())
        .await
        .unwrap_err();
    let t = breaker.snapshot().totals;
    assert_eq!(t.failures, 0, "{t:?}");
}

/// Answers each connection with these bytes, and keeps it open.
async fn answers(head: &'static str) -> (String, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 1_024];
        let read = socket.read(&mut request).await.unwrap();
        assert!(read > 0);
        socket.write_all(head.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
        drop(socket);
    });
    (format!("http://{address}/"), server)
}

#[tokio::test]
async fn a_response_that_has_no_body_ends_with_its_head() {
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    for (method, upgrade, head) in [
        (
            "HEAD",
            false,
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
        ),
        ("GET", false, "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "GET",
            false,
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
        ),
        ("CONNECT", false, "HTTP/1.1 200 OK\r\n\r\n"),
        (
            "GET",
            true,
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
        ),
    ] {
        let (url, server) = answers(head).await;
        let (breaker, lock) = (CircuitBreaker::new("b"), ResourceLock::new("l"));
        let client =
            Client::builder(TokioExecutor::new()).build_http::<http_body_util::Empty<Bytes>>();
        let service = ServiceBuilder::new()
            .layer(breaker.http_layer().until_body_end())
            .layer(lock.layer().until_body_end())
            .service(client);
        // The address of a CONNECT is that of the host alone.
        let url = match method {
            "CONNECT" => url.trim_start_matches("http://").trim_end_matches('/'),
            _ => &url,
        };
        let mut request = Request::builder().method(method).uri(url);
        if upgrade {
            request = request
                .header("connection", "upgrade")
                .header("upgrade", "echo");
        }
        let request = request.body(http_body_util::Empty::new()).unwrap();
        // Kept, and not read.
        let _response = service.oneshot(request).await.unwrap();
        assert_eq!(lock.snapshot().in_use, 0, "{method} {head}");
        assert_eq!(breaker.snapshot().totals.successes, 1, "{method} {head}");
        server.abort();
    }
}
