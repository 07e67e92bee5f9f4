//! A tonic channel, and tonic services behind connections that fail: statuses without a body, with and without
//! pushback, streams that break off.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, ServerStreamingService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::Idempotency;
use tower_bulwark::grpc::{GrpcClassify, GrpcRequests};
use tower_bulwark::http::{CopyReplay, ReplayBody, ReplayLayer};

use crate::books::{Books, End, MS};
use crate::hyper_client::{breaker, lock, retry};
use crate::script::{Call, Caller, Fault, Route, digest};
use crate::server::{Answer, Connection, Scripted, Server, Speaks};

/// Made from `examples/support/completion.proto`.
#[path = "../../examples/support/completion.rs"]
#[allow(unreachable_pub, dead_code, reason = "generated")]
mod completion;

use completion::completions_client::CompletionsClient;
use completion::completions_server::{Completions, CompletionsServer};
use completion::{CompleteReply, CompleteRequest};

const STREAM: &str = "/completion.v1.Completions/Stream";
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

impl ServerStreamingService<CompleteRequest> for Echo {
    type Response = CompleteReply;
    type ResponseStream = Replies;
    type Future = BoxFuture<Response<Replies>, Status>;

    fn call(&mut self, request: Request<CompleteRequest>) -> Self::Future {
        let prompt = request.into_inner().prompt;
        let replies: Vec<_> = prompt
            .as_bytes()
            .chunks(PIECE)
            .map(|piece| {
                Ok(CompleteReply {
                    text: String::from_utf8(piece.to_vec()).unwrap(),
                })
            })
            .collect();
        let replies: Replies = match self.breaks {
            None => Box::pin(stream::iter(replies)),
            Some(Break::Unavailable(after)) => {
                let end = stream::iter([Err(Status::unavailable("in the middle"))]);
                Box::pin(stream::iter(replies).take(after).chain(end))
            }
            Some(Break::Cut(after)) => {
                Box::pin(stream::iter(replies).take(after).chain(stream::pending()))
            }
        };
        Box::pin(async move { Ok(with_digest(&prompt, replies)) })
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
    books: Arc<Books>,
    connection: Arc<Connection>,
) -> Result<Answer, Scripted> {
    let id = request.headers()["x-id"].to_str().unwrap().parse().unwrap();
    let nth = books.arrived(id);
    let fault = Fault::of(id, nth);
    if let Some((status, nothing_done)) = status(fault) {
        if !nothing_done {
            books.worked_on(id);
        }
        return Ok(boxed(status.into_http()));
    }
    books.worked_on(id);
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
    let response = match request.uri().path() == STREAM {
        true => {
            let codec = ProstCodec::<CompleteReply, CompleteRequest>::default();
            Grpc::new(codec).server_streaming(echo, request).await
        }
        false => match CompletionsServer::new(echo).oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
    };
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
        request.metadata_mut().insert("x-twice", 1.into());
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

async fn complete<S, B>(call: Call, channel: S) -> End
where
    S: tonic::client::GrpcService<Body, ResponseBody = B, Error: Into<tonic::codegen::StdError>>,
    B: http_body::Body<Data = Bytes, Error: Into<tonic::codegen::StdError> + Send> + Send + 'static,
{
    if !call.id.is_multiple_of(4) {
        return match CompletionsClient::new(channel)
            .complete(request(&call))
            .await
        {
            Ok(reply) => {
                compare(&call, &reply);
                assert_eq!(reply.get_ref().text, prompt(&call), "the response changed");
                End::Answer(200)
            }
            Err(status) => End::Code(status.code() as i32),
        };
    }
    let mut client = tonic::client::Grpc::new(channel);
    if client.ready().await.is_err() {
        return End::Failed("never ready".to_owned());
    }
    let codec = ProstCodec::<CompleteRequest, CompleteReply>::default();
    let path = PathAndQuery::from_static(STREAM);
    let response = match client.server_streaming(request(&call), path, codec).await {
        Ok(response) => response,
        Err(status) => return End::Code(status.code() as i32),
    };
    compare(&call, &response);
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
    let books = Books::new();
    let at_server = Arc::clone(&books);
    let server = Server::with(Speaks::Http2, move |request, connection| {
        answer(request, Arc::clone(&at_server), connection)
    })
    .await;
    let (breaker, lock, retry) = (breaker(), lock(), retry(false));
    let addresses = server.addresses();
    let channel = |route| {
        let uri = format!("http://{}", addresses.to(route));
        Endpoint::from_shared(uri).unwrap().connect_lazy()
    };
    let channels =
        [Route::Server, Route::Nobody, Route::Silence].map(|route| (route, channel(route)));
    let [came_back, admitted, sent] = [&books; 3].map(Arc::clone);
    let channel = service_fn(move |request: http::Request<Body>| {
        let route = *request.extensions().get::<Route>().unwrap();
        sent.sent(id(&request), route);
        let channel = channels.iter().find(|(it, _)| *it == route);
        let mut channel: Channel = channel.unwrap().1.clone();
        async move { channel.ready().await?.call(request).await }
    });
    let classify = GrpcClassify::new();
    let service = ServiceBuilder::new()
        .map_err(Status::from)
        .layer(ReplayLayer::new())
        .layer(
            retry
                .layer()
                .classify(classify)
                .requests(GrpcRequests::over(CopyReplay))
                .idempotency_from(|request: &http::Request<ReplayBody<Body>>| {
                    match request.headers().contains_key("x-twice") {
                        true => Idempotency::Idempotent,
                        false => Idempotency::NotIdempotent,
                    }
                })
                .on_attempt(|request: &mut http::Request<ReplayBody<Body>>, attempt| {
                    let route = Route::of(id(request), attempt);
                    request.extensions_mut().insert(route);
                }),
        )
        .map_result(move |result| {
            came_back.came_back(&result, |response: &http::Response<_>| {
                let code = response.headers().get("grpc-status");
                code.is_some_and(|code| code == "8")
            });
            result
        })
        .layer(
            breaker
                .layer()
                .classify(classify)
                .until_body_end()
                .classify_end(classify.at_end()),
        )
        .map_request(move |request: http::Request<ReplayBody<Body>>| {
            admitted.admitted.fetch_add(1, SeqCst);
            request.map(Body::new)
        })
        .layer(lock.layer().until_body_end())
        .service(channel);

    let ends = books
        .run(2_500, |call| complete(call, service.clone()))
        .await;
    books.balance(&breaker, &lock);
    assert!(retry.snapshot().recovered > 20, "{:?}", retry.snapshot());
    // How many meet an open circuit depends on the machine; that many of the rest get through does not.
    assert!(ends[&End::Answer(200)] > 300, "{ends:?}");
    assert!(ends[&End::BrokenBody] > 0, "{ends:?}");
}
