//! Request bodies, dates and broken connections over real sockets.
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::quick;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::any;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};

/// Answers 503 with a date, and says at the next request how much too early it came.
async fn dated(
    State(state): State<Arc<(AtomicUsize, std::sync::Mutex<Vec<i64>>)>>,
) -> impl IntoResponse {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let calls = state.0.fetch_add(1, Ordering::SeqCst);
    if calls % 2 == 1 {
        let due = *state.1.lock().unwrap().last().unwrap();
        let early = i128::from(due) * 1_000 - now.as_millis() as i128;
        return (StatusCode::OK, [("x-early-ms", early.to_string())]).into_response();
    }
    let due = i64::try_from(now.as_secs()).unwrap() + 1 + i64::from(now.subsec_millis() > 900);
    state.1.lock().unwrap().push(due);
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [("retry-after", httpdate(due))],
    )
        .into_response()
}

/// Good for the year in which this runs.
fn httpdate(unix: i64) -> String {
    let out = std::process::Command::new("date")
        .args([
            "-u",
            "-d",
            &format!("@{unix}"),
            "+%a, %d %b %Y %H:%M:%S GMT",
        ])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_retry_is_never_before_the_date_that_was_named() {
    let state = Arc::new((AtomicUsize::new(0), std::sync::Mutex::default()));
    let router: Router = Router::new().route("/", any(dated)).with_state(state);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let service = ServiceBuilder::new()
        .layer(quick().build().unwrap().http_layer())
        .service(client);
    for pause in [0, 130, 370, 610] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let response = service
            .clone()
            .oneshot(http::Request::get(&url).body(Full::default()).unwrap())
            .await
            .unwrap();
        let early: i64 = response.headers()["x-early-ms"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(early <= 0, "{early} ms too early");
        response.into_body().collect().await.unwrap();
    }
    server.abort();
}

/// A connection whose network goes away once the request has left, as Linux reports it.
struct Unreachable {
    wrote: Arc<AtomicUsize>,
    kind: std::io::ErrorKind,
    done: bool,
}
impl AsyncRead for Unreachable {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.done {
            return Poll::Ready(Err(self.kind.into()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
impl AsyncWrite for Unreachable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        // The request leaves whole; its answer never comes, and after the last retransmission read() fails.
        self.wrote.fetch_add(1, Ordering::SeqCst);
        self.done = true;
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
struct Io(TokioIo<Unreachable>);
impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}
impl hyper::rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
impl Connection for Io {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// What Linux says of a connection whose route is lost, says nothing about what had been sent.
#[tokio::test]
async fn an_errno_of_an_established_connection_is_no_proof_that_a_post_was_not_sent() {
    use std::io::ErrorKind::{
        ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable, NotConnected,
    };
    for kind in [
        ConnectionRefused,
        HostUnreachable,
        NetworkDown,
        NetworkUnreachable,
        NotConnected,
    ] {
        for (method, expected) in [("POST", 1), ("GET", 4)] {
            let wrote = Arc::new(AtomicUsize::new(0));
            let written = Arc::clone(&wrote);
            let connector = tower::service_fn(move |_: http::Uri| {
                let wrote = Arc::clone(&written);
                std::future::ready(Ok::<_, std::io::Error>(Io(TokioIo::new(Unreachable {
                    wrote,
                    kind,
                    done: false,
                }))))
            });
            let client = Client::builder(TokioExecutor::new())
                .retry_canceled_requests(false)
                .build::<_, Full<Bytes>>(connector);
            let service = ServiceBuilder::new()
                .layer(quick().build().unwrap().http_layer())
                .service(client);
            let request = http::Request::builder()
                .method(method)
                .uri("http://upstream.invalid/")
                .body(Full::default())
                .unwrap();
            assert!(service.oneshot(request).await.is_err());
            let sent = wrote.load(Ordering::SeqCst);
            assert_eq!(sent, expected, "{method} with {kind:?}");
        }
    }
}

/// Of a client whose connector fails with `error`: what a breaker counts, and how often the connector was asked.
async fn no_connection(error: fn() -> std::io::Error, method: &str) -> (u64, u64, usize) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let connector = tower::service_fn(move |_: http::Uri| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Err::<Io, _>(error()))
    });
    let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
    let breaker = tower_bulwark::CircuitBreaker::new("api");
    let service = ServiceBuilder::new()
        .layer(quick().build().unwrap().http_layer())
        .layer(breaker.http_layer())
        .service(client);
    let request = http::Request::builder()
        .method(method)
        .uri("http://upstream.invalid/")
        .body(Full::default())
        .unwrap();
    assert!(service.oneshot(request).await.is_err());
    let totals = breaker.snapshot().totals;
    (
        totals.failures,
        totals.ignored,
        asked.load(Ordering::SeqCst),
    )
}

#[tokio::test]
async fn no_ports_no_files_and_no_permission_on_this_side_are_no_failures_of_the_service() {
    let own: [fn() -> std::io::Error; 4] = [
        || std::io::Error::from_raw_os_error(if cfg!(target_os = "linux") { 99 } else { 49 }),
        || std::io::Error::from_raw_os_error(13),
        || std::io::Error::from_raw_os_error(23),
        || std::io::Error::from_raw_os_error(24),
    ];
    for error in own {
        for method in ["GET", "POST"] {
            let counted = no_connection(error, method).await;
            assert_eq!(counted, (0, 4, 4), "{method}, {:?}", error());
        }
    }
    let refused = || std::io::ErrorKind::ConnectionRefused.into();
    assert_eq!(no_connection(refused, "POST").await, (4, 0, 4));
}

#[tokio::test]
async fn to_a_grpc_channel_want_on_this_side_is_no_failure_either() {
    use tower_bulwark::grpc::GrpcClassify;
    for (number, is_own) in [(23, true), (24, true), (13, true), (111, false)] {
        let connector = tower::service_fn(move |_: http::Uri| {
            std::future::ready(Err::<TokioIo<tokio::net::TcpStream>, _>(
                std::io::Error::from_raw_os_error(number),
            ))
        });
        let channel = tonic::transport::Endpoint::from_static("http://upstream.invalid")
            .connect_with_connector_lazy(connector);
        let request = http::Request::new(tonic::body::Body::empty());
        let error = channel.oneshot(request).await.unwrap_err();
        let verdict = GrpcClassify::new().classify_error(&error);
        assert_eq!(verdict.is_failure(), !is_own, "{number}: {error:?}");
    }
}

#[tokio::test]
async fn a_stream_refused_after_its_head_proves_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (got_head, has_head) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut stream = respond
            .send_response(http::Response::new(()), false)
            .unwrap();
        let reset = async {
            has_head.await.unwrap();
            stream.send_reset(h2::Reason::REFUSED_STREAM);
        };
        let (_, ()) = tokio::join!(connection.accept(), reset);
    });
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Full<Bytes>>();
    let request = http::Request::post(format!("http://{address}/")).body(Full::default());
    let response = client.request(request.unwrap()).await.unwrap();
    got_head.send(()).unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    let kind = tower_bulwark::http::ErrorKind::of(&error);
    assert_eq!(kind, tower_bulwark::http::ErrorKind::Broken, "{error:?}");
    server.abort();
}

#[tokio::test]
async fn a_buffer_says_whether_its_worker_or_its_service_is_gone() {
    use tower::buffer::Buffer;
    use tower_bulwark::http::ErrorKind;

    let (buffer, worker) = Buffer::pair(
        tower::service_fn(|(): ()| async { Ok::<_, tower::BoxError>(()) }),
        4,
    );
    drop(worker);
    let gone = buffer.oneshot(()).await.unwrap_err();
    assert_eq!(ErrorKind::of(&*gone), ErrorKind::Local);

    /// Never ready: it fails.
    struct Broken;
    impl tower::Service<()> for Broken {
        type Response = ();
        type Error = std::io::Error;
        type Future = std::future::Ready<Result<(), std::io::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
            Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            unreachable!("it is never ready")
        }
    }
    let not_ready = Buffer::new(Broken, 4).oneshot(()).await.unwrap_err();
    assert_eq!(
        ErrorKind::of(&*not_ready),
        ErrorKind::Connect,
        "{not_ready:?}"
    );
}
