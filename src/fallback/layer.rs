use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;
use tower_service::Service;

use super::handle::Fallback;
use super::service::FallbackService;
use super::target::{MapRequest, Mark, OfFunction, OfService, Target};
use crate::call::outcome::{Classify, ClassifyFn, ErrorsAreFailures, Verdict};
use crate::error::IntoError;
use crate::retry::{CopyByClone, CopyWith};

type Named<Req, Res, L> = (Arc<str>, Arc<dyn Target<Req, Res, L>>);

/// Asks other services when one does not answer. Made by [`Fallback::layer`].
///
/// `L` is the services' own error, and inferred; it is the same for all targets.
pub struct FallbackLayer<Req, Res, L, C = ErrorsAreFailures, R = CopyByClone> {
    pub(super) fallback: Fallback,
    targets: Vec<Named<Req, Res, L>>,
    classify: C,
    requests: R,
    only_unreached: bool,
    map_request: Option<MapRequest<Req>>,
    mark: Option<Mark<Res>>,
}

impl Fallback {
    /// A layer that asks its targets, in order, when the service that it is around does not answer.
    #[must_use]
    pub fn layer<Req, Res, L>(&self) -> FallbackLayer<Req, Res, L> {
        FallbackLayer {
            fallback: self.clone(),
            targets: Vec::new(),
            classify: ErrorsAreFailures,
            requests: CopyByClone,
            only_unreached: false,
            map_request: None,
            mark: None,
        }
    }
}

impl<Req, Res, L, C, R> FallbackLayer<Req, Res, L, C, R> {
    /// The fallback.
    #[must_use]
    pub fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    /// Asks this service next, which may be a whole stack of its own: if its breaker is open it refuses at once, and the
    /// one after it is asked.
    #[must_use]
    pub fn to<S>(mut self, name: impl Into<Arc<str>>, service: S) -> Self
    where
        S: Service<Req, Response = Res> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: IntoError<L>,
        Req: Send + 'static,
        L: 'static,
    {
        let target = Arc::new(OfService::new(service));
        self.targets.push((name.into(), target));
        self
    }

    /// Answers with what this function makes: a value that is always good, what was known before. It never fails, so what
    /// comes after it is never asked.
    #[must_use]
    pub fn to_value<F>(mut self, name: impl Into<Arc<str>>, answer: F) -> Self
    where
        F: Fn(Req) -> Res + Send + Sync + 'static,
        Res: Send + 'static,
        L: Send + 'static,
    {
        self.targets
            .push((name.into(), Arc::new(OfFunction(answer))));
        self
    }

    /// Judges responses and errors: a failure or an overload is no answer. Default: errors are failures, and every response
    /// is an answer. Refusals and [`Exhausted`](crate::Error::Exhausted) are no answers whatever it says.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> FallbackLayer<Req, Res, L, D, R> {
        FallbackLayer {
            fallback: self.fallback,
            targets: self.targets,
            classify,
            requests: self.requests,
            only_unreached: self.only_unreached,
            map_request: self.map_request,
            mark: self.mark,
        }
    }

    /// Judges results with a function.
    #[must_use]
    pub fn classify_with<F>(self, judge: F) -> FallbackLayer<Req, Res, L, ClassifyFn<F>, R>
    where
        F: Fn(Result<&Res, &L>) -> Verdict,
    {
        self.classify(ClassifyFn(judge))
    }

    /// Copies requests with a function. One of which there is no copy is asked once.
    #[must_use]
    pub fn copy_request<F>(self, copy: F) -> FallbackLayer<Req, Res, L, C, CopyWith<F, R>>
    where
        F: Fn(&Req) -> Option<Req>,
    {
        FallbackLayer {
            requests: CopyWith {
                copy,
                rest: self.requests,
            },
            fallback: self.fallback,
            targets: self.targets,
            classify: self.classify,
            only_unreached: self.only_unreached,
            map_request: self.map_request,
            mark: self.mark,
        }
    }

    /// Copies requests by this, for the next target. Default: with `Clone`.
    #[must_use]
    pub fn requests<Q>(self, requests: Q) -> FallbackLayer<Req, Res, L, C, Q> {
        FallbackLayer {
            fallback: self.fallback,
            targets: self.targets,
            classify: self.classify,
            requests,
            only_unreached: self.only_unreached,
            map_request: self.map_request,
            mark: self.mark,
        }
    }

    /// Asks the next target only if the one before refused, so that no service was called: for requests of which only one
    /// may be done. Default: off.
    #[must_use]
    pub fn only_refusals(mut self) -> Self {
        self.only_unreached = true;
        self
    }

    /// Changes the request for the target of that name: another model, another region.
    #[must_use]
    pub fn map_request(
        mut self,
        change: impl Fn(Req, &str) -> Req + Send + Sync + 'static,
    ) -> Self {
        self.map_request = Some(Arc::new(change));
        self
    }

    /// Marks a response with the name of the target that gave it. Responses of the service itself are not marked.
    #[must_use]
    pub fn mark(mut self, mark: impl Fn(&mut Res, &str) + Send + Sync + 'static) -> Self {
        self.mark = Some(Arc::new(mark));
        self
    }
}

impl<Req, Res, L, C: Clone, R: Clone> Clone for FallbackLayer<Req, Res, L, C, R> {
    fn clone(&self) -> Self {
        Self {
            fallback: self.fallback.clone(),
            targets: self.targets.clone(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            only_unreached: self.only_unreached,
            map_request: self.map_request.clone(),
            mark: self.mark.clone(),
        }
    }
}

impl<Req, Res, L, C, R> fmt::Debug for FallbackLayer<Req, Res, L, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets = self.targets.iter().map(|(name, _)| name);
        f.debug_struct("FallbackLayer")
            .field("fallback", &self.fallback)
            .field("targets", &targets.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl<S, Req, Res, L, C, R> Layer<S> for FallbackLayer<Req, Res, L, C, R>
where
    L: StdError + 'static,
    C: Classify<Res, L> + Clone,
    R: Clone,
{
    type Service = FallbackService<S, Req, Res, L, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        FallbackService {
            inner,
            fallback: self.fallback.clone(),
            targets: self.targets.clone().into(),
            classify: self.classify.clone(),
            requests: self.requests.clone(),
            only_unreached: self.only_unreached,
            map_request: self.map_request.clone(),
            mark: self.mark.clone(),
        }
    }
}
