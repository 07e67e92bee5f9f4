//! gRPC over real connections: a tonic client and server in one process, and an HTTP/2 server that refuses
//! streams.
#![cfg(feature = "tonic")]

/// Made from `examples/support/completion.proto`.
#[path = "../examples/support/completion.rs"]
#[allow(unreachable_pub, dead_code, reason = "generated")]
mod completion;

#[path = "support/goaway.rs"]
mod goaway;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use completion::completions_client::CompletionsClient;
use completion::completions_server::{Completions, CompletionsServer};
use completion::{CompleteReply, CompleteRequest};
use futures::FutureExt;
use goaway::GoesAway;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::grpc::{
    Codes, GrpcClassify, GrpcHedge, GrpcRetry, Resilient, ServiceConfig, deadline_exceeded, reject,
};
use tower_bulwark::http::{MarkedIdempotent, ReceiveDeadlineLayer};
use tower_bulwark::retry::RetryPolicyBuilder;
use tower_bulwark::{
    Backoff, CircuitBreaker, Error, Jitter, Outcome, Rejection, ResourceLock, RetryPolicy,
    RetrySafety, Verdict, deadline,
};

const SECOND: Duration = Duration::from_secs(1);

/// The metadata of a call, and how much time its deadline left.
type Seen = (MetadataMap, Option<Duration>);

/// Fails as its script says, and keeps what it was sent.
#[derive(Clone, Default)]
struct Model {
    failures: Arc<Mutex<VecDeque<Status>>>,
    calls: Arc<Mutex<Vec<Seen>>>,
}

#[tonic::async_trait]
impl Completions for Model {
    async fn complete(
        &self,
        request: Request<CompleteRequest>,
    ) -> Result<Response<CompleteReply>, Status> {
        let call = (request.metadata().clone(), deadline::remaining());
        self.calls.lock().unwrap().push(call);
        let failure = self.failures.lock().unwrap().pop_front();
        let text = request.into_inner().prompt;
        failure.map_or(Ok(Response::new(CompleteReply { text })), Err)
    }
}

impl Model {
    fn failing(failures: impl IntoIterator<Item = Status>) -> Self {
        Self {
            failures: Arc::new(Mutex::new(failures.into_iter().collect())),
            calls: Arc::default(),
        }
    }

    /// What the attempts so far said in this header.
    fn said(&self, header: &str) -> Vec<Option<String>> {
        let calls = self.calls.lock().unwrap();
        let value = |metadata: &MetadataMap| {
            let value = metadata.get(header)?;
            Some(value.to_str().unwrap().to_owned())
        };
        calls.iter().map(|(metadata, _)| value(metadata)).collect()
    }
}

/// Serves behind a deadline and a breaker, and connects.
async fn serve(model: &Model, breaker: &CircuitBreaker, tasks: &mut JoinSet<()>) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .layer(ReceiveDeadlineLayer::grpc())
        .layer(
            breaker
                .layer::<Infallible>()
                .classify(GrpcClassify::new())
                .reject_with(reject::<Body>),
        )
        .add_service(CompletionsServer::new(model.clone()))
        .serve_with_incoming(TcpIncoming::from(listener));
    tasks.spawn(async move { server.await.unwrap() });
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

fn pushing_back(code: Code, millis: &'static str) -> Status {
    let mut status = Status::new(code, "not now");
    let value = millis.parse().unwrap();
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", value);
    status
}

/// Retries that nobody lives to see, unless the server says otherwise.
fn config() -> ServiceConfig {
    let config = r#"{
        "methodConfig": [{
            "name": [{"service": "completion.v1.Completions"}],
            "timeout": "99s",
            "retryPolicy": {
                "maxAttempts": 3, "initialBackoff": "60s", "maxBackoff": "60s",
                "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]
            }
        }],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
    }"#;
    ServiceConfig::parse(config).unwrap()
}

fn hello() -> CompleteRequest {
    CompleteRequest {
        prompt: "hello".to_owned(),
    }
}

