//! Four processes share a circuit breaker, a rate limit and a lock through Redis or Valkey.
//!
//! ```sh
//! cargo run --features redis --example fleet
//! ```
//!
//! It starts a server on loopback (`REDIS_SERVER_BIN`, else `valkey-server` or `redis-server` in the path), an upstream that
//! dies and comes back, and four workers, each a process. It kills one of them, and says what came of it:
//!
//! - how soon after the first breaker all are open;
//! - how many probes the upstream has counted when it was back;
//! - how many jobs had a permit of the lock at once, by their own account, who held it and who waited;
//! - when the permit of the worker that was killed came back;
//! - how many calls a second the upstream has counted, beside the limit.
//!
//! The exit code is 0 if all five are as the pages of [`fleet`](tower_bulwark::fleet) promise. Without a server there is one
//! process: it shows the same with [`Fleet::in_process`], but for what takes several.
//!
//! What a program of yours would have is in `worker.rs`; the rest shows it.
#![allow(unreachable_pub, reason = "a program has no outside")]

mod acts;
mod crew;
mod screen;
mod server;
mod story;
#[path = "../support/mod.rs"]
mod support;
mod told;
mod upstream;
mod worker;

use std::process::ExitCode;

use tower_bulwark::BoxError;
use tower_bulwark::fleet::Fleet;

use acts::{Found, Stage};
use crew::Crew;
use screen::{Screen, View};
use server::Server;
use story::Story;
use upstream::Upstream;

// One thread, so that a worker tells that its breaker has closed before it makes another call.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => show().await,
        [crew::ROLE, url, worker] => crew::be_a_worker(url, worker).await.map(|()| true),
        _ => Err("it takes no arguments".into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all came true.
async fn show() -> Result<bool, BoxError> {
    let (story, (upstream, address)) = (Story::default(), Upstream::start().await?);
    // Kept to the end: the server ends with it.
    let (_server, fleet, crew) = match server::find()? {
        Some(program) => {
            let (server, fleet) = Server::start(&program).await?;
            let crew = Crew::processes(&server.url, &address, &story)?;
            (Some(server), fleet, crew)
        }
        None => {
            let fleet = Fleet::in_process();
            let crew = Crew::in_process(&fleet, &address, &story);
            (None, fleet, crew)
        }
    };
    match fleet.health().server {
        Some(server) => screen::say(&format!("four workers on {server}")),
        None => screen::say(
            "NO SERVER: there is no valkey-server or redis-server in the path, and REDIS_SERVER_BIN names none.\n\
             This is one process with `Fleet::in_process()`, and shows what one process can show.",
        ),
    }
    let lock = worker::gpu(&fleet)?;
    let view = View {
        story: story.clone(),
        upstream: upstream.clone(),
        workers: crew.names(),
        lock: lock.clone(),
    };
    let screen = Screen::new(view.height());
    let mut stage = Stage {
        story,
        upstream,
        lock,
        crew,
        screen: screen.clone(),
    };
    let shown = tokio::spawn(view.show(screen.clone()));
    let found = play(&mut stage).await;
    shown.abort();
    screen.leave();
    screen::say("\nwhat came of it:");
    let mut all = true;
    for (what, found) in found {
        let (text, came_true) = found.unwrap_or_else(|error| (error.to_string(), false));
        let word = if came_true { "ok" } else { "NOT" };
        screen::say(&format!("  {word:<3}  {what:<7}  {text}"));
        all &= came_true;
    }
    Ok(all)
}

async fn play(stage: &mut Stage) -> Vec<(&'static str, Result<Found, BoxError>)> {
    if let Err(error) = stage.all_work().await {
        return vec![("start", Err(error))];
    }
    let mut found = vec![("rate", Ok(stage.rate().await))];
    let breakers = [("trip", stage.trip().await), ("probe", stage.probe().await)];
    match stage.kill().await.transpose() {
        Some(killed) => {
            found.extend(breakers);
            found.push(("kill -9", killed));
        }
        // Of one process all of that would be true, and say nothing.
        None => stage.screen.tell(
            "NOT SHOWN, as there is only one process: breakers that open together, who probes, the permit of a process that died",
        ),
    }
    found.push(("lock", Ok(stage.lock())));
    found
}
