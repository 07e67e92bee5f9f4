//! `reject_with` above a layer that boxes its errors.
use std::time::Duration;

use tower::{ServiceBuilder, service_fn};
use tower_bulwark::CircuitBreaker;
use tower_bulwark::explain::check_service;

fn main() {
    let service = ServiceBuilder::new()
        .layer(CircuitBreaker::new("api").layer().reject_with(|_| 503))
        .layer(tower::timeout::TimeoutLayer::new(Duration::from_secs(1)))
        .service(service_fn(|(): ()| async {
            Ok::<u16, std::io::Error>(200)
        }));
    check_service::<(), _>(service);
}
