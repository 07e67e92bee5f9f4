//! Servers that mean harm. Whatever they send, and for however long: a caller is done when its deadline is, and
//! nobody reads what nobody wants.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower::{ServiceBuilder, ServiceExt};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::http::BodyError;
use tower_bulwark::{
    Backoff, CircuitBreaker, Error, LastFailure, ResourceLock, RetryPolicy, StopReason,
    TimeoutPhase, Timeouts,
};

use crate::ledger::MS;

/// More than sockets, and a client that is in its right mind, keep of what nobody asks for.
const BUFFERS: u64 = 32 << 20;
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";
/// Who has not ended by then waits for ever.
const EVER: Duration = Duration::from_secs(20);
/// All attempts together.
const LIMIT: Duration = Duration::from_millis(300);
/// The caller's deadline, which also ends bodies: later than [`LIMIT`], so that heads always end by that.
const PATIENCE: Duration = Duration::from_millis(600);
const SILENCE: Duration = Duration::from_millis(50);

struct Hostile {
    uri: String,
    sent: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
    ended: tokio::sync::mpsc::UnboundedReceiver<()>,
}

/// The sending end of a connection, which counts.
struct Pipe {
    stream: TcpStream,
    sent: Arc<AtomicU64>,
}

impl Pipe {
    /// False when nobody is there any more.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = self.stream.write_all(bytes).await.is_ok();
        if sent {
            self.sent.fetch_add(bytes.len() as u64, SeqCst);
        }
        sent
    }

    /// Repeats itself until nobody is there any more.
    async fn forever(mut self, mut next: impl FnMut(u64) -> Vec<u8>, pause: Option<Duration>) {
        for nth in 0.. {
            if !self.send(&next(nth)).await {
                return;
            }
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
    }

    async fn until_the_other_end_goes(mut self) {
        let mut buffer = [0; 1024];
        while self.stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    }
}

impl Hostile {
    async fn start<F, Fut>(answer: F) -> Self
    where
        F: Fn(Pipe) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        let (sent, connections) = (Arc::default(), Arc::default());
        let (tell, ended) = tokio::sync::mpsc::unbounded_channel();
        let (total, count) = (Arc::clone(&sent), Arc::<AtomicU64>::clone(&connections));
        let accepting = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let answer = answer(Pipe {
                    stream,
                    sent: Arc::clone(&total),
                });
                let tell = tell.clone();
                tokio::spawn(async move {
                    answer.await;
                    let _ = tell.send(());
                });
            }
        });
        Self {
            uri,
            sent,
            connections,
            accepting,
            ended,
        }
    }
}

struct Caller {
    breaker: CircuitBreaker,
    lock: ResourceLock,
    retry: RetryPolicy,
    timeouts: Timeouts,
    server: Hostile,
}

type Outcome<T> = Result<T, Error<hyper_util::client::legacy::Error>>;

impl Caller {
    fn of(server: Hostile) -> Self {
        let retry = RetryPolicy::builder()
            .backoff(Backoff::fixed(MS))
            .total_timeout(LIMIT)
            .build()
            .unwrap();
        let timeouts = Timeouts::builder("t")
            .first_frame(SILENCE)
            .idle(SILENCE)
            .end_at_deadline(true)
            .build()
            .unwrap();
        let (breaker, lock) = (CircuitBreaker::new("b"), ResourceLock::new("l"));
        Self {
            breaker,
            lock,
            retry,
            timeouts,
            server,
        }
    }

    async fn call(
        &self,
    ) -> Outcome<Response<impl Body<Data = Bytes, Error = BodyError> + Unpin + use<>>> {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let service = ServiceBuilder::new()
            .layer(self.breaker.http_layer().until_body_end())
            .layer(self.timeouts.http_layer())
            .layer(self.retry.http_layer())
            .layer(self.lock.layer().until_body_end())
            .service(client);
        let request = Request::get(&self.server.uri)
            .body(Full::default())
            .unwrap();
        let call = deadline::scope(Deadline::after(PATIENCE), service.oneshot(request));
        let response = timeout(EVER, call)
            .await
            .expect("the caller waits past its deadline")?;
        Ok(response)
    }

    /// Reads to the end without keeping anything.
    async fn read<B: Body<Error = BodyError> + Unpin>(response: Response<B>) -> BodyError {
        let mut body = response.into_body();
        let read = async {
            while let Some(frame) = body.frame().await {
                if let Err(error) = frame {
                    return error;
                }
            }
            panic!("it has no end");
        };
        timeout(EVER, read)
            .await
            .expect("the caller reads past its deadline")
    }

    /// The server has noticed that nobody listens, nothing is held, and this is what it was to the breaker.
    async fn leave(mut self, failures: u64, cancelled: u64) {
        let held = self.lock.snapshot();
        assert_eq!((held.in_use, held.waiting), (0, 0), "{held:?}");
        let totals = self.breaker.snapshot().totals;
        assert_eq!(
            (totals.failures, totals.cancelled),
            (failures, cancelled),
            "{totals:?}"
        );
        for _ in 0..self.server.connections.load(SeqCst) {
            let ended = timeout(EVER, self.server.ended.recv()).await;
            ended.expect("somebody still reads");
        }
        self.server.accepting.abort();
    }
}

fn message(error: Outcome<()>) -> String {
    format!("{:?}", error.unwrap_err())
}

