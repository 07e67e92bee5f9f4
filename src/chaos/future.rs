use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};

use super::shared::Shared;
use super::state::Then;
#[cfg(feature = "http")]
use crate::event::ChaosFault;
use crate::util::time;

/// The response of a service with faults. Dropping it drops the call.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ChaosFuture<F, R> {
    #[pin]
    then: State<F, R>,
    /// The answer comes after it.
    late: Option<Pin<Box<Sleep>>>,
    #[cfg(feature = "http")]
    cut_body: Option<CutBody>,
}

/// The body of the response is to break off.
#[cfg(feature = "http")]
pub(crate) struct CutBody {
    shared: Arc<Shared>,
    /// The number of the call.
    call: u64,
}

#[cfg(feature = "http")]
impl CutBody {
    /// It breaks off now.
    pub(crate) fn happens(&self) {
        self.shared.injects(ChaosFault::CutBody, self.call);
    }
}

#[pin_project(project = StateProj)]
enum State<F, R> {
    Call(#[pin] F),
    /// What it ends with.
    Error(Option<R>),
    Hang,
    /// The name of the drill.
    Panic(Arc<str>),
}

impl<F, R> ChaosFuture<F, R> {
    #[inline]
    pub(super) fn begin(
        shared: &Arc<Shared>,
        fault: impl FnOnce() -> R,
        call: impl FnOnce() -> F,
    ) -> Self {
        let Some(plan) = shared.plan() else {
            return Self {
                then: State::Call(call()),
                late: None,
                #[cfg(feature = "http")]
                cut_body: None,
            };
        };
        let then = match plan.then {
            Then::Call => State::Call(call()),
            Then::Error => State::Error(Some(fault())),
            Then::Hang => State::Hang,
            Then::Panic => State::Panic(Arc::clone(shared.name())),
        };
        let late = plan.late_by.map(|late_by| {
            let ends = time::now().after(late_by).to_instant();
            Box::pin(sleep_until(ends))
        });
        Self {
            then,
            late,
            #[cfg(feature = "http")]
            cut_body: plan.cut_body.then(|| CutBody {
                shared: Arc::clone(shared),
                call: plan.call,
            }),
        }
    }

    /// How the body of the response is to break off, if it is.
    #[cfg(feature = "http")]
    pub(crate) fn take_cut(self: Pin<&mut Self>) -> Option<CutBody> {
        self.project().cut_body.take()
    }
}

impl<F, T, E> Future for ChaosFuture<F, Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(late) = this.late {
            ready!(time::poll_timer(late.as_mut(), cx));
            *this.late = None;
        }
        match this.then.project() {
            StateProj::Call(call) => call.poll(cx),
            StateProj::Error(result) => match result.take() {
                Some(result) => Poll::Ready(result),
                None => panic!("`ChaosFuture` polled after completion"),
            },
            StateProj::Hang => Poll::Pending,
            StateProj::Panic(name) => panic!("the drill `{name}` panics"),
        }
    }
}

impl<F, R> fmt::Debug for ChaosFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = match &self.then {
            State::Call(_) => "call",
            State::Error(_) => "error",
            State::Hang => "hang",
            State::Panic(_) => "panic",
        };
        f.debug_struct("ChaosFuture")
            .field("then", &then)
            .field("late", &self.late.is_some())
            .finish_non_exhaustive()
    }
}
