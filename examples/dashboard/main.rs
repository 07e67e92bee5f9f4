//! The dashboard, over the scripted server of the main job: it throttles, hangs, breaks connections and dies, again and again.
//!
//! ```sh
//! cargo run --features config,dashboard --example dashboard
//! ```
//!
//! Open the address that it prints. On a terminal it goes on until it is stopped; elsewhere it runs for a few seconds, looks
//! at its own page as a browser would, says what that shows, and ends. `--serve` goes on there too.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a program has no outside, and this one uses a part of what it shares with the main job"
)]

#[path = "../llm_pipeline/client.rs"]
mod client;
mod jobs;
#[path = "../llm_pipeline/live.rs"]
mod live;
#[path = "../llm_pipeline/report.rs"]
mod report;
#[path = "../llm_pipeline/stack.rs"]
mod stack;
#[path = "../support/mod.rs"]
mod support;
#[path = "../llm_pipeline/traffic.rs"]
mod traffic;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use tower_bulwark::circuit_breaker::Recovery;
use tower_bulwark::dashboard::{Dashboard, Operator};
use tower_bulwark::keyed::Keyed;
use tower_bulwark::{BoxError, CircuitBreaker};

use client::Endpoint;
use stack::Handles;
use support::fake_llm::FakeLlm;
use support::scenario::Scenario;
use traffic::Traffic;

/// Shows the dashboard over a service that fails.
#[derive(Debug, Parser)]
struct Args {
    /// Where it listens; port 0 is any that is free
    #[arg(long, default_value = "127.0.0.1:0")]
    address: String,
    /// Goes on until it is stopped, also without a terminal
    #[arg(long)]
    serve: bool,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    let serve = args.serve || std::io::stdin().is_terminal();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/llm_pipeline/bulwark.toml");
    let handles = Handles::by_file(&config, 7)?;
    let registry = handles.registry.clone();
    // Long enough to be read.
    let breaker = registry.circuit_breaker("llm-api");
    let mut rules = (*breaker.config()).clone();
    let (first, longest) = (Duration::from_secs(4), Duration::from_secs(20));
    rules.recovery = Recovery::exponential(first, 2.0, longest);
    breaker.update(rules)?;

    let tenants = Keyed::new("tenants", 10_000, |tenant: &String| {
        CircuitBreaker::new(tenant.as_str())
    })?;
    let dashboard = Dashboard::builder(&registry)
        .title("LLM pipeline")
        .keyed("tenants", &tenants)
        // It listens on this machine alone. A real program asks who it is.
        .commands(|_, _| Ok(Operator::new("somebody on this machine")))
        .build();
    let listener = TcpListener::bind(&args.address).await?;
    let address = format!("http://{}/", listener.local_addr()?);
    live::say(&format!("the dashboard is at {address}"));
    tokio::spawn(axum::serve(listener, dashboard.router()).into_future());

    jobs::start(&registry, &tenants)?;
    let traffic = tokio::spawn(bad_days(handles));
    match serve {
        true => traffic.await?,
        false => {
            look(&address).await?;
            traffic.abort();
            Ok(())
        }
    }
}

/// Day after day, each with a server of its own.
async fn bad_days(handles: Handles) -> Result<(), BoxError> {
    const PROMPTS: u64 = 600;
    let second = FakeLlm::start(Scenario::healthy(7).latency_ms(120..=240)).await?;
    let second = Arc::new(Endpoint::fake(second.base_url())?);
    loop {
        let day = Scenario::bad_day(7, PROMPTS).outage(PROMPTS * 60 / 100, Duration::from_secs(30));
        let server = FakeLlm::start(day).await?;
        let endpoint = Endpoint::fake(server.base_url())?;
        let traffic = Arc::new(Traffic::new(endpoint, PROMPTS));
        let service = stack::layered(&handles, &traffic.endpoint, Some(&second));
        traffic::send_all(&traffic, service, 12).await?;
        server.shutdown().await;
    }
}

/// What a browser would get, until there is a problem to be seen.
async fn look(address: &str) -> Result<(), BoxError> {
    let http = support::http_client()?;
    for asset in ["", "style.css", "app.js"] {
        let body = http.get(format!("{address}{asset}")).send().await?;
        let bytes = body.error_for_status()?.bytes().await?.len();
        live::say(&format!("GET /{asset}: {bytes} bytes"));
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..30 {
        ticks.tick().await;
        let state = http.get(format!("{address}api/snapshot")).send().await?;
        let state: serde_json::Value = state.error_for_status()?.json().await?;
        live::say(state["headline"].as_str().unwrap_or_default());
        let problems = state["problems"].as_array();
        let circuit = problems
            .into_iter()
            .flatten()
            .any(|it| it["pattern"] == "circuit_breaker" && it["severity"] == "error");
        if circuit {
            return Ok(());
        }
    }
    Err("in half a minute no circuit has opened".into())
}
