//! What the layer asks of a request, and learns from a result.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use super::cost::Cost;
use crate::call::outcome::{Classify, Outcome};

/// What a request costs.
pub trait RequestCost<Req> {
    /// What it takes of each quota.
    fn cost(&self, request: &Req) -> Cost;
}

/// Each request costs one of each quota.
#[derive(Clone, Copy, Debug, Default)]
pub struct OneEach;

impl<Req> RequestCost<Req> for OneEach {
    fn cost(&self, _: &Req) -> Cost {
        Cost::ONE
    }
}

/// What a closure says.
#[derive(Clone, Copy)]
pub struct CostBy<F>(pub(crate) F);

impl<Req, T: Into<Cost>, F: Fn(&Req) -> T> RequestCost<Req> for CostBy<F> {
    fn cost(&self, request: &Req) -> Cost {
        (self.0)(request).into()
    }
}

/// What a limit learns from the result of a call.
pub trait Learn<Res, L> {
    /// Looks at the result of a call that was made.
    fn learn(&self, call: &mut MadeCall<'_>, result: Result<&Res, &L>);

    /// Leaves something with the response, after [`learn`](Self::learn). Default: nothing.
    fn mark(&self, call: &MadeCall<'_>, response: &mut Res) {
        let _ = (call, response);
    }
}

/// What a call has taken: from a limit of this process, or from one that a fleet shares.
#[doc(hidden)]
#[expect(
    unnameable_types,
    reason = "only passes between the limits and the layer of this crate"
)]
pub trait Taken: Send {
    fn cost(&self) -> Cost;

    /// Says what was used in truth. Said once at most.
    fn settle(&self, used: Cost);

    fn pause(&self, pause: Duration);

    fn left(&self, quota: &str, units: u64);

    /// The same, to be settled in place of this.
    fn boxed(&self) -> Box<dyn Taken>;
}

/// A call that was made, as a limit learns from it.
pub struct MadeCall<'a> {
    taken: &'a dyn Taken,
    is_settled: bool,
}

impl<'a> MadeCall<'a> {
    pub(super) fn new(taken: &'a dyn Taken) -> Self {
        Self {
            taken,
            is_settled: false,
        }
    }

    /// What it has taken.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.taken.cost()
    }

    /// It has used this: see [`Reservation::settle`](super::Reservation::settle). Said twice, the first counts.
    pub fn settle(&mut self, used: impl Into<Cost>) {
        if !self.is_settled {
            self.is_settled = true;
            self.taken.settle(used.into());
        }
    }

    /// What it has taken, to be settled later; `None` if it has been.
    #[must_use]
    pub fn reservation(&self) -> Option<CallReservation> {
        (!self.is_settled).then(|| CallReservation(self.taken.boxed()))
    }

    /// Nobody passes for so long: see [`RateLimit::pause`](super::RateLimit::pause).
    pub fn pause(&self, pause: Duration) {
        self.taken.pause(pause);
    }

    /// The service says how much is left of the quota of that name: see [`RateLimit::left`](super::RateLimit::left).
    pub fn left(&self, quota: &str, units: u64) {
        self.taken.left(quota, units);
    }
}

impl fmt::Debug for MadeCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MadeCall")
            .field("cost", &self.cost())
            .field("is_settled", &self.is_settled)
            .finish_non_exhaustive()
    }
}

/// What a call has taken, of whatever limit; made by [`MadeCall::reservation`]. Dropped, it stays taken.
pub struct CallReservation(Box<dyn Taken>);

impl CallReservation {
    /// What was taken.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.0.cost()
    }

    /// Says what was used in truth: see [`Reservation::settle`](super::Reservation::settle).
    pub fn settle(self, used: impl Into<Cost>) {
        self.0.settle(used.into());
    }
}

impl fmt::Debug for CallReservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallReservation")
            .field("cost", &self.cost())
            .finish_non_exhaustive()
    }
}

/// Nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct LearnNothing;

impl<Res, L> Learn<Res, L> for LearnNothing {
    fn learn(&self, _: &mut MadeCall<'_>, _: Result<&Res, &L>) {}
}

/// What a response says that it has used.
#[derive(Clone, Copy)]
pub struct SettleBy<F, R> {
    pub(crate) used: F,
    pub(crate) rest: R,
}

impl<Res, L, T, F, R> Learn<Res, L> for SettleBy<F, R>
where
    T: Into<Cost>,
    F: Fn(&Res) -> Option<T>,
    R: Learn<Res, L>,
{
    fn learn(&self, call: &mut MadeCall<'_>, result: Result<&Res, &L>) {
        self.rest.learn(call, result);
        if let Ok(response) = result
            && let Some(used) = (self.used)(response)
        {
            call.settle(used);
        }
    }

    fn mark(&self, call: &MadeCall<'_>, response: &mut Res) {
        self.rest.mark(call, response);
    }
}

/// A pause for everybody, if a result says that there is too much to do, and when to come back.
#[derive(Clone, Copy, Debug)]
pub struct PauseBy<C, R> {
    pub(crate) classify: C,
    pub(crate) rest: R,
}

impl<Res, L, C, R> Learn<Res, L> for PauseBy<C, R>
where
    L: StdError + 'static,
    C: Classify<Res, L>,
    R: Learn<Res, L>,
{
    fn learn(&self, call: &mut MadeCall<'_>, result: Result<&Res, &L>) {
        self.rest.learn(call, result);
        let verdict = self.classify.classify(result);
        match (verdict.outcome(), verdict.retry_delay()) {
            (Outcome::Overload, Some(delay)) => call.pause(delay),
            // A refusal below, as a response: nothing was sent.
            (Outcome::Ignored, _) if result.is_ok() => call.settle(0),
            _ => {}
        }
    }

    fn mark(&self, call: &MadeCall<'_>, response: &mut Res) {
        self.rest.mark(call, response);
    }
}

/// A pause for everybody, if a closure says so.
#[derive(Clone, Copy)]
pub struct PauseWith<F, R> {
    pub(crate) pause: F,
    pub(crate) rest: R,
}

impl<Res, L, F, R> Learn<Res, L> for PauseWith<F, R>
where
    F: Fn(Result<&Res, &L>) -> Option<Duration>,
    R: Learn<Res, L>,
{
    fn learn(&self, call: &mut MadeCall<'_>, result: Result<&Res, &L>) {
        self.rest.learn(call, result);
        if let Some(pause) = (self.pause)(result) {
            call.pause(pause);
        }
    }

    fn mark(&self, call: &MadeCall<'_>, response: &mut Res) {
        self.rest.mark(call, response);
    }
}

/// What a response says is left: `("requests", 12)`.
#[derive(Clone, Copy)]
pub struct LeftBy<F, R> {
    pub(crate) left: F,
    pub(crate) rest: R,
}

impl<Res, L, I, N, F, R> Learn<Res, L> for LeftBy<F, R>
where
    N: AsRef<str>,
    I: IntoIterator<Item = (N, u64)>,
    F: Fn(&Res) -> I,
    R: Learn<Res, L>,
{
    fn learn(&self, call: &mut MadeCall<'_>, result: Result<&Res, &L>) {
        self.rest.learn(call, result);
        if let Ok(response) = result {
            for (quota, units) in (self.left)(response) {
                call.left(quota.as_ref(), units);
            }
        }
    }

    fn mark(&self, call: &MadeCall<'_>, response: &mut Res) {
        self.rest.mark(call, response);
    }
}

macro_rules! debug {
    ($($name:ident<$($p:ident),+>)+) => {$(
        impl<$($p),+> fmt::Debug for $name<$($p),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )+};
}

debug!(CostBy<F> SettleBy<F, R> LeftBy<F, R> PauseWith<F, R>);
