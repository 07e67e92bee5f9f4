//! A server on loopback that speaks the chat completions API over real sockets, and fails by a script.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::chat::{ChatCompletion, ChatRequest, Choice, Message, Usage};
use super::clock;
use super::scenario::{Plan, Scenario};

/// How long the server takes to say that it is overloaded.
const REFUSES_AFTER: Duration = Duration::from_millis(60);

/// A server on a port of its own. Stops when it is dropped; [`shutdown`](Self::shutdown) lets it finish.
#[derive(Debug)]
pub struct FakeLlm {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

/// What a server has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Requests that came in, whatever became of them.
    pub requests: u64,
    /// Full answers.
    pub answered: u64,
    /// `429` by the script.
    pub rate_limited: u64,
    /// `429` because it was working on as much as it can.
    pub over_capacity: u64,
    /// Other `4xx`.
    pub client_errors: u64,
    /// `5xx`.
    pub server_errors: u64,
    /// Connections closed before or within an answer.
    pub dropped: u64,
    /// Requests whose client did not wait for the answer.
    pub abandoned: u64,
    /// Requests, and connections, that came in while it was down.
    pub while_down: u64,
    /// The most requests it worked on at once.
    pub most_at_once: usize,
}

#[derive(Debug)]
struct Shared {
    scenario: Scenario,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    attempts: HashMap<u64, u32>,
    working: usize,
    /// Since when the outage is on, or was.
    down_since: Option<Instant>,
}

impl FakeLlm {
    pub async fn start(scenario: Scenario) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            scenario,
            state: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(accept(listener, Arc::clone(&shared), stopped));
        Ok(Self {
            address,
            shared,
            stop,
            server,
        })
    }

    /// Such as `http://127.0.0.1:41234/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn seen(&self) -> Seen {
        self.shared.state().seen
    }

    /// Takes no more requests, finishes those that are there, and says what it has seen.
    pub async fn shutdown(self) -> Seen {
        // Nobody listens any more if the server has ended already.
        let _ = self.stop.send(true);
        let _ = self.server.await;
        self.shared.state().seen
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if shared.turns_away() => drop(stream),
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&shared), stop.clone()));
                }
                // Out of file descriptors, say: connections that end give some back.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            _ = stop.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let answer = service_fn(|request| respond(request, Arc::clone(&shared)));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    // A hangup is an error of the connection, and meant.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stop.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// The connection is closed on purpose.
#[derive(Debug)]
struct Hangup;

impl std::fmt::Display for Hangup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("scripted hangup")
    }
}

impl std::error::Error for Hangup {}

impl From<Infallible> for Hangup {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

type Body = BoxBody<Bytes, Hangup>;

async fn respond(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Hangup> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/v1/chat/completions") => chat(request, &shared).await,
        (&Method::GET, "/v1/models") => Ok(json(
            StatusCode::OK,
            &serde_json::json!({
                "object": "list",
                "data": [{"id": MODEL, "object": "model", "created": CREATED, "owned_by": "nobody"}],
            }),
        )),
        _ => Ok(error(StatusCode::NOT_FOUND, "there is no such thing here")),
    }
}

pub const MODEL: &str = "fake-1";
const CREATED: u64 = 1_700_000_000;

/// What is done with one request, decided when it comes in.
enum Decision {
    Down { says_so: bool },
    OverCapacity,
    Work(Plan),
}

