//! A request that is not `Clone`, without `copy_request`.
use tower::{Layer, service_fn};
use tower_bulwark::RetryPolicy;
use tower_bulwark::explain::check_service;

struct Upload;

fn main() {
    let service = RetryPolicy::new()
        .layer()
        .layer(service_fn(|_: Upload| async {
            Ok::<(), std::io::Error>(())
        }));
    check_service::<Upload, _>(service);
}
