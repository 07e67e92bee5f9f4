//! HTTP/2: resets, farewells, deaths.
use std::sync::Arc;
use std::time::Duration;

use h2::Reason;

use crate::cases::{BEGUN, MAYBE_NET, MAYBE_SVC, NEVER_SVC, OWN};
use crate::clients::{H2S, Kind, Up};
use crate::rows::{Sent, Truth, Who, truth};
use crate::run::Case;
use crate::wire::{
    DATA, H2, HEADERS, Seen, Stream, WINDOW_UPDATE, grpc_head, grpc_trailers, hpack, status_block,
};

use Kind::*;

const REFUSED: Truth = truth(Sent::SureNot, Who::Service).graceful();
const NEVER: Truth = NEVER_SVC;

async fn open(s: Stream, seen: Arc<Seen>, settings: &[(u16, u32)]) -> H2 {
    match H2::open(s, seen, settings).await {
        Some(h) => h,
        None => std::future::pending().await,
    }
}

/// A later connection: all goes well there, and nobody counts.
async fn answer_all(mut h: H2) {
    h.seen = Arc::default();
    loop {
        let Some(sid) = h.request().await else { return };
        h.frame_out(HEADERS, 4, sid, &grpc_head()).await;
        h.frame_out(DATA, 0, sid, &[0, 0, 0, 0, 0]).await;
        h.frame_out(HEADERS, 5, sid, &grpc_trailers(0, "")).await;
    }
}

fn with_default(k: &[Kind]) -> Vec<Kind> {
    let mut v = k.to_vec();
    v.insert(3, ReqwestDefaultH2);
    v
}

pub fn all() -> Vec<Case> {
    let mut c = Vec::new();
    resets(&mut c);
    goaways(&mut c);
    deaths(&mut c);
    queued(&mut c);
    broken(&mut c);
    bodies(&mut c);
    c
}

fn resets(c: &mut Vec<Case>) {
    let g = "6a h2 RST_STREAM";
    for (reason, t) in [
        (Reason::REFUSED_STREAM, REFUSED),
        (Reason::CANCEL, MAYBE_SVC),
        (Reason::INTERNAL_ERROR, MAYBE_SVC),
        (Reason::ENHANCE_YOUR_CALM, MAYBE_SVC),
        (Reason::NO_ERROR, MAYBE_SVC),
        (Reason::PROTOCOL_ERROR, MAYBE_SVC),
        (Reason::STREAM_CLOSED, MAYBE_SVC),
        (Reason::FLOW_CONTROL_ERROR, MAYBE_SVC),
        (Reason::SETTINGS_TIMEOUT, MAYBE_SVC),
        (Reason::FRAME_SIZE_ERROR, MAYBE_SVC),
        (Reason::COMPRESSION_ERROR, MAYBE_SVC),
        (Reason::CONNECT_ERROR, MAYBE_SVC),
        (Reason::INADEQUATE_SECURITY, MAYBE_SVC.moot()),
        (Reason::HTTP_1_1_REQUIRED, MAYBE_SVC.moot()),
        (Reason::from(0x4242), MAYBE_SVC),
    ] {
        let code: u32 = reason.into();
        let clients = match reason {
            Reason::REFUSED_STREAM => with_default(H2S),
            _ => H2S.to_vec(),
        };
        c.push(
            Case::new(g, "‹kind› before a response", t, &clients)
                .variant(format!("{reason:?}"))
                .serve(move |s, seen, _| async move {
                    let mut h = open(s, seen, &[]).await;
                    loop {
                        let Some(sid) = h.request().await else { return };
                        h.reset(sid, code).await;
                    }
                }),
        );
    }
    for (reason, t) in [
        (Reason::REFUSED_STREAM, REFUSED),
        (Reason::NO_ERROR, MAYBE_SVC),
        (Reason::CANCEL, MAYBE_SVC),
    ] {
        let code: u32 = reason.into();
        c.push(
            Case::new(
                g,
                "‹kind› in mid-upload",
                t,
                &[HyperH2, LegacyH2, ReqwestH2, Channel, Typed],
            )
            .variant(format!("{reason:?}"))
            .opt(|o| o.up = Up::Slow(8, 50, 40))
            .serve(move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                let Some((sid, _)) = h.head().await else {
                    return;
                };
                h.some().await;
                h.reset(sid, code).await;
                h.watch(600).await;
            }),
        );
    }
    c.push(
        Case::new(
            g,
            "NO_ERROR in mid-upload, after a whole response",
            BEGUN,
            &[HyperH2, LegacyH2, ReqwestH2, Channel],
        )
        .opt(|o| o.up = Up::Slow(8, 50, 40))
        .serve(move |s, seen, _| async move {
            let mut h = open(s, seen, &[]).await;
            let Some((sid, _)) = h.head().await else {
                return;
            };
            h.some().await;
            h.respond("whole", sid, &status_block("413"), true).await;
            h.reset(sid, 0).await;
            h.watch(600).await;
        }),
    );
    c.push(
        Case::new(g, "REFUSED_STREAM after the head of a response", BEGUN, H2S).serve(
            move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                let Some(sid) = h.request().await else { return };
                h.respond("head", sid, &grpc_head(), false).await;
                tokio::time::sleep(Duration::from_millis(40)).await;
                h.reset(sid, 7).await;
                h.watch(400).await;
            },
        ),
    );
}

