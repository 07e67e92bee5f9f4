//! The real clients, each behind one face.
use std::collections::VecDeque;
use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tower::ServiceExt;
use tower_service::Service;

use crate::Injected;
use crate::wire::{Bad, Fault, FaultIo, When};

pub type BoxError = Box<dyn StdError + Send + Sync>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    HyperH1,
    HyperH2,
    LegacyH1,
    LegacyH2,
    ReqwestH1,
    ReqwestH2,
    /// With its own retries of protocol nacks, as it comes.
    ReqwestDefaultH2,
    Channel,
    Typed,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::HyperH1 => "hyper h1",
            Self::HyperH2 => "hyper h2",
            Self::LegacyH1 => "legacy h1",
            Self::LegacyH2 => "legacy h2",
            Self::ReqwestH1 => "reqwest h1",
            Self::ReqwestH2 => "reqwest h2",
            Self::ReqwestDefaultH2 => "reqwest h2 (own retries)",
            Self::Channel => "tonic Channel",
            Self::Typed => "tonic typed",
        }
    }
    pub fn is_h2(self) -> bool {
        !matches!(self, Self::HyperH1 | Self::LegacyH1 | Self::ReqwestH1)
    }
    pub fn is_tonic(self) -> bool {
        matches!(self, Self::Channel | Self::Typed)
    }
}

pub const H1S: &[Kind] = &[Kind::HyperH1, Kind::LegacyH1, Kind::ReqwestH1];
pub const H2S: &[Kind] = &[
    Kind::HyperH2,
    Kind::LegacyH2,
    Kind::ReqwestH2,
    Kind::Channel,
    Kind::Typed,
];

/// What the request's body does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Up {
    Empty,
    Full(usize),
    /// So many chunks of so many bytes, a while apart.
    Slow(usize, usize, u64),
    /// One chunk, and then it fails.
    Fails,
    /// It fails before its first chunk.
    FailsAtOnce,
    /// It says 10 bytes and has 5.
    Short,
    /// It says 3 bytes and has 5.
    Long,
    /// Never ends.
    Endless,
}

enum Step {
    Chunk(usize),
    Wait(u64),
    Waiting(Pin<Box<tokio::time::Sleep>>),
    Fail,
    Forever,
}

pub struct ProbeBody {
    steps: VecDeque<Step>,
    exact: Option<u64>,
}

impl ProbeBody {
    pub fn new(up: Up) -> Self {
        let mut steps = VecDeque::new();
        let wait = Step::Wait;
        let mut exact = None;
        match up {
            Up::Empty => exact = Some(0),
            Up::Full(n) => {
                steps.push_back(Step::Chunk(n));
                exact = Some(n as u64);
            }
            Up::Slow(n, size, gap) => {
                for _ in 0..n {
                    steps.push_back(Step::Chunk(size));
                    steps.push_back(wait(gap));
                }
            }
            Up::Fails => {
                steps.push_back(Step::Chunk(5));
                steps.push_back(wait(60));
                steps.push_back(Step::Fail);
            }
            Up::FailsAtOnce => steps.push_back(Step::Fail),
            Up::Short | Up::Long => steps.push_back(Step::Chunk(5)),
            Up::Endless => {
                steps.push_back(Step::Chunk(5));
                steps.push_back(Step::Forever);
            }
        }
        Self { steps, exact }
    }
}

impl Body for ProbeBody {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            match self.steps.front_mut() {
                None => return Poll::Ready(None),
                Some(Step::Chunk(n)) => {
                    let n = *n;
                    self.steps.pop_front();
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; n])))));
                }
                Some(Step::Wait(ms)) => {
                    let sleep = Box::pin(tokio::time::sleep(Duration::from_millis(*ms)));
                    self.steps[0] = Step::Waiting(sleep);
                }
                Some(Step::Waiting(sleep)) => {
                    std::task::ready!(sleep.as_mut().poll(cx));
                    self.steps.pop_front();
                }
                Some(Step::Fail) => {
                    self.steps.pop_front();
                    return Poll::Ready(Some(Err(Box::new(Injected("upload body failed")))));
                }
                Some(Step::Forever) => return Poll::Pending,
            }
        }
    }
    fn is_end_stream(&self) -> bool {
        self.steps.is_empty()
    }
    fn size_hint(&self) -> SizeHint {
        match self.exact {
            Some(n) => SizeHint::with_exact(n),
            None => SizeHint::default(),
        }
    }
}

