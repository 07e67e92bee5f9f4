//! Runs one situation with one client.
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::clients::{Got, Kind, Opt, Prepared, Up, prepare};
use crate::rows::{Row, Sent, Truth, judge};
use crate::wire::{Seen, SeenState, Stream};

pub type Server =
    Arc<dyn Fn(Stream, Arc<Seen>, usize) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

#[derive(Clone)]
pub enum Listen {
    Serve(Server),
    Tls(Arc<rustls::ServerConfig>, Server),
    /// Nobody listens there.
    Closed,
    /// The queue of connections is full.
    Full,
}

pub struct Case {
    pub group: &'static str,
    pub what: String,
    pub variant: Option<String>,
    pub truth: Truth,
    pub over: Vec<(Kind, Truth)>,
    /// Truth of those that wait behind the first.
    pub queued: Option<Truth>,
    pub clients: Vec<Kind>,
    pub opt: Opt,
    pub listen: Listen,
    /// The client's thread stands still before the request.
    pub freeze: u64,
    /// A timeout around it all, of tokio.
    pub outer: Option<u64>,
}

impl Case {
    pub fn new(
        group: &'static str,
        what: impl Into<String>,
        truth: Truth,
        clients: &[Kind],
    ) -> Self {
        Self {
            group,
            what: what.into(),
            variant: None,
            truth,
            over: Vec::new(),
            queued: None,
            clients: clients.to_vec(),
            opt: Opt::default(),
            listen: Listen::Closed,
            freeze: 0,
            outer: None,
        }
    }
    pub fn opt(mut self, f: impl FnOnce(&mut Opt)) -> Self {
        f(&mut self.opt);
        self
    }
    pub fn variant(mut self, v: impl Into<String>) -> Self {
        self.variant = Some(v.into());
        self
    }
    pub fn over(mut self, k: Kind, t: Truth) -> Self {
        self.over.push((k, t));
        self
    }
    pub fn queued(mut self, t: Truth) -> Self {
        self.queued = Some(t);
        self.opt.queue = true;
        self
    }
    pub fn freeze(mut self, ms: u64) -> Self {
        self.freeze = ms;
        self
    }
    pub fn outer(mut self, ms: u64) -> Self {
        self.outer = Some(ms);
        self
    }
    pub fn listen(mut self, l: Listen) -> Self {
        self.listen = l;
        self
    }
    pub fn serve<F>(
        mut self,
        f: impl Fn(Stream, Arc<Seen>, usize) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.listen = Listen::Serve(Arc::new(move |s, seen, n| Box::pin(f(s, seen, n))));
        self
    }
    pub fn serve_tls<F>(
        mut self,
        cfg: Arc<rustls::ServerConfig>,
        f: impl Fn(Stream, Arc<Seen>, usize) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.listen = Listen::Tls(cfg, Arc::new(move |s, seen, n| Box::pin(f(s, seen, n))));
        self
    }
}

pub async fn start(
    listen: Listen,
    seen: Arc<Seen>,
) -> (std::net::SocketAddr, Option<tokio::task::JoinHandle<()>>) {
    let count = Arc::new(AtomicUsize::new(0));
    match listen {
        Listen::Closed => {
            let l = TcpListener::bind("127.0.0.1:0").await.unwrap();
            (l.local_addr().unwrap(), None)
        }
        Listen::Full => {
            let s = tokio::net::TcpSocket::new_v4().unwrap();
            s.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let l = s.listen(1).unwrap();
            let addr = l.local_addr().unwrap();
            let mut held = Vec::new();
            for _ in 0..4 {
                let c = tokio::time::timeout(
                    Duration::from_millis(50),
                    tokio::net::TcpStream::connect(addr),
                )
                .await;
                held.push(c);
            }
            let task = tokio::spawn(async move {
                let _keep = (l, held);
                std::future::pending::<()>().await;
            });
            (addr, Some(task))
        }
        Listen::Serve(_) | Listen::Tls(..) => {
            let l = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = l.local_addr().unwrap();
            let task = tokio::spawn(async move {
                let mut conns = JoinSet::new();
                while let Ok((s, _)) = l.accept().await {
                    let _ = s.set_nodelay(true);
                    seen.with(|s| s.conns += 1);
                    let n = count.fetch_add(1, Ordering::SeqCst);
                    let (seen, listen) = (seen.clone(), listen.clone());
                    conns.spawn(async move {
                        match listen {
                            Listen::Serve(f) => f(Stream::Tcp(s), seen, n).await,
                            Listen::Tls(cfg, f) => {
                                let acceptor = tokio_rustls::TlsAcceptor::from(cfg);
                                if let Ok(s) = acceptor.accept(s).await {
                                    seen.with(|s| s.handshakes += 1);
                                    f(Stream::Tls(Box::new(s)), seen, n).await;
                                }
                            }
                            _ => {}
                        }
                    });
                }
            });
            (addr, Some(task))
        }
    }
}

