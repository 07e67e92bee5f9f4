//! Calls that end with the bodies of their responses: permits held, and calls judged, until then; bodies that
//! fall silent.

#![cfg(feature = "http")]

use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use static_assertions::assert_impl_all;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{advance, sleep, timeout};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::circuit_breaker::CircuitBreakerTotals;
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::http::{
    AsHead, BodyError, BreakerGuard, GuardedBody, IdleTimeoutBody, PermitGuard, TimeoutBody,
};
use tower_bulwark::observe::Feed;
use tower_bulwark::{
    CircuitBreaker, CircuitState, Error, Rejection, ResourceLock, RetryPolicy, TimeoutPhase,
    Timeouts, Verdict,
};

const SECOND: Duration = Duration::from_secs(1);

assert_impl_all!(TimeoutBody<Full<Bytes>>: Send, Sync, Unpin);
assert_impl_all!(GuardedBody<Full<Bytes>, BreakerGuard<AsHead>>: Send, Sync, Unpin);
assert_impl_all!(GuardedBody<Full<Bytes>, PermitGuard>: Send, Sync, Unpin);

// ---- Bodies that do as they are told --------------------------------------------------------------------

type Frames = UnboundedReceiver<Result<Frame<Bytes>, io::Error>>;
type Remote = UnboundedSender<Result<Frame<Bytes>, io::Error>>;

/// A body whose frames are sent by hand.
fn remote() -> (Remote, StreamBody<Frames>) {
    let (send, receive) = mpsc::unbounded();
    (send, StreamBody::new(receive))
}

fn data(words: &'static str) -> Result<Frame<Bytes>, io::Error> {
    Ok(Frame::data(Bytes::from_static(words.as_bytes())))
}

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static(name),
        http::HeaderValue::from_static(value),
    )])
}

/// Answers with this status and body, once.
fn answers<B: Send + 'static>(
    status: u16,
    body: B,
) -> impl Service<
    (),
    Response = Response<B>,
    Error = io::Error,
    Future = impl Future<Output = Result<Response<B>, io::Error>>,
> + Clone {
    let body = Arc::new(Mutex::new(Some(body)));
    service_fn(move |()| {
        let body = body.lock().unwrap().take().unwrap();
        let response = Response::builder().status(status).body(body);
        ready(Ok(response.unwrap()))
    })
}

fn is_bad<B>(response: &Response<B>) -> bool {
    response.status().is_server_error()
}

fn totals(breaker: &CircuitBreaker) -> (u64, u64, u64) {
    let CircuitBreakerTotals {
        successes,
        failures,
        cancelled,
        ..
    } = breaker.snapshot().totals;
    (successes, failures, cancelled)
}

const NOTHING: (u64, u64, u64) = (0, 0, 0);
const SUCCESS: (u64, u64, u64) = (1, 0, 0);
const FAILURE: (u64, u64, u64) = (0, 1, 0);

struct Held {
    breaker: CircuitBreaker,
    lock: ResourceLock,
}

impl Held {
    fn new() -> Self {
        Self {
            breaker: CircuitBreaker::new("b"),
            lock: ResourceLock::new("l"),
        }
    }

    /// The response of a breaker and a lock that both hold on until the body has ended.
    async fn call<B>(
        &self,
        status: u16,
        body: B,
    ) -> GuardedBody<GuardedBody<B, PermitGuard>, BreakerGuard<AsHead>>
    where
        B: Body<Error: Into<BoxError>> + Send + 'static,
    {
        let service = ServiceBuilder::new()
            .layer(
                self.breaker
                    .layer()
                    .response_failure_if(is_bad)
                    .until_body_end(),
            )
            .layer(self.lock.layer().until_body_end())
            .service(answers(status, body));
        service.oneshot(()).await.unwrap().into_body()
    }

    fn check(&self, totals_now: (u64, u64, u64), in_use: usize) {
        assert_eq!(
            totals(&self.breaker),
            totals_now,
            "(successes, failures, cancelled)"
        );
        assert_eq!(self.lock.snapshot().in_use, in_use, "permits in use");
    }
}

