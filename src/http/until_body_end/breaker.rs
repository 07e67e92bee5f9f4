//! A circuit breaker that judges a call when the body of its response has ended.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, StatusCode};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::super::error_kind::ErrorKind;
use super::super::guarded_body::{BodyGuard, GuardResponse};
use super::boilerplate::{debug_as_name, service_below};
use crate::call::context::{Reason, reason};
use crate::call::outcome::{Classify, ErrorsAreFailures, Outcome, Verdict, message};
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, CircuitBreakerService, Permit};
use crate::error::CircuitOpen;
use crate::error::{Answer, AsError, Judgement};
use crate::keyed::Idle;
use crate::registry::explain::{Describe, LayerDescription};

/// Judges a call once more, when the body of its response has ended as it should.
///
/// Cloned for each response.
pub trait ClassifyEnd {
    /// Looks at the head of the response, before its body. Default: does not.
    fn at_head(&mut self, _status: StatusCode, _headers: &HeaderMap) {}

    /// What the end says, with the trailers if there were any. `None`: what the head said.
    ///
    /// Does not count when the head was a failure or said nothing (as a refusal of this side does), when the body
    /// broke off, or when nobody wanted the rest of it (then the head counts).
    fn classify_end(self, trailers: Option<&HeaderMap>) -> Option<Verdict>;
}

/// A body that ends as it should makes the call what its head was: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsHead;

impl ClassifyEnd for AsHead {
    fn classify_end(self, _: Option<&HeaderMap>) -> Option<Verdict> {
        None
    }
}

/// The end of a body, judged by a function of its trailers.
impl<F: FnOnce(Option<&HeaderMap>) -> Option<Verdict>> ClassifyEnd for F {
    fn classify_end(self, trailers: Option<&HeaderMap>) -> Option<Verdict> {
        self(trailers)
    }
}

impl<L, C, A> CircuitBreakerLayer<L, C, A> {
    /// Holds the permit until the body of the response has ended, and judges the call then: for streams
    /// that may die after a good head.
    ///
    /// A head that is a failure is counted at once. After any other head, a body that ends makes the call
    /// what its head was (or what [`classify_end`](CircuitBreakerBodyLayer::classify_end) says), and one that
    /// breaks off makes it a failure. One that is dropped before its end leaves it what its head was, because the
    /// caller has read what it wanted; where a timeout of this crate dropped it that is not the caller's own (of a silence,
    /// of the first frame, of an attempt), it is a failure. What breaks
    /// off because an upload failed on this side, because the caller's own deadline passed, or because a timeout ran
    /// out while nobody was reading, leaves it what its head was, too.
    ///
    /// A response without a body (to a `HEAD`, `204`, `304`) ends with its head: clients give such a body as one that
    /// has ended. After `101`, and after a `2xx` to a `CONNECT`, the connection belongs to the caller: the call ends
    /// when the (empty) body does, which is at once, and nothing is held while the connection is used.
    ///
    /// How slow the call was is how long its head took. The length of a stream says nothing about the
    /// health of its sender. A call whose head was slow is counted when the head comes; if its body breaks off later,
    /// that is counted as a failure beside it.
    ///
    /// While the circuit is half-open a probe keeps its place until its body has ended, at most for
    /// [`probe_timeout`](crate::circuit_breaker::CircuitBreakerBuilder::probe_timeout). If its head has come by then, the
    /// probe is what the head was, and how the rest of the body ends is not counted.
    #[must_use]
    pub fn until_body_end(self) -> CircuitBreakerBodyLayer<L, C, A> {
        CircuitBreakerBodyLayer {
            layer: self,
            end: AsHead,
        }
    }
}

/// Guards services with a [`CircuitBreaker`](crate::CircuitBreaker) until the bodies of their responses have
/// ended. Made by [`CircuitBreakerLayer::until_body_end`].
pub struct CircuitBreakerBodyLayer<L, C = ErrorsAreFailures, A = AsError, E = AsHead> {
    layer: CircuitBreakerLayer<L, C, A>,
    end: E,
}

impl<L, C, A, E> CircuitBreakerBodyLayer<L, C, A, E> {
    /// The breaker that guards.
    #[must_use]
    pub fn breaker(&self) -> &CircuitBreaker {
        self.layer.breaker()
    }

