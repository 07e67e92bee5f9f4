use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;

use super::handle::Fallback;
use super::target::{Answer, MapRequest, Mark, Targets};
use crate::call::deadline;
use crate::call::outcome::{Classify, Outcome};
use crate::error::{AllFailed, Error, Found, IntoError, TargetError, TargetFailure};
use crate::retry::CopyRequest;

/// The response of a service whose calls go elsewhere when it does not answer. Dropping it drops the call that is on its
/// way.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct FallbackFuture<F, Req, Res, L, C, R> {
    #[pin]
    pub(super) state: State<F, Answer<Res, L>>,
    /// Of the request, for the next target.
    pub(super) copy: Option<Req>,
    /// How many targets have been asked.
    pub(super) asked: usize,
    pub(super) failures: Vec<TargetFailure<L>>,
    pub(super) fallback: Fallback,
    pub(super) targets: Targets<Req, Res, L>,
    pub(super) classify: C,
    pub(super) requests: R,
    pub(super) only_unreached: bool,
    pub(super) map_request: Option<MapRequest<Req>>,
    pub(super) mark: Option<Mark<Res>>,
}

#[pin_project(project = StateProj)]
pub(super) enum State<F, A> {
    First(#[pin] F),
    Target(A),
    Done,
}

/// What the service itself is called among the targets.
const FIRST: &str = "service";

impl<F, E, Req, Res, L, C, R> Future for FallbackFuture<F, Req, Res, L, C, R>
where
    F: Future<Output = Result<Res, E>>,
    E: IntoError<L>,
    L: StdError + 'static,
    C: Classify<Res, L>,
    R: CopyRequest<Req>,
{
    type Output = Result<Res, Error<L>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            let result = match this.state.as_mut().project() {
                StateProj::First(call) => ready!(call.poll(cx)).map_err(IntoError::into_error),
                StateProj::Target(call) => ready!(call.as_mut().poll(cx)),
                StateProj::Done => panic!("`FallbackFuture` polled after completion"),
            };
            // What has failed is gone before the next is asked, and with it its permits.
            this.state.set(State::Done);
            let Some(failure) = self.as_mut().no_answer(&result) else {
                return Poll::Ready(self.answered(result));
            };
            let Some(next) = self.as_mut().next_target() else {
                return Poll::Ready(self.gave_up(result));
            };
            self.as_mut().fell_back(result, &failure);
            self.as_mut().project().state.set(State::Target(next));
        }
    }
}

impl<F, Req, Res, L, C, R> FallbackFuture<F, Req, Res, L, C, R>
where
    L: StdError + 'static,
    C: Classify<Res, L>,
    R: CopyRequest<Req>,
{
    fn name(&self, target: usize) -> Arc<str> {
        match target.checked_sub(1).and_then(|at| self.targets.get(at)) {
            Some((name, _)) => Arc::clone(name),
            None => FIRST.into(),
        }
    }

    /// What is said of a result that is no answer.
    fn no_answer(self: Pin<&mut Self>, result: &Result<Res, Error<L>>) -> Option<String> {
        let refused = match result {
            Err(Error::Inner(error)) => matches!(Found::look(error), Found::Rejection(_)),
            Err(error) => error.is_rejection(),
            Ok(_) => false,
        };
        if self.only_unreached && !refused {
            return None;
        }
        let verdict = match result {
            Ok(response) => self.classify.classify(Ok(response)),
            Err(Error::Inner(error)) if !refused => self.classify.classify(Err(error)),
            Err(error) => return Some(error.to_string()),
        };
        let bad = matches!(verdict.outcome(), Outcome::Failure | Outcome::Overload);
        bad.then(|| match (verdict.reason(), result) {
            (Some(reason), _) => reason.to_owned(),
            (None, Err(error)) => error.to_string(),
            (None, Ok(_)) => "a response judged a failure".to_owned(),
        })
    }

    /// The call of the next target, if there is one, and time for it.
    fn next_target(self: Pin<&mut Self>) -> Option<Answer<Res, L>> {
        let this = self.project();
        let (name, target) = this.targets.get(*this.asked)?;
        if deadline::current().is_some_and(deadline::Deadline::is_over) {
            return None;
        }
        let request = this.copy.take()?;
        if !this.requests.claim(&request) {
            return None;
        }
        *this.asked += 1;
        if *this.asked < this.targets.len() {
            *this.copy = this.requests.copy(&request);
        }
        let request = match this.map_request {
            Some(change) => change(request, name),
            None => request,
        };
        Some(target.call(request))
    }

    fn fell_back(self: Pin<&mut Self>, result: Result<Res, Error<L>>, reason: &str) {
        let (from, to) = (self.name(self.asked - 1), self.name(self.asked));
        let is_first = self.asked == 1;
        let shared = &self.fallback.shared;
        shared.fell_back(is_first, &from, &to, reason.to_owned());
        let failure = match result {
            Err(error) => TargetError::Error(error),
            Ok(_) => TargetError::Response(Some(reason.to_owned())),
        };
        let failed = TargetFailure {
            target: from,
            failure,
        };
        self.project().failures.push(failed);
    }

    fn answered(self: Pin<&mut Self>, mut result: Result<Res, Error<L>>) -> Result<Res, Error<L>> {
        if let (Ok(response), Some(mark), 1..) = (&mut result, &self.mark, self.asked) {
            mark(response, &self.name(self.asked));
        }
        result
    }

    /// Nobody is left to be asked.
    fn gave_up(mut self: Pin<&mut Self>, result: Result<Res, Error<L>>) -> Result<Res, Error<L>> {
        if self.asked == 0 {
            return result;
        }
        self.fallback.shared.all_failed(self.asked + 1);
        // The last bad response is the caller's, as it is of a retry.
        let Err(error) = result else {
            return self.answered(result);
        };
        let target = self.name(self.asked);
        let name = Arc::clone(self.fallback.shared.name());
        let mut failures = std::mem::take(self.as_mut().project().failures);
        failures.push(TargetFailure {
            target,
            failure: TargetError::Error(error),
        });
        Err(Error::AllFailed(Box::new(AllFailed { name, failures })))
    }
}

impl<F, Req, Res, L, C, R> fmt::Debug for FallbackFuture<F, Req, Res, L, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackFuture")
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}
