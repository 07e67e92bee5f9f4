//! A server that is killed and comes back empty while traffic goes through the whole stack.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tower_bulwark::fleet::Fleet;
use tower_bulwark::http::problem;
use tower_bulwark::rate_limit::{Quota, RateLimitReason};
use tower_bulwark::{ContendedReason, Error, Rejection, deadline};

use super::upstream::Upstream;
use super::{Failure, MS, Process, SECOND, Settings, two};
use crate::support::server::Server;
use crate::support::{now, since, until};

/// What the callers of one process have seen.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    answers: AtomicU64,
    refused: AtomicU64,
    hung_up: AtomicU64,
}

const DEADLINE: Duration = SECOND;

/// A refusal that a caller may see, and what a handler makes of it.
fn is_in_order(error: Failure) -> Result<(), String> {
    let rejection = match error {
        Error::Contended(it) => match it.reason() {
            ContendedReason::Unavailable { .. }
            | ContendedReason::TimedOut
            | ContendedReason::DeadlineExceeded => Rejection::from(it),
            _ => return Err(format!("{it:?}")),
        },
        Error::RateLimited(it) => Rejection::from(it),
        other => return Err(format!("{other:?}")),
    };
    let unavailable = matches!(&rejection, Rejection::Contended(it)
        if matches!(it.reason(), ContendedReason::Unavailable { .. }));
    let answer = problem::<String>(rejection);
    match answer.status().as_u16() {
        503 => Ok(()),
        429 | 504 if !unavailable => Ok(()),
        _ => Err(format!("{answer:?}")),
    }
}

async fn calls(process: &Process, url: &str, seen: &Seen, number: u64, until_then: &AtomicU64) {
    while until_then.load(SeqCst) == 0 {
        let n = seen.calls.fetch_add(1, SeqCst);
        let began = now();
        let ends = deadline::Deadline::after(DEADLINE);
        let call = deadline::scope(ends, process.post(url.to_owned()));
        // Some hang up, at all moments.
        let patience = match (n + number) % 3 {
            0 => Duration::from_micros(97 * (n % 50)),
            _ => 60 * SECOND,
        };
        match tokio::time::timeout(patience, call).await {
            Ok(Ok(response)) => {
                assert_eq!(response.status(), 200);
                seen.answers.fetch_add(1, SeqCst);
            }
            Ok(Err(error)) => {
                is_in_order(error).unwrap();
                seen.refused.fetch_add(1, SeqCst);
                // As a caller would that is told to come back.
                tokio::time::sleep(2 * MS).await;
            }
            Err(_) => {
                seen.hung_up.fetch_add(1, SeqCst);
            }
        }
        let took = since(began);
        // The machine may be busy.
        assert!(took < DEADLINE + SECOND, "{took:?}");
    }
}

