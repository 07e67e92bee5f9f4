//! A generated tonic client of streaming methods behind all three layers: answers in pieces, prompts in pieces,
//! and both. And the same methods on a server behind a lock.

#![cfg(feature = "tonic")]

/// Made from `examples/support/completion.proto`.
#[path = "../examples/support/completion.rs"]
#[allow(unreachable_pub, dead_code, reason = "generated")]
mod completion;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use completion::streams_client::StreamsClient;
use completion::streams_server::{Streams, StreamsServer};
use completion::{CompleteReply, CompleteRequest};
use futures::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tower::util::BoxCloneService;
use tower::{ServiceBuilder, ServiceExt};
use tower_bulwark::grpc::{GrpcClassify, GrpcRequests, reject};
use tower_bulwark::http::{CopyReplay, ReplayBody, ReplayLayer};
use tower_bulwark::{Backoff, CircuitBreaker, Rejection, ResourceLock, RetryPolicy};

/// Repeats what it hears, loudly.
#[derive(Clone)]
struct Parrot {
    /// For each of the next calls: after how many pieces it fails.
    fails_after: Arc<Mutex<VecDeque<usize>>>,
    /// Each piece that was heard, and in which call.
    heard: mpsc::UnboundedSender<(usize, String)>,
    calls: Arc<Mutex<usize>>,
}

type Replies = Pin<Box<dyn Stream<Item = Result<CompleteReply, Status>> + Send>>;

fn loudly(piece: &str) -> CompleteReply {
    CompleteReply {
        text: piece.to_uppercase(),
    }
}

impl Parrot {
    /// The number of this call, and after how many pieces it fails.
    fn called(&self) -> (usize, Option<usize>) {
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        (*calls, self.fails_after.lock().unwrap().pop_front())
    }
}

#[tonic::async_trait]
impl Streams for Parrot {
    type TellStream = Replies;
    type TalkStream = Replies;

    async fn tell(&self, request: Request<CompleteRequest>) -> Result<Response<Replies>, Status> {
        let (call, fails_after) = self.called();
        let prompt = request.into_inner().prompt;
        self.heard.send((call, prompt.clone())).unwrap();
        let pieces: Vec<_> = prompt.split(' ').map(|piece| Ok(loudly(piece))).collect();
        let replies = match fails_after {
            None => stream::iter(pieces).boxed(),
            Some(0) => return Err(Status::unavailable("before the first piece")),
            Some(after) => {
                let end = stream::iter([Err(Status::unavailable("in the middle"))]);
                stream::iter(pieces).take(after).chain(end).boxed()
            }
        };
        Ok(Response::new(replies))
    }

    async fn listen(
        &self,
        request: Request<Streaming<CompleteRequest>>,
    ) -> Result<Response<CompleteReply>, Status> {
        let (call, fails_after) = self.called();
        let (mut pieces, mut text) = (request.into_inner(), String::new());
        for nth in 0.. {
            if fails_after == Some(nth) {
                return Err(Status::unavailable("in the middle"));
            }
            let Some(piece) = pieces.message().await? else {
                break;
            };
            self.heard.send((call, piece.prompt.clone())).unwrap();
            text.push_str(&piece.prompt);
        }
        Ok(Response::new(loudly(&text)))
    }

    async fn talk(
        &self,
        request: Request<Streaming<CompleteRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let (call, fails_after) = self.called();
        let heard = self.heard.clone();
        let replies = request.into_inner().map(move |piece| {
            let piece = piece?.prompt;
            let _ = heard.send((call, piece.clone()));
            Ok(loudly(&piece))
        });
        let replies = match fails_after {
            None => replies.boxed(),
            Some(after) => {
                let end = stream::iter([Err(Status::unavailable("in the middle"))]);
                replies.take(after).chain(end).boxed()
            }
        };
        Ok(Response::new(replies))
    }
}

