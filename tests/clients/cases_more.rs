//! What needs a scene of its own: user errors, redirects, runtimes that end, layers, a real tonic server.
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_bulwark::http::HttpClassify;
use tower_service::Service;

use crate::Injected;
use crate::cases::{BEGUN, MAYBE_SVC, NEVER_NET, OWN};
use crate::clients::{BoxError, Got, Kind, Opt, Prepared, Up, prepare};
use crate::rows::{Row, Said, Sent, Truth, Who, truth};
use crate::run::{Listen, Server, row, start};
use crate::wire::{H1, H2, Seen, grpc_head};

const LOCAL: Truth = truth(Sent::Local, Who::Caller);

pub type Rows = Vec<Row>;

fn block<T>(f: impl Future<Output = T>) -> T {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let out = rt.block_on(async {
        tokio::time::timeout(Duration::from_secs(8), f)
            .await
            .expect("a scene hung")
    });
    rt.shutdown_background();
    out
}

fn serve<F>(
    f: impl Fn(crate::wire::Stream, Arc<Seen>, usize) -> F + Send + Sync + 'static,
) -> Listen
where
    F: Future<Output = ()> + Send + 'static,
{
    let f: Server = Arc::new(move |s, seen, n| Box::pin(f(s, seen, n)));
    Listen::Serve(f)
}

fn put(
    rows: &mut Rows,
    g: &'static str,
    what: &str,
    client: &str,
    tonic: bool,
    t: Truth,
    got: Got,
    seen: &Seen,
) {
    rows.push(row(g, what, None, client, tonic, t, &got, &seen.get()));
}

/// Makes rows.
pub type Scene = fn(&mut Rows, &tokio::runtime::Handle);

pub const SCENES: &[Scene] = &[user, reqwest_own, runtimes, layers, real_tonic];

type Client = hyper_util::client::legacy::Client<
    hyper_util::client::legacy::connect::HttpConnector,
    Full<Bytes>,
>;

fn legacy() -> Client {
    hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http()
}

