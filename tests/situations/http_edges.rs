use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};
use tower_bulwark::http::*;
use tower_bulwark::{CircuitBreaker, CircuitState, RetryPolicy};
const SECOND: Duration = Duration::from_secs(1);
#[tokio::test(start_paused = true)]
async fn heads_only_close_the_circuit() {
    let breaker = CircuitBreaker::builder("b")
        .consecutive_failures(1)
        .recovery_timeout(SECOND)
        .build()
        .unwrap();
    breaker.try_acquire().unwrap().failure();
    advance(SECOND).await;
    for _ in 0..10 {
        let s = breaker
            .layer()
            .until_body_end()
            .layer(service_fn(|(): ()| async {
                let frames = futures::stream::iter([
                    Ok::<_, std::io::Error>(Frame::data(Bytes::from("x"))),
                    Ok(Frame::data(Bytes::from("y"))),
                ]);
                Ok::<_, std::io::Error>(Response::new(StreamBody::new(frames)))
            }));
        drop(s.oneshot(()).await.unwrap());
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
}
#[tokio::test]
async fn route_lost_after_sent() {
    let io = tokio_test::io::Builder::new()
        .write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx")
        .read_error(std::io::ErrorKind::HostUnreachable.into())
        .build();
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .unwrap();
    tokio::spawn(connection);
    let post = Request::post("/")
        .header("host", "a")
        .body(Full::new(Bytes::from("x")))
        .unwrap();
    let e = send.send_request(post).await.unwrap_err();
    assert_eq!(ErrorKind::of(&e), ErrorKind::Broken, "{e:?}");
}
#[tokio::test]
async fn certificate_in_url() {
    let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let a = l.local_addr().unwrap();
    drop(l);
    let e = crate::common::reqwest_builder()
        .no_proxy()
        .build()
        .unwrap()
        .get(format!("http://{a}/certificates"))
        .send()
        .await
        .unwrap_err();
    assert_eq!(ErrorKind::of(&e), ErrorKind::Connect);
}
#[tokio::test(start_paused = true)]
async fn hint_jitter() {
    // ten clients told Retry-After: 1 should not all come back at the same instant
    let mut waits = std::collections::HashSet::new();
    for i in 0..10u64 {
        let p = RetryPolicy::builder()
            .max_retries(1)
            .seed(i)
            .build()
            .unwrap();
        let t = tokio::time::Instant::now();
        let _n = std::cell::Cell::new(0);
        let s = p.http_layer().layer(service_fn(|_: Request<()>| async {
            Ok::<_, std::io::Error>(
                Response::builder()
                    .status(503)
                    .header("retry-after", "1")
                    .body(())
                    .unwrap(),
            )
        }));
        let _ = s.oneshot(Request::get("/").body(()).unwrap()).await;
        waits.insert(t.elapsed());
    }
    assert!(waits.len() > 1, "{waits:?}");
}