fn goaways(c: &mut Vec<Case>) {
    let g = "6b h2 GOAWAY";
    for (code, name, debug) in [
        (0u32, "NO_ERROR", ""),
        (11, "ENHANCE_YOUR_CALM", "too_many_pings"),
        (1, "PROTOCOL_ERROR", ""),
        (2, "INTERNAL_ERROR", ""),
    ] {
        let below = if code == 0 {
            REFUSED
        } else {
            truth(Sent::SureNot, Who::Service).graceful()
        };
        let clients = if code == 0 {
            with_default(H2S)
        } else {
            H2S.to_vec()
        };
        for then_close in [false, true] {
            let how = if then_close {
                ", closed"
            } else {
                ", left open"
            };
            c.push(
                Case::new(
                    g,
                    format!("‹kind›, last id below the stream{how}"),
                    below,
                    &clients,
                )
                .variant(name)
                .serve(move |s, seen, n| async move {
                    let mut h = open(s, seen, &[]).await;
                    let Some(sid) = h.request().await else { return };
                    if n > 0 {
                        h.respond("whole", sid, &status_block("200"), true).await;
                        h.watch(300).await;
                        return;
                    }
                    h.goaway(0, code, debug).await;
                    match then_close {
                        true => h.fin().await,
                        false => h.watch(1_500).await,
                    }
                }),
            );
        }
        c.push(
            Case::new(
                g,
                "‹kind›, last id = the stream, then closed without an answer",
                MAYBE_SVC,
                &clients,
            )
            .variant(name)
            .serve(move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                let Some(sid) = h.request().await else { return };
                h.goaway(sid, code, debug).await;
                tokio::time::sleep(Duration::from_millis(40)).await;
                h.fin().await;
            }),
        );
        c.push(
            Case::new(
                g,
                "‹kind›, last id = the stream, and at once closed",
                MAYBE_SVC,
                &clients,
            )
            .variant(name)
            .serve(move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                let Some(sid) = h.request().await else { return };
                h.goaway(sid, code, debug).await;
                h.fin().await;
            }),
        );
        c.push(
            Case::new(
                g,
                "‹kind›, last id 2^31-1 (a warning), then closed without an answer",
                MAYBE_SVC,
                &clients,
            )
            .variant(name)
            .serve(move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                if h.request().await.is_none() {
                    return;
                }
                h.goaway(0x7fff_ffff, code, debug).await;
                tokio::time::sleep(Duration::from_millis(40)).await;
                h.fin().await;
            }),
        );
        // The farewell waits in the client's socket while it sends: below the new stream.
        c.push(
            Case::new(
                g,
                "‹kind› while idle, not yet seen, last id below",
                below,
                &clients,
            )
            .variant(name)
            .opt(|o| o.warm = true)
            .freeze(150)
            .serve(move |s, seen, n| async move {
                let mut h = open(s, seen, &[]).await;
                let sid = h.warm(true).await;
                if n > 0 {
                    return h.watch(300).await;
                }
                tokio::time::sleep(Duration::from_millis(80)).await;
                h.goaway(sid, code, debug).await;
                h.watch(1_000).await;
            }),
        );
        c.push(
            Case::new(
                g,
                "‹kind› while idle, not yet seen, last id below, closed",
                below,
                &clients,
            )
            .variant(name)
            .opt(|o| o.warm = true)
            .freeze(150)
            .serve(move |s, seen, n| async move {
                let mut h = open(s, seen, &[]).await;
                let sid = h.warm(true).await;
                if n > 0 {
                    return h.watch(300).await;
                }
                tokio::time::sleep(Duration::from_millis(80)).await;
                h.goaway(sid, code, debug).await;
                h.fin().await;
            }),
        );
        c.push(
            Case::new(g, "‹kind› while idle, seen", NEVER.graceful(), &[HyperH2])
                .variant(name)
                .opt(|o| {
                    o.warm = true;
                    o.pause = 100;
                })
                .serve(move |s, seen, _| async move {
                    let mut h = open(s, seen, &[]).await;
                    let sid = h.warm(true).await;
                    h.goaway(sid, code, debug).await;
                    h.watch(1_000).await;
                }),
        );
    }
    // The request is on its way, the server works on it, and then says that it stops (above), and answers late or never.
    c.push(
        Case::new(
            g,
            "NO_ERROR, last id above, in mid-upload, closed",
            MAYBE_SVC,
            H2S,
        )
        .opt(|o| o.up = Up::Slow(8, 50, 40))
        .serve(move |s, seen, _| async move {
            let mut h = open(s, seen, &[]).await;
            if h.head().await.is_none() {
                return;
            }
            h.some().await;
            h.goaway(0x7fff_ffff, 0, "").await;
            tokio::time::sleep(Duration::from_millis(40)).await;
            h.fin().await;
        }),
    );
}

