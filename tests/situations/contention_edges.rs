use futures::future::join;
use std::future::pending;
use std::time::Duration;
use tower_bulwark::observe::Feed;
use tower_bulwark::{CircuitBreaker, ResourceLock, RetryPolicy};
const SECOND: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(5);
type Unit = Result<(), std::io::Error>;
#[tokio::test(start_paused = true)]
async fn a_wait_that_gives_up_soon_is_not_stuck() {
    let (a, b) = (ResourceLock::new("a"), ResourceLock::new("b"));
    let gate = tokio::sync::Barrier::new(2);
    let one = a.run("one", || async {
        gate.wait().await;
        let _o = b.acquire("one").timeout(SHORT).await;
        Unit::Ok(())
    });
    let two = b.run("two", || async {
        gate.wait().await;
        tokio::task::yield_now().await;
        a.run("two", || async { Unit::Ok(()) }).await
    });
    let (one, two) = join(one, two).await;
    one.unwrap();
    two.unwrap();
}
#[test]
fn a_refusal_is_told() {
    let feed = Feed::default();
    let lock = ResourceLock::builder("db")
        .timeout(Duration::ZERO)
        .observer(feed.clone())
        .build()
        .unwrap();
    let _held = lock.try_acquire("a").unwrap();
    let _ = lock.try_acquire("b").map(|_| ()).unwrap_err();
    assert_eq!(feed.recent().len(), 1);
}
#[tokio::test(start_paused = true)]
async fn siblings() {
    for swap in [false, true] {
        let lock = ResourceLock::new("l");
        let _h = lock.try_acquire("x").unwrap();
        let (a, b) = (CircuitBreaker::new("a"), CircuitBreaker::new("b"));
        let p = RetryPolicy::builder()
            .max_retries(0)
            .attempt_timeout(SECOND)
            .build()
            .unwrap();
        let _ = p
            .run(|| async {
                let fa = async {
                    a.call(|| lock.run("w", || async { Unit::Ok(()) }))
                        .await
                        .map_err(|e| std::io::Error::other(e.to_string()))
                };
                let fb = async {
                    b.call(pending::<Unit>)
                        .await
                        .map_err(|e| std::io::Error::other(e.to_string()))
                };
                if swap {
                    drop(join(fb, fa).await);
                } else {
                    drop(join(fa, fb).await);
                }
                Unit::Ok(())
            })
            .await;
        assert_eq!(b.snapshot().totals.failures, 1, "swap {swap}");
    }
}
