//! What a gRPC server answers.
use std::sync::Arc;

use crate::cases::BEGUN;
use crate::clients::{Kind, Up};
use crate::rows::{Sent, Truth, Who, truth};
use crate::run::Case;
use crate::wire::{DATA, H2, HEADERS, grpc_head, grpc_only, grpc_trailers, hpack, status_block};

use Kind::*;

const ANSWERED: Truth = truth(Sent::Answered, Who::Service);

fn answer(
    g: &'static str,
    what: String,
    t: Truth,
    k: &[Kind],
    frames: Vec<(u8, u8, Vec<u8>)>,
) -> Case {
    let frames = Arc::new(frames);
    Case::new(g, what, t, k).serve(move |s, seen, _| {
        let frames = frames.clone();
        async move {
            let Some(mut h) = H2::open(s, seen, &[]).await else {
                return;
            };
            let Some(sid) = h.request().await else { return };
            h.seen
                .with(|s| s.responded = Some(if frames.len() > 1 { "part" } else { "head" }));
            for (ty, flags, payload) in frames.iter() {
                h.frame_out(*ty, *flags, sid, payload).await;
            }
            h.watch(400).await;
        }
    })
}

fn msg(bytes: &[u8]) -> Vec<u8> {
    let mut m = vec![0];
    m.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    m.extend_from_slice(bytes);
    m
}