fn deaths(c: &mut Vec<Case>) {
    let g = "6c h2 connection dies";
    for rst in [false, true] {
        let how = if rst { "RST" } else { "FIN" };
        let end = move |h: H2| async move {
            match rst {
                true => h.rst_conn(),
                false => h.fin().await,
            }
        };
        c.push(
            Case::new(
                g,
                format!("{how} before the request, seen"),
                NEVER.graceful(),
                &[HyperH2, LegacyH2, Channel, Typed],
            )
            .opt(|o| {
                o.warm = true;
                o.pause = 100;
            })
            .serve(move |s, seen, n| async move {
                let mut h = open(s, seen, &[]).await;
                h.warm(true).await;
                match n {
                    0 => end(h).await,
                    _ => h.watch(300).await,
                }
            }),
        );
        c.push(
            Case::new(g, format!("{how} while idle, not yet seen"), MAYBE_SVC, H2S)
                .opt(|o| o.warm = true)
                .freeze(150)
                .serve(move |s, seen, n| async move {
                    let mut h = open(s, seen, &[]).await;
                    h.warm(true).await;
                    if n > 0 {
                        return h.watch(300).await;
                    }
                    tokio::time::sleep(Duration::from_millis(80)).await;
                    match rst {
                        true => h.rst_conn(),
                        false => drop(h),
                    }
                }),
        );
        c.push(
            Case::new(
                g,
                format!("{how} after the head, upload to come"),
                MAYBE_SVC,
                H2S,
            )
            .opt(|o| o.up = Up::Slow(8, 50, 40))
            .serve(move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                h.head().await;
                end(h).await;
            }),
        );
        c.push(
            Case::new(g, format!("{how} in mid-upload"), MAYBE_SVC, H2S)
                .opt(|o| o.up = Up::Slow(8, 50, 40))
                .serve(move |s, seen, _| async move {
                    let mut h = open(s, seen, &[]).await;
                    h.head().await;
                    h.some().await;
                    end(h).await;
                }),
        );
        c.push(
            Case::new(g, format!("{how} after all"), MAYBE_SVC, H2S).serve(
                move |s, seen, _| async move {
                    let mut h = open(s, seen, &[]).await;
                    h.request().await;
                    end(h).await;
                },
            ),
        );
        c.push(
            Case::new(g, format!("{how} before SETTINGS"), MAYBE_SVC, H2S).serve(
                move |s, seen, _| async move {
                    let mut h = crate::wire::H1::new(s, seen);
                    h.peek().await;
                    match rst {
                        true => h.rst(),
                        false => drop(h),
                    }
                },
            ),
        );
    }
    c.push(
        Case::new(g, "keep-alive: no pong", MAYBE_NET, H2S)
            .opt(|o| o.keepalive = Some((100, 150)))
            .serve(move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                h.pong = false;
                h.watch(3_000).await;
            }),
    );
    c.push(
        Case::new(
            g,
            "keep-alive: no pong, in mid-upload",
            MAYBE_NET,
            &[HyperH2, LegacyH2, ReqwestH2, Channel],
        )
        .opt(|o| {
            o.keepalive = Some((100, 150));
            o.up = Up::Endless;
        })
        .serve(move |s, seen, _| async move {
            let mut h = open(s, seen, &[]).await;
            h.pong = false;
            h.watch(3_000).await;
        }),
    );
    c.push(
        Case::new(
            g,
            "keep-alive: no pong, while idle, then a request",
            NEVER.graceful(),
            &[HyperH2],
        )
        .opt(|o| {
            o.keepalive = Some((100, 150));
            o.warm = true;
            o.pause = 600;
        })
        .serve(move |s, seen, _| async move {
            let mut h = open(s, seen, &[]).await;
            h.pong = false;
            h.warm(true).await;
            h.watch(3_000).await;
        }),
    );
    c.push(
        Case::new(g, "keep-alive: no pong, within the body", BEGUN, H2S)
            .opt(|o| o.keepalive = Some((100, 150)))
            .serve(move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                h.pong = false;
                let Some(sid) = h.request().await else { return };
                h.respond("head", sid, &grpc_head(), false).await;
                h.watch(3_000).await;
            }),
    );
    c.push(
        Case::new(
            g,
            "upload body fails at once",
            OWN,
            &[HyperH2, LegacyH2, ReqwestH2, Channel],
        )
        .opt(|o| o.up = Up::FailsAtOnce)
        .serve(|s, seen, _| async move {
            open(s, seen, &[]).await.watch(1_500).await;
        }),
    );
    c.push(
        Case::new(
            g,
            "upload body fails in the middle",
            OWN,
            &[HyperH2, LegacyH2, ReqwestH2, Channel],
        )
        .opt(|o| o.up = Up::Fails)
        .serve(|s, seen, _| async move {
            open(s, seen, &[]).await.watch(1_500).await;
        }),
    );
    for (up, what) in [(Up::Short, "shorter"), (Up::Long, "longer")] {
        c.push(
            Case::new(
                g,
                format!("upload body {what} than its content-length"),
                OWN,
                &[HyperH2, LegacyH2, ReqwestH2],
            )
            .opt(|o| o.up = up)
            .serve(|s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                let Some(sid) = h.request().await else { return };
                h.respond("whole", sid, &[0x88], true).await;
                h.watch(500).await;
            }),
        );
    }
}

