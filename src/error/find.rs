//! What a chain of errors says that this crate has put into it.

use std::error::Error as StdError;
use std::io;

use super::circuit_open::CircuitOpen;
use super::contended::Contended;
use super::exhausted::MET_EXHAUSTED;
use super::rate_limited::RateLimited;
use super::rejection::Rejection;
use super::throttled::Throttled;
use super::timed_out::TimedOut;

/// What is in a chain.
#[derive(Debug)]
pub(crate) enum Found {
    /// A refusal: the outermost one.
    Rejection(Rejection),
    /// A timeout of this crate, after the service was called.
    TimedOut(TimedOut),
    /// A retry below has given up.
    Exhausted,
    /// Nothing of this crate.
    Nothing,
}

impl Found {
    /// Looks at `error`, and at what caused it, outermost first.
    pub(crate) fn look(error: &(dyn StdError + 'static)) -> Self {
        // A chain is as long as the program's layering; a cyclic one is nobody's intention.
        const LONGEST_CHAIN: usize = 64;
        MET_EXHAUSTED.set(false);
        let mut next = Some(error);
        for _ in 0..LONGEST_CHAIN {
            let Some(error) = next else { break };
            match rejection_in(error) {
                Some(Rejection::TimedOut(late)) if late.was_called() => {
                    return Self::TimedOut(late);
                }
                Some(rejection) => return Self::Rejection(rejection),
                None => {}
            }
            // `io::Error::source` skips the very error it was made from.
            let inside = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref);
            next = match inside {
                Some(inside) => Some(inside),
                None => error.source(),
            };
            if MET_EXHAUSTED.get() {
                // Whatever it gave up for, the service was reached.
                return Self::Exhausted;
            }
        }
        Self::Nothing
    }
}

impl Rejection {
    /// The rejection in `error` or in what caused it, outermost first. `None` also if a retry below has given up: then
    /// the service was called.
    ///
    /// ```
    /// use tower_bulwark::{BoxError, CircuitBreaker, Rejection};
    ///
    /// let breaker = CircuitBreaker::new("openai");
    /// breaker.force_open();
    /// let open = breaker.try_acquire().unwrap_err();
    ///
    /// let boxed: BoxError = std::io::Error::other(open).into();
    /// assert_eq!(Rejection::find(&*boxed).unwrap().name(), "openai");
    /// ```
    #[must_use]
    pub fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        match Found::look(error) {
            Found::Rejection(rejection) => Some(rejection),
            Found::TimedOut(_) | Found::Exhausted | Found::Nothing => None,
        }
    }
}

/// A refusal, or a timeout after the service was called.
fn rejection_in(error: &(dyn StdError + 'static)) -> Option<Rejection> {
    if let Some(open) = error.downcast_ref::<CircuitOpen>() {
        return Some(Rejection::CircuitOpen(open.clone()));
    }
    if let Some(contended) = error.downcast_ref::<Contended>() {
        return Some(Rejection::Contended(contended.clone()));
    }
    if let Some(limited) = error.downcast_ref::<RateLimited>() {
        return Some(Rejection::RateLimited(limited.clone()));
    }
    if let Some(throttled) = error.downcast_ref::<Throttled>() {
        return Some(Rejection::Throttled(throttled.clone()));
    }
    if let Some(late) = error.downcast_ref::<TimedOut>() {
        return Some(Rejection::TimedOut(late.clone()));
    }
    error.downcast_ref::<Rejection>().cloned()
}
