//! Whether a call may be made, and the refusal if not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::admitted::{Admitted, Kind};
use super::super::fast::Route;
use super::super::state::{Admission, Effects, Ticket};
use super::Shared;
use crate::call::context::Frame;
use crate::error::{Cause, CircuitOpen, OpenReason, Refusal, Trip};
use crate::event::{CircuitBreakerEvent, Event, guarded};
use crate::util::time::{self, Tick};

impl Shared {
    /// Admits a call of a closed circuit that is not timed, by its epoch: a reading of a shared word.
    #[inline]
    pub(in crate::circuit_breaker) fn acquire_plain(&self) -> Option<u32> {
        let word = self.fast.read();
        word.admits_plainly().then(|| word.epoch())
    }

    /// Whether a call would be refused that asked for admission now. Takes nothing and changes nothing.
    #[inline]
    pub(in crate::circuit_breaker) fn peek(&self) -> Option<Refusal> {
        match self.fast.read().route() {
            Route::Closed | Route::Wary | Route::Disabled | Route::Watch => None,
            Route::Open | Route::ForcedOpen | Route::AskCore => self.peek_core(),
        }
    }

    #[cold]
    fn peek_core(&self) -> Option<Refusal> {
        let now = time::now();
        match self.fast.read().route() {
            Route::Open => self.refuse_open(now).err(),
            _ => self.core().peek(&self.config.load(), now),
        }
    }

    pub(in crate::circuit_breaker) fn acquire(&self) -> Result<Admitted, Refusal> {
        let word = self.fast.read();
        match word.route() {
            Route::Closed | Route::Wary if !word.is_timed() => Ok(Admitted::plain(word.epoch())),
            Route::Closed | Route::Wary => self.admit_timed(word.epoch()),
            Route::Open => {
                let now = time::now();
                self.refuse_open(now)?;
                self.ask_core(now)
            }
            Route::ForcedOpen => Err(Refusal {
                at: time::now(),
                until: Tick::NEVER,
                reason: OpenReason::ForcedOpen,
            }),
            Route::Disabled => {
                let ticket = Ticket {
                    epoch: word.epoch(),
                    lease: 0,
                };
                Ok(Admitted::new(ticket, Kind::Uncounted))
            }
            Route::AskCore | Route::Watch => self.ask_core(time::now()),
        }
    }

    fn admit_timed(&self, epoch: u32) -> Result<Admitted, Refusal> {
        let now = time::now();
        let mut admitted = Admitted::plain(epoch);
        admitted.start(now);
        if let Some(in_flight) = &*self.in_flight.load() {
            if in_flight.is_due(now) {
                return self.ask_core(now);
            }
            match in_flight.enter(epoch, now) {
                Some(entry) => admitted.enter(Some(entry)),
                None => return self.ask_core(now),
            }
        }
        Ok(admitted)
    }

    /// While the circuit is plainly open.
    fn refuse_open(&self, now: Tick) -> Result<(), Refusal> {
        let until = Tick(self.open_until.load(Ordering::Acquire));
        if now >= until {
            return Ok(());
        }
        Err(Refusal {
            at: now,
            until,
            reason: OpenReason::Open,
        })
    }

    #[cold]
    fn ask_core(&self, now: Tick) -> Result<Admitted, Refusal> {
        let unit = self.unit();
        let admission = self.with_core(now, |state, config| state.admit(config, now, unit));
        let (ticket, kind) = match admission {
            Admission::Refuse(reason, retry_after) => {
                return Err(Refusal {
                    at: now,
                    until: retry_after.map_or(Tick::NEVER, |delay| now.after(delay)),
                    reason,
                });
            }
            Admission::Go(ticket) => (ticket, Kind::Counted),
            Admission::GoAnyway(ticket) => (ticket, Kind::Anyway),
            Admission::GoUncounted(ticket) => (ticket, Kind::Uncounted),
        };
        let mut admitted = Admitted::new(ticket, kind);
        if kind != Kind::Uncounted && self.config.load().times_calls() {
            admitted.start(now);
            self.enter_in_flight(&mut admitted, now);
        }
        Ok(admitted)
    }

    /// From `began` on it is a call that may become overdue. A probe has its lease instead, and what metrics-only mode
    /// let through decides nothing.
    fn enter_in_flight(&self, admitted: &mut Admitted, began: Tick) {
        if admitted.kind() == Kind::Counted
            && let Some(in_flight) = &*self.in_flight.load()
        {
            let entry = in_flight.enter(admitted.epoch(), began);
            admitted.enter(entry);
        }
    }

    /// The call begins to wait for something of this crate, or goes on at the service.
    #[cold]
    pub(in crate::circuit_breaker) fn waits(&self, admitted: &mut Admitted, frame: &Frame) {
        let (waits, now) = (frame.is_waiting(), time::now());
        if admitted.is_probe() {
            let config = self.config.load();
            self.core().pause(&config, admitted.ticket(), waits, now);
        }
        let Some(started) = admitted.started() else {
            return;
        };
        match (waits, admitted.entry()) {
            (true, Some(entry)) => {
                // One that is overdue already stays that.
                let in_flight = self.in_flight.load();
                if in_flight.as_ref().is_some_and(|it| it.exit(entry)) {
                    admitted.leave();
                }
            }
            (false, None) => {
                if self
                    .in_flight
                    .load()
                    .as_ref()
                    .is_some_and(|it| it.is_due(now))
                {
                    self.with_core(now, |_, _| ((), Effects::default()));
                }
                let began = Tick(now.0.saturating_sub(time::nanos(frame.spent(started, now))));
                self.enter_in_flight(admitted, began);
            }
            (true, None) | (false, Some(_)) => {}
        }
    }

    /// Counts a refusal, and reports it.
    pub(in crate::circuit_breaker) fn rejected(&self, refusal: Refusal) -> CircuitOpen {
        if self.rejected.add_one() {
            // What is announced is announced under this lock.
            let _state = self.core();
            self.trip.grow();
        }
        let open = CircuitOpen::new(self.trip(), refusal);
        let event = || {
            Event::CircuitBreaker(CircuitBreakerEvent::Rejected {
                reason: open.reason(),
                retry_after: open.retry_after(),
            })
        };
        self.funnel
            .refused(refusal.at, || self.rejected.sum(), event);
        for callback in self.hooks.iter().flat_map(|it| &it.on_rejected) {
            guarded(self.funnel.name(), || callback(&open));
        }
        open
    }

    /// What the circuit opened for last. There is something: who refuses has announced it first.
    fn trip(&self) -> Arc<Trip> {
        self.trip.take().unwrap_or_else(|| {
            Arc::new(Trip {
                name: Arc::clone(self.name()),
                opened: time::now(),
                cause: Cause::Operator,
                failures: 0,
                last_failure: None,
            })
        })
    }
}
