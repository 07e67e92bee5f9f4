//! The hedge: when a second attempt starts, which answer wins, what becomes of the loser.

#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::convert::Infallible;
use std::future::{pending, ready};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use proptest::prelude::*;
use static_assertions::{assert_impl_all, assert_not_impl_any};
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_test::{assert_pending, assert_ready, task};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::explain::{Layers, Warning};
use tower_bulwark::hedge::{Hedge, HedgeConfig, HedgeFuture, HedgeLayer, HedgeService};
use tower_bulwark::{
    Backoff, CircuitBreaker, Error, Event, Idempotency, Registry, RegistryError, Rejection,
    ResourceLock, RetryBudget, RetryPolicy, Timeouts, Verdict,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

assert_impl_all!(Hedge: Send, Sync, Clone);
assert_impl_all!(HedgeLayer<std::io::Error>: Send, Sync, Clone);
assert_impl_all!(HedgeService<(), std::io::Error>: Send, Sync, Clone);
type Calls = tower::util::BoxCloneSyncService<u32, u32, Down>;
assert_impl_all!(HedgeFuture<Calls, u32, Down>: Send);
assert_not_impl_any!(HedgeService<std::rc::Rc<()>, Down>: Send);

#[derive(Clone, Debug, PartialEq)]
struct Down(u32);

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "attempt {} is down", self.0)
    }
}

impl std::error::Error for Down {}

/// What an attempt does: after so many milliseconds it answers, or fails.
#[derive(Clone, Copy, Debug)]
enum Does {
    Answers(u64),
    Fails(u64),
    Hangs,
}

use Does::{Answers, Fails, Hangs};

/// A service whose attempts go by a script, one after the other; the last is that of all others too.
#[derive(Clone, Default)]
struct Script {
    script: Arc<Vec<Does>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug)]
struct Seen {
    start: Instant,
    /// When attempts began, in milliseconds.
    began: Vec<u64>,
    /// Which of them were dropped before they ended.
    dropped: Vec<u32>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            began: Vec::new(),
            dropped: Vec::new(),
        }
    }
}

/// Notes that an attempt was dropped.
struct Running(Script, u32, bool);

impl Drop for Running {
    fn drop(&mut self) {
        if !self.2 {
            self.0.seen.lock().unwrap().dropped.push(self.1);
        }
    }
}

impl Script {
    fn new(script: &[Does]) -> Self {
        Self {
            script: Arc::new(script.to_vec()),
            ..Self::default()
        }
    }

    async fn attempt(self) -> Result<u32, Down> {
        let (number, does) = {
            let mut seen = self.seen.lock().unwrap();
            let now = seen.start.elapsed().as_millis() as u64;
            seen.began.push(now);
            let number = seen.began.len();
            (
                number as u32,
                self.script[number.min(self.script.len()) - 1],
            )
        };
        let mut running = Running(self, number, false);
        let (ms, result) = match does {
            Answers(ms) => (ms, Ok(number)),
            Fails(ms) => (ms, Err(Down(number))),
            Hangs => pending().await,
        };
        sleep(MS * ms as u32).await;
        running.2 = true;
        result
    }

    fn service(
        &self,
    ) -> impl Service<&'static str, Response = u32, Error = Down, Future: Send>
    + Clone
    + Send
    + Sync
    + use<> {
        let script = self.clone();
        service_fn(move |_: &'static str| script.clone().attempt())
    }

    fn began(&self) -> Vec<u64> {
        self.seen.lock().unwrap().began.clone()
    }

    fn dropped(&self) -> Vec<u32> {
        self.seen.lock().unwrap().dropped.clone()
    }

    fn elapsed(&self) -> u64 {
        self.seen.lock().unwrap().start.elapsed().as_millis() as u64
    }
}

/// One hedge after 20 ms, without a budget.
fn after_20_ms() -> Hedge {
    Hedge::builder("reads")
        .after(20 * MS)
        .no_budget()
        .build()
        .unwrap()
}

fn many(extra: u32, delay: Duration) -> Hedge {
    let hedge = Hedge::builder("reads").after(delay).max_extra(extra);
    hedge.no_budget().build().unwrap()
}

// ---- When a hedge starts ------------------------------------------------------------------------------

/// After a failure at once; while there is none, after a second.
fn hedges_failures() -> Hedge {
    Hedge::builder("reads")
        .after(SECOND)
        .hedge_failures(true)
        .no_budget()
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_before_the_delay_is_made_once() {
    let (hedge, script) = (after_20_ms(), Script::new(&[Answers(19)]));
    let service = hedge.layer().layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 1);
    assert_eq!(script.began(), [0]);
    let seen = hedge.snapshot();
    assert_eq!(
        (seen.calls, seen.hedged, seen.hedges, seen.won),
        (1, 0, 0, 0)
    );
    assert_eq!(seen.delay, Some(20 * MS));
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_wins_and_the_loser_is_dropped_at_once() {
    let (hedge, script) = (after_20_ms(), Script::new(&[Hangs, Answers(5)]));
    let service = hedge.layer().layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 2);
    assert_eq!((script.began(), script.elapsed()), (vec![0, 20], 25));
    assert_eq!(script.dropped(), [1]);
    let seen = hedge.snapshot();
    assert_eq!(
        (seen.calls, seen.hedged, seen.hedges, seen.won),
        (1, 1, 1, 1)
    );

    let script = Script::new(&[Answers(30), Hangs]);
    let service = hedge.layer().layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 1);
    assert_eq!(script.elapsed(), 30);
    assert_eq!(script.dropped(), [2]);
    assert_eq!(hedge.snapshot().won, 1);
}