fn queued(c: &mut Vec<Case>) {
    let g = "6d h2 queue (max_concurrent_streams = 1)";
    let clients = [HyperH2, LegacyH2, ReqwestH2, Channel, Typed];
    for how in ["FIN", "RST"] {
        c.push(
            Case::new(
                g,
                "‹kind› with one in flight and two waiting",
                MAYBE_SVC,
                &clients,
            )
            .variant(how)
            .queued(NEVER)
            .opt(|o| o.warm = true)
            .serve(move |s, seen, n| async move {
                let mut h = open(s, seen, &[(3, 1)]).await;
                if n > 0 {
                    return answer_all(h).await;
                }
                h.warm(true).await;
                let _ = tokio::time::timeout(Duration::from_millis(450), async {
                    while h.frame().await.is_some() {}
                })
                .await;
                match how {
                    "RST" => h.rst_conn(),
                    _ => h.fin().await,
                }
            }),
        );
    }
    for (code, name) in [
        (0u32, "NO_ERROR"),
        (2, "INTERNAL_ERROR"),
        (11, "ENHANCE_YOUR_CALM"),
    ] {
        c.push(
            Case::new(
                g,
                "GOAWAY ‹kind›, last id = the one in flight, closed",
                MAYBE_SVC,
                &clients,
            )
            .variant(name)
            .queued(NEVER.graceful())
            .opt(|o| o.warm = true)
            .serve(move |s, seen, n| async move {
                let mut h = open(s, seen, &[(3, 1)]).await;
                if n > 0 {
                    return answer_all(h).await;
                }
                h.warm(true).await;
                let mut last = 3;
                let _ = tokio::time::timeout(Duration::from_millis(450), async {
                    while let Some(f) = h.frame().await {
                        if f.ty == HEADERS {
                            last = f.sid;
                        }
                    }
                })
                .await;
                h.goaway(last, code, "").await;
                tokio::time::sleep(Duration::from_millis(60)).await;
                h.fin().await;
            }),
        );
    }
    c.push(
        Case::new(
            g,
            "keep-alive: no pong, with one in flight and two waiting",
            MAYBE_NET,
            &[HyperH2, LegacyH2, Channel, Typed],
        )
        .queued(truth(Sent::Never, Who::Network))
        .opt(|o| {
            o.keepalive = Some((200, 250));
            o.warm = true;
        })
        .serve(move |s, seen, n| async move {
            let mut h = open(s, seen, &[(3, 1)]).await;
            if n > 0 {
                return answer_all(h).await;
            }
            h.warm(true).await;
            h.pong = false;
            h.watch(3_000).await;
        }),
    );
    c.push(
        Case::new(
            g,
            "max_concurrent_streams = 0, total timeout",
            NEVER,
            &[ReqwestH2, Channel, Typed],
        )
        .opt(|o| {
            o.total = Some(300);
            o.warm = true;
            o.pause = 100;
        })
        .serve(move |s, seen, _| async move {
            let mut h = open(s, seen, &[]).await;
            h.warm(true).await;
            h.frame_out(crate::wire::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0])
                .await;
            h.watch(2_000).await;
        }),
    );
}

