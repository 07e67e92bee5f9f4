//! Connecting, TLS, HTTP/1, injected I/O.
use std::io::ErrorKind as Io;
use std::sync::Arc;

use crate::clients::{Dial, H1S, Kind, Up};
use crate::rows::{Sent, Truth, Who, truth};
use crate::run::{Case, Listen};
use crate::tls::Pki;
use crate::wire::{Bad, H1, When};

use Kind::*;

pub const NEVER_NET: Truth = truth(Sent::Never, Who::Network);
pub const NEVER_SVC: Truth = truth(Sent::Never, Who::Service);
pub const MAYBE_SVC: Truth = truth(Sent::Maybe, Who::Service);
pub const MAYBE_NET: Truth = truth(Sent::Maybe, Who::Network);
pub const BEGUN: Truth = truth(Sent::Begun, Who::Service);
pub const OWN: Truth = truth(Sent::Own, Who::Caller);

pub const KINDS: &[Bad] = &[
    Bad::Kind(Io::ConnectionReset),
    Bad::Kind(Io::BrokenPipe),
    Bad::Kind(Io::TimedOut),
    Bad::Kind(Io::HostUnreachable),
    Bad::Kind(Io::NetworkUnreachable),
    Bad::Kind(Io::NetworkDown),
    Bad::Kind(Io::ConnectionRefused),
    Bad::Kind(Io::ConnectionAborted),
    Bad::Kind(Io::UnexpectedEof),
    Bad::Kind(Io::NotConnected),
    Bad::Kind(Io::AddrNotAvailable),
    Bad::Kind(Io::Other),
    Bad::Os(104),
    Bad::Os(32),
    Bad::Os(110),
    Bad::Os(113),
    Bad::Os(101),
    Bad::Os(100),
    Bad::Os(111),
    Bad::Os(103),
];

pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

pub fn all() -> Vec<Case> {
    let mut c = Vec::new();
    connecting(&mut c);
    tls(&mut c);
    closes(&mut c);
    pooled(&mut c);
    responses(&mut c);
    injected(&mut c);
    c
}

fn connecting(c: &mut Vec<Case>) {
    let g = "1 connect";
    c.push(Case::new(
        g,
        "refused",
        NEVER_SVC,
        &[
            HyperH1, LegacyH1, LegacyH2, ReqwestH1, ReqwestH2, Channel, Typed,
        ],
    ));
    c.push(
        Case::new(g, "refused, connect() eagerly", NEVER_SVC, &[Channel]).opt(|o| o.eager = true),
    );
    for k in [LegacyH1, ReqwestH1, Channel, Typed] {
        c.push(
            Case::new(g, "backlog full, connect_timeout", NEVER_NET, &[k])
                .listen(Listen::Full)
                .opt(|o| o.connect_timeout = Some(250)),
        );
    }
    c.push(
        Case::new(
            g,
            "backlog full, total timeout of the request (Endpoint::timeout)",
            NEVER_NET,
            &[ReqwestH1, Channel, Typed],
        )
        .listen(Listen::Full)
        .opt(|o| o.total = Some(300)),
    );
    c.push(
        Case::new(g, "backlog full, read_timeout", NEVER_NET, &[ReqwestH1])
            .listen(Listen::Full)
            .opt(|o| o.read_timeout = Some(300)),
    );
    c.push(
        Case::new(
            g,
            "backlog full, tokio timeout around the call",
            NEVER_NET,
            &[LegacyH1, Channel],
        )
        .listen(Listen::Full)
        .outer(300),
    );
    // A label that is too long fails in the resolver itself: no packet leaves.
    let bad = format!("{}.invalid:80", "a".repeat(70));
    let bad2 = bad.clone();
    c.push(
        Case::new(
            g,
            "name does not resolve",
            NEVER_NET,
            &[LegacyH1, ReqwestH1, Channel, Typed],
        )
        .opt(move |o| o.host = Some(bad2)),
    );
    c.push(
        Case::new(
            g,
            "name does not resolve, connect() eagerly",
            NEVER_NET,
            &[Channel],
        )
        .opt(move |o| {
            o.host = Some(bad);
            o.eager = true;
        }),
    );
    for &bad in KINDS {
        c.push(
            Case::new(
                g,
                "connector fails with io ‹kind›",
                NEVER_NET,
                &[LegacyH1, ReqwestH1, Channel, Typed],
            )
            .variant(bad.name())
            .opt(move |o| o.dial = Dial::Refuse(bad)),
        );
    }
    for (os, name) in [
        (24, "EMFILE"),
        (13, "EACCES"),
        (1, "EPERM"),
        (99, "EADDRNOTAVAIL"),
    ] {
        let bad = Bad::Os(os);
        c.push(
            Case::new(
                g,
                format!("connector fails with {name}: this side's own limits"),
                truth(Sent::Never, Who::Caller),
                &[LegacyH1, ReqwestH1, Channel, Typed],
            )
            .opt(move |o| o.dial = Dial::Refuse(bad)),
        );
    }
    c.push(
        Case::new(
            g,
            "connector fails with no io::Error",
            NEVER_NET,
            &[LegacyH1, ReqwestH1, Channel, Typed],
        )
        .opt(|o| o.dial = Dial::RefuseOther),
    );
}

