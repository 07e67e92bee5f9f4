//! Real sockets whose route is lost: only in a network namespace of its own (`unshare -n`).
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;

use crate::cases::MAYBE_NET;
use crate::clients::{BoxError, Got, ProbeBody, Up};
use crate::rows::Row;
use crate::run::{Listen, row, start};
use crate::wire::{H1, H2, Seen};

fn ip(args: &str) {
    let _ = Command::new("ip").args(args.split(' ')).output();
}

fn restore() {
    ip("route del unreachable 127.0.0.0/8");
    ip("route del unreachable 127.0.0.1");
    ip("link set lo down");
    ip("link set lo up");
}

/// Whether this is a namespace that has nothing but a loopback. The variable alone is not believed: what the rows do to
/// a route must never be done to the machine's own.
pub fn alone() -> bool {
    let devices = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let mut names = devices
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next());
    std::env::var_os("CLIENTS_NETNS").is_some() && names.all(|name| name.trim() == "lo")
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

pub fn all(servers: &tokio::runtime::Handle) -> Vec<Row> {
    let mut rows = Vec::new();
    if !alone() {
        return rows;
    }
    let g = "15 real sockets, route lost";
    for (what, cmds) in [
        (
            "route becomes unreachable in mid-upload, TCP_USER_TIMEOUT",
            &[
                "route del local 127.0.0.1 table local",
                "route del local 127.0.0.0/8 table local",
                "route add unreachable 127.0.0.0/8",
            ][..],
        ),
        (
            "route is gone in mid-upload, TCP_USER_TIMEOUT",
            &[
                "route del local 127.0.0.1 table local",
                "route del local 127.0.0.0/8 table local",
            ][..],
        ),
        (
            "interface down in mid-upload, TCP_USER_TIMEOUT",
            &["link set lo down"][..],
        ),
    ] {
        for client in ["legacy h1", "legacy h2", "reqwest h1", "reqwest h2"]
            .repeat(if what.contains("unreachable") { 4 } else { 1 })
        {
            let h2 = client.ends_with("h2");
            restore();
            let seen = Arc::new(Seen::default());
            let l = Listen::Serve(Arc::new(move |s, seen, _| {
                Box::pin(async move {
                    if h2 {
                        let Some(mut h) = H2::open(s, seen, &[]).await else {
                            return;
                        };
                        h.watch(6_000).await;
                    } else {
                        H1::new(s, seen).watch(6_000).await;
                    }
                })
            }));
            let (addr, task) = servers.block_on(start(l, seen.clone()));
            let rt = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let cmds: Vec<String> = cmds.iter().map(|c| (*c).to_owned()).collect();
            let got = rt.block_on(async {
                let breaks = tokio::task::spawn_blocking(move || {
                    std::thread::sleep(Duration::from_millis(300));
                    for c in &cmds {
                        ip(c);
                    }
                });
                let up = Up::Slow(200, 20, 30);
                let call = async {
                    if client.starts_with("legacy") {
                        let mut http = hyper_util::client::legacy::connect::HttpConnector::new();
                        http.set_tcp_user_timeout(Some(Duration::from_millis(600)));
                        let mut b = hyper_util::client::legacy::Client::builder(
                            hyper_util::rt::TokioExecutor::new(),
                        );
                        b.http2_only(h2);
                        let c: hyper_util::client::legacy::Client<_, Body> = b.build(http);
                        match c
                            .request(
                                Request::post(format!("http://{addr}/"))
                                    .body(ProbeBody::new(up).boxed_unsync())
                                    .unwrap(),
                            )
                            .await
                        {
                            Ok(_) => None,
                            Err(e) => Some(Got::err("head", e)),
                        }
                    } else {
                        let mut b = reqwest::Client::builder()
                            .no_proxy()
                            .retry(reqwest::retry::never())
                            .tcp_user_timeout(Duration::from_millis(600));
                        b = if h2 {
                            b.http2_prior_knowledge()
                        } else {
                            b.http1_only()
                        };
                        let stream = futures::stream::unfold(0, |i| async move {
                            tokio::time::sleep(Duration::from_millis(30)).await;
                            (i < 200).then(|| {
                                (
                                    Ok::<_, std::io::Error>(Bytes::from_static(
                                        b"01234567890123456789",
                                    )),
                                    i + 1,
                                )
                            })
                        });
                        match b
                            .build()
                            .unwrap()
                            .post(format!("http://{addr}/"))
                            .body(reqwest::Body::wrap_stream(stream))
                            .send()
                            .await
                        {
                            Ok(_) => None,
                            Err(e) => Some(Got::err("head", e)),
                        }
                    }
                };
                let got = tokio::time::timeout(Duration::from_secs(6), call).await;
                let _ = breaks.await;
                match got {
                    Ok(Some(got)) => got,
                    Ok(None) => Got {
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
            rt.shutdown_background();
            if let Some(t) = task {
                t.abort();
            }
            // What comes is a matter of timing: each way once.
            let row = row(g, what, None, client, false, MAYBE_NET, &got, &seen.get());
            if !rows
                .iter()
                .any(|r: &Row| r.what == row.what && r.client == row.client && r.sig == row.sig)
            {
                rows.push(row);
            }
        }
    }
    restore();
    rows
}