fn broken(c: &mut Vec<Case>) {
    let g = "6e h2 protocol errors";
    c.push(
        Case::new(
            g,
            "server speaks HTTP/1.1",
            truth(Sent::Maybe, Who::Service).moot(),
            H2S,
        )
        .serve(move |s, seen, _| async move {
            let mut h = crate::wire::H1::new(s, seen);
            h.peek().await;
            h.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await;
            h.fin().await;
        }),
    );
    c.push(Case::new(g, "frame of 20000 bytes", MAYBE_SVC, H2S).serve(
        move |s, seen, _| async move {
            let mut h = open(s, seen, &[]).await;
            let Some(sid) = h.request().await else { return };
            h.raw_frame(20_000, DATA, 0, sid, &[0; 20_000]).await;
            h.watch(300).await;
        },
    ));
    c.push(
        Case::new(g, "window overflow of the stream", MAYBE_SVC, H2S)
            .opt(|o| o.up = Up::Slow(8, 50, 40))
            .serve(move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                let Some((sid, _)) = h.head().await else {
                    return;
                };
                for _ in 0..2 {
                    h.frame_out(WINDOW_UPDATE, 0, sid, &0x7fff_ffffu32.to_be_bytes())
                        .await;
                }
                h.watch(600).await;
            }),
    );
    c.push(
        Case::new(g, "window overflow of the connection", MAYBE_SVC, H2S).serve(
            move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                if h.request().await.is_none() {
                    return;
                }
                for _ in 0..2 {
                    h.frame_out(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes())
                        .await;
                }
                h.watch(300).await;
            },
        ),
    );
    c.push(
        Case::new(g, "DATA on a stream that is idle", MAYBE_SVC, H2S).serve(
            move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                if h.request().await.is_none() {
                    return;
                }
                h.frame_out(DATA, 0, 99, b"x").await;
                h.watch(300).await;
            },
        ),
    );
    c.push(
        Case::new(g, "headers that cannot be decoded", MAYBE_SVC, H2S).serve(
            move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                let Some(sid) = h.request().await else { return };
                h.frame_out(HEADERS, 5, sid, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
                    .await;
                h.watch(300).await;
            },
        ),
    );
    c.push(
        Case::new(g, "response without :status", MAYBE_SVC, H2S).serve(
            move |s, seen, _| async move {
                let mut h = open(s, seen, &[]).await;
                let Some(sid) = h.request().await else { return };
                h.frame_out(HEADERS, 5, sid, &hpack("x", "y")).await;
                h.watch(300).await;
            },
        ),
    );
    c.push(
        Case::new(
            g,
            "response head larger than max_header_list_size",
            BEGUN,
            H2S,
        )
        .opt(|o| o.max_header_list = Some(200))
        .serve(move |s, seen, _| async move {
            let mut h = open(s, seen, &[]).await;
            let Some(sid) = h.request().await else { return };
            let mut b = grpc_head();
            for i in 0..20 {
                b.extend(hpack(&format!("x-{i}"), &"y".repeat(100)));
            }
            h.respond("head", sid, &b, false).await;
            h.watch(300).await;
        }),
    );
    c.push(
        Case::new(
            g,
            "request head larger than the server's MAX_HEADER_LIST_SIZE",
            OWN,
            H2S,
        )
        .opt(|o| {
            o.warm = true;
            o.headers = vec![("x-large", "y".repeat(2_000))];
        })
        .serve(move |s, seen, _| async move {
            let mut h = open(s, seen, &[(6, 400)]).await;
            h.warm(true).await;
            let Some(sid) = h.request().await else { return };
            h.respond("whole", sid, &status_block("431"), true).await;
            h.watch(300).await;
        }),
    );
}

