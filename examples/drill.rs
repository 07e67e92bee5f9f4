//! A drill: what becomes of calls while a tenth of them fails, some hang, and some are late, with a whole stack and without.
//!
//! ```sh
//! cargo run --example drill
//! ```
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a program has no outside, and this one uses a part of what it shares"
)]

#[path = "support/table.rs"]
mod table;

use std::io;
use std::time::Duration;

use table::Table;
use tokio::time::timeout;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::{BoxError, Chaos, Error, Stack};

const MS: Duration = Duration::from_millis(1);
const CALLS: u32 = 500;

/// How many of the calls are answered, and how many hang for longer than anybody waits.
async fn measure<S>(service: S) -> (u32, u32)
where
    S: Service<u32, Response = u32, Error = Error<io::Error>> + Clone,
{
    let (mut answered, mut hung) = (0, 0);
    for n in 0..CALLS {
        match timeout(1_000 * MS, service.clone().oneshot(n)).await {
            Ok(Ok(_)) => answered += 1,
            Ok(Err(_)) => {}
            Err(_) => hung += 1,
        }
    }
    (answered, hung)
}

/// The service, in the same drill each time: a drill is the same for the same seed.
fn drill() -> Result<Chaos, BoxError> {
    let chaos = Chaos::builder("drill")
        .seed(7)
        .error(0.1)
        .hang(0.01)
        .latency(0.2, MS..=5 * MS)
        .build()?;
    chaos.arm_for(Duration::from_secs(60));
    Ok(chaos)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let client = service_fn(|n: u32| async move { Ok::<_, io::Error>(n) });
    let fault = || Err(io::Error::other("a drill"));

    let chaos = drill()?;
    let bare = ServiceBuilder::new()
        .map_err(Error::Inner)
        .layer(chaos.layer(fault))
        .service(client);
    let without = measure(bare).await;
    let met = chaos.snapshot();

    let stack = Stack::http("api")
        .attempt_timeout(50 * MS)
        .retry(|it| it.max_delay(2 * MS).seed(7))
        .build()?;
    let chaos = drill()?;
    let guarded = ServiceBuilder::new()
        .layer(stack.layer())
        .layer(chaos.layer(fault))
        .service(client);
    let with = measure(guarded).await;

    let mut table = Table::new();
    table.row(["", "with a stack", "without"]);
    table.row([
        "calls answered".into(),
        with.0.to_string(),
        without.0.to_string(),
    ]);
    table.row([
        "calls that hang for a second".into(),
        with.1.to_string(),
        without.1.to_string(),
    ]);
    println!("{table}");
    println!("{}", stack.explain());
    println!("{:?}", met.injected);
    println!("{:?}", chaos.snapshot().injected);

    assert_eq!(u64::from(without.1), met.injected.hang);
    assert_eq!(with.1, 0);
    assert!(with.0 > without.0 && with.0 * 100 >= CALLS * 98, "{with:?}");
    Ok(())
}
