//! One flat error for a whole stack of layers.
//!
//! [`Error<E>`](Error) has the *leaf service's own* error as `E`, whatever the order and the number
//! of layers above it, and without a type annotation anywhere. See
//! [`docs::errors`](crate::docs::errors) for how to match it.

mod all_failed;
mod answer;
mod circuit_open;
mod config_change;
mod contended;
mod exhausted;
mod find;
mod rate_limited;
mod rejection;
mod throttled;
mod timed_out;
mod too_many_keys;

pub use all_failed::{AllFailed, TargetError, TargetFailure};
pub(crate) use answer::Judgement;
pub use answer::{Answer, AsError, RejectWith};
pub use circuit_open::{Cause, CircuitOpen, CircuitState, OpenReason};
pub(crate) use circuit_open::{Refusal, Trip};
pub(crate) use config_change::config_change;
pub use config_change::{ConfigChange, SettingChange};
pub use contended::{Contended, ContendedReason, CycleStep, HolderInfo};
pub(crate) use contended::{LockView, Look, write_more};
pub(crate) use exhausted::Report;
pub use exhausted::{AttemptEnd, AttemptRecord, Exhausted, LastFailure, StopReason};
pub(crate) use find::Found;
pub(crate) use rate_limited::LimitNames;
pub use rate_limited::{RateLimitReason, RateLimited};
pub use rejection::Rejection;
pub(crate) use throttled::ThrottleName;
pub use throttled::Throttled;
pub use timed_out::{TimedOut, TimeoutPhase};
pub use too_many_keys::TooManyKeys;

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomPinned;
use std::ops::Deref;

/// What tower's own layers use as their error.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What a call through a stack of layers can end with.
///
/// - `Inner` is the service's own error, untouched.
/// - `Exhausted` is what [`RetryLayer`](crate::RetryLayer) answers when it wanted to try again and
///   could not: it carries the last failure, typed, and why it stopped. The service was called. Where the policy or
///   the request allows no retry at all, the service's own error comes as `Inner`.
/// - `TimedOut` is what [`Timeouts`](crate::Timeouts) end a call with: a rejection if the service was never ready, else it
///   was called.
/// - The others are *rejections*: the service was never called.
///
/// `Error<E>` displays as what it holds and gives it as [`source`](StdError::source), so a
/// [`Rejection`] can be found in any chain with [`Rejection::find`].
///
/// # A leaf error that embeds this one
///
/// `Error<E>` is deliberately `!Unpin`: that is how rustc tells it from a leaf error when layers are
/// stacked. Your own error enum may hold one; if that enum is to be the leaf of *another* stack of
/// these layers, add `impl Unpin for MyError {}` (safe, one line).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error<E> {
    /// The service's own error.
    Inner(E),
    /// The service kept failing, and another attempt was wanted but not possible.
    Exhausted(Exhausted<E>),
    /// A circuit breaker refused the call.
    CircuitOpen(CircuitOpen),
    /// A resource was busy for too long, or could never have become free.
    Contended(Contended),
    /// A rate limit had not enough left.
    RateLimited(RateLimited),
    /// The service accepts too few calls, and this one was not made.
    Throttled(Throttled),
    /// It took longer than it may. (A rejection only if the service was never ready.)
    TimedOut(TimedOut),
    /// No target of a fallback answered. (A rejection only if all of them refused.)
    AllFailed(Box<AllFailed<E>>),
    /// Cannot be built: it holds what tells this type from a leaf error.
    #[doc(hidden)]
    __Never(Never, AlreadyAResilienceError),
}

/// A type without values.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Never {}

/// Named in compiler messages when an error that embeds [`Error`] by value is used as the leaf error
/// of another stack. `impl Unpin for YourError {}` is the answer.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct AlreadyAResilienceError(PhantomPinned);

impl<E> Error<E> {
    /// The service's own error, wherever it is: `Inner`, or the last failure of `Exhausted`.
    pub fn as_inner(&self) -> Option<&E> {
        match self {
            Self::Inner(error) => Some(error),
            Self::Exhausted(exhausted) => exhausted.last().as_inner(),
            Self::AllFailed(failed) => failed.as_inner(),
            Self::CircuitOpen(_)
            | Self::Contended(_)
            | Self::RateLimited(_)
            | Self::Throttled(_)
            | Self::TimedOut(_)
            | Self::__Never(..) => None,
        }
    }

    /// The service's own error, or this error back if there is none in it.
    ///
    /// # Errors
    ///
    /// `self`, when it is a rejection, a timeout, or was exhausted by timeouts.
    pub fn into_inner(self) -> Result<E, Self> {
        match self {
            Self::Inner(error) => Ok(error),
            Self::Exhausted(exhausted) => exhausted.into_inner().map_err(Self::Exhausted),
            Self::AllFailed(failed) => {
                let inner = failed.into_inner();
                inner.map_err(|failed| Self::AllFailed(Box::new(failed)))
            }
            Self::CircuitOpen(_)
            | Self::Contended(_)
            | Self::RateLimited(_)
            | Self::Throttled(_)
            | Self::TimedOut(_)
            | Self::__Never(..) => Err(self),
        }
    }

