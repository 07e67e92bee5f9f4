//! What holds for everything that a poll, or a drop, reaches: the caller's deadline, and why a call is dropped.

use std::cell::Cell;
use std::thread::LocalKey;

use crate::util::time::Tick;

/// Why a call is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Nobody said: the caller went away.
    Abandoned,
    /// It had the time at the service that a policy grants an attempt.
    TimedOut,
    /// The caller's own time was over before that.
    Deadline,
}

thread_local! {
    static DEADLINE: Cell<Tick> = const { Cell::new(Tick::NEVER) };
    static REASON: Cell<Reason> = const { Cell::new(Reason::Abandoned) };
}

/// Runs `f` with `value` in `key`, also if it panics.
fn with<T: Copy, R>(key: &'static LocalKey<Cell<T>>, value: T, f: impl FnOnce() -> R) -> R {
    struct Restore<T: Copy + 'static>(&'static LocalKey<Cell<T>>, T);
    impl<T: Copy + 'static> Drop for Restore<T> {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(key, key.replace(value));
    f()
}

/// Runs `f`, usually one poll, with `deadline` as the ambient deadline, or the one around it if that is earlier.
#[inline]
pub(crate) fn with_deadline<R>(deadline: Tick, f: impl FnOnce() -> R) -> R {
    with(&DEADLINE, deadline.min(DEADLINE.get()), f)
}

/// The ambient deadline; [`Tick::NEVER`] if there is none.
#[inline]
pub(crate) fn ambient_deadline() -> Tick {
    DEADLINE.get()
}

/// Runs `f`, which drops a call, so that the permits dropped in it know why.
///
/// A dropped future cannot say whether its caller lost interest or ran out of time. To a breaker below a retry with
/// an attempt timeout, that is the difference between "cancelled" and "the service hangs".
pub(crate) fn drop_because<R>(reason: Reason, f: impl FnOnce() -> R) -> R {
    with(&REASON, reason, f)
}

/// Why what is being dropped right now is dropped.
pub(crate) fn reason() -> Reason {
    REASON.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_drop_ends_with_the_drop_even_when_it_panics() {
        let caught = std::panic::catch_unwind(|| {
            drop_because(Reason::TimedOut, || {
                assert_eq!(reason(), Reason::TimedOut);
                panic!("in drop");
            })
        });
        assert!(caught.is_err());
        assert_eq!(reason(), Reason::Abandoned);
    }
}
