//! The service fails with a type that is not an error.
use tower::{Layer, service_fn};
use tower_bulwark::CircuitBreaker;
use tower_bulwark::explain::check_service;

#[derive(Debug)]
struct NotAnError;

fn main() {
    let service = CircuitBreaker::new("api")
        .layer()
        .layer(service_fn(|(): ()| async { Err::<(), _>(NotAnError) }));
    check_service::<(), _>(service);
}
