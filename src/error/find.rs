//! What a chain of errors says that this crate has put into it.

use std::cell::Cell;
use std::error::Error as StdError;
use std::io;

use super::circuit_open::CircuitOpen;
use super::contended::Contended;
use super::rejection::Rejection;

thread_local! {
    /// An [`Exhausted`](super::Exhausted) of any type was asked for its source. It is generic over the service's
    /// error, so it cannot be recognised by its type.
    static MET_EXHAUSTED: Cell<bool> = const { Cell::new(false) };
}

/// Said by an `Exhausted` that is asked for its source.
pub(super) fn met_exhausted() {
    MET_EXHAUSTED.set(true);
}

/// What is in a chain.
#[derive(Debug)]
pub(crate) enum Found {
    /// A refusal: the outermost one.
    Rejection(Rejection),
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
            if let Some(rejection) = rejection_in(error) {
                return Self::Rejection(rejection);
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

fn rejection_in(error: &(dyn StdError + 'static)) -> Option<Rejection> {
    if let Some(open) = error.downcast_ref::<CircuitOpen>() {
        return Some(Rejection::CircuitOpen(open.clone()));
    }
    if let Some(contended) = error.downcast_ref::<Contended>() {
        return Some(Rejection::Contended(contended.clone()));
    }
    error.downcast_ref::<Rejection>().cloned()
}
