//! The leaf error of a layer that wraps nothing cannot be inferred.
use tower_bulwark::CircuitBreaker;

fn main() {
    let layer = CircuitBreaker::new("api").layer();
    layer.breaker().force_open();
}
