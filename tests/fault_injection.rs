//! Faults on purpose: when there are any, what they look like, and whom the layers around them blame.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::future::ready;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, advance, timeout};
use tokio_test::assert_pending;
use tokio_test::task::spawn;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::chaos::{ChaosBuilder, ChaosConfig};
use tower_bulwark::explain::{Layers, Warning};
use tower_bulwark::keyed::Keyed;
use tower_bulwark::{
    Backoff, Chaos, CircuitBreaker, CircuitState, Error, Event, Jitter, Registry, RetryPolicy,
    Timeouts,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Counts its calls, and answers at once.
fn service(
    calls: &Arc<AtomicU64>,
) -> impl Service<u32, Response = u32, Error = io::Error, Future: Send> + Clone + Send + use<> {
    let calls = Arc::clone(calls);
    service_fn(move |n: u32| {
        calls.fetch_add(1, Ordering::Relaxed);
        ready(Ok::<_, io::Error>(n))
    })
}

fn drill() -> Result<u32, io::Error> {
    Err(io::Error::other("a drill"))
}

fn armed(build: ChaosBuilder) -> Chaos {
    let chaos = build.build().unwrap();
    chaos.arm();
    chaos
}

#[tokio::test(start_paused = true)]
async fn a_drill_that_is_not_armed_does_nothing() {
    let calls = Arc::default();
    let build = Chaos::builder("drill")
        .error(1.0)
        .latency(1.0, SECOND..=SECOND);
    let chaos = build.panic(1.0).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(chaos.layer(drill))
        .service(service(&calls));
    let began = Instant::now();
    for n in 0..100 {
        assert_eq!(service.clone().oneshot(n).await.unwrap(), n);
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    let snapshot = chaos.snapshot();
    assert_eq!(
        (snapshot.armed, snapshot.calls, snapshot.injected.sum()),
        (false, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_drill_ends_by_itself_when_its_time_is_over() {
    let heard: Arc<Mutex<Vec<&str>>> = Arc::default();
    let list = Arc::clone(&heard);
    let chaos = Chaos::builder("drill")
        .error(1.0)
        .observer(move |_: &str, event: &Event| list.lock().unwrap().push(event.kind()))
        .build()
        .unwrap();
    let run = || chaos.run(drill, || ready(Ok(1)));
    chaos.arm_for(SECOND);
    run().await.unwrap_err();
    advance(999 * MS).await;
    run().await.unwrap_err();
    advance(MS).await;
    run().await.unwrap();
    assert!(!chaos.is_armed());
    chaos.arm();
    advance(Duration::from_secs(400 * 86_400)).await;
    run().await.unwrap_err();
    chaos.disarm();
    chaos.disarm();
    run().await.unwrap();
    let kinds = [
        "armed", "injected", "injected", "disarmed", "armed", "injected", "disarmed",
    ];
    assert_eq!(*heard.lock().unwrap(), kinds);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_meets_the_same_calls_and_the_rates_hold() {
    let outcomes = async |seed: u64| {
        let chaos = armed(Chaos::builder("drill").seed(seed).error(0.2));
        let mut failed = Vec::new();
        for n in 0..1_000_u32 {
            let call = chaos.run(drill, || ready(Ok(n)));
            if call.await.is_err() {
                failed.push(n);
            }
        }
        assert_eq!(chaos.snapshot().injected.error, failed.len() as u64);
        failed
    };
    let first = outcomes(7).await;
    assert!((150..250).contains(&first.len()), "{}", first.len());
    assert_eq!(outcomes(7).await, first);
    assert_ne!(outcomes(8).await, first);
}

#[tokio::test(start_paused = true)]
async fn a_late_call_is_made_at_once_and_its_answer_comes_later() {
    let calls = Arc::default();
    let chaos = armed(Chaos::builder("drill").latency(1.0, 50 * MS..=500 * MS));
    let mut service = ServiceBuilder::new()
        .layer(chaos.layer(drill))
        .service(service(&calls));
    let began = Instant::now();
    let call = service.ready().await.unwrap().call(7);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(call.await.unwrap(), 7);
    let taken = began.elapsed();
    assert!((50 * MS..=502 * MS).contains(&taken), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_hangs_or_panics_does_not_reach_the_service() {
    let calls = Arc::default();
    let of = |build: ChaosBuilder| {
        ServiceBuilder::new()
            .layer(armed(build).layer(drill))
            .service(service(&calls))
    };
    let fails = of(Chaos::builder("drill").error(1.0));
    assert_eq!(fails.oneshot(1).await.unwrap_err().to_string(), "a drill");
    let hangs = of(Chaos::builder("drill").hang(1.0).error(1.0));
    timeout(86_400 * SECOND, hangs.oneshot(1))
        .await
        .unwrap_err();
    let panics = of(Chaos::builder("drill").panic(1.0).hang(1.0));
    let panicked = AssertUnwindSafe(panics.oneshot(1));
    let words = panicked.catch_unwind().await.unwrap_err();
    let words = words.downcast::<String>().unwrap();
    assert_eq!(*words, "the drill `drill` panics");
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn each_fault_is_counted_once_and_told_with_its_call() {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let list = Arc::clone(&heard);
    let chaos = armed(
        Chaos::builder("drill")
            .latency(1.0, MS..=MS)
            .error(1.0)
            .observer(move |_: &str, event: &Event| list.lock().unwrap().push(event.to_string())),
    );
    let run = async || {
        let call = AssertUnwindSafe(chaos.run(drill, || ready(Ok(1))));
        let _ = timeout(SECOND, call.catch_unwind()).await;
        chaos.snapshot().injected
    };
    let injected = run().await;
    assert_eq!((injected.latency, injected.error), (1, 1));
    let mut config = ChaosConfig::default();
    config.hang = 1.0;
    chaos.update(config.clone()).unwrap();
    assert_eq!(run().await.hang, 1);
    config.panic = 1.0;
    chaos.update(config).unwrap();
    let injected = run().await;
    assert_eq!((injected.hang, injected.panic), (1, 1));
    assert_eq!((injected.sum(), chaos.snapshot().calls), (4, 3));
    let expected = [
        "call 0 meets a fault: latency",
        "call 0 meets a fault: error",
        "call 1 meets a fault: hang",
        "call 2 meets a fault: panic",
    ];
    assert_eq!(heard.lock().unwrap()[1..], expected);
}

/// The end of a drill is no cure for what has begun.
#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_goes_on_to_hang_when_the_drill_is_over() {
    let chaos = armed(Chaos::builder("drill").hang(1.0));
    let mut hangs = spawn(chaos.run(drill, || ready(Ok(1))));
    assert_pending!(hangs.poll());
    chaos.disarm();
    advance(86_400 * SECOND).await;
    assert_pending!(hangs.poll());
    assert_eq!(chaos.run(drill, || ready(Ok(1))).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn by_key_an_armed_drill_is_not_forgotten() {
    let drills = Keyed::new("drills", 100, |host: &u32| {
        let chaos = Chaos::builder(host.to_string()).build();
        chaos.unwrap()
    });
    let drills = drills.unwrap();
    for host in 0..5 {
        let chaos: Chaos = drills.get(&host).unwrap();
        if host == 3 {
            chaos.arm();
        }
    }
    assert_eq!(drills.snapshot(1)[0].0, 3);
    assert_eq!((drills.forget_idle(), drills.len()), (4, 1));
    drills.get(&3).unwrap().disarm();
    assert_eq!(drills.forget_idle(), 1);
}

/// A response instead of an error.
#[tokio::test(start_paused = true)]
async fn a_fault_can_be_an_answer() {
    let chaos = armed(Chaos::builder("drill").error(1.0));
    let layer = chaos.layer(|| Ok::<_, io::Error>(503));
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(service(&Arc::default()));
    assert_eq!(service.oneshot(200).await.unwrap(), 503);
}

#[tokio::test(start_paused = true)]
async fn the_layers_around_it_blame_the_service() {
    let (calls, breaker) = (Arc::default(), CircuitBreaker::new("api"));
    let limits = Timeouts::builder("api").head(SECOND).build().unwrap();
    let chaos = armed(Chaos::builder("drill").hang(1.0));
    let service = ServiceBuilder::new()
        .layer(breaker.layer())
        .layer(limits.layer())
        .layer(chaos.layer(drill))
        .service(service(&calls));
    for n in 0..4 {
        let late = service.clone().oneshot(n).await.unwrap_err();
        assert!(matches!(late, Error::TimedOut(_)), "{late}");
    }
    // Late by more than may be.
    let mut config = ChaosConfig::default();
    (config.latency, config.latency_range) = (1.0, 2 * SECOND..=2 * SECOND);
    let change = chaos.update(config.clone()).unwrap().to_string();
    assert!(change.contains("hang: 1.0 -> 0.0"), "{change}");
    service.clone().oneshot(4).await.unwrap_err();
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(breaker.snapshot().totals.failures, 5);
    config.error = 1.5;
    assert_eq!(chaos.update(config).unwrap_err().setting(), "error");
    assert_eq!(chaos.config().error, 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_retry_brings_calls_through_a_drill() {
    let calls = Arc::default();
    let chaos = armed(Chaos::builder("drill").seed(7).error(0.3));
    let retry = RetryPolicy::builder()
        .max_retries(9)
        .no_budget()
        .backoff(Backoff::fixed(MS))
        .jitter(Jitter::None)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(chaos.layer(drill))
        .service(service(&calls));
    for n in 0..200 {
        assert_eq!(service.clone().oneshot(n).await.unwrap(), n);
    }
    let snapshot = chaos.snapshot();
    assert_eq!(calls.load(Ordering::Relaxed), 200);
    assert_eq!(snapshot.calls, 200 + snapshot.injected.error);
}

#[test]
fn rates_that_are_no_shares_are_named() {
    let new = || Chaos::builder("drill");
    let setting = |build: ChaosBuilder| build.build().unwrap_err().setting();
    for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(setting(new().latency(rate, MS..=MS)), "latency");
        assert_eq!(setting(new().error(rate)), "error");
        assert_eq!(setting(new().hang(rate)), "hang");
        assert_eq!(setting(new().panic(rate)), "panic");
        assert_eq!(setting(new().cut_body(rate)), "cut_body");
    }
    let backwards = new().latency(0.1, SECOND..=MS);
    assert_eq!(setting(backwards), "latency_range");
    let mut forgotten = ChaosConfig::default();
    forgotten.latency = 0.1;
    assert_eq!(setting(new().config(forgotten)), "latency_range");
}

#[tokio::test(start_paused = true)]
async fn an_armed_drill_is_seen() {
    let registry = Registry::new();
    let chaos = Chaos::builder("drill")
        .error(0.5)
        .build_in(&registry)
        .unwrap();
    let explain = || {
        Layers::new()
            .layer(&chaos)
            .service("client", Some(SECOND))
            .explain()
    };
    assert_eq!(explain().warnings(), []);
    registry.get_chaos("drill").unwrap().arm();
    let armed = explain();
    assert!(
        matches!(armed.warnings(), [Warning::ChaosArmed { .. }]),
        "{armed}"
    );
    assert!(
        armed.to_string().starts_with("chaos `drill`: armed\n"),
        "{armed}"
    );
    assert!(registry.snapshot().chaos[0].armed);
    drop(chaos);
    assert!(!registry.remove_if_idle("drill"));
    let chaos = registry.get_chaos("drill").unwrap();
    chaos.disarm();
    assert!(!registry.remove_if_idle("drill"), "somebody has a handle");
    drop(chaos);
    assert!(registry.remove_if_idle("drill"));
}

#[cfg(feature = "http")]
mod bodies {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http::Response;
    use http_body::{Body, Frame};
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    /// Some frames.
    #[derive(Default)]
    struct Frames(VecDeque<&'static str>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            let frame = self.0.pop_front();
            Poll::Ready(frame.map(|it| Ok(Frame::data(Bytes::from(it)))))
        }
    }

    async fn read(chaos: &Chaos, frames: &'static [&'static str]) -> (Vec<Bytes>, Option<String>) {
        let answer = move |_: ()| {
            let body = Frames(frames.iter().copied().collect());
            ready(Ok::<_, io::Error>(Response::new(body)))
        };
        let layer = chaos.http_layer(|| Ok::<_, io::Error>(Response::new(Frames::default())));
        let service = ServiceBuilder::new()
            .layer(layer)
            .service(service_fn(answer));
        let mut body = service.oneshot(()).await.unwrap().into_body();
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => read.push(frame.into_data().unwrap()),
                Err(error) => {
                    assert!(body.frame().await.is_none(), "nothing comes after the end");
                    let cause = std::error::Error::source(&error).unwrap();
                    return (read, Some(cause.to_string()));
                }
            }
        }
        (read, None)
    }

    #[tokio::test]
    async fn a_body_breaks_off_after_its_first_frame_as_if_the_connection_were_reset() {
        let chaos = Chaos::builder("drill").cut_body(1.0).build().unwrap();
        let all = ["one", "two", "three"].map(Bytes::from).to_vec();
        assert_eq!(read(&chaos, &["one", "two", "three"]).await, (all, None));
        chaos.arm();
        let cut = read(&chaos, &["one", "two", "three"]).await;
        assert_eq!(
            cut,
            (
                vec![Bytes::from("one")],
                Some("connection reset".to_owned())
            )
        );
        let (frames, error) = read(&chaos, &["one"]).await;
        assert!(frames.len() == 1 && error.is_some());
        let (frames, error) = read(&chaos, &[]).await;
        assert!(frames.is_empty() && error.is_some());
        assert_eq!(chaos.snapshot().injected.cut_body, 3);
        // One that nobody reads does not break off.
        let layer = chaos.http_layer(|| Ok::<_, io::Error>(Response::new(Frames::default())));
        let answer = |_: ()| ready(Ok::<_, io::Error>(Response::new(Frames::default())));
        let service = ServiceBuilder::new()
            .layer(layer)
            .service(service_fn(answer));
        drop(service.oneshot(()).await.unwrap());
        assert_eq!(chaos.snapshot().injected.cut_body, 3);
    }

    /// Nobody has seen the rest of such a body: it may as well have been whole.
    #[tokio::test]
    async fn a_body_that_is_not_read_to_its_cut_is_not_counted() {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let list = Arc::clone(&heard);
        let chaos = armed(Chaos::builder("drill").cut_body(1.0).observer(
            move |_: &str, event: &Event| {
                list.lock().unwrap().push(event.to_string());
            },
        ));
        let answer = |_: ()| {
            let body = Full::<Bytes>::from("hello");
            ready(Ok::<_, io::Error>(Response::new(body)))
        };
        let fault = || Ok::<_, io::Error>(Response::new(Full::default()));
        let service = ServiceBuilder::new()
            .layer(chaos.http_layer(fault))
            .service(service_fn(answer));
        let mut bodies = Vec::new();
        for _ in 0..3 {
            bodies.push(service.clone().oneshot(()).await.unwrap().into_body());
        }
        assert!(bodies[1].frame().await.unwrap().is_ok());
        bodies.remove(2);
        assert_eq!(chaos.snapshot().injected.cut_body, 0);
        bodies[0].frame().await.unwrap().unwrap();
        bodies[0].frame().await.unwrap().unwrap_err();
        assert_eq!(chaos.snapshot().injected.cut_body, 1);
        // The number is that of the call, not of the last one.
        assert_eq!(
            heard.lock().unwrap()[1..],
            ["call 0 meets a fault: cut body"]
        );
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_by_itself_is_not_cut_as_well() {
        let chaos = armed(Chaos::builder("drill").cut_body(1.0));
        let answer = |_: ()| {
            let broken = futures::stream::iter([Err::<Frame<Bytes>, _>(io::Error::other("gone"))]);
            ready(Ok::<_, io::Error>(Response::new(StreamBody::new(broken))))
        };
        let layer = chaos.http_layer(|| Err(io::Error::other("a drill")));
        let service = ServiceBuilder::new()
            .layer(layer)
            .service(service_fn(answer));
        let mut body = service.oneshot(()).await.unwrap().into_body();
        let error = body.frame().await.unwrap().unwrap_err();
        let cause = std::error::Error::source(&error).unwrap();
        assert_eq!(cause.to_string(), "gone");
        assert!(body.frame().await.is_none());
        assert_eq!(chaos.snapshot().injected.cut_body, 0);
    }

    #[tokio::test]
    async fn a_breaker_that_waits_for_the_end_of_bodies_counts_the_cut() {
        let (chaos, breaker) = (
            armed(Chaos::builder("drill").cut_body(1.0)),
            CircuitBreaker::new("api"),
        );
        let answer = |_: ()| {
            ready(Ok::<_, io::Error>(Response::new(Full::<Bytes>::from(
                "hello",
            ))))
        };
        let fault = || Ok::<_, io::Error>(Response::new(Full::default()));
        let service = ServiceBuilder::new()
            .layer(breaker.http_layer().until_body_end())
            .layer(chaos.http_layer(fault))
            .service(service_fn(answer));
        let body = service.oneshot(()).await.unwrap().into_body();
        body.collect().await.unwrap_err();
        let totals = breaker.snapshot().totals;
        assert_eq!((totals.successes, totals.failures), (0, 1));
    }
}
