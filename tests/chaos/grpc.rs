//! A tonic channel, and tonic services behind connections that fail: statuses without a body, with and without
//! pushback, streams that break off.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tower::{Service, ServiceExt, service_fn};
use tower_bulwark::grpc::Resilient;
use tower_bulwark::http::MarkedIdempotent;

use crate::hyper_client::{breaker, lock, retry};
use crate::ledger::{End, Ledger, MS};
use crate::script::{Call, Caller, Fault, Route, Scripted, digest};
use crate::server::{Answer, Connection, Server, Speaks};

/// Made from `examples/support/completion.proto`.
#[path = "../../examples/support/completion.rs"]
#[allow(unreachable_pub, dead_code, reason = "generated")]
mod completion;

use completion::completions_client::CompletionsClient;
use completion::completions_server::{Completions, CompletionsServer};
use completion::streams_client::StreamsClient;
use completion::streams_server::{Streams, StreamsServer};
use completion::{CompleteReply, CompleteRequest};

/// Letters in a message of a stream.
const PIECE: usize = 1_000;

/// Answers with what it was asked.
#[derive(Clone, Copy)]
struct Echo {
    /// Streams break off in the middle: with a status, or without.
    breaks: Option<Break>,
}

#[derive(Clone, Copy)]
enum Break {
    /// After so many messages, a status that would be tried again if it came first.
    Unavailable(usize),
    /// After so many messages, nothing more.
    Cut(usize),
}

fn with_digest<T>(prompt: &str, reply: T) -> Response<T> {
    let mut response = Response::new(reply);
    let said = digest(prompt.as_bytes()).to_string().parse().unwrap();
    response.metadata_mut().insert("x-digest", said);
    response
}

