//! Waking those who were granted something, when no lock is held.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;
use std::thread;

/// Whom to wake when no lock is held: seldom more than one.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    one: Option<Waker>,
    more: Vec<Waker>,
}

impl Wakes {
    #[inline]
    pub(super) fn extend(&mut self, waker: Option<Waker>) {
        match &self.one {
            None => self.one = waker,
            Some(_) => self.more.extend(waker),
        }
    }

    /// All of them, also if one panics. Says what the first panicked with.
    #[inline]
    pub(super) fn wake(self) -> thread::Result<()> {
        let mut result = Ok(());
        for waker in self.one.into_iter().chain(self.more) {
            let woken = catch_unwind(AssertUnwindSafe(|| waker.wake()));
            result = result.and(woken);
        }
        result
    }
}

/// A waker is somebody else's code: its panic goes on where everything is done.
pub(super) fn go_on_with(panic: thread::Result<()>) {
    if let Err(panic) = panic {
        resume_unwind(panic);
    }
}
