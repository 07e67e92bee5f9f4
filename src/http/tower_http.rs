//! The classifiers of `tower_http::classify`, as classifiers of this crate.

use std::fmt;

use ::tower_http::classify::{ClassifiedResponse, ClassifyEos, ClassifyResponse};
use http::{HeaderMap, Response, StatusCode};

use super::reject::Refused;
use super::until_body_end::ClassifyEnd;
use crate::call::outcome::{Classify, Verdict};

/// A classifier of `tower_http`, for the layers of this crate: judges heads as `classify`, and ends of bodies
/// as `classify_end`.
///
/// What tower-http calls a failure is a failure here, in its words; everything else is a success. Mind that
/// its gRPC classifier takes a stream that was cut off without a status for a success.
///
/// ```
/// use tower_bulwark::CircuitBreaker;
/// use tower_bulwark::http::TowerHttpClassify;
/// use tower_http::classify::ServerErrorsAsFailures;
///
/// let classify = TowerHttpClassify::new(ServerErrorsAsFailures::new());
/// let layer = CircuitBreaker::new("b")
///     .layer::<std::io::Error>()
///     .classify(classify.clone())
///     .until_body_end()
///     .classify_end(classify);
/// ```
pub struct TowerHttpClassify<C: ClassifyResponse> {
    classifier: C,
    at_end: AtEnd<C::ClassifyEos, C::FailureClass>,
}

enum AtEnd<E, F> {
    Unasked,
    Judged(Result<(), F>),
    Judges(E),
}

impl<C: ClassifyResponse + Clone> TowerHttpClassify<C> {
    /// Judges as `classifier` does.
    pub const fn new(classifier: C) -> Self {
        Self {
            classifier,
            at_end: AtEnd::Unasked,
        }
    }
}

impl<C: ClassifyResponse + Clone> Clone for TowerHttpClassify<C> {
    /// The clone is for another response: it has not seen a head.
    fn clone(&self) -> Self {
        Self::new(self.classifier.clone())
    }
}

fn verdict<F: fmt::Display>(judged: Result<(), F>) -> Verdict {
    match judged {
        Ok(()) => Verdict::success(),
        Err(class) => Verdict::failure().because(class.to_string()),
    }
}

impl<B, E, C> Classify<Response<B>, E> for TowerHttpClassify<C>
where
    E: fmt::Display + 'static,
    C: ClassifyResponse + Clone,
    C::FailureClass: fmt::Display,
{
    fn classify(&self, result: Result<&Response<B>, &E>) -> Verdict {
        let classifier = self.classifier.clone();
        match result {
            Ok(response) if response.extensions().get::<Refused>().is_some() => Verdict::ignored(),
            Ok(response) => match classifier.classify_response(response) {
                ClassifiedResponse::Ready(judged) => verdict(judged),
                ClassifiedResponse::RequiresEos(_) => Verdict::success(),
            },
            Err(error) => verdict(Err(classifier.classify_error(error))),
        }
    }
}

impl<C> ClassifyEnd for TowerHttpClassify<C>
where
    C: ClassifyResponse + Clone,
    C::FailureClass: fmt::Display,
{
    fn at_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        let mut head = Response::new(());
        *head.status_mut() = status;
        head.headers_mut().clone_from(headers);
        self.at_end = match self.classifier.clone().classify_response(&head) {
            ClassifiedResponse::Ready(judged) => AtEnd::Judged(judged),
            ClassifiedResponse::RequiresEos(eos) => AtEnd::Judges(eos),
        };
    }

    fn classify_end(self, trailers: Option<&HeaderMap>) -> Option<Verdict> {
        match self.at_end {
            AtEnd::Unasked => None,
            AtEnd::Judged(judged) => Some(verdict(judged)),
            AtEnd::Judges(eos) => Some(verdict(eos.classify_eos(trailers))),
        }
    }
}

impl<C: ClassifyResponse> fmt::Debug for TowerHttpClassify<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerHttpClassify").finish_non_exhaustive()
    }
}