#[tokio::test]
async fn endless_headers_are_not_read_on_and_not_asked_for_again() {
    for line in [
        "x-{}: lorem ipsum dolor sit amet\r\n",
        "lorem ipsum dolor sit amet ",
    ] {
        let server = Hostile::start(move |mut pipe| async move {
            pipe.send(b"HTTP/1.1 200 OK\r\nx: ").await;
            let lines = move |nth: u64| {
                line.replace("{}", &nth.to_string())
                    .repeat(100)
                    .into_bytes()
            };
            pipe.forever(lines, None).await;
        });
        let caller = Caller::of(server.await);
        let error = caller.call().await.map(drop);
        assert!(error.is_err());
        assert!(
            caller.server.sent.load(SeqCst) < BUFFERS,
            "{}",
            caller.server.sent.load(SeqCst)
        );
        assert_eq!(
            caller.server.connections.load(SeqCst),
            1,
            "{}",
            message(error)
        );
        caller.leave(1, 0).await;
    }
}

#[tokio::test]
async fn answers_that_are_always_about_to_come_end_with_the_total_timeout() {
    let trickle = Hostile::start(|mut pipe: Pipe| async move {
        pipe.send(b"HTTP/1.1 200 OK\r\nx: ").await;
        pipe.forever(|_| b"x".to_vec(), Some(MS)).await;
    });
    let silence = Hostile::start(Pipe::until_the_other_end_goes);
    let hints = Hostile::start(|pipe: Pipe| {
        pipe.forever(|_| b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100), None)
    });
    for server in [trickle.await, silence.await, hints.await] {
        let caller = Caller::of(server);
        let gave_up = match caller.call().await.map(drop) {
            Err(Error::Exhausted(gave_up)) => gave_up,
            other => panic!("{other:?}"),
        };
        assert_eq!(gave_up.reason(), StopReason::Deadline);
        assert!(
            matches!(gave_up.last(), LastFailure::TimedOut(_)),
            "{gave_up}"
        );
        caller.leave(1, 0).await;
    }
}

#[tokio::test]
async fn a_body_without_an_end_ends_at_the_deadline() {
    let flood = Hostile::start(|mut pipe: Pipe| async move {
        pipe.send(HEAD).await;
        pipe.forever(|_| vec![b'x'; 16 << 10], None).await;
    });
    let trickle = Hostile::start(|mut pipe: Pipe| async move {
        pipe.send(HEAD).await;
        pipe.forever(|_| b"x".to_vec(), Some(MS)).await;
    });
    for server in [flood.await, trickle.await] {
        let caller = Caller::of(server);
        let response = caller.call().await.unwrap();
        assert_eq!(caller.lock.snapshot().in_use, 1);
        let error = Caller::read(response).await;
        assert!(
            matches!(&error, BodyError::TimedOut(late) if late.phase() == TimeoutPhase::Deadline),
            "{error}"
        );
        caller.leave(0, 0).await;
    }
}

#[tokio::test]
async fn a_body_that_falls_silent_ends_after_the_silence() {
    let server = Hostile::start(|mut pipe: Pipe| async move {
        pipe.send(HEAD).await;
        pipe.send(b"lorem").await;
        pipe.until_the_other_end_goes().await;
    });
    let caller = Caller::of(server.await);
    let error = Caller::read(caller.call().await.unwrap()).await;
    assert!(
        matches!(&error, BodyError::TimedOut(late) if late.limit() == Some(SILENCE)),
        "{error}"
    );
    caller.leave(1, 0).await;
}

#[tokio::test]
async fn a_body_that_nobody_reads_stays_with_the_server() {
    let (tell, mut full) = tokio::sync::mpsc::unbounded_channel();
    let server = Hostile::start(move |mut pipe: Pipe| {
        let tell = tell.clone();
        async move {
            pipe.send(HEAD).await;
            let more = vec![b'x'; 16 << 10];
            for _ in 0..2 * BUFFERS / (16 << 10) {
                // As much as it can, and then it cannot.
                if timeout(SILENCE, pipe.send(&more)).await.is_err() {
                    break;
                }
            }
            tell.send(()).unwrap();
            pipe.until_the_other_end_goes().await;
        }
    });
    let caller = Caller::of(server.await);
    let response = caller.call().await.unwrap();
    full.recv().await.unwrap();
    let sent = caller.server.sent.load(SeqCst);
    assert!(sent < BUFFERS, "{sent} bytes are somewhere");
    drop(response);
    caller.leave(0, 0).await;
}

#[tokio::test]
async fn a_wait_of_thirty_billion_years_is_not_begun() {
    for wait in ["1000000000000000000", "99999999999999999999999999", "86400"] {
        let server = Hostile::start(move |mut pipe: Pipe| async move {
            let head =
                format!("HTTP/1.1 503 No\r\nretry-after: {wait}\r\ncontent-length: 0\r\n\r\n");
            pipe.send(head.as_bytes()).await;
            pipe.until_the_other_end_goes().await;
        });
        let caller = Caller::of(server.await);
        let response = caller.call().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), caller.retry.snapshot().gave_up),
            (503, 1)
        );
        assert_eq!(caller.server.connections.load(SeqCst), 1);
        drop(response);
        caller.leave(1, 0).await;
    }
}
