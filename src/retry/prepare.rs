//! What a retry needs to know of a request: how to copy it, how often to try, until when.

use std::fmt;

use crate::call::deadline::Deadline;
use crate::call::outcome::Idempotency;

/// How a request is copied for another attempt.
pub trait CopyRequest<Req> {
    /// A copy, or `None` if this request can be sent only once.
    fn copy(&self, request: &Req) -> Option<Req>;

    /// Whether a copy that was made before an attempt is still good, now that the attempt has ended in a way
    /// that asks for another one. A streaming body may have turned out too long to be kept. Default: yes.
    fn claim(&self, _copy: &Req) -> bool {
        true
    }

    /// Whether a copy can be sent while the attempts before it are still running, as a hedge is. A streaming body that
    /// has not been read to its end has one reader at a time. Default: yes.
    fn claim_beside(&self, _copy: &Req) -> Beside {
        Beside::Yes
    }
}

/// Whether a copy of a request can be sent while an attempt is still running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// It can.
    Yes,
    /// Not before the attempt that runs has sent all of the request.
    NotYet,
    /// What it needs is gone.
    Never,
}

/// What a request says of its own retries. Without an answer: what the policy says, and what holds for
/// requests of which nothing is known.
pub trait RequestConfig<Req> {
    /// How many attempts may follow the first; `None`: as the policy says.
    fn max_retries(&self, _request: &Req) -> Option<u32> {
        None
    }

    /// Until when the caller can use an answer.
    fn deadline(&self, _request: &Req) -> Option<Deadline> {
        None
    }

    /// Whether it may be done twice. Default: yes, as whoever asks for a retry has said.
    fn idempotency(&self, _request: &Req) -> Idempotency {
        Idempotency::Idempotent
    }

    /// Called before each attempt, with its number from 1, and the request that is about to be sent. The
    /// copies for later attempts were made before it. Attempts that were certainly not done are not counted.
    /// The ambient [deadline](crate::deadline) is that of the attempt.
    fn before_attempt(&self, _request: &mut Req, _attempt: u32) {}
}

/// Copies requests with `Clone`, and asks nothing else of them: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyByClone;

