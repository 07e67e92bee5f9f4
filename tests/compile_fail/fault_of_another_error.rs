//! A drill that fails with an error that the service does not have.
use tower::{Layer, service_fn};
use tower_bulwark::Chaos;
use tower_bulwark::explain::check_service;

fn main() {
    let chaos = Chaos::builder("drill").error(0.1).build().unwrap();
    let service = chaos
        .layer(|| Err(std::fmt::Error))
        .layer(service_fn(|(): ()| async {
            Err::<(), _>(std::io::Error::other("x"))
        }));
    check_service::<(), _>(service);
}