type Client = StreamsClient<BoxCloneService<http::Request<Body>, http::Response<Body>, Status>>;

/// Server and client in one process, and the layers between.
struct Scene {
    client: Client,
    breaker: CircuitBreaker,
    lock: ResourceLock,
    retry: RetryPolicy,
    heard: mpsc::UnboundedReceiver<(usize, String)>,
    _server: JoinSet<()>,
}

/// At most so many bytes of a request are kept.
const KEPT: u64 = 1_000;

impl Scene {
    /// Calls fail after so many pieces, in turn; those after them do not.
    async fn failing(fails_after: impl IntoIterator<Item = usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, heard) = mpsc::unbounded_channel();
        let parrot = Parrot {
            fails_after: Arc::new(Mutex::new(fails_after.into_iter().collect())),
            heard: tell,
            calls: Arc::default(),
        };
        let server = Server::builder()
            .add_service(StreamsServer::new(parrot))
            .serve_with_incoming(TcpIncoming::from(listener));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.await.unwrap() });
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = channel.connect().await.unwrap();

        let (breaker, lock) = (CircuitBreaker::new("parrot"), ResourceLock::new("parrot"));
        let retry = RetryPolicy::builder()
            .backoff(Backoff::fixed(Duration::from_millis(1)))
            .build()
            .unwrap();
        let classify = GrpcClassify::new();
        let service = ServiceBuilder::new()
            .map_response(|response: http::Response<_>| response.map(Body::new))
            .map_err(Status::from)
            .layer(ReplayLayer::new().max_bytes(KEPT))
            .layer(
                retry
                    .layer()
                    .classify(classify)
                    .requests(GrpcRequests::over(CopyReplay)),
            )
            .layer(
                breaker
                    .layer()
                    .classify(classify)
                    .until_body_end()
                    .classify_end(classify.at_end()),
            )
            .layer(lock.layer().until_body_end())
            .map_request(|request: http::Request<ReplayBody<Body>>| request.map(Body::new))
            .service(channel);
        Self {
            client: StreamsClient::new(service.boxed_clone()),
            breaker,
            lock,
            retry,
            heard,
            _server: tasks,
        }
    }

    /// Successes, failures and cancelled calls; and permits out.
    fn books(&self) -> ([u64; 3], usize) {
        let totals = self.breaker.snapshot().totals;
        let outcomes = [totals.successes, totals.failures, totals.cancelled];
        (outcomes, self.lock.snapshot().in_use)
    }

    async fn hears(&mut self, call: usize, piece: &str) {
        let heard = self.heard.recv().await.unwrap();
        assert_eq!((heard.0, &*heard.1), (call, piece));
    }

    fn has_heard_all(&mut self) {
        assert!(self.heard.try_recv().is_err(), "heard more");
    }
}

fn piece(prompt: &str) -> CompleteRequest {
    CompleteRequest {
        prompt: prompt.to_owned(),
    }
}

/// A prompt whose pieces come when the test says them.
fn prompt() -> (
    mpsc::UnboundedSender<CompleteRequest>,
    impl Stream<Item = CompleteRequest> + Send + 'static,
) {
    let (say, mut pieces) = mpsc::unbounded_channel();
    (say, stream::poll_fn(move |cx| pieces.poll_recv(cx)))
}

/// What comes until the end, and the end.
async fn rest(mut replies: Streaming<CompleteReply>) -> (Vec<String>, Option<Code>) {
    let mut texts = Vec::new();
    loop {
        match replies.message().await {
            Ok(Some(reply)) => texts.push(reply.text),
            Ok(None) => return (texts, None),
            Err(status) => return (texts, Some(status.code())),
        }
    }
}