fn user(rows: &mut Rows, servers: &tokio::runtime::Handle) {
    let g = "10 caller's fault";
    let none = Seen::default();
    let empty = || Full::<Bytes>::default();
    let ok = || {
        serve(|s, seen, _| async move {
            let mut h = H1::new(s, seen);
            while h.request().await.is_some() {
                h.respond("whole", crate::cases::OK).await;
            }
        })
    };
    let h2_ok = || {
        serve(|s, seen, _| async move {
            let Some(mut h) = H2::open(s, seen, &[]).await else {
                return;
            };
            while let Some(sid) = h.request().await {
                h.respond("whole", sid, &[0x88], true).await;
            }
        })
    };
    let start_on = |l: Listen| {
        let seen = Arc::new(Seen::default());
        let (addr, task) = servers.block_on(start(l, seen.clone()));
        (addr, seen, task)
    };
    // http
    let e = Request::builder().uri("http://[").body(()).unwrap_err();
    put(
        rows,
        g,
        "URI that cannot be parsed",
        "http",
        false,
        OWN,
        Got::err("build", e),
        &none,
    );
    let e = Request::builder().header("x", "a\nb").body(()).unwrap_err();
    put(
        rows,
        g,
        "header value with a line end",
        "http",
        false,
        OWN,
        Got::err("build", e),
        &none,
    );
    // legacy
    let cases: Vec<(&str, Request<Full<Bytes>>)> = vec![
        ("relative URI", Request::get("/x").body(empty()).unwrap()),
        (
            "HTTP/0.9",
            Request::get("http://127.0.0.1:1/")
                .version(Version::HTTP_09)
                .body(empty())
                .unwrap(),
        ),
        (
            "CONNECT with HTTP/1.0",
            Request::connect("127.0.0.1:1")
                .version(Version::HTTP_10)
                .body(empty())
                .unwrap(),
        ),
        (
            "https without TLS",
            Request::get("https://127.0.0.1:1/").body(empty()).unwrap(),
        ),
    ];
    for (what, req) in cases {
        let e = block(async { legacy().request(req).await.unwrap_err() });
        put(
            rows,
            g,
            what,
            "legacy h1",
            false,
            OWN,
            Got::err("head", e),
            &none,
        );
    }
    let (addr, seen, _t) = start_on(ok());
    let e = block(async {
        legacy()
            .request(
                Request::get(format!("http://{addr}/"))
                    .version(Version::HTTP_2)
                    .body(empty())
                    .unwrap(),
            )
            .await
            .unwrap_err()
    });
    put(
        rows,
        g,
        "HTTP/2 asked of an HTTP/1 connection",
        "legacy h1",
        false,
        OWN,
        Got::err("head", e),
        &seen,
    );
    // hyper h2 and its siblings
    for (what, method, up) in [
        ("h2: relative URI", Method::GET, Up::Empty),
        ("h2: CONNECT with a body", Method::CONNECT, Up::Full(3)),
    ] {
        let (addr, seen, _t) = start_on(h2_ok());
        let got = block(async {
            let s = tokio::net::TcpStream::connect(addr).await.unwrap();
            let (mut tx, conn) = hyper::client::conn::http2::handshake(
                hyper_util::rt::TokioExecutor::new(),
                hyper_util::rt::TokioIo::new(s),
            )
            .await
            .unwrap();
            tokio::spawn(conn);
            let mut b = Request::builder()
                .method(method.clone())
                .version(Version::HTTP_2);
            b = b.uri(if method == Method::CONNECT {
                "127.0.0.1:1"
            } else {
                "/x"
            });
            if method == Method::CONNECT {
                b = b.header("content-length", "3");
            }
            let req = b
                .body(crate::clients::ProbeBody::new(up).boxed_unsync())
                .unwrap();
            match tx.try_send_request(req).await {
                Ok(_) => Got {
                    label: String::new(),
                    stage: "ok",
                    error: None,
                    also: vec![],
                },
                Err(mut e) => {
                    let back = e.take_message().is_some();
                    let mut got = Got::err("head", e.into_error());
                    got.also
                        .push(format!("message back: {}", if back { "yes" } else { "no" }));
                    got
                }
            }
        });
        put(rows, g, what, "hyper h2", false, OWN, got, &seen);
    }
    // reqwest
    let rq = || {
        reqwest::Client::builder()
            .no_proxy()
            .retry(reqwest::retry::never())
    };
    for (what, url) in [
        ("relative URL", "/x"),
        ("scheme ftp", "ftp://127.0.0.1/"),
        ("no host", "http://"),
        ("scheme that is none", "127.0.0.1:80/x"),
    ] {
        let e = block(async { rq().build().unwrap().get(url).send().await.unwrap_err() });
        put(
            rows,
            g,
            what,
            "reqwest",
            false,
            OWN,
            Got::err("head", e),
            &none,
        );
    }
    let e = block(async {
        rq().build()
            .unwrap()
            .get("http://127.0.0.1:1/")
            .header("x", "a\nb")
            .send()
            .await
            .unwrap_err()
    });
    put(
        rows,
        g,
        "header value with a line end",
        "reqwest",
        false,
        OWN,
        Got::err("head", e),
        &none,
    );
    let e = block(async {
        rq().https_only(true)
            .build()
            .unwrap()
            .get("http://127.0.0.1:1/")
            .send()
            .await
            .unwrap_err()
    });
    put(
        rows,
        g,
        "http with https_only",
        "reqwest",
        false,
        OWN,
        Got::err("head", e),
        &none,
    );
    let e = block(async {
        let bad: std::collections::HashMap<Vec<u8>, u8> = [(vec![1], 1)].into();
        rq().build()
            .unwrap()
            .post("http://127.0.0.1:1/")
            .json(&bad)
            .send()
            .await
            .unwrap_err()
    });
    put(
        rows,
        g,
        "JSON that cannot be written",
        "reqwest",
        false,
        OWN,
        Got::err("head", e),
        &none,
    );
    let (addr, seen, _t) = start_on(ok());
    let e = block(async {
        rq().http1_only()
            .build()
            .unwrap()
            .get(format!("http://{addr}/"))
            .version(Version::HTTP_2)
            .send()
            .await
    });
    if let Err(e) = e {
        put(
            rows,
            g,
            "HTTP/2 asked of an HTTP/1 connection",
            "reqwest h1",
            false,
            OWN,
            Got::err("head", e),
            &seen,
        )
    }
    // tonic
    let e = tonic::transport::Endpoint::from_shared("http://[").unwrap_err();
    put(
        rows,
        g,
        "URI that cannot be parsed",
        "tonic Endpoint",
        true,
        OWN,
        Got::err("build", e),
        &none,
    );
    let e = tonic::transport::Endpoint::from_static("http://127.0.0.1:1")
        .user_agent("a\nb")
        .unwrap_err();
    put(
        rows,
        g,
        "user agent with a line end",
        "tonic Endpoint",
        true,
        OWN,
        Got::err("build", e),
        &none,
    );
    for kind in [Kind::Channel, Kind::Typed] {
        let (addr, _seen, _t) = start_on(h2_ok());
        let base = format!("https://{addr}");
        let got = block(async {
            let c = tonic::transport::Endpoint::from_shared(base.clone())
                .unwrap()
                .connect_lazy();
            let session = if kind == Kind::Channel {
                crate::clients::Session::Channel(c)
            } else {
                crate::clients::Session::Typed(c)
            };
            let p = Prepared {
                session,
                fault: None,
                base,
            };
            p.send(&Opt::default(), Up::Empty).await
        });
        put(
            rows,
            g,
            "https without TLS",
            kind.name(),
            true,
            OWN,
            got,
            &none,
        );
    }
}