#[tonic::async_trait]
impl Completions for Echo {
    async fn complete(
        &self,
        request: Request<CompleteRequest>,
    ) -> Result<Response<CompleteReply>, Status> {
        let text = request.into_inner().prompt;
        Ok(with_digest(&text.clone(), CompleteReply { text }))
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<CompleteReply, Status>> + Send>>;

/// The pieces of a text.
fn pieces(text: &str) -> impl Iterator<Item = String> + use<> {
    let pieces = text.as_bytes().chunks(PIECE);
    let pieces: Vec<_> = pieces
        .map(|piece| String::from_utf8(piece.to_vec()).unwrap())
        .collect();
    pieces.into_iter()
}

impl Echo {
    fn until_it_breaks(
        self,
        replies: impl Stream<Item = Result<CompleteReply, Status>> + Send + 'static,
    ) -> Replies {
        match self.breaks {
            None => replies.boxed(),
            Some(Break::Unavailable(after)) => {
                let end = stream::iter([Err(Status::unavailable("in the middle"))]);
                replies.take(after).chain(end).boxed()
            }
            Some(Break::Cut(after)) => replies.take(after).chain(stream::pending()).boxed(),
        }
    }
}

#[tonic::async_trait]
impl Streams for Echo {
    type TellStream = Replies;
    type TalkStream = Replies;

    async fn tell(&self, request: Request<CompleteRequest>) -> Result<Response<Replies>, Status> {
        let prompt = request.into_inner().prompt;
        let replies = pieces(&prompt).map(|text| Ok(CompleteReply { text }));
        let replies = self.until_it_breaks(stream::iter(replies));
        Ok(with_digest(&prompt, replies))
    }

    async fn listen(
        &self,
        request: Request<Streaming<CompleteRequest>>,
    ) -> Result<Response<CompleteReply>, Status> {
        let (mut pieces, mut text) = (request.into_inner(), String::new());
        let mut left = match self.breaks {
            None => usize::MAX,
            Some(Break::Unavailable(after) | Break::Cut(after)) => after,
        };
        while left > 0
            && let Some(piece) = pieces.message().await?
        {
            text.push_str(&piece.prompt);
            left -= 1;
        }
        match self.breaks {
            None => Ok(with_digest(&text.clone(), CompleteReply { text })),
            Some(Break::Unavailable(_)) => Err(Status::unavailable("in the middle")),
            Some(Break::Cut(_)) => pending().await,
        }
    }

    async fn talk(
        &self,
        request: Request<Streaming<CompleteRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let replies = request.into_inner().map(|piece| {
            Ok(CompleteReply {
                text: piece?.prompt,
            })
        });
        Ok(Response::new(self.until_it_breaks(replies)))
    }
}

/// How a scripted HTTP status looks as a status of gRPC, and whether it says that nothing was done.
fn status(fault: Fault) -> Option<(Status, bool)> {
    let Fault::Status(status, when, _) = fault else {
        return None;
    };
    let (code, nothing_done) = match status {
        503 => (Code::Unavailable, when != Some("soon")),
        429 => (Code::ResourceExhausted, false),
        500 => (Code::Internal, false),
        _ => (Code::Aborted, false),
    };
    let mut status = Status::new(code, "as the script says");
    let pushback = match when {
        None => return Some((status, nothing_done)),
        Some("0") => "1",
        Some("soon") => "-1",
        Some(_) => "0",
    };
    let pushback = pushback.parse().unwrap();
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", pushback);
    Some((status, nothing_done))
}

async fn answer(
    request: http::Request<Incoming>,
    ledger: Arc<Ledger>,
    connection: Arc<Connection>,
) -> Result<Answer, Scripted> {
    let id = request.headers()["x-id"].to_str().unwrap().parse().unwrap();
    let nth = ledger.arrived(id);
    let fault = Fault::of(id, nth);
    if let Some((status, nothing_done)) = status(fault) {
        if !nothing_done {
            ledger.worked_on(id);
        }
        return Ok(boxed(status.into_http()));
    }
    // A status instead of an answer says that nothing was done, also after half of a prompt.
    let listens = request.uri().path().ends_with("/Listen");
    if !(listens && matches!(fault, Fault::HalfABody) && nth % 2 == 1) {
        ledger.worked_on(id);
    }
    let mut breaks = None;
    match fault {
        Fault::Slow(delay) => tokio::time::sleep(delay).await,
        Fault::NoHead(_) => return Err(Scripted),
        Fault::Kill => {
            connection.dies.notify_one();
            return pending().await;
        }
        Fault::Hang => return pending().await,
        Fault::GoAway => connection.goes_away.notify_one(),
        Fault::HalfABody if nth % 2 == 1 => breaks = Some(Break::Unavailable(id as usize % 3)),
        Fault::HalfABody => breaks = Some(Break::Cut(id as usize % 3)),
        Fault::None | Fault::Status(..) => {}
    }
    let echo = Echo { breaks };
    let unary = request
        .uri()
        .path()
        .starts_with("/completion.v1.Completions/");
    let response = match unary {
        true => CompletionsServer::new(echo).oneshot(request).await,
        false => StreamsServer::new(echo).oneshot(request).await,
    };
    let Ok(response) = response;
    if matches!(breaks, Some(Break::Cut(_))) {
        // The messages are on their way, and then there is no connection any more.
        tokio::spawn(async move {
            tokio::time::sleep(MS).await;
            connection.dies.notify_one();
        });
    }
    Ok(boxed(response))
}

fn boxed(response: http::Response<Body>) -> Answer {
    response.map(|body| body.map_err(|_| Scripted).boxed_unsync())
}

/// What a call says, as text.
fn prompt(call: &Call) -> String {
    call.body
        .iter()
        .map(|byte| char::from(b'a' + byte % 26))
        .collect()
}

fn request(call: &Call) -> Request<CompleteRequest> {
    let mut request = Request::new(CompleteRequest {
        prompt: prompt(call),
    });
    request.metadata_mut().insert("x-id", call.id.into());
    if call.may_be_done_twice() {
        request.extensions_mut().insert(MarkedIdempotent(true));
    }
    request
}

fn compare<T>(call: &Call, response: &Response<T>) {
    let said = response
        .metadata()
        .get("x-digest")
        .unwrap()
        .to_str()
        .unwrap();
    assert_eq!(
        said,
        digest(prompt(call).as_bytes()).to_string(),
        "the request changed"
    );
}

/// The metadata of a call, and what it says in one piece or in several.
fn in_pieces(call: &Call) -> Request<impl Stream<Item = CompleteRequest> + use<>> {
    let pieces = pieces(&prompt(call)).map(|prompt| CompleteRequest { prompt });
    request(call).map(|_| stream::iter(pieces))
}

/// Each kind of call in turn.
async fn complete<S, B>(call: Call, channel: S) -> End
where
    S: tonic::client::GrpcService<Body, ResponseBody = B, Error: Into<tonic::codegen::StdError>>
        + Clone,
    B: http_body::Body<Data = Bytes, Error: Into<tonic::codegen::StdError> + Send> + Send + 'static,
{
    let mut client = StreamsClient::new(channel.clone());
    let ended = match call.id % 4 {
        0 => client.tell(request(&call)).await,
        1 => client.talk(in_pieces(&call)).await,
        kind => {
            let ended = match kind {
                2 => client.listen(in_pieces(&call)).await,
                _ => {
                    CompletionsClient::new(channel)
                        .complete(request(&call))
                        .await
                }
            };
            return match ended {
                Ok(reply) => {
                    compare(&call, &reply);
                    assert_eq!(reply.get_ref().text, prompt(&call), "the response changed");
                    End::Answer(200)
                }
                Err(status) => End::Code(status.code() as i32),
            };
        }
    };
    let response = match ended {
        Ok(response) => response,
        Err(status) => return End::Code(status.code() as i32),
    };
    if call.id.is_multiple_of(4) {
        compare(&call, &response);
    }
    if call.caller == Caller::HeadOnly {
        return End::HeadOnly;
    }
    let (mut replies, mut text) = (response.into_inner(), String::new());
    let whole = prompt(&call);
    loop {
        match replies.message().await {
            Ok(Some(reply)) => text.push_str(&reply.text),
            Ok(None) => break,
            Err(_) => {
                assert!(whole.starts_with(&text), "the beginning of another stream");
                return End::BrokenBody;
            }
        }
    }
    assert_eq!(text, whole, "the response changed");
    End::Answer(200)
}

fn id<B>(request: &http::Request<B>) -> u64 {
    request.headers()["x-id"].to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tonic_channel_survives_the_script() {
    let ledger = Ledger::new();
    let at_server = Arc::clone(&ledger);
    let server = Server::with(Speaks::Http2, move |request, connection| {
        answer(request, Arc::clone(&at_server), connection)
    })
    .await;
    let (breaker, lock, retry) = (breaker(&ledger), lock(), retry(false));
    let addresses = server.addresses();
    let channel = |route| {
        let uri = format!("http://{}", addresses.to(route));
        Endpoint::from_shared(uri).unwrap().connect_lazy()
    };
    let channels =
        [Route::Server, Route::Nobody, Route::Silence].map(|route| (route, channel(route)));
    let [sent, came_back] = [&ledger; 2].map(Arc::clone);
    let channel = service_fn(move |request: http::Request<Body>| {
        let route = sent.send(id(&request));
        let channel = channels.iter().find(|(it, _)| *it == route);
        let mut channel: Channel = channel.unwrap().1.clone();
        let came_back = Arc::clone(&came_back);
        async move {
            let response = channel.ready().await?.call(request).await?;
            let code = response.headers().get("grpc-status");
            let is_overload = code.is_some_and(|code| code == "8");
            came_back.overloads.fetch_add(is_overload.into(), SeqCst);
            Ok::<_, tonic::transport::Error>(response)
        }
    });
    let service = Resilient::new(channel)
        .retry(&retry)
        .breaker(&breaker)
        .lock(&lock);

    let ends = ledger
        .run(2_500, |call| complete(call, service.clone()))
        .await;
    ledger.balance(&breaker, &lock);
    assert!(retry.snapshot().recovered > 20, "{:?}", retry.snapshot());
    // How many meet an open circuit depends on the machine; that many of the rest get through does not.
    assert!(ends[&End::Answer(200)] > 300, "{ends:?}");
    assert!(ends[&End::BrokenBody] > 0, "{ends:?}");
}
