//! The fallback: other services when one does not answer.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::fallback::{Fallback, TargetError};
use tower_bulwark::{
    Backoff, BoxError, CircuitBreaker, Error, Event, Rejection, ResourceLock, RetryPolicy,
};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq)]
struct Down(&'static str);

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Down {}

type Calls = Arc<Mutex<Vec<String>>>;
type Model = BoxCloneSyncService<String, String, Down>;

/// Answers with its name, or fails; and notes what it was asked.
fn model(name: &'static str, is_up: bool, calls: &Calls) -> Model {
    let calls = Arc::clone(calls);
    BoxCloneSyncService::new(service_fn(move |ask: String| {
        calls.lock().unwrap().push(format!("{name}: {ask}"));
        std::future::ready(match is_up {
            true => Ok(name.to_owned()),
            false => Err(Down(name)),
        })
    }))
}

fn asked(calls: &Calls) -> Vec<String> {
    std::mem::take(&mut calls.lock().unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_first_target_that_answers_is_the_last_that_is_asked() {
    let (calls, fallback) = (Calls::default(), Fallback::new("chat"));
    let service = fallback
        .layer()
        .to("small", model("small", false, &calls))
        .to("local", model("local", true, &calls))
        .to("never", model("never", true, &calls))
        .map_request(|ask: String, target| format!("{ask} to {target}"))
        .mark(|answer: &mut String, target| answer.push_str(&format!(" as {target}")))
        .layer(model("large", false, &calls));
    let answer = service.clone().oneshot("why".to_owned()).await.unwrap();
    assert_eq!(answer, "local as local");
    assert_eq!(
        asked(&calls),
        ["large: why", "small: why to small", "local: why to local"]
    );
    let seen = fallback.snapshot();
    assert_eq!((seen.fell_back, seen.steps, seen.all_failed), (1, 2, 0));

    // A service that answers is the only one that is asked, and its answer is not marked.
    let service = fallback
        .layer()
        .to("small", model("small", true, &calls))
        .mark(|answer: &mut String, _| answer.push('!'))
        .layer(model("large", true, &calls));
    assert_eq!(service.oneshot("why".to_owned()).await.unwrap(), "large");
    assert_eq!(asked(&calls), ["large: why"]);
}

#[tokio::test(start_paused = true)]
async fn when_none_answers_what_each_said_is_kept() {
    let calls = Calls::default();
    let open = CircuitBreaker::new("open");
    open.force_open();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&heard);
    let observer =
        move |name: &str, event: &Event| list.lock().unwrap().push(format!("{name}: {event}"));
    let fallback = Fallback::observed("chat", vec![Arc::new(observer)]);
    let service = fallback
        .layer()
        .to(
            "guarded",
            open.layer().layer(model("guarded", true, &calls)),
        )
        .to("small", model("small", false, &calls))
        .layer(model("large", false, &calls));
    let error = service.oneshot("why".to_owned()).await.unwrap_err();
    let Error::AllFailed(failed) = &error else {
        panic!("{error}")
    };
    let targets: Vec<&str> = failed.failures().iter().map(|it| &*it.target).collect();
    assert_eq!(targets, ["service", "guarded", "small"]);
    assert!(matches!(
        &failed.failures()[0].failure,
        TargetError::Error(Error::Inner(Down("large")))
    ));
    assert!(matches!(
        &failed.failures()[1].failure,
        TargetError::Error(Error::CircuitOpen(_))
    ));
    assert_eq!(error.as_inner(), Some(&Down("small")));
    // One was reached: it is no refusal, in whatever box.
    assert!(!error.is_rejection());
    let text = error.to_string();
    assert!(
        text.contains("`large`") || text.contains("`service`: large"),
        "{text}"
    );
    let boxed: BoxError = error.into();
    assert!(Rejection::find(&*boxed).is_none());
    assert_eq!(asked(&calls), ["large: why", "small: why"]);
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 3);
    assert_eq!(heard[2], "chat: none of 3 targets answered");
}

#[tokio::test(start_paused = true)]
async fn it_is_a_refusal_only_if_all_refused() {
    let calls = Calls::default();
    let closed = || {
        let breaker = CircuitBreaker::new("open");
        breaker.force_open();
        breaker.layer().layer(model("guarded", true, &calls))
    };
    let outer = CircuitBreaker::new("outer");
    let service = ServiceBuilder::new()
        .layer(outer.layer())
        .layer(Fallback::new("chat").layer().to("other", closed()))
        .service(closed());
    let error = service.oneshot("why".to_owned()).await.unwrap_err();
    assert!(error.is_rejection());
    assert_eq!(error.rejection().unwrap().name(), "open");
    let boxed: BoxError = error.into();
    assert!(Rejection::find(&*boxed).is_some());
    // And to a breaker around it no failure of the service.
    assert_eq!(outer.snapshot().totals.failures, 0);

    let service = ServiceBuilder::new()
        .layer(outer.layer())
        .layer(Fallback::new("chat").layer().to("other", closed()))
        .service(model("large", false, &calls));
    service.oneshot("why".to_owned()).await.unwrap_err();
    assert_eq!(outer.snapshot().totals.failures, 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_below_that_gave_up_and_a_busy_lock_are_no_answers_and_a_value_always_is() {
    let calls = Calls::default();
    let retry = RetryPolicy::builder()
        .max_retries(1)
        .backoff(Backoff::fixed(Duration::ZERO))
        .build()
        .unwrap();
    let lock = ResourceLock::builder("slot")
        .timeout(Duration::ZERO)
        .build()
        .unwrap();
    let _held = lock.acquire("somebody").owned().await.unwrap();
    let service = Fallback::new("chat")
        .layer()
        .to("busy", lock.layer().layer(model("busy", true, &calls)))
        .to_value("sorry", |ask: String| format!("cannot say {ask}"))
        .layer(retry.layer().layer(model("large", false, &calls)));
    let answer = service.oneshot("why".to_owned()).await.unwrap();
    assert_eq!(answer, "cannot say why");
    assert_eq!(asked(&calls), ["large: why", "large: why"]);
}

#[tokio::test(start_paused = true)]
async fn what_may_be_done_only_once_goes_on_only_after_refusals() {
    let calls = Calls::default();
    let breaker = CircuitBreaker::new("api");
    let service = Fallback::new("pay")
        .layer()
        .only_refusals()
        .to("other", model("other", true, &calls))
        .layer(breaker.layer().layer(model("first", false, &calls)));
    let error = service.clone().oneshot("pay".to_owned()).await.unwrap_err();
    assert_eq!(error.as_inner(), Some(&Down("first")));
    breaker.force_open();
    assert_eq!(service.oneshot("pay".to_owned()).await.unwrap(), "other");
    assert_eq!(asked(&calls), ["first: pay", "other: pay"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_after_the_deadline() {
    let calls = Calls::default();
    let slow = service_fn(|_: String| async {
        tokio::time::sleep(5 * SECOND).await;
        Err::<String, _>(Down("slow"))
    });
    let service = Fallback::new("chat")
        .layer()
        .to("small", model("small", true, &calls))
        .layer(slow);
    let ask = service.oneshot("why".to_owned());
    let error = deadline::scope(Deadline::after(SECOND), ask)
        .await
        .unwrap_err();
    assert_eq!(error.as_inner(), Some(&Down("slow")));
    assert!(asked(&calls).is_empty());
}

/// The permit of what has failed is free before the next is asked, and a call that is dropped drops what is on its way.
#[tokio::test(start_paused = true)]
async fn one_target_at_a_time_and_none_is_left_behind() {
    let lock = ResourceLock::builder("slot")
        .timeout(Duration::ZERO)
        .build()
        .unwrap();
    let calls = Calls::default();
    let service = Fallback::new("chat")
        .layer()
        .to("again", lock.layer().layer(model("again", true, &calls)))
        .layer(lock.layer().layer(model("large", false, &calls)));
    assert_eq!(service.oneshot("why".to_owned()).await.unwrap(), "again");

    let hangs = service_fn(|_: String| std::future::pending::<Result<String, Down>>());
    let service = Fallback::new("chat")
        .layer()
        .to("hangs", lock.layer().layer(hangs))
        .layer(model("large", false, &calls));
    let call = tokio::time::timeout(SECOND, service.oneshot("why".to_owned()));
    assert!(call.await.is_err());
    assert_eq!(lock.snapshot().in_use, 0);
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn an_http_answer_says_who_gave_it_and_a_bad_one_is_none() {
    use http::{Request, Response, StatusCode};
    use tower_bulwark::http::AnsweredBy;

    let answers = |status: u16| {
        service_fn(move |_: Request<()>| {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            std::future::ready(Ok::<_, std::convert::Infallible>(response))
        })
    };
    let ask = |first, second| {
        let service = Fallback::new("api")
            .http_layer()
            .to("backup", answers(second))
            .layer(answers(first));
        async move {
            let response = service.oneshot(Request::new(())).await.unwrap();
            let by = response.extensions().get::<AnsweredBy>().cloned();
            (
                response.status().as_u16(),
                by.map(|AnsweredBy(name)| name.to_string()),
            )
        }
    };
    let backup = Some("backup".to_owned());
    assert_eq!(ask(200, 200).await, (200, None));
    assert_eq!(ask(404, 200).await, (404, None));
    assert_eq!(ask(503, 200).await, (200, backup.clone()));
    assert_eq!(ask(429, 200).await, (200, backup.clone()));
    // The last bad one is the caller's.
    assert_eq!(ask(503, 500).await, (500, backup));
}

#[tokio::test(start_paused = true)]
async fn targets_are_cloned_for_each_call_and_made_ready() {
    let inside = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&inside);
    let backup = ServiceBuilder::new()
        .concurrency_limit(2)
        .service(service_fn(move |_: String| {
            let inside = Arc::clone(&count);
            async move {
                assert!(inside.fetch_add(1, Ordering::SeqCst) < 2, "not made ready");
                tokio::time::sleep(SECOND).await;
                inside.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Down>("backup".to_owned())
            }
        }));
    let calls = Calls::default();
    let service = Fallback::new("chat")
        .layer()
        .to("backup", backup)
        .layer(model("large", false, &calls));
    let calls = (0..6).map(|_| service.clone().oneshot("why".to_owned()));
    for ended in futures::future::join_all(calls).await {
        assert_eq!(ended.unwrap(), "backup");
    }
}

#[test]
fn a_layer_of_a_fallback_is_a_layer_like_any_other() {
    fn is_service<
        S: Service<String, Response = String, Error = Error<Down>, Future: Send> + Clone + Send + Sync,
    >(
        _: &S,
    ) {
    }
    let calls = Calls::default();
    let layer = Fallback::new("chat")
        .layer()
        .to("small", model("small", true, &calls));
    is_service(&layer.clone().layer(model("large", true, &calls)));
    assert!(format!("{layer:?}").contains("small"));
}

/// The last of them refused, and another was reached: a layer above must not take it for a call that was never made.
#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_last_hides_no_failure_of_the_first() {
    let calls = Calls::default();
    let breaker = CircuitBreaker::new("open");
    breaker.force_open();
    let service = Fallback::new("chat")
        .layer()
        .to(
            "guarded",
            breaker.layer().layer(model("guarded", true, &calls)),
        )
        .layer(model("large", false, &calls));
    let error = service.oneshot("why".to_owned()).await.unwrap_err();
    assert!(!error.is_rejection());
    let boxed: BoxError = error.into();
    assert!(Rejection::find(&*boxed).is_none());
}

/// A call that holds on to something until it is dropped, as a buffer does.
struct Holds(Arc<AtomicU32>);

impl Drop for Holds {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl std::future::Future for Holds {
    type Output = Result<String, Down>;

    fn poll(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::task::Poll::Ready(Err(Down("holds")))
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_failed_is_dropped_before_the_next_is_asked() {
    let held = Arc::new(AtomicU32::new(0));
    let (first, second) = (Arc::clone(&held), Arc::clone(&held));
    let holds = service_fn(move |_: String| {
        first.fetch_add(1, Ordering::SeqCst);
        Holds(Arc::clone(&first))
    });
    let service = Fallback::new("chat")
        .layer()
        .to_value("count", move |_| second.load(Ordering::SeqCst).to_string())
        .layer(holds);
    assert_eq!(service.oneshot("why".to_owned()).await.unwrap(), "0");
}