impl<Req: Clone> CopyRequest<Req> for CopyByClone {
    fn copy(&self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

impl<Req> RequestConfig<Req> for CopyByClone {}

/// Copies requests with a function. See `copy_request` on the layer.
#[derive(Clone, Copy)]
pub struct CopyWith<F, R> {
    pub(crate) copy: F,
    pub(crate) rest: R,
}

impl<Req, F: Fn(&Req) -> Option<Req>, R> CopyRequest<Req> for CopyWith<F, R> {
    fn copy(&self, request: &Req) -> Option<Req> {
        (self.copy)(request)
    }
}

impl<Req, F, R: RequestConfig<Req>> RequestConfig<Req> for CopyWith<F, R> {
    fn max_retries(&self, request: &Req) -> Option<u32> {
        self.rest.max_retries(request)
    }

    fn deadline(&self, request: &Req) -> Option<Deadline> {
        self.rest.deadline(request)
    }

    fn idempotency(&self, request: &Req) -> Idempotency {
        self.rest.idempotency(request)
    }

    fn before_attempt(&self, request: &mut Req, attempt: u32) {
        self.rest.before_attempt(request, attempt);
    }
}

/// Takes the number of retries from the request. See `max_retries_fn` on the layer.
#[derive(Clone, Copy)]
pub struct MaxRetriesWith<F, R> {
    pub(crate) max_retries: F,
    pub(crate) rest: R,
}

impl<Req, F, R: CopyRequest<Req>> CopyRequest<Req> for MaxRetriesWith<F, R> {
    fn copy(&self, request: &Req) -> Option<Req> {
        self.rest.copy(request)
    }

    fn claim(&self, copy: &Req) -> bool {
        self.rest.claim(copy)
    }

    fn claim_beside(&self, copy: &Req) -> Beside {
        self.rest.claim_beside(copy)
    }
}

impl<Req, F: Fn(&Req) -> u32, R: RequestConfig<Req>> RequestConfig<Req> for MaxRetriesWith<F, R> {
    fn max_retries(&self, request: &Req) -> Option<u32> {
        Some((self.max_retries)(request))
    }

    fn deadline(&self, request: &Req) -> Option<Deadline> {
        self.rest.deadline(request)
    }

    fn idempotency(&self, request: &Req) -> Idempotency {
        self.rest.idempotency(request)
    }

    fn before_attempt(&self, request: &mut Req, attempt: u32) {
        self.rest.before_attempt(request, attempt);
    }
}

/// Takes the deadline from the request. See `deadline_from` on the layer.
#[derive(Clone, Copy)]
pub struct DeadlineWith<F, R> {
    pub(crate) deadline: F,
    pub(crate) rest: R,
}

impl<Req, F, R: CopyRequest<Req>> CopyRequest<Req> for DeadlineWith<F, R> {
    fn copy(&self, request: &Req) -> Option<Req> {
        self.rest.copy(request)
    }

    fn claim(&self, copy: &Req) -> bool {
        self.rest.claim(copy)
    }

    fn claim_beside(&self, copy: &Req) -> Beside {
        self.rest.claim_beside(copy)
    }
}

impl<Req, F, R> RequestConfig<Req> for DeadlineWith<F, R>
where
    F: Fn(&Req) -> Option<Deadline>,
    R: RequestConfig<Req>,
{
    fn max_retries(&self, request: &Req) -> Option<u32> {
        self.rest.max_retries(request)
    }

    fn deadline(&self, request: &Req) -> Option<Deadline> {
        (self.deadline)(request)
    }

    fn idempotency(&self, request: &Req) -> Idempotency {
        self.rest.idempotency(request)
    }

    fn before_attempt(&self, request: &mut Req, attempt: u32) {
        self.rest.before_attempt(request, attempt);
    }
}

/// Takes from the request whether it may be done twice. See `idempotency_from` on the layer.
#[derive(Clone, Copy)]
pub struct IdempotencyWith<F, R> {
    pub(crate) idempotency: F,
    pub(crate) rest: R,
}

impl<Req, F, R: CopyRequest<Req>> CopyRequest<Req> for IdempotencyWith<F, R> {
    fn copy(&self, request: &Req) -> Option<Req> {
        self.rest.copy(request)
    }

    fn claim(&self, copy: &Req) -> bool {
        self.rest.claim(copy)
    }

    fn claim_beside(&self, copy: &Req) -> Beside {
        self.rest.claim_beside(copy)
    }
}

impl<Req, F, R> RequestConfig<Req> for IdempotencyWith<F, R>
where
    F: Fn(&Req) -> Idempotency,
    R: RequestConfig<Req>,
{
    fn max_retries(&self, request: &Req) -> Option<u32> {
        self.rest.max_retries(request)
    }

    fn deadline(&self, request: &Req) -> Option<Deadline> {
        self.rest.deadline(request)
    }

    fn idempotency(&self, request: &Req) -> Idempotency {
        (self.idempotency)(request)
    }

    fn before_attempt(&self, request: &mut Req, attempt: u32) {
        self.rest.before_attempt(request, attempt);
    }
}

/// Changes a request before each attempt. See `before_attempt` on the layer.
#[derive(Clone, Copy)]
pub struct BeforeAttempt<F, R> {
    pub(crate) change: F,
    pub(crate) rest: R,
}

impl<Req, F, R: CopyRequest<Req>> CopyRequest<Req> for BeforeAttempt<F, R> {
    fn copy(&self, request: &Req) -> Option<Req> {
        self.rest.copy(request)
    }

    fn claim(&self, copy: &Req) -> bool {
        self.rest.claim(copy)
    }

    fn claim_beside(&self, copy: &Req) -> Beside {
        self.rest.claim_beside(copy)
    }
}

impl<Req, F: Fn(&mut Req, u32), R: RequestConfig<Req>> RequestConfig<Req> for BeforeAttempt<F, R> {
    fn max_retries(&self, request: &Req) -> Option<u32> {
        self.rest.max_retries(request)
    }

    fn deadline(&self, request: &Req) -> Option<Deadline> {
        self.rest.deadline(request)
    }

    fn idempotency(&self, request: &Req) -> Idempotency {
        self.rest.idempotency(request)
    }

    fn before_attempt(&self, request: &mut Req, attempt: u32) {
        self.rest.before_attempt(request, attempt);
        (self.change)(request, attempt);
    }
}

macro_rules! debug_as_name {
    ($($name:ident),*) => {$(
        impl<F, R> fmt::Debug for $name<F, R> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

debug_as_name!(
    CopyWith,
    MaxRetriesWith,
    DeadlineWith,
    IdempotencyWith,
    BeforeAttempt
);