#[tokio::test]
async fn an_answer_in_pieces_holds_its_permit_to_the_last_of_them() {
    let mut scene = Scene::failing([]).await;
    let replies = scene.client.tell(piece("once upon a")).await.unwrap();
    assert_eq!(scene.books(), ([0, 0, 0], 1));
    let (texts, end) = rest(replies.into_inner()).await;
    assert_eq!((texts.concat(), end), ("ONCEUPONA".to_owned(), None));
    assert_eq!(scene.books(), ([1, 0, 0], 0));
}

#[tokio::test]
async fn an_answer_that_fails_before_its_first_piece_is_asked_for_again() {
    let mut scene = Scene::failing([0, 0]).await;
    let replies = scene.client.tell(piece("once upon a")).await.unwrap();
    let (texts, end) = rest(replies.into_inner()).await;
    assert_eq!((texts.concat(), end), ("ONCEUPONA".to_owned(), None));
    for call in 1..=3 {
        scene.hears(call, "once upon a").await;
    }
    assert_eq!(scene.books(), ([1, 2, 0], 0));
}

#[tokio::test]
async fn an_answer_that_fails_in_the_middle_is_a_failure_and_not_asked_for_again() {
    let mut scene = Scene::failing([2]).await;
    let replies = scene.client.tell(piece("once upon a")).await.unwrap();
    let (texts, end) = rest(replies.into_inner()).await;
    assert_eq!(texts, ["ONCE", "UPON"]);
    assert_eq!(end, Some(Code::Unavailable));
    assert_eq!(scene.books(), ([0, 1, 0], 0));
    scene.hears(1, "once upon a").await;
    scene.has_heard_all();
}

#[tokio::test]
async fn an_answer_whose_caller_leaves_counts_as_its_head() {
    let mut scene = Scene::failing([]).await;
    let replies = scene.client.tell(piece("once upon a")).await.unwrap();
    let mut replies = replies.into_inner();
    assert_eq!(replies.message().await.unwrap().unwrap().text, "ONCE");
    assert_eq!(scene.books(), ([0, 0, 0], 1));
    drop(replies);
    assert_eq!(scene.books(), ([1, 0, 0], 0));
}

#[tokio::test]
async fn a_prompt_that_was_refused_half_way_comes_whole_to_the_next_attempt() {
    let mut scene = Scene::failing([2, 1]).await;
    let (say, pieces) = prompt();
    let mut client = scene.client.clone();
    let listening = tokio::spawn(async move { client.listen(pieces).await });
    // The first attempt hears both, and the second one of them, before the last piece is known to anybody.
    say.send(piece("once ")).unwrap();
    scene.hears(1, "once ").await;
    say.send(piece("upon ")).unwrap();
    scene.hears(1, "upon ").await;
    scene.hears(2, "once ").await;
    scene.hears(3, "once ").await;
    scene.hears(3, "upon ").await;
    say.send(piece("a")).unwrap();
    drop(say);
    let reply = listening.await.unwrap().unwrap();
    assert_eq!(reply.get_ref().text, "ONCE UPON A");
    scene.hears(3, "a").await;
    assert_eq!(scene.books(), ([1, 2, 0], 0));
    assert_eq!(scene.retry.snapshot().recovered, 1);
}

#[tokio::test]
async fn a_prompt_that_is_too_long_to_keep_is_told_once() {
    let long = "x".repeat(KEPT as usize);
    for (told, calls) in [(vec!["once"], 2), (vec!["once", &long], 1)] {
        let mut scene = Scene::failing([told.len()]).await;
        let pieces: Vec<_> = told.iter().copied().map(piece).collect();
        let ended = scene.client.listen(stream::iter(pieces)).await;
        assert_eq!(ended.is_ok(), calls == 2, "{ended:?}");
        for call in 1..=calls {
            for piece in &told {
                scene.hears(call, piece).await;
            }
        }
        scene.has_heard_all();
        assert_eq!(scene.books(), ([calls as u64 - 1, 1, 0], 0));
    }
}