async fn flow(case: &Case, kind: Kind, addr: std::net::SocketAddr) -> Vec<Got> {
    let opt = &case.opt;
    let p = match prepare(kind, addr, opt).await {
        Ok(p) => Arc::new(p),
        Err(got) => return vec![got],
    };
    if opt.warm {
        let warm = Opt {
            streaming: false,
            message: 5,
            headers: vec![],
            version: None,
            method: None,
            ..opt.clone()
        };
        let got = p.send(&warm, Up::Empty).await;
        if got.error.is_some() {
            let mut got = got;
            got.stage = "WARM-UP FAILED";
            return vec![got];
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    if opt.pause > 0 {
        tokio::time::sleep(Duration::from_millis(opt.pause)).await;
    }
    p.arm();
    if case.freeze > 0 {
        std::thread::sleep(Duration::from_millis(case.freeze));
    }
    if opt.queue {
        let mut tasks = Vec::new();
        for label in ["A", "B", "C"] {
            let (p, opt): (Arc<Prepared>, Opt) = (p.clone(), opt.clone());
            tasks.push((
                label,
                tokio::spawn(async move { p.send(&opt, opt.up).await }),
            ));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut out = Vec::new();
        for (label, task) in tasks {
            match tokio::time::timeout(Duration::from_secs(4), task).await {
                Ok(Ok(mut got)) => {
                    got.label = label.into();
                    out.push(got);
                }
                _ => out.push(Got {
                    label: label.into(),
                    stage: "HUNG",
                    error: None,
                    also: vec![],
                }),
            }
        }
        return out;
    }
    match case.outer {
        Some(t) => {
            match tokio::time::timeout(Duration::from_millis(t), p.send(opt, opt.up)).await {
                Ok(got) => vec![got],
                Err(e) => vec![Got::err("head", e)],
            }
        }
        None => {
            let began = std::time::Instant::now();
            let mut got = p.send(opt, opt.up).await;
            if case.what.contains("than its content-length") {
                got.also
                    .push(format!("after {:.1} s", began.elapsed().as_secs_f32()));
            }
            vec![got]
        }
    }
}

pub fn row(
    group: &'static str,
    what: &str,
    variant: Option<String>,
    client: &str,
    tonic: bool,
    mut truth: Truth,
    got: &Got,
    seen: &SeenState,
) -> Row {
    let queued = matches!(got.label.as_str(), "B" | "C");
    let received = match queued {
        true if seen.heads <= 1 => "none".to_owned(),
        true => format!("{} heads", seen.heads),
        false => seen.received(),
    };
    let (links, kind, http, grpc) = match &got.error {
        Some(e) => judge(&**e, tonic),
        None => (vec![], "-".into(), None, None),
    };
    let sig = match got.error {
        Some(_) => crate::chain::signature(&links),
        None if got.stage == "ok" => format!("no error: {}", got.also.join(", ")),
        None => "no end within 8 s".to_owned(),
    };
    // A race that ended with the request handed back: by its type it was never sent, and the server agrees.
    if truth.sent == Sent::Maybe && sig.contains("is_canceled") && seen.heads == 0 {
        truth = crate::rows::truth(Sent::Never, truth.who).graceful();
    }
    // A race that ended the other way: the server saw what was said never to leave.
    let arrived = !received.starts_with("none") && !received.starts_with("bytes");
    if truth.sent == Sent::Never && arrived && !queued {
        truth.sent = Sent::Maybe;
    }
    Row {
        group,
        what: match got.label.is_empty() {
            true => what.to_owned(),
            false => format!(
                "{what}: {}",
                match got.label.as_str() {
                    "A" => "the one in flight",
                    "B" => "the 2nd, pending open",
                    "C" => "the 3rd, in the queue",
                    other => other,
                }
            ),
        },
        variant,
        client: client.to_owned(),
        stage: got.stage.to_owned(),
        links,
        sig,
        received,
        response: seen.responded.unwrap_or("no").to_owned(),
        truth,
        kind,
        http,
        grpc,
        tonic,
        expect: None,
    }
}

pub fn run(case: &Case, kind: Kind, servers: &tokio::runtime::Handle) -> Vec<Row> {
    let seen = Arc::new(Seen::default());
    let (addr, task) = servers.block_on(start(case.listen.clone(), seen.clone()));
    let client = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let gots = client.block_on(async {
        let gots = tokio::time::timeout(Duration::from_secs(8), flow(case, kind, addr)).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
        gots.unwrap_or_else(|_| {
            vec![Got {
                label: String::new(),
                stage: "HUNG",
                error: None,
                also: vec![],
            }]
        })
    });
    let state = seen.get();
    client.shutdown_background();
    if let Some(task) = task {
        task.abort();
    }
    let of_kind = case
        .over
        .iter()
        .find(|(k, _)| *k == kind)
        .map_or(case.truth, |(_, t)| *t);
    gots.iter()
        .map(|got| {
            let truth = match (&*got.label, case.queued) {
                ("B" | "C", Some(t)) => t,
                _ => of_kind,
            };
            row(
                case.group,
                &case.what,
                case.variant.clone(),
                kind.name(),
                kind.is_tonic(),
                truth,
                got,
                &state,
            )
        })
        .collect()
}
