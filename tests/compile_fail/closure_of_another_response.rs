//! `response_failure_if` looks at a response that the service does not give.
use tower::{Layer, service_fn};
use tower_bulwark::CircuitBreaker;
use tower_bulwark::explain::check_service;

fn main() {
    let service = CircuitBreaker::new("api")
        .layer()
        .response_failure_if(|status: &u16| *status >= 500)
        .layer(service_fn(|(): ()| async {
            Ok::<String, std::io::Error>(String::new())
        }));
    check_service::<(), _>(service);
}