fn pushback_of(status: &Status) -> Option<i32> {
    let value = status.metadata().get("grpc-retry-pushback-ms")?;
    Some(value.to_str().unwrap().parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_is_deadline_exceeded_to_a_generated_client() {
    let layer = ReceiveDeadlineLayer::grpc()
        .at_most(SECOND)
        .answer_with(deadline_exceeded::<Body>);
    let hangs = service_fn(|_: http::Request<Body>| {
        std::future::pending::<Result<http::Response<Body>, Infallible>>()
    });
    let mut client = CompletionsClient::new(layer.layer(hangs));
    let status = client.complete(hello()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

#[tokio::test]
async fn a_resilient_channel_does_what_its_parts_say_and_nothing_else() {
    let model = Model::failing([Status::unavailable("loading")]);
    let (mut tasks, at_server) = (JoinSet::new(), CircuitBreaker::new("server"));
    let channel = serve(&model, &at_server, &mut tasks).await;

    // No parts: sent once, and the server's own words come out.
    let mut plain = CompletionsClient::new(Resilient::new(channel.clone()));
    let status = plain.complete(hello()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "loading")
    );
    assert_eq!(model.calls.lock().unwrap().len(), 1);

    // A policy, a breaker and a lock, in any order of the calls.
    let policy = RetryPolicy::builder()
        .backoff(Backoff::fixed(Duration::from_millis(1)))
        .build()
        .unwrap();
    let (breaker, slot) = (CircuitBreaker::new("model"), ResourceLock::new("slot"));
    let resilient = Resilient::new(channel)
        .lock(&slot)
        .retry(&policy)
        .breaker(&breaker);
    let mut client = CompletionsClient::new(resilient);
    *model.failures.lock().unwrap() = [
        Status::unavailable("loading"),
        Status::unavailable("loading"),
    ]
    .into();
    let reply = client.complete(hello()).await.unwrap();
    assert_eq!(reply.get_ref().text, "hello");
    assert_eq!(policy.snapshot().recovered, 1);
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.successes, totals.failures), (1, 2));
    assert_eq!((slot.snapshot().in_use, slot.snapshot().waiting), (0, 0));

    // A refusal is a status that keeps it; nothing is sent.
    let before = model.calls.lock().unwrap().len();
    breaker.force_open();
    let status = client.complete(hello()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(matches!(
        Rejection::find(&status),
        Some(Rejection::CircuitOpen(_))
    ));
    assert_eq!(model.calls.lock().unwrap().len(), before);
    breaker.reset();

    // Who waits for the permit and goes away leaves nothing behind.
    let held = slot.acquire("other").await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(20), client.complete(hello()));
    waits.await.unwrap_err();
    drop(held);
    assert_eq!((slot.snapshot().in_use, slot.snapshot().waiting), (0, 0));
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.successes, totals.failures), (0, 0));
}

/// The last attempt was answered by the server, and the next one refused: no attempt took too long.
#[tokio::test]
async fn a_call_whose_retry_meets_an_open_circuit_is_unavailable_and_says_when_to_come_back() {
    let model = Model::failing([Status::unavailable("loading")]);
    let (mut tasks, at_server) = (JoinSet::new(), CircuitBreaker::new("server"));
    let channel = serve(&model, &at_server, &mut tasks).await;
    let policy = RetryPolicy::builder()
        .backoff(Backoff::fixed(Duration::from_millis(1)))
        .build()
        .unwrap();
    let breaker = CircuitBreaker::builder("secret name")
        .consecutive_failures(1)
        .build()
        .unwrap();
    let resilient = Resilient::new(channel).retry(&policy).breaker(&breaker);
    let status = CompletionsClient::new(resilient)
        .complete(hello())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(pushback_of(&status).is_some_and(|millis| millis > 50_000));
    assert!(!status.message().contains("secret"), "{}", status.message());
    assert_eq!(model.calls.lock().unwrap().len(), 1);
    // It was sent, and failed: to a breaker around it this is no mere refusal.
    assert!(Rejection::find(&status).is_none());
}

/// A `google.rpc.Status` with a `RetryInfo` of so many seconds, as it goes over the wire.
fn retry_info(seconds: u8) -> Bytes {
    let url = b"type.googleapis.com/google.rpc.RetryInfo";
    let info = [0x0a, 2, 0x08, seconds];
    let field = |tag: u8, bytes: &[u8]| [&[tag, bytes.len() as u8], bytes].concat();
    let any = [field(0x0a, url), field(0x12, &info)].concat();
    field(0x1a, &any).into()
}

