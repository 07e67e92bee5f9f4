//! Situations reported against semaphores, mutexes and pools.
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_bulwark::{ContendedReason, Error, ResourceLock};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
#[error("io")]
struct Io;

/// Order A-B in one job, B-A in the other; the first gives up on B after 50 ms and goes on without it.
#[tokio::test(start_paused = true)]
async fn who_gives_up_soon_is_no_deadlock_for_the_other() {
    let (ledger, cache) = (ResourceLock::new("ledger"), ResourceLock::new("cache"));
    let a = {
        let (ledger, cache) = (ledger.clone(), cache.clone());
        tokio::spawn(async move {
            let _ledger = ledger.acquire("job-a").await.unwrap();
            sleep(10 * MS).await;
            // The cache is a nicety: 50 ms, and no longer.
            if let Ok(_cache) = cache.acquire("job-a").timeout(50 * MS).await {
                sleep(10 * MS).await;
            }
            sleep(10 * MS).await;
        })
    };
    let b = tokio::spawn(async move {
        let _cache = cache.acquire("job-b").await.unwrap();
        sleep(20 * MS).await;
        let start = Instant::now();
        let got = ledger.acquire("job-b").await.map(drop);
        (got, start.elapsed())
    });
    let (got, _waited) = b.await.unwrap();
    a.await.unwrap();
    assert!(
        got.is_ok(),
        "the ledger was free 50 ms later, and 30 s are allowed"
    );
}

/// The same through layers; the time limit is tokio's, inside the call.
#[tokio::test(start_paused = true)]
async fn a_call_with_a_way_out_is_no_deadlock_for_the_other() {
    let (ledger, cache) = (ResourceLock::new("ledger"), ResourceLock::new("cache"));
    let inner_cache = cache.clone();
    let post = ledger.layer().layer(service_fn(move |_: u32| {
        let cache = inner_cache.clone();
        async move {
            sleep(10 * MS).await;
            let warm = cache.run("warm-up", || async { Ok::<_, Io>(()) });
            let _ = timeout(50 * MS, warm).await; // else without
            Ok::<_, Io>(())
        }
    }));
    let (post1, post2) = (post.clone(), post);
    let a = tokio::spawn(post1.oneshot(1));
    let b = tokio::spawn(async move {
        cache
            .run("refresh", || async move {
                sleep(20 * MS).await;
                post2.oneshot(2).await
            })
            .await
    });
    let got = b.await.unwrap();
    assert!(a.await.unwrap().is_ok());
    assert!(got.is_ok(), "the ledger was free 50 ms later");
}

/// The place in the queue belongs to a future that `select!` left behind.
#[tokio::test(start_paused = true)]
async fn a_future_left_behind_by_select_does_not_hang_the_task_for_ever_and_is_named() {
    let lock = ResourceLock::builder("state")
        .timeout(10 * SEC)
        .contention_threshold(SEC)
        .build()
        .unwrap();
    let background = lock.acquire("background").owned().await.unwrap();
    tokio::spawn(async move {
        sleep(5 * SEC).await;
        drop(background);
    });
    let mut first = pin!(lock.acquire("reader"));
    tokio::select! {
        _ = &mut first => unreachable!(),
        () = sleep(SEC) => {}
    }
    let start = Instant::now();
    let second = lock.acquire("fallback").await;
    let error = second.unwrap_err();
    assert_eq!(start.elapsed(), 10 * SEC);
    assert!(error.to_string().contains("not polled"), "{error}");
    assert!(first.await.is_ok(), "it has had its permit all the while");
}

/// Buffered streams: the body of the loop wants what a buffered future holds.
#[tokio::test(start_paused = true)]
async fn a_buffered_call_that_nobody_polls_is_named_to_who_waits_for_it() {
    let db = ResourceLock::builder("db")
        .timeout(5 * SEC)
        .build()
        .unwrap();
    let query = db
        .layer()
        .holder(|name: &&'static str| *name)
        .layer(service_fn(|_: &'static str| async {
            sleep(10 * MS).await;
            Ok::<_, Io>(())
        }));
    let select = |i: u32| {
        let query = query.clone();
        async move {
            query
                .oneshot(if i == 0 { "select-0" } else { "select-n" })
                .await
        }
    };
    let mut rows = pin!(futures::stream::iter(0..3).map(select).buffered(2));
    let mut errors = Vec::new();
    while let Some(row) = rows.next().await {
        row.unwrap();
        if let Err(error) = query.clone().oneshot("update").await {
            errors.push(error.to_string());
        }
    }
    assert!(errors.iter().all(|e| e.contains("select-n")), "{errors:?}");
}

/// N workers with one connection each, each wants a second one of the same pool. Real threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nested_acquires_on_an_empty_pool_are_told_in_seconds() {
    for round in 0..2 {
        let pool = ResourceLock::builder("pg")
            .max_concurrent(4)
            .timeout(20 * SEC)
            .build()
            .unwrap();
        let barrier = Arc::new(tokio::sync::Barrier::new(4));
        let deadlocks = Arc::new(AtomicU32::new(0));
        let start = std::time::Instant::now();
        let requests = (0..4u64).map(|i| {
            let (pool, barrier, deadlocks) = (pool.clone(), barrier.clone(), deadlocks.clone());
            tokio::spawn(async move {
                let _tx = pool.acquire(i).await.unwrap();
                barrier.wait().await;
                match pool.acquire(i).await {
                    Ok(_audit) => true,
                    Err(error) => {
                        assert!(
                            matches!(error.reason(), ContendedReason::Deadlock(_)),
                            "{error}"
                        );
                        deadlocks.fetch_add(1, Ordering::SeqCst);
                        false
                    }
                }
            })
        });
        let good = join_all(requests)
            .await
            .into_iter()
            .filter(|r| *r.as_ref().unwrap())
            .count();
        assert!(
            start.elapsed() < 5 * SEC,
            "round {round}: {:?}",
            start.elapsed()
        );
        assert_eq!(good as u32 + deadlocks.load(Ordering::SeqCst), 4);
        assert!(deadlocks.load(Ordering::SeqCst) >= 1);
        assert_eq!(pool.snapshot().in_use, 0);
    }
}

/// Outer by a layer (a request slot), inner by hand (a connection), both of the same pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_takes_a_second_one_of_what_its_layer_holds() {
    let pool = ResourceLock::builder("pg")
        .max_concurrent(4)
        .timeout(20 * SEC)
        .build()
        .unwrap();
    let inner = pool.clone();
    let barrier = Arc::new(tokio::sync::Barrier::new(4));
    let handler = pool.layer().layer(service_fn(move |i: u64| {
        let (pool, barrier) = (inner.clone(), barrier.clone());
        async move {
            barrier.wait().await;
            pool.run(i, || async { Ok::<_, Io>(()) }).await
        }
    }));
    let start = std::time::Instant::now();
    let answers = join_all((0..4u64).map(|i| tokio::spawn(handler.clone().oneshot(i)))).await;
    let refused = answers
        .iter()
        .filter(|a| matches!(a.as_ref().unwrap(), Err(Error::Contended(c)) if c.is_deadlock()))
        .count();
    assert!(start.elapsed() < 5 * SEC);
    assert!((1..4).contains(&refused));
}
