//! Hedging without tower: around any closure that makes a future.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::{First, HedgeFuture};
use super::handle::Hedge;
use super::mark::NoMark;
use super::run::Run;
use crate::call::outcome::{
    Classify, ClassifyFn, ErrorsAreFailures, FailureIf, Idempotency, ResponseFailureIf, Verdict,
};
use crate::error::{Error, IntoError};
use crate::retry::{CopyRequest, RequestConfig};
use crate::util::kit::Spare;

/// Runs operations by a [`Hedge`], with rules on what is worth another attempt. Made by the hedge's methods of the same
/// names.
#[derive(Clone)]
#[must_use = "a runner does nothing before `run`"]
pub struct Hedged<C = ErrorsAreFailures> {
    hedge: Hedge,
    classify: C,
}

impl Hedge {
    /// Runs `operation`, and runs it once more if it takes long; the first that succeeds is the answer. It is called
    /// with the number of the attempt, from 1. It has to be work that may be done twice.
    ///
    /// ```
    /// # use tower_bulwark::{Error, Hedge};
    /// # async fn read(replica: u32) -> Result<String, std::io::Error> { Ok("42".into()) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error<std::io::Error>> {
    /// let answer = Hedge::new("reads").run(|attempt| async move { read(attempt).await }).await?;
    /// # assert_eq!(answer, "42");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Dropping the future drops all attempts that run.
    ///
    /// # Errors
    ///
    /// [`Error`], as the layer gives it.
    pub fn run<F, Fut, T, E, L>(
        &self,
        operation: F,
    ) -> impl Future<Output = Result<T, Error<L>>> + use<F, Fut, T, E, L>
    where
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
        L: StdError + 'static,
    {
        Hedged::new(self.clone(), ErrorsAreFailures).run(operation)
    }

    /// A runner to which only errors that match are failures.
    pub fn failure_if<L, F: Fn(&L) -> bool>(
        &self,
        matches: F,
    ) -> Hedged<FailureIf<F, ErrorsAreFailures>> {
        Hedged::new(self.clone(), ErrorsAreFailures).failure_if(matches)
    }

    /// A runner to which values that match are failures too.
    pub fn response_failure_if<T, F: Fn(&T) -> bool>(
        &self,
        matches: F,
    ) -> Hedged<ResponseFailureIf<F, ErrorsAreFailures>> {
        Hedged::new(self.clone(), ErrorsAreFailures).response_failure_if(matches)
    }

    /// A runner that judges results with a function.
    pub fn classify_with<T, L, F: Fn(Result<&T, &L>) -> Verdict>(
        &self,
        judge: F,
    ) -> Hedged<ClassifyFn<F>> {
        Hedged::new(self.clone(), ClassifyFn(judge))
    }
}

impl<C> Hedged<C> {
    fn new(hedge: Hedge, classify: C) -> Self {
        Self { hedge, classify }
    }

    /// Only errors that match are failures, which another attempt may better. Every other error ends the call.
    pub fn failure_if<L, F: Fn(&L) -> bool>(self, matches: F) -> Hedged<FailureIf<F, C>> {
        let inner = self.classify;
        Hedged::new(self.hedge, FailureIf { matches, inner })
    }

    /// Values that match are failures too: they do not win while another attempt runs.
    pub fn response_failure_if<T, F: Fn(&T) -> bool>(
        self,
        matches: F,
    ) -> Hedged<ResponseFailureIf<F, C>> {
        let inner = self.classify;
        Hedged::new(self.hedge, ResponseFailureIf { matches, inner })
    }

    /// Runs `operation`, and runs it once more if it takes long; the first that succeeds is the answer. Dropping the
    /// future drops all attempts that run.
    ///
    /// # Errors
    ///
    /// [`Error`], as the layer gives it.
    pub fn run<F, Fut, T, E, L>(
        &self,
        operation: F,
    ) -> impl Future<Output = Result<T, Error<L>>> + use<C, F, Fut, T, E, L>
    where
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
        L: StdError + 'static,
        C: Classify<T, L> + Clone,
    {
        let (hedge, classify) = (self.hedge.clone(), self.classify.clone());
        async move { begin(&hedge, Operation(operation), classify).await }
    }
}

/// The first attempt of a service that needs not be made ready.
fn begin<F, Fut, T, E, L, C>(
    hedge: &Hedge,
    mut operation: Operation<F>,
    classify: C,
) -> HedgeFuture<Operation<F>, u32, L, C, Numbers>
where
    F: FnMut(u32) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let shared = &hedge.shared;
    let extra = shared.max_extra();
    shared.count_call(extra);
    let mut run = Run::new(extra, Idempotency::Idempotent, None);
    let call = run.begins(|| (operation.0)(1));
    let spare = Spare::own(shared.mine(), Some(operation));
    HedgeFuture {
        first: First::of_race(spare, run, call),
        hedges: Vec::new(),
        request: Some(1),
        kept: None,
        classify,
        requests: Numbers,
        mark: NoMark,
        _leaf: PhantomData,
    }
}

impl<C> fmt::Debug for Hedged<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedged")
            .field("hedge", &self.hedge)
            .finish_non_exhaustive()
    }
}

/// The request is the number of the attempt.
struct Numbers;

impl CopyRequest<u32> for Numbers {
    fn copy(&self, number: &u32) -> Option<u32> {
        Some(*number)
    }
}

impl RequestConfig<u32> for Numbers {
    fn before_attempt(&self, number: &mut u32, attempt: u32) {
        *number = attempt;
    }
}

/// A closure as a service that is always ready.
struct Operation<F>(F);

impl<F, Fut, T, E> Service<u32> for Operation<F>
where
    F: FnMut(u32) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Response = T;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, number: u32) -> Fut {
        (self.0)(number)
    }
}