#[tokio::test]
async fn the_wait_in_the_details_of_a_status_is_a_floor_beneath_the_backoff() {
    let busy = |code| Status::with_details(code, "not now", retry_info(7));
    let model = Model::failing([
        busy(Code::Unavailable),
        busy(Code::InvalidArgument),
        busy(Code::Unavailable),
    ]);
    let (mut tasks, at_server) = (JoinSet::new(), CircuitBreaker::new("server"));
    let channel = serve(&model, &at_server, &mut tasks).await;
    let classify = GrpcClassify::new();

    let mut typed = CompletionsClient::new(channel.clone());
    let status = typed.complete(hello()).await.unwrap_err();
    let verdict = classify.classify_error(&status);
    assert_eq!(verdict.retry_delay(), Some(7 * SECOND));
    // What is not sent again needs no wait.
    let status = typed.complete(hello()).await.unwrap_err();
    assert_eq!(classify.classify_error(&status).retry_delay(), None);

    // Below the generated client it is in the head of a response.
    let waits = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&waits);
    let policy = RetryPolicy::builder()
        .backoff(Backoff::fixed(Duration::from_millis(1)))
        .delay_with(move |failed| {
            told.lock().unwrap().push(failed.delay);
            Duration::from_millis(1)
        })
        .build()
        .unwrap();
    let mut client = CompletionsClient::new(Resilient::new(channel).retry(&policy));
    client.complete(hello()).await.unwrap();
    let waits = waits.lock().unwrap();
    assert!(
        matches!(waits[..], [wait] if wait >= 7 * SECOND && wait < 8 * SECOND),
        "{waits:?}"
    );
}

#[test]
fn to_a_retry_hedging_in_a_service_config_is_an_error_that_says_what_to_take() {
    let json = r#"{"methodConfig": [{"name": [{"service": "a.B"}],
        "hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "0.1s"}}]}"#;
    let config = ServiceConfig::parse(json).unwrap();
    let error = GrpcRetry::new("model", &config).unwrap_err();
    assert_eq!(error.setting(), "hedgingPolicy");
    assert!(error.to_string().contains("/a.B/"), "{error}");
    assert!(error.advice().contains("without_hedging"), "{error}");
    assert!(error.advice().contains("GrpcHedge"), "{error}");
    let hedge = GrpcHedge::new("model", &config).unwrap();
    assert_eq!(hedge.hedge("/a.B/C").config().max_extra, 1);
    assert_eq!(hedge.hedge("/a.C/C").config().max_extra, 0);
}

/// Hangs at first, and answers all others.
#[derive(Clone, Default)]
struct HangsOnce(Model);

#[tonic::async_trait]
impl Completions for HangsOnce {
    async fn complete(
        &self,
        request: Request<CompleteRequest>,
    ) -> Result<Response<CompleteReply>, Status> {
        let answer = self.0.complete(request).await;
        if self.0.calls.lock().unwrap().len() == 1 {
            std::future::pending::<()>().await;
        }
        answer
    }
}