/// Polls once, as a task that waits for nothing else.
type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

fn frame<B: Body + Unpin>(body: &mut B) -> Polled<B> {
    task::spawn(()).enter(|cx: &mut Context<'_>, _| Pin::new(body).poll_frame(cx))
}

// ---- The five endings -----------------------------------------------------------------------------------

#[tokio::test]
async fn a_stream_holds_until_its_last_frame_has_been_read() {
    let (held, (send, body)) = (Held::new(), remote());
    let mut body = held.call(200, body).await;
    held.check(NOTHING, 1);
    send.unbounded_send(data("one")).unwrap();
    assert_ready!(frame(&mut body)).unwrap().unwrap();
    assert!(frame(&mut body).is_pending());
    held.check(NOTHING, 1);
    drop(send);
    assert!(assert_ready!(frame(&mut body)).is_none());
    held.check(SUCCESS, 0);
    assert!(assert_ready!(frame(&mut body)).is_none());
    drop(body);
    held.check(SUCCESS, 0);
}

#[tokio::test]
async fn trailers_are_an_end() {
    let (held, (send, body)) = (Held::new(), remote());
    let mut body = held.call(200, body).await;
    send.unbounded_send(Ok(Frame::trailers(trailers("x-a", "1"))))
        .unwrap();
    assert_ready!(frame(&mut body)).unwrap().unwrap();
    held.check(SUCCESS, 0);
}

#[tokio::test]
async fn a_stream_that_dies_after_a_good_head_is_a_failure_in_the_words_of_its_error() {
    let (held, (send, body)) = (Held::new(), remote());
    let mut body = held.call(200, body).await;
    send.unbounded_send(data("one")).unwrap();
    send.unbounded_send(Err(io::Error::other("connection reset")))
        .unwrap();
    assert_ready!(frame(&mut body)).unwrap().unwrap();
    assert!(assert_ready!(frame(&mut body)).unwrap().is_err());
    held.check(FAILURE, 0);
    let words = held.breaker.snapshot().last_failure;
    assert_eq!(words.as_deref(), Some("connection reset"));
}

#[tokio::test]
async fn a_stream_that_nobody_wants_to_the_end_counts_as_its_head() {
    let (held, (send, body)) = (Held::new(), remote());
    let mut body = held.call(200, body).await;
    send.unbounded_send(data("one")).unwrap();
    assert_ready!(frame(&mut body)).unwrap().unwrap();
    drop(body);
    held.check(SUCCESS, 0);
}

#[tokio::test]
async fn a_body_that_says_it_has_ended_is_not_asked_again_and_has_ended() {
    let held = Held::new();
    let mut body = held.call(200, Full::new(Bytes::from("all of it"))).await;
    held.check(NOTHING, 1);
    assert_ready!(frame(&mut body)).unwrap().unwrap();
    held.check(SUCCESS, 0);
}

#[tokio::test]
async fn a_response_without_a_body_holds_nothing() {
    let held = Held::new();
    let _body = held.call(204, Empty::<Bytes>::new()).await;
    held.check(SUCCESS, 0);
}

#[tokio::test]
async fn a_head_that_is_a_failure_is_counted_at_once_and_its_body_still_has_its_permit() {
    let (held, (_send, body)) = (Held::new(), remote());
    let body = held.call(503, body).await;
    held.check(FAILURE, 1);
    drop(body);
    held.check(FAILURE, 0);
}

#[tokio::test]
async fn a_body_that_panics_is_a_failure() {
    let held = Held::new();
    let stream = futures::stream::poll_fn(|_| -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        panic!("in the body")
    });
    let mut body = held.call(200, StreamBody::new(stream)).await;
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = frame(&mut body);
    }));
    assert!(panicked.is_err());
    drop(body);
    held.check(FAILURE, 0);
}

// ---- The breaker ----------------------------------------------------------------------------------------

