use std::fmt;
use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::sleep;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::{Backoff, CircuitBreaker, Error, Jitter, LastFailure, RetryPolicy};
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
#[derive(Debug, Clone, PartialEq)]
enum ApiError {
    Busy,
}
impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
impl std::error::Error for ApiError {}
#[derive(Debug, Clone, PartialEq)]
struct Down;
impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
impl std::error::Error for Down {}
fn fast_retry(n: u32) -> RetryPolicy {
    RetryPolicy::builder()
        .max_retries(n)
        .backoff(Backoff::fixed(10 * MS))
        .jitter(Jitter::None)
        .build()
        .unwrap()
}
fn failing(
    calls: Arc<AtomicU32>,
) -> impl Service<
    u32,
    Response = (),
    Error = Down,
    Future = impl Future<Output = Result<(), Down>> + Send,
> + Clone
+ Send {
    service_fn(move |_: u32| {
        calls.fetch_add(1, Ordering::Relaxed);
        ready(Err::<(), _>(Down))
    })
}
#[tokio::test(start_paused = true)]
async fn scope_never_lengthens() {
    let inner = deadline::scope(Deadline::after(60 * SECOND), async {
        deadline::remaining()
    });
    assert_eq!(
        deadline::scope(Deadline::after(2 * SECOND), inner).await,
        Some(2 * SECOND)
    );
}
#[tokio::test(start_paused = true)]
async fn refused_after_a_call_is_not_never_called() {
    let (calls, policy) = (Arc::new(AtomicU32::new(0)), fast_retry(3));
    let b = CircuitBreaker::builder("api")
        .consecutive_failures(1)
        .build()
        .unwrap();
    let s = ServiceBuilder::new()
        .layer(policy.layer())
        .layer(b.layer())
        .service(failing(calls.clone()));
    let e = s.oneshot(1).await.unwrap_err();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(!e.is_rejection());
    assert_eq!(policy.snapshot().gave_up, 1);
}
#[tokio::test(start_paused = true)]
async fn box_nested() {
    let calls = Arc::new(AtomicU32::new(0));
    let s = ServiceBuilder::new()
        .layer(fast_retry(3).layer())
        .timeout(60 * SECOND)
        .layer(fast_retry(3).layer())
        .service(failing(calls.clone()));
    s.oneshot(1).await.unwrap_err();
    assert_eq!(calls.load(Ordering::Relaxed), 4);
}
#[tokio::test(start_paused = true)]
async fn typed_leaf() {
    let (i, o) = (CircuitBreaker::new("inner"), CircuitBreaker::new("outer"));
    i.force_open();
    let s = ServiceBuilder::new()
        .layer(fast_retry(3).layer())
        .layer(o.layer())
        .map_err(|e: Error<Down>| std::io::Error::other(e))
        .layer(i.layer())
        .service(failing(Arc::default()));
    s.oneshot(1).await.unwrap_err();
    assert_eq!(
        (o.snapshot().totals.failures, i.snapshot().totals.rejected),
        (0, 1)
    );
}
#[tokio::test(start_paused = true)]
async fn timed_out_after() {
    let p = RetryPolicy::builder()
        .backoff(Backoff::fixed(SECOND))
        .jitter(Jitter::None)
        .total_timeout(10 * SECOND)
        .build()
        .unwrap();
    let n = Arc::new(AtomicU32::new(0));
    let r = p
        .run(|| {
            let h = n.fetch_add(1, Ordering::SeqCst) > 0;
            async move {
                if h {
                    pending::<()>().await
                }
                Err::<(), _>(ApiError::Busy)
            }
        })
        .await;
    let Err(Error::Exhausted(e)) = r else {
        panic!()
    };
    assert!(
        matches!(e.last(), LastFailure::TimedOut(t) if t.after() == 9 * SECOND),
        "{:?}",
        e.last()
    );
}
#[tokio::test]
async fn zero_backoff_yields() {
    let p = RetryPolicy::builder()
        .max_retries(u32::MAX)
        .backoff(Backoff::fixed(Duration::ZERO))
        .jitter(Jitter::None)
        .build()
        .unwrap();
    let h = std::thread::spawn(move || {
        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        rt.block_on(async move {
            tokio::time::timeout(200 * MS, p.run(|| ready(Err::<(), _>(ApiError::Busy))))
                .await
                .is_err()
        })
    });
    for _ in 0..30 {
        if h.is_finished() {
            break;
        }
        sleep(100 * MS).await;
    }
    assert!(h.is_finished(), "never yields");
}
