//! `retry_if` looks at an error that the service does not have.
use tower::{Layer, service_fn};
use tower_bulwark::RetryPolicy;
use tower_bulwark::explain::check_service;

fn main() {
    let service = RetryPolicy::new()
        .layer()
        .retry_if(|_: &std::fmt::Error| true)
        .layer(service_fn(|(): ()| async {
            Err::<(), _>(std::io::Error::other("x"))
        }));
    check_service::<(), _>(service);
}
