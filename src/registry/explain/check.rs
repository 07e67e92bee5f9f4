use tower_service::Service;

/// Hands back `service`, if it is one for requests of type `Req`: so that the compiler says what is missing.
///
/// Where a stack lacks something, a method like `oneshot` merely "exists but its trait bounds were not
/// satisfied". Put the stack through this function, and the message names the bound: a request that is not
/// `Clone`, a closure that takes another error, an error that is none.
///
/// ```
/// # use tower::service_fn;
/// # use tower_bulwark::{RetryPolicy, explain::check_service};
/// # use tower::Layer;
/// # let client = service_fn(|_: u32| async { Ok::<_, std::io::Error>(()) });
/// let service = check_service::<u32, _>(RetryPolicy::new().layer().layer(client));
/// ```
pub fn check_service<Req, S: Service<Req>>(service: S) -> S {
    service
}
