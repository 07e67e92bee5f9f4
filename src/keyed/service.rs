//! Calls that go through the layers of their key.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::idle::Idle;
use super::shared::Shared;
use crate::util::accessors::inner_service;

/// A service that leads each request through the layers of its key. Made by [`PerKeyLayer`](super::PerKeyLayer).
pub struct PerKeyService<S, K, L, F, G> {
    pub(super) inner: S,
    pub(super) shared: Arc<Shared<K, L, F, G>>,
}

impl<S, K, L, F, G> PerKeyService<S, K, L, F, G> {
    inner_service!("below the layers of all keys");
}

impl<S: Clone, K, L, F, G> Clone for PerKeyService<S, K, L, F, G> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S: fmt::Debug, K, L, F, G> fmt::Debug for PerKeyService<S, K, L, F, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerKeyService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, K, L, F, G, Req> Service<Req> for PerKeyService<S, K, L, F, G>
where
    S: Clone,
    K: Hash + Eq + Clone,
    L: Layer<S> + Idle,
    L::Service: Service<Req>,
    F: Fn(&Req) -> K,
    G: Fn(&K) -> L,
{
    type Response = <L::Service as Service<Req>>::Response;
    type Error = <L::Service as Service<Req>>::Error;
    type Future = PerKeyFuture<L, L::Service, Req>;

    /// Always ready: which layers are to be asked depends on the request.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let layers = self.shared.layers(&(self.shared.key)(&request));
        let service = layers.layer(self.inner.clone());
        PerKeyFuture {
            call: Call::GetsReady(service, Some(request)),
            _layers: layers,
        }
    }
}

/// A call through the layers of its key.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct PerKeyFuture<L, S: Service<Req>, Req> {
    #[pin]
    call: Call<S, Req>,
    /// Not forgotten while this call is on its way.
    _layers: Arc<L>,
}

#[pin_project(project = CallProjected)]
enum Call<S: Service<Req>, Req> {
    GetsReady(S, Option<Req>),
    Runs(#[pin] S::Future),
}

impl<L, S: Service<Req>, Req> Future for PerKeyFuture<L, S, Req> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let call = match this.call.as_mut().project() {
                CallProjected::GetsReady(service, request) => {
                    ready!(service.poll_ready(cx))?;
                    let Some(request) = request.take() else {
                        // Polled after its end.
                        return Poll::Pending;
                    };
                    service.call(request)
                }
                CallProjected::Runs(call) => return call.poll(cx),
            };
            this.call.set(Call::Runs(call));
        }
    }
}

impl<L, S: Service<Req>, Req> fmt::Debug for PerKeyFuture<L, S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerKeyFuture").finish_non_exhaustive()
    }
}
