//! Retry without tower: around any closure that makes a future, or that blocks.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_service::Service;

use super::future::RetryFuture;
use super::handle::RetryPolicy;
use super::run::{Again, Copy, Run, Step};
use crate::call::context::Wait;
use crate::call::deadline;
use crate::call::outcome::{
    AttemptContext, Classify, ClassifyFn, DelayFrom, ErrorsAreFailures, FailureIf,
    ResponseFailureIf, RetryIfWith, Verdict,
};
use crate::error::{Error, IntoError};
use crate::util::time;

/// Runs operations by a [`RetryPolicy`], with rules on what is worth a retry. Made by the policy's methods
/// of the same names.
///
/// ```
/// # use std::io::{Error, ErrorKind};
/// # use tower_bulwark::RetryPolicy;
/// # async fn fetch() -> Result<u16, Error> { Ok(200) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let status = RetryPolicy::new()
///     .retry_if(|e: &Error| e.kind() == ErrorKind::ConnectionReset)
///     .retry_response_if(|status: &u16| *status == 503)
///     .run(|| async { fetch().await })
///     .await;
/// # assert_eq!(status.unwrap(), 200);
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a runner does nothing before `run`"]
pub struct Retry<C = ErrorsAreFailures> {
    policy: RetryPolicy,
    classify: C,
}

impl RetryPolicy {
    /// Runs `operation` until it succeeds or the policy says stop. Every error is worth a retry; say
    /// otherwise with [`retry_if`](Self::retry_if) before it.
    ///
    /// ```
    /// # use tower_bulwark::{Error, RetryPolicy};
    /// # async fn fetch() -> Result<String, std::io::Error> { Ok("42".into()) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error<std::io::Error>> {
    /// let answer = RetryPolicy::new().run(|| async { fetch().await }).await?;
    /// # assert_eq!(answer, "42");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Dropping the future drops the attempt that is running, or ends the wait.
    ///
    /// # Errors
    ///
    /// [`Error`], as the layer gives it. An operation that already fails with it keeps it
    /// flat.
    pub fn run<F, Fut, T, E, L>(
        &self,
        operation: F,
    ) -> impl Future<Output = Result<T, Error<L>>> + use<F, Fut, T, E, L>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
        L: std::error::Error + 'static,
    {
        Retry::new(self.clone(), ErrorsAreFailures).run(operation)
    }

    /// Like [`run`](Self::run), for code that blocks. The thread is parked between attempts.
    ///
    /// An `attempt_timeout` cannot end code that blocks, and is not looked at; a `total_timeout` ends the
    /// attempts. The waits are of real time, also where tokio's clock is paused: nothing could wake the thread.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_blocking<T, E, L>(
        &self,
        operation: impl FnMut() -> Result<T, E>,
    ) -> Result<T, Error<L>>
    where
        E: IntoError<L>,
        L: std::error::Error + 'static,
    {
        Retry::new(self.clone(), ErrorsAreFailures).run_blocking(operation)
    }

    /// A runner that retries only errors that match.
    pub fn retry_if<L, F: Fn(&L) -> bool>(
        &self,
        matches: F,
    ) -> Retry<FailureIf<F, ErrorsAreFailures>> {
        Retry::new(self.clone(), ErrorsAreFailures).retry_if(matches)
    }

    /// A runner that retries what `wanted` says yes to; it sees which attempt ended, and the whole result.
    pub fn retry_if_with<T, L, F: Fn(&AttemptContext, Result<&T, &L>) -> bool>(
        &self,
        wanted: F,
    ) -> Retry<RetryIfWith<F>> {
        Retry::new(self.clone(), RetryIfWith(wanted))
    }

    /// A runner that also retries values that match.
    pub fn retry_response_if<T, F: Fn(&T) -> bool>(
        &self,
        matches: F,
    ) -> Retry<ResponseFailureIf<F, ErrorsAreFailures>> {
        Retry::new(self.clone(), ErrorsAreFailures).retry_response_if(matches)
    }

    /// A runner that takes the wait from the result.
    pub fn delay_from<T, L, F: Fn(Result<&T, &L>) -> Option<Duration>>(
        &self,
        delay: F,
    ) -> Retry<DelayFrom<F, ErrorsAreFailures>> {
        Retry::new(self.clone(), ErrorsAreFailures).delay_from(delay)
    }

    /// A runner that judges results with a function.
    pub fn classify_with<T, L, F: Fn(Result<&T, &L>) -> Verdict>(
        &self,
        judge: F,
    ) -> Retry<ClassifyFn<F>> {
        Retry::new(self.clone(), ErrorsAreFailures).classify_with(judge)
    }
}