fn adds_up(process: &Process, seen: &Seen) {
    let at = |it: &AtomicU64| it.load(SeqCst);
    assert_eq!(
        at(&seen.calls),
        at(&seen.answers) + at(&seen.refused) + at(&seen.hung_up)
    );
    let breaker = process.totals();
    assert_eq!(
        (breaker.failures, breaker.overloads, breaker.rejected),
        (0, 0, 0)
    );
    assert_eq!(breaker.successes, at(&seen.answers), "{breaker:?}");
    assert_eq!(breaker.ignored, at(&seen.refused), "{breaker:?}");

    let limit = process.limit.snapshot();
    let totals = limit.totals;
    let went_on = totals.passed + totals.waited;
    let came = breaker.successes + breaker.ignored + breaker.cancelled;
    assert_eq!(limit.waiting, 0);
    assert_eq!(
        went_on + totals.refused + totals.abandoned,
        came,
        "{totals:?}"
    );

    let lock = process.lock.snapshot();
    let stats = &lock.stats;
    assert_eq!((lock.waiting_here, lock.held_here), (0, 0));
    assert_eq!(stats.attempts, went_on, "{lock:#?}");
    let refused = stats.timeouts + stats.rejected + lock.unavailable;
    assert_eq!(
        stats.attempts,
        stats.acquisitions + refused + stats.abandoned,
        "{lock:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back_empty_costs_refusals_and_nothing_else() {
    let settings = || Settings {
        lock: |lock| lock.max_concurrent(3).lease(SECOND),
        ..Settings::default()
    };
    let Some((mut server, processes)) = two(settings).await else {
        return;
    };
    let upstream = Upstream::start().await;
    let (url, stop) = (upstream.url("/pay"), AtomicU64::new(0));
    let seen = [Seen::default(), Seen::default()];
    let traffic = processes.iter().zip(&seen).flat_map(|(process, seen)| {
        let (url, stop) = (&*url, &stop);
        (0..4).map(move |n| calls(process, url, seen, n, stop))
    });
    let answers = async |least: u64| {
        let before = seen.each_ref().map(|it| it.answers.load(SeqCst));
        until("both have answers", async || {
            let now = seen.iter().map(|it| it.answers.load(SeqCst));
            now.zip(before).all(|(now, before)| now >= before + least)
        })
        .await;
    };
    let refusals = async || {
        let before = seen.each_ref().map(|it| it.refused.load(SeqCst));
        until("both have been refused", async || {
            let now = seen.iter().map(|it| it.refused.load(SeqCst));
            now.zip(before).all(|(now, before)| now > before + 5)
        })
        .await;
    };
    let story = async {
        for _ in 0..2 {
            answers(30).await;
            server.kill();
            refusals().await;
            server.restart().await;
        }
        answers(30).await;
        stop.store(1, SeqCst);
    };
    futures::join!(futures::future::join_all(traffic), story);
    for (process, seen) in processes.iter().zip(&seen) {
        until("the last permit is given back", async || {
            process.lock.snapshot().held_here == 0
        })
        .await;
        assert!(seen.hung_up.load(SeqCst) > 0);
        assert!(process.fleet.health().connected);
        adds_up(process, seen);
    }
    let sent = upstream.hits().len() as u64;
    let answered: u64 = seen.iter().map(|it| it.answers.load(SeqCst)).sum();
    assert!(sent >= answered);
    until("no permit is missing", async || {
        let free = processes[0].lock.fetch().await;
        free.is_ok_and(|it| it.holders.is_empty() && it.waiters.is_empty())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_goes_away_while_the_store_is_asked_is_counted_once_and_so_is_one_that_ends_by_its_deadline()
 {
    for leased in [false, true] {
        let Some(server) = Server::start(&[]).await else {
            return;
        };
        let fleet = Fleet::builder(server.url()).connect().await.unwrap();
        let limit = fleet
            .rate_limit("api")
            .quota("calls", Quota::per_second(100));
        let limit = if leased {
            limit.leased()
        } else {
            limit.exact()
        };
        let limit = limit.store_timeout(30 * SECOND).build().unwrap();
        server.freeze();
        let gone = tokio::time::timeout(20 * MS, limit.acquire(1)).await;
        assert!(gone.is_err());
        let totals = limit.snapshot().totals;
        assert_eq!((totals.abandoned, totals.refused), (1, 0), "{leased}");
        let ends = deadline::Deadline::after(20 * MS);
        let refused = deadline::scope(ends, limit.acquire(1)).await.unwrap_err();
        assert_eq!(refused.reason(), RateLimitReason::DeadlineExceeded);
        let totals = limit.snapshot().totals;
        assert_eq!((totals.abandoned, totals.refused), (1, 1), "{leased}");
        server.thaw();
    }
}

#[tokio::test]
async fn a_call_that_passes_at_once_by_the_share_of_its_process_has_not_waited() {
    let Some(mut server) = Server::start(&[]).await else {
        return;
    };
    let fleet = Fleet::builder(server.url()).connect().await.unwrap();
    let limit = fleet
        .rate_limit("api")
        .quota("calls", Quota::per_second(90));
    let limit = limit.exact().expected_nodes(1).build().unwrap();
    server.kill();
    for _ in 0..5 {
        assert!(limit.acquire(1).await.unwrap().is_local());
    }
    let totals = limit.snapshot().totals;
    assert_eq!((totals.passed, totals.waited, totals.local), (5, 0, 5));
}