/// How the connection is made.
#[derive(Clone, Debug, Default)]
pub enum Dial {
    #[default]
    Tcp,
    /// Over an I/O that fails.
    Fault(Bad, When),
    /// Making it fails.
    Refuse(Bad),
    /// Making it fails with something that is no io::Error.
    RefuseOther,
    /// TLS of the client, as a PEM of roots for tonic.
    TlsTonic(String, &'static str, Arc<rustls::ClientConfig>),
}

#[derive(Clone, Debug)]
pub struct Opt {
    pub up: Up,
    pub warm: bool,
    /// Between the warm-up (or the connection) and the request.
    pub pause: u64,
    pub dial: Dial,
    pub host: Option<String>,
    pub connect_timeout: Option<u64>,
    pub read_timeout: Option<u64>,
    pub total: Option<u64>,
    pub keepalive: Option<(u64, u64)>,
    pub headers: Vec<(&'static str, String)>,
    pub version: Option<Version>,
    pub eager: bool,
    /// Three at once.
    pub queue: bool,
    pub ready_first: bool,
    pub streaming: bool,
    pub grpc_timeout: Option<u64>,
    pub max_decode: Option<usize>,
    pub max_encode: Option<usize>,
    pub message: usize,
    pub max_header_list: Option<u32>,
    pub method: Option<Method>,
    pub no_retry_canceled: bool,
}

impl Default for Opt {
    fn default() -> Self {
        Self {
            up: Up::Empty,
            warm: false,
            pause: 0,
            dial: Dial::Tcp,
            host: None,
            connect_timeout: None,
            read_timeout: None,
            total: None,
            keepalive: None,
            headers: Vec::new(),
            version: None,
            eager: false,
            queue: false,
            ready_first: false,
            streaming: false,
            grpc_timeout: None,
            max_decode: None,
            max_encode: None,
            message: 5,
            max_header_list: None,
            method: None,
            no_retry_canceled: false,
        }
    }
}

pub struct Got {
    pub label: String,
    pub stage: &'static str,
    pub error: Option<BoxError>,
    pub also: Vec<String>,
}

impl Got {
    fn ok(what: impl Into<String>) -> Self {
        Self {
            label: String::new(),
            stage: "ok",
            error: None,
            also: vec![what.into()],
        }
    }
    pub fn err(stage: &'static str, e: impl Into<BoxError>) -> Self {
        Self {
            label: String::new(),
            stage,
            error: Some(e.into()),
            also: Vec::new(),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Msg {
    #[prost(string, tag = "1")]
    pub text: String,
}

/// A connector with the I/O of our choice.
#[derive(Clone)]
pub struct ProbeConnector {
    addr: std::net::SocketAddr,
    dial: Dial,
    pub fault: Option<Arc<Fault>>,
}

impl Service<Uri> for ProbeConnector {
    type Response = ProbeIo;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<ProbeIo, BoxError>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, _: Uri) -> Self::Future {
        let it = self.clone();
        Box::pin(async move {
            match it.dial {
                Dial::Refuse(bad) => return Err(bad.error().into()),
                Dial::RefuseOther => return Err(Injected("connector failed").into()),
                _ => {}
            }
            let s = TcpStream::connect(it.addr).await?;
            s.set_nodelay(true)?;
            Ok(ProbeIo(TokioIo::new(FaultIo::new(s, it.fault))))
        })
    }
}

pub struct ProbeIo(TokioIo<FaultIo>);
impl Connection for ProbeIo {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
impl hyper::rt::Read for ProbeIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}
impl hyper::rt::Write for ProbeIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

type Boxed = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;
type ConnEnd = Arc<Mutex<Option<String>>>;

#[derive(Clone)]
pub enum Session {
    HyperH1(
        Arc<tokio::sync::Mutex<hyper::client::conn::http1::SendRequest<Boxed>>>,
        ConnEnd,
    ),
    HyperH2(hyper::client::conn::http2::SendRequest<Boxed>, ConnEnd),
    LegacyHttp(hyper_util::client::legacy::Client<HttpConnector, Boxed>),
    LegacyProbe(hyper_util::client::legacy::Client<ProbeConnector, Boxed>),
    LegacyTls(
        hyper_util::client::legacy::Client<hyper_rustls::HttpsConnector<HttpConnector>, Boxed>,
    ),
    Reqwest(reqwest::Client),
    Channel(tonic::transport::Channel),
    Typed(tonic::transport::Channel),
}

pub struct Prepared {
    pub session: Session,
    pub fault: Option<Arc<Fault>>,
    pub base: String,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub async fn prepare(kind: Kind, addr: std::net::SocketAddr, opt: &Opt) -> Result<Prepared, Got> {
    let fault = match opt.dial {
        Dial::Fault(bad, when) => Some(Arc::new(Fault {
            bad,
            when,
            armed: false.into(),
        })),
        _ => None,
    };
    let tls = matches!(opt.dial, Dial::TlsTonic(..));
    let host = opt.host.clone().unwrap_or_else(|| match tls {
        true => format!("localhost:{}", addr.port()),
        false => addr.to_string(),
    });
    let base = match tls {
        true => format!("https://{host}"),
        false => format!("http://{host}"),
    };
    let custom = !matches!(opt.dial, Dial::Tcp | Dial::TlsTonic(..));
    let session = match kind {
        Kind::HyperH1 | Kind::HyperH2 => {
            if let Dial::Refuse(bad) = opt.dial {
                return Err(Got::err("connect", bad.error()));
            }
            let s = TcpStream::connect(addr)
                .await
                .map_err(|e| Got::err("connect", e))?;
            let _ = s.set_nodelay(true);
            let end: ConnEnd = Arc::default();
            let note = end.clone();
            macro_rules! with_io {
                ($io:expr) => {{
                    let io = $io;
                    if kind == Kind::HyperH1 {
                        let (tx, conn) = hyper::client::conn::http1::handshake(io)
                            .await
                            .map_err(|e| Got::err("handshake", e))?;
                        tokio::spawn(async move {
                            let text = match conn.await {
                                Ok(()) => "Ok".to_owned(),
                                Err(e) => crate::chain::signature(&crate::chain::chain(&e)),
                            };
                            *note.lock().unwrap() = Some(text);
                        });
                        Session::HyperH1(Arc::new(tokio::sync::Mutex::new(tx)), end)
                    } else {
                        let mut b = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
                        b.timer(TokioTimer::new());
                        if let Some((every, wait)) = opt.keepalive {
                            b.keep_alive_interval(ms(every))
                                .keep_alive_timeout(ms(wait))
                                .keep_alive_while_idle(true);
                        }
                        if let Some(max) = opt.max_header_list {
                            b.max_header_list_size(max);
                        }
                        let (tx, conn) = b
                            .handshake(io)
                            .await
                            .map_err(|e| Got::err("handshake", e))?;
                        tokio::spawn(async move {
                            let text = match conn.await {
                                Ok(()) => "Ok".to_owned(),
                                Err(e) => crate::chain::signature(&crate::chain::chain(&e)),
                            };
                            *note.lock().unwrap() = Some(text);
                        });
                        Session::HyperH2(tx, end)
                    }
                }};
            }
            match &opt.dial {
                Dial::TlsTonic(_, _, cfg) => {
                    let mut cfg = (**cfg).clone();
                    cfg.alpn_protocols = vec![if kind.is_h2() {
                        b"h2".to_vec()
                    } else {
                        b"http/1.1".to_vec()
                    }];
                    let c = tokio_rustls::TlsConnector::from(Arc::new(cfg));
                    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
                    let s = c
                        .connect(name, s)
                        .await
                        .map_err(|e| Got::err("connect", e))?;
                    with_io!(TokioIo::new(s))
                }
                _ => with_io!(TokioIo::new(FaultIo::new(s, fault.clone()))),
            }
        }
        Kind::LegacyH1 | Kind::LegacyH2 => {
            let mut b = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
            b.timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .http2_only(kind == Kind::LegacyH2);
            if opt.no_retry_canceled {
                b.retry_canceled_requests(false);
            }
            if let Some((every, wait)) = opt.keepalive {
                b.http2_keep_alive_interval(ms(every))
                    .http2_keep_alive_timeout(ms(wait))
                    .http2_keep_alive_while_idle(true);
            }
            if let Some(max) = opt.max_header_list {
                b.http2_max_header_list_size(max);
            }
            let mut http = HttpConnector::new();
            http.set_connect_timeout(opt.connect_timeout.map(ms));
            http.set_nodelay(true);
            match &opt.dial {
                Dial::TlsTonic(_, _, cfg) => {
                    http.enforce_http(false);
                    let https = hyper_rustls::HttpsConnectorBuilder::new()
                        .with_tls_config((**cfg).clone())
                        .https_or_http();
                    let https = match kind {
                        Kind::LegacyH2 => https.enable_http2().wrap_connector(http),
                        _ => https.enable_http1().wrap_connector(http),
                    };
                    Session::LegacyTls(b.build(https))
                }
                _ if custom => Session::LegacyProbe(b.build(ProbeConnector {
                    addr,
                    dial: opt.dial.clone(),
                    fault: fault.clone(),
                })),
                _ => Session::LegacyHttp(b.build(http)),
            }
        }
        Kind::ReqwestH1 | Kind::ReqwestH2 | Kind::ReqwestDefaultH2 => {
            let mut b = reqwest::Client::builder().no_proxy().tcp_nodelay(true);
            if kind != Kind::ReqwestDefaultH2 {
                b = b.retry(reqwest::retry::never());
            }
            b = match kind {
                Kind::ReqwestH1 => b.http1_only(),
                _ => b.http2_prior_knowledge(),
            };
            if let Some(t) = opt.connect_timeout {
                b = b.connect_timeout(ms(t));
            }
            if let Some(t) = opt.read_timeout {
                b = b.read_timeout(ms(t));
            }
            if let Some(t) = opt.total {
                b = b.timeout(ms(t));
            }
            if let Some((every, wait)) = opt.keepalive {
                b = b
                    .http2_keep_alive_interval(ms(every))
                    .http2_keep_alive_timeout(ms(wait))
                    .http2_keep_alive_while_idle(true);
            }
            if let Some(max) = opt.max_header_list {
                b = b.http2_max_header_list_size(max);
            }
            match &opt.dial {
                Dial::TlsTonic(_, _, cfg) => {
                    let mut cfg = (**cfg).clone();
                    cfg.alpn_protocols = vec![if kind.is_h2() {
                        b"h2".to_vec()
                    } else {
                        b"http/1.1".to_vec()
                    }];
                    b = b.tls_backend_preconfigured(cfg);
                }
                Dial::Refuse(_) | Dial::RefuseOther => {
                    b = b.connector_layer(RefuseLayer(opt.dial.clone()))
                }
                _ => {}
            }
            Session::Reqwest(b.build().map_err(|e| Got::err("build", e))?)
        }
        Kind::Channel | Kind::Typed => {
            let mut e = tonic::transport::Endpoint::from_shared(base.clone())
                .map_err(|e| Got::err("build", e))?
                .tcp_nodelay(true);
            if let Some(t) = opt.connect_timeout {
                e = e.connect_timeout(ms(t));
            }
            if let Some(t) = opt.total {
                e = e.timeout(ms(t));
            }
            if let Some((every, wait)) = opt.keepalive {
                e = e
                    .http2_keep_alive_interval(ms(every))
                    .keep_alive_timeout(ms(wait))
                    .keep_alive_while_idle(true);
            }
            if let Some(max) = opt.max_header_list {
                e = e.http2_max_header_list_size(max);
            }
            if let Dial::TlsTonic(pem, name, _) = &opt.dial {
                let mut t = tonic::transport::ClientTlsConfig::new().domain_name(*name);
                if !pem.is_empty() {
                    t = t.ca_certificate(tonic::transport::Certificate::from_pem(pem));
                }
                e = e.tls_config(t).map_err(|e| Got::err("build", e))?;
            }
            let connector = ProbeConnector {
                addr,
                dial: opt.dial.clone(),
                fault: fault.clone(),
            };
            let channel = match (custom, opt.eager) {
                (true, true) => e
                    .connect_with_connector(connector)
                    .await
                    .map_err(|e| Got::err("connect", e))?,
                (true, false) => e.connect_with_connector_lazy(connector),
                (false, true) => e.connect().await.map_err(|e| Got::err("connect", e))?,
                (false, false) => e.connect_lazy(),
            };
            match kind {
                Kind::Channel => Session::Channel(channel),
                _ => Session::Typed(channel),
            }
        }
    };
    Ok(Prepared {
        session,
        fault,
        base,
    })
}

/// Refuses to connect, above reqwest's own connector.
#[derive(Clone)]
struct RefuseLayer(Dial);
impl<S> tower::Layer<S> for RefuseLayer {
    type Service = Refuse<S>;
    fn layer(&self, inner: S) -> Refuse<S> {
        Refuse(inner, self.0.clone())
    }
}
#[derive(Clone)]
struct Refuse<S>(S, Dial);
impl<S, R> Service<R> for Refuse<S>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }
    fn call(&mut self, _: R) -> Self::Future {
        let e: BoxError = match self.1 {
            Dial::Refuse(bad) => bad.error().into(),
            _ => Injected("connector failed").into(),
        };
        Box::pin(async move { Err(e) })
    }
}

impl Prepared {
    pub fn arm(&self) {
        if let Some(f) = &self.fault {
            f.armed.store(true, Ordering::SeqCst);
        }
    }