    /// The refusal, if the service was never called.
    pub fn rejection(&self) -> Option<Rejection> {
        match self {
            Self::CircuitOpen(open) => Some(Rejection::CircuitOpen(open.clone())),
            Self::Contended(contended) => Some(Rejection::Contended(contended.clone())),
            Self::RateLimited(limited) => Some(Rejection::RateLimited(limited.clone())),
            Self::Throttled(throttled) => Some(Rejection::Throttled(throttled.clone())),
            Self::TimedOut(late) if !late.was_called() => Some(Rejection::TimedOut(late.clone())),
            Self::AllFailed(failed) => failed.rejection(),
            Self::Inner(_) | Self::Exhausted(_) | Self::TimedOut(_) | Self::__Never(..) => None,
        }
    }

    /// Whether one of this crate's layers refused the call.
    pub fn is_rejection(&self) -> bool {
        match self {
            Self::CircuitOpen(_)
            | Self::Contended(_)
            | Self::RateLimited(_)
            | Self::Throttled(_) => true,
            Self::TimedOut(late) => !late.was_called(),
            Self::AllFailed(failed) => failed.is_rejection(),
            Self::Inner(_) | Self::Exhausted(_) | Self::__Never(..) => false,
        }
    }

    /// Changes the type of the service's own error and leaves everything else as it is.
    pub fn map_inner<T>(self, mut f: impl FnMut(E) -> T) -> Error<T> {
        self.map_each(&mut f)
    }

    fn map_each<T>(self, f: &mut dyn FnMut(E) -> T) -> Error<T> {
        match self {
            Self::AllFailed(failed) => Error::AllFailed(Box::new(failed.map_inner(f))),
            Self::Inner(error) => Error::Inner(f(error)),
            Self::Exhausted(exhausted) => Error::Exhausted(exhausted.map_inner(f)),
            Self::CircuitOpen(open) => Error::CircuitOpen(open),
            Self::Contended(contended) => Error::Contended(contended),
            Self::RateLimited(limited) => Error::RateLimited(limited),
            Self::Throttled(throttled) => Error::Throttled(throttled),
            Self::TimedOut(late) => Error::TimedOut(late),
            Self::__Never(never, _) => match never {},
        }
    }
}

impl<E> From<Rejection> for Error<E> {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::CircuitOpen(open) => Self::CircuitOpen(open),
            Rejection::Contended(contended) => Self::Contended(contended),
            Rejection::RateLimited(limited) => Self::RateLimited(limited),
            Rejection::Throttled(throttled) => Self::Throttled(throttled),
            Rejection::TimedOut(late) => Self::TimedOut(late),
        }
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inner(error) => error.fmt(f),
            Self::Exhausted(exhausted) => exhausted.fmt(f),
            Self::CircuitOpen(open) => open.fmt(f),
            Self::Contended(contended) => contended.fmt(f),
            Self::RateLimited(limited) => limited.fmt(f),
            Self::Throttled(throttled) => throttled.fmt(f),
            Self::TimedOut(late) => late.fmt(f),
            Self::AllFailed(failed) => failed.fmt(f),
            Self::__Never(never, _) => match *never {},
        }
    }
}

impl<E: StdError + 'static> StdError for Error<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Inner(error) => Some(error),
            Self::Exhausted(exhausted) => exhausted.source(),
            Self::CircuitOpen(open) => Some(open),
            Self::Contended(contended) => Some(contended),
            Self::RateLimited(limited) => Some(limited),
            Self::Throttled(throttled) => Some(throttled),
            Self::TimedOut(late) => Some(late),
            Self::AllFailed(failed) => Some(&**failed),
            Self::__Never(never, _) => match *never {},
        }
    }
}

/// A leaf error of type [`BoxError`], as a type that is an error itself.
///
/// A service of tower that boxes its errors (`timeout`, `buffer`, `load_shed`) below a layer of this
/// crate gives `Error<Boxed>`. Rejections of this crate inside the box come out as what they are.
#[derive(Debug)]
pub struct Boxed(pub BoxError);

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Boxed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