#[tokio::test]
async fn a_channel_hedges_as_the_service_config_says() {
    let json = |codes: &str| {
        format!(
            r#"{{"methodConfig": [{{"name": [{{}}], "timeout": "30s", "hedgingPolicy":
                {{"maxAttempts": 3, "hedgingDelay": "0.05s", "nonFatalStatusCodes": [{codes}]}}}}],
                "retryThrottling": {{"maxTokens": 10, "tokenRatio": 1}}}}"#
        )
    };
    let (model, mut tasks) = (HangsOnce::default(), JoinSet::new());
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let service = CompletionsServer::new(model.clone());
    let server = Server::builder().add_service(service);
    tasks.spawn(server.serve_with_incoming(incoming).map(|_| ()));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let breaker = CircuitBreaker::new("model");
    let channel = Resilient::new(channel.connect_lazy())
        .service_config(&json(""))
        .unwrap()
        .breaker(&breaker);
    let request = CompleteRequest {
        prompt: "why".into(),
    };
    let mut client = CompletionsClient::new(channel);
    let reply = client.complete(request.clone()).await.unwrap();
    assert_eq!(reply.into_inner().text, "why");
    let previous = [None, Some("1".to_owned())];
    assert_eq!(model.0.said("grpc-previous-rpc-attempts"), previous);
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.successes, totals.cancelled), (1, 1));

    // A code that is not fatal starts the next attempt at once, and a fatal one ends the call.
    let model = Model::failing([Status::aborted("busy"), Status::aborted("busy")]);
    let channel = serve(&model, &CircuitBreaker::new("server"), &mut tasks).await;
    let channel = Resilient::new(channel)
        .service_config(&json(r#""ABORTED""#))
        .unwrap();
    let mut client = CompletionsClient::new(channel);
    client.complete(request.clone()).await.unwrap();
    assert_eq!(model.calls.lock().unwrap().len(), 3);
    model
        .failures
        .lock()
        .unwrap()
        .push_back(Status::internal("bug"));
    let status = client.complete(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(model.calls.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_channel_retries_as_the_service_config_and_the_server_say() {
    let model = Model::failing([
        pushing_back(Code::Unavailable, "1"),
        pushing_back(Code::Unavailable, "0"),
    ]);
    let (mut tasks, at_server) = (JoinSet::new(), CircuitBreaker::new("server"));
    let channel = serve(&model, &at_server, &mut tasks).await;
    let (retry, breaker) = (
        GrpcRetry::new("model", &config()).unwrap(),
        CircuitBreaker::new("model"),
    );
    let channel = Resilient::new(channel)
        .retry_by_method(retry.clone())
        .breaker(&breaker);
    let mut client = CompletionsClient::new(channel);

    let reply = client.complete(hello()).await.unwrap();
    assert_eq!(reply.get_ref().text, "hello");
    let attempts = model.said("grpc-previous-rpc-attempts");
    assert_eq!(attempts, [None, Some("1".to_owned()), Some("2".to_owned())]);
    for said in model.said("grpc-timeout") {
        let micros = said.unwrap().strip_suffix('u').unwrap().parse().unwrap();
        assert!((90_000_000..=99_000_000).contains(&micros), "{micros}");
    }
    drop(reply);
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.successes, totals.failures), (1, 2));
    assert_eq!(
        retry
            .policy("/completion.v1.Completions/Complete")
            .snapshot()
            .recovered,
        1
    );
    assert_eq!(retry.throttle().unwrap().available(), Some(4));

    *model.failures.lock().unwrap() = [pushing_back(Code::Unavailable, "-1")].into();
    let status = client.complete(hello()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "not now")
    );
    *model.failures.lock().unwrap() = [pushing_back(Code::NotFound, "0")].into();
    let status = client.complete(hello()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(
        model.calls.lock().unwrap().len(),
        5,
        "neither was tried again"
    );

    breaker.force_open();
    let status = client.complete(hello()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(Rejection::find(&status).unwrap().name(), "model");
}

#[tokio::test]
async fn a_server_that_refuses_says_so_in_grpc_and_when_to_come_back() {
    let model = Model::default();
    let mut tasks = JoinSet::new();
    let breaker = CircuitBreaker::builder("database")
        .recovery_timeout(30 * SECOND)
        .build()
        .unwrap();
    let channel = serve(&model, &breaker, &mut tasks).await;
    let mut client = CompletionsClient::new(channel);
    client.complete(hello()).await.unwrap();

    // The answers of the service are judged on this side too.
    *model.failures.lock().unwrap() = vec![Status::internal("broken"); 5].into();
    for _ in 0..5 {
        assert_eq!(
            client.complete(hello()).await.unwrap_err().code(),
            Code::Internal
        );
    }
    let status = client.complete(hello()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    // What is inside of the server is no business of its clients.
    assert!(!status.message().contains("database"), "{status}");
    let pushback = pushback_of(&status).unwrap();
    assert!((1..=30_000).contains(&pushback), "{pushback}");
    assert_eq!(model.calls.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn the_deadline_of_the_caller_is_that_of_the_handler() {
    let (model, mut tasks) = (Model::default(), JoinSet::new());
    let channel = serve(&model, &CircuitBreaker::new("b"), &mut tasks).await;
    let mut client = CompletionsClient::new(channel);
    client.complete(hello()).await.unwrap();
    let mut request = Request::new(hello());
    request.set_timeout(30 * SECOND);
    client.complete(request).await.unwrap();
    let calls = model.calls.lock().unwrap();
    assert_eq!(calls[0].1, None);
    let left = calls[1].1.unwrap();
    assert!(left > 20 * SECOND && left <= 30 * SECOND, "{left:?}");
}

fn quick() -> RetryPolicyBuilder {
    RetryPolicy::builder()
        .backoff(Backoff::fixed(Duration::from_millis(1)))
        .jitter(Jitter::None)
}

#[tokio::test(start_paused = true)]
async fn a_typed_call_is_judged_by_its_status() {
    let failures = Mutex::new(VecDeque::from([
        Status::unavailable("loading"),
        Status::invalid_argument("an empty prompt"),
    ]));
    let breaker = CircuitBreaker::new("model");
    let call = ServiceBuilder::new()
        .layer(
            quick()
                .build()
                .unwrap()
                .layer()
                .classify(GrpcClassify::new()),
        )
        .layer(breaker.layer().classify(GrpcClassify::new()))
        .service_fn(|()| {
            let failure = failures.lock().unwrap().pop_front();
            async move { failure.map_or(Ok(Response::new(())), Err) }
        });
    let error = call.clone().oneshot(()).await.unwrap_err();
    assert_eq!(Status::from(error).code(), Code::InvalidArgument);
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.successes, totals.failures), (1, 1));
    call.oneshot(()).await.unwrap();
}

#[test]
fn a_status_of_this_side_with_a_cause_that_is_not_known_is_what_its_maker_says() {
    use tower_bulwark::Classify;
    let status = |code, source: Box<dyn std::error::Error + Send + Sync>| {
        let mut status = Status::new(code, "");
        status.set_source(Arc::from(source));
        let verdict: Verdict =
            Classify::<Response<()>, _>::classify(&GrpcClassify::new(), Err(&status));
        (verdict.outcome(), verdict.retry_safety())
    };
    let foreign = || "the token has expired".into();
    let denied = status(Code::Unauthenticated, foreign());
    assert_eq!(denied, (Outcome::Success, RetrySafety::Never));
    // It may have been sent, for all that is known.
    let unavailable = status(Code::Unavailable, foreign());
    assert_eq!(unavailable, (Outcome::Failure, RetrySafety::IfIdempotent));
    // A cause that is known counts.
    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let broken = status(Code::Unauthenticated, reset.into());
    assert_eq!(broken, (Outcome::Failure, RetrySafety::IfIdempotent));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_became_a_status_is_no_failure_of_the_service() {
    let (inner, outer) = (CircuitBreaker::new("inner"), CircuitBreaker::new("outer"));
    inner.force_open();
    let call = ServiceBuilder::new()
        .layer(
            quick()
                .build()
                .unwrap()
                .layer()
                .classify(GrpcClassify::new()),
        )
        .layer(outer.layer().classify(GrpcClassify::new()))
        .map_err(Status::from)
        .layer(inner.layer())
        .service_fn(|()| async { Err::<Response<()>, _>(Status::unavailable("never asked")) });
    let error = call.oneshot(()).await.unwrap_err();
    let status = error.as_inner().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        pushback_of(status),
        Some(1_000),
        "nobody can say when it will close"
    );
    assert_eq!(Rejection::find(status).unwrap().name(), "inner");
    let totals = outer.snapshot().totals;
    assert_eq!((totals.successes, totals.failures), (0, 0));
    assert_eq!(
        inner.snapshot().totals.rejected,
        1,
        "and it was not tried again"
    );
}

#[tokio::test(start_paused = true)]
async fn each_refusal_has_a_code_of_its_own() {
    let lock = ResourceLock::builder("gpu")
        .timeout(SECOND)
        .build()
        .unwrap();
    let held = lock.acquire("a").await.unwrap();
    let status = Status::from(Rejection::from(lock.acquire("b").await.unwrap_err()));
    assert!(!status.message().contains("gpu"), "{status}");
    assert_eq!(Rejection::find(&status).unwrap().name(), "gpu");
    // No permit has come back so far: nobody can say.
    assert_eq!(
        (status.code(), pushback_of(&status)),
        (Code::ResourceExhausted, Some(1_000))
    );

    let soon = deadline::Deadline::after(SECOND / 2);
    let refused = deadline::scope(soon, lock.acquire("b")).await.unwrap_err();
    assert_eq!(
        Status::from(Rejection::from(refused)).code(),
        Code::DeadlineExceeded
    );
    drop(held);

    let again = lock.run("w1", || {
        lock.run("w1", || async { Ok::<_, Infallible>(()) })
    });
    let refused = again.await.unwrap_err().rejection().unwrap();
    let status = Status::from(refused);
    assert_eq!(
        (status.code(), pushback_of(&status)),
        (Code::Aborted, Some(-1))
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_gave_up_is_its_last_status_or_a_deadline() {
    let stack = |answer: fn() -> Result<(), Status>, hangs: bool| {
        let policy = quick()
            .attempt_timeout(SECOND)
            .max_retries(1)
            .build()
            .unwrap();
        let layer = policy.layer::<Status>();
        layer.layer(service_fn(move |()| async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            answer()
        }))
    };
    let error = stack(|| Err(Status::data_loss("gone")), false)
        .oneshot(())
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Exhausted(_)));
    let status = Status::from(error);
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "gone"));
    let error = stack(|| Ok(()), true).oneshot(()).await.unwrap_err();
    assert_eq!(Status::from(error).code(), Code::DeadlineExceeded);
}

/// What an HTTP/2 server does with one stream.
#[derive(Clone, Copy)]
enum Stream {
    Reset(h2::Reason),
    /// Trailers-Only.
    Status(i32),
}

/// Calls a server through a retry, and gives the heads that its streams had, and what came out.
async fn over_h2(
    config: &str,
    script: impl IntoIterator<Item = Stream>,
) -> (Vec<Option<String>>, Result<String, String>, GrpcRetry) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    let (log, mut script) = (
        Arc::clone(&seen),
        script.into_iter().collect::<VecDeque<_>>(),
    );
    tasks.spawn(async move {
        let mut connection = h2::server::handshake(theirs).await.unwrap();
        while let Some(stream) = connection.accept().await {
            let Ok((request, mut respond)) = stream else {
                return;
            };
            let attempts = request.headers().get("grpc-previous-rpc-attempts");
            let attempts = attempts.map(|it| it.to_str().unwrap().to_owned());
            log.lock().unwrap().push(attempts);
            match script.pop_front().unwrap_or(Stream::Status(0)) {
                Stream::Reset(reason) => respond.send_reset(reason),
                Stream::Status(code) => {
                    let response = http::Response::builder().header("grpc-status", code);
                    let response = response.body(()).unwrap();
                    respond.send_response(response, true).unwrap();
                }
            }
        }
    });
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(ours));
    let (sender, connection) = handshake.await.unwrap();
    tasks.spawn(async move { connection.await.unwrap_or_default() });

    let retry = GrpcRetry::new("h2", &ServiceConfig::parse(config).unwrap()).unwrap();
    let service = retry.layer().layer(service_fn(move |request| {
        let mut sender = sender.clone();
        async move {
            sender.ready().await?;
            sender.send_request(request).await
        }
    }));
    let request = http::Request::post("http://h2/svc/Method").body(Empty::<Bytes>::new());
    let result = service.oneshot(request.unwrap()).await;
    let status = |it: http::Response<_>| it.headers()["grpc-status"].to_str().unwrap().to_owned();
    let result = result
        .map(status)
        .map_err(|error: Error<hyper::Error>| error.to_string());
    let seen = seen.lock().unwrap().clone();
    (seen, result, retry)
}