fn tls(c: &mut Vec<Case>) {
    let g = "2 TLS";
    let pki = Pki::new("Probe CA");
    let other = Pki::new("Another CA");
    let clients = [HyperH1, LegacyH1, ReqwestH1, Channel, Typed];
    let dial = Dial::TlsTonic(pki.ca_pem.clone(), "localhost", pki.client());
    let moot = truth(Sent::Never, Who::Service).moot();
    let with = |case: Case| {
        let dial = dial.clone();
        case.opt(move |o| o.dial = dial)
    };
    c.push(
        with(Case::new(g, "TLS to a plain HTTP/1 server", moot, &clients)).serve(
            |s, seen, _| async move {
                let mut h = H1::new(s, seen);
                h.peek().await;
                h.send("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
                    .await;
                h.fin().await;
            },
        ),
    );
    c.push(
        with(Case::new(g, "closed in the handshake", NEVER_SVC, &clients)).serve(
            |s, seen, _| async move {
                let mut h = H1::new(s, seen);
                h.peek().await;
                h.fin().await;
            },
        ),
    );
    c.push(
        with(Case::new(g, "reset in the handshake", NEVER_SVC, &clients)).serve(
            |s, seen, _| async move {
                let mut h = H1::new(s, seen);
                h.peek().await;
                h.rst();
            },
        ),
    );
    c.push(
        with(Case::new(
            g,
            "silent in the handshake, connect_timeout",
            NEVER_NET,
            &[ReqwestH1, Channel, Typed],
        ))
        .opt(|o| o.connect_timeout = Some(250))
        .serve(|s, seen, _| async move {
            H1::new(s, seen).watch(3_000).await;
        }),
    );
    c.push(
        with(Case::new(
            g,
            "silent in the handshake, total timeout",
            NEVER_NET,
            &[ReqwestH1],
        ))
        .opt(|o| o.total = Some(250))
        .serve(|s, seen, _| async move {
            H1::new(s, seen).watch(3_000).await;
        }),
    );
    let alpn: &[&[u8]] = &[b"h2", b"http/1.1"];
    for (what, cfg) in [
        (
            "certificate of an unknown issuer",
            other.server("localhost", false, alpn),
        ),
        (
            "certificate for another name",
            pki.server("elsewhere.test", false, alpn),
        ),
        ("certificate expired", pki.server("localhost", true, alpn)),
        (
            "no common ALPN",
            pki.server("localhost", false, &[b"spdy/1"]),
        ),
    ] {
        // hyper-rustls offers no ALPN to HTTP/1 alone.
        let clients: Vec<Kind> = clients
            .iter()
            .copied()
            .filter(|k| !(what.contains("ALPN") && *k == LegacyH1))
            .collect();
        c.push(
            with(Case::new(g, what, moot, &clients)).serve_tls(cfg, |s, seen, _| async move {
                H1::new(s, seen).watch(500).await;
            }),
        );
    }
    c.push(
        with(Case::new(
            g,
            "server without ALPN to a client of HTTP/2",
            moot,
            &[LegacyH2, ReqwestH2, Channel, Typed],
        ))
        .over(LegacyH2, MAYBE_SVC.moot())
        .over(ReqwestH2, MAYBE_SVC.moot())
        .serve_tls(
            pki.server("localhost", false, &[]),
            |s, seen, _| async move {
                H1::new(s, seen).watch(500).await;
            },
        ),
    );
    for (what, tls13) in [
        ("client certificate wanted, TLS 1.2", false),
        ("client certificate wanted, TLS 1.3", true),
    ] {
        let t = match tls13 {
            true => truth(Sent::SureNot, Who::Caller).moot(),
            false => truth(Sent::Never, Who::Caller).moot(),
        };
        c.push(with(Case::new(g, what, t, &clients)).serve_tls(
            pki.server_mutual(tls13, alpn),
            |s, seen, _| async move {
                H1::new(s, seen).watch(500).await;
            },
        ));
    }
    let good = pki.server("localhost", false, &[b"http/1.1"]);
    let h1s = [LegacyH1, ReqwestH1];
    c.push(
        with(Case::new(
            g,
            "no close_notify, after the request, no answer",
            MAYBE_SVC,
            &h1s,
        ))
        .serve_tls(good.clone(), |s, seen, _| async move {
            let mut h = H1::new(s, seen);
            h.request().await;
            h.fin_raw().await;
        }),
    );
    c.push(
        with(Case::new(
            g,
            "no close_notify, within the body",
            BEGUN,
            &h1s,
        ))
        .serve_tls(good.clone(), |s, seen, _| async move {
            let mut h = H1::new(s, seen);
            h.request().await;
            h.respond("part", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal")
                .await;
            h.fin_raw().await;
        }),
    );
    c.push(
        with(Case::new(
            g,
            "no close_notify, a body that ends with the connection",
            BEGUN,
            &h1s,
        ))
        .serve_tls(good.clone(), |s, seen, _| async move {
            let mut h = H1::new(s, seen);
            h.request().await;
            h.respond("part", "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nwhole?")
                .await;
            h.fin_raw().await;
        }),
    );
    c.push(
        with(Case::new(
            g,
            "broken record instead of an answer",
            MAYBE_NET,
            &h1s,
        ))
        .serve_tls(good, |s, seen, _| async move {
            let mut h = H1::new(s, seen.clone());
            h.request().await;
            if let crate::wire::Stream::Tls(s) = h.s {
                let (tcp, _) = s.into_inner();
                let mut h = H1::new(crate::wire::Stream::Tcp(tcp), seen);
                h.send([
                    0x17, 0x03, 0x03, 0x00, 0x20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,
                    15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
                ])
                .await;
                h.watch(300).await;
            }
        }),
    );
    c.push(
        Case::new(
            g,
            "plain HTTP to a TLS server",
            truth(Sent::SureNot, Who::Caller).moot(),
            &[HyperH1, LegacyH1, ReqwestH1, HyperH2, Channel, Typed],
        )
        .serve_tls(
            pki.server("localhost", false, alpn),
            |s, seen, _| async move {
                H1::new(s, seen).watch(500).await;
            },
        ),
    );
}

fn closes(c: &mut Vec<Case>) {
    let g = "3 h1, no answer";
    c.push(
        Case::new(
            g,
            "FIN before the request, and the client has seen it",
            NEVER_SVC.graceful(),
            &[HyperH1],
        )
        .opt(|o| o.pause = 100)
        .serve(|s, seen, _| async move {
            H1::new(s, seen).fin().await;
        }),
    );
    c.push(
        Case::new(
            g,
            "FIN before the request, seen; ready() first",
            NEVER_SVC.graceful(),
            &[HyperH1],
        )
        .opt(|o| {
            o.pause = 100;
            o.ready_first = true;
        })
        .serve(|s, seen, _| async move {
            H1::new(s, seen).fin().await;
        }),
    );
    c.push(
        Case::new(
            g,
            "RST before the request, and the client has seen it",
            NEVER_SVC.graceful(),
            &[HyperH1],
        )
        .opt(|o| o.pause = 100)
        .serve(|s, seen, _| async move {
            H1::new(s, seen).rst();
        }),
    );
    c.push(
        Case::new(
            g,
            "FIN before the request, not yet seen",
            truth(Sent::Maybe, Who::Service),
            &[HyperH1],
        )
        .freeze(100)
        .serve(|s, _, _| async move {
            // Closed for both ways: what comes is answered by the kernel.
            drop(s);
        }),
    );
    c.push(
        Case::new(
            g,
            "FIN on a new connection, at once",
            NEVER_SVC,
            &[LegacyH1, ReqwestH1],
        )
        .serve(|s, seen, _| async move {
            H1::new(s, seen).fin().await;
        }),
    );
    c.push(
        Case::new(
            g,
            "RST on a new connection, at once",
            NEVER_SVC,
            &[LegacyH1, ReqwestH1],
        )
        .serve(|s, seen, _| async move {
            H1::new(s, seen).rst();
        }),
    );
    c.push(
        Case::new(
            g,
            "arrived, closed unread (the kernel resets)",
            MAYBE_SVC,
            H1S,
        )
        .serve(|s, seen, _| async move {
            let mut h = H1::new(s, seen);
            h.peek().await;
            drop(h);
        }),
    );
    for rst in [false, true] {
        let how = if rst { "RST" } else { "FIN" };
        let end = move |h: H1| async move {
            match rst {
                true => h.rst(),
                false => h.fin().await,
            }
        };
        c.push(
            Case::new(g, format!("{how} after 0 bytes read"), MAYBE_SVC, H1S).serve(
                move |s, seen, _| async move {
                    let mut h = H1::new(s, seen);
                    h.peek().await;
                    end(h).await;
                },
            ),
        );
        c.push(
            Case::new(
                g,
                format!("{how} after the head, upload to come"),
                MAYBE_SVC,
                H1S,
            )
            .opt(|o| o.up = Up::Slow(8, 50, 40))
            .serve(move |s, seen, _| async move {
                let mut h = H1::new(s, seen);
                h.head().await;
                end(h).await;
            }),
        );
        c.push(
            Case::new(g, format!("{how} in mid-upload"), MAYBE_SVC, H1S)
                .opt(|o| o.up = Up::Slow(8, 50, 40))
                .serve(move |s, seen, _| async move {
                    let mut h = H1::new(s, seen);
                    h.head().await;
                    h.some().await;
                    tokio::time::sleep(std::time::Duration::from_millis(60)).await;
                    end(h).await;
                }),
        );
        c.push(
            Case::new(
                g,
                format!("{how} in mid-upload of 4 MiB that does not stop"),
                MAYBE_SVC,
                H1S,
            )
            .opt(|o| o.up = Up::Full(4 << 20))
            .serve(move |s, seen, _| async move {
                let mut h = H1::new(s, seen);
                h.head().await;
                h.some().await;
                match rst {
                    true => h.rst(),
                    // Unread data in the kernel: a close is a reset.
                    false => drop(h),
                }
            }),
        );
        c.push(
            Case::new(g, format!("{how} after all (GET)"), MAYBE_SVC, H1S).serve(
                move |s, seen, _| async move {
                    let mut h = H1::new(s, seen);
                    h.request().await;
                    end(h).await;
                },
            ),
        );
        c.push(
            Case::new(g, format!("{how} after all (POST)"), MAYBE_SVC, H1S)
                .opt(|o| o.up = Up::Full(100))
                .serve(move |s, seen, _| async move {
                    let mut h = H1::new(s, seen);
                    h.request().await;
                    end(h).await;
                }),
        );
    }
    c.push(
        Case::new(g, "upload body fails at once", OWN, H1S)
            .opt(|o| o.up = Up::FailsAtOnce)
            .serve(|s, seen, _| async move {
                H1::new(s, seen).watch(500).await;
            }),
    );
    c.push(
        Case::new(g, "upload body fails in the middle", OWN, H1S)
            .opt(|o| o.up = Up::Fails)
            .serve(|s, seen, _| async move {
                H1::new(s, seen).watch(500).await;
            }),
    );
    c.push(
        Case::new(g, "upload body shorter than its content-length", OWN, H1S)
            .opt(|o| o.up = Up::Short)
            .serve(|s, seen, _| async move {
                H1::new(s, seen).watch(2_000).await;
            }),
    );
    c.push(
        Case::new(g, "upload body longer than its content-length", OWN, H1S)
            .opt(|o| o.up = Up::Long)
            .serve(|s, seen, _| async move {
                let mut h = H1::new(s, seen);
                h.request().await;
                h.respond("whole", OK).await;
                h.watch(300).await;
            }),
    );
}

fn pooled(c: &mut Vec<Case>) {
    let g = "4 h1, reused";
    c.push(
        Case::new(g, "FIN while idle, long before", NEVER_SVC.graceful(), H1S)
            .opt(|o| {
                o.warm = true;
                o.pause = 150;
            })
            .serve(|s, seen, n| async move {
                let mut h = H1::new(s, seen);
                h.warm().await;
                match n {
                    0 => h.fin().await,
                    _ => {
                        h.respond("whole", "").await;
                        h.watch(100).await;
                    }
                }
            }),
    );
    // The client's thread stands still while the FIN arrives.
    c.push(
        Case::new(
            g,
            "FIN while idle, not yet seen: closed just as it is reused",
            MAYBE_SVC,
            H1S,
        )
        .opt(|o| {
            o.warm = true;
        })
        .freeze(150)
        .serve(|s, seen, _| async move {
            let mut h = H1::new(s, seen);
            h.warm().await;
            tokio::time::sleep(std::time::Duration::from_millis(80)).await;
            drop(h);
        }),
    );
    c.push(
        Case::new(g, "RST while idle, not yet seen", MAYBE_SVC, H1S)
            .opt(|o| {
                o.warm = true;
            })
            .freeze(150)
            .serve(|s, seen, _| async move {
                let mut h = H1::new(s, seen);
                h.warm().await;
                tokio::time::sleep(std::time::Duration::from_millis(80)).await;
                h.rst();
            }),
    );
    for rst in [false, true] {
        let how = if rst { "RST" } else { "FIN" };
        c.push(
            Case::new(
                g,
                format!("second request read, then {how}"),
                MAYBE_SVC,
                H1S,
            )
            .opt(|o| o.warm = true)
            .serve(move |s, seen, _| async move {
                let mut h = H1::new(s, seen);
                h.warm().await;
                h.request().await;
                match rst {
                    true => h.rst(),
                    false => h.fin().await,
                }
            }),
        );
    }
    for bad in [Bad::Eof, Bad::Kind(Io::ConnectionReset)] {
        for (retry, text) in [(true, ""), (false, ", no retry_canceled_requests")] {
            let clients: &[Kind] = if retry {
                &[HyperH1, LegacyH1]
            } else {
                &[LegacyH1]
            };
            c.push(
                Case::new(
                    g,
                    format!("read gives ‹kind› before the request is written{text}"),
                    NEVER_SVC.graceful(),
                    clients,
                )
                .variant(bad.name())
                .opt(move |o| {
                    o.warm = true;
                    o.dial = Dial::Fault(bad, When::ReadFirst);
                    o.no_retry_canceled = !retry;
                })
                .serve(|s, seen, _| async move {
                    let mut h = H1::new(s, seen);
                    h.warm().await;
                    h.watch(300).await;
                }),
            );
        }
    }
    c.push(
        Case::new(
            g,
            "408 pushed while idle, seen",
            NEVER_SVC.graceful(),
            &[HyperH1],
        )
        .opt(|o| {
            o.warm = true;
            o.pause = 100;
        })
        .serve(|s, seen, _| async move {
            let mut h = H1::new(s, seen);
            h.warm().await;
            h.send(
                "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            )
            .await;
            h.fin().await;
        }),
    );
    c.push(Case::new(g, "408 pushed while idle, not yet seen", MAYBE_SVC, H1S).opt(|o| {
        o.warm = true;
    }).freeze(150).serve(|s, seen, _| async move {
        let mut h = H1::new(s, seen);
        h.warm().await;
        tokio::time::sleep(std::time::Duration::from_millis(80)).await;
        h.send("HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        h.fin().await;
    }));
    c.push(
        Case::new(
            g,
            "408 sent on a new connection before any request",
            NEVER_SVC.graceful(),
            &[HyperH1],
        )
        .opt(|o| o.pause = 100)
        .serve(|s, seen, _| async move {
            let mut h = H1::new(s, seen);
            h.send(
                "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            )
            .await;
            h.fin().await;
        }),
    );
}

fn responses(c: &mut Vec<Case>) {
    let g = "5 h1, bad answer";
    let answer = |what: &str, t: Truth, text: String, end: &'static str| {
        Case::new(g, what, t, H1S).serve(move |s, seen, _| {
            let text = text.clone();
            async move {
                let mut h = H1::new(s, seen);
                h.request().await;
                h.respond("part", text).await;
                tokio::time::sleep(std::time::Duration::from_millis(30)).await;
                match end {
                    "fin" => h.fin().await,
                    "rst" => h.rst(),
                    _ => h.watch(2_000).await,
                }
            }
        })
    };
    c.push(answer(
        "half a head, FIN",
        BEGUN,
        "HTTP/1.1 200 OK\r\ncontent-le".into(),
        "fin",
    ));
    c.push(answer(
        "half a head, RST",
        BEGUN,
        "HTTP/1.1 200 OK\r\ncontent-le".into(),
        "rst",
    ));
    c.push(answer(
        "100 Continue only, FIN",
        BEGUN,
        "HTTP/1.1 100 Continue\r\n\r\n".into(),
        "fin",
    ));
    c.push(answer(
        "garbage",
        BEGUN,
        "HELLO WORLD\r\n\r\n".into(),
        "fin",
    ));
    c.push(answer(
        "unknown version",
        BEGUN,
        "HTTP/9.9 200 OK\r\n\r\n".into(),
        "fin",
    ));
    c.push(answer(
        "status that is no number",
        BEGUN,
        "HTTP/1.1 2xx OK\r\n\r\n".into(),
        "fin",
    ));
    c.push(answer(
        "content-length that is no number",
        BEGUN,
        "HTTP/1.1 200 OK\r\ncontent-length: ten\r\n\r\n".into(),
        "fin",
    ));
    c.push(answer(
        "101 headers",
        BEGUN,
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101)),
        "fin",
    ));
    c.push(answer(
        "head of 600 kB",
        BEGUN,
        format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(600_000)),
        "fin",
    ));
    c.push(answer(
        "an HTTP/2 server's SETTINGS",
        BEGUN,
        "\0\0\0\x04\0\0\0\0\0".into(),
        "fin",
    ));
    c.push(answer(
        "content-length body cut, FIN",
        BEGUN,
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal".into(),
        "fin",
    ));
    c.push(answer(
        "content-length body cut, RST",
        BEGUN,
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal".into(),
        "rst",
    ));
    c.push(answer(
        "chunked body cut, FIN",
        BEGUN,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel".into(),
        "fin",
    ));
    c.push(answer(
        "chunked body cut between chunks, FIN",
        BEGUN,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n".into(),
        "fin",
    ));
    c.push(answer(
        "chunked body cut, RST",
        BEGUN,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel".into(),
        "rst",
    ));
    c.push(answer(
        "chunk size that is no number",
        BEGUN,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\nhello\r\n".into(),
        "fin",
    ));
    let mut only = |what: &str, t: Truth, text: &str, f: fn(&mut crate::clients::Opt)| {
        let mut case = answer(what, t, text.into(), "watch").opt(f);
        case.clients = vec![ReqwestH1];
        c.push(case);
    };
    only(
        "half a head, silent, read_timeout",
        BEGUN,
        "HTTP/1.1 200 OK\r\ncontent-le",
        |o| o.read_timeout = Some(250),
    );
    only(
        "half a head, silent, total timeout",
        BEGUN,
        "HTTP/1.1 200 OK\r\ncontent-le",
        |o| o.total = Some(250),
    );
    only(
        "body silent, read_timeout",
        BEGUN,
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal",
        |o| o.read_timeout = Some(250),
    );
    only(
        "body silent, total timeout",
        BEGUN,
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal",
        |o| o.total = Some(250),
    );
    let silent = |what: &str, t: Truth, clients: &[Kind]| {
        Case::new(g, what, t, clients)
            .serve(|s, seen, _| async move { H1::new(s, seen).watch(2_000).await })
    };
    c.push(
        silent("no answer, read_timeout", MAYBE_SVC, &[ReqwestH1])
            .opt(|o| o.read_timeout = Some(250)),
    );
    c.push(
        silent("no answer, total timeout", MAYBE_SVC, &[ReqwestH1]).opt(|o| o.total = Some(250)),
    );
    c.push(
        silent(
            "no answer to an upload that goes on, total timeout",
            MAYBE_SVC,
            &[ReqwestH1],
        )
        .opt(|o| {
            o.total = Some(250);
            o.up = Up::Endless;
        }),
    );
    c.push(
        silent(
            "no answer to an upload that stalls, read_timeout",
            truth(Sent::Maybe, Who::Caller),
            &[ReqwestH1],
        )
        .opt(|o| {
            o.read_timeout = Some(250);
            o.up = Up::Endless;
        }),
    );
    c.push(
        silent(
            "no answer, tokio timeout around the call",
            MAYBE_SVC,
            &[HyperH1, LegacyH1],
        )
        .outer(250),
    );
    for rst in [false, true] {
        c.push(
            Case::new(
                g,
                format!(
                    "413 before the upload is read, then {}",
                    if rst { "RST" } else { "FIN" }
                ),
                BEGUN,
                H1S,
            )
            .opt(|o| o.up = Up::Slow(8, 50, 40))
            .serve(move |s, seen, _| async move {
                let mut h = H1::new(s, seen);
                h.head().await;
                h.respond(
                    "whole",
                    "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                )
                .await;
                match rst {
                    true => h.rst(),
                    false => h.fin().await,
                }
            }),
        );
    }
    c.push(
        Case::new(
            g,
            "413 before an upload of 4 MiB is read, then RST",
            BEGUN,
            H1S,
        )
        .opt(|o| o.up = Up::Full(4 << 20))
        .serve(move |s, seen, _| async move {
            let mut h = H1::new(s, seen);
            h.head().await;
            h.respond(
                "whole",
                "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            )
            .await;
            h.rst();
        }),
    );
}

fn injected(c: &mut Vec<Case>) {
    let g = "7 io injected";
    for &bad in KINDS {
        for (when, what, t) in [
            (
                When::FirstWrite,
                "first write gives ‹kind›",
                truth(Sent::Never, Who::Network),
            ),
            (
                When::NextWrite,
                "a later write gives ‹kind›, in mid-upload",
                MAYBE_NET,
            ),
            (
                When::Read,
                "the request was written, read gives ‹kind›",
                MAYBE_NET,
            ),
        ] {
            let up = if when == When::NextWrite {
                Up::Slow(5, 50, 30)
            } else {
                Up::Empty
            };
            c.push(
                Case::new(g, what, t, &[HyperH1, LegacyH1])
                    .variant(bad.name())
                    .opt(move |o| {
                        o.dial = Dial::Fault(bad, when);
                        o.up = up;
                        o.pause = 30;
                        o.warm = true;
                    })
                    .serve(|s, seen, _| async move {
                        let mut h = H1::new(s, seen);
                        h.warm().await;
                        h.watch(500).await;
                    }),
            );
            c.push(
                Case::new(g, what, t, &[HyperH2, LegacyH2, Channel, Typed])
                    .variant(bad.name())
                    .opt(move |o| {
                        o.dial = Dial::Fault(bad, when);
                        o.up = up;
                        o.pause = 30;
                        o.warm = true;
                    })
                    .serve(|s, seen, _| async move {
                        let Some(mut h) = crate::wire::H2::open(s, seen, &[]).await else {
                            return;
                        };
                        h.warm(true).await;
                        h.watch(500).await;
                    }),
            );
        }
    }
    let _ = Arc::new(());
}
