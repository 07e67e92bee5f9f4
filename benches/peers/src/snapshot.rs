//! What it costs to look at a lock for which a hundred thousand wait. Callers can be kept waiting no longer than this.

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Instant;

use tower_bulwark::ResourceLock;

const WAITERS: u64 = 100_000;
const LOOKS: usize = 1_001;

pub(crate) fn print() {
    let lock = ResourceLock::builder("busy").max_concurrent(8).no_timeout();
    let lock = lock.build().expect("valid");
    let _held: Vec<_> = (0..8_u64)
        .map(|id| lock.acquire(id).owned().now().expect("free"))
        .collect();
    let mut waiters: Vec<_> = (0..WAITERS)
        .map(|id| Box::pin(lock.acquire(id).owned()))
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    for waiter in &mut waiters {
        let mut waiter: Pin<&mut _> = waiter.as_mut();
        assert!(Future::poll(waiter.as_mut(), &mut context).is_pending());
    }
    let mut micros: Vec<_> = (0..LOOKS)
        .map(|_| {
            let start = Instant::now();
            let snapshot = black_box(lock.snapshot());
            assert_eq!(snapshot.waiting as u64, WAITERS);
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    micros.sort_by(f64::total_cmp);
    println!(
        "snapshot of a lock with {WAITERS} waiters: {:.1} us, in one of a hundred cases {:.1} us",
        micros[LOOKS / 2],
        micros[LOOKS * 99 / 100]
    );
}