fn reqwest_own(rows: &mut Rows, servers: &tokio::runtime::Handle) {
    let g = "11 reqwest's own";
    let start_on = |l: Listen| {
        let seen = Arc::new(Seen::default());
        let (addr, task) = servers.block_on(start(l, seen.clone()));
        (addr, seen, task)
    };
    let always = |text: &'static str| {
        serve(move |s, seen, _| async move {
            let mut h = H1::new(s, seen);
            while h.request().await.is_some() {
                h.respond("whole", text).await;
            }
        })
    };
    let rq = || {
        reqwest::Client::builder()
            .no_proxy()
            .retry(reqwest::retry::never())
    };
    // Redirects.
    for (what, text) in [
        (
            "too many redirects",
            "HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "redirect to ftp",
            "HTTP/1.1 302 Found\r\nlocation: ftp://x/\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "redirect to what is no URL",
            "HTTP/1.1 302 Found\r\nlocation: http://[\r\ncontent-length: 0\r\n\r\n",
        ),
    ] {
        let (addr, seen, _t) = start_on(always(text));
        let got = block(async {
            match rq()
                .build()
                .unwrap()
                .get(format!("http://{addr}/"))
                .send()
                .await
            {
                Ok(r) => Got {
                    label: String::new(),
                    stage: "ok",
                    error: None,
                    also: vec![r.status().to_string()],
                },
                Err(e) => Got::err("head", e),
            }
        });
        put(
            rows,
            g,
            what,
            "reqwest h1",
            false,
            BEGUN.graceful(),
            got,
            &seen,
        );
    }
    let (addr, seen, _t) = start_on(always(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    ));
    let got = block(async {
        let e = rq()
            .build()
            .unwrap()
            .post(format!("http://{addr}/"))
            .body("x")
            .send()
            .await
            .unwrap_err();
        let url = e.url().map(|u| u.port() == Some(addr.port()));
        let mut got = Got::err("head", e);
        got.also
            .push(format!("error.url() is the first URL: {url:?}"));
        got
    });
    put(
        rows,
        g,
        "POST answered by 302 to a host that refuses",
        "reqwest h1",
        false,
        BEGUN,
        got,
        &seen,
    );
    let (addr, seen, _t) = start_on(always(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    ));
    let got = block(async {
        Got::err(
            "head",
            rq().build()
                .unwrap()
                .post(format!("http://{addr}/"))
                .body("x")
                .send()
                .await
                .unwrap_err(),
        )
    });
    put(
        rows,
        g,
        "POST answered by 307 to a host that refuses",
        "reqwest h1",
        false,
        truth(Sent::SureNot, Who::Service),
        got,
        &seen,
    );
    let (addr, seen, _t) = start_on(always(
        "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
    ));
    let got = block(async {
        let policy = reqwest::redirect::Policy::custom(|a| a.error(Injected("policy says no")));
        Got::err(
            "head",
            rq().redirect(policy)
                .build()
                .unwrap()
                .get(format!("http://{addr}/"))
                .send()
                .await
                .unwrap_err(),
        )
    });
    put(
        rows,
        g,
        "redirect refused by the caller's policy",
        "reqwest h1",
        false,
        truth(Sent::Local, Who::Caller),
        got,
        &seen,
    );
    // error_for_status
    for status in [
        "400", "401", "404", "408", "409", "429", "500", "501", "503",
    ] {
        let text: &'static str =
            Box::leak(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").into_boxed_str());
        let (addr, seen, _t) = start_on(always(text));
        let (got, head) = block(async {
            let r = rq()
                .build()
                .unwrap()
                .get(format!("http://{addr}/"))
                .send()
                .await
                .unwrap();
            let head = Said::of(&HttpClassify::new().head(r.status(), r.headers())).text();
            (Got::err("status", r.error_for_status().unwrap_err()), head)
        });
        let mut r = row(
            g,
            "error_for_status, ‹status›",
            Some(status.into()),
            "reqwest h1",
            false,
            truth(Sent::Answered, Who::Service),
            &got,
            &seen.get(),
        );
        r.expect = Some(head);
        rows.push(r);
    }
    // JSON
    for (what, text, t) in [
        (
            "json(): no JSON",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            BEGUN,
        ),
        (
            "json(): JSON of another type",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\"hi\"",
            BEGUN,
        ),
        (
            "json(): ends too soon",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n[",
            BEGUN,
        ),
        (
            "json(): body cut",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n[",
            BEGUN,
        ),
    ] {
        let cut = what.ends_with("cut");
        let (addr, seen, _t) = start_on(serve(move |s, seen, _| async move {
            let mut h = H1::new(s, seen);
            h.request().await;
            h.respond("part", text).await;
            match cut {
                true => h.fin().await,
                false => h.watch(300).await,
            }
        }));
        let got = block(async {
            Got::err(
                "body",
                rq().build()
                    .unwrap()
                    .get(format!("http://{addr}/"))
                    .send()
                    .await
                    .unwrap()
                    .json::<Vec<u8>>()
                    .await
                    .unwrap_err(),
            )
        });
        put(rows, g, what, "reqwest h1", false, t, got, &seen);
    }
    let (addr, seen, _t) = start_on(serve(move |s, seen, _| async move {
        let mut h = H1::new(s, seen);
        h.request().await;
        h.respond("part", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal")
            .await;
        h.fin().await;
    }));
    let got = block(async {
        use futures::StreamExt;
        let mut s = rq()
            .build()
            .unwrap()
            .get(format!("http://{addr}/"))
            .send()
            .await
            .unwrap()
            .bytes_stream();
        loop {
            match s.next().await {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Got::err("body", e),
                None => {
                    return Got {
                        label: String::new(),
                        stage: "ok",
                        error: None,
                        also: vec![],
                    };
                }
            }
        }
    });
    put(
        rows,
        g,
        "bytes_stream(): body cut",
        "reqwest h1",
        false,
        BEGUN,
        got,
        &seen,
    );
    let (addr, seen, _t) = start_on(serve(move |s, seen, _| async move {
        let mut h = H1::new(s, seen);
        h.request().await;
        h.respond("part", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal")
            .await;
        h.fin().await;
    }));
    let got = block(async {
        let mut r = rq()
            .build()
            .unwrap()
            .get(format!("http://{addr}/"))
            .send()
            .await
            .unwrap();
        loop {
            match r.chunk().await {
                Ok(Some(_)) => {}
                Err(e) => return Got::err("body", e),
                Ok(None) => {
                    return Got {
                        label: String::new(),
                        stage: "ok",
                        error: None,
                        also: vec![],
                    };
                }
            }
        }
    });
    put(
        rows,
        g,
        "chunk(): body cut",
        "reqwest h1",
        false,
        BEGUN,
        got,
        &seen,
    );
    let (addr, seen, _t) = start_on(serve(move |s, seen, _| async move {
        let mut h = H1::new(s, seen);
        h.request().await;
        h.respond("part", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal")
            .await;
        h.fin().await;
    }));
    let got = block(async {
        let r = rq()
            .build()
            .unwrap()
            .get(format!("http://{addr}/"))
            .send()
            .await
            .unwrap();
        let r: http::Response<reqwest::Body> = r.into();
        match r.into_body().collect().await {
            Ok(_) => Got {
                label: String::new(),
                stage: "ok",
                error: None,
                also: vec![],
            },
            Err(e) => Got::err("body", e),
        }
    });
    put(
        rows,
        g,
        "as http::Response<reqwest::Body>: body cut",
        "reqwest h1",
        false,
        BEGUN,
        got,
        &seen,
    );
    // Upgrade.
    let (addr, seen, _t) = start_on(always("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
    let got = block(async {
        Got::err(
            "upgrade",
            rq().build()
                .unwrap()
                .get(format!("http://{addr}/"))
                .send()
                .await
                .unwrap()
                .upgrade()
                .await
                .unwrap_err(),
        )
    });
    put(
        rows,
        g,
        "upgrade() of what was not upgraded",
        "reqwest h1",
        false,
        BEGUN.graceful(),
        got,
        &seen,
    );
    // Proxies.
    let none = Seen::default();
    let got = block(async {
        let c = reqwest::Client::builder()
            .proxy(reqwest::Proxy::all("http://127.0.0.1:1").unwrap())
            .retry(reqwest::retry::never())
            .build()
            .unwrap();
        Got::err(
            "head",
            c.get("http://probe.test/").send().await.unwrap_err(),
        )
    });
    put(
        rows,
        g,
        "proxy refused",
        "reqwest h1",
        false,
        NEVER_NET,
        got,
        &none,
    );
    for (what, text, t) in [
        (
            "proxy answers CONNECT with 407",
            "HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n",
            truth(Sent::Never, Who::Caller),
        ),
        (
            "proxy answers CONNECT with 502",
            "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
            NEVER_NET,
        ),
        ("proxy closes on CONNECT", "", NEVER_NET),
    ] {
        let (addr, _seen, _t) = start_on(serve(move |s, seen, _| async move {
            let mut h = H1::new(s, seen);
            h.request().await;
            h.send(text).await;
            h.fin().await;
        }));
        let got = block(async {
            let pki = crate::tls::Pki::new("x");
            let c = reqwest::Client::builder()
                .tls_backend_preconfigured((*pki.client()).clone())
                .proxy(reqwest::Proxy::all(format!("http://{addr}")).unwrap())
                .retry(reqwest::retry::never())
                .build()
                .unwrap();
            Got::err(
                "head",
                c.get("https://probe.test/").send().await.unwrap_err(),
            )
        });
        put(rows, g, what, "reqwest h1", false, t, got, &none);
    }
}

fn runtimes(rows: &mut Rows, servers: &tokio::runtime::Handle) {
    let g = "12 runtime, panics";
    let h1 = || {
        serve(|s, seen, _| async move {
            let mut h = H1::new(s, seen);
            h.warm().await;
            h.watch(2_000).await;
        })
    };
    let h2 = || {
        serve(|s, seen, _| async move {
            let Some(mut h) = H2::open(s, seen, &[]).await else {
                return;
            };
            h.warm(true).await;
            h.watch(2_000).await;
        })
    };
    let own = truth(Sent::Maybe, Who::Caller);
    for kind in [
        Kind::HyperH1,
        Kind::HyperH2,
        Kind::LegacyH1,
        Kind::LegacyH2,
        Kind::ReqwestH1,
        Kind::ReqwestH2,
        Kind::Channel,
        Kind::Typed,
    ] {
        for before in [false, true] {
            let seen = Arc::new(Seen::default());
            let (addr, _t) =
                servers.block_on(start(if kind.is_h2() { h2() } else { h1() }, seen.clone()));
            let a = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let b = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let p = a.block_on(async {
                let opt = Opt::default();
                let Ok(p) = prepare(kind, addr, &opt).await else {
                    panic!("no connection")
                };
                p.send(&opt, Up::Empty).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                Arc::new(p)
            });
            let go = {
                let p = p.clone();
                async move {
                    tokio::time::timeout(Duration::from_secs(3), async {
                        p.send(&Opt::default(), Up::Empty).await
                    })
                    .await
                }
            };
            let got = if before {
                a.shutdown_timeout(Duration::from_millis(200));
                b.block_on(go)
            } else {
                let task = b.spawn(go);
                std::thread::sleep(Duration::from_millis(150));
                a.shutdown_timeout(Duration::from_millis(200));
                b.block_on(task).unwrap()
            };
            let got = got.unwrap_or(Got {
                label: String::new(),
                stage: "HUNG",
                error: None,
                also: vec![],
            });
            let (what, t) = match before {
                true => (
                    "the connection's runtime ended before the request",
                    truth(Sent::Never, Who::Caller),
                ),
                false => (
                    "the connection's runtime ended while the request was in flight",
                    own,
                ),
            };
            put(rows, g, what, kind.name(), kind.is_tonic(), t, got, &seen);
            b.shutdown_background();
        }
    }
    // A body that panics takes the connection with it.
    struct Panics;
    impl http_body::Body for Panics {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            panic!("a body's panic")
        }
    }
    for two in [false, true] {
        let seen = Arc::new(Seen::default());
        let l = if two {
            serve(|s, seen, _| async move {
                let Some(mut h) = H2::open(s, seen, &[]).await else {
                    return;
                };
                h.watch(1_000).await;
            })
        } else {
            serve(|s, seen, _| async move { H1::new(s, seen).watch(1_000).await })
        };
        let (addr, _t) = servers.block_on(start(l, seen.clone()));
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let got = block(async {
            let mut b =
                hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
            b.http2_only(two);
            let c: hyper_util::client::legacy::Client<_, Panics> = b.build_http();
            match tokio::time::timeout(
                Duration::from_secs(2),
                c.request(
                    Request::post(format!("http://{addr}/"))
                        .body(Panics)
                        .unwrap(),
                ),
            )
            .await
            {
                Ok(Err(e)) => Got::err("head", e),
                Ok(Ok(_)) => Got {
                    label: String::new(),
                    stage: "ok",
                    error: None,
                    also: vec![],
                },
                Err(_) => Got {
                    label: String::new(),
                    stage: "HUNG",
                    error: None,
                    also: vec![],
                },
            }
        });
        std::panic::set_hook(hook);
        put(
            rows,
            g,
            "upload body panics",
            if two { "legacy h2" } else { "legacy h1" },
            false,
            OWN,
            got,
            &seen,
        );
    }
}

fn layers(rows: &mut Rows, servers: &tokio::runtime::Handle) {
    let g = "13 layers";
    let none = Seen::default();
    let silent = || serve(|s, seen, _| async move { H1::new(s, seen).watch(2_000).await });
    let get = |addr: std::net::SocketAddr| {
        Request::get(format!("http://{addr}/"))
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    fn of<T>(r: Result<T, BoxError>) -> Got {
        match r {
            Ok(_) => Got {
                label: String::new(),
                stage: "ok",
                error: None,
                also: vec![],
            },
            Err(e) => Got::err("call", e),
        }
    }
    // tower timeout
    for (what, l, t) in [
        ("tower timeout, no answer", silent(), MAYBE_SVC),
        ("tower timeout, backlog full", Listen::Full, NEVER_NET),
    ] {
        let seen = Arc::new(Seen::default());
        let (addr, _t) = servers.block_on(start(l, seen.clone()));
        let got = block(async {
            of(ServiceBuilder::new()
                .timeout(Duration::from_millis(200))
                .service(legacy())
                .oneshot(get(addr))
                .await)
        });
        put(rows, g, what, "tower over legacy", false, t, got, &seen);
    }
    {
        let seen = Arc::new(Seen::default());
        let (addr, _t) = servers.block_on(start(silent(), seen.clone()));
        let got = block(async {
            let c = tonic::transport::Endpoint::from_shared(format!("http://{addr}"))
                .unwrap()
                .connect_lazy();
            let req = Request::post(format!("http://{addr}/p.P/C"))
                .body(tonic::body::Body::empty())
                .unwrap();
            of(ServiceBuilder::new()
                .timeout(Duration::from_millis(200))
                .service(c)
                .oneshot(req)
                .await)
        });
        put(
            rows,
            g,
            "tower timeout, no answer",
            "tower over Channel",
            true,
            MAYBE_SVC,
            got,
            &seen,
        );
    }
    // tower limits
    #[derive(Clone)]
    struct NeverReady;
    impl Service<()> for NeverReady {
        type Response = ();
        type Error = BoxError;
        type Future = std::future::Ready<Result<(), BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Pending
        }
        fn call(&mut self, (): ()) -> Self::Future {
            std::future::ready(Ok(()))
        }
    }
    #[derive(Clone)]
    struct NotReady;
    impl Service<()> for NotReady {
        type Response = ();
        type Error = BoxError;
        type Future = std::future::Ready<Result<(), BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Err(Box::new(std::io::Error::from(
                std::io::ErrorKind::ConnectionReset,
            ))))
        }
        fn call(&mut self, (): ()) -> Self::Future {
            std::future::ready(Ok(()))
        }
    }
    for tonic in [false, true] {
        let client = if tonic {
            "tower (by GrpcClassify)"
        } else {
            "tower"
        };
        let got = block(async {
            of(ServiceBuilder::new()
                .load_shed()
                .service(NeverReady)
                .oneshot(())
                .await)
        });
        put(rows, g, "load_shed", client, tonic, LOCAL, got, &none);
        let got = block(async {
            let svc = ServiceBuilder::new()
                .load_shed()
                .concurrency_limit(1)
                .service_fn(|()| std::future::pending::<Result<(), BoxError>>());
            let held = tokio::spawn(svc.clone().oneshot(()));
            tokio::time::sleep(Duration::from_millis(20)).await;
            let got = of(svc.oneshot(()).await);
            held.abort();
            got
        });
        put(
            rows,
            g,
            "load_shed over a full concurrency_limit",
            client,
            tonic,
            LOCAL,
            got,
            &none,
        );
        let got = block(async {
            let mut svc = ServiceBuilder::new()
                .load_shed()
                .rate_limit(1, Duration::from_secs(5))
                .service_fn(|()| async { Ok::<_, BoxError>(()) });
            svc.ready().await.unwrap().call(()).await.unwrap();
            of(svc.ready().await.unwrap().call(()).await)
        });
        put(
            rows,
            g,
            "load_shed over a used-up rate_limit",
            client,
            tonic,
            LOCAL,
            got,
            &none,
        );
        let got = block(async {
            let svc = ServiceBuilder::new()
                .timeout(Duration::from_millis(50))
                .concurrency_limit(1)
                .service_fn(|()| std::future::pending::<Result<(), BoxError>>());
            of(svc.oneshot(()).await)
        });
        put(
            rows,
            g,
            "tower timeout",
            client,
            tonic,
            MAYBE_SVC,
            got,
            &none,
        );
        let got = block(async { of(tower::buffer::Buffer::new(NotReady, 4).oneshot(()).await) });
        put(
            rows,
            g,
            "buffer: the service below is not ready (its error: ConnectionReset)",
            client,
            tonic,
            truth(Sent::Never, Who::Service),
            got,
            &none,
        );
        let got = {
            let rt = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let svc = rt.block_on(async { tower::buffer::Buffer::new(NeverReady, 4) });
            rt.shutdown_background();
            block(async { of(svc.oneshot(()).await) })
        };
        put(
            rows,
            g,
            "buffer: its worker is gone",
            client,
            tonic,
            LOCAL,
            got,
            &none,
        );
        let got = block(async {
            let svc = ServiceBuilder::new()
                .filter(|(): ()| Err::<(), BoxError>(Box::new(Injected("filtered"))))
                .service_fn(|()| async { Ok::<_, BoxError>(()) });
            of(svc.oneshot(()).await)
        });
        put(rows, g, "filter", client, tonic, OWN, got, &none);
    }
    // tower-http
    {
        let seen = Arc::new(Seen::default());
        let (addr, _t) = servers.block_on(start(silent(), seen.clone()));
        let got = block(async {
            let svc = tower_http::timeout::TimeoutLayer::with_status_code(
                http::StatusCode::GATEWAY_TIMEOUT,
                Duration::from_millis(200),
            )
            .layer(legacy().map_response(
                |r: http::Response<hyper::body::Incoming>| r.map(|b| b.boxed_unsync()),
            ));
            let svc = tower::ServiceExt::<Request<Full<Bytes>>>::map_response(svc, |r| r.status());
            match svc.oneshot(get(addr)).await {
                Ok(s) => Got {
                    label: String::new(),
                    stage: "ok",
                    error: None,
                    also: vec![format!("a response, {s}: no error")],
                },
                Err(e) => Got::err("call", e),
            }
        });
        put(
            rows,
            g,
            "tower-http TimeoutLayer, no answer",
            "tower-http over legacy",
            false,
            MAYBE_SVC,
            got,
            &seen,
        );
    }
    {
        let seen = Arc::new(Seen::default());
        let (addr, _t) = servers.block_on(start(
            serve(|s, seen, _| async move {
                let mut h = H1::new(s, seen);
                h.request().await;
                h.respond("part", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal")
                    .await;
                h.watch(1_500).await;
            }),
            seen.clone(),
        ));
        let got = block(async {
            let r = legacy().request(get(addr)).await.unwrap();
            match Box::pin(tower_http::timeout::TimeoutBody::new(
                Duration::from_millis(200),
                r.into_body(),
            ))
            .collect()
            .await
            {
                Ok(_) => Got {
                    label: String::new(),
                    stage: "ok",
                    error: None,
                    also: vec![],
                },
                Err(e) => Got::err("body", e),
            }
        });
        put(
            rows,
            g,
            "tower-http TimeoutBody, body silent",
            "tower-http over legacy",
            false,
            BEGUN,
            got,
            &seen,
        );
    }
    {
        let seen = Arc::new(Seen::default());
        let (addr, _t) = servers.block_on(start(
            serve(|s, seen, _| async move {
                let mut h = H1::new(s, seen);
                h.request().await;
                h.respond(
                    "whole",
                    "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789",
                )
                .await;
                h.watch(300).await;
            }),
            seen.clone(),
        ));
        let got = block(async {
            let r = legacy().request(get(addr)).await.unwrap();
            match http_body_util::Limited::new(r.into_body(), 5)
                .collect()
                .await
            {
                Ok(_) => Got {
                    label: String::new(),
                    stage: "ok",
                    error: None,
                    also: vec![],
                },
                Err(e) => Got::err("body", e),
            }
        });
        put(
            rows,
            g,
            "Limited response body, too long",
            "http-body-util over legacy",
            false,
            LOCAL,
            got,
            &seen,
        );
    }
    for two in [false, true] {
        let seen = Arc::new(Seen::default());
        let l = if two {
            serve(|s, seen, _| async move {
                let Some(mut h) = H2::open(s, seen, &[]).await else {
                    return;
                };
                h.watch(1_000).await;
            })
        } else {
            serve(|s, seen, _| async move { H1::new(s, seen).watch(1_000).await })
        };
        let (addr, _t) = servers.block_on(start(l, seen.clone()));
        let got = block(async {
            let mut b =
                hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
            b.http2_only(two);
            let c = b.build_http();
            let body =
                http_body_util::Limited::new(Full::new(Bytes::from_static(b"0123456789")), 5);
            match tokio::time::timeout(
                Duration::from_secs(3),
                c.request(Request::post(format!("http://{addr}/")).body(body).unwrap()),
            )
            .await
            {
                Ok(Ok(_)) => Got {
                    label: String::new(),
                    stage: "ok",
                    error: None,
                    also: vec![],
                },
                Ok(Err(e)) => Got::err("head", e),
                Err(e) => Got::err("HUNG", e),
            }
        });
        put(
            rows,
            g,
            "Limited upload body, too long",
            if two { "legacy h2" } else { "legacy h1" },
            false,
            OWN,
            got,
            &seen,
        );
    }
    // This crate's own refusals.
    for tonic in [false, true] {
        let client = if tonic {
            "bulwark (by GrpcClassify)"
        } else {
            "bulwark"
        };
        let breaker = tower_bulwark::CircuitBreaker::new("probe");
        breaker.force_open();
        let got = block(async {
            let svc = ServiceBuilder::new()
                .layer(breaker.layer::<tower_bulwark::Boxed>())
                .service_fn(|()| async { Ok::<_, BoxError>(()) });
            match svc.oneshot(()).await {
                Ok(()) => Got {
                    label: String::new(),
                    stage: "ok",
                    error: None,
                    also: vec![],
                },
                Err(e) => Got::err("call", e),
            }
        });
        put(
            rows,
            g,
            "an open circuit of this crate",
            client,
            tonic,
            LOCAL,
            got,
            &none,
        );
        let breaker = tower_bulwark::CircuitBreaker::new("probe");
        breaker.force_open();
        let got = block(async {
            let svc = ServiceBuilder::new()
                .buffer(4)
                .layer(breaker.layer::<tower_bulwark::Boxed>())
                .service_fn(|()| async { Ok::<_, BoxError>(()) });
            of(svc.oneshot(()).await)
        });
        put(
            rows,
            g,
            "the same below a tower buffer",
            client,
            tonic,
            LOCAL,
            got,
            &none,
        );
    }
    let _ = grpc_head;
}

fn real_tonic(rows: &mut Rows, servers: &tokio::runtime::Handle) {
    let g = "14 a real tonic server";
    use crate::clients::{Msg, Session};
    /// `/probe.Probe/Call` by hand: waits as long as its message says.
    #[derive(Clone)]
    struct Probe {
        limit: Option<usize>,
    }
    struct Call;
    impl tonic::server::UnaryService<Msg> for Call {
        type Response = Msg;
        type Future =
            Pin<Box<dyn Future<Output = Result<tonic::Response<Msg>, tonic::Status>> + Send>>;
        fn call(&mut self, req: tonic::Request<Msg>) -> Self::Future {
            let what = req
                .metadata()
                .get("do")
                .and_then(|v| v.to_str().ok())
                .unwrap_or("")
                .to_owned();
            Box::pin(async move {
                match what.as_str() {
                    "sleep" => tokio::time::sleep(Duration::from_millis(800)).await,
                    "panic" => panic!("handler"),
                    "large" => {
                        return Ok(tonic::Response::new(Msg {
                            text: "x".repeat(5 << 20),
                        }));
                    }
                    _ => {}
                }
                Ok(tonic::Response::new(Msg::default()))
            })
        }
    }
    impl tonic::server::NamedService for Probe {
        const NAME: &'static str = "probe.Probe";
    }
    impl Service<Request<tonic::body::Body>> for Probe {
        type Response = http::Response<tonic::body::Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, req: Request<tonic::body::Body>) -> Self::Future {
            let limit = self.limit;
            Box::pin(async move {
                let mut g =
                    tonic::server::Grpc::new(tonic_prost::ProstCodec::<Msg, Msg>::default());
                if let Some(n) = limit {
                    g = g.max_decoding_message_size(n);
                }
                Ok(g.unary(Call, req).await)
            })
        }
    }
    let none = Seen::default();
    none.with(|s| {
        s.heads = 1;
        s.complete = 1;
        s.responded = Some("head");
    });
    struct Scene {
        what: &'static str,
        make: fn(tonic::transport::Server) -> tonic::transport::Server,
        limit: Option<usize>,
        opt: Opt,
        truth: Truth,
        busy: bool,
    }
    let doing = |what: &str| Opt {
        headers: vec![("do", what.to_owned())],
        ..Opt::default()
    };
    let scenes = vec![
        Scene {
            what: "Server::timeout over a slow handler",
            make: |s| s.timeout(Duration::from_millis(150)),
            limit: None,
            opt: doing("sleep"),
            truth: truth(Sent::Answered, Who::Service),
            busy: false,
        },
        Scene {
            what: "grpc-timeout of the request over a slow handler (both sides count)",
            make: |s| s,
            limit: None,
            opt: Opt {
                grpc_timeout: Some(150),
                ..doing("sleep")
            },
            truth: MAYBE_SVC,
            busy: false,
        },
        Scene {
            what: "Server::load_shed, concurrency_limit_per_connection(1)",
            make: |s| s.load_shed(true).concurrency_limit_per_connection(1),
            limit: None,
            opt: doing(""),
            truth: truth(Sent::Answered, Who::Service),
            busy: true,
        },
        Scene {
            what: "handler panics",
            make: |s| s,
            limit: None,
            opt: doing("panic"),
            truth: MAYBE_SVC,
            busy: false,
        },
        Scene {
            what: "request larger than the server's max_decoding_message_size",
            make: |s| s,
            limit: Some(10),
            opt: Opt {
                message: 100,
                ..doing("")
            },
            truth: truth(Sent::Answered, Who::Caller),
            busy: false,
        },
        Scene {
            what: "response larger than 4 MiB",
            make: |s| s,
            limit: None,
            opt: doing("large"),
            truth: truth(Sent::Local, Who::Caller),
            busy: false,
        },
        Scene {
            what: "max_connection_age with a slow handler",
            make: |s| s.max_connection_age(Duration::from_millis(100)),
            limit: None,
            opt: doing("sleep"),
            truth: MAYBE_SVC,
            busy: false,
        },
    ];
    for s in scenes {
        for kind in [Kind::Channel, Kind::Typed] {
            if kind == Kind::Channel && s.what.contains("larger") {
                continue;
            }
            let (addr, stop) = servers.block_on(async {
                let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let addr = l.local_addr().unwrap();
                let server = (s.make)(tonic::transport::Server::builder())
                    .add_service(Probe { limit: s.limit });
                let task = tokio::spawn(
                    server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(l)),
                );
                (addr, task)
            });
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {}));
            let got = block(async {
                let Ok(p) = prepare(kind, addr, &s.opt).await else {
                    panic!("no channel")
                };
                let p = Arc::new(p);
                let held = s.busy.then(|| {
                    let p = p.clone();
                    tokio::spawn(async move {
                        p.send(
                            &Opt {
                                headers: vec![("do", "sleep".into())],
                                ..Opt::default()
                            },
                            Up::Empty,
                        )
                        .await
                    })
                });
                tokio::time::sleep(Duration::from_millis(if s.busy { 200 } else { 0 })).await;
                let got = p.send(&s.opt, Up::Empty).await;
                if let Some(held) = held {
                    held.abort();
                }
                got
            });
            std::panic::set_hook(hook);
            stop.abort();
            put(rows, g, s.what, kind.name(), true, s.truth, got, &none);
        }
    }
    // A channel whose worker is gone.
    for kind in [Kind::Channel, Kind::Typed] {
        let rt = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let c = rt.block_on(async {
            tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy()
        });
        rt.shutdown_timeout(Duration::from_millis(100));
        let session = if kind == Kind::Channel {
            Session::Channel(c)
        } else {
            Session::Typed(c)
        };
        let p = Prepared {
            session,
            fault: None,
            base: "http://127.0.0.1:1".into(),
        };
        let got = block(async { p.send(&Opt::default(), Up::Empty).await });
        put(
            rows,
            g,
            "channel whose worker is gone",
            kind.name(),
            true,
            truth(Sent::Local, Who::Caller),
            got,
            &Seen::default(),
        );
    }
    // The same through Endpoint::rate_limit and concurrency_limit: they only wait.
}
