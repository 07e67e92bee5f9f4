//! Reads from a server of which one answer in twenty takes long: how long the slowest take, with and without hedges.
//!
//! ```sh
//! cargo run --example hedged_reads
//! ```

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use futures::stream::{self, StreamExt};
use reqwest::{Request, Response};
use support::clock::Stopwatch;
use support::table::Table;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt};
use tower_bulwark::{BoxError, Hedge, RetryBudget};

const MS: Duration = Duration::from_millis(1);
const READS: usize = 1_000;
const AT_ONCE: usize = 8;

/// Answers in 2 to 6 ms, and one in twenty in 120.
async fn read(State(reads): State<Arc<AtomicU32>>) -> &'static str {
    let number = reads.fetch_add(1, Ordering::Relaxed);
    sleep(match number % 20 {
        13 => 120 * MS,
        other => (2 + other % 5) * MS,
    })
    .await;
    "42"
}

/// A server on a port of its own, and what counts its requests.
async fn serve() -> std::io::Result<(SocketAddr, Arc<AtomicU32>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let (address, reads) = (listener.local_addr()?, Arc::new(AtomicU32::new(0)));
    let router = Router::new()
        .route("/", get(read))
        .with_state(Arc::clone(&reads));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((address, reads))
}

/// The latencies of all reads, sorted, and how many requests the server has seen.
async fn measure<S>(
    http: &reqwest::Client,
    wrap: impl Fn() -> S,
) -> Result<(Vec<Duration>, u32), BoxError>
where
    S: Service<Request, Response = Response, Error: Into<BoxError>>,
{
    let (address, reads) = serve().await?;
    let url = format!("http://{address}/");
    let calls = stream::iter(0..READS).map(|_| async {
        let request = http.get(&url).build()?;
        let watch = Stopwatch::start();
        let response = wrap().oneshot(request).await.map_err(Into::into)?;
        response.error_for_status()?.bytes().await?;
        Ok::<_, BoxError>(watch.elapsed())
    });
    let results: Vec<_> = calls.buffer_unordered(AT_ONCE).collect().await;
    let mut latencies = results.into_iter().collect::<Result<Vec<_>, _>>()?;
    latencies.sort();
    Ok((latencies, reads.load(Ordering::Relaxed)))
}

fn quantile(latencies: &[Duration], share: f64) -> Duration {
    let rank = (latencies.len() as f64 * share).ceil() as usize;
    latencies.get(rank.max(1) - 1).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let http = support::http_client()?;
    let mut table = Table::new();
    table.row(["", "p50", "p90", "p99", "requests"]);
    let mut line = |name: &str, (latencies, requests): &(Vec<Duration>, u32)| {
        let of = |share| format!("{:.1?}", quantile(latencies, share));
        table.row([
            name.to_owned(),
            of(0.5),
            of(0.9),
            of(0.99),
            requests.to_string(),
        ]);
    };

    let plain = measure(&http, || http.clone()).await?;
    line("without hedges", &plain);

    // A read that takes longer than nine in ten of the recent ones is made once more. What is not Clone is copied by hand.
    let hedge = Hedge::builder("reads")
        .after_percentile(0.9)
        .min_samples(50)
        .budget(&RetryBudget::new(0.2)?)
        .build()?;
    let layer = hedge.layer().copy_request(Request::try_clone);
    let service = layer.layer(http.clone());
    let hedged = measure(&http, || service.clone()).await?;
    line("with hedges", &hedged);

    println!("{READS} reads, {AT_ONCE} at once, from a server that is slow once in twenty:\n");
    println!("{table}");
    let seen = hedge.snapshot();
    println!(
        "{} of {} reads were hedged, after {:.1?} at the end; {} hedges answered first",
        seen.hedged,
        seen.calls,
        seen.delay.unwrap_or_default(),
        seen.won
    );
    assert!(quantile(&plain.0, 0.99) >= 120 * MS);
    assert!(seen.won > 0);
    assert!(hedged.1 > plain.1 && hedged.1 < plain.1 + plain.1 / 2);
    Ok(())
}
