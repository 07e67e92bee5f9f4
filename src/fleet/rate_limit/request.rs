//! A call that asks a shared limit, and what it gives back when it goes away.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout_at;

use super::promised::Promise;
use super::reservation::FleetReservation;
use super::shared::{Shared, add};
use crate::call::deadline;
use crate::error::RateLimitReason;
use crate::event::{Event, RateLimitEvent};
use crate::rate_limit::Cost;
use crate::util::time::{self, Tick};

/// A call that asks.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) cost: Cost,
    pub(super) may_wait: bool,
    pub(super) since: Tick,
    pub(super) gives_up: Tick,
    /// The caller's own.
    pub(super) deadline: Option<Tick>,
}

impl Request {
    pub(super) fn new(shared: &Shared, cost: Cost, may_wait: bool) -> Self {
        let since = time::now();
        let deadline = deadline::current().map(|it| it.0);
        let longest = if may_wait {
            shared.max_wait
        } else {
            Duration::ZERO
        };
        let by_config = since.after(longest);
        Self {
            cost,
            may_wait: may_wait && !longest.is_zero(),
            since,
            gives_up: deadline.map_or(by_config, |it| it.min(by_config)),
            deadline,
        }
    }

    /// What the future gives, unless the caller's deadline is before.
    pub(super) async fn within_deadline<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        match self.deadline {
            Some(deadline) => timeout_at(deadline.to_instant(), future).await.ok(),
            None => Some(future.await),
        }
    }

    fn is_by_deadline(&self) -> bool {
        self.may_wait && self.deadline == Some(self.gives_up)
    }

    /// Why it is refused if its turn is too far away.
    pub(super) fn too_late(&self) -> RateLimitReason {
        match (self.may_wait, self.is_by_deadline()) {
            (false, _) => RateLimitReason::Exhausted,
            (true, true) => RateLimitReason::DeadlineExceeded,
            (true, false) => RateLimitReason::TooLong,
        }
    }
}

/// A call for which nothing is decided yet. Dropped, it has gone away: it is counted once, wherever it was.
pub(super) struct Undecided {
    shared: Arc<Shared>,
    request: Request,
    is_decided: bool,
}

impl Undecided {
    pub(super) fn new(shared: &Arc<Shared>, request: &Request) -> Self {
        Self {
            shared: Arc::clone(shared),
            request: *request,
            is_decided: false,
        }
    }

    pub(super) fn ends(mut self) {
        self.is_decided = true;
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        if !self.is_decided {
            self.shared.went_away(&self.request);
        }
    }
}

/// A turn that the store has given, and that has not come yet.
pub(super) struct Turn(Option<Given>);

struct Given {
    shared: Arc<Shared>,
    request: Request,
    promise: Promise,
}

impl Turn {
    pub(super) fn new(shared: &Arc<Shared>, request: &Request) -> Self {
        Self(Some(Given {
            shared: Arc::clone(shared),
            request: *request,
            promise: shared.promised.add(request.cost.each()),
        }))
    }

    pub(super) fn came(mut self) -> FleetReservation {
        match self.0.take() {
            Some(it) => {
                it.shared.promised.end(&it.promise);
                it.shared.went_on(&it.request)
            }
            None => unreachable!("a turn comes once"),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(it) = self.0.take() {
            if it.shared.promised.end(&it.promise) {
                it.shared.local.forgive(it.request.cost);
            }
            FleetReservation::new(it.shared, it.request.cost).cancel();
        }
    }
}

/// A place in the line of this process.
pub(super) struct InLine<'a> {
    shared: &'a Shared,
    /// There was too little for it, and it waits for more.
    pub(super) is_short: bool,
}

impl<'a> InLine<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        shared.in_line.fetch_add(1, Ordering::Relaxed);
        Self {
            shared,
            is_short: false,
        }
    }

    pub(super) fn is_short(&mut self) {
        if !std::mem::replace(&mut self.is_short, true) {
            self.shared.short.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.shared.in_line.fetch_sub(1, Ordering::Relaxed);
        if self.is_short {
            self.shared.short.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    pub(super) fn passed(self: &Arc<Self>, cost: Cost) -> FleetReservation {
        self.counts.passed.add_one();
        FleetReservation::new(Arc::clone(self), cost)
    }

    pub(super) fn went_on(self: &Arc<Self>, request: &Request) -> FleetReservation {
        let waited = time::now().since(request.since);
        add(&self.counts.waited);
        if self.funnel.hears_details() {
            let waited = RateLimitEvent::Waited { waited };
            self.funnel.publish(&Event::RateLimit(waited));
        }
        FleetReservation::new(Arc::clone(self), request.cost)
    }

    fn went_away(&self, request: &Request) {
        add(&self.counts.abandoned);
        if self.funnel.hears_details() {
            let waited = time::now().since(request.since);
            let away = RateLimitEvent::Abandoned { waited };
            self.funnel.publish(&Event::RateLimit(away));
        }
    }
}
