//! A client of two language models in less than forty lines: 10 requests a second and 20,000 tokens a minute at most, a `429`
//! that pauses everybody, a second model while the first is down, timeouts by phase, a hedge, progress, and `/metrics`.
//!
//! ```sh
//! cargo run --example llm_client --features metrics,reqwest
//! ```
//!
//! What a program of your own needs is between the two marks; around it are two servers on loopback that play the models.

mod support;

use std::future::ready;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use reqwest::{Body, Request, Url};
use support::chat::{ChatCompletion as Reply, ChatRequest};
use support::clock;
use support::fake_llm::FakeLlm;
use support::scenario::{Scenario, Trouble};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_bulwark::http::ResilientClient;
use tower_bulwark::observe::Metrics;
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{BoxError, Registry, Stack};

// begin
async fn ask_all([url, other]: [Url; 2], questions: Vec<String>) -> Result<Vec<Reply>, BoxError> {
    let (http, all) = (support::http_client()?, Registry::global());
    let large = Stack::llm("large")
        .quota("requests", Quota::per_second(10))
        .quota("tokens", Quota::per_minute(20_000))
        .hedge(|it| it.after(Duration::from_millis(500)))
        .build_in(all)?;
    let bytes = |ask: &Request| ask.body().and_then(Body::as_bytes).map_or(0, <[u8]>::len);
    let large = ResilientClient::builder("large", http.clone())
        .stack(&large)
        .cost(move |ask| [1, 1 + bytes(ask) as u64 / 4])
        .build()?;
    let small = Stack::llm("small").build_in(all)?.reqwest(http.clone())?;
    let fallback = all
        .fallback("models")
        .reqwest_layer()
        .to("small", small)
        .map_request(move |mut ask: Request, _| {
            ask.url_mut().clone_from(&other);
            ask
        });
    let models = ServiceBuilder::new().layer(fallback).service(large);
    let progress = ProgressBar::new(questions.len() as u64);
    let answers = questions.iter().enumerate().map(|(n, question)| {
        let ask = http.post(url.clone()).header("idempotency-key", n);
        let ask = ask.json(&ChatRequest::ask("fake-1", question)).build();
        let models = models.clone();
        async move { Ok(models.oneshot(ask?).await?.json().await?) }
    });
    let answers = stream::iter(answers).buffered(16);
    answers.inspect(|_| progress.inc(1)).try_collect().await
}

fn metrics(recorder: PrometheusHandle) -> Router {
    let metrics = Metrics::of(Registry::global());
    let page = move || {
        metrics.record();
        ready(recorder.render())
    };
    Router::new().route("/metrics", get(page))
}
// end

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // The first model has too much to do at question 5, is slow at question 12, and down for the questions 15 to 21.
    let bad = Scenario::healthy(1)
        .fault(5..6, 1..=1, 1.0, Trouble::RateLimited(300..=300))
        .fault(12..13, 1..=1, 1.0, Trouble::Slow(4_000..=4_000))
        .fault(15..22, 1..=99, 1.0, Trouble::Status(503));
    let models = [
        FakeLlm::start(bad).await?,
        FakeLlm::start(Scenario::healthy(2)).await?,
    ];
    let url = |model: &FakeLlm| Url::parse(&(model.base_url() + "/chat/completions"));
    let urls = [url(&models[0])?, url(&models[1])?];
    let recorder = PrometheusBuilder::new().install_recorder()?;
    let page = metrics(recorder);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, page).await });

    let questions: Vec<String> = (0..30).map(|n| format!("What is {n} times 7?")).collect();
    let began = clock::now();
    let answers = ask_all(urls, questions.clone()).await?;
    let taken = clock::now() - began;

    println!("{} answers in {taken:.1?}", answers.len());
    let page = reqwest::get(format!("http://{address}/metrics"))
        .await?
        .text()
        .await?;
    let lines = page.lines().filter(|line| line.contains("_calls_total{"));
    lines.for_each(|line| println!("  {line}"));
    let [large, small] = models;
    let (large, small) = (large.shutdown().await, small.shutdown().await);
    println!(
        "the first model was asked {} times, the second {} times",
        large.requests, small.requests
    );

    for (question, answer) in questions.iter().zip(&answers) {
        assert_eq!(answer.answer(), Some(&*support::fake_llm::says(question)));
    }
    // Ten at once, and then ten a second: the other twenty took two seconds.
    assert!(taken >= Duration::from_millis(1_900), "{taken:?}");
    assert!(small.answered >= 1 && large.rate_limited == 1);
    assert!(page.contains("bulwark_calls_total{pattern=\"rate_limit\""));
    Ok(())
}
