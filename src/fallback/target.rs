//! Where a call can go: any service that answers the same, behind one face.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tower_service::Service;

use crate::error::{Error, IntoError};

pub(super) type Answer<Res, L> = Pin<Box<dyn Future<Output = Result<Res, Error<L>>> + Send>>;

/// A target. Its calls are boxed: they are made when something has failed already.
pub(super) trait Target<Req, Res, L>: Send + Sync {
    fn call(&self, request: Req) -> Answer<Res, L>;
}

/// A service, cloned for each call and made ready.
pub(super) struct OfService<S, L>(Mutex<S>, PhantomData<fn() -> L>);

impl<S, L> OfService<S, L> {
    pub(super) fn new(service: S) -> Self {
        Self(Mutex::new(service), PhantomData)
    }
}

impl<S, Req, Res, L> Target<Req, Res, L> for OfService<S, L>
where
    S: Service<Req, Response = Res> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: IntoError<L>,
    Req: Send + 'static,
    L: 'static,
{
    fn call(&self, request: Req) -> Answer<Res, L> {
        let mut service = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Box::pin(async move {
            let ready = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
            ready.map_err(IntoError::into_error)?;
            service.call(request).await.map_err(IntoError::into_error)
        })
    }
}

/// A function that makes an answer.
pub(super) struct OfFunction<F>(pub(super) F);

impl<F, Req, Res, L> Target<Req, Res, L> for OfFunction<F>
where
    F: Fn(Req) -> Res + Send + Sync,
    Res: Send + 'static,
    L: Send + 'static,
{
    fn call(&self, request: Req) -> Answer<Res, L> {
        let answer = (self.0)(request);
        Box::pin(std::future::ready(Ok(answer)))
    }
}

/// The targets of a layer, in order.
pub(super) type Targets<Req, Res, L> = Arc<[(Arc<str>, Arc<dyn Target<Req, Res, L>>)]>;

/// Changes a request for the target of this name.
pub(super) type MapRequest<Req> = Arc<dyn Fn(Req, &str) -> Req + Send + Sync>;

/// Marks a response with the name of its target.
pub(super) type Mark<Res> = Arc<dyn Fn(&mut Res, &str) + Send + Sync>;