#[tokio::test]
async fn the_end_is_judged_by_its_trailers() {
    let judge = |trailers: Option<&HeaderMap>| match trailers?.get("grpc-status")?.as_bytes() {
        b"0" => Some(Verdict::success()),
        _ => Some(Verdict::failure().because("a status in the trailers")),
    };
    let breaker = CircuitBreaker::new("b");
    for (status, expect) in [("0", (1, 0, 0)), ("14", (1, 1, 0))] {
        let (send, body) = remote();
        let service = breaker
            .layer()
            .until_body_end()
            .classify_end(judge)
            .layer(answers(200, body));
        send.unbounded_send(Ok(Frame::trailers(trailers("grpc-status", status))))
            .unwrap();
        drop(send);
        let response = service.oneshot(()).await.unwrap();
        response.into_body().collect().await.unwrap();
        assert_eq!(totals(&breaker), expect);
    }
    let words = breaker.snapshot().last_failure;
    assert_eq!(words.as_deref(), Some("a status in the trailers"));
}

#[tokio::test]
async fn what_the_head_left_open_a_broken_body_decides() {
    let breaker = CircuitBreaker::new("b");
    let call = async |end: Option<io::Error>| {
        let (send, body) = remote();
        let service = breaker
            .layer()
            .classify_with(|_: Result<&Response<StreamBody<Frames>>, &io::Error>| {
                Verdict::ignored()
            })
            .until_body_end()
            .layer(answers(404, body));
        if let Some(error) = end {
            send.unbounded_send(Err(error)).unwrap();
        }
        drop(send);
        let _ = service
            .oneshot(())
            .await
            .unwrap()
            .into_body()
            .collect()
            .await;
    };
    call(None).await;
    assert_eq!(totals(&breaker), NOTHING);
    assert_eq!(breaker.snapshot().totals.ignored, 1);
    call(Some(io::Error::other("reset"))).await;
    assert_eq!(totals(&breaker), FAILURE);
}

#[tokio::test(start_paused = true)]
async fn a_long_stream_is_no_slow_call_and_a_late_head_is() {
    let breaker = CircuitBreaker::builder("b")
        .slow_call_rate(0.5, SECOND)
        .build()
        .unwrap();
    let call = async |head: Duration, rest: Duration| {
        let (send, body) = remote();
        let body = Arc::new(Mutex::new(Some(body)));
        let service = breaker
            .layer()
            .until_body_end()
            .layer(service_fn(move |()| {
                let body = body.lock().unwrap().take().unwrap();
                async move {
                    sleep(head).await;
                    Ok::<_, io::Error>(Response::new(body))
                }
            }));
        let response = service.oneshot(()).await.unwrap();
        sleep(rest).await;
        // Somebody looks, and calls that hang are counted then.
        let slow = breaker.snapshot().window_slow;
        assert!(head >= SECOND || slow == 0, "{slow} slow");
        drop(send);
        response.into_body().collect().await.unwrap();
        breaker.snapshot().totals.slow
    };
    assert_eq!(call(SECOND / 2, 60 * SECOND).await, 0);
    assert_eq!(call(SECOND, Duration::ZERO).await, 1);
    assert_eq!(call(2 * SECOND, 60 * SECOND).await, 2);
    assert_eq!(totals(&breaker).0, 3);
}

