//! What the layer takes from a request: who asks, and until when.

use std::fmt;

use super::rules::Priority;
use crate::call::Holder;
use crate::call::deadline::Deadline;

/// What a request says of its wait.
pub trait RequestHolder<Req> {
    /// Who asks; `None`: the workflow that the task works for, or nobody in particular.
    fn holder(&self, request: &Req) -> Option<Holder>;

    /// Until when the caller can use a permit.
    fn deadline(&self, request: &Req) -> Option<Deadline>;

    /// How many permits the call takes.
    fn weight(&self, request: &Req) -> usize {
        let _ = request;
        1
    }

    /// How important the call is.
    fn priority(&self, request: &Req) -> Priority {
        let _ = request;
        Priority::Normal
    }
}

/// Takes the [workflow](crate::workflow) of the task as the holder: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct AmbientHolder;

impl<Req> RequestHolder<Req> for AmbientHolder {
    fn holder(&self, _: &Req) -> Option<Holder> {
        None
    }

    fn deadline(&self, _: &Req) -> Option<Deadline> {
        None
    }
}

/// Takes the holder from the request. See `holder` on the layer.
#[derive(Clone, Copy)]
pub struct HolderWith<F, H> {
    pub(crate) holder: F,
    pub(crate) rest: H,
}

impl<Req, F, T, H> RequestHolder<Req> for HolderWith<F, H>
where
    F: Fn(&Req) -> T,
    T: Into<Holder>,
    H: RequestHolder<Req>,
{
    fn holder(&self, request: &Req) -> Option<Holder> {
        Some((self.holder)(request).into())
    }

    fn deadline(&self, request: &Req) -> Option<Deadline> {
        self.rest.deadline(request)
    }

    fn weight(&self, request: &Req) -> usize {
        self.rest.weight(request)
    }

    fn priority(&self, request: &Req) -> Priority {
        self.rest.priority(request)
    }
}

/// Takes the deadline from the request. See `deadline_from` on the layer.
#[derive(Clone, Copy)]
pub struct WaitsUntil<F, H> {
    pub(crate) deadline: F,
    pub(crate) rest: H,
}

impl<Req, F, H> RequestHolder<Req> for WaitsUntil<F, H>
where
    F: Fn(&Req) -> Option<Deadline>,
    H: RequestHolder<Req>,
{
    fn holder(&self, request: &Req) -> Option<Holder> {
        self.rest.holder(request)
    }

    fn deadline(&self, request: &Req) -> Option<Deadline> {
        (self.deadline)(request)
    }

    fn weight(&self, request: &Req) -> usize {
        self.rest.weight(request)
    }

    fn priority(&self, request: &Req) -> Priority {
        self.rest.priority(request)
    }
}

/// Takes from the request how many permits its call needs. See `weight` on the layer.
#[derive(Clone, Copy)]
pub struct WeighedBy<F, H> {
    pub(super) weight: F,
    pub(super) rest: H,
}

impl<Req, F, H> RequestHolder<Req> for WeighedBy<F, H>
where
    F: Fn(&Req) -> usize,
    H: RequestHolder<Req>,
{
    fn holder(&self, request: &Req) -> Option<Holder> {
        self.rest.holder(request)
    }

    fn deadline(&self, request: &Req) -> Option<Deadline> {
        self.rest.deadline(request)
    }

    fn weight(&self, request: &Req) -> usize {
        (self.weight)(request).max(1)
    }

    fn priority(&self, request: &Req) -> Priority {
        self.rest.priority(request)
    }
}

/// Takes from the request how important its call is. See `priority` on the layer.
#[derive(Clone, Copy)]
pub struct RankedBy<F, H> {
    pub(super) priority: F,
    pub(super) rest: H,
}

impl<Req, F, H> RequestHolder<Req> for RankedBy<F, H>
where
    F: Fn(&Req) -> Priority,
    H: RequestHolder<Req>,
{
    fn holder(&self, request: &Req) -> Option<Holder> {
        self.rest.holder(request)
    }

    fn deadline(&self, request: &Req) -> Option<Deadline> {
        self.rest.deadline(request)
    }

    fn weight(&self, request: &Req) -> usize {
        self.rest.weight(request)
    }

    fn priority(&self, request: &Req) -> Priority {
        (self.priority)(request)
    }
}

impl<F, H> fmt::Debug for RankedBy<F, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RankedBy")
    }
}

impl<F, H> fmt::Debug for WeighedBy<F, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeighedBy")
    }
}

impl<F, H> fmt::Debug for HolderWith<F, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HolderWith")
    }
}

impl<F, H> fmt::Debug for WaitsUntil<F, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitsUntil")
    }
}
