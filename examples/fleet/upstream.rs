//! What all workers call: an HTTP server on loopback that can die and come back, and that counts.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::support::clock;

#[derive(Clone, Debug, Default)]
pub struct Upstream(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_dead: bool,
    /// When each call came, in microseconds, and from whom: also those that found it dead.
    calls: Vec<(u64, String)>,
}

impl Upstream {
    /// Starts it; its address, too.
    pub async fn start() -> io::Result<(Self, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let upstream = Self::default();
        tokio::spawn(upstream.clone().serve(listener));
        Ok((upstream, url))
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let upstream = self.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let answer = upstream.answer(request.uri().path());
                async move { answer }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            // An error is a connection that was closed: by a client, or because this is dead.
            tokio::spawn(async move {
                let _ = connection.await;
            });
        }
    }

    /// Dead, it closes the connection without an answer.
    fn answer(&self, path: &str) -> io::Result<Response<Full<Bytes>>> {
        let mut state = self.state();
        let from = path.trim_start_matches('/').to_owned();
        state.calls.push((clock::micros(), from));
        match state.is_dead {
            true => Err(io::Error::other("dead")),
            false => Ok(Response::new(Full::from("well"))),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dies, or comes back; when that was.
    pub fn set_dead(&self, is_dead: bool) -> u64 {
        let mut state = self.state();
        state.is_dead = is_dead;
        clock::micros()
    }

    pub fn is_dead(&self) -> bool {
        self.state().is_dead
    }

    /// How many calls came from then until then, and from that worker if one is named.
    pub fn calls(&self, from: u64, until: u64, worker: Option<&str>) -> usize {
        let state = self.state();
        let counts = |(at, caller): &&(u64, String)| {
            (from..until).contains(at) && worker.is_none_or(|it| it == caller)
        };
        state.calls.iter().filter(counts).count()
    }
}