#[tokio::test(start_paused = true)]
async fn each_hedge_starts_a_delay_after_the_one_before_it_and_there_are_no_more_than_allowed() {
    let (hedge, script) = (many(3, 10 * MS), Script::new(&[Hangs]));
    let service = hedge.layer().layer(script.service());
    assert!(timeout(SECOND, service.oneshot("x")).await.is_err());
    assert_eq!(script.began(), [0, 10, 20, 30]);
    assert_eq!(script.dropped().len(), 4, "the caller went away");
}

#[tokio::test(start_paused = true)]
async fn with_no_delay_all_attempts_start_at_once() {
    let (hedge, script) = (
        many(2, Duration::ZERO),
        Script::new(&[Hangs, Hangs, Answers(7)]),
    );
    let service = hedge.layer().layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 3);
    assert_eq!((script.began(), script.elapsed()), (vec![0, 0, 0], 7));
}

#[tokio::test(start_paused = true)]
async fn a_delay_that_never_passes_hedges_nothing() {
    let (hedge, script) = (many(1, Duration::MAX), Script::new(&[Answers(100_000)]));
    let service = hedge.layer().layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 1);
    assert_eq!(script.began(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_percentile_hedges_nothing_before_it_knows_enough_and_then_what_is_slower() {
    let hedge = Hedge::builder("reads")
        .after_percentile(0.95)
        .at_least(20 * MS)
        .no_budget()
        .build()
        .unwrap();
    assert_eq!(hedge.snapshot().delay, None);
    for n in 1..=100_u64 {
        let script = Script::new(&[Answers(n)]);
        let service = hedge.layer().layer(script.service());
        assert_eq!(service.oneshot("x").await.unwrap(), 1);
    }
    let seen = hedge.snapshot();
    assert_eq!((seen.hedges, seen.recent_latency.count), (0, 100));
    let delay = seen.delay.unwrap();
    assert!(delay >= 95 * MS && delay <= 108 * MS, "{delay:?}");
    let script = Script::new(&[Hangs, Answers(1)]);
    let service = hedge.layer().layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 2);
    // The one that was overtaken took at least so long.
    let seen = hedge.snapshot();
    assert_eq!(seen.recent_latency.count, 101);
    assert!(seen.recent_latency.max >= delay, "{seen:?}");
    // Failures say nothing of how long an answer takes.
    let service = hedge.layer().layer(Script::new(&[Fails(3)]).service());
    service.oneshot("x").await.unwrap_err();
    assert_eq!(hedge.snapshot().recent_latency.count, 101);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_delay_holds_until_the_percentile_is_known() {
    let hedge = Hedge::builder("reads")
        .after_percentile(0.5)
        .after(40 * MS)
        .min_samples(3)
        .no_budget()
        .build()
        .unwrap();
    let run = |script: Script| hedge.layer().layer(script.service()).oneshot("x");
    let script = Script::new(&[Hangs, Answers(1)]);
    run(script.clone()).await.unwrap();
    assert_eq!(script.began(), [0, 40]);
    for _ in 0..5 {
        run(Script::new(&[Answers(15)])).await.unwrap();
    }
    let script = Script::new(&[Hangs, Answers(1)]);
    run(script.clone()).await.unwrap();
    let second = script.began()[1];
    assert!((15..=18).contains(&second), "{second}");
}

#[tokio::test(start_paused = true)]
async fn no_hedge_starts_at_the_deadline_or_behind_it() {
    let (hedge, script) = (many(3, 10 * MS), Script::new(&[Answers(50)]));
    let service = hedge.layer().layer(script.service());
    let call = service.oneshot("x");
    let answer = deadline::scope(Deadline::after(20 * MS), call).await;
    assert_eq!((answer.unwrap(), script.began()), (1, vec![0, 10]));

    let script = Script::new(&[Answers(50)]);
    let service = hedge
        .layer()
        .deadline_from(|_: &&'static str| Some(Deadline::after(5 * MS)))
        .layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 1);
    assert_eq!(script.began(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_at_once_behind_its_deadline_is_not_hedged() {
    let hedge = Hedge::builder("reads")
        .after(SECOND)
        .hedge_failures(true)
        .no_budget()
        .build()
        .unwrap();
    let calls = AtomicU32::new(0);
    let call = hedge.run(|attempt| {
        calls.fetch_add(1, Ordering::SeqCst);
        ready(Err::<(), _>(Down(attempt)))
    });
    let over = Deadline::after(Duration::ZERO);
    deadline::scope(over, call).await.unwrap_err();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_at_once_waits_for_no_hedge_behind_its_deadline() {
    let (hedge, start) = (hedges_failures(), Instant::now());
    let later = |result: Result<&(), &Down>| match result {
        Ok(()) => Verdict::success(),
        Err(_) => Verdict::failure().retry_exactly_after(60 * SECOND),
    };
    let call = hedge.classify_with(later);
    let call = call.run(|attempt| ready(Err::<(), _>(Down(attempt))));
    let soon = Deadline::after(30 * SECOND);
    deadline::scope(soon, call).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_uses_up_the_tasks_budget_at_each_poll_is_hedged_all_the_same() {
    let calls = Arc::new(AtomicU32::new(0));
    let greedy = {
        let calls = Arc::clone(&calls);
        service_fn(move |_: &'static str| {
            let number = calls.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                if number == 1 {
                    loop {
                        tokio::task::consume_budget().await;
                    }
                }
                Ok::<u32, Infallible>(number)
            }
        })
    };
    let service = after_20_ms().layer().layer(greedy);
    let call = tokio::spawn(service.oneshot("x"));
    for _ in 0..10 {
        advance(5 * MS).await;
        tokio::task::yield_now().await;
    }
    assert!(call.is_finished());
    assert_eq!(call.await.unwrap().unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_uses_up_the_tasks_budget_at_each_poll_leaves_some_for_its_hedge() {
    let greedy = service_fn(|attempt: u32| async move {
        if attempt == 1 {
            loop {
                tokio::task::consume_budget().await;
            }
        }
        sleep(5 * MS).await;
        Ok::<u32, Infallible>(attempt)
    });
    let service = after_20_ms()
        .layer()
        .before_attempt(|request: &mut u32, attempt| *request = attempt)
        .layer(greedy);
    let call = tokio::spawn(service.oneshot(0));
    for _ in 0..20 {
        advance(5 * MS).await;
        tokio::task::yield_now().await;
    }
    assert!(call.is_finished());
    assert_eq!(call.await.unwrap().unwrap(), 2);
}

/// The second of three is the greedy one: those on both sides of it get their turn.
#[tokio::test(start_paused = true)]
async fn a_greedy_hedge_leaves_some_for_those_before_and_behind_it() {
    for good in [1, 3] {
        let call = tokio::spawn(async move {
            let hedge = many(2, 20 * MS);
            let attempts = hedge.run(|attempt| async move {
                match attempt {
                    2 => loop {
                        tokio::task::consume_budget().await;
                    },
                    it if it == good => {
                        sleep(25 * MS).await;
                        sleep(25 * MS).await;
                        Ok::<_, Down>(attempt)
                    }
                    _ => pending().await,
                }
            });
            attempts.await
        });
        for _ in 0..40 {
            advance(5 * MS).await;
            tokio::task::yield_now().await;
        }
        assert!(call.is_finished(), "{good}");
        assert_eq!(call.await.unwrap().unwrap(), good);
    }
}

// ---- Which answer wins --------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_failure_does_not_win_while_another_attempt_runs() {
    let (hedge, script) = (after_20_ms(), Script::new(&[Answers(50), Fails(5)]));
    let service = hedge.layer().layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 1);
    assert_eq!(script.began(), [0, 20]);
    let script = Script::new(&[Fails(25), Answers(20)]);
    let service = hedge.layer().layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 2);
    assert_eq!(script.elapsed(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_before_its_hedge_fails_at_once_and_if_all_fail_the_last_failure_is_given()
 {
    let (hedge, script) = (after_20_ms(), Script::new(&[Fails(10)]));
    let service = hedge.layer().layer(script.service());
    let error = service.oneshot("x").await.unwrap_err();
    assert_eq!(error.as_inner(), Some(&Down(1)));
    assert_eq!((script.began(), script.elapsed()), (vec![0], 10));

    let script = Script::new(&[Fails(50), Fails(5)]);
    let service = hedge.layer().layer(script.service());
    let error = service.oneshot("x").await.unwrap_err();
    assert_eq!(error.as_inner(), Some(&Down(1)));
    assert_eq!(script.elapsed(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_a_failure_does_not_win_and_an_error_that_is_none_does() {
    let hedge = after_20_ms();
    let script = Script::new(&[Answers(50), Answers(5)]);
    let service = hedge
        .layer()
        .response_failure_if(|number: &u32| *number == 2)
        .layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 1);
    let script = Script::new(&[Answers(50), Fails(5)]);
    let service = hedge
        .layer()
        .failure_if(|error: &Down| error.0 != 2)
        .layer(script.service());
    let error = service.oneshot("x").await.unwrap_err();
    assert_eq!(error.as_inner(), Some(&Down(2)));
    assert_eq!((script.elapsed(), script.dropped()), (25, vec![1]));
}

#[tokio::test(start_paused = true)]
async fn a_failure_starts_the_next_hedge_at_once_where_that_is_wanted() {
    let hedge = Hedge::builder("reads")
        .after(500 * MS)
        .max_extra(3)
        .hedge_failures(true)
        .no_budget()
        .build()
        .unwrap();
    // gRFC A6: the next one at once, and the later ones a delay after it.
    let script = Script::new(&[Fails(100), Hangs]);
    let call = hedge.layer().layer(script.service()).oneshot("x");
    assert!(timeout(1_500 * MS, call).await.is_err());
    assert_eq!(script.began(), [0, 100, 600, 1_100]);
    // All fail: the last failure, and no attempt beyond those that are allowed.
    let script = Script::new(&[Fails(100)]);
    let call = hedge.layer().layer(script.service()).oneshot("x");
    assert_eq!(call.await.unwrap_err().as_inner(), Some(&Down(4)));
    assert_eq!(script.began(), [0, 100, 200, 300]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_a_timeout_below_has_ended_is_a_failure_too() {
    let script = Script::new(&[Hangs, Answers(10)]);
    let timeouts = Timeouts::builder("reads").head(50 * MS).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(hedges_failures().layer())
        .layer(timeouts.layer())
        .service(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 2);
    assert_eq!((script.began(), script.elapsed()), (vec![0, 50], 60));
}

#[tokio::test(start_paused = true)]
async fn what_the_service_asks_for_delays_the_next_hedge_or_stops_all_and_those_that_run_may_win() {
    let hedge = Hedge::builder("reads")
        .after(500 * MS)
        .max_extra(3)
        .hedge_failures(true)
        .no_budget()
        .build()
        .unwrap();
    let asks = |verdict: fn() -> Verdict| {
        move |result: Result<&u32, &Down>| match result {
            Ok(_) => Verdict::success(),
            Err(_) => verdict(),
        }
    };
    // Nothing runs, and the next one starts when the service wants it.
    let script = Script::new(&[Fails(100), Answers(10)]);
    let later = || Verdict::failure().retry_exactly_after(Duration::from_millis(70));
    let service = hedge
        .layer()
        .classify_with(asks(later))
        .layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 2);
    assert_eq!(script.began(), [0, 170]);

    let script = Script::new(&[Fails(600), Answers(400)]);
    let never = || Verdict::failure().do_not_retry();
    let service = hedge
        .layer()
        .classify_with(asks(never))
        .layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 2);
    assert_eq!((script.began(), script.elapsed()), (vec![0, 500], 900));
    // A fatal one ends it.
    let script = Script::new(&[Fails(600), Answers(400)]);
    let fatal = || Verdict::failure().retry(tower_bulwark::RetrySafety::Never);
    let service = hedge
        .layer()
        .classify_with(asks(fatal))
        .layer(script.service());
    assert_eq!(
        service.oneshot("x").await.unwrap_err().as_inner(),
        Some(&Down(1))
    );
    assert_eq!((script.elapsed(), script.dropped()), (600, vec![2]));
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_service_is_sent_no_hedge() {
    let hedge = Hedge::builder("reads")
        .after(20 * MS)
        .max_extra(3)
        .hedge_failures(true)
        .no_budget()
        .build()
        .unwrap();
    let script = Script::new(&[Fails(5)]);
    let service = hedge
        .layer()
        .classify_with(|_: Result<&u32, &Down>| Verdict::overload())
        .layer(script.service());
    service.oneshot("x").await.unwrap_err();
    assert_eq!(script.began(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_one_attempt_is_the_callers_and_drops_the_others() {
    let script = Script::new(&[Hangs]);
    let calls = Arc::new(AtomicU32::new(0));
    let service = {
        let script = script.clone();
        service_fn(move |_: &'static str| {
            let (script, number) = (script.clone(), calls.fetch_add(1, Ordering::SeqCst));
            async move {
                assert!(number == 0, "a hedge panics");
                script.attempt().await
            }
        })
    };
    let call = after_20_ms().layer().layer(service).oneshot("x");
    let panicked = AssertUnwindSafe(call).catch_unwind().await;
    assert!(panicked.is_err());
    assert_eq!(script.dropped(), [1]);
}

// ---- What may be done twice ---------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_request_that_may_not_be_done_twice_or_cannot_be_copied_is_sent_once() {
    let hedge = after_20_ms();
    let script = Script::new(&[Answers(50)]);
    let service = hedge
        .layer()
        .idempotency_from(|ask: &&'static str| match *ask {
            "read" => Idempotency::Idempotent,
            _ => Idempotency::NotIdempotent,
        })
        .layer(script.service());
    service.clone().oneshot("write").await.unwrap();
    assert_eq!(script.began(), [0]);
    service.oneshot("read").await.unwrap();
    assert_eq!(script.began(), [0, 50, 70]);

    let script = Script::new(&[Answers(50)]);
    let service = hedge
        .layer()
        .copy_request(|_: &&'static str| None)
        .layer(script.service());
    service.oneshot("x").await.unwrap();
    assert_eq!(script.began(), [0]);
    let seen = hedge.snapshot();
    assert_eq!((seen.calls, seen.not_started.not_repeatable), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn attempts_are_numbered_and_the_answer_of_a_hedge_is_marked() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&sent);
    let service = after_20_ms()
        .layer()
        .before_attempt(|request: &mut u32, attempt| *request = attempt)
        .mark(|response: &mut (u32, u32), attempt| response.1 = attempt)
        .layer(service_fn(move |number: u32| {
            list.lock().unwrap().push(number);
            async move {
                sleep(MS * (60 / number)).await;
                Ok::<_, Infallible>((number, 0))
            }
        }));
    assert_eq!(service.oneshot(0).await.unwrap(), (2, 2));
    assert_eq!(*sent.lock().unwrap(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_a_hedge_gave_is_marked_too_if_the_caller_gets_it() {
    let service = after_20_ms()
        .layer()
        .before_attempt(|request: &mut u32, attempt| *request = attempt)
        .response_failure_if(|_: &(u32, u32)| true)
        .mark(|response: &mut (u32, u32), attempt| response.1 = attempt)
        .layer(service_fn(|number: u32| async move {
            sleep(40 * MS).await;
            Ok::<_, Infallible>((number, 0))
        }));
    assert_eq!(service.oneshot(0).await.unwrap(), (2, 2));
}

/// Its future may still be there.
#[tokio::test(start_paused = true)]
async fn what_a_failure_holds_is_back_when_another_attempt_has_the_answer() {
    let (held, calls) = (Arc::new(()), Arc::new(AtomicU32::new(0)));
    let holds = Arc::downgrade(&held);
    let held = Arc::new(Mutex::new(Some(held)));
    let service = service_fn(move |_: &'static str| {
        let number = calls.fetch_add(1, Ordering::SeqCst) + 1;
        let held = held.lock().unwrap().take();
        async move {
            sleep(40 * MS).await;
            Ok::<_, Down>((number, held))
        }
    });
    // The first fails while the second runs.
    let mut service = after_20_ms()
        .layer()
        .response_failure_if(|it: &(u32, Option<Arc<()>>)| it.0 == 1)
        .layer(service);
    let mut call = std::pin::pin!(service.ready().await.unwrap().call("x"));
    assert_eq!(call.as_mut().await.unwrap().0, 2);
    assert!(holds.upgrade().is_none());
}

// ---- What pays ----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_empty_budget_starts_no_hedge_and_lets_the_running_ones_live() {
    let budget = RetryBudget::builder()
        .ratio(0.0)
        .floor_per_second(0.0)
        .burst(1)
        .build()
        .unwrap();
    let hedge = Hedge::builder("reads")
        .after(20 * MS)
        .max_extra(3)
        .budget(&budget)
        .build()
        .unwrap();
    let script = Script::new(&[Hangs, Answers(30)]);
    let service = hedge.layer().layer(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 2);
    assert_eq!((script.began(), script.elapsed()), (vec![0, 20], 50));
    let seen = hedge.snapshot();
    assert_eq!((seen.hedges, seen.not_started.no_budget), (1, 1));
    assert_eq!(seen.budget_available, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_hedged_pays_nothing_in() {
    let budget = RetryBudget::builder().ratio(1.0).floor_per_second(0.0);
    let budget = budget.burst(1).build().unwrap();
    let retry = RetryPolicy::builder().max_retries(1).budget(budget.clone());
    let retry = retry.backoff(Backoff::fixed(MS)).build().unwrap();
    let fails = async || Err::<(), _>(Down(0));
    retry.run(fails).await.unwrap_err();
    assert_eq!(budget.available(), Some(0));
    let hedge = Hedge::builder("reads").max_extra(0).budget(&budget);
    let hedge = hedge.build().unwrap();
    let script = Script::new(&[Answers(0)]);
    let service = hedge.layer().layer(script.service());
    service.oneshot("x").await.unwrap();
    hedge.run(|_| ready(Ok::<_, Down>(()))).await.unwrap();
    assert_eq!((hedge.snapshot().calls, budget.available()), (2, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn hedges_and_retries_are_paid_by_one_budget() {
    let budget = RetryBudget::builder()
        .ratio(0.0)
        .floor_per_second(0.0)
        .burst(2)
        .build()
        .unwrap();
    let hedge = Hedge::builder("reads").after(20 * MS).budget(&budget);
    let hedge = hedge.build().unwrap();
    let retry = RetryPolicy::builder()
        .backoff(Backoff::fixed(MS))
        .max_retries(9)
        .budget(budget.clone())
        .build()
        .unwrap();
    let script = Script::new(&[Fails(50), Fails(5)]);
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(hedge.layer())
        .service(script.service());
    service.oneshot("x").await.unwrap_err();
    // The call, its hedge, and one retry: then both have nothing left.
    assert_eq!(script.began().len(), 3);
    assert_eq!(budget.available(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_throttle_that_failures_have_drained_stops_hedges_and_successes_fill_it() {
    let throttle = RetryBudget::throttle(4, 1.0).unwrap();
    let hedge = Hedge::builder("reads")
        .after(500 * MS)
        .max_extra(3)
        .hedge_failures(true)
        .budget(&throttle)
        .build()
        .unwrap();
    let run = |script: &Script| hedge.layer().layer(script.service()).oneshot("x");
    // Two failures leave half of the tokens: the third attempt is not sent.
    let script = Script::new(&[Fails(10)]);
    run(&script).await.unwrap_err();
    assert_eq!(script.began(), [0, 10]);
    let script = Script::new(&[Answers(600)]);
    run(&script).await.unwrap();
    assert_eq!(script.began(), [0], "the first is always sent");
    run(&script).await.unwrap();
    assert_eq!(script.began(), [0, 600, 1_100]);
}

#[tokio::test(start_paused = true)]
async fn by_itself_a_hedge_adds_a_tenth_and_a_little_to_calls_that_are_all_slow() {
    let hedge = Hedge::builder("reads").after(MS).build().unwrap();
    let script = Script::new(&[Answers(5)]);
    let service = hedge.layer().layer(script.service());
    for _ in 0..200 {
        service.clone().oneshot("x").await.unwrap();
    }
    let hedges = hedge.snapshot().hedges;
    // Ten saved, a tenth of the traffic, and one a second.
    assert!((29..=32).contains(&hedges), "{hedges}");
}

// ---- Layers below -------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_breaker_below_sees_a_loser_as_cancelled_and_a_winner_as_a_success() {
    let (hedge, script) = (after_20_ms(), Script::new(&[Hangs, Answers(5)]));
    let breaker = CircuitBreaker::new("api");
    let service = ServiceBuilder::new()
        .layer(hedge.layer())
        .layer(breaker.layer())
        .service(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 2);
    let totals = breaker.snapshot().totals;
    assert_eq!(
        (totals.successes, totals.cancelled, totals.failures),
        (1, 1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_opens_meanwhile_refuses_the_hedge_and_the_call_goes_on() {
    let budget = RetryBudget::builder()
        .burst(5)
        .floor_per_second(0.0)
        .build()
        .unwrap();
    let hedge = Hedge::builder("reads").after(20 * MS).budget(&budget);
    let hedge = hedge.build().unwrap();
    let breaker = CircuitBreaker::new("api");
    let script = Script::new(&[Answers(50)]);
    let service = ServiceBuilder::new()
        .layer(hedge.layer())
        .layer(breaker.layer())
        .service(script.service());
    let mut call = task::spawn(service.oneshot("x"));
    assert_pending!(call.poll());
    breaker.force_open();
    assert_eq!(call.await.unwrap(), 1);
    assert_eq!(script.began(), [0]);
    let seen = hedge.snapshot();
    assert_eq!((seen.hedges, seen.not_started.refused), (0, 1));
    assert_eq!(
        budget.available(),
        Some(5),
        "what did not start is not paid"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_is_not_hedged() {
    let hedge = Hedge::builder("reads")
        .after(20 * MS)
        .hedge_failures(true)
        .no_budget()
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("api");
    breaker.force_open();
    let script = Script::new(&[Answers(1)]);
    let service = ServiceBuilder::new()
        .layer(hedge.layer())
        .layer(breaker.layer())
        .service(script.service());
    let error = service.oneshot("x").await.unwrap_err();
    assert!(matches!(error, Error::CircuitOpen(_)), "{error}");
    assert_eq!((script.began(), hedge.snapshot().hedges), (vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn no_hedge_queues_for_a_lock_that_is_full() {
    let budget = RetryBudget::builder()
        .burst(5)
        .floor_per_second(0.0)
        .build()
        .unwrap();
    let hedge = Hedge::builder("reads")
        .after(20 * MS)
        .max_extra(2)
        .budget(&budget);
    let hedge = hedge.build().unwrap();
    let lock = ResourceLock::new("slot");
    let script = Script::new(&[Answers(100)]);
    let service = ServiceBuilder::new()
        .layer(hedge.layer())
        .layer(lock.layer())
        .service(script.service());
    let mut call = task::spawn(service.oneshot("x"));
    assert_pending!(call.poll());
    advance(30 * MS).await;
    assert_pending!(call.poll());
    assert_eq!(lock.snapshot().waiting, 0);
    advance(30 * MS).await;
    assert_pending!(call.poll());
    assert_eq!(lock.snapshot().waiting, 0);
    assert_eq!(call.await.unwrap(), 1);
    assert_eq!(script.began(), [0]);
    assert_eq!(lock.snapshot().in_use, 0);
    let seen = hedge.snapshot();
    assert_eq!((seen.hedges, seen.not_started.refused), (0, 2));
    assert_eq!(budget.available(), Some(5));
}

#[tokio::test(start_paused = true)]
async fn the_permits_of_a_loser_are_back_when_the_answer_is_there() {
    for (script, winner) in [([Hangs, Answers(5)], 2), ([Answers(25), Hangs], 1)] {
        let (hedge, script) = (after_20_ms(), Script::new(&script));
        let lock = ResourceLock::builder("slots")
            .max_concurrent(2)
            .build()
            .unwrap();
        let mut service = ServiceBuilder::new()
            .layer(hedge.layer())
            .layer(lock.layer())
            .service(script.service());
        let mut call = task::spawn(service.ready().await.unwrap().call("x"));
        assert_pending!(call.poll());
        advance(20 * MS).await;
        assert_pending!(call.poll());
        assert_eq!(lock.snapshot().in_use, 2);
        advance(5 * MS).await;
        assert_eq!(assert_ready!(call.poll()).unwrap(), winner);
        assert_eq!(lock.snapshot().in_use, 0, "the future is still there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_a_failure_is_not_what_the_caller_gets() {
    let hedge = after_20_ms();
    let lock = ResourceLock::new("slot");
    let held = lock.acquire("other").owned().await.unwrap();
    let (script, calls) = (Script::new(&[Fails(40)]), Arc::new(AtomicU32::new(0)));
    // The hedge is refused after a while: the lock is asked by the service itself.
    let service = {
        let (script, lock) = (script.clone(), lock.clone());
        service_fn(move |_: &'static str| {
            let (script, lock) = (script.clone(), lock.clone());
            let is_first = calls.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if is_first {
                    return script.attempt().await.map_err(Error::Inner);
                }
                sleep(30 * MS).await;
                let refused = lock.acquire("hedge").timeout(Duration::ZERO).await;
                Err::<u32, Error<Down>>(Rejection::from(refused.map(|_| ()).unwrap_err()).into())
            }
        })
    };
    let error = hedge.layer().layer(service).oneshot("x").await.unwrap_err();
    assert_eq!(error.as_inner(), Some(&Down(1)));
    assert_eq!(script.elapsed(), 50);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_call_with_nothing_at_the_service_waits_for_its_hedge_and_nobody_is_blamed() {
    let hedge = Hedge::builder("reads")
        .after(SECOND)
        .hedge_failures(true)
        .no_budget()
        .build()
        .unwrap();
    let retry = RetryPolicy::builder()
        .max_retries(0)
        .attempt_timeout(50 * MS)
        .build()
        .unwrap();
    let script = Script::new(&[Fails(10), Answers(10)]);
    let judge = |result: Result<&u32, &Down>| match result {
        Ok(_) => Verdict::success(),
        Err(_) => Verdict::failure().retry_exactly_after(200 * MS),
    };
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(hedge.layer().classify_with(judge))
        .service(script.service());
    assert_eq!(service.oneshot("x").await.unwrap(), 2);
    assert_eq!((script.began(), script.elapsed()), (vec![0, 210], 220));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_for_a_hedge_gets_none() {
    let (hedge, script) = (after_20_ms(), Script::new(&[Answers(50)]));
    let service = ServiceBuilder::new()
        .layer(hedge.layer())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(script.service());
    assert_eq!(service.clone().oneshot("x").await.unwrap(), 1);
    assert_eq!(script.began(), [0]);
    assert_eq!(hedge.snapshot().not_started.refused, 1);
    // And nothing of it is left: the next call finds its place.
    service.oneshot("x").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn time_in_the_queue_of_a_lock_is_no_reason_for_a_hedge_and_no_latency() {
    let hedge = Hedge::builder("reads")
        .after(20 * MS)
        .after_percentile(0.5)
        .min_samples(1)
        .no_budget()
        .build()
        .unwrap();
    let lock = ResourceLock::builder("slots")
        .max_concurrent(2)
        .build()
        .unwrap();
    let (one, other) = (
        lock.acquire("a").owned().await.unwrap(),
        lock.acquire("b").owned().await.unwrap(),
    );
    let script = Script::new(&[Answers(15), Answers(1)]);
    let service = ServiceBuilder::new()
        .layer(hedge.layer())
        .layer(lock.layer())
        .service(script.service());
    let call = tokio::spawn(service.oneshot("x"));
    sleep(SECOND).await;
    drop((one, other));
    assert_eq!(call.await.unwrap().unwrap(), 1);
    assert_eq!(script.began(), [1_000]);
    let seen = hedge.snapshot();
    assert_eq!(seen.not_started.refused, 0, "it was not even tried");
    let latency = seen.recent_latency;
    assert!(latency.count == 1 && latency.max < 20 * MS, "{latency:?}");
}

#[tokio::test(start_paused = true)]
async fn while_a_call_waits_for_its_hedge_it_is_at_the_service() {
    let hedge = after_20_ms();
    let retry = RetryPolicy::builder()
        .max_retries(0)
        .attempt_timeout(50 * MS)
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("api");
    let script = Script::new(&[Hangs]);
    let service = ServiceBuilder::new()
        .layer(retry.layer())
        .layer(hedge.layer())
        .layer(breaker.layer())
        .service(script.service());
    service.oneshot("x").await.unwrap_err();
    assert_eq!(script.elapsed(), 50);
    // Nobody won: both had the time of an attempt, and gave no answer.
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failures, totals.cancelled), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn the_instance_that_is_ready_makes_the_call_and_a_hedge_is_made_by_one_that_was_made_ready()
{
    #[derive(Default)]
    struct Strict(bool, Script);
    impl Clone for Strict {
        fn clone(&self) -> Self {
            Self(false, self.1.clone())
        }
    }
    impl Service<&'static str> for Strict {
        type Response = u32;
        type Error = Down;
        type Future = futures::future::BoxFuture<'static, Result<u32, Down>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Down>> {
            self.0 = true;
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: &'static str) -> Self::Future {
            assert!(std::mem::take(&mut self.0), "called before it was ready");
            self.1.clone().attempt().boxed()
        }
    }
    let script = Script::new(&[Hangs, Hangs, Answers(1)]);
    let mut service = many(2, 10 * MS)
        .layer()
        .layer(Strict(false, script.clone()));
    assert_eq!(service.ready().await.unwrap().call("x").await.unwrap(), 3);
    assert_eq!(script.began(), [0, 10, 20]);
}

// ---- The handle ---------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn it_works_without_tower() {
    let hedge = after_20_ms();
    let start = Instant::now();
    let answer = hedge
        .run(|attempt| async move {
            sleep(if attempt == 1 { SECOND } else { 5 * MS }).await;
            Ok::<_, Infallible>(attempt)
        })
        .await;
    assert_eq!((answer.unwrap(), start.elapsed()), (2, 25 * MS));
    let error = hedge
        .failure_if(|error: &Down| error.0 > 0)
        .run(|attempt| ready(Err::<(), _>(Down(attempt))))
        .await;
    assert_eq!(error.unwrap_err().as_inner(), Some(&Down(1)));
}

#[tokio::test(start_paused = true)]
async fn an_update_says_what_changes_and_holds_from_the_next_call_on() {
    let (hedge, script) = (after_20_ms(), Script::new(&[Answers(50)]));
    let service = hedge.layer().layer(script.service());
    let mut config = HedgeConfig::clone(&hedge.config());
    config.after = Some(30 * MS);
    let change = hedge.update(config.clone()).unwrap();
    assert_eq!(change.settings.len(), 1);
    assert_eq!(change.settings[0].setting, "after");
    service.clone().oneshot("x").await.unwrap();
    assert_eq!(script.began(), [0, 30]);
    config.max_extra = 0;
    hedge.update(config.clone()).unwrap();
    service.oneshot("x").await.unwrap();
    assert_eq!(script.began(), [0, 30, 50]);
    config.max_extra = 11;
    assert_eq!(hedge.update(config).unwrap_err().setting(), "max_extra");
    assert_eq!(hedge.config().max_extra, 0);
}

#[tokio::test(start_paused = true)]
async fn an_update_leaves_a_call_on_its_way_its_number_of_hedges_and_the_delay_that_runs() {
    let (hedge, script) = (many(2, 20 * MS), Script::new(&[Hangs, Hangs, Fails(10)]));
    let service = hedge.layer().layer(script.service());
    let mut call = task::spawn(service.oneshot("x"));
    assert_pending!(call.poll());
    let mut config = HedgeConfig::clone(&hedge.config());
    (config.after, config.max_extra) = (Some(30 * MS), 9);
    hedge.update(config).unwrap();
    for _ in 0..20 {
        advance(10 * MS).await;
        assert_pending!(call.poll());
    }
    assert_eq!(script.began(), [0, 20, 50]);
}

/// Calls compute the delay too: what one has begun to compute by the old config is not the last word.
#[test]
fn an_update_holds_however_many_calls_look_at_their_latencies_meanwhile() {
    for round in 0..200 {
        let hedge = Hedge::builder("reads")
            .after_percentile(0.5)
            .after(7 * SECOND);
        let hedge = hedge.min_samples(u64::MAX).build().unwrap();
        let ended = AtomicU32::new(0);
        let calls = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().build().unwrap();
            for _ in 0..40 {
                let call = hedge.run(|_| async {
                    tokio::task::yield_now().await;
                    ended.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Down>(())
                });
                runtime.block_on(call).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(calls);
            scope.spawn(calls);
            while ended.load(Ordering::Relaxed) < round % 80 {
                std::hint::spin_loop();
            }
            let mut config = HedgeConfig::clone(&hedge.config());
            (config.after, config.percentile) = (Some(3 * SECOND), None);
            hedge.update(config).unwrap();
        });
        assert_eq!(hedge.snapshot().delay, Some(3 * SECOND), "round {round}");
    }
}

#[test]
fn a_setting_that_cannot_work_is_an_error_that_names_it() {
    let wrong =
        |build: fn() -> tower_bulwark::hedge::HedgeBuilder| build().build().unwrap_err().setting();
    let nothing = || {
        let mut config = HedgeConfig::default();
        config.percentile = None;
        Hedge::builder("x").config(config)
    };
    assert_eq!(wrong(nothing), "percentile");
    assert_eq!(
        wrong(|| Hedge::builder("x").after_percentile(1.0)),
        "percentile"
    );
    assert_eq!(
        wrong(|| Hedge::builder("x").after_percentile(f64::NAN)),
        "percentile"
    );
    assert_eq!(wrong(|| Hedge::builder("x").min_samples(0)), "min_samples");
    assert_eq!(wrong(|| Hedge::builder("x").max_extra(11)), "max_extra");
    assert!(
        Hedge::builder("x")
            .max_extra(10)
            .at_least(Duration::MAX)
            .build()
            .is_ok()
    );
}

#[test]
fn a_registry_gives_one_hedge_for_a_name_and_a_conflict_shows_both() {
    let registry = Registry::new();
    let ask = |ms: u32| Hedge::builder("reads").after(MS * ms).build_in(&registry);
    ask(20).unwrap();
    ask(20).unwrap();
    let conflict = ask(30).unwrap_err();
    assert!(matches!(
        &conflict,
        RegistryError::Conflict { kind: "hedge", .. }
    ));
    let text = conflict.to_string();
    assert!(text.contains("20ms") && text.contains("30ms"), "{text}");
    // Another budget is another rule.
    let other = Hedge::builder("reads").after(20 * MS).no_budget();
    assert!(other.build_in(&registry).is_err());
    assert_eq!(registry.snapshot().hedges.len(), 1);
    assert!(registry.get_hedge("reads").is_some());
    assert!(registry.remove_if_idle("reads"));
    assert!(registry.hedges().is_empty());
    assert_eq!(registry.hedge("reads").config().max_extra, 1);
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_told() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&heard);
    let hedge = Hedge::builder("reads")
        .after(20 * MS)
        .max_extra(2)
        .budget(
            &RetryBudget::builder()
                .ratio(0.0)
                .floor_per_second(0.0)
                .burst(1)
                .build()
                .unwrap(),
        )
        .observer(move |name: &str, event: &Event| {
            list.lock()
                .unwrap()
                .push(format!("{name}: {event} ({})", event.kind()));
        })
        .build()
        .unwrap();
    let script = Script::new(&[Hangs, Answers(30)]);
    hedge
        .layer()
        .layer(script.service())
        .oneshot("x")
        .await
        .unwrap();
    assert_eq!(
        *heard.lock().unwrap(),
        [
            "reads: attempt 2 started after 20.000ms (started)",
            "reads: not hedged: the budget is empty (not_started)",
            "reads: attempt 2 answered first (won)",
        ]
    );
}

#[test]
fn explain_adds_hedges_up_and_warns_of_a_retry_inside() {
    let (hedge, retry) = (after_20_ms(), RetryPolicy::new());
    let explained = Layers::new().layer(&hedge).layer(&retry).explain();
    assert_eq!(explained.worst_case_calls(), 8);
    assert!(
        explained
            .warnings()
            .iter()
            .any(|it| matches!(it, Warning::HedgeOutsideRetry { .. }))
    );
    let text = explained.to_string();
    assert!(text.contains("hedge `reads`: up to 1 more"), "{text}");
    assert!(text.contains("hedge `reads` has no budget"), "{text}");
    let layer: HedgeLayer<Infallible> = Hedge::new("reads").layer();
    assert!(
        !Layers::new()
            .layer(&layer)
            .explain()
            .to_string()
            .contains("budget")
    );
}

#[cfg(feature = "serde")]
#[test]
fn a_config_comes_back_as_it_was_and_what_it_does_not_name_is_the_default() {
    let mut config = HedgeConfig::default();
    config.after = Some(20 * MS);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<HedgeConfig>(&text).unwrap(), config);
    let some: HedgeConfig = serde_json::from_str(r#"{"percentile": 0.9}"#).unwrap();
    assert_eq!((some.percentile, some.max_extra), (Some(0.9), 1));
    assert!(serde_json::from_str::<HedgeConfig>(r#"{"percentil": 0.9}"#).is_err());
}

// ---- Any script ---------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever attempts do: the call ends when its fastest answer is there, or when the last of all has failed; and
    /// nothing runs afterwards.
    #[test]
    fn a_call_ends_with_its_fastest_answer(
        attempts in prop::collection::vec((1..100_u64, any::<bool>()), 1..5),
        delay in 1..50_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let does: Vec<_> = attempts
                .iter()
                .map(|&(ms, good)| if good { Answers(ms) } else { Fails(ms) })
                .collect();
            let script = Script::new(&does);
            let hedge = many(attempts.len() as u32 - 1, MS * delay as u32);
            let result = hedge.layer().layer(script.service()).oneshot("x").await;
            // Which attempts begin: each a delay after the one before, while some run and none has answered.
            let (mut begun, mut over) = (vec![(attempts[0].0, attempts[0].1)], None);
            for (n, &(ms, good)) in attempts.iter().enumerate().skip(1) {
                let now = n as u64 * delay;
                let answered = begun.iter().any(|it| it.1 && it.0 <= now);
                let all_failed = begun.iter().all(|it| !it.1 && it.0 <= now);
                if answered || all_failed {
                    break;
                }
                begun.push((now + ms, good));
            }
            let fastest = begun.iter().filter(|it| it.1).map(|it| it.0).min();
            over = over.or(fastest).or_else(|| begun.iter().map(|it| it.0).max());
            assert_eq!(result.is_ok(), fastest.is_some());
            assert_eq!((script.began().len(), Some(script.elapsed())), (begun.len(), over));
            let lost = begun.iter().filter(|it| Some(it.0) > over).count();
            assert!(script.dropped().len() >= lost);
        });
    }
}