impl<C> Retry<C> {
    pub(super) fn new(policy: RetryPolicy, classify: C) -> Self {
        Self { policy, classify }
    }

    /// Only errors that match are retried.
    pub fn retry_if<L, F: Fn(&L) -> bool>(self, matches: F) -> Retry<FailureIf<F, C>> {
        let inner = self.classify;
        Retry::new(self.policy, FailureIf { matches, inner })
    }

    /// Values that match are retried too. When the last attempt ends with such a value, it is returned.
    pub fn retry_response_if<T, F: Fn(&T) -> bool>(
        self,
        matches: F,
    ) -> Retry<ResponseFailureIf<F, C>> {
        let inner = self.classify;
        Retry::new(self.policy, ResponseFailureIf { matches, inner })
    }

    /// Retries what `wanted` says yes to, instead of all rules so far. It sees which attempt ended, and the whole result.
    pub fn retry_if_with<T, L, F: Fn(&AttemptContext, Result<&T, &L>) -> bool>(
        self,
        wanted: F,
    ) -> Retry<RetryIfWith<F>> {
        Retry::new(self.policy, RetryIfWith(wanted))
    }

    /// Takes the wait from the result, instead of the backoff, up to `max_retry_after`.
    pub fn delay_from<T, L, F: Fn(Result<&T, &L>) -> Option<Duration>>(
        self,
        delay: F,
    ) -> Retry<DelayFrom<F, C>> {
        let inner = self.classify;
        Retry::new(self.policy, DelayFrom { delay, inner })
    }

    /// Judges results with a function, instead of all rules so far.
    pub fn classify_with<T, L, F: Fn(Result<&T, &L>) -> Verdict>(
        self,
        judge: F,
    ) -> Retry<ClassifyFn<F>> {
        Retry::new(self.policy, ClassifyFn(judge))
    }

    /// Runs `operation` until it succeeds or the policy says stop. Dropping the future drops the attempt
    /// that is running, or ends the wait.
    ///
    /// # Errors
    ///
    /// [`Error`], as the layer gives it.
    pub fn run<F, Fut, T, E, L>(
        &self,
        operation: F,
    ) -> impl Future<Output = Result<T, Error<L>>> + use<C, F, Fut, T, E, L>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
        L: StdError + 'static,
        C: Classify<T, L> + Clone,
    {
        let (policy, classify) = (self.policy.clone(), self.classify.clone());
        async move {
            let policy = policy.shared.mine();
            let run = Run::of_job(&policy);
            RetryFuture::begin(run, policy, Operation(operation), (), classify).await
        }
    }

    /// Like [`run`](Self::run), for code that blocks. The thread is parked between attempts.
    ///
    /// An `attempt_timeout` cannot end code that blocks, and is not looked at; a `total_timeout` ends the
    /// attempts. The waits are of real time, also where tokio's clock is paused: nothing could wake the thread.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_blocking<T, E, L>(
        &self,
        mut operation: impl FnMut() -> Result<T, E>,
    ) -> Result<T, Error<L>>
    where
        E: IntoError<L>,
        L: StdError + 'static,
        C: Classify<T, L>,
    {
        let policy = &*self.policy.shared;
        let mut run = Run::of_job(policy);
        run.waits();
        let (mut last, mut wait) = (None, Wait::new(0));
        loop {
            let result = deadline::with(run.ambient(), &mut operation);
            let result = result.map_err(IntoError::into_error);
            let ending = run.judge(policy, &result, &self.classify);
            if run.is_plain(policy, &ending) {
                return result;
            }
            let copy = Copy {
                is_there: true,
                claim: || true,
            };
            match run.settle(policy, result, &ending, &mut last, copy) {
                Step::Done(result) => return result,
                Step::Again(again) => {
                    if let Again::After(delay) = again {
                        wait.block(|| time::park_for(delay));
                    }
                    run.begin_attempt();
                }
            }
        }
    }
}

impl<C> fmt::Debug for Retry<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// A closure as a service that is always ready.
struct Operation<F>(F);

impl<F, Fut, T, E> Service<()> for Operation<F>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Response = T;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Fut {
        (self.0)()
    }
}
