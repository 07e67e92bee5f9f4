//! What was seen of each call from both ends, and whether it adds up.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::{CircuitBreaker, Error, ResourceLock};

use crate::script::{Call, Caller, Route, digest};

/// Far more than any run needs: what is not done by then hangs.
const HANGS: Duration = Duration::from_secs(120);
const AT_ONCE: usize = 32;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// How a call ended for its caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Answer(u16),
    /// The status of a gRPC call that is not OK.
    Code(i32),
    /// A good head, and a body that broke off.
    BrokenBody,
    HeadOnly,
    WentAway,
    CircuitOpen,
    Contended,
    /// An error, after as many attempts as were allowed.
    GaveUp,
    /// An error that was not tried again.
    Failed(String),
}

impl End {
    pub(crate) fn of_error<E: Display>(error: &Error<E>) -> Self {
        match error {
            Error::CircuitOpen(_) => Self::CircuitOpen,
            Error::Contended(_) => Self::Contended,
            Error::Exhausted(_) => Self::GaveUp,
            other => Self::Failed(other.to_string()),
        }
    }

    /// Reads an answer, and compares what arrived with what was sent.
    pub(crate) async fn of_answer<B>(
        call: &Call,
        status: StatusCode,
        headers: &HeaderMap,
        body: B,
    ) -> Self
    where
        B: Body<Data = Bytes, Error: Display>,
    {
        if call.caller == Caller::HeadOnly {
            return Self::HeadOnly;
        }
        let Ok(body) = body.collect().await else {
            return Self::BrokenBody;
        };
        if status == StatusCode::OK {
            assert_eq!(
                headers["x-id"],
                call.id.to_string(),
                "another call's answer"
            );
            assert_eq!(
                headers["x-digest"],
                digest(&call.body).to_string(),
                "the request changed"
            );
            assert_eq!(body.to_bytes(), call.body, "the response changed");
        }
        Self::Answer(status.as_u16())
    }
}

#[derive(Default)]
struct Seen {
    arrivals: u32,
    worked_on: u32,
    attempts: Vec<Route>,
}

/// Of one run.
#[derive(Default)]
pub(crate) struct Ledger {
    seen: Mutex<HashMap<u64, Seen>>,
    /// Attempts that were handed to a client.
    sent: AtomicU64,
    /// Calls that a breaker has refused.
    pub(crate) refused: AtomicU64,
    /// Heads that said that there is too much to do.
    pub(crate) overloads: AtomicU64,
}

impl Ledger {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The server has received a request. Its number among those with this id.
    pub(crate) fn arrived(&self, id: u64) -> u32 {
        let mut seen = self.seen.lock().unwrap();
        let seen = seen.entry(id).or_default();
        seen.arrivals += 1;
        seen.arrivals
    }

    /// The server has begun to work on a request, as far as a client can know.
    pub(crate) fn worked_on(&self, id: u64) {
        self.seen.lock().unwrap().entry(id).or_default().worked_on += 1;
    }

    pub(crate) fn times_worked_on(&self, id: u64) -> u32 {
        self.seen
            .lock()
            .unwrap()
            .get(&id)
            .map_or(0, |seen| seen.worked_on)
    }

    /// An attempt is handed to the client: where it goes.
    pub(crate) fn send(&self, id: u64) -> Route {
        self.sent.fetch_add(1, SeqCst);
        let mut seen = self.seen.lock().unwrap();
        let attempts = &mut seen.entry(id).or_default().attempts;
        let route = Route::of(id, attempts.len() as u32 + 1);
        attempts.push(route);
        route
    }

    /// Makes `calls` calls, and checks what became of them.
    pub(crate) async fn run<F, Fut>(&self, calls: u64, make: F) -> HashMap<End, usize>
    where
        F: Fn(Call) -> Fut,
        Fut: Future<Output = End> + Send + 'static,
    {
        let each = |id| {
            let call = Call::new(id);
            let made = make(call.clone());
            async move {
                let made = tokio::spawn(async move {
                    match call.caller {
                        Caller::GoesAway => tokio::time::timeout(MS, made)
                            .await
                            .unwrap_or(End::WentAway),
                        Caller::Hasty => deadline::scope(Deadline::after(2 * MS), made).await,
                        _ => made.await,
                    }
                });
                let end = made.await.unwrap();
                if matches!(end, End::CircuitOpen | End::Code(14)) {
                    // As callers do. Else all of them were refused by one outage.
                    tokio::time::sleep(2 * MS).await;
                }
                (id, end)
            }
        };
        let all = futures::stream::iter(0..calls)
            .map(each)
            .buffer_unordered(AT_ONCE)
            .collect();
        let mut ends: Vec<(u64, End)> = tokio::time::timeout(HANGS, all)
            .await
            .expect("a call hangs");
        ends.sort_by_key(|(id, _)| *id);
        assert!(
            ends.iter().map(|(id, _)| *id).eq(0..calls),
            "calls were lost or ended twice"
        );
        self.check(&ends);
        let mut counts = HashMap::new();
        for (_, end) in ends {
            *counts.entry(end).or_default() += 1;
        }
        counts
    }

    fn check(&self, ends: &[(u64, End)]) {
        let seen = self.seen.lock().unwrap();
        let nothing = Seen::default();
        for (id, end) in ends {
            let (call, seen) = (Call::new(*id), seen.get(id).unwrap_or(&nothing));
            let what = format!("{} {id}, keyed: {}: {end:?}", call.method, call.keyed);
            let unseen = seen
                .attempts
                .iter()
                .filter(|to| **to == Route::Silence)
                .count();
            let last_is_unseen = seen.attempts.last() == Some(&Route::Silence);
            if !call.may_be_done_twice() {
                assert!(seen.worked_on <= 1, "{what}: done {} times", seen.worked_on);
                assert!(
                    unseen == usize::from(last_is_unseen),
                    "{what}: sent again after a silence"
                );
            }
            if *end == End::Answer(200) {
                assert!(seen.worked_on >= 1, "{what}: nobody has answered that");
            }
            // What may be done twice is tried again, whatever the error looks like.
            let may_fail = matches!(call.caller, Caller::Hasty | Caller::BreaksOff);
            if call.may_be_done_twice() && !call.is_too_large() && !may_fail {
                assert!(!matches!(end, End::Failed(_)), "{what}: given up too soon");
            }
        }
    }

    /// What the handles say in the end.
    pub(crate) fn balance(&self, breaker: &CircuitBreaker, lock: &ResourceLock) {
        let held = lock.snapshot();
        assert_eq!((held.in_use, held.waiting), (0, 0), "{held:?}");
        assert!(held.stats.peak_in_use <= held.capacity, "{held:?}");
        let snapshot = breaker.snapshot();
        let totals = snapshot.totals;
        let of = |count: &AtomicU64| count.load(SeqCst);
        let ended = totals.successes
            + totals.failures
            + totals.overloads
            + totals.ignored
            + totals.cancelled;
        // Whoever a breaker has let through has come to the lock below it.
        assert_eq!(ended, held.stats.attempts, "{totals:?}");
        assert!(of(&self.sent) <= held.stats.acquisitions, "{held:?}");
        assert_eq!(totals.rejected, of(&self.refused), "{totals:?}");
        assert_eq!(totals.overloads, of(&self.overloads), "{totals:?}");
        assert_eq!(snapshot.probes, 0, "a probe's place was lost");
        assert!(
            totals.failures > 50 && totals.rejected > 0,
            "nothing went wrong"
        );
    }
}
