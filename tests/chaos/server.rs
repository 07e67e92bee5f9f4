//! A server over HTTP/1 or HTTP/2 that fails by the script, and two addresses where there is none.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response, header::RETRY_AFTER};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::ledger::{Ledger, MS};
use crate::script::{Fault, Look, Route, Scripted, digest};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Scripted>>;

/// Stops when it is dropped.
pub(crate) struct Server {
    addresses: Addresses,
    _unused: TcpSocket,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Fails by the script.
    pub(crate) async fn start(speaks: Speaks, ledger: &Arc<Ledger>) -> Self {
        let ledger = Arc::clone(ledger);
        let handler = move |request, connection| answer(request, Arc::clone(&ledger), connection);
        Self::with(speaks, handler).await
    }

    pub(crate) async fn with<H, Fut>(speaks: Speaks, handler: H) -> Self
    where
        H: Fn(Request<Incoming>, Arc<Connection>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Scripted>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silence = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Bound, so that nobody else can have it, and not listening.
        let unused = TcpSocket::new_v4().unwrap();
        unused.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addresses = Addresses([
            listener.local_addr().unwrap(),
            unused.local_addr().unwrap(),
            silence.local_addr().unwrap(),
        ]);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(serve(stream, speaks, handler.clone()));
            }
        });
        tasks.spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = silence.accept().await {
                held.push(stream);
            }
        });
        Self {
            addresses,
            _unused: unused,
            _tasks: tasks,
        }
    }

    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Addresses([SocketAddr; 3]);

const ROUTES: [Route; 3] = [Route::Server, Route::Nobody, Route::Silence];

impl Addresses {
    pub(crate) fn to(self, route: Route) -> SocketAddr {
        let of = ROUTES.iter().position(|it| *it == route);
        self.0[of.unwrap()]
    }
}

/// What a handler may do to the connection that it answers on.
#[derive(Default)]
pub(crate) struct Connection {
    /// No more requests than those that are on their way.
    pub(crate) goes_away: Notify,
    /// The end, with everything on it.
    pub(crate) dies: Notify,
}

async fn serve<H, Fut>(stream: TcpStream, speaks: Speaks, handler: H)
where
    H: Fn(Request<Incoming>, Arc<Connection>) -> Fut,
    Fut: Future<Output = Result<Answer, Scripted>> + Send + 'static,
{
    let connection = Arc::new(Connection::default());
    let answer = service_fn(|request| handler(request, Arc::clone(&connection)));
    macro_rules! drive {
        ($served:expr) => {{
            let mut served = pin!($served);
            loop {
                tokio::select! {
                    // An error of the connection is meant.
                    _ = served.as_mut() => break,
                    () = connection.dies.notified() => break,
                    () = connection.goes_away.notified() => served.as_mut().graceful_shutdown(),
                }
            }
        }};
    }
    let io = TokioIo::new(stream);
    match speaks {
        Speaks::Http1 => drive!(http1::Builder::new().serve_connection(io, answer)),
        Speaks::Http2 => {
            drive!(http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer))
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    ledger: Arc<Ledger>,
    connection: Arc<Connection>,
) -> Result<Answer, Scripted> {
    let id = request.headers()["x-id"].to_str().unwrap().parse().unwrap();
    let fault = Fault::of(id, ledger.arrived(id));
    if !fault.is_word_that_nothing_was_done() {
        ledger.worked_on(id);
    }
    let all = || async {
        let body = request.into_body().collect().await;
        body.map_or_else(|_| Err(Scripted), |body| Ok(body.to_bytes()))
    };
    match fault {
        Fault::None => {}
        Fault::Slow(delay) => tokio::time::sleep(delay).await,
        Fault::Status(status, when, look) => {
            if look == Look::AtAllOfIt {
                all().await?;
            }
            let mut response = Response::builder().status(status);
            if let Some(when) = when {
                response = response.header(RETRY_AFTER, when);
            }
            return Ok(response.body(whole(Bytes::from_static(b"no"))).unwrap());
        }
        Fault::NoHead(look) => {
            if look == Look::AtAllOfIt {
                all().await?;
            }
            return Err(Scripted);
        }
        Fault::Kill => {
            connection.dies.notify_one();
            return pending().await;
        }
        Fault::Hang => return pending().await,
        Fault::GoAway => connection.goes_away.notify_one(),
        Fault::HalfABody => {
            let body = all().await?;
            let half = body.slice(..body.len() / 2);
            let frames = stream::iter([Ok(Frame::data(half)), Err(Scripted)]).then(async |frame| {
                if frame.is_err() {
                    // For the head to be on its way.
                    tokio::time::sleep(MS).await;
                }
                frame
            });
            return Ok(good(id, &body, StreamBody::new(frames).boxed_unsync()));
        }
    }
    let body = all().await?;
    Ok(good(id, &body, whole(body.clone())))
}

fn good(id: u64, body: &[u8], answer: UnsyncBoxBody<Bytes, Scripted>) -> Answer {
    let response = Response::builder()
        .header("x-id", id)
        .header("x-digest", digest(body));
    response.body(answer).unwrap()
}

fn whole(body: Bytes) -> UnsyncBoxBody<Bytes, Scripted> {
    Full::new(body)
        .map_err(|never| match never {})
        .boxed_unsync()
}