const TWO_ATTEMPTS: &str = r#"{
    "methodConfig": [{"name": [{}], "retryPolicy": {
        "maxAttempts": 2, "initialBackoff": "0.001s", "maxBackoff": "0.001s",
        "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]
    }}],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
}"#;

#[tokio::test]
async fn a_refused_stream_costs_neither_an_attempt_nor_a_token() {
    let refused = Stream::Reset(h2::Reason::REFUSED_STREAM);
    let (seen, result, retry) = over_h2(TWO_ATTEMPTS, [refused]).await;
    assert_eq!((seen, result), (vec![None, None], Ok("0".to_owned())));
    assert_eq!(retry.throttle().unwrap().available(), Some(5));

    // The second is a failure like any other: to the throttle, to the backoff, to the count.
    let (seen, result, retry) = over_h2(TWO_ATTEMPTS, [refused, refused]).await;
    let one = Some("1".to_owned());
    assert_eq!((seen, result), (vec![None, None, one], Ok("0".to_owned())));
    assert_eq!(
        retry.throttle().unwrap().available(),
        Some(5),
        "one taken, a tenth put back"
    );
}

/// What a server does that goes away, to calls that may be made twice.
async fn over_h2_that_goes_away(
    config: &str,
    last_stream: u32,
    may_be_done_twice: bool,
) -> (usize, Option<String>) {
    let server = GoesAway::start(last_stream).await;
    let retry = GrpcRetry::new("h2", &ServiceConfig::parse(config).unwrap()).unwrap();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .retry_canceled_requests(false)
        .build_http();
    let request = http::Request::post(&server.uri)
        .extension(MarkedIdempotent(may_be_done_twice))
        .body(Empty::new());
    let service = retry.layer().layer(client);
    let result = service.oneshot(request.unwrap()).await;
    let status = |it: http::Response<_>| it.headers()["grpc-status"].to_str().unwrap().to_owned();
    (server.requests(), result.ok().map(status))
}