    /// Judges calls also by how their bodies ended: by the status in the trailers of a gRPC call, say.
    /// Default: [`AsHead`].
    #[must_use]
    pub fn classify_end<D: ClassifyEnd>(self, end: D) -> CircuitBreakerBodyLayer<L, C, A, D> {
        CircuitBreakerBodyLayer {
            layer: self.layer,
            end,
        }
    }
}

impl<L, C: Clone, A: Clone, E: Clone> Clone for CircuitBreakerBodyLayer<L, C, A, E> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            end: self.end.clone(),
        }
    }
}

impl<S, L, C: Clone, A: Clone, E: Clone> Layer<S> for CircuitBreakerBodyLayer<L, C, A, E> {
    type Service = CircuitBreakerBodyService<S, L, C, A, E>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreakerBodyService {
            service: self.layer.layer(inner),
            end: self.end.clone(),
        }
    }
}

/// A service guarded until the bodies of its responses have ended. Made by [`CircuitBreakerBodyLayer`].
pub struct CircuitBreakerBodyService<S, L, C = ErrorsAreFailures, A = AsError, E = AsHead> {
    service: CircuitBreakerService<S, L, C, A>,
    end: E,
}

impl<S, L, C, A, E> CircuitBreakerBodyService<S, L, C, A, E> {
    service_below!("guarded");

    /// The breaker that guards.
    #[must_use]
    pub fn breaker(&self) -> &CircuitBreaker {
        self.service.breaker()
    }
}

impl<S: Clone, L, C: Clone, A: Clone, E: Clone> Clone for CircuitBreakerBodyService<S, L, C, A, E> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            end: self.end.clone(),
        }
    }
}

impl<S, L, C, A, E, Req> Service<Req> for CircuitBreakerBodyService<S, L, C, A, E>
where
    S: Service<Req>,
    L: StdError + 'static,
    C: Classify<S::Response, L> + Clone,
    A: Answer<S::Response, S::Error, L> + Clone,
    E: ClassifyEnd + Clone,
    S::Response: GuardResponse<BreakerGuard<E>>,
{
    type Response = <S::Response as GuardResponse<BreakerGuard<E>>>::Guarded;
    type Error = A::Error;
    type Future = CircuitBreakerBodyFuture<S::Future, L, C, A, E>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Req>::poll_ready(&mut self.service, cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let admission = self.service.take();
        let (classify, answer) = self.service.rules();
        let (classify, answer) = (classify.clone(), answer.clone());
        let state = match admission {
            Ok(mut permit) => State::Calling {
                call: permit.running(|| self.service.get_mut().call(request)),
                held: Some((permit, self.end.clone())),
            },
            Err(open) => State::Refused { open: Some(open) },
        };
        CircuitBreakerBodyFuture {
            state,
            classify,
            answer,
            _leaf: std::marker::PhantomData,
        }
    }
}

/// The response of a service guarded until its body has ended. Dropping it counts as a cancelled call.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct CircuitBreakerBodyFuture<F, L, C = ErrorsAreFailures, A = AsError, E = AsHead> {
    #[pin]
    state: State<F, E>,
    classify: C,
    answer: A,
    _leaf: std::marker::PhantomData<fn() -> L>,
}

#[pin_project(project = StateProj)]
enum State<F, E> {
    Calling {
        #[pin]
        call: F,
        held: Option<(Permit, E)>,
    },
    Refused {
        open: Option<CircuitOpen>,
    },
}

