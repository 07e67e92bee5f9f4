//! A span for each call, and a child of it for each attempt, with the names of OpenTelemetry's conventions for HTTP.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower::Service;
use tower_bulwark::Error;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

/// The number of an attempt, from 1: an extension of the request. The retry sets it:
/// `retry.http_layer().before_attempt(Attempt::set)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt(pub(crate) u32);

impl Attempt {
    pub(crate) fn set<B>(request: &mut Request<B>, number: u32) {
        request.extensions_mut().insert(Self(number));
    }
}

/// The span of a whole call, around all layers: `service.oneshot(request).instrument(span)`.
pub(crate) fn call_span(name: &str) -> Span {
    info_span!(
        "call",
        "otel.name" = name,
        "error.type" = Empty,
        "otel.status_code" = Empty
    )
}

/// Writes in the span of a call how it ended. A retry that gives up hands on the last response.
pub(crate) fn record_call<B, E>(span: &Span, result: &Result<Response<B>, Error<E>>) {
    match result {
        Ok(response) => record_status(span, response),
        Err(error) => record_error(span, error_type(error)),
    }
}

fn record_status<B>(span: &Span, response: &Response<B>) {
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_client_error() || status.is_server_error() {
        record_error(span, status.as_str());
    }
}

fn record_error(span: &Span, error_type: &str) {
    span.record("error.type", error_type);
    span.record("otel.status_code", "ERROR");
}

/// What an error of the layers is to OpenTelemetry.
pub(crate) fn error_type<E>(error: &Error<E>) -> &'static str {
    match error {
        Error::Exhausted(_) => "retries_exhausted",
        Error::AllFailed(_) => "all_targets_failed",
        Error::Inner(_) => std::any::type_name::<E>(),
        Error::TimedOut(late) if late.was_called() => "timeout",
        refused => refused.rejection().map_or("_OTHER", |it| it.code()),
    }
}

/// Makes the span of each attempt. Goes below all layers, right around the client.
#[derive(Clone, Debug)]
pub(crate) struct AttemptSpans<S>(pub(crate) S);

impl<S, A, B> Service<Request<A>> for AttemptSpans<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Error: StdError,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let attempt = request.extensions().get().map_or(1, |it: &Attempt| it.0);
        let span = info_span!(
            "attempt",
            "otel.kind" = "client",
            "otel.name" = %request.method(),
            "http.request.method" = %request.method(),
            "server.address" = request.uri().host(),
            // Of the first attempt there is none.
            "http.request.resend_count" = (attempt > 1).then(|| attempt - 1),
            "http.response.status_code" = Empty,
            "error.type" = Empty,
            "otel.status_code" = Empty,
        );
        let call = span.in_scope(|| self.0.call(request));
        let recorded = async move {
            let result = call.await;
            match &result {
                Ok(response) => record_status(&Span::current(), response),
                Err(_) => record_error(&Span::current(), std::any::type_name::<S::Error>()),
            }
            result
        };
        Box::pin(recorded.instrument(span))
    }
}
