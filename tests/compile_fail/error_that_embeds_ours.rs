//! An error enum that holds ours by value, as the leaf of another stack.
use tower::{Layer, service_fn};
use tower_bulwark::explain::check_service;
use tower_bulwark::{CircuitBreaker, Error};

#[derive(Debug)]
enum AppError {
    Upstream(Error<std::io::Error>),
}

impl std::fmt::Display for AppError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::Upstream(error) = self;
        error.fmt(f)
    }
}

impl std::error::Error for AppError {}

fn main() {
    let service = CircuitBreaker::new("api")
        .layer()
        .layer(service_fn(|(): ()| async {
            let refused = CircuitBreaker::new("inner").try_acquire().unwrap_err();
            Err::<(), _>(AppError::Upstream(Error::CircuitOpen(refused)))
        }));
    check_service::<(), _>(service);
}
