//! What real clients fail with. Each row is one exchange of a real client (hyper, hyper-util, reqwest, tonic, layers of
//! tower) with a server that fails on purpose, over loopback. What was true of it is known from the server's side;
//! what the classifiers of this crate say of the error is held against it.
//!
//! Real sockets and real timers: there is no virtual time below a foreign client. Rows are made side by side.
//!
//! A route that is lost needs a network namespace with nothing but a loopback. Without one those rows are left out,
//! and the test says so: `unshare -n sh -c 'ip link set lo up && CLIENTS_NETNS=1 cargo test --all-features --test clients'`.

#![expect(
    clippy::disallowed_methods,
    reason = "foreign clients run on real time"
)]
#![allow(unreachable_pub, reason = "one test, in several files")]
#![allow(
    clippy::too_many_arguments,
    clippy::needless_pass_by_value,
    reason = "a row has eight columns, each written once"
)]

mod cases;
mod cases_grpc;
mod cases_h2;
mod cases_more;
mod cases_netns;
mod chain;
mod clients;
mod known;
mod rows;
mod run;
mod tls;
mod wire;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tower_bulwark::Classify;
use tower_bulwark::grpc::GrpcClassify;

use rows::Row;

#[derive(Debug)]
struct Injected(&'static str);

impl std::fmt::Display for Injected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Injected {}

/// How many exchanges run at once. They wait for timers, mostly.
const AT_ONCE: usize = 24;

fn all_rows() -> Vec<Row> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let servers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut cases = cases::all();
    cases.extend(cases_h2::all());
    cases.extend(cases_grpc::all());
    let pairs: Vec<_> = cases
        .iter()
        .flat_map(|case| case.clients.iter().map(move |client| (case, *client)))
        .collect();
    let scenes = cases_more::SCENES;
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let made = if let Some(scene) = scenes.get(n) {
                        let mut made = Vec::new();
                        scene(&mut made, servers.handle());
                        made
                    } else if let Some((case, client)) = pairs.get(n - scenes.len()) {
                        run::run(case, *client, servers.handle())
                    } else {
                        return;
                    };
                    rows.lock().unwrap().extend(made);
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    // Last, and alone: they break the route under all connections of the namespace.
    rows.extend(cases_netns::all(servers.handle()));
    servers.shutdown_background();
    rows.iter_mut().for_each(in_another_form);
    rows
}

/// What the crate says of the same answer in another form.
fn in_another_form(row: &mut Row) {
    if row.what.starts_with("HTTP ‹status›") {
        let status: u16 = row.variant.as_deref().unwrap_or("").parse().unwrap_or(500);
        let body = http_body_util::Full::new(bytes::Bytes::from_static(b"x"));
        let response = http::Response::builder().status(status).body(body).unwrap();
        let verdict = Classify::<_, std::io::Error>::classify(&GrpcClassify::new(), Ok(&response));
        row.expect = Some(rows::Said::of(&verdict).text());
    }
}

#[test]
fn what_real_clients_fail_with_is_judged_by_what_happened() {
    let rows = all_rows();
    let errors = rows.iter().filter(|row| !row.links.is_empty()).count();
    println!(
        "{} exchanges, {errors} of them ended with an error",
        rows.len()
    );
    if !cases_netns::alone() {
        println!("NOT RUN: the rows of a lost route, which need a network namespace of their own");
    }

    let mut wrong = Vec::new();
    let mut seen = BTreeMap::<&str, usize>::new();
    for row in &rows {
        for mark in row.marks() {
            if known::is_the_price(mark) || rows::cannot_be_told(&rows, row, mark) {
                continue;
            }
            *seen.entry(mark).or_default() += 1;
            if !known::KNOWN.iter().any(|known| known.covers(mark, row)) {
                wrong.push(format!(
                    "{mark}: {} | {} | {:?} | {} | {} | {} | {} | {:?} | server: {}, {}",
                    row.group,
                    row.what,
                    row.variant,
                    row.client,
                    row.sig,
                    row.verdict().map(rows::Said::text).unwrap_or_default(),
                    row.kind,
                    row.truth,
                    row.received,
                    row.response,
                ));
            }
        }
    }
    println!("disagreements that are known: {seen:?}");
    assert!(errors > 1_200, "only {errors} errors were made");
    assert!(
        wrong.is_empty(),
        "{} rows:\n{}",
        wrong.len(),
        wrong.join("\n")
    );

    // What is known is named on the pages of `ErrorKind` and `GrpcClassify`: none of it may have gone unnoticed.
    for known in known::KNOWN {
        let met = rows.iter().any(|row| {
            let marks = row.marks();
            marks.iter().any(|mark| known.covers(mark, row))
        });
        assert!(met, "no longer so: {} ({})", known.what, known.why);
    }
    let most = |mark: &str, most: usize| {
        let found = seen.get(mark).copied().unwrap_or(0);
        assert!(found <= most, "{mark}: {found} rows");
    };
    most("DOUBLE", 2);
    most("BLIND", 1);
    most("BLAMED", 40);
    most("lost-idem", 5);
}