fn bodies(c: &mut Vec<Case>) {
    let g = "6f h2 response cut";
    // A message of 10 bytes is announced, 5 come.
    let part: &[u8] = &[0, 0, 0, 0, 10, 1, 2, 3, 4, 5];
    for how in [
        "FIN",
        "RST",
        "RST_STREAM CANCEL",
        "RST_STREAM INTERNAL_ERROR",
        "RST_STREAM NO_ERROR",
        "RST_STREAM ENHANCE_YOUR_CALM",
        "GOAWAY NO_ERROR and FIN",
        "GOAWAY INTERNAL_ERROR and FIN",
    ] {
        c.push(
            Case::new(g, "body cut by ‹kind›", BEGUN, H2S)
                .variant(how.replace(' ', "-"))
                .serve(move |s, seen, _| async move {
                    let mut h = open(s, seen, &[]).await;
                    let Some(sid) = h.request().await else { return };
                    h.respond("part", sid, &grpc_head(), false).await;
                    h.frame_out(DATA, 0, sid, part).await;
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    match how {
                        "FIN" => h.fin().await,
                        "RST" => h.rst_conn(),
                        "GOAWAY NO_ERROR and FIN" => {
                            h.goaway(sid, 0, "").await;
                            h.fin().await;
                        }
                        "GOAWAY INTERNAL_ERROR and FIN" => {
                            h.goaway(sid, 2, "").await;
                            h.fin().await;
                        }
                        other => {
                            h.reset(
                                sid,
                                match other {
                                    "RST_STREAM CANCEL" => 8,
                                    "RST_STREAM INTERNAL_ERROR" => 2,
                                    "RST_STREAM ENHANCE_YOUR_CALM" => 11,
                                    _ => 0,
                                },
                            )
                            .await;
                            h.watch(300).await;
                        }
                    }
                }),
        );
    }
    c.push(
        Case::new(
            g,
            "content-length larger than the body",
            BEGUN,
            &[HyperH2, LegacyH2, ReqwestH2, Channel],
        )
        .serve(move |s, seen, _| async move {
            let mut h = open(s, seen, &[]).await;
            let Some(sid) = h.request().await else { return };
            let mut b = grpc_head();
            b.extend(hpack("content-length", "100"));
            h.respond("part", sid, &b, false).await;
            h.frame_out(DATA, 1, sid, part).await;
            h.watch(300).await;
        }),
    );
    let silent = |what: &'static str, k: &[Kind]| {
        Case::new(g, what, BEGUN, k).serve(move |s, seen, _| async move {
            let mut h = open(s, seen, &[]).await;
            let Some(sid) = h.request().await else { return };
            h.respond("part", sid, &grpc_head(), false).await;
            h.frame_out(DATA, 0, sid, part).await;
            h.watch(1_500).await;
        })
    };
    c.push(
        silent("body silent, total timeout", &[ReqwestH2, Channel, Typed])
            .opt(|o| o.total = Some(300)),
    );
    c.push(silent("body silent, read_timeout", &[ReqwestH2]).opt(|o| o.read_timeout = Some(300)));
    let none = |what: &'static str, k: &[Kind]| {
        Case::new(g, what, MAYBE_SVC, k).serve(move |s, seen, _| async move {
            open(s, seen, &[]).await.watch(1_500).await;
        })
    };
    c.push(
        none(
            "no answer, total timeout (Endpoint::timeout)",
            &[ReqwestH2, Channel, Typed],
        )
        .opt(|o| o.total = Some(300)),
    );
    c.push(none("no answer, read_timeout", &[ReqwestH2]).opt(|o| o.read_timeout = Some(300)));
    let _ = grpc_trailers;
}
