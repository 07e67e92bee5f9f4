//! The beginning of bad answers' bodies is looked at, and the bodies stay whole.
#![cfg(feature = "http")]
#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, ServiceExt, service_fn};
use tower_bulwark::http::{BodyStart, HttpClassify, PeekBodyLayer, PeekedBody};
use tower_bulwark::{RetryPolicy, Verdict};

type Frames = BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>;
type Stream = StreamBody<Frames>;

/// Peeks into one answer.
async fn peek(
    layer: PeekBodyLayer,
    status: StatusCode,
    frames: Frames,
) -> Response<PeekedBody<Stream>> {
    let frames = std::sync::Mutex::new(Some(frames));
    let service = service_fn(move |_: Request<()>| {
        let frames = frames.lock().unwrap().take().unwrap();
        let mut response = Response::new(StreamBody::new(frames));
        *response.status_mut() = status;
        std::future::ready(Ok::<_, Infallible>(response))
    });
    layer
        .layer(service)
        .oneshot(Request::new(()))
        .await
        .unwrap()
}

fn data(text: &'static str) -> Result<Frame<Bytes>, std::io::Error> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

fn start(response: &Response<PeekedBody<Stream>>) -> Option<&[u8]> {
    let start = response.extensions().get::<BodyStart>();
    start.map(|BodyStart(start)| &start[..])
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_looked_into_is_whole_with_its_trailers() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", "yes".parse().unwrap());
    let frames = [data("abc"), data("def"), Ok(Frame::trailers(trailers))];
    for max_bytes in [0, 1, 3, 4, 100] {
        let layer = PeekBodyLayer::new().max_bytes(max_bytes);
        let again = frames.iter().map(|frame| match frame {
            Ok(frame) if frame.is_data() => Ok(Frame::data(frame.data_ref().unwrap().clone())),
            Ok(frame) => Ok(Frame::trailers(frame.trailers_ref().unwrap().clone())),
            Err(_) => unreachable!(),
        });
        let again = stream::iter(again.collect::<Vec<_>>()).boxed();
        let response = peek(layer, StatusCode::BAD_GATEWAY, again).await;
        let expected: &[u8] = match max_bytes {
            0 => b"",
            1..=3 => b"abc",
            _ => b"abcdef",
        };
        assert_eq!(start(&response), Some(expected), "{max_bytes}");
        let whole = response.into_body().collect().await.unwrap();
        assert!(whole.trailers().is_some_and(|it| it["x-end"] == "yes"));
        assert_eq!(whole.to_bytes(), "abcdef");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_was_met_comes_in_its_place() {
    let frames = [data("half"), Err(std::io::Error::other("cut"))];
    let frames = stream::iter(frames).boxed();
    let response = peek(PeekBodyLayer::new(), StatusCode::BAD_GATEWAY, frames).await;
    assert_eq!(start(&response), Some(&b"half"[..]));
    let mut body = response.into_body();
    assert!(!body.is_end_stream());
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "half");
    assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "cut");
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_waited_for_no_longer_than_is_said() {
    let frames = stream::iter([data("half")])
        .chain(stream::pending())
        .boxed();
    let began = tokio::time::Instant::now();
    let layer = PeekBodyLayer::new().max_wait(Duration::from_millis(300));
    let response = peek(layer, StatusCode::BAD_GATEWAY, frames).await;
    assert_eq!(
        tokio::time::Instant::now() - began,
        Duration::from_millis(300)
    );
    assert_eq!(start(&response), Some(&b"half"[..]));
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "half");
    assert!(futures::poll!(body.frame()).is_pending());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_of_a_good_answer() {
    let polled = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&polled);
    let frames = stream::once(async move {
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
        data("good")
    });
    let response = peek(PeekBodyLayer::new(), StatusCode::OK, frames.boxed()).await;
    assert_eq!(start(&response), None);
    assert!(!polled.load(std::sync::atomic::Ordering::Relaxed));
    let whole = response.into_body().collect().await.unwrap();
    assert_eq!(whole.to_bytes(), "good");
}

/// Never more than is wanted and one frame; a body without end is no trap.
#[tokio::test(start_paused = true)]
async fn a_body_without_end_is_read_up_to_the_limit() {
    let frames = stream::repeat_with(|| data("0123456789")).boxed();
    let response = peek(
        PeekBodyLayer::new().max_bytes(95),
        StatusCode::BAD_GATEWAY,
        frames,
    )
    .await;
    assert_eq!(start(&response).unwrap().len(), 100);
    let body = response.body();
    assert_eq!(body.size_hint().lower(), 100);
    let _: Pin<Box<PeekedBody<Stream>>> = Box::pin(response.into_body());
}

#[cfg(feature = "reqwest")]
#[tokio::test]
async fn an_empty_account_is_not_asked_again_and_its_answer_can_still_be_read() {
    use axum::Router;
    use axum::routing::post;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tower_bulwark::http::{Attempts, ResilientClient};

    let _ = rustls::crypto::ring::default_provider().install_default();
    let calls = Arc::new(AtomicU32::new(0));
    let quota = {
        let calls = Arc::clone(&calls);
        move || async move {
            calls.fetch_add(1, Ordering::Relaxed);
            let error = r#"{"error": {"code": "insufficient_quota"}}"#;
            (StatusCode::TOO_MANY_REQUESTS, error)
        }
    };
    let busy = {
        let calls = Arc::clone(&calls);
        move || async move {
            calls.fetch_add(1, Ordering::Relaxed);
            (StatusCode::TOO_MANY_REQUESTS, "slow down")
        }
    };
    let app = Router::new()
        .route("/quota", post(quota))
        .route("/busy", post(busy));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });

    let classify = HttpClassify::new().by_body(|status, start| {
        let is_empty = String::from_utf8_lossy(start).contains("insufficient_quota");
        (status == 429 && is_empty).then(|| Verdict::success().do_not_retry())
    });
    let attempts_seen = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&attempts_seen);
    let policy = RetryPolicy::builder()
        .max_retries(2)
        .backoff(tower_bulwark::Backoff::fixed(Duration::from_millis(1)))
        .build()
        .unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let client = ResilientClient::builder("api", http)
        .retry(policy)
        .classify(classify)
        .peek_bodies(PeekBodyLayer::new())
        // A layer of one's own, which sees each attempt.
        .layer(tower::util::MapRequestLayer::new(
            move |attempt: reqwest::Request| {
                seen.fetch_add(1, Ordering::Relaxed);
                attempt
            },
        ))
        .build()
        .unwrap();

    let url = format!("http://{address}/quota");
    let response = client.post(&url).body("ask").send().await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.url().as_str(), url);
    assert_eq!(response.extensions().get(), Some(&Attempts(1)));
    assert!(
        response
            .text()
            .await
            .unwrap()
            .contains("insufficient_quota")
    );
    assert_eq!(calls.load(Ordering::Relaxed), 1);

    let url = format!("http://{address}/busy");
    let response = client.post(&url).body("ask").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "slow down");
    assert_eq!(calls.load(Ordering::Relaxed), 4);
    assert_eq!(attempts_seen.load(Ordering::Relaxed), 4);
}
