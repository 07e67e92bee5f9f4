//! A call that ends before its hedge allocates nothing. In a binary of its own, with one test: the allocator that counts
//! counts everything in the process. That includes the main thread of the test runner, which allocates while a test
//! begins: the least of several measurements counts.

use std::alloc::System;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_bulwark::Hedge;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Answers when it is polled for the second time.
async fn answer(key: u32) -> Result<u32, Infallible> {
    let mut polled = false;
    poll_fn(|cx| {
        cx.waker().wake_by_ref();
        match std::mem::replace(&mut polled, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    Ok(key)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_before_its_hedge_allocates_nothing() {
    let percentile = Hedge::new("reads");
    let fixed = Hedge::builder("reads")
        .after(Duration::from_millis(20))
        .build()
        .expect("valid");
    for hedge in [percentile, fixed] {
        let mut service = hedge.layer().layer(service_fn(answer));
        let mut call = async |n: u32| {
            for key in 0..n {
                let service = service.ready().await.expect("ready");
                let answer = pin!(service.call(key)).await;
                assert_eq!(answer.expect("never"), key);
            }
        };
        // The first calls make what all others share.
        call(200).await;
        let mut least = usize::MAX;
        for _ in 0..5 {
            let region = Region::new(ALLOCATOR);
            call(1_000).await;
            least = least.min(region.change().allocations);
        }
        assert_eq!(least, 0, "{hedge:?}");
    }
}