#[tokio::test(start_paused = true)]
async fn a_probe_keeps_its_place_until_its_body_has_ended() {
    let breaker = CircuitBreaker::builder("b")
        .consecutive_failures(1)
        .recovery_timeout(SECOND)
        .success_threshold(1)
        .build()
        .unwrap();
    breaker.try_acquire().unwrap().failure();
    advance(SECOND).await;
    let (send, body) = remote();
    let service = breaker.layer().until_body_end().layer(answers(200, body));
    let response = service.oneshot(()).await.unwrap();
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    assert!(breaker.try_acquire().is_err(), "its place is taken");
    drop(send);
    response.into_body().collect().await.unwrap();
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_an_attempt_timeout_cuts_off_is_a_failure() {
    let held = Held::new();
    let policy = RetryPolicy::builder()
        .max_retries(0)
        .attempt_timeout(SECOND)
        .build()
        .unwrap();
    let result = policy
        .run(|| async {
            let (_send, body) = remote();
            held.call(200, body).await.collect().await
        })
        .await;
    assert!(matches!(result, Err(Error::Exhausted(_))));
    held.check(FAILURE, 0);
}

// ---- Whose fault it is that a body breaks off -----------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_body_that_the_callers_own_deadline_cuts_off_counts_as_its_head_on_either_side_of_the_breaker()
 {
    let total = Timeouts::builder("t").total(SECOND).build().unwrap();
    for (timeouts, below) in [&until_deadline(), &total]
        .into_iter()
        .flat_map(|it| [(it, true), (it, false)])
    {
        let breaker = CircuitBreaker::new("b");
        let (send, body) = remote();
        send.unbounded_send(data("one")).unwrap();
        let deadline = timeouts.http_layer();
        let around = breaker.layer().until_body_end();
        let service = match below {
            true => ServiceBuilder::new()
                .layer(around)
                .layer(deadline)
                .service(answers(200, body))
                .map_response(|it| it.map(BodyExt::boxed_unsync))
                .boxed(),
            false => ServiceBuilder::new()
                .layer(deadline)
                .layer(around)
                .service(answers(200, body))
                .map_response(|it| it.map(BodyExt::boxed_unsync))
                .boxed(),
        };
        let read = async {
            let response = service.oneshot(()).await.unwrap();
            response.into_body().collect().await
        };
        let read = match timeouts.config().total {
            Some(_) => read.await,
            None => deadline::scope(Deadline::after(SECOND), read).await,
        };
        assert!(read.is_err());
        assert_eq!(totals(&breaker), SUCCESS, "below the breaker: {below}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_ran_out_while_nobody_was_reading_is_not_the_senders_fault() {
    for waits in [true, false] {
        let breaker = CircuitBreaker::new("b");
        // A client's timeout of the whole exchange, that is looked at when the body is polled.
        let timeout = sleep(SECOND);
        let stream = futures::stream::unfold(Box::pin(timeout), |mut timeout| async move {
            timeout.as_mut().await;
            let error = tokio::time::timeout(Duration::ZERO, pending::<()>()).await;
            let error: BoxError = error.unwrap_err().into();
            Some((Err::<Frame<Bytes>, _>(error), timeout))
        });
        let body = StreamBody::new(Box::pin(stream));
        let layer = breaker.layer().until_body_end();
        let service = layer.layer(answers(200, body));
        let mut body = service.oneshot(()).await.unwrap().into_body();
        if !waits {
            sleep(2 * SECOND).await;
        }
        assert!(body.frame().await.unwrap().is_err());
        let expected = if waits { FAILURE } else { SUCCESS };
        assert_eq!(totals(&breaker), expected, "somebody waits: {waits}");
    }
}

fn half_open(max_probes: u32, probe_timeout: Duration) -> CircuitBreaker {
    CircuitBreaker::builder("b")
        .consecutive_failures(1)
        .recovery_timeout(SECOND)
        .success_threshold(1)
        .max_probes(max_probes)
        .probe_timeout(probe_timeout)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_good_answer_is_long_or_unread_closes_the_circuit_when_its_lease_ends() {
    for read in [true, false] {
        let breaker = half_open(1, 5 * SECOND);
        breaker.try_acquire().unwrap().failure();
        advance(SECOND).await;
        let (send, body) = remote();
        let service = breaker.layer().until_body_end().layer(answers(200, body));
        let mut body = service.oneshot(()).await.unwrap().into_body();
        for _ in 0..10 {
            send.unbounded_send(data("one")).unwrap();
            advance(SECOND).await;
            if read {
                assert_ready!(frame(&mut body)).unwrap().unwrap();
            }
        }
        let next = breaker.try_acquire();
        assert_eq!(breaker.state(), CircuitState::Closed, "read: {read}");
        next.unwrap().success();
        send.unbounded_send(Err(io::Error::other("reset"))).unwrap();
        let _ = body.collect().await;
        assert_eq!(breaker.state(), CircuitState::Closed, "it is counted once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_without_an_answer_loses_its_lease_and_is_counted_once() {
    let breaker = CircuitBreaker::builder("b")
        .consecutive_failures(1)
        .recovery_timeout(SECOND)
        .success_threshold(2)
        .out_of(3)
        .max_probes(1)
        .probe_timeout(5 * SECOND)
        .build()
        .unwrap();
    breaker.try_acquire().unwrap().failure();
    advance(SECOND).await;
    let lost = breaker.try_acquire().unwrap();
    advance(5 * SECOND).await;
    let second = breaker.try_acquire().unwrap();
    lost.success();
    second.success();
    assert_eq!(breaker.state(), CircuitState::HalfOpen, "one of two");
    breaker.try_acquire().unwrap().success();
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn another_threshold_of_slow_calls_does_not_orphan_the_probes() {
    let breaker = half_open(1, 60 * SECOND);
    breaker.try_acquire().unwrap().failure();
    advance(SECOND).await;
    let probe = breaker.try_acquire().unwrap();
    let mut config = (*breaker.config()).clone();
    let other = CircuitBreaker::builder("other").slow_call_rate(0.5, SECOND);
    config.slow_calls = other.build().unwrap().config().slow_calls;
    breaker.update(config).unwrap();
    assert!(breaker.try_acquire().is_err(), "its place is taken");
    probe.success();
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_head_was_slow_is_a_slow_call_of_the_time_of_its_head() {
    let breaker = CircuitBreaker::builder("b")
        .consecutive_failures(3)
        .slow_call_rate(0.9, SECOND)
        .minimum_calls(100)
        .window(tower_bulwark::circuit_breaker::Window::LastTime(
            10 * SECOND,
        ))
        .build()
        .unwrap();
    let (send, body) = remote();
    let body = Arc::new(Mutex::new(Some(body)));
    let service = breaker
        .layer()
        .until_body_end()
        .layer(service_fn(move |()| {
            let body = body.lock().unwrap().take().unwrap();
            async move {
                sleep(2 * SECOND).await;
                Ok::<_, io::Error>(Response::new(body))
            }
        }));
    let mut body = service.oneshot(()).await.unwrap().into_body();
    assert_eq!(breaker.snapshot().window_slow, 1, "at its head");
    sleep(30 * SECOND).await;
    assert_eq!(
        breaker.snapshot().window_slow,
        0,
        "it streams, and is not slow any more"
    );
    send.unbounded_send(Err(io::Error::other("reset"))).unwrap();
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(
        breaker.snapshot().window_failures,
        1,
        "its break counts as well"
    );
    assert_eq!(breaker.snapshot().totals.slow, 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_uses_up_the_budget_of_its_task_still_meets_its_timeout() {
    // Ready things of tokio without end, and no frame: each poll uses the budget up.
    let busy = futures::stream::poll_fn(|cx| {
        loop {
            let mut step = std::pin::pin!(tokio::task::coop::consume_budget());
            if step.as_mut().poll(cx).is_pending() {
                return Poll::<Option<Result<Frame<Bytes>, io::Error>>>::Pending;
            }
        }
    });
    let mut body = IdleTimeoutBody::new(StreamBody::new(busy), SECOND);
    let clock = async {
        // Time goes on only if somebody lets it: the body is always ready to be polled again.
        loop {
            advance(SECOND / 10).await;
        }
    };
    let polls = std::sync::atomic::AtomicU32::new(0);
    let read = std::future::poll_fn(|cx| {
        let n = polls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert!(n < 10_000, "never cut");
        Pin::new(&mut body).poll_frame(cx)
    });
    let frame = tokio::select! {
        frame = read => frame,
        () = clock => unreachable!(),
    };
    assert!(matches!(frame, Some(Err(BodyError::Idle(_)))));
}

#[tokio::test]
async fn a_refusal_may_be_a_response_and_holds_nothing() {
    let (breaker, lock) = (CircuitBreaker::new("b"), ResourceLock::new("l"));
    breaker.force_open();
    let refuse = |rejection: Rejection| {
        Response::builder()
            .status(StatusCode::SERVICE_UNAVAILABLE)
            .body(Full::new(Bytes::from(rejection.to_string())))
            .unwrap()
    };
    let answer = || answers(200, Full::new(Bytes::new()));
    let service = breaker
        .layer()
        .reject_with(refuse)
        .until_body_end()
        .layer(answer());
    let response = service.oneshot(()).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.body().guard().is_none());

    let _taken = lock.try_acquire("somebody").unwrap();
    let service = lock
        .layer()
        .reject_with(refuse)
        .until_body_end()
        .layer(answer());
    let response = deadline::scope(Deadline::after(Duration::ZERO), service.oneshot(()));
    let response = response.await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.body().guard().is_none());
}

// ---- The lock -------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_next_call_gets_the_permit_when_the_body_of_the_one_before_ends() {
    let lock = ResourceLock::new("l");
    let (send, body) = remote();
    let first = lock.layer().until_body_end().layer(answers(200, body));
    let first = first.oneshot(()).await.unwrap();
    let second = lock
        .layer()
        .until_body_end()
        .layer(answers(200, Empty::<Bytes>::new()));
    let mut second = task::spawn(second.oneshot(()));
    assert_pending!(second.poll());
    drop(send);
    first.into_body().collect().await.unwrap();
    assert!(second.is_woken());
    assert_ready!(second.poll()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_holds_its_permit_for_too_long_is_told_of_while_it_does() {
    let feed = Feed::default();
    let lock = ResourceLock::builder("l")
        .hold_threshold(5 * SECOND)
        .observer(feed.clone())
        .build()
        .unwrap();
    let (_send, body) = remote();
    let service = lock.layer().until_body_end().layer(answers(200, body));
    let mut body = service.oneshot(()).await.unwrap().into_body();
    let silent = timeout(6 * SECOND, body.frame()).await;
    assert!(silent.is_err());
    let told: Vec<String> = feed
        .recent()
        .iter()
        .map(|it| it.event.to_string())
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("has held it for 5"), "{told:?}");
}

// ---- Silence --------------------------------------------------------------------------------------------

fn silence(seconds: u32) -> Timeouts {
    let timeouts = Timeouts::builder("t").first_frame(seconds * SECOND);
    timeouts.idle(seconds * SECOND).build().unwrap()
}

fn until_deadline() -> Timeouts {
    let timeouts = Timeouts::builder("t").end_at_deadline(true);
    timeouts.build().unwrap()
}

fn phase(error: &BodyError) -> TimeoutPhase {
    match error {
        BodyError::TimedOut(late) => late.phase(),
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_falls_silent_ends_with_an_error_and_is_a_failure_of_the_breaker_around_it() {
    let (breaker, lock) = (CircuitBreaker::new("b"), ResourceLock::new("l"));
    let (send, body) = remote();
    let service = ServiceBuilder::new()
        .layer(breaker.layer().until_body_end())
        .layer(silence(10).http_layer())
        .layer(lock.layer().until_body_end())
        .service(answers(200, body));
    let mut body = service.oneshot(()).await.unwrap().into_body();
    // Each frame is in time, however many there are.
    for _ in 0..5 {
        let later = async {
            sleep(9 * SECOND).await;
            send.unbounded_send(data("x")).unwrap();
        };
        let (frame, ()) = futures::join!(body.frame(), later);
        frame.unwrap().unwrap();
    }
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(
        matches!(&error, BodyError::TimedOut(late) if late.limit() == Some(10 * SECOND)),
        "{error}"
    );
    assert_eq!(totals(&breaker), FAILURE);
    assert_eq!(lock.snapshot().in_use, 0, "the body inside is gone");
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_its_time_is_not_the_senders_silence() {
    let (send, body) = remote();
    let mut body = IdleTimeoutBody::new(body, SECOND);
    send.unbounded_send(data("one")).unwrap();
    body.frame().await.unwrap().unwrap();
    sleep(60 * SECOND).await;
    send.unbounded_send(data("two")).unwrap();
    body.frame().await.unwrap().unwrap();
    sleep(60 * SECOND).await;
    assert!(frame(&mut body).is_pending(), "its second begins now");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_past_the_deadline_for_a_body_that_is_silent_or_never_ends() {
    let (_send, body) = remote();
    let service = until_deadline().http_layer().layer(answers(200, body));
    let call = deadline::scope(Deadline::after(3 * SECOND), service.oneshot(()));
    let mut body = call.await.unwrap().into_body();
    // The body is read outside of the scope, and still knows.
    let error = timeout(4 * SECOND, body.frame())
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(phase(&error), TimeoutPhase::Deadline);

    let endless = futures::stream::repeat_with(|| data("x"));
    let layer = until_deadline().http_layer();
    let service = layer.layer(answers(200, StreamBody::new(endless)));
    let call = deadline::scope(Deadline::after(3 * SECOND), service.oneshot(()));
    let mut body = call.await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    advance(3 * SECOND).await;
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(phase(&error), TimeoutPhase::Deadline);

    let service = silence(60).http_layer().layer(answers(200, remote().1));
    let call = deadline::scope(Deadline::after(SECOND), service.oneshot(()));
    let mut body = call.await.unwrap().into_body();
    advance(2 * SECOND).await;
    assert!(
        body.frame().await.is_none(),
        "the deadline is for those who ask for it"
    );
}

#[tokio::test]
async fn the_error_of_the_body_itself_is_found_in_that_of_the_body_around_it() {
    let (send, body) = remote();
    send.unbounded_send(Err(io::Error::other("reset"))).unwrap();
    let error = IdleTimeoutBody::new(body, SECOND)
        .collect()
        .await
        .unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(
        source.downcast_ref::<io::Error>().unwrap().to_string(),
        "reset"
    );
}

// ---- A real server --------------------------------------------------------------------------------------

/// Streams what it is told to; the connection is cut where the stream has an error.
async fn server(bodies: Vec<StreamBody<Frames>>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bodies = Arc::new(Mutex::new(bodies.into_iter()));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let bodies = Arc::clone(&bodies);
            let answer = hyper::service::service_fn(move |_: Request<Incoming>| {
                let body = bodies.lock().unwrap().next().unwrap();
                let response = Response::builder()
                    .header("content-type", "text/event-stream")
                    .body(body);
                ready(Ok::<_, Infallible>(response.unwrap()))
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer);
            connections.spawn(async move {
                let _ = connection.await;
            });
        }
    });
    (address, tasks)
}

#[cfg(feature = "hyper")]
#[tokio::test]
async fn an_upload_that_fails_on_this_side_after_the_head_is_not_the_servers_fault() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_keep, answer) = remote();
    let answer = Arc::new(Mutex::new(Some(answer)));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let answer = answer.lock().unwrap().take().unwrap();
            async move {
                let mut upload = request.into_body();
                let _ = upload.frame().await;
                tokio::spawn(async move { while let Some(Ok(_)) = upload.frame().await {} });
                Ok::<_, Infallible>(Response::new(answer))
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    });

    let breaker = CircuitBreaker::new("b");
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let service = breaker.layer().until_body_end().layer(client);
    let (upload, body) = remote();
    upload.unbounded_send(data("one")).unwrap();
    let request = Request::post(format!("http://{address}/")).body(body);
    let response = service.oneshot(request.unwrap()).await.unwrap();
    upload
        .unbounded_send(Err(io::Error::other("the disk is gone")))
        .unwrap();
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(totals(&breaker), SUCCESS);
}

#[tokio::test]
async fn server_sent_events_hold_their_permit_until_the_last_one_and_are_judged_by_how_they_end() {
    let (sends, bodies): (Vec<_>, Vec<_>) = (0..3).map(|_| remote()).unzip();
    let (address, _server) = server(bodies).await;
    let held = Held::new();
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let service = ServiceBuilder::new()
        .layer(
            held.breaker
                .layer()
                .response_failure_if(is_bad)
                .until_body_end(),
        )
        .layer(held.lock.layer().until_body_end())
        .service(client);
    let mut sends = sends.into_iter();
    let call = async || {
        let request = Request::get(format!("http://{address}/"))
            .body(Empty::new())
            .unwrap();
        service.clone().oneshot(request).await.unwrap().into_body()
    };

    let send = sends.next().unwrap();
    let mut events = call().await;
    for _ in 0..3 {
        send.unbounded_send(data("data: x\n\n")).unwrap();
        assert_eq!(
            events.frame().await.unwrap().unwrap().into_data().unwrap(),
            "data: x\n\n"
        );
        held.check(NOTHING, 1);
    }
    drop(send);
    assert!(events.frame().await.is_none());
    held.check(SUCCESS, 0);

    let send = sends.next().unwrap();
    send.unbounded_send(data("data: x\n\n")).unwrap();
    let mut events = call().await;
    events.frame().await.unwrap().unwrap();
    drop(events);
    held.check((2, 0, 0), 0);

    let send = sends.next().unwrap();
    send.unbounded_send(data("data: x\n\n")).unwrap();
    let mut events = call().await;
    events.frame().await.unwrap().unwrap();
    send.unbounded_send(Err(io::Error::other("the server dies")))
        .unwrap();
    events.frame().await.unwrap().unwrap_err();
    held.check((2, 1, 0), 0);
}

#[cfg(feature = "reqwest")]
#[tokio::test]
async fn a_response_of_reqwest_keeps_its_url_its_head_and_its_permit() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (send, body) = remote();
    let (address, _server) = server(vec![body]).await;
    let held = Held::new();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .unwrap();
    let url = format!("http://{address}/events?a=b");
    let request = client.get(&url).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(held.breaker.layer().until_body_end())
        .layer(held.lock.layer().until_body_end())
        .service(client);
    let mut response: reqwest::Response = service.oneshot(request).await.unwrap();
    assert_eq!(response.url().as_str(), url);
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.remote_addr(), Some(address));
    held.check(NOTHING, 1);
    send.unbounded_send(data("data: x\n\n")).unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "data: x\n\n");
    held.check(NOTHING, 1);
    drop(send);
    assert_eq!(response.chunk().await.unwrap(), None);
    held.check(SUCCESS, 0);
}

#[cfg(feature = "tower-http")]
#[tokio::test]
async fn tower_http_classifiers_judge_heads_and_ends() {
    use tower_bulwark::http::TowerHttpClassify;
    use tower_http::classify::GrpcErrorsAsFailures;

    let classify = TowerHttpClassify::new(GrpcErrorsAsFailures::new());
    let breaker = CircuitBreaker::new("b");
    let layer = breaker
        .layer()
        .classify(classify.clone())
        .until_body_end()
        .classify_end(classify);
    for (status, expect) in [("0", (1, 0, 0)), ("14", (1, 1, 0))] {
        let (send, body) = remote();
        send.unbounded_send(Ok(Frame::trailers(trailers("grpc-status", status))))
            .unwrap();
        drop(send);
        let response = layer.layer(answers(200, body)).oneshot(()).await.unwrap();
        response.into_body().collect().await.unwrap();
        assert_eq!(totals(&breaker), expect);
    }
    let (_send, body) = remote();
    let in_the_head = answers(200, body).map_response(|mut response: Response<_>| {
        response.headers_mut().extend(trailers("grpc-status", "14"));
        response
    });
    let _response = layer.layer(in_the_head).oneshot(()).await.unwrap();
    assert_eq!(
        totals(&breaker),
        (1, 2, 0),
        "counted before the body has ended"
    );
    let hangs = service_fn(|()| pending::<Result<Response<Empty<Bytes>>, io::Error>>());
    drop(task::spawn(layer.layer(hangs).oneshot(())));
}
