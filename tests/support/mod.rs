//! A real HTTP server on loopback whose faults are scripted, request by request.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answers with this status, and a `Retry-After` if there is one.
    Status(u16, Option<u32>),
    /// Closes the connection without an answer.
    Hangup,
    /// Answers once [`Server::release`] is called.
    Hold,
}

#[derive(Default)]
struct Script {
    faults: Mutex<VecDeque<Fault>>,
    requests: AtomicUsize,
    running: AtomicUsize,
    most_running: AtomicUsize,
    arrived: Notify,
    gate: Option<Semaphore>,
}

/// Stops when it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    script: Arc<Script>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// A server that meets the first requests with these faults, and answers `200` from then on.
    pub(crate) async fn start(faults: impl IntoIterator<Item = Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Script {
            faults: Mutex::new(faults.into_iter().collect()),
            gate: Some(Semaphore::new(0)),
            ..Script::default()
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&script)));
        Self {
            address,
            script,
            _tasks: tasks,
        }
    }

    pub(crate) fn uri(&self) -> http::Uri {
        format!("http://{}/", self.address).parse().unwrap()
    }

    /// How many requests have reached it.
    pub(crate) fn requests(&self) -> usize {
        self.script.requests.load(Ordering::SeqCst)
    }

    /// How many it worked on at once, at most.
    pub(crate) fn most_at_once(&self) -> usize {
        self.script.most_running.load(Ordering::SeqCst)
    }

    /// Waits until `n` requests have reached it.
    pub(crate) async fn has_seen(&self, n: usize) {
        loop {
            let arrived = self.script.arrived.notified();
            if self.requests() >= n {
                return;
            }
            arrived.await;
        }
    }

    /// Lets `n` held requests be answered.
    pub(crate) fn release(&self, n: usize) {
        if let Some(gate) = &self.script.gate {
            gate.add_permits(n);
        }
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&script)));
    }
}

async fn serve(stream: TcpStream, script: Arc<Script>) {
    let answer = service_fn(|request: Request<Incoming>| answer(request, Arc::clone(&script)));
    // A hangup is an error of the connection, and meant.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

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

async fn answer(
    _request: Request<Incoming>,
    script: Arc<Script>,
) -> Result<Response<Full<Bytes>>, Hangup> {
    let fault = script.faults.lock().unwrap().pop_front();
    let running = script.running.fetch_add(1, Ordering::SeqCst) + 1;
    script.most_running.fetch_max(running, Ordering::SeqCst);
    script.requests.fetch_add(1, Ordering::SeqCst);
    script.arrived.notify_waiters();
    let (status, retry_after) = match fault {
        None => (200, None),
        Some(Fault::Status(status, retry_after)) => (status, retry_after),
        Some(Fault::Hangup) => {
            script.running.fetch_sub(1, Ordering::SeqCst);
            return Err(Hangup);
        }
        Some(Fault::Hold) => {
            if let Some(gate) = &script.gate
                && let Ok(permit) = gate.acquire().await
            {
                permit.forget();
            }
            (200, None)
        }
    };
    script.running.fetch_sub(1, Ordering::SeqCst);
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
    if let Some(seconds) = retry_after {
        response = response.header(http::header::RETRY_AFTER, seconds);
    }
    Ok(response
        .body(Full::new(Bytes::from_static(b"hello")))
        .unwrap())
}