/// Those of the vectors that have to do with a balancer of loads are about a client that chooses among servers.
#[tokio::test]
async fn what_was_not_begun_is_sent_again_as_grfc_a6_says() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/grpc_retry.json")).unwrap();
    let mut checked = 0;
    for case in vectors["transparent_retry_cases"].as_array().unwrap() {
        let events = case["events"].as_array().unwrap();
        let events: Vec<_> = events.iter().map(|it| it.as_str().unwrap()).collect();
        let attempts = case["policy_max_attempts"].as_u64().unwrap();
        let policy = match attempts {
            0 => String::new(),
            n => format!(
                r#", "retryPolicy": {{"maxAttempts": {n}, "initialBackoff": "0.001s",
                "maxBackoff": "0.001s", "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"]}}"#
            ),
        };
        let config = format!(
            r#"{{"methodConfig": [{{"name": [{{}}]{policy}}}],
            "retryThrottling": {{"maxTokens": 10, "tokenRatio": 0.1}}}}"#
        );
        let expect = &case["expect"];
        let (sent, is_ok) = match events[0] {
            "pick_drop" | "pick_transient_failure" => continue,
            "goaway_last_id_below" | "goaway_last_id_at_or_above" => {
                let last_stream = u32::from(events[0] == "goaway_last_id_at_or_above");
                let (sent, status) = over_h2_that_goes_away(&config, last_stream, true).await;
                // Which of the two it was the client does not tell for certain.
                let (once, _) = over_h2_that_goes_away(&config, last_stream, false).await;
                assert_eq!(once, 1, "{case}");
                (sent, status.as_deref() == Some("0"))
            }
            _ => {
                let stream = |event: &&str| match *event {
                    "rst_refused" => Stream::Reset(h2::Reason::REFUSED_STREAM),
                    "unavailable" => Stream::Status(14),
                    "ok" => Stream::Status(0),
                    other => panic!("what is {other}?"),
                };
                let (seen, result, retry) = over_h2(&config, events.iter().map(stream)).await;
                let used = expect["policy_attempts_used"].as_u64().unwrap();
                // What the last attempt said of those before it.
                let before = (used > 1).then(|| (used - 1).to_string());
                assert_eq!(seen.last().unwrap(), &before, "{case}");
                if let Some(tokens) = expect["tokens_after"].as_u64() {
                    let left = retry.throttle().unwrap().available();
                    // What is to be had stands above half of the tokens.
                    assert_eq!(left.map(|left| left + 5), Some(tokens), "{case}");
                }
                (seen.len(), result.as_deref() == Ok("0"))
            }
        };
        assert_eq!(
            Some(sent as u64),
            expect["sent_to_server"].as_u64(),
            "{case}"
        );
        assert_eq!(is_ok, expect["result"] == 0, "{case}");
        checked += 1;
    }
    assert_eq!(checked, 5, "cases went missing");
}

