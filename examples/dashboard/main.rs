//! The dashboard, over an LLM API that throttles, hangs, breaks connections and dies, again and again.
//!
//! ```sh
//! cargo run --example dashboard --features dashboard
//! cargo run --example dashboard --features dashboard -- --serve --listen 127.0.0.1:7070
//! ```
//!
//! It starts the scripted servers of `llm_pipeline`, sends prompts through a [`Stack`](tower_bulwark::Stack) for each of the two,
//! and prints an address to open in a browser. On a terminal, or with `--serve`, it goes on until it is interrupted. Otherwise
//! it reads its own page as a browser would until it has seen an open circuit, a long holder with waiters, a deadlock, a rate
//! limit that refuses, and retries, and prints what the page says of them: some seconds. The exit code is 1 if it does not.
#![allow(unreachable_pub, reason = "a program has no outside")]

#[path = "../llm_pipeline/client.rs"]
#[allow(dead_code, reason = "only what talks to the fake API is used")]
mod client;
#[path = "../support/mod.rs"]
mod support;
mod traffic;

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;
use clap::Parser;
use http::request::Parts;
use tokio::net::TcpListener;
use tower_bulwark::dashboard::{Command, Dashboard, Operator};
use tower_bulwark::{BoxError, Registry};

use traffic::Day;

/// Opens the dashboard over an API whose faults are scripted.
#[derive(Debug, Parser)]
struct Args {
    /// Goes on until it is interrupted, also without a terminal
    #[arg(long)]
    serve: bool,
    /// The address of the page
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Makes the faults of the fake API repeatable
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// On a machine that is busy, too, everything is seen within this.
const LONGEST: Duration = Duration::from_secs(40);

/// Prints a text and ends the line. A reader that has gone away is not an error.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was seen that is to be seen.
async fn run(args: &Args) -> Result<bool, BoxError> {
    let registry = Registry::new();
    let day = Day::new(&registry, args.seed)?;
    let dashboard = Dashboard::builder(&registry)
        .title("llm_pipeline")
        .keyed("per shard", day.shards())
        // This listens on loopback, and shows what cannot be harmed. A service decides by who has logged in.
        .commands(|_: &Parts, _: &Command| Ok(Operator::new("somebody on this machine")))
        .build()?;
    let app = Router::new()
        .route("/", get(|| async { Redirect::temporary("/ops/") }))
        .nest_service("/ops", dashboard.router());
    let listener = TcpListener::bind(&args.listen).await?;
    let address = format!("http://{}/ops/", listener.local_addr()?);
    say(&format!("open {address}"));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let seen = if args.serve || std::io::stdin().is_terminal() {
        say("the script is played again and again; Ctrl-C ends it");
        tokio::select! {
            played = day.play_for_ever() => played?,
            ended = tokio::signal::ctrl_c() => ended?,
        }
        true
    } else {
        let reader = read_like_a_browser(&address);
        tokio::select! {
            played = day.play_for_ever() => { played?; false }
            seen = tokio::time::timeout(LONGEST, reader) => match seen {
                Ok(seen) => { seen?; true }
                Err(_) => return Err("not everything was seen".into()),
            }
        }
    };
    dashboard.close();
    server.abort();
    Ok(seen)
}

/// What the page should show while the script is played, and how a state tells.
const WANTED: [(&str, &str, &str); 5] = [
    ("circuit_breaker", "open", "a circuit that is open"),
    (
        "resource_lock",
        "contended",
        "a lock with a long holder and waiters",
    ),
    ("resource_lock", "deadlock", "a deadlock"),
    ("rate_limit", "refused", "a rate limit that refuses"),
    ("retry", "", "retries"),
];

/// Fetches the page and what belongs to it, then looks at the state until everything has been seen.
async fn read_like_a_browser(address: &str) -> Result<(), BoxError> {
    let client = support::http_client()?;
    for file in ["", "style.css", "app.js"] {
        let response = client.get(format!("{address}{file}")).send().await?;
        let (status, text) = (response.status(), response.text().await?);
        say(&format!("GET {file:<10} {status}, {} bytes", text.len()));
    }
    let mut unseen: BTreeSet<usize> = (0..WANTED.len()).collect();
    let mut headline = String::new();
    loop {
        let response = client.get(format!("{address}api/snapshot")).send().await?;
        let document: serde_json::Value = serde_json::from_slice(&response.bytes().await?)?;
        let state = &document["state"];
        if state["headline"] != headline.as_str() {
            headline = state["headline"].as_str().unwrap_or_default().to_owned();
            say(&format!("  {headline}"));
        }
        unseen.retain(|wanted| match sentence(state, WANTED[*wanted]) {
            Some(sentence) => {
                say(&format!("> {}: {sentence}", WANTED[*wanted].2));
                false
            }
            None => true,
        });
        if unseen.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What the page says of a handle that is in this state.
fn sentence(state: &serde_json::Value, (table, word, _): (&str, &str, &str)) -> Option<String> {
    let tables = state["tables"].as_array()?;
    let rows = tables.iter().find(|it| it["id"] == table)?["rows"].as_array()?;
    let fits = |row: &&serde_json::Value| match word {
        // The share of retries, of late.
        "" => row["cells"][1].as_f64().is_some_and(|share| share > 0.0),
        word => row["state"] == word,
    };
    let row = rows.iter().find(fits)?;
    Some(format!(
        "{} {}",
        row["name"].as_str()?,
        row["text"].as_str()?
    ))
}
