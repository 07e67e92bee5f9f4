//! What is held while a body comes, and what responses say to the limit.

use http::Method;
use http_body_util::BodyExt as _;
use tower_bulwark::http::Unsettled;
use tower_bulwark::rate_limit::Quota;

use super::upstream::Upstream;
use super::{Failure, HOUR, MS, SECOND, Settings, two};
use crate::support::{now, since, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_streams_keeps_the_permit_of_the_fleet_until_its_end_or_until_nobody_reads_it()
{
    let Some((_server, [a, b])) = two(Settings::default).await else {
        return;
    };
    let upstream = Upstream::start().await;
    let is_held = async || b.lock.try_acquire("another").await.is_err();

    let response = a.send(Method::GET, upstream.url("/stream")).await.unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(is_held().await);
    upstream.let_through(1);
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(rest, "half");
    until("the end frees it", async || !is_held().await).await;

    // One that goes away in the middle.
    let response = a.send(Method::GET, upstream.url("/stream")).await.unwrap();
    assert!(is_held().await);
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(is_held().await);
    drop(body);
    until("nobody reads it", async || !is_held().await).await;
    until("and the service has heard", async || {
        upstream.streams() == 0
    })
    .await;

    // One whose reader is dropped with its task, while the body has nothing for it.
    let response = a.send(Method::GET, upstream.url("/stream")).await.unwrap();
    let reads = tokio::spawn(response.into_body().collect());
    assert!(is_held().await);
    reads.abort();
    until("its reader is gone", async || !is_held().await).await;
    assert_eq!(a.lock.snapshot().held_here, 0);
    assert_eq!((a.totals().successes, a.totals().failures), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_lost_while_a_body_comes_is_told_to_who_reads_it_and_the_body_goes_on() {
    let settings = || Settings {
        lock: |lock| lock.lease(SECOND),
        ..Settings::default()
    };
    let Some((server, [a, b])) = two(settings).await else {
        return;
    };
    let upstream = Upstream::start().await;
    let response = a.send(Method::GET, upstream.url("/stream")).await.unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    server.tell("FLUSHALL").await;
    let other = b.lock.acquire("the other process").await.unwrap();
    let guard = body.guard().expect("it goes on");
    let lost = tokio::time::timeout(30 * SECOND, guard.lost()).await;
    assert!(lost.is_ok());
    until("it is counted", async || a.lock.snapshot().lost == 1).await;
    upstream.let_through(1);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "half");

    // To give back what is lost takes nothing from who has it now.
    assert!(a.lock.try_acquire("too early").await.is_err());
    drop(other);
    until("all is well", || async {
        a.post(upstream.url("/pay")).await.is_ok()
    })
    .await;
    assert_eq!((a.totals().failures, b.totals().failures), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_429_of_the_server_pauses_the_limit_of_every_process_and_no_longer_than_it_says() {
    let settings = || Settings {
        limit: |limit| {
            let quota = Quota::per_second(50).burst(50);
            limit.quota("calls", quota).exact().max_wait(10 * MS)
        },
        ..Settings::default()
    };
    let Some((_server, processes)) = two(settings).await else {
        return;
    };
    let upstream = Upstream::start().await;
    for it in &processes {
        it.post(upstream.url("/pay")).await.unwrap();
    }
    upstream.will_answer(429, Some("2"));
    let [a, b] = &processes;
    let (paused, began) = (a.post(upstream.url("/pay")).await, now());
    assert_eq!(paused.unwrap().status(), 429);
    let is_paused = |it: Result<_, Failure>| match it {
        Err(Failure::RateLimited(it)) => it.quota().is_none(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => false,
    };
    // Here at once.
    assert!(is_paused(a.post(upstream.url("/pay")).await));
    until("the other process is told", async || {
        is_paused(b.post(upstream.url("/pay")).await)
    })
    .await;
    let sent = upstream.hits().len();
    until("both go on", async || {
        !is_paused(a.post(upstream.url("/pay")).await)
            && !is_paused(b.post(upstream.url("/pay")).await)
    })
    .await;
    assert!(since(began) >= 1_900 * MS, "{:?}", since(began));
    assert!(upstream.hits().len() >= sent + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_body_says_was_not_used_is_there_for_another_process() {
    let settings = || Settings {
        limit: |limit| {
            let quota = Quota::per(1, HOUR).burst(1);
            limit.quota("tokens", quota).exact().max_wait(10 * MS)
        },
        ..Settings::default()
    };
    let Some((_server, [a, b])) = two(settings).await else {
        return;
    };
    let upstream = Upstream::start().await;
    let response = a.post(upstream.url("/pay")).await.unwrap();
    let unsettled = Unsettled::of(response.extensions());
    let used = response.into_body().collect().await.unwrap().to_bytes();
    assert!(b.post(upstream.url("/pay")).await.is_err());
    unsettled.settle(u64::from(used != "done"));
    until("it is there", async || {
        b.post(upstream.url("/pay")).await.is_ok()
    })
    .await;
    // And it was one.
    assert!(a.post(upstream.url("/pay")).await.is_err());
    assert_eq!(upstream.hits().len(), 2);
}