async fn chat(request: Request<Incoming>, shared: &Arc<Shared>) -> Result<Response<Body>, Hangup> {
    let named = prompt_id(request.headers());
    let (visit, decision) = Visit::begin(shared, named);
    let body = Limited::new(request.into_body(), 1 << 20).collect().await;
    let Some(asked) = body
        .ok()
        .and_then(|body| serde_json::from_slice::<ChatRequest>(&body.to_bytes()).ok())
    else {
        return visit.fails(StatusCode::BAD_REQUEST, "this is not a chat request");
    };
    match decision {
        Decision::Down { says_so: false } => visit.hangs_up(),
        Decision::Down { says_so: true } => {
            visit.fails(StatusCode::SERVICE_UNAVAILABLE, "the engine is down")
        }
        Decision::OverCapacity => {
            sleep(REFUSES_AFTER).await;
            visit.refuses(2 * REFUSES_AFTER)
        }
        Decision::Work(Plan::RateLimited { retry_after }) => visit.refuses(retry_after),
        Decision::Work(Plan::DropBefore { after }) => {
            sleep(after).await;
            visit.hangs_up()
        }
        Decision::Work(Plan::Status { after, status }) => {
            sleep(after).await;
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            visit.fails(status, "scripted error")
        }
        Decision::Work(Plan::DropWithin { after }) => {
            sleep(after).await;
            visit.answers_half(&asked)
        }
        Decision::Work(Plan::Answer { after }) => {
            sleep(after).await;
            visit.answers(&asked)
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_down(&self, state: &State) -> bool {
        let lasts = self.scenario.outage.map(|outage| outage.lasts);
        state
            .down_since
            .zip(lasts)
            .is_some_and(|(since, lasts)| clock::now() - since < lasts)
    }

    /// While it is down, not even a connection is to be had.
    fn turns_away(&self) -> bool {
        let mut state = self.state();
        let down = self.is_down(&state);
        if down {
            state.seen.requests += 1;
            state.seen.while_down += 1;
            state.seen.dropped += 1;
        }
        down
    }

    fn decide(&self, state: &mut State, prompt: u64) -> Decision {
        let outage = self.scenario.outage;
        if state.down_since.is_none() && outage.is_some_and(|it| prompt >= it.from) {
            state.down_since = Some(clock::now());
        }
        let attempts = state.attempts.get(&prompt).copied().unwrap_or(0);
        if self.is_down(state) {
            state.seen.while_down += 1;
            let says_so = self.scenario.says_so_while_down(prompt, attempts + 1);
            return Decision::Down { says_so };
        }
        if state.working >= self.scenario.capacity {
            return Decision::OverCapacity;
        }
        // Only what the script decides counts as an attempt: that keeps the script the same whatever the
        // load was.
        state.attempts.insert(prompt, attempts + 1);
        state.working += 1;
        state.seen.most_at_once = state.seen.most_at_once.max(state.working);
        Decision::Work(self.scenario.plan(prompt, attempts + 1))
    }
}

/// One request while it is in the server.
struct Visit {
    shared: Arc<Shared>,
    prompt: u64,
    works: bool,
    ended: bool,
}

impl Visit {
    fn begin(shared: &Arc<Shared>, named: Option<u64>) -> (Self, Decision) {
        let mut state = shared.state();
        let prompt = named.unwrap_or(state.seen.requests);
        state.seen.requests += 1;
        let decision = shared.decide(&mut state, prompt);
        let visit = Self {
            shared: Arc::clone(shared),
            prompt,
            works: matches!(decision, Decision::Work(_)),
            ended: false,
        };
        drop(state);
        (visit, decision)
    }

    /// Counts the end. `false` if the server went down while it worked.
    fn ends(&mut self, count: impl FnOnce(&mut Seen)) -> bool {
        self.ended = true;
        let mut state = self.shared.state();
        let cut_off = self.works && self.shared.is_down(&state);
        match cut_off {
            true => state.seen.dropped += 1,
            false => count(&mut state.seen),
        }
        !cut_off
    }

    fn answers(mut self, asked: &ChatRequest) -> Result<Response<Body>, Hangup> {
        if !self.ends(|seen| seen.answered += 1) {
            return Err(Hangup);
        }
        Ok(json(StatusCode::OK, &completion(self.prompt, asked)))
    }

    fn answers_half(mut self, asked: &ChatRequest) -> Result<Response<Body>, Hangup> {
        self.ends(|seen| seen.dropped += 1);
        let whole = serde_json::to_vec(&completion(self.prompt, asked)).unwrap_or_default();
        let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
        let frames = stream::iter([Ok(Frame::data(half)), Err(Hangup)]);
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
        let headers = response.headers_mut();
        headers.insert("content-type", JSON);
        headers.insert("content-length", whole.len().into());
        Ok(response)
    }

    fn refuses(mut self, retry_after: Duration) -> Result<Response<Body>, Hangup> {
        let works = self.works;
        let refused = self.ends(|seen| match works {
            true => seen.rate_limited += 1,
            false => seen.over_capacity += 1,
        });
        if !refused {
            return Err(Hangup);
        }
        let mut response = error(StatusCode::TOO_MANY_REQUESTS, "slow down");
        let millis = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        let headers = response.headers_mut();
        headers.insert("retry-after", millis.div_ceil(1_000).into());
        headers.insert("retry-after-ms", millis.into());
        Ok(response)
    }

    fn fails(mut self, status: StatusCode, words: &str) -> Result<Response<Body>, Hangup> {
        let fails = self.ends(|seen| match status.is_server_error() {
            true => seen.server_errors += 1,
            false => seen.client_errors += 1,
        });
        if fails {
            Ok(error(status, words))
        } else {
            Err(Hangup)
        }
    }

    fn hangs_up(mut self) -> Result<Response<Body>, Hangup> {
        self.ends(|seen| seen.dropped += 1);
        Err(Hangup)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if self.works {
            state.working -= 1;
        }
        if !self.ended {
            state.seen.abandoned += 1;
        }
    }
}

/// The number at the end of `x-client-request-id: prompt-17`.
fn prompt_id(headers: &HeaderMap) -> Option<u64> {
    let id = headers.get("x-client-request-id");
    let id = id
        .or_else(|| headers.get("idempotency-key"))?
        .to_str()
        .ok()?;
    id.rsplit('-').next()?.parse().ok()
}

/// What the model says to `question`: always the same.
pub fn says(question: &str) -> String {
    format!("You asked: {question} I would have to think about it.")
}

fn completion(prompt: u64, asked: &ChatRequest) -> ChatCompletion {
    let question = asked.question().unwrap_or_default();
    let answer = says(question);
    let tokens = |text: &str| text.split_whitespace().count() as u32;
    let (prompt_tokens, completion_tokens) = (tokens(question), tokens(&answer));
    ChatCompletion {
        id: format!("chatcmpl-{prompt}"),
        object: "chat.completion".into(),
        created: CREATED,
        model: asked.model.clone(),
        choices: vec![Choice {
            index: 0,
            message: Message {
                role: "assistant".into(),
                content: answer,
            },
            finish_reason: "stop".into(),
        }],
        usage: Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
        },
    }
}

const JSON: http::HeaderValue = http::HeaderValue::from_static("application/json");

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let body = Full::new(Bytes::from(bytes)).map_err(Hangup::from);
    let mut response = Response::new(BodyExt::boxed(body));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", JSON);
    response
}

fn error(status: StatusCode, words: &str) -> Response<Body> {
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    };
    let body =
        serde_json::json!({"error": {"message": words, "type": kind, "param": null, "code": null}});
    json(status, &body)
}
