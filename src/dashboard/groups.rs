//! Instances by key: the worst of each group. A group may have a million keys, so it is looked through by a thread for
//! blocking work, seldom, and by one at a time.

use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::view::{self, MOST_ROWS};
use crate::circuit_breaker::CircuitBreakerSnapshot;
use crate::contention::ResourceSnapshot;
use crate::keyed::{Instance, Keyed};
use crate::rate_limit::RateLimitSnapshot;
use crate::util::time::{self, Tick};

/// A snapshot that the page has a row for.
pub trait Shown: private::Sealed {
    #[doc(hidden)]
    const PATTERN: &'static str;
    #[doc(hidden)]
    fn row(&self) -> Value;
}

mod private {
    #[expect(unnameable_types, reason = "nobody else has such snapshots")]
    pub trait Sealed {}

    impl Sealed for super::CircuitBreakerSnapshot {}
    impl Sealed for super::ResourceSnapshot {}
    impl Sealed for super::RateLimitSnapshot {}
}

impl Shown for CircuitBreakerSnapshot {
    const PATTERN: &'static str = "circuit_breaker";

    fn row(&self) -> Value {
        view::breaker_row(self, None).1
    }
}

impl Shown for ResourceSnapshot {
    const PATTERN: &'static str = "resource_lock";

    fn row(&self) -> Value {
        view::lock_row(self, None).1
    }
}

impl Shown for RateLimitSnapshot {
    const PATTERN: &'static str = "rate_limit";

    fn row(&self) -> Value {
        view::limit_row(self, None).1
    }
}

/// The worst of a group: how many keys there are, and a row for each that is shown.
type Look = Box<dyn Fn() -> Value + Send + Sync>;

/// All groups of a page.
#[derive(Default)]
pub(super) struct Groups {
    looks: Vec<Look>,
    seen: Mutex<Seen>,
    /// Somebody looks right now.
    looking: AtomicBool,
}

#[derive(Default)]
struct Seen {
    rows: Vec<Value>,
    /// When they are to be looked at again.
    next: Option<Tick>,
}

/// Of the time, so much at most goes into looking: a look that takes a second is followed by nineteen seconds without.
const REST: u32 = 19;
const SHORTEST_REST: Duration = Duration::from_secs(2);

impl Groups {
    pub(super) fn add<K, T>(&mut self, name: String, keyed: Keyed<K, T>)
    where
        K: Hash + Eq + Clone + fmt::Display + Send + Sync + 'static,
        T: Instance + Send + Sync + 'static,
        T::Snapshot: Shown,
    {
        self.looks.push(Box::new(move || {
            let rows = keyed.snapshot(MOST_ROWS);
            let rows: Vec<_> = rows
                .iter()
                .map(|(key, snapshot)| json!({ "key": key.to_string(), "row": snapshot.row() }))
                .collect();
            json!({
                "name": name,
                "pattern": T::Snapshot::PATTERN,
                "keys": keyed.len(),
                "rows": rows,
            })
        }));
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was seen last. If that is long ago somebody looks again, and the next who asks sees more.
    pub(super) fn rows(self: &Arc<Self>, now: Tick) -> Vec<Value> {
        let seen = self.seen();
        let rows = seen.rows.clone();
        let is_due = seen.next.is_none_or(|next| now >= next);
        drop(seen);
        let is_mine =
            is_due && !self.looks.is_empty() && !self.looking.swap(true, Ordering::AcqRel);
        if is_mine {
            let groups = Arc::clone(self);
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || groups.look())),
                Err(_) => self.look(),
            }
        }
        rows
    }

    fn look(&self) {
        // Also if a key's own code panics.
        let _done = Done(&self.looking);
        let began = time::now();
        let rows = self.looks.iter().map(|look| look()).collect();
        let ended = time::now();
        let rest = ended.since(began).saturating_mul(REST).max(SHORTEST_REST);
        let mut seen = self.seen();
        seen.rows = rows;
        seen.next = Some(ended.after(rest));
    }
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
