//! A pipeline of LLM calls survives an upstream that throttles, hangs, breaks connections and dies.
//!
//! ```sh
//! cargo run --features config --example llm_pipeline
//! cargo run --features config --example llm_pipeline -- --seed 42 --prompts 500 --concurrency 64
//! OPENAI_API_KEY=sk-.. cargo run --features config --example llm_pipeline -- --prompts 5
//! ```
//!
//! The first two start two fake APIs on loopback, send the first prompts through a
//! [`Stack`](tower_bulwark::Stack) (total timeout, retry, hedge, circuit breaker, rate limit, lock, attempt timeout), and those
//! that it does not answer to the second; then they send the same prompts to a fresh copy of the first without the layers, and
//! print both side by side. With `OPENAI_API_KEY` (and `OPENAI_BASE_URL`, `OPENAI_MODEL`, `OPENAI_SECOND_MODEL`) it talks to
//! that API instead, once, with the layers.
//!
//! What the layers go by stands in `bulwark.toml` beside this file, and is changed while it runs by editing that.
//!
//! The exit code is 0 if no prompt was lost with the layers. A prompt is lost if it got no answer, or a
//! wrong one, for a reason that passes: throttling, a timeout, a broken connection, an outage, a refusal.
//! A request that is itself at fault (`400`, `401`, ..) is sent once, and is not lost: nothing would mend it.
//! With a real API, where no faults are scripted, every prompt must be answered.
#![allow(unreachable_pub, reason = "a program has no outside")]

mod client;
mod live;
mod report;
mod stack;
#[path = "../support/mod.rs"]
mod support;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tower_bulwark::BoxError;

use client::Endpoint;
use live::Live;
use report::Run;
use stack::Handles;
use support::fake_llm::FakeLlm;
use support::scenario::Scenario;
use traffic::Traffic;

/// Sends prompts to an LLM API through a whole stack of layers, with a second model behind it.
#[derive(Debug, Parser)]
#[command(
    after_help = "With OPENAI_API_KEY (and OPENAI_BASE_URL, OPENAI_MODEL, OPENAI_SECOND_MODEL) set, it talks to that API."
)]
struct Args {
    /// Makes the faults of the fake API, and the jitter, repeatable
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// How many prompts to send [default: 300, or 5 to a real API]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    prompts: Option<u64>,
    /// How many prompts are on their way at once [default: 20, or 4 to a real API]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=200))]
    concurrency: Option<u16>,
    /// What the layers go by [default: bulwark.toml of this example, or the defaults of the crate with a real API]
    #[arg(long)]
    config: Option<PathBuf>,
    /// Does not send the prompts again without the layers
    #[arg(long)]
    no_baseline: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match client::api_from_env() {
        Some(api) => real(&args, api).await,
        None => fake(&args).await,
    };
    match done {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", report::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Both runs against the fake API; how many prompts were lost with the layers.
async fn fake(args: &Args) -> Result<u64, BoxError> {
    let prompts = args.prompts.unwrap_or(300);
    let concurrency = args.concurrency.unwrap_or(20);
    let scenario = Scenario::bad_day(args.seed, prompts);
    live::say(&report::opening(&scenario, args.seed, prompts, concurrency));

    let server = FakeLlm::start(scenario.clone()).await?;
    // A smaller model: it answers later, and is well.
    let second = Scenario::healthy(args.seed).latency_ms(120..=240);
    let second = FakeLlm::start(second).await?;
    let endpoint = Endpoint::fake(server.base_url())?;
    let traffic = Arc::new(Traffic::new(endpoint, prompts));
    let other = Arc::new(Endpoint::fake(second.base_url())?);
    let beside =
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/llm_pipeline/bulwark.toml");
    let config = args.config.clone().unwrap_or_else(beside);
    let handles = Handles::by_file(&config, args.seed)?;
    live::say(&format!("\n{}\nwith the layers:", handles.first.explain()));
    let with = run_with_layers(&traffic, Some(&other), &handles, concurrency).await?;
    let with = with.seen(server.shutdown().await);
    second.shutdown().await;

    let without = if args.no_baseline {
        None
    } else {
        live::say("\nwithout them:");
        let server = FakeLlm::start(scenario).await?;
        let endpoint = Endpoint::fake(server.base_url())?;
        let traffic = Arc::new(Traffic::new(endpoint, prompts));
        let live = Live::start(Arc::clone(&traffic), None);
        let service = stack::bare(&traffic.endpoint);
        let took = traffic::send_all(&traffic, service, concurrency).await;
        live.stop().await;
        let run = Run::new(traffic.tally(), took?);
        Some(run.seen(server.shutdown().await))
    };
    live::say(&report::summary(&with, without.as_ref(), &handles));
    Ok(with.lost())
}

/// One run against a real API; how many prompts were not answered.
async fn real(args: &Args, api: client::Api) -> Result<u64, BoxError> {
    let prompts = args.prompts.unwrap_or(5);
    let concurrency = args.concurrency.unwrap_or(4);
    let handles = match &args.config {
        Some(config) => Handles::by_file(config, args.seed)?,
        None => Handles::patient(args.seed)?,
    };
    live::say(&format!(
        "{prompts} prompts to {} ({})\n\n{}",
        api.base_url,
        api.model,
        handles.first.explain()
    ));
    let second = api.second_model.as_deref();
    let second = second
        .map(|model| Endpoint::real(&api, model))
        .transpose()?;
    let second = second.map(Arc::new);
    let endpoint = Endpoint::real(&api, &api.model)?;
    let traffic = Arc::new(Traffic::new(endpoint, prompts));
    let run = run_with_layers(&traffic, second.as_ref(), &handles, concurrency).await?;
    live::say(&report::answers(&traffic));
    live::say(&report::summary(&run, None, &handles));
    Ok(run.unanswered())
}

async fn run_with_layers(
    traffic: &Arc<Traffic>,
    second: Option<&Arc<Endpoint>>,
    handles: &Handles,
    concurrency: u16,
) -> Result<Run, BoxError> {
    let live = Live::start(Arc::clone(traffic), Some(handles.clone()));
    let service = stack::layered(handles, &traffic.endpoint, second);
    let took = traffic::send_all(traffic, service, concurrency).await;
    live.stop().await;
    Ok(Run::new(traffic.tally(), took?).with_changes(&handles.changes))
}
