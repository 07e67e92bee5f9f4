//! Layers by key.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use tower_layer::Layer;

use super::idle::Idle;
use super::service::PerKeyService;
use super::shared::Shared;

/// Leads each request through the layers of its key: a breaker for each host, a breaker and a lock for each model.
///
/// The layers of a key are made when it first comes, and shared by all services of this layer and its clones. They are
/// forgotten when room is needed, no call of theirs is on its way, and they have nothing to remember
/// ([`Idle`]). If the map is full and nothing may go, the new keys share the layers of the first of them that found no
/// room: they are guarded together, and not each by itself.
///
/// What the layers of a key need of a service is asked in the call, not in `poll_ready`, which cannot know the key: it is
/// always ready. The inner service is cloned for each call, and made ready before it is called.
///
/// See [the module](super) for an example. The request is given to `key` by reference; keys are cheap to clone if they
/// are numbers, `Arc<str>` or `http::uri::Authority`.
pub struct PerKeyLayer<K, L, F, G> {
    shared: Arc<Shared<K, L, F, G>>,
}

impl<K: Hash + Eq, L: Idle, F, G: Fn(&K) -> L> PerKeyLayer<K, L, F, G> {
    /// At most `most` keys, and at least one: `key` tells that of a request, `make` makes the layers of a key.
    #[must_use]
    pub fn new<Req>(most: usize, key: F, make: G) -> Self
    where
        F: Fn(&Req) -> K,
    {
        Self {
            shared: Arc::new(Shared::new(most, key, make)),
        }
    }

    /// How many keys have layers of their own.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.len()
    }

    /// Whether no key has layers of its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<S, K, L, F, G> Layer<S> for PerKeyLayer<K, L, F, G> {
    type Service = PerKeyService<S, K, L, F, G>;

    fn layer(&self, inner: S) -> Self::Service {
        PerKeyService {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K, L, F, G> Clone for PerKeyLayer<K, L, F, G> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K, L, F, G> fmt::Debug for PerKeyLayer<K, L, F, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerKeyLayer").finish_non_exhaustive()
    }
}
