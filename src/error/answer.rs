//! How a layer answers: with an error of its own, or with a response made from the refusal.

use std::error::Error as StdError;
use std::fmt;

use crate::call::outcome::{Classify, Outcome, Verdict, message_of_chain};
use crate::error::{AsLeaf, Error, Found, IntoError, Rejection, View};

/// How a layer answers when it refuses a call. Sealed; see [`AsError`] and [`RejectWith`].
pub trait Answer<Res, E, L>: sealed::Sealed {
    /// The error of the layered service.
    type Error;

    /// The service's error, as an error of the layered service.
    #[doc(hidden)]
    fn error(&self, error: E) -> Self::Error;

    /// The answer to a call that is refused.
    #[doc(hidden)]
    fn refuse(&self, rejection: Rejection) -> Result<Res, Self::Error>;

    /// Whether a layer below has refused the call, so that the service was not called.
    #[doc(hidden)]
    fn was_refused(&self, result: &Result<Res, Self::Error>) -> bool;

    /// Judges a result of the layered service, once.
    #[doc(hidden)]
    fn judge<C: Classify<Res, L>>(
        &self,
        result: &Result<Res, Self::Error>,
        classify: &C,
    ) -> Judgement;
}

/// An outcome, with the message of the failure if it is one.
#[doc(hidden)]
#[derive(Clone, Debug)]
#[expect(
    unnameable_types,
    reason = "only passes between the layers of this crate"
)]
pub struct Judgement {
    pub(crate) outcome: Outcome,
    pub(crate) message: Option<String>,
    /// When the service asked to be called again.
    pub(crate) retry_after: Option<std::time::Duration>,
}

impl Judgement {
    #[inline]
    pub(crate) fn new(verdict: &Verdict, error: Option<&dyn StdError>) -> Self {
        let is_bad = verdict.is_failure() || verdict.is_overload();
        Self {
            outcome: verdict.outcome(),
            message: is_bad.then(|| Self::message(verdict, error)),
            retry_after: if is_bad { verdict.retry_delay() } else { None },
        }
    }

    pub(crate) const fn plain(outcome: Outcome) -> Self {
        Self {
            outcome,
            message: None,
            retry_after: None,
        }
    }

    pub(crate) const fn failure(message: String) -> Self {
        Self {
            outcome: Outcome::Failure,
            message: Some(message),
            retry_after: None,
        }
    }

    #[cold]
    fn message(verdict: &Verdict, error: Option<&dyn StdError>) -> String {
        match (verdict.reason(), error) {
            (Some(reason), _) => reason.to_owned(),
            (None, Some(error)) => message_of_chain(error),
            (None, None) => "a response judged a failure".to_owned(),
        }
    }

    /// What a reference to a result says of the service.
    #[inline(always)]
    pub(crate) fn of<Res, L: StdError + 'static, C: Classify<Res, L>>(
        result: &Result<&Res, View<'_, L>>,
        classify: &C,
    ) -> Self {
        match result {
            Ok(response) => Self::new(&classify.classify(Ok(response)), None),
            // A refusal of a layer below, in an error type of the user's own.
            Err(View::Leaf(error)) if says_nothing(*error) => Self::plain(Outcome::Ignored),
            Err(View::Leaf(error)) => Self::new(&classify.classify(Err(error)), Some(*error)),
            Err(View::TimedOut(late)) => Self::new(&Verdict::failure(), Some(*late)),
            Err(View::FailedResponse) => Self::new(&Verdict::failure(), None),
            Err(View::Rejected | View::CutShort) => Self::plain(Outcome::Ignored),
        }
    }
}

/// Whether an error of the user's own holds what says nothing of the service: a refusal, or the end of the caller's time.
fn says_nothing(error: &(dyn StdError + 'static)) -> bool {
    match Found::look(error) {
        Found::Rejection(_) => true,
        Found::TimedOut(late) => late.is_callers_own(),
        Found::Exhausted | Found::Nothing => false,
    }
}

/// Whether a layer below has refused, so that the service was not called.
fn is_refusal<L: StdError + 'static>(view: &View<'_, L>) -> bool {
    match view {
        View::Rejected => true,
        View::Leaf(error) => matches!(Found::look(*error), Found::Rejection(_)),
        View::TimedOut(_) | View::FailedResponse | View::CutShort => false,
    }
}

/// Refusals come out as [`Error`]: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsError;

impl<Res, E, L> Answer<Res, E, L> for AsError
where
    E: IntoError<L>,
    L: StdError + 'static,
{
    type Error = Error<L>;

    #[inline]
    fn error(&self, error: E) -> Error<L> {
        error.into_error()
    }

    fn refuse(&self, rejection: Rejection) -> Result<Res, Error<L>> {
        Err(rejection.into())
    }

    #[inline]
    fn was_refused(&self, result: &Result<Res, Error<L>>) -> bool {
        result.as_ref().is_err_and(|it| is_refusal(&it.view()))
    }

    #[inline]
    fn judge<C: Classify<Res, L>>(
        &self,
        result: &Result<Res, Error<L>>,
        classify: &C,
    ) -> Judgement {
        Judgement::of(&result.as_ref().map_err(Error::view), classify)
    }
}

/// Refusals come out as responses, made by the closure of `reject_with`; the error type of the service
/// stays what it is.
#[derive(Clone, Copy)]
pub struct RejectWith<F>(pub(crate) F);

impl<F> fmt::Debug for RejectWith<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RejectWith")
    }
}

impl<Res, E, L, F> Answer<Res, E, L> for RejectWith<F>
where
    F: Fn(Rejection) -> Res,
    E: AsLeaf<L>,
    L: StdError + 'static,
{
    type Error = E;

    #[inline]
    fn error(&self, error: E) -> E {
        error
    }

    fn refuse(&self, rejection: Rejection) -> Result<Res, E> {
        Ok((self.0)(rejection))
    }

    #[inline]
    fn was_refused(&self, result: &Result<Res, E>) -> bool {
        result.as_ref().is_err_and(|it| is_refusal(&it.view()))
    }

    #[inline]
    fn judge<C: Classify<Res, L>>(&self, result: &Result<Res, E>, classify: &C) -> Judgement {
        Judgement::of(&result.as_ref().map_err(AsLeaf::view), classify)
    }
}

mod sealed {
    #[expect(unnameable_types, reason = "that is how a trait is sealed")]
    pub trait Sealed {}
    impl Sealed for super::AsError {}
    impl<F> Sealed for super::RejectWith<F> {}
}