#[tokio::test]
async fn a_talk_goes_back_and_forth_and_holds_its_permit_to_the_end() {
    let mut scene = Scene::failing([]).await;
    let (say, pieces) = prompt();
    let mut replies = scene.client.talk(pieces).await.unwrap().into_inner();
    for word in ["once", "upon", "a"] {
        say.send(piece(word)).unwrap();
        let reply = replies.message().await.unwrap().unwrap();
        assert_eq!(reply.text, word.to_uppercase());
        assert_eq!(scene.books(), ([0, 0, 0], 1));
    }
    drop(say);
    assert!(replies.message().await.unwrap().is_none());
    assert_eq!(scene.books(), ([1, 0, 0], 0));
}

#[tokio::test]
async fn a_talk_that_fails_in_the_middle_is_a_failure_and_not_begun_again() {
    let mut scene = Scene::failing([1]).await;
    let words = ["once", "upon", "a"].map(piece);
    let replies = scene.client.talk(stream::iter(words)).await.unwrap();
    let (texts, end) = rest(replies.into_inner()).await;
    assert_eq!(
        (texts.concat(), end),
        ("ONCE".to_owned(), Some(Code::Unavailable))
    );
    assert_eq!(scene.books(), ([0, 1, 0], 0));
    assert_eq!(scene.retry.snapshot().retries, 0);
}

#[tokio::test]
async fn a_talk_whose_caller_leaves_counts_as_its_head() {
    let mut scene = Scene::failing([]).await;
    let (say, pieces) = prompt();
    let mut replies = scene.client.talk(pieces).await.unwrap().into_inner();
    say.send(piece("once")).unwrap();
    assert_eq!(replies.message().await.unwrap().unwrap().text, "ONCE");
    drop(replies);
    assert_eq!(scene.books(), ([1, 0, 0], 0));
}

#[tokio::test]
async fn an_open_circuit_refuses_each_kind_of_call_and_takes_nothing_of_a_prompt() {
    let mut scene = Scene::failing([]).await;
    scene.breaker.force_open();
    let untouched = || stream::poll_fn(|_| panic!("somebody asks for the prompt"));
    let client = &mut scene.client;
    let refused = [
        client.tell(piece("once")).await.map(drop),
        client.listen(untouched()).await.map(drop),
        client.talk(untouched()).await.map(drop),
    ];
    for ended in refused {
        let status = ended.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(Rejection::find(&status).unwrap().name(), "parrot");
    }
    scene.has_heard_all();
}

#[tokio::test]
async fn a_server_behind_a_lock_talks_to_one_at_a_time_and_refuses_others_in_grpc() {
    let lock = ResourceLock::builder("beak")
        .max_waiting(0)
        .build()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, _heard) = mpsc::unbounded_channel();
    let parrot = Parrot {
        fails_after: Arc::default(),
        heard: tell,
        calls: Arc::default(),
    };
    let layer = lock.layer().reject_with(reject::<Body>).until_body_end();
    let server = Server::builder()
        .layer(
            ServiceBuilder::new()
                .map_response(|response: http::Response<_>| response.map(Body::new))
                .layer(layer),
        )
        .add_service(StreamsServer::new(parrot))
        .serve_with_incoming(TcpIncoming::from(listener));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.await.unwrap() });
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let mut client = StreamsClient::new(channel.connect().await.unwrap());

    let (say, pieces) = prompt();
    let mut replies = client.talk(pieces).await.unwrap().into_inner();
    say.send(piece("once")).unwrap();
    assert_eq!(replies.message().await.unwrap().unwrap().text, "ONCE");
    let refused = client.tell(piece("upon")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.metadata().contains_key("grpc-retry-pushback-ms"));

    drop(say);
    assert!(replies.message().await.unwrap().is_none());
    let again = client.tell(piece("upon a")).await.unwrap();
    assert_eq!(rest(again.into_inner()).await.0, ["UPON", "A"]);
    assert_eq!(lock.snapshot().in_use, 0);
}
