//! The service that is called: a real HTTP server that does what a test tells it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(super) struct Upstream {
    address: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    hits: Mutex<Vec<String>>,
    /// Statuses to answer with, each with its `Retry-After`; then `200`.
    answers: Mutex<VecDeque<(u16, Option<&'static str>)>>,
    /// `/gate` and the second half of `/stream` take one each.
    gate: Semaphore,
    /// Streams that are sent, or were not read to their end.
    streams: Arc<()>,
}

impl Upstream {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            hits: Mutex::default(),
            answers: Mutex::default(),
            gate: Semaphore::new(0),
            streams: Arc::default(),
        });
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            shared,
            _tasks: tasks,
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Method and path of each request that has come whole.
    pub(super) fn hits(&self) -> Vec<String> {
        self.shared.hits.lock().unwrap().clone()
    }

    pub(super) fn will_answer(&self, status: u16, retry_after: Option<&'static str>) {
        let mut answers = self.shared.answers.lock().unwrap();
        answers.push_back((status, retry_after));
    }

    pub(super) fn let_through(&self, n: usize) {
        self.shared.gate.add_permits(n);
    }

    pub(super) fn streams(&self) -> usize {
        Arc::strong_count(&self.shared.streams) - 1
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let line = format!("{} {}", request.method(), request.uri().path());
    let path = request.uri().path().to_owned();
    let _ = request.into_body().collect().await.unwrap();
    shared.hits.lock().unwrap().push(line);
    if path == "/gate" {
        shared.gate.acquire().await.unwrap().forget();
    }
    if path == "/stream" {
        return Response::new(halves(&shared));
    }
    let next = shared.answers.lock().unwrap().pop_front();
    let (status, retry_after) = next.unwrap_or((200, None));
    let mut response = Response::builder().status(status);
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    response.body(Body::from("done")).unwrap()
}

/// A body whose second half comes when the gate opens.
fn halves(shared: &Arc<Shared>) -> Body {
    let sends = (Arc::clone(shared), Arc::clone(&shared.streams), 0);
    Body::from_stream(stream::unfold(sends, |(shared, counted, n)| async move {
        match n {
            0 => {}
            1 => shared.gate.acquire().await.unwrap().forget(),
            _ => return None,
        }
        let half = Ok::<_, std::io::Error>(Bytes::from_static(b"half"));
        Some((half, (shared, counted, n + 1)))
    }))
}