impl<F, Res, Err, L, C, A, E> Future for CircuitBreakerBodyFuture<F, L, C, A, E>
where
    F: Future<Output = Result<Res, Err>>,
    L: StdError + 'static,
    C: Classify<Res, L>,
    A: Answer<Res, Err, L>,
    E: ClassifyEnd,
    Res: GuardResponse<BreakerGuard<E>>,
{
    type Output = Result<Res::Guarded, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (call, held) = match this.state.project() {
            StateProj::Calling { call, held } => (call, held),
            StateProj::Refused { open } => {
                let Some(open) = open.take() else {
                    panic!("`CircuitBreakerBodyFuture` polled after completion");
                };
                let refused = this.answer.refuse(open.into());
                return Poll::Ready(refused.map(|response| response.guard_body(None)));
            }
        };
        let Some((permit, _)) = held else {
            panic!("`CircuitBreakerBodyFuture` polled after completion");
        };
        let result = ready!(permit.poll(|| call.poll(cx)));
        let result = result.map_err(|error| this.answer.error(error));
        let judged = permit.running(|| this.answer.judge(&result, this.classify));
        let Some((mut permit, mut end)) = held.take() else {
            unreachable!("it was there a moment ago");
        };
        Poll::Ready(match result {
            Ok(response) if matches!(judged.outcome, Outcome::Success | Outcome::Ignored) => {
                let is_counted = permit.answered(&judged);
                let (status, headers) = response.head();
                end.at_head(status, headers);
                Ok(response.guard_body(Some(BreakerGuard {
                    permit,
                    end: Some(end),
                    head: (!is_counted).then_some(judged),
                    was_waited_for: false,
                })))
            }
            result => {
                permit.settle_judged(judged);
                result.map(|response| response.guard_body(None))
            }
        })
    }
}

/// The permit of a call whose response has begun: settled with how its body ends. A body that is dropped before its
/// end is settled as its head: the caller has read what it wanted.
pub struct BreakerGuard<E> {
    permit: Permit,
    end: Option<E>,
    /// `None` if it was slow, and has been counted.
    head: Option<Judgement>,
    /// Whether the reader was waiting when it polled last.
    was_waited_for: bool,
}

impl<E> BreakerGuard<E> {
    fn settle_as_head(&mut self) {
        match self.head.take() {
            Some(head) => self.permit.settle_judged(head),
            None => self.permit.dismiss(),
        }
    }

    /// Whether an error of the body is the fault of who sent it.
    fn blames(&self, error: &(dyn StdError + 'static)) -> bool {
        match ErrorKind::of(error) {
            // Of the upload, or of the caller's own time.
            ErrorKind::Request | ErrorKind::Local => false,
            // A clock that ran while nobody was reading says nothing about the sender.
            ErrorKind::TimedOut => self.was_waited_for,
            _ => true,
        }
    }
}

impl<E: ClassifyEnd> BodyGuard for BreakerGuard<E> {
    fn polls<T>(&mut self, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        self.permit.poll(poll)
    }

    fn waits(&mut self, _: &mut Context<'_>) {
        self.was_waited_for = true;
    }

    fn continues(&mut self) {
        self.was_waited_for = false;
    }

    fn ended(mut self, trailers: Option<&HeaderMap>) {
        let verdict = self.end.take().and_then(|end| end.classify_end(trailers));
        match (&self.head, verdict) {
            (Some(head), Some(verdict)) if head.outcome == Outcome::Success => {
                self.permit.settle_judged(Judgement::new(&verdict, None));
            }
            (None, Some(verdict)) if verdict.is_failure() || verdict.is_overload() => {
                self.permit.settle_judged(Judgement::new(&verdict, None));
            }
            _ => self.settle_as_head(),
        }
    }

    fn failed(mut self, error: &(dyn StdError + 'static)) {
        match self.blames(error) {
            true => {
                let failure = Judgement::failure(message(&error));
                self.permit.settle_judged(failure);
            }
            false => self.settle_as_head(),
        }
    }
}

impl<E> Drop for BreakerGuard<E> {
    fn drop(&mut self) {
        // A body that timed out, or panicked, has failed: the permit knows.
        if self.permit.is_at_rest() && reason() != Reason::TimedOut {
            self.settle_as_head();
        }
    }
}

impl<L, C, A, E> Idle for CircuitBreakerBodyLayer<L, C, A, E> {
    fn is_idle(&self) -> bool {
        self.layer.is_idle()
    }
}

impl<L, C, A, E> Describe for CircuitBreakerBodyLayer<L, C, A, E> {
    fn describe(&self) -> LayerDescription {
        self.layer.describe()
    }
}

debug_as_name!(
    CircuitBreakerBodyLayer<L, C, A, E>,
    CircuitBreakerBodyService<S, L, C, A, E>,
    CircuitBreakerBodyFuture<F, L, C, A, E>,
    BreakerGuard<E>,
);