impl Deref for Boxed {
    type Target = dyn StdError + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// Turns the error of a service into the flat error of the stack. `L` is inferred.
///
/// Sealed: it is implemented for every `std::error::Error` (a leaf), for [`Error`] itself (so that it
/// stays flat), and for the boxes that tower uses.
#[diagnostic::on_unimplemented(
    message = "the service below fails with `{Self}`, and this layer expects `{L}`",
    label = "expects `{L}`, and gets `{Self}`",
    note = "a closure that judges errors (`failure_if`, `retry_if`, ...) or an annotation says `{L}`: it has to be the service's own error",
    note = "`std::error::Error` types, `BoxError`, `String` and `&str` may be the error of a service: for anything else put `.map_err(..)` below the layer"
)]
pub trait IntoError<L>: sealed::Sealed<L> {
    /// The same error, flat.
    fn into_error(self) -> Error<L>;
}

/// What an error looks like to a layer that must hand it on unchanged.
///
/// Implemented like [`IntoError`], except for boxes: a `reject_with` above a layer that boxes its
/// errors needs `.map_err(..)` between them.
pub trait AsLeaf<L>: IntoError<L> {
    /// Looks at the error without taking it.
    #[doc(hidden)]
    fn view(&self) -> View<'_, L>;
}

/// The ways in which an error can be looked at by a layer.
#[doc(hidden)]
#[derive(Debug)]
pub enum View<'a, L> {
    /// The service's own error.
    Leaf(&'a L),
    /// The service did not answer in time.
    TimedOut(&'a TimedOut),
    /// The service answered with a failure.
    FailedResponse,
    /// One of this crate's layers refused: the service was not called.
    Rejected,
    /// The caller's own time was over when the service had been called: says nothing about it.
    CutShort,
}

impl<L> Error<L> {
    pub(crate) fn view(&self) -> View<'_, L> {
        match self {
            Self::Inner(error) => View::Leaf(error),
            Self::Exhausted(exhausted) => match exhausted.last() {
                LastFailure::Inner(error) => View::Leaf(error),
                LastFailure::TimedOut(late) => View::TimedOut(late),
                LastFailure::Response(_) => View::FailedResponse,
            },
            Self::CircuitOpen(_)
            | Self::Contended(_)
            | Self::RateLimited(_)
            | Self::Throttled(_) => View::Rejected,
            Self::TimedOut(late) if late.was_called() && !late.is_callers_own() => {
                View::TimedOut(late)
            }
            Self::TimedOut(late) if late.was_called() => View::CutShort,
            Self::TimedOut(_) => View::Rejected,
            Self::AllFailed(failed) => failed.view(),
            Self::__Never(never, _) => match *never {},
        }
    }
}

impl<E: StdError + Unpin> IntoError<E> for E {
    #[inline]
    fn into_error(self) -> Error<E> {
        Error::Inner(self)
    }
}

impl<E: StdError + Unpin> AsLeaf<E> for E {
    #[inline]
    fn view(&self) -> View<'_, E> {
        View::Leaf(self)
    }
}

impl<E> IntoError<E> for Error<E> {
    #[inline]
    fn into_error(self) -> Self {
        self
    }
}

impl<E> AsLeaf<E> for Error<E> {
    #[inline]
    fn view(&self) -> View<'_, E> {
        self.view()
    }
}

impl IntoError<Boxed> for BoxError {
    fn into_error(self) -> Error<Boxed> {
        match Found::look(&*self) {
            Found::Rejection(rejection) => rejection.into(),
            Found::TimedOut(late) => Error::TimedOut(late),
            Found::Exhausted | Found::Nothing => Error::Inner(Boxed(self)),
        }
    }
}

impl IntoError<Boxed> for String {
    fn into_error(self) -> Error<Boxed> {
        Error::Inner(Boxed(self.into()))
    }
}

impl IntoError<Boxed> for &str {
    fn into_error(self) -> Error<Boxed> {
        Error::Inner(Boxed(self.into()))
    }
}

mod sealed {
    use super::{BoxError, Boxed, Error, StdError};

    /// Only this crate says how an error becomes flat; the bounds repeat those of `IntoError`.
    #[expect(unnameable_types, reason = "that is how a trait is sealed")]
    pub trait Sealed<L> {}
    impl<E: StdError + Unpin> Sealed<E> for E {}
    impl<E> Sealed<E> for Error<E> {}
    impl Sealed<Boxed> for BoxError {}
    impl Sealed<Boxed> for String {}
    impl Sealed<Boxed> for &str {}
}

/// A setting that cannot work, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    setting: &'static str,
    given: String,
    advice: &'static str,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, given: impl fmt::Debug, advice: &'static str) -> Self {
        Self {
            setting,
            given: format!("{given:?}"),
            advice,
        }
    }

    /// The name of the setting, as it is called on the builder.
    #[must_use]
    pub fn setting(&self) -> &'static str {
        self.setting
    }

    /// What to change.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        self.advice
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            setting,
            given,
            advice,
        } = self;
        write!(f, "`{setting}` cannot be {given}: {advice}")
    }
}

impl StdError for ConfigError {}

#[cfg(test)]
mod tests;
