//! One call on its way: the session, its clock, and what is reported of it. Shared by the layer, by `run` and
//! by `run_blocking`, so that all three decide alike.

mod clock;
mod judge;
mod settle;

use std::time::Duration;

use super::handle::Shared;
use super::state::Session;
use crate::call::context::{Frame, Reason};
use crate::call::deadline::Deadline;
use crate::call::outcome::Idempotency;
use crate::util::time::{self, Tick};

use clock::{Clock, UNREAD};
pub(super) use judge::Ending;
pub(super) use settle::{Again, Copy, Last, Step};

#[derive(Debug)]
pub(super) struct Run {
    session: Session,
    clock: Clock,
    /// How long one attempt may take, as it was when the call began; [`Tick::NEVER`] for as long as it takes.
    attempt_limit: Tick,
    /// All that an attempt takes it gives back when it has failed.
    is_whole_job: bool,
}

impl Run {
    /// The first attempt of a call begins.
    #[inline]
    pub(super) fn new(
        policy: &Shared,
        limit: u32,
        ends: Option<Deadline>,
        idempotency: Idempotency,
    ) -> Self {
        let ends = ends.map_or(Tick::NEVER, |deadline| deadline.0);
        let rules = policy.config.load();
        Self {
            session: Session::begun(limit, idempotency),
            clock: match rules.is_timed() || ends != Tick::NEVER {
                false => Clock::unread(ends),
                true => Clock::begun(&rules, ends),
            },
            attempt_limit: rules
                .attempt_timeout
                .map_or(Tick::NEVER, |it| Tick(0).after(it)),
            is_whole_job: false,
        }
    }

    /// The first attempt of a closure begins, and not of a request on its way through layers.
    pub(super) fn of_job(policy: &Shared) -> Self {
        let limit = policy.config.load().max_retries;
        let run = Self::new(policy, limit, None, Idempotency::Idempotent);
        Self {
            is_whole_job: true,
            ..run
        }
    }

    /// The number of the running attempt as the service may know it, from 1.
    #[inline]
    pub(super) fn attempt(&self) -> u32 {
        self.session.shown_attempt()
    }

    /// Another attempt begins.
    pub(super) fn begin_attempt(&mut self) {
        self.session.begin_attempt();
        if self.can_be_cut() {
            let now = time::now();
            self.clock.starts(|| now);
            self.clock.attempt_began = now;
        }
    }

    /// Whether another attempt may follow the one that has begun: only then is a copy of the request needed.
    pub(super) fn may_retry(&self) -> bool {
        self.session.may_retry()
    }

    /// The attempt has to wait: from here on time matters.
    pub(super) fn waits(&mut self) {
        self.clock.starts(time::now);
    }

    /// Whether anything can cut the running attempt off.
    #[inline]
    pub(super) fn can_be_cut(&self) -> bool {
        self.clock.ends() != Tick::NEVER || self.attempt_limit != Tick::NEVER
    }

    fn attempt_timeout(&self) -> Option<Duration> {
        let is_limited = self.attempt_limit != Tick::NEVER;
        is_limited.then(|| self.attempt_limit.since(Tick(0)))
    }

    /// When the running attempt is to be looked at again, or why it is to be dropped now.
    ///
    /// An attempt timeout bounds the time at the service: while the attempt waits for something of this crate it stands
    /// still. Who waits is cut by the end of all of it only, and by the waits' own bounds.
    pub(super) fn cut(&self, frame: &Frame, now: Tick) -> Result<Tick, Reason> {
        let limit = self.attempt_timeout().unwrap_or(Duration::MAX);
        let spent = frame.spent(self.clock.attempt_began, now);
        let waits = frame.is_waiting();
        if spent >= limit && !waits {
            return Err(Reason::TimedOut);
        }
        if now >= self.clock.ends() {
            return Err(match waits {
                true => Reason::Deadline,
                // The policy's own time is over: this is what it grants.
                false if self.clock.total_ends <= self.clock.caller_ends => Reason::TimedOut,
                // The caller was in a hurry. It says something only if the service had an attempt's time.
                false => {
                    let total = self.clock.total_timeout().unwrap_or(Duration::MAX);
                    match spent >= limit.min(total) {
                        true => Reason::TimedOut,
                        false => Reason::Deadline,
                    }
                }
            });
        }
        // The end of a wait polls the attempt. One that was taken elsewhere is looked for ever more rarely.
        let left = match waits {
            true => limit.max(frame.waited(now)),
            false => limit - spent,
        };
        Ok(now.after(left).min(self.clock.ends()))
    }

    /// The service is ready, and the attempt is sent: from here on it is at the service.
    pub(super) fn sends(&mut self) {
        if self.clock.attempt_began != UNREAD {
            self.clock.attempt_began = time::now();
        }
    }

    /// The deadline that the layers below shall see; `None` if this call adds none to the one around it.
    #[inline]
    pub(super) fn ambient(&self) -> Option<Deadline> {
        self.clock.deadline()
    }
}