#[tokio::test]
async fn a_stream_that_was_reset_otherwise_is_what_its_reason_says() {
    let calm = Stream::Reset(h2::Reason::ENHANCE_YOUR_CALM);
    let (seen, result, _) = over_h2(TWO_ATTEMPTS, [calm]).await;
    assert_eq!(
        seen.len(),
        1,
        "RESOURCE_EXHAUSTED is not among the codes of the config"
    );
    result.unwrap_err();

    let (seen, result, _) = over_h2(TWO_ATTEMPTS, [Stream::Status(14), calm]).await;
    assert_eq!(seen.len(), 2);
    result.unwrap_err();
}

#[test]
fn an_error_is_what_is_in_the_chain_of_its_causes() {
    use tower_bulwark::{Outcome, RetrySafety};
    let judge = |error: &(dyn std::error::Error + 'static)| {
        let verdict = GrpcClassify::new().classify_error(error);
        let reason = verdict.reason().unwrap().to_owned();
        (reason, verdict.outcome(), verdict.retry_safety())
    };
    let says = |code: &str, outcome, repeat| (code.to_owned(), outcome, repeat);
    let wrapped = std::io::Error::other(pushing_back(Code::Aborted, "7"));
    assert_eq!(
        judge(&wrapped),
        says("ABORTED", Outcome::Success, RetrySafety::Never)
    );
    let slow = std::io::Error::other(tonic::TimeoutExpired(()));
    let late = says(
        "DEADLINE_EXCEEDED",
        Outcome::Failure,
        RetrySafety::IfIdempotent,
    );
    assert_eq!(judge(&slow), late);
    let by_code = GrpcClassify::new().for_throttle().classify_error(&slow);
    assert_eq!(by_code.retry_safety(), RetrySafety::Never);
    let away = tonic::ConnectError("no route".into());
    let not_sent = says("UNAVAILABLE", Outcome::Failure, RetrySafety::Always);
    assert_eq!(judge(&away), not_sent);
    // It may have been done: sent again only if that does no harm.
    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let perhaps = says("UNAVAILABLE", Outcome::Failure, RetrySafety::IfIdempotent);
    assert_eq!(judge(&reset), perhaps);
    let none = GrpcClassify::new().retry_on(tower_bulwark::grpc::Codes::NONE);
    assert_eq!(
        none.classify_error(&reset).retry_safety(),
        RetrySafety::Never
    );
    assert_eq!(
        none.classify_error(&slow).retry_safety(),
        RetrySafety::Never
    );
}

#[tokio::test]
async fn the_refusals_of_a_busy_lock_say_nothing_to_a_breaker_around_it() {
    let breaker = CircuitBreaker::builder("model")
        .consecutive_failures(1)
        .build()
        .unwrap();
    let lock = ResourceLock::builder("gpu")
        .timeout(Duration::ZERO)
        .build()
        .unwrap();
    let classify = GrpcClassify::new().failures(Codes::of(&[Code::ResourceExhausted.into()]));
    let service = ServiceBuilder::new()
        .layer(
            breaker
                .layer()
                .classify(classify)
                .reject_with(reject::<Body>)
                .until_body_end()
                .classify_end(classify.at_end()),
        )
        .layer(lock.layer().reject_with(reject::<Body>))
        .service_fn(|()| async { Ok::<_, Infallible>(http::Response::new(Body::empty())) });
    let _held = lock.try_acquire("somebody").unwrap();
    for _ in 0..10 {
        let busy = service.clone().oneshot(()).await.unwrap();
        assert_eq!(busy.headers()["grpc-status"], "8");
    }
    let totals = breaker.snapshot().totals;
    assert_eq!(
        (totals.ignored, totals.failures, totals.rejected),
        (10, 0, 0)
    );
}
