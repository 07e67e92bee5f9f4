//! A refusal of a lock or of a limit is no failure of the service, in no process.

use std::sync::Arc;

use tower_bulwark::rate_limit::{Quota, RateLimitReason};
use tower_bulwark::{CircuitState, ContendedReason};

use super::upstream::Upstream;
use super::{Failure, HOUR, MS, Process, SECOND, Settings, two};
use crate::support::until;

/// What the lock said to each of `n` calls that come at once.
async fn refused_by_the_lock(process: &Process, url: &str, n: usize) -> Vec<ContendedReason> {
    let calls = (0..n).map(|_| process.post(url.to_owned()));
    let answers = futures::future::join_all(calls).await;
    let reason = |answer: Result<_, Failure>| match answer {
        Err(Failure::Contended(contended)) => contended.reason().clone(),
        other => panic!("{:?}", other.map(drop)),
    };
    answers.into_iter().map(reason).collect()
}

/// Neither process has counted a failure, nor been told of one; and both would have been told of a real one.
async fn nothing_but_a_real_failure_opens(processes: &[Process; 2], upstream: &Upstream) {
    let [a, b] = processes;
    for it in processes {
        it.reports(upstream.url("/pay")).await;
        assert_eq!(it.breaker().state(), CircuitState::Closed, "{:?}", it.share);
        let totals = it.totals();
        assert_eq!((totals.failures, totals.overloads, totals.slow), (0, 0, 0));
    }
    upstream.will_answer(500, None);
    assert_eq!(a.post(upstream.url("/real")).await.unwrap().status(), 500);
    until("one real failure of one process opens both", || async {
        a.breaker().state() == CircuitState::Open && b.breaker().state() == CircuitState::Open
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_busy_times_out_or_has_a_full_queue_is_a_failure_to_no_breaker_of_the_fleet()
{
    let settings = || Settings {
        lock: |lock| lock.max_waiting(1).timeout(300 * MS),
        ..Settings::default()
    };
    let Some((_server, processes)) = two(settings).await else {
        return;
    };
    let ([a, b], upstream) = (&processes, Upstream::start().await);
    let held = a.lock.acquire("a holder").await.unwrap();
    let mut said = refused_by_the_lock(b, &upstream.url("/pay"), 10).await;
    said.sort_by_key(|it| matches!(it, ContendedReason::TimedOut));
    assert_eq!(said[9], ContendedReason::TimedOut);
    assert!(said[..9].iter().all(|it| *it == ContendedReason::QueueFull));

    // A lock that lets nobody wait.
    let at_once = Process::start(
        &_server.url(),
        "c",
        Settings {
            lock: |lock| lock.timeout(std::time::Duration::ZERO),
            ..Settings::default()
        },
    )
    .await;
    let said = refused_by_the_lock(&at_once, &upstream.url("/pay"), 5).await;
    assert_eq!(said, vec![ContendedReason::Busy; 5]);
    assert_eq!(upstream.hits(), Vec::<String>::new());
    drop(held);
    at_once.reports(upstream.url("/pay")).await;
    assert_eq!(at_once.breaker().state(), CircuitState::Closed);
    assert_eq!(b.totals().ignored, 10);
    nothing_but_a_real_failure_opens(&processes, &upstream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_and_a_limit_whose_store_is_away_are_a_failure_to_no_breaker_of_the_fleet() {
    let settings = || Settings {
        limit: |limit| {
            let slow = Quota::per(1, HOUR).burst(40);
            limit.quota("calls", slow).exact().max_wait(10 * MS)
        },
        ..Settings::default()
    };
    let Some((mut server, processes)) = two(settings).await else {
        return;
    };
    let ([a, _], upstream) = (&processes, Upstream::start().await);
    server.kill();
    let mut said = (0, 0);
    for _ in 0..30 {
        match a.post(upstream.url("/pay")).await.map(drop) {
            Err(Failure::Contended(it)) => {
                let why = ContendedReason::Unavailable {
                    why: Arc::from("the shared store is away"),
                };
                let is = std::mem::discriminant(it.reason()) == std::mem::discriminant(&why);
                assert!(is, "{it:?}");
                said.0 += 1;
            }
            Err(Failure::RateLimited(it)) => {
                assert_eq!(it.reason(), RateLimitReason::TooLong);
                said.1 += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    // What the lock refuses does not use up the share that the limit has left.
    assert_eq!(said, (30, 0));
    assert_eq!(upstream.hits(), Vec::<String>::new());

    server.restart().await;
    for it in &processes {
        until("the lock is back", || async {
            let uri = upstream.url("/pay");
            it.post(uri).await.is_ok()
        })
        .await;
    }
    nothing_but_a_real_failure_opens(&processes, &upstream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_refuses_or_is_paused_is_a_failure_to_no_breaker_of_the_fleet() {
    let settings = || Settings {
        limit: |limit| {
            let slow = Quota::per(1, HOUR).burst(20);
            limit.quota("calls", slow).exact().max_wait(10 * MS)
        },
        ..Settings::default()
    };
    let Some((_server, processes)) = two(settings).await else {
        return;
    };
    let ([a, b], upstream) = (&processes, Upstream::start().await);
    let taken = a.limit.acquire(15).await.unwrap();
    let rest = b.limit.acquire(5).await.unwrap();
    for _ in 0..10 {
        match b.post(upstream.url("/pay")).await.map(drop) {
            Err(Failure::RateLimited(it)) => assert_eq!(it.quota(), Some("calls")),
            other => panic!("{other:?}"),
        }
    }
    taken.cancel();
    rest.cancel();
    until("it is given back", || async {
        b.limit.try_acquire(1).await.map(|it| it.cancel()).is_ok()
    })
    .await;

    a.limit.pause(2 * SECOND);
    until("the other process hears of the pause", || async {
        let refused = b.limit.try_acquire(1).await;
        refused
            .map(|it| it.cancel())
            .is_err_and(|it| it.quota().is_none())
    })
    .await;
    for it in &processes {
        match it.post(upstream.url("/pay")).await.map(drop) {
            Err(Failure::RateLimited(it)) => assert_eq!(it.quota(), None),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(upstream.hits(), Vec::<String>::new());
    until("the pause is over", || async {
        a.post(upstream.url("/pay")).await.is_ok()
    })
    .await;
    b.post(upstream.url("/pay")).await.unwrap();
    assert_eq!((b.totals().ignored, b.totals().successes), (11, 1));
    nothing_but_a_real_failure_opens(&processes, &upstream).await;
}