    pub async fn send(&self, opt: &Opt, up: Up) -> Got {
        let method = opt.method.clone().unwrap_or(match up {
            Up::Empty => Method::GET,
            _ => Method::POST,
        });
        let mut b = Request::builder().method(method.clone());
        let relative = matches!(self.session, Session::HyperH1(..));
        b = b.uri(match relative {
            true => "/".to_owned(),
            false => format!("{}/probe.Probe/Call", self.base),
        });
        if relative {
            b = b.header("host", "probe");
        }
        match up {
            Up::Short => b = b.header("content-length", "10"),
            Up::Long => b = b.header("content-length", "3"),
            _ => {}
        }
        for (n, v) in &opt.headers {
            b = b.header(*n, v);
        }
        if let Some(v) = opt.version {
            b = b.version(v);
        } else if matches!(self.session, Session::Channel(_) | Session::HyperH2(..)) {
            b = b.version(Version::HTTP_2);
        }
        if let Session::Channel(_) = self.session {
            b = b
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            if let Some(t) = opt.grpc_timeout {
                b = b.header("grpc-timeout", format!("{t}m"));
            }
        }
        let body = || ProbeBody::new(up).boxed_unsync();
        async fn read<E: Into<BoxError>>(
            status: http::StatusCode,
            body: impl Body<Data = Bytes, Error = E>,
        ) -> Got {
            match body.collect().await {
                Ok(all) => {
                    let trailers = all
                        .trailers()
                        .map(|t| format!(" trailers={t:?}"))
                        .unwrap_or_default();
                    Got::ok(format!(
                        "{} {}B{trailers}",
                        status.as_u16(),
                        all.to_bytes().len()
                    ))
                }
                Err(e) => Got::err("body", e),
            }
        }
        async fn end(end: &ConnEnd, mut got: Got) -> Got {
            for _ in 0..30 {
                if end.lock().unwrap().is_some() {
                    break;
                }
                tokio::time::sleep(ms(10)).await;
            }
            let text = end.lock().unwrap().clone();
            got.also
                .push(format!("conn task: {}", text.as_deref().unwrap_or("runs")));
            got
        }
        match &self.session {
            Session::HyperH1(tx, conn) => {
                let req = match b.body(body()) {
                    Ok(r) => r,
                    Err(e) => return Got::err("build", e),
                };
                let mut tx = tx.lock().await;
                if opt.ready_first
                    && let Err(e) = tx.ready().await
                {
                    return end(conn, Got::err("ready", e)).await;
                }
                match tx.try_send_request(req).await {
                    Ok(r) => {
                        let (p, b) = r.into_parts();
                        let got = read(p.status, b).await;
                        match got.stage {
                            "ok" => got,
                            _ => end(conn, got).await,
                        }
                    }
                    Err(mut e) => {
                        let back = e.take_message().is_some();
                        let mut got = Got::err("head", e.into_error());
                        got.also
                            .push(format!("message back: {}", if back { "yes" } else { "no" }));
                        end(conn, got).await
                    }
                }
            }
            Session::HyperH2(tx, conn) => {
                let req = match b.body(body()) {
                    Ok(r) => r,
                    Err(e) => return Got::err("build", e),
                };
                let mut tx = tx.clone();
                if opt.ready_first
                    && let Err(e) = tx.ready().await
                {
                    return end(conn, Got::err("ready", e)).await;
                }
                match tx.try_send_request(req).await {
                    Ok(r) => {
                        let (p, b) = r.into_parts();
                        let got = read(p.status, b).await;
                        match got.stage {
                            "ok" => got,
                            _ => end(conn, got).await,
                        }
                    }
                    Err(mut e) => {
                        let back = e.take_message().is_some();
                        let mut got = Got::err("head", e.into_error());
                        got.also
                            .push(format!("message back: {}", if back { "yes" } else { "no" }));
                        end(conn, got).await
                    }
                }
            }
            Session::LegacyHttp(_) | Session::LegacyProbe(_) | Session::LegacyTls(_) => {
                let req = match b.body(body()) {
                    Ok(r) => r,
                    Err(e) => return Got::err("build", e),
                };
                let result = match &self.session {
                    Session::LegacyHttp(c) => c.request(req).await,
                    Session::LegacyProbe(c) => c.request(req).await,
                    Session::LegacyTls(c) => c.request(req).await,
                    _ => unreachable!(),
                };
                match result {
                    Ok(r) => {
                        let (p, b) = r.into_parts();
                        read(p.status, b).await
                    }
                    Err(e) => Got::err("head", e),
                }
            }
            Session::Reqwest(c) => {
                let mut r = c.request(method, format!("{}/", self.base));
                for (n, v) in &opt.headers {
                    r = r.header(*n, v);
                }
                if let Some(v) = opt.version {
                    r = r.version(v);
                }
                match up {
                    Up::Short => r = r.header("content-length", "10"),
                    Up::Long => r = r.header("content-length", "3"),
                    _ => {}
                }
                match up {
                    Up::Empty => {}
                    Up::Full(n) => r = r.body(vec![b'x'; n]),
                    _ => {
                        r = r.body(reqwest::Body::wrap(SyncBody(Mutex::new(Box::pin(
                            ProbeBody::new(up),
                        )))))
                    }
                }
                match r.send().await {
                    Ok(r) => {
                        let status = r.status();
                        match r.bytes().await {
                            Ok(b) => Got::ok(format!("{} {}B", status.as_u16(), b.len())),
                            Err(e) => Got::err("body", e),
                        }
                    }
                    Err(e) => Got::err("head", e),
                }
            }
            Session::Channel(c) => {
                let body = match up {
                    // A gRPC message of nothing.
                    Up::Empty => tonic::body::Body::new(
                        http_body_util::Full::new(Bytes::from_static(&[0, 0, 0, 0, 0]))
                            .map_err(|e| match e {}),
                    ),
                    up => tonic::body::Body::new(ProbeBody::new(up)),
                };
                let req = match b.method(Method::POST).body(body) {
                    Ok(r) => r,
                    Err(e) => return Got::err("build", e),
                };
                let mut c = c.clone();
                if let Err(e) = c.ready().await {
                    return Got::err("ready", e);
                }
                match c.call(req).await {
                    Ok(r) => {
                        let (p, b) = r.into_parts();
                        let mut got = read(p.status, b).await;
                        if let Some(code) = p.headers.get("grpc-status") {
                            got.also.push(format!("head grpc-status={code:?}"));
                        }
                        got
                    }
                    Err(e) => Got::err("head", e),
                }
            }
            Session::Typed(c) => {
                let mut g = tonic::client::Grpc::new(c.clone());
                if let Some(n) = opt.max_decode {
                    g = g.max_decoding_message_size(n);
                }
                if let Some(n) = opt.max_encode {
                    g = g.max_encoding_message_size(n);
                }
                // As the generated code has it.
                if let Err(e) = g.ready().await {
                    let e: BoxError = e.into();
                    return Got::err(
                        "ready",
                        tonic::Status::unknown(format!("Service was not ready: {e}")),
                    );
                }
                let path = http::uri::PathAndQuery::from_static("/probe.Probe/Call");
                let codec = tonic_prost::ProstCodec::<Msg, Msg>::default();
                let msg = Msg {
                    text: "x".repeat(opt.message),
                };
                if let Up::Slow(n, size, gap) = up {
                    let stream = futures::stream::unfold(0, move |i| async move {
                        if i == n {
                            return None;
                        }
                        tokio::time::sleep(ms(gap)).await;
                        Some((
                            Msg {
                                text: "x".repeat(size),
                            },
                            i + 1,
                        ))
                    });
                    return match g
                        .client_streaming(tonic::Request::new(stream), path, codec)
                        .await
                    {
                        Ok(_) => Got::ok("OK"),
                        Err(e) => Got::err("call", e),
                    };
                }
                let mut req = tonic::Request::new(msg);
                if let Some(t) = opt.grpc_timeout {
                    req.set_timeout(ms(t));
                }
                for (n, v) in &opt.headers {
                    if let (Ok(n), Ok(v)) = (
                        tonic::metadata::MetadataKey::from_bytes(n.as_bytes()),
                        v.parse(),
                    ) {
                        req.metadata_mut().insert(n, v);
                    }
                }
                if opt.streaming {
                    return match g.server_streaming(req, path, codec).await {
                        Ok(r) => {
                            let mut s = r.into_inner();
                            let mut n = 0;
                            loop {
                                match s.message().await {
                                    Ok(Some(_)) => n += 1,
                                    Ok(None) => return Got::ok(format!("OK {n} messages")),
                                    Err(e) => return Got::err("stream", e),
                                }
                            }
                        }
                        Err(e) => Got::err("call", e),
                    };
                }
                match g.unary(req, path, codec).await {
                    Ok(_) => Got::ok("OK"),
                    Err(e) => Got::err("call", e),
                }
            }
        }
    }
}

/// reqwest wants its bodies Sync.
struct SyncBody(Mutex<Pin<Box<ProbeBody>>>);
impl Body for SyncBody {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.lock().unwrap().as_mut().poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap().is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap().size_hint()
    }
}