pub fn all() -> Vec<Case> {
    let mut c = Vec::new();
    let g = "8 gRPC answers";
    let typed = &[Typed][..];
    let both = &[Channel, Typed][..];
    for code in 1..=16u32 {
        c.push(
            answer(
                g,
                "trailers-only, ‹code›".into(),
                ANSWERED,
                typed,
                vec![(HEADERS, 5, grpc_only(code, "m"))],
            )
            .variant(format!("{:?}", tonic::Code::from(code as i32))),
        );
    }
    c.push(answer(
        g,
        "UNAVAILABLE in trailers, after a message".into(),
        BEGUN,
        both,
        vec![
            (HEADERS, 4, grpc_head()),
            (DATA, 0, msg(&[])),
            (HEADERS, 5, grpc_trailers(14, "m")),
        ],
    ));
    c.push(answer(
        g,
        "OK, and no message".into(),
        BEGUN,
        both,
        vec![
            (HEADERS, 4, grpc_head()),
            (HEADERS, 5, grpc_trailers(0, "")),
        ],
    ));
    c.push(answer(
        g,
        "OK trailers-only, and no message".into(),
        BEGUN,
        both,
        vec![(HEADERS, 5, grpc_only(0, ""))],
    ));
    c.push(answer(
        g,
        "two messages for a unary call".into(),
        BEGUN,
        typed,
        vec![
            (HEADERS, 4, grpc_head()),
            (DATA, 0, [msg(&[]), msg(&[])].concat()),
            (HEADERS, 5, grpc_trailers(0, "")),
        ],
    ));
    c.push(answer(
        g,
        "a message, and no trailers".into(),
        BEGUN,
        both,
        vec![(HEADERS, 4, grpc_head()), (DATA, 1, msg(&[]))],
    ));
    c.push(answer(
        g,
        "no message, and no trailers".into(),
        BEGUN,
        both,
        vec![(HEADERS, 4, grpc_head()), (DATA, 1, vec![])],
    ));
    c.push(answer(
        g,
        "trailers without grpc-status".into(),
        BEGUN,
        both,
        vec![
            (HEADERS, 4, grpc_head()),
            (DATA, 0, msg(&[])),
            (HEADERS, 5, hpack("x", "y")),
        ],
    ));
    c.push(answer(
        g,
        "head alone, without grpc-status".into(),
        BEGUN,
        both,
        vec![(HEADERS, 5, grpc_head())],
    ));
    c.push(
        answer(
            g,
            "stream: a message, and no trailers".into(),
            BEGUN,
            typed,
            vec![(HEADERS, 4, grpc_head()), (DATA, 1, msg(&[]))],
        )
        .opt(|o| o.streaming = true),
    );
    for status in [
        "400", "401", "403", "404", "408", "429", "500", "502", "503", "504",
    ] {
        let mut b = status_block(status);
        b.extend(hpack("content-type", "text/html"));
        c.push(
            answer(
                g,
                "HTTP ‹status› of a proxy with a page, no grpc-status".into(),
                ANSWERED,
                typed,
                vec![(HEADERS, 4, b), (DATA, 1, b"<html>".to_vec())],
            )
            .variant(status),
        );
    }
    for status in [
        "400", "401", "403", "404", "408", "429", "500", "502", "503", "504",
    ] {
        c.push(
            answer(
                g,
                "HTTP ‹status› of a proxy, no grpc-status and no body".into(),
                ANSWERED,
                typed,
                vec![(HEADERS, 5, status_block(status))],
            )
            .variant(status),
        );
    }
    let mut b = vec![0x88];
    b.extend(hpack("content-type", "text/html"));
    c.push(answer(
        g,
        "HTTP 200 with text/html".into(),
        BEGUN,
        both,
        vec![(HEADERS, 4, b), (DATA, 1, b"<html>hello".to_vec())],
    ));
    c.push(answer(
        g,
        "protobuf that cannot be decoded".into(),
        BEGUN,
        typed,
        vec![
            (HEADERS, 4, grpc_head()),
            (DATA, 0, msg(&[0xff, 0xff])),
            (HEADERS, 5, grpc_trailers(0, "")),
        ],
    ));
    c.push(answer(
        g,
        "flag: compressed, and no grpc-encoding".into(),
        BEGUN,
        typed,
        vec![
            (HEADERS, 4, grpc_head()),
            (DATA, 0, vec![1, 0, 0, 0, 1, 0]),
            (HEADERS, 5, grpc_trailers(0, "")),
        ],
    ));
    c.push(answer(
        g,
        "flag that does not exist".into(),
        BEGUN,
        typed,
        vec![
            (HEADERS, 4, grpc_head()),
            (DATA, 0, vec![7, 0, 0, 0, 1, 0]),
            (HEADERS, 5, grpc_trailers(0, "")),
        ],
    ));
    let mut z = grpc_head();
    z.extend(hpack("grpc-encoding", "zstd"));
    c.push(answer(
        g,
        "grpc-encoding that the client does not speak".into(),
        BEGUN,
        typed,
        vec![
            (HEADERS, 4, z),
            (DATA, 0, vec![1, 0, 0, 0, 1, 0]),
            (HEADERS, 5, grpc_trailers(0, "")),
        ],
    ));
    c.push(
        answer(
            g,
            "message larger than max_decoding_message_size".into(),
            truth(Sent::Local, Who::Caller),
            typed,
            vec![
                (HEADERS, 4, grpc_head()),
                (DATA, 0, msg(&[0; 100])),
                (HEADERS, 5, grpc_trailers(0, "")),
            ],
        )
        .opt(|o| o.max_decode = Some(10)),
    );
    c.push(
        answer(
            g,
            "message larger than max_encoding_message_size".into(),
            truth(Sent::Own, Who::Caller),
            typed,
            vec![(HEADERS, 5, grpc_only(13, "should not come"))],
        )
        .opt(|o| {
            o.max_encode = Some(10);
            o.message = 100;
        }),
    );
    let mut p = grpc_only(14, "m");
    p.extend(hpack("grpc-retry-pushback-ms", "-1"));
    c.push(answer(
        g,
        "UNAVAILABLE with pushback -1".into(),
        ANSWERED,
        typed,
        vec![(HEADERS, 5, p)],
    ));
    let g = "9 gRPC deadlines";
    let silent = |what: &'static str, k: &[Kind]| {
        Case::new(g, what, truth(Sent::Maybe, Who::Service), k).serve(
            move |s, seen, _| async move {
                let Some(mut h) = H2::open(s, seen, &[]).await else {
                    return;
                };
                h.watch(1_500).await;
            },
        )
    };
    c.push(
        silent("no answer, grpc-timeout of the request (set_timeout)", both)
            .opt(|o| o.grpc_timeout = Some(250)),
    );
    c.push(silent("no answer, Endpoint::timeout", both).opt(|o| o.total = Some(250)));
    c.push(
        silent("no answer, Endpoint::timeout, client stream", typed).opt(|o| {
            o.total = Some(250);
            o.up = Up::Slow(20, 10, 50);
        }),
    );
    c.push(silent("no answer, tokio timeout around the call", both).outer(250));
    c.push(answer(
        g,
        "CANCELLED \"Timeout expired\" of a tonic server (its own limit)".into(),
        truth(Sent::Answered, Who::Service),
        typed,
        vec![(HEADERS, 5, grpc_only(1, "Timeout expired"))],
    ));
    c.push(
        Case::new(
            g,
            "head, then silent; Endpoint::timeout does not count on",
            BEGUN,
            typed,
        )
        .opt(|o| {
            o.total = Some(250);
            o.streaming = true;
        })
        .serve(move |s, seen, _| async move {
            let Some(mut h) = H2::open(s, seen, &[]).await else {
                return;
            };
            let Some(sid) = h.request().await else { return };
            h.respond("head", sid, &grpc_head(), false).await;
            h.watch(1_200).await;
        }),
    );
    c
}
