use std::fmt;

use tower_layer::Layer;

use super::handle::Chaos;
use super::service::ChaosService;

/// Adds faults to a service, by a [`Chaos`].
#[derive(Clone)]
pub struct ChaosLayer<F> {
    chaos: Chaos,
    fault: F,
}

impl Chaos {
    /// A layer that adds faults to a service. `fault` gives what a call that is to fail ends with: an error of the service's own
    /// type, `|| Err(io::Error::other("a drill"))`, or a response, `|| Ok(unavailable())`.
    #[must_use]
    pub fn layer<T, E, F: Fn() -> Result<T, E>>(&self, fault: F) -> ChaosLayer<F> {
        ChaosLayer {
            chaos: self.clone(),
            fault,
        }
    }
}

impl<F> ChaosLayer<F> {
    /// The drill.
    #[must_use]
    pub fn chaos(&self) -> &Chaos {
        &self.chaos
    }
}

impl<F> fmt::Debug for ChaosLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosLayer")
            .field("chaos", &self.chaos)
            .finish_non_exhaustive()
    }
}

impl<S, F: Clone> Layer<S> for ChaosLayer<F> {
    type Service = ChaosService<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        ChaosService {
            inner,
            chaos: self.chaos.clone(),
            fault: self.fault.clone(),
        }
    }
}
